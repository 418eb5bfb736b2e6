"""A data set in memory: images or vectors by split, from the package's own list or from arrays of the user's."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from echo_tf.data.own import check_name, fingerprint, invalid, stored
from echo_tf.errors import DataError

# Known data sets, with the number of training images held out for validation where a set comes without such a split.
KNOWN = {"digits": 237, "binary_mnist": 0, "omniglot": 1_345, "fashion_mnist": 10_000, "binary_digits": 237, "mnist": 10_000}
KNOWN |= {"sprites": 700, "sprites_dependent": 99, "dsprites": 66_355, "dsprites_dependent": 11_232}  # images of known factors
_FOLDERS = ("bottleneck", "disentanglement", "freeriding", "likelihood", "noise", "report", "theory")
TAKEN = (*KNOWN, *_FOLDERS)  # names of folders of results


@dataclass(frozen=True, eq=False)  # arrays have no truth value
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
        check_name(name, TAKEN)
        examples = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
        labels = {"train": train_labels, "test": test_labels, "validation": validation_labels}
        splits, white, own_labels = stored(examples, labels)
        return cls(name, splits, white, own_labels, "own", fingerprint([*splits.items(), *own_labels.items()]))

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
    validation_labels = property(lambda self: self.labels.get("validation"))
    test_labels = property(lambda self: self.labels.get("test"))

    def holdout(self, n: int) -> "Dataset":
        """The same data set with the last `n` training images as its validation split instead.

        Raises:
            ValueError: `n` is not between 1 and the number of training images less one.
        """
        train = self.raw("train")
        if not 1 <= n < len(train):
            expected = f"1 <= n < {len(train)}, the training images of {self.name}"
            raise invalid("argument `n`", expected, f"n={n}", "Hold out another number.")

        def cut(parts):
            kept = {split: array for split, array in parts.items() if split != "validation"}
            return kept | ({"train": parts["train"][:-n], "validation": parts["train"][-n:]} if "train" in parts else {})

        return replace(self, splits=cut(self.splits), labels=cut(self.labels))
