import gzip
import hashlib
import socket
import struct

import numpy as np
import pytest
from scipy.io import savemat

from echo_tf.data.load import load_dataset
from echo_tf.data.prepare import SPECS
from echo_tf.errors import DataError


class TestOmniglot:
    def test_from_its_raw_file(self, tmp_path, monkeypatch):
        from echo_tf.data.omniglot_chardata import Builder

        sizes = {"train": 6, "test": 3}
        monkeypatch.setattr(Builder, "SIZES", sizes)
        spec = SPECS["omniglot"]
        monkeypatch.setitem(SPECS, "omniglot", type(spec)(**vars(spec) | {"sizes": sizes}))
        rng = np.random.default_rng(0)
        images = {split: rng.integers(0, 256, (n, 28, 28)) for split, n in sizes.items()}
        alphabets = {split: rng.integers(0, 50, n) for split, n in sizes.items()}
        raw = tmp_path / "raw"
        raw.mkdir()
        savemat(  # each image column by column, one image a column
            raw / "chardata.mat",
            {
                f"{prefix}{key}": value
                for split, prefix in (("train", ""), ("test", "test"))
                for key, value in (
                    ("data", images[split].transpose(0, 2, 1).reshape(-1, 784).T / 255.0),
                    ("target", np.eye(50)[:, alphabets[split]]),
                )
            },
        )
        dataset = load_dataset("omniglot", tmp_path / "cache", raw)
        for split in sizes:
            np.testing.assert_array_equal(dataset.raw(split)[..., 0], images[split])
            np.testing.assert_array_equal(dataset.labels[split], alphabets[split])
        assert dataset.source == "reconstruction"

        digest = hashlib.md5((raw / "chardata.mat").read_bytes()).hexdigest()
        monkeypatch.setattr("echo_tf.data.omniglot_chardata.omniglot_chardata_dataset_builder.ORIGINAL_MD5", digest)
        assert load_dataset("omniglot", tmp_path / "other", raw).source == "original"

    @pytest.mark.parametrize(
        "contents",
        [{"data": np.zeros((784, 5))}, {"data": np.zeros((2, 2))}, {"data": np.full((784, 24_345), 2, np.uint8)}, None],
    )
    def test_wrong_file(self, tmp_path, contents):
        if contents is None:
            (tmp_path / "chardata.mat").write_text("not a MATLAB file")
        else:
            savemat(tmp_path / "chardata.mat", contents)
        with pytest.raises(DataError, match=r"omniglot.*cannot be prepared.*chardata\.mat"):
            load_dataset("omniglot", tmp_path / "cache", tmp_path)
        assert not (tmp_path / "cache").exists()

    def test_has_no_public_address(self, tmp_path):
        with pytest.raises(DataError, match=r"yburda/iwae.*--raw-dir"):
            load_dataset("omniglot", tmp_path / "cache")
        assert not (tmp_path / "cache").exists()


class TestRawFolder:
    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"missing does not hold binarized_mnist_train\.amat"):
            load_dataset("binary_mnist", tmp_path, tmp_path / "missing")

    def test_incomplete_never_asks_the_network(self, tmp_path, monkeypatch):
        monkeypatch.setattr("socket.getaddrinfo", None)
        (tmp_path / "binarized_mnist_test.amat").touch()
        with pytest.raises(DataError, match=r"does not hold binarized_mnist_train\.amat, binarized_mnist_valid\.amat\. Point"):
            load_dataset("binary_mnist", tmp_path / "cache", tmp_path)

    def test_wrong_checksum(self, tmp_path):
        raw = tmp_path / "raw"
        raw.mkdir()
        for prefix, n in (("train", 3), ("t10k", 2)):
            images = struct.pack(">4i", 2051, n, 28, 28) + bytes(n * 784)
            (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
            (raw / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2i", 2049, n) + bytes(n)))
        with pytest.raises(DataError, match="not the published one"):
            load_dataset("fashion_mnist", tmp_path / "cache", raw)
        assert not (tmp_path / "cache").exists()


class TestWithoutNetwork:
    @pytest.mark.parametrize("name", ["binary_mnist", "fashion_mnist"])
    def test_leaves_no_folder(self, tmp_path, monkeypatch, name):
        def fail(*args, **kwargs):
            raise socket.gaierror("Name or service not known")

        monkeypatch.setattr("socket.getaddrinfo", fail)
        with pytest.raises(DataError, match=r"Name or service not known.*--data-dir.*--raw-dir"):
            load_dataset(name, tmp_path / "new" / "cache")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("error", [ConnectionError("no route to host"), KeyboardInterrupt()])
    def test_that_fails_in_the_middle_leaves_what_was_there(self, tmp_path, monkeypatch, error):
        import tensorflow_datasets as tfds

        def fail(self, *args, **kwargs):
            (self.data_path / "incomplete").mkdir(parents=True)
            raise error

        monkeypatch.setattr("socket.getaddrinfo", lambda *arguments: [])
        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
        (tmp_path / "empty").mkdir()
        (tmp_path / "tfds" / "other").mkdir(parents=True)
        (tmp_path / "tfds" / "other" / "file").touch()
        with pytest.raises((DataError, KeyboardInterrupt)) as caught:
            load_dataset("binary_mnist", tmp_path)
        if isinstance(error, ConnectionError):
            assert "no route to host" in str(caught.value) and "--raw-dir" in str(caught.value)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file", "other", "tfds"]

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=r"cannot be prepared.*file.*--data-dir"):
            load_dataset("binary_mnist", tmp_path / "file" / "cache")
