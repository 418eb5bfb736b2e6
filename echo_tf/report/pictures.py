"""Files of pictures, and how they stand in figures."""

from pathlib import Path

import numpy as np

from echo_tf.errors import ResultError
from echo_tf.report.style import pyplot


def read_pictures(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of a file of pictures. Raises `ResultError` where they are damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except Exception as error:  # NumPy and zipfile fail in many ways
        raise ResultError(f"{path} cannot be read ({error!r}). Delete it: the figure lacks it then.") from None


def mosaic(pictures: np.ndarray) -> np.ndarray:
    """Pictures in rows as one: shape `(rows, columns, height, width, ...)` to `(rows * height, columns * width, ...)`."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in pictures])


def panels(count: int, width: float, height: float, heading: str) -> tuple:
    """A figure of `count` panels without frames, four in a row, each so many inches wide and high, and its axes."""
    columns = min(4, count)
    rows = -(-count // columns)
    figure, axes = pyplot().subplots(rows, columns, figsize=(width * columns, height * rows + 0.5), squeeze=False)
    figure.suptitle(heading)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes.flat
