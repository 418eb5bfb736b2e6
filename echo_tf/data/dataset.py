"""A data set in memory: images or vectors by split, from the package's own list or from arrays of the user's."""

import hashlib
import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from echo_tf.errors import DataError

# Known data sets, with the number of training images held out for validation where a set comes without such a split.
KNOWN = {"digits": 237, "binary_mnist": 0, "omniglot": 1_345, "fashion_mnist": 10_000, "binary_digits": 237, "mnist": 10_000}
KNOWN |= {"sprites": 700, "sprites_dependent": 99, "dsprites": 66_355, "dsprites_dependent": 11_232}  # images of known factors
_FOLDERS = ("bottleneck", "disentanglement", "freeriding", "likelihood", "noise", "report", "theory")
TAKEN = (*KNOWN, *_FOLDERS)  # names of folders of results
KINDS = {"b": "bool", "i": "integers", "u": "integers", "f": "floats"}


@dataclass(frozen=True)
class Dataset:
    """Images or vectors of one data set.

    `train`, `test` and `validation` (`None` where there is none; see `holdout`) are float32 in [0, 1] of shape `(n, *shape)`,
    made from the stored arrays at every access. Grey values stay grey. `raw(split)` is the stored array itself, and
    `raw(split) / white` the images.

    Attributes:
        name: Name of the data set, and of its folder of results.
        splits: Arrays by split, uint8 or float32. Images have shape `(n, height, width, channels)`, vectors `(n, features)`.
        white: Stored value that stands for 1.0: 255, or 1 for binary images and for float32.
        labels: Integer arrays of shape `(n,)` by split, for the splits that have labels.
        source: `"original"`; `"reconstruction"` for an Omniglot file that is not the published one; `"own"` for arrays of the
            user's.
        fingerprint: Of own arrays 16 hexadecimal digits that differ if anything in the arrays does, else empty.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
        >>> dataset = Dataset.from_arrays(images[:40], images[40:], name="mine")
        >>> dataset.shape, dataset.white, dataset.default_holdout
        ((8, 8, 1), 255, 8)
        >>> dataset.holdout(8).validation.shape
        (8, 8, 8, 1)
    """

    name: str
    splits: dict[str, np.ndarray]
    white: int
    labels: dict[str, np.ndarray]
    source: str = "original"
    fingerprint: str = ""

    @classmethod
    def from_arrays(
        cls,
        train: ArrayLike,
        test: ArrayLike,
        *,
        validation: ArrayLike | None = None,
        train_labels: ArrayLike | None = None,
        validation_labels: ArrayLike | None = None,
        test_labels: ArrayLike | None = None,
        name: str = "mine",
    ) -> "Dataset":
        """Make a data set of one's own. An `.npz` file of such arrays is read by `load_dataset("path/to/mine.npz")`.

        Args:
            train: Training examples, at least 2: images of shape `(n, height, width)` or `(n, height, width, channels)`, or
                vectors of shape `(n, features)`. Float from 0 to 1, bool, or integers from 0 to 255. Integers are divided by
                255, unless 1 is the largest value of all splits.
            test: Test examples, of the same shape and kind of numbers.
            validation: Validation examples, or `None`.
            train_labels: Integers of shape `(n,)`, or `None`; so are the next two.
            validation_labels: Labels of the validation examples.
            test_labels: Labels of the test examples.
            name: Name of the data set. It becomes the name of a folder.

        Returns:
            The `Dataset`. Integers and bool are stored as uint8, floats as float32.

        Raises:
            ValueError: an array or the name does not fit. The message says what was expected and found, and what to do.
        """
        if not re.fullmatch(r"\w[\w.+=-]*", name) or name.lower() in TAKEN:
            expected = f"letters, digits and `_.+=-`, and none of {', '.join(TAKEN)}"
            remedy = "Choose another; data in a file are named after the file."
            raise _invalid("argument `name`", expected, f"name={name!r}", remedy)
        all_splits = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
        given = {split: np.asarray(values) for split, values in all_splits.items()}
        splits = {split: _examples(split, array) for split, array in given.items()}
        _check_alike({split: f"{KINDS[given[split].dtype.kind]} of shape {array.shape[1:]}" for split, array in splits.items()})
        all_labels = {"train": train_labels, "test": test_labels, "validation": validation_labels}
        labels = {split: np.asarray(values) for split, values in all_labels.items() if values is not None}
        for split, array in labels.items():
            _check_labels(split, array, len(splits.get(split, ())))
        is_binary = max(array.max() for array in splits.values()) == 1
        white = 1 if is_binary or splits["train"].dtype == np.float32 else 255
        return cls(name, splits, white, labels, "own", _fingerprint([*splits.items(), *labels.items()]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, `(height, width, channels)` or `(features,)`."""
        return self.splits["train"].shape[1:]

    @property
    def default_holdout(self) -> int:
        """How many training examples to hold out for validation: 0 if there is a validation split, a fifth of own data."""
        default = KNOWN.get(self.name, max(1, len(self.splits["train"]) // 5))
        return 0 if "validation" in self.splits else default

    @property
    def is_binary(self) -> bool:
        """Whether all training images consist of 0 and 1."""
        raw = self.raw("train")
        return bool(((raw == 0) | (raw == self.white)).all())

    def raw(self, split: str) -> np.ndarray:
        """Stored array of a split, uint8 or float32, shape `(n, *shape)`. Raises `DataError` if there is no such split."""
        if split not in self.splits:
            only = ", ".join(self.splits)
            raise DataError(f"{self.name} has no {split} split, only {only}. `dataset.holdout(n)` makes one for validation.")
        return self.splits[split]

    def images(self, split: str) -> np.ndarray:
        """float32 images or vectors of a split in [0, 1], shape `(n, *shape)`. Raises `DataError` as `raw` does."""
        return self.raw(split) / np.float32(self.white)

    train = property(lambda self: self.images("train"))
    test = property(lambda self: self.images("test"))
    validation = property(lambda self: self.images("validation") if "validation" in self.splits else None)
    train_labels = property(lambda self: self.labels.get("train"))
    test_labels = property(lambda self: self.labels.get("test"))

    def holdout(self, n: int) -> "Dataset":
        """The same data set with the last `n` training images as its validation split instead.

        Raises:
            ValueError: `n` is not between 1 and the number of training images less one.
        """
        train = self.raw("train")
        if not 1 <= n < len(train):
            expected = f"1 <= n < {len(train)}, the training images of {self.name}"
            raise _invalid("argument `n`", expected, f"n={n}", "Hold out another number.")

        def cut(parts):
            kept = {split: array for split, array in parts.items() if split != "validation"}
            return kept | ({"train": parts["train"][:-n], "validation": parts["train"][-n:]} if "train" in parts else {})

        return replace(self, splits=cut(self.splits), labels=cut(self.labels))


def _invalid(what: str, expected: str, found: str, remedy: str) -> ValueError:
    return ValueError(f"Invalid value received for {what}. Expected {expected}. Received: {found}. {remedy}")


def _check_alike(kinds: dict[str, str]) -> None:
    for split, kind in kinds.items():
        if kind != kinds["train"]:
            raise _invalid(f"array `{split}`", f"examples that are {kinds['train']}, as in `train`", kind, "Make them alike.")


def _check_labels(split: str, array: np.ndarray, count: int) -> None:
    if array.dtype.kind not in "iu" or array.shape != (count,):
        expected = f"integers of shape ({count},), one for each example"
        remedy = "Number the classes from 0, or leave the labels out."
        raise _invalid(f"array `{split}_labels`", expected, f"{array.dtype} of shape {array.shape}", remedy)


def _fingerprint(arrays: list[tuple[str, np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for split, array in arrays:
        digest.update(f"{split} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.ravel().data)  # no copy of an array in C order
    return digest.hexdigest()[:16]


def _examples(split: str, array: np.ndarray) -> np.ndarray:
    """The array as it is stored: uint8 or float32, images with an axis of channels."""
    kind, rank, shape = KINDS.get(array.dtype.kind), array.ndim, array.shape
    channels_first = rank == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)
    shapes = "shape (n, height, width), (n, height, width, channels) or (n, features)"
    for is_wrong, expected, remedy in (
        (kind is None, "uint8, bool or float", "Convert it to one of them."),
        (rank not in (2, 3, 4), shapes, "Reshape it; the first axis counts the examples."),
        (not array.size or (rank and len(array) < 2), "at least 2 examples of at least 1 value", "Every split needs as many."),
        (channels_first, "channels in the last axis", "Use `np.moveaxis(x, 1, -1)`."),
    ):
        if is_wrong:
            raise _invalid(f"array `{split}`", expected, f"{array.dtype} of shape {shape}", remedy)
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        array = array.astype(np.float32, copy=False) if kind == "floats" else array
    low, high = array.min(), array.max()
    top = 255 if kind == "integers" else 1
    if not (low >= 0 and high <= top):
        other = "Divide by 255.0" if low >= 0 and high <= 255 else "Drop what is not finite, and scale to values from 0 to 1"
        remedy = f"{'Use (x + 1) / 2' if -1 <= low < 0 and high <= 1 else other}, in all splits."
        raise _invalid(f"array `{split}`", f"{kind} from 0 to {top}", f"values from {low} to {high}", remedy)
    array = array if kind == "floats" else array.astype(np.uint8, copy=False)
    return array[..., None] if rank == 3 else array
