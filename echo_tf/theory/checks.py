"""Checks of arguments: each `ValueError` says what was expected and what was received."""

from math import inf
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# How far rounding may take a sum or a symmetry off, by the bytes of a number: float16 and bfloat16, float32, float64.
TOLERANCES = {2: 1e-2, 4: 1e-5, 8: 1e-9}

_SHAPES = {None: "at least one", 0: "a single one", 1: "shape (n,), n >= 1", 2: "shape (n, m), not empty"}


def invalid(name: str, expected: str, received: str) -> ValueError:
    """The error about the argument `name`."""
    return ValueError(f"Invalid value received for argument `{name}`. Expected {expected}. Received: {received}")


def wrong_shapes(expected: str, **arrays: np.ndarray) -> ValueError:
    """The error about arrays whose shapes do not agree."""
    received = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    return invalid("`, `".join(arrays), f"shapes {expected}", received)


def tolerance(values: ArrayLike) -> float:
    """Entry of `TOLERANCES` for the type that `values` had when the caller gave them."""
    dtype = np.asarray(values).dtype
    return TOLERANCES[8] if dtype.kind in "biu" else TOLERANCES.get(dtype.itemsize, TOLERANCES[8])


def numbers(
    name: str, values: ArrayLike, low: float = -inf, high: float = inf, *, ndim: int | None = None, infinite: bool = False
) -> np.ndarray:
    """`values` as a float64 array: not empty, each within the limits, and finite unless `infinite`.

    A value that exceeds `high` by no more than the rounding of its type counts as `high`.
    """
    limits = (f" >= {low}" if low > -inf else "") + (f" and <= {high}" if high < inf else "")
    expected = ("numbers" if infinite else "finite numbers") + limits
    try:
        given = np.asarray(values)
        if given.dtype.kind in "cmMSU":
            raise TypeError(given.dtype)
        array = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(name, expected, f"{name}={values!r:.50}, which does not convert to float64") from error
    if array.size == 0 or ndim not in (None, array.ndim):
        raise invalid(name, f"{expected}, {_SHAPES[ndim]}", f"shape {array.shape}")
    within = (array >= low) & (array <= high + tolerance(given)) & (infinite | np.isfinite(array))
    if not within.all():
        place = np.argwhere(~within)[0].tolist()
        raise invalid(name, expected, f"{name}{place or ''}={array[tuple(place)]}")
    return np.minimum(array, high)


def number(name: str, value: float, low: float, **options: Any) -> float:
    """One number, as in `numbers`."""
    return float(numbers(name, value, low, ndim=0, **options))


def positive(**values: float) -> None:
    """Refuse what is no number above 0."""
    for name, value in values.items():
        if number(name, value, 0, infinite=True) == 0:
            raise invalid(name, "a number > 0", f"{name}={value}")


def integer(name: str, value: int, low: int, high: int) -> None:
    """Refuse what is no integer within the limits."""
    if not isinstance(value, Integral) or not low <= value <= high:
        raise invalid(name, f"an integer from {low} to {high}", f"{name}={value!r:.50}")


def broadcast(**arguments: tuple) -> list[np.ndarray]:
    """Each `name=(values, low, high)` as in `numbers`, of shapes that broadcast."""
    arrays = {name: numbers(name, *argument) for name, argument in arguments.items()}
    try:
        np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError as error:
        raise wrong_shapes("that broadcast", **arrays) from error
    return list(arrays.values())


def law(name: str, values: ArrayLike, ndim: int) -> np.ndarray:
    """Probabilities that sum to 1 but for the rounding of their type, divided by their sum.

    Those below the smallest normal number, 2e-308, count as 0: the inverse of some of them is no float.
    """
    array = numbers(name, values, 0, 1, ndim=ndim)
    total = array.sum()
    if abs(total - 1.0) > tolerance(values):
        raise invalid(name, "probabilities that sum to 1", f"sum {total}")
    array /= total
    return np.where(array < np.finfo(float).tiny, 0.0, array)
