import gzip
import hashlib
import struct

import numpy as np
import pytest
from scipy.io import savemat

import echo_tf.data.load
from echo_tf.data.load import DataError, Dataset, load_dataset


def tiny_specs(monkeypatch):
    """Make the loader expect small files."""
    sizes = {"binary_mnist": {"train": 4, "validation": 3, "test": 2}, "fashion_mnist": {"train": 4, "test": 2}}
    for name, size in sizes.items():
        spec = echo_tf.data._SPECS[name]
        monkeypatch.setitem(echo_tf.data._SPECS, name, type(spec)(size, *list(vars(spec).values())[1:]))


def arrays(**changes):
    rng = np.random.default_rng(0)
    splits = {"train": 4, "validation": 3, "test": 2}
    return {split: rng.integers(0, 2, (n, 28, 28), dtype=np.uint8) for split, n in splits.items()} | changes


class TestDigits:
    def test_fixed_split_of_grey_images(self):
        dataset = load_dataset("digits")
        assert (dataset.train.shape, dataset.test.shape) == ((1437, 28, 28, 1), (360, 28, 28, 1))
        assert dataset.train.dtype == np.float32
        assert dataset.validation is None
        assert 0 == dataset.train.min() < dataset.train.max() == 1
        assert (len(dataset.train_labels), len(dataset.test_labels)) == (1437, 360)

    def test_resizing_keeps_the_picture(self):
        from sklearn.datasets import load_digits

        digits = load_digits()
        small = load_dataset("digits").test[..., 0].reshape(360, 28, 28)
        # The mean of each resized image stays that of the 8x8 original to within the effect of its border.
        original = (digits.images[1437:] / 16).mean((1, 2))
        assert np.corrcoef(small.mean((1, 2)), original)[0, 1] > 0.99
        assert abs(small.mean() - original.mean()) < 0.02


class TestDataset:
    def dataset(self):
        train = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 28, 28, 1), np.uint8)
        return Dataset("toy", {"train": train, "test": train[:2]}, 255, {"train": np.arange(10), "test": np.arange(2)})

    def test_holdout_takes_the_end_of_the_training_images(self):
        dataset = self.dataset().holdout(3)
        assert dataset.raw("train")[:, 0, 0, 0].tolist() == list(range(7))
        assert dataset.raw("validation")[:, 0, 0, 0].tolist() == [7, 8, 9]
        assert dataset.labels["validation"].tolist() == [7, 8, 9]
        assert dataset.validation.max() == np.float32(9 / 255)

    @pytest.mark.parametrize("n", [0, 10, -1])
    def test_impossible_holdout(self, n):
        with pytest.raises(ValueError, match="Expected 1 <= n < 10"):
            self.dataset().holdout(n)

    def test_missing_split_says_what_to_do(self):
        with pytest.raises(DataError, match="holdout"):
            self.dataset().raw("validation")


class TestCache:
    def test_reads_what_is_there(self, tmp_path, monkeypatch):
        tiny_specs(monkeypatch)
        stored = arrays()
        np.savez(tmp_path / "binary_mnist.npz", **stored)
        dataset = load_dataset("binary_mnist", tmp_path)
        for split in stored:
            np.testing.assert_array_equal(dataset.images(split)[..., 0], stored[split])

    def test_variable_names_the_folder(self, tmp_path, monkeypatch):
        tiny_specs(monkeypatch)
        np.savez(tmp_path / "binary_mnist.npz", **arrays())
        monkeypatch.setenv("ECHO_TF_DATA", str(tmp_path))
        assert len(load_dataset("binary_mnist").test) == 2

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"test": np.zeros((2, 28, 27), np.uint8)}, "`test` must be uint8 of shape"),
            ({"train": np.zeros((3, 28, 28), np.uint8)}, "`train` must be uint8 of shape"),
            ({"train": np.zeros((4, 28, 28), np.float32)}, "`train` must be uint8 of shape"),
            ({"train": np.full((4, 28, 28), 255, np.uint8)}, "`train` has values above 1"),
            ({"train": np.full((4, 28, 28), None)}, "cannot be read"),  # objects would need pickle
        ],
    )
    def test_wrong_contents(self, tmp_path, monkeypatch, changes, message):
        tiny_specs(monkeypatch)
        path = tmp_path / "binary_mnist.npz"
        np.savez(path, **arrays(**changes))
        before = path.read_bytes()
        with pytest.raises(DataError, match=message) as error:
            load_dataset("binary_mnist", tmp_path)
        assert "binary_mnist.npz" in str(error.value)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("kept", [0, 10, 1000])
    def test_truncated_file(self, tmp_path, monkeypatch, kept):
        tiny_specs(monkeypatch)
        path = tmp_path / "binary_mnist.npz"
        np.savez(path, **arrays())
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataError, match="cannot be read"):
            load_dataset("binary_mnist", tmp_path)
        assert path.stat().st_size == kept

    def test_single_array_or_flipped_bytes(self, tmp_path, monkeypatch):
        tiny_specs(monkeypatch)
        path = tmp_path / "binary_mnist.npz"
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
        with pytest.raises(DataError, match="cannot be read"):
            load_dataset("binary_mnist", tmp_path)
        np.savez_compressed(path, **arrays())
        contents = bytearray(path.read_bytes())
        for start in range(0, len(contents) - 4, 40):
            damaged = contents[:start] + b"\xff\xff\xff\xff" + contents[start + 4 :]
            path.write_bytes(damaged)
            try:
                load_dataset("binary_mnist", tmp_path)
            except DataError:
                continue  # damage to what nobody reads may pass, but nothing else is raised

    def test_unknown_name(self):
        with pytest.raises(ValueError, match="Unknown data set 'mnist'"):
            load_dataset("mnist")

    def test_missing_labels(self, tmp_path, monkeypatch):
        tiny_specs(monkeypatch)
        np.savez(tmp_path / "fashion_mnist.npz", train=np.zeros((4, 28, 28), np.uint8), test=np.zeros((2, 28, 28), np.uint8))
        with pytest.raises(DataError, match="`train_labels` of shape"):
            load_dataset("fashion_mnist", tmp_path)


class TestPreparation:
    def test_omniglot_from_its_raw_file(self, tmp_path, monkeypatch):
        from echo_tf.data.omniglot_chardata import Builder

        sizes = {"train": 6, "test": 3}
        monkeypatch.setattr(Builder, "SIZES", sizes)
        spec = echo_tf.data._SPECS["omniglot"]
        monkeypatch.setitem(echo_tf.data._SPECS, "omniglot", type(spec)(sizes, *list(vars(spec).values())[1:]))
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

    @pytest.mark.parametrize("contents", [{"data": np.zeros((784, 5))}, {"data": np.zeros((2, 2))}, None])
    def test_wrong_omniglot_file(self, tmp_path, contents):
        if contents is None:
            (tmp_path / "chardata.mat").write_text("not a MATLAB file")
        else:
            savemat(tmp_path / "chardata.mat", contents)
        with pytest.raises(DataError, match=r"chardata\.mat"):
            load_dataset("omniglot", tmp_path / "cache", tmp_path)
        assert not (tmp_path / "cache" / "omniglot.npz").exists()

    def test_wrong_checksum(self, tmp_path):
        raw = tmp_path / "raw"
        raw.mkdir()
        for prefix, n in (("train", 3), ("t10k", 2)):
            images = struct.pack(">4i", 2051, n, 28, 28) + bytes(n * 784)
            (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
            (raw / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2i", 2049, n) + bytes(n)))
        with pytest.raises(DataError, match="not the published one"):
            load_dataset("fashion_mnist", tmp_path / "cache", raw)
        assert not (tmp_path / "cache" / "fashion_mnist.npz").exists()

    @pytest.mark.parametrize("name", ["omniglot"])
    def test_data_without_a_public_address(self, tmp_path, name):
        with pytest.raises(DataError, match="--raw-dir"):
            load_dataset(name, tmp_path)

    def test_no_raw_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"missing does not hold binarized_mnist_train\.amat"):
            load_dataset("binary_mnist", tmp_path, tmp_path / "missing")

    def test_incomplete_raw_folder_never_asks_the_network(self, tmp_path, monkeypatch):
        monkeypatch.setattr("socket.getaddrinfo", None)
        (tmp_path / "binarized_mnist_test.amat").touch()
        with pytest.raises(DataError, match=r"does not hold binarized_mnist_train\.amat, binarized_mnist_valid\.amat\. Point"):
            load_dataset("binary_mnist", tmp_path / "cache", tmp_path)

    def test_failed_download(self, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        def fail(*args, **kwargs):
            raise ConnectionError("no route to host")

        monkeypatch.setattr("socket.getaddrinfo", lambda *arguments: [])
        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
        with pytest.raises(DataError, match=r"no route to host.*--data-dir.*--raw-dir"):
            load_dataset("binary_mnist", tmp_path)


@pytest.mark.data
class TestRealData:
    @pytest.mark.parametrize(
        ("name", "means"),
        [
            ("binary_mnist", {"train": 0.130562, "validation": 0.131127, "test": 0.132512}),
            ("fashion_mnist", {"train": 0.286041, "test": 0.286849}),
            ("omniglot", {"train": 0.0830, "test": 0.0820}),
        ],
    )
    def test_mean_pixels(self, real_data_dir, name, means):
        dataset = load_dataset(name, real_data_dir)
        for split, mean in means.items():
            digits = 4 if name == "omniglot" else 6
            assert dataset.raw(split).mean() / dataset.white == pytest.approx(mean, abs=0.6 * 10**-digits)

    def test_distortion_of_the_pixel_means(self, real_data_dir):
        dataset = load_dataset("binary_mnist", real_data_dir)
        p = np.clip(dataset.train.mean(0, dtype=np.float64), 1e-6, 1 - 1e-6)
        test = dataset.test
        nats = -(test * np.log(p) + (1 - test) * np.log(1 - p)).sum((1, 2, 3)).mean()
        assert nats == pytest.approx(205.8, abs=0.3)  # depends on how pixels that are never set are clipped
