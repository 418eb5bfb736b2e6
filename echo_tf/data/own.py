"""Arrays of the user's own: what is taken, what is refused, and how they are stored. Needs no Keras."""

import hashlib

import numpy as np
from numpy.typing import ArrayLike

from echo_tf.files import NAME

KINDS = {"b": "bool", "i": "integers", "u": "integers", "f": "floats"}
Arrays = dict[str, np.ndarray]


def invalid(what: str, expected: str, found: str, remedy: str) -> ValueError:
    """The error about an array or an argument, with what to do."""
    return ValueError(f"Invalid value received for {what}. Expected {expected}. Received: {found}. {remedy}")


def check_name(name: str, taken: tuple[str, ...]) -> None:
    """Raise `ValueError` for a name of a data set that cannot be that of a folder, or is one already."""
    if not NAME.fullmatch(name) or name.lower() in taken:
        expected = f"letters, digits and `_.+=-`, and none of {', '.join(taken)}"
        raise invalid("argument `name`", expected, f"name={name!r}", "Choose another; data in a file are named after the file.")


def stored(examples: dict[str, ArrayLike], labels: dict[str, ArrayLike | None]) -> tuple[Arrays, int, Arrays]:
    """Examples by split as a `Dataset` stores them, what stands for 1.0 in them, and the labels.

    Raises:
        ValueError: see `Dataset.from_arrays`.
    """
    given = {split: np.asarray(values) for split, values in examples.items()}
    own = {split: np.asarray(values) for split, values in labels.items() if values is not None}
    splits = {split: _stored(split, array) for split, array in given.items()}
    kinds = {split: f"{KINDS[given[split].dtype.kind]} of shape {array.shape[1:]}" for split, array in splits.items()}
    for split, kind in kinds.items():
        if kind != kinds["train"]:
            raise invalid(f"array `{split}`", f"examples that are {kinds['train']}, as in `train`", kind, "Make them alike.")
    for split, array in own.items():
        _check_labels(split, array, len(splits.get(split, ())))
    is_binary = max(array.max() for array in splits.values()) == 1
    return splits, 1 if is_binary or splits["train"].dtype == np.float32 else 255, own


def _check_labels(split: str, array: np.ndarray, count: int) -> None:
    if array.dtype.kind not in "iu" or array.shape != (count,):
        expected = f"integers of shape ({count},), one for each example"
        remedy = "Number the classes from 0, or leave the labels out."
        raise invalid(f"array `{split}_labels`", expected, f"{array.dtype} of shape {array.shape}", remedy)


def fingerprint(arrays: list[tuple[str, np.ndarray]]) -> str:
    """16 hexadecimal digits that differ if anything in the arrays does."""
    digest = hashlib.sha256()
    for split, array in arrays:
        digest.update(f"{split} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.ravel().data)  # no copy of an array in C order
    return digest.hexdigest()[:16]


def _stored(split: str, array: np.ndarray) -> np.ndarray:
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
            raise invalid(f"array `{split}`", expected, f"{array.dtype} of shape {shape}", remedy)
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        array = array.astype(np.float32, copy=False) if kind == "floats" else array
    low, high = array.min(), array.max()
    top = 255 if kind == "integers" else 1
    if not (low >= 0 and high <= top):
        other = "Divide by 255.0" if low >= 0 and high <= 255 else "Drop what is not finite, and scale to values from 0 to 1"
        remedy = f"{'Use (x + 1) / 2' if -1 <= low < 0 and high <= 1 else other}, in all splits."
        raise invalid(f"array `{split}`", f"{kind} from 0 to {top}", f"values from {low} to {high}", remedy)
    array = array if kind == "floats" else array.astype(np.uint8, copy=False)
    return array[..., None] if rank == 3 else array
