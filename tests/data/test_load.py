import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from sklearn.datasets import load_digits

import echo_tf.data.load
from echo_tf.data.dataset import KNOWN, Dataset
from echo_tf.data.load import ARRAYS, load_dataset
from echo_tf.data.prepare import SPECS
from echo_tf.data.sprites import DEPENDENT, SIZES
from echo_tf.errors import ConfigError, DataError
from echo_tf.models.config import DATASETS

SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def tiny_specs(monkeypatch):
    """Make the loader expect small files."""
    sizes = {"binary_mnist": {"train": 4, "validation": 3, "test": 2}, "fashion_mnist": {"train": 4, "test": 2}}
    for name, size in sizes.items():
        monkeypatch.setitem(SPECS, name, type(SPECS[name])(**vars(SPECS[name]) | {"sizes": size}))


def arrays(**changes):
    rng = np.random.default_rng(0)
    splits = {"train": 4, "validation": 3, "test": 2}
    return {split: rng.integers(0, 2, (n, 28, 28), dtype=np.uint8) for split, n in splits.items()} | changes


def own(**changes):
    rng = np.random.default_rng(0)
    splits = {"train": rng.uniform(size=(20, 6)), "test": rng.uniform(size=(5, 6))}
    return splits | {"train_labels": np.arange(20), "test_labels": np.arange(5)} | changes


class TestDigits:
    def test_binary(self):
        dataset, grey = load_dataset("binary_digits"), load_dataset("digits")
        assert (dataset.train.shape, dataset.test.shape, dataset.white) == ((1437, 8, 8, 1), (360, 8, 8, 1), 1)
        assert set(np.unique(dataset.train)) == {0.0, 1.0} and 0.3 < dataset.train.mean() < 0.4
        np.testing.assert_array_equal(dataset.train[..., 0], load_digits().images[:1437] >= 8)  # half of white
        np.testing.assert_array_equal(dataset.train_labels, grey.train_labels)

    def test_fixed_split_of_grey_images(self):
        dataset = load_dataset("digits")
        assert (dataset.train.shape, dataset.test.shape) == ((1437, 28, 28, 1), (360, 28, 28, 1))
        assert dataset.shape == (28, 28, 1)
        assert dataset.train.dtype == np.float32
        assert dataset.validation is None
        assert 0 == dataset.train.min() < dataset.train.max() == 1
        assert (len(dataset.train_labels), len(dataset.test_labels)) == (1437, 360)
        assert (dataset.source, dataset.fingerprint, dataset.default_holdout) == ("original", "", 237)

    def test_resizing_keeps_the_picture(self):
        large, small = load_dataset("digits").test[..., 0], load_digits().images[1437:] / 16
        blocks = large.reshape(360, 4, 7, 4, 7).mean((2, 4)), small.reshape(360, 4, 2, 4, 2).mean((2, 4))
        np.testing.assert_allclose(*blocks, atol=0.15)  # a digit that is turned or flipped is off by up to 1


class TestNames:
    def test_those_of_the_configurations(self):
        assert tuple(KNOWN) == DATASETS
        assert {"digits", "binary_digits", *SPECS, *(name + end for name in SIZES for end in ("", DEPENDENT))} == set(KNOWN)

    @pytest.mark.parametrize("name", ["cifar", "", "digits.npy", ".npz"])
    def test_unknown(self, name):
        with pytest.raises(ConfigError, match=f"Unknown data set '{name}'. Expected one of digits,.*npz"):
            load_dataset(name)


class TestCache:
    def test_reads_what_is_there(self, tmp_path, monkeypatch):
        tiny_specs(monkeypatch)
        stored = arrays()
        np.savez(tmp_path / "binary_mnist.npz", **stored)
        dataset = load_dataset("binary_mnist", tmp_path)
        for split in stored:
            np.testing.assert_array_equal(dataset.images(split)[..., 0], stored[split])
        assert dataset.default_holdout == 0

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

    def test_single_array(self, tmp_path):
        with (tmp_path / "binary_mnist.npz").open("wb") as file:
            np.save(file, np.zeros(3))
        with pytest.raises(DataError, match="cannot be read"):
            load_dataset("binary_mnist", tmp_path)

    def test_no_damage_goes_unnoticed(self, tmp_path, monkeypatch):
        tiny_specs(monkeypatch)
        path = tmp_path / "binary_mnist.npz"
        np.savez_compressed(path, **arrays())
        contents = path.read_bytes()
        for start in range(0, len(contents) - 4, 40):
            path.write_bytes(contents[:start] + b"\xff\xff\xff\xff" + contents[start + 4 :])
            try:
                dataset = load_dataset("binary_mnist", tmp_path)
            except DataError:
                continue
            for split, values in arrays().items():  # the damage is where nothing is stored
                np.testing.assert_array_equal(dataset.raw(split)[..., 0], values)

    @pytest.mark.parametrize("labels", [{}, {"train_labels": np.zeros(4), "test_labels": np.zeros(2)}])
    def test_missing_labels(self, tmp_path, monkeypatch, labels):
        tiny_specs(monkeypatch)
        images = {"train": np.zeros((4, 28, 28), np.uint8), "test": np.zeros((2, 28, 28), np.uint8)}
        np.savez(tmp_path / "fashion_mnist.npz", **images, **labels)
        with pytest.raises(DataError, match="`train_labels` must be integers of shape"):
            load_dataset("fashion_mnist", tmp_path)


class TestGreyMnist:
    """The file of `keras.datasets.mnist` in the place of the cache."""

    @pytest.fixture
    def stored(self, monkeypatch):
        spec = SPECS["mnist"]
        monkeypatch.setitem(SPECS, "mnist", type(spec)(**vars(spec) | {"sizes": {"train": 4, "test": 2}}))
        rng = np.random.default_rng(0)
        images = {f"x_{split}": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for split, n in (("train", 4), ("test", 2))}
        return images | {"y_train": np.arange(4, dtype=np.uint8), "y_test": np.arange(2, dtype=np.uint8)}

    @pytest.mark.parametrize("place", ["data", "raw"])
    def test_is_read_where_it_lies(self, tmp_path, stored, place):
        (tmp_path / place).mkdir()
        np.savez(tmp_path / place / "mnist.npz", **stored)
        dataset = load_dataset("mnist", tmp_path / "data", tmp_path / "raw")
        np.testing.assert_array_equal(dataset.test[..., 0], stored["x_test"] / np.float32(255))
        assert dataset.train_labels.tolist() == [0, 1, 2, 3]
        assert (dataset.name, dataset.white, dataset.source, dataset.default_holdout) == ("mnist", 255, "original", 10_000)

    def test_of_other_size(self, tmp_path, stored):
        np.savez(tmp_path / "mnist.npz", **stored | {"x_test": stored["x_test"][:1]})
        with pytest.raises(DataError, match=r"`test` must be uint8 of shape \(2, 28, 28\)"):
            load_dataset("mnist", tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"folder with mnist.npz \(Keras' file will do\), or --raw-dir"):
            load_dataset("mnist", tmp_path, tmp_path)


class TestOwnFile:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_is_what_its_arrays_make(self, tmp_path, save):
        stored = own(validation=np.zeros((2, 6)), validation_labels=np.arange(2))
        save(tmp_path / "mine.v2.npz", **stored)
        dataset = load_dataset(str(tmp_path / "mine.v2.npz"), data_dir="not/looked/at")
        same = Dataset.from_arrays(**stored, name="mine.v2")
        assert (dataset.name, dataset.source, dataset.fingerprint) == ("mine.v2", "own", same.fingerprint)
        np.testing.assert_array_equal(dataset.train, stored["train"].astype(np.float32))
        assert dataset.labels["validation"].tolist() == [0, 1]

    @pytest.mark.parametrize(("stem", "name"), [("my data (2)", "my-data-2-"), (" _x", "_x"), ("=a", "a"), ("été", "été")])
    def test_name_becomes_one_of_a_folder(self, tmp_path, stem, name):
        np.savez(tmp_path / f"{stem}.npz", **own())
        assert load_dataset(tmp_path / f"{stem}.npz").name == name

    @pytest.mark.parametrize("stem", ["digits", "Omniglot", "theory", "(=)"])
    def test_name_that_is_none_or_taken(self, tmp_path, stem):
        np.savez(tmp_path / f"{stem}.npz", **own())
        with pytest.raises(DataError, match=r"argument `name`.*named after the file"):
            load_dataset(tmp_path / f"{stem}.npz")

    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ({}, "Found: nothing. Add what is missing"),
            ({"train": own()["train"]}, "Found: train. Add what is missing"),
            (own(x_train=own()["train"]), r"Rename `x_train` \(the nearest name is `train`\)"),
            (own(train_label=np.arange(20)), r"the nearest name is `train_labels`"),
            (own(arr_0=np.arange(20)), "Rename `arr_0`"),
            (own(train=np.full((4, 6), None)), "cannot be read.*Expected plain arrays"),
            (own(train_labels=np.full(20, None)), "cannot be read.*Expected plain arrays"),
            (own(train=255 * own()["train"]), r"array `train`.*Divide by 255\.0"),
            (own(test=own()["test"][:, :5]), "array `test`.*as in `train`"),
            (own(train=own()["train"][:1]), "at least 2 examples"),
            (own(test_labels=np.arange(4)), r"array `test_labels`. Expected integers of shape \(5,\)"),
        ],
    )
    def test_contents_that_do_not_fit(self, tmp_path, contents, message):
        path = tmp_path / "mine.npz"
        np.savez(path, **contents)
        with pytest.raises(DataError, match=message) as error:
            load_dataset(path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)

    def test_no_file(self, tmp_path):
        (tmp_path / "folder.npz").mkdir()
        with pytest.raises(DataError, match=r"npz cannot be read.*np\.savez"):
            load_dataset(tmp_path / "folder.npz")
        with pytest.raises(DataError, match=r"mine\.npz does not exist\. Expected .* or one of digits,.*binary_mnist"):
            load_dataset(tmp_path / "mine.npz")

    def test_another_format(self, tmp_path):
        path = tmp_path / "mine.npz"
        with path.open("wb") as file:
            np.save(file, own()["train"])
        with pytest.raises(DataError, match=r"not a zip file.*np\.savez"):
            load_dataset(path)
        with zipfile.ZipFile(path, "w") as archive:  # an archive of pictures, say
            archive.writestr("train", b"not an array")
            archive.writestr("test", b"not an array")
        with pytest.raises(DataError, match="Expected uint8, bool or float"):
            load_dataset(path)

    def test_memory_that_is_too_small(self, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise MemoryError("Unable to allocate 1 TiB")

        np.savez(tmp_path / "mine.npz", **own())
        monkeypatch.setattr(echo_tf.data.load.np, "load", fail)
        with pytest.raises(DataError, match="Unable to allocate 1 TiB"):
            load_dataset(tmp_path / "mine.npz")

    def test_no_damage_goes_unnoticed(self, tmp_path):
        path = tmp_path / "mine.npz"
        np.savez(path, **own())
        contents, fingerprint = path.read_bytes(), load_dataset(path).fingerprint
        for kept in range(0, len(contents), 97):
            path.write_bytes(contents[:kept])
            with pytest.raises(DataError):
                load_dataset(path)
        for position in range(0, len(contents), 3):
            path.write_bytes(contents[:position] + bytes([contents[position] ^ 1]) + contents[position + 1 :])
            try:
                dataset = load_dataset(path)
            except DataError:
                continue
            assert dataset.fingerprint == fingerprint  # the damage is where nothing is stored


DTYPES = st.sampled_from(["u1", "i8", "u8", "f2", "f4", "f8", "?", "c8", "U2", "S3", "M8[s]", ">i2", ">f4"])
SHAPES = st.sampled_from(
    [(4, 3), (4, 2, 3), (4, 2, 2, 3), (4, 3, 2, 2), (2, 3), (1, 3), (0, 3), (4, 0), (4,), (), (2, 2, 2, 2, 2)]
)
WILD = some.arrays(DTYPES, SHAPES) | st.just(np.zeros((4, 3), "V3"))
TAME = some.arrays(np.uint8, st.sampled_from([(4, 3), (2, 3)])) | some.arrays(
    np.float32, st.sampled_from([(4, 3), (2, 3)]), elements=st.floats(0, 1, width=32)
)
LABELS = some.arrays(st.sampled_from(["i8", "u1", "f8"]), st.sampled_from([2, 4]))
OPTIONAL = dict.fromkeys(ARRAYS[3:], LABELS | WILD) | {"validation": TAME | WILD, "x": WILD}
CONTENTS = st.fixed_dictionaries({"train": TAME | WILD, "test": TAME | WILD}, optional=OPTIONAL)


@settings(max_examples=300, **SETTINGS)
@given(contents=CONTENTS)
def test_any_arrays_make_a_data_set_or_a_message(contents, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, **contents)
    before = path.read_bytes()
    try:
        dataset = load_dataset(path)
    except DataError as error:
        assert str(path) in str(error) and len(str(error)) > len(str(path)) + 30
    else:
        for split in dataset.splits:
            images = dataset.images(split)
            assert images.dtype == np.float32 and images.shape == (len(contents[split]), *dataset.shape)
            assert 0 <= images.min() <= images.max() <= 1
            white = dataset.white if contents[split].dtype.kind in "iu" else 1
            np.testing.assert_allclose(images.reshape(contents[split].shape) * white, contents[split], rtol=1e-6, atol=1e-40)
    assert path.read_bytes() == before


@settings(max_examples=100, **SETTINGS)
@given(contents=st.binary(max_size=100), is_cache=st.booleans())
def test_any_bytes_give_a_message(contents, is_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    name = "omniglot" if is_cache else "mine"
    (folder / f"{name}.npz").write_bytes(contents)
    with pytest.raises(DataError, match=f"{name}.npz cannot be read"):
        load_dataset(name if is_cache else folder / "mine.npz", folder)


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

    def test_a_known_file_under_another_name_is_own_data(self, real_data_dir, tmp_path):
        with np.load(real_data_dir / "fashion_mnist.npz") as stored:
            np.savez(tmp_path / "clothes.npz", **stored)
        own, known = load_dataset(tmp_path / "clothes.npz"), load_dataset("fashion_mnist", real_data_dir)
        np.testing.assert_array_equal(own.raw("test"), known.raw("test"))
        np.testing.assert_array_equal(own.train_labels, known.train_labels)
        assert (own.white, own.default_holdout) == (255, 12_000)
