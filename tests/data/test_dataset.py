import dataclasses

import numpy as np
import pytest

from echo_tf.data.dataset import KNOWN, Dataset
from echo_tf.errors import DataError


def grey(n=10, shape=(4, 5), seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    values.flat[0] = 255
    return values


class TestHoldout:
    def dataset(self):
        train = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 28, 28, 1), np.uint8)
        return Dataset("toy", {"train": train, "test": train[:2]}, 255, {"train": np.arange(10), "test": np.arange(2)})

    def test_takes_the_end_of_the_training_images(self):
        dataset = self.dataset().holdout(3)
        assert dataset.raw("train")[:, 0, 0, 0].tolist() == list(range(7))
        assert dataset.raw("validation")[:, 0, 0, 0].tolist() == [7, 8, 9]
        assert dataset.labels["train"].tolist() == list(range(7))
        assert dataset.labels["validation"].tolist() == [7, 8, 9]
        assert dataset.validation.max() == np.float32(9 / 255)

    @pytest.mark.parametrize("n", [0, 10, -1])
    def test_impossible(self, n):
        with pytest.raises(ValueError, match="Expected 1 <= n < 10"):
            self.dataset().holdout(n)

    def test_missing_split_says_what_to_do(self):
        with pytest.raises(DataError, match="holdout"):
            self.dataset().raw("validation")

    def test_replaces_a_validation_split_and_its_labels(self):
        dataset = Dataset.from_arrays(grey(9), grey(3), validation=grey(4), validation_labels=np.arange(4))
        held = dataset.holdout(2)
        assert (len(held.train), len(held.validation), held.labels) == (7, 2, {})
        assert held.fingerprint == dataset.fingerprint  # that of what was given

    @pytest.mark.parametrize(("name", "n"), [("digits", 237), ("omniglot", 1_345), ("fashion_mnist", 10_000)])
    def test_default_of_known_sets(self, name, n):
        assert dataclasses.replace(self.dataset(), name=name).default_holdout == n
        assert dataclasses.replace(self.dataset().holdout(2), name=name).default_holdout == 0

    @pytest.mark.parametrize(("count", "n"), [(2, 1), (4, 1), (10, 2), (99, 19)])
    def test_default_of_own_data_is_a_fifth(self, count, n):
        dataset = Dataset.from_arrays(grey(count), grey(3))
        assert dataset.default_holdout == n
        assert dataset.holdout(n).default_holdout == 0


class TestFromArrays:
    @pytest.mark.parametrize(
        ("given", "shape"),
        [((4, 5), (4, 5, 1)), ((4, 5, 3), (4, 5, 3)), ((4, 3, 2), (4, 3, 2)), ((7,), (7,)), ((1, 4), (1, 4, 1))],
    )
    def test_shapes(self, given, shape):
        dataset = Dataset.from_arrays(grey(6, given), grey(3, given), validation=grey(2, given))
        assert dataset.shape == shape
        assert [dataset.images(split).shape for split in ("train", "validation", "test")] == [(n, *shape) for n in (6, 2, 3)]
        assert (dataset.name, dataset.source, dataset.labels) == ("mine", "own", {})

    def test_grey_values(self):
        values = grey()
        for dtype in (np.uint8, np.int64, np.uint16, ">i4"):
            dataset = Dataset.from_arrays(values.astype(dtype), values[:2].astype(dtype))
            assert (dataset.white, dataset.raw("train").dtype) == (255, np.uint8)
            np.testing.assert_array_equal(dataset.train[..., 0], values.astype(np.float32) / np.float32(255))
            assert dataset.train.dtype == np.float32

    @pytest.mark.parametrize("dtype", [np.uint8, bool, np.int8])
    def test_binary_values(self, dtype):
        values = (grey() > 100).astype(dtype)
        dataset = Dataset.from_arrays(values, values[:2])
        assert (dataset.white, dataset.raw("train").dtype) == (1, np.uint8)
        np.testing.assert_array_equal(dataset.train[..., 0], values)

    def test_the_brightest_split_decides_what_is_white(self):
        assert Dataset.from_arrays(np.ones((3, 4), np.uint8), 200 * np.ones((3, 4), np.uint8)).white == 255
        assert Dataset.from_arrays(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)).white == 255

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
    def test_floats_are_kept_as_float32(self, dtype):
        values = np.random.default_rng(0).uniform(size=(5, 3)).astype(dtype)
        dataset = Dataset.from_arrays(values, values[:2])
        assert (dataset.white, dataset.raw("train").dtype) == (1, np.float32)
        np.testing.assert_array_equal(dataset.train, values.astype(np.float32))

    def test_lists(self):
        dataset = Dataset.from_arrays([[0.0, 1.0], [0.5, 0.25]], [[0.0, 0.0]] * 2, train_labels=[1, 0])
        assert dataset.train.tolist() == [[0.0, 1.0], [0.5, 0.25]]
        assert dataset.train_labels.tolist() == [1, 0]

    def test_labels(self):
        labels = {"train": np.arange(10), "validation": np.arange(3, dtype=np.uint8), "test": np.arange(4)}
        dataset = Dataset.from_arrays(
            grey(10), grey(4), validation=grey(3), **{f"{split}_labels": values for split, values in labels.items()}
        )
        assert dataset.labels.keys() == labels.keys()
        for split, values in labels.items():
            np.testing.assert_array_equal(dataset.labels[split], values)
        assert Dataset.from_arrays(grey(10), grey(4), test_labels=np.arange(4)).train_labels is None

    @pytest.mark.parametrize(
        ("train", "message"),
        [
            (None, r"Received: object of shape \(\)"),
            (np.full((4, 3), None), "Received: object"),
            (np.full((4, 3), "a"), "Received: <U1"),
            (np.full((4, 3), 1j), "Received: complex128"),
            (np.zeros((4, 3), "M8[s]"), "Received: datetime64"),
            (np.zeros(4), r"\(n, features\). Received: float64 of shape \(4,\). Reshape"),
            (np.zeros((4, 2, 2, 2, 2)), "Reshape"),
            (np.zeros((0, 4, 4)), "at least 2 examples"),
            (np.zeros((1, 4, 4)), "at least 2 examples"),
            (np.zeros((4, 0)), "at least 1 value"),
            (np.zeros((4, 3, 8, 8)), "last axis.*moveaxis"),
            (np.zeros((4, 1, 8, 8), np.uint8), "last axis.*moveaxis"),
            (np.array([[0, np.nan]] * 4), "floats from 0 to 1. Received: values from nan to nan. Drop what is not finite"),
            (np.array([[0, np.inf]] * 4), "Drop what is not finite"),
            (np.array([[0, 1e300]] * 4), "floats from 0 to 1"),
            (np.array([[0, 255.0]] * 4), r"values from 0.0 to 255.0. Divide by 255.0, in all splits"),
            (np.array([[0, 1.001]] * 4), "floats from 0 to 1"),
            (np.array([[-1, 1.0]] * 4), r"Use \(x \+ 1\) / 2, in all splits"),
            (np.array([[-1.5, 1.0]] * 4), "scale to values"),
            (np.array([[-1, 1]] * 4), r"integers from 0 to 255. Received: values from -1 to 1. Use \(x \+ 1\) / 2"),
            (np.array([[0, 256]] * 4), "integers from 0 to 255. Received: values from 0 to 256. Drop"),
        ],
    )
    def test_arrays_that_do_not_fit(self, train, message):
        with pytest.raises(ValueError, match=f"Invalid value received for array `train`.*{message}"):
            Dataset.from_arrays(train, np.zeros((4, 3)))

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_other_splits_are_checked_too(self, split):
        arrays = {"train": grey(), "test": grey()}
        with pytest.raises(ValueError, match=f"`{split}`. Expected integers from 0 to 255"):
            Dataset.from_arrays(**arrays | {split: grey().astype(int) - 1})

    @pytest.mark.parametrize(
        "test",
        [grey(3, (5, 4)), grey(3, (4, 5, 3)), grey(3, (20,)), grey(3) / 255.0, grey(3) > 100],
        ids=["shape", "channels", "vectors", "floats", "bool"],
    )
    def test_splits_that_differ(self, test):
        with pytest.raises(
            ValueError, match=r"`test`. Expected examples that are integers of shape \(4, 5, 1\), as in `train`"
        ):
            Dataset.from_arrays(grey(), test)

    @pytest.mark.parametrize(
        "labels", [np.arange(9), np.zeros(10), np.zeros((10, 1), int), ["a"] * 10, np.ones(10, bool), 3], ids=str
    )
    def test_labels_that_do_not_fit(self, labels):
        with pytest.raises(ValueError, match=r"`train_labels`. Expected integers of shape \(10,\)"):
            Dataset.from_arrays(grey(10), grey(3), train_labels=labels)

    def test_labels_of_a_split_that_is_not_there(self):
        with pytest.raises(ValueError, match="`validation_labels`"):
            Dataset.from_arrays(grey(), grey(), validation_labels=np.arange(10))

    @pytest.mark.parametrize("name", ["mine", "my-data_2.v1", "β=1", "0"])
    def test_names(self, name):
        assert Dataset.from_arrays(grey(), grey(), name=name).name == name

    @pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-x", "a\n", *KNOWN, "Digits", "report"])
    def test_names_that_are_none(self, name):
        with pytest.raises(ValueError, match=r"argument `name`.*Choose another"):
            Dataset.from_arrays(grey(), grey(), name=name)


class TestFingerprint:
    def arrays(self):
        return {"train": grey(10), "test": grey(4, seed=1), "train_labels": np.arange(10)}

    def test_is_that_of_the_contents(self):
        fingerprint = Dataset.from_arrays(**self.arrays()).fingerprint
        assert len(fingerprint) == 16 and int(fingerprint, 16)
        assert Dataset.from_arrays(**self.arrays(), name="other").fingerprint == fingerprint
        wide = self.arrays() | {"train": np.asfortranarray(grey(10).astype(np.int64))}  # the same pictures, stored otherwise
        assert Dataset.from_arrays(**wide).fingerprint == fingerprint

    @pytest.mark.parametrize(
        "change",
        [
            {"train": np.roll(grey(10), 1)},
            {"train": grey(10) // 2},
            {"train": grey(10).reshape(10, 5, 4), "test": grey(4, seed=1).reshape(4, 5, 4)},
            {"train": grey(10) / 255, "test": grey(4, seed=1) / 255},
            {"validation": grey(2)},
            {"train_labels": np.arange(10)[::-1]},
            {"train_labels": None},
            {"train_labels": None, "test_labels": np.arange(4)},
        ],
        ids=["order", "values", "shape", "dtype", "split", "labels", "no_labels", "other_labels"],
    )
    def test_differs_with_everything(self, change):
        assert Dataset.from_arrays(**self.arrays() | change).fingerprint != Dataset.from_arrays(**self.arrays()).fingerprint

    def test_of_known_data_is_empty(self):
        assert Dataset("toy", {"train": grey()}, 255, {}).fingerprint == ""
