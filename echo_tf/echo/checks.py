"""Checks of arguments, and the floating type that Echo computes in."""

import inspect
import itertools
import math
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import invalid, nearest

Tensor = Any
Seed = int | keras.random.SeedGenerator | None

# Keras takes seeds of 32 bits.
SEEDS = 2**32

# What every layer of Keras takes.
KERAS_OPTIONS = ("name", "trainable", "dtype", "autocast", "activity_regularizer", "input_shape", "input_dim")


def check_options(layer: type, options: dict[str, Any]) -> None:
    """Raise `ValueError` for keyword arguments that neither a layer of ours nor Keras has, with what may be meant."""
    ours = itertools.takewhile(lambda base: not base.__module__.startswith("keras."), layer.__mro__)
    known = [p for base in ours for p in inspect.signature(base.__init__).parameters.values()]  # type: ignore[misc]
    names = list(dict.fromkeys(p.name for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"))
    for option in options:
        if option not in (*names, *KERAS_OPTIONS):
            raise ValueError(
                f"{layer.__name__} has no argument `{option}`{nearest(option, [*names, *KERAS_OPTIONS])}. "
                f"Arguments: {', '.join(names)}, and those of a Keras layer."
            )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` if an argument is none of its choices."""
    if value not in choices:
        raise invalid(name, f"one of {choices}", f"{name}={value!r}")


def positive(name: str, value: Any) -> int | float:
    """A number of Python or NumPy as one of Python. Raises `ValueError` for what is not a positive finite number."""
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise invalid(name, "a positive finite number", f"{name}={value!r}")
    return number


def check_count(n: Any, name: str = "n") -> None:
    """Raise `ValueError` unless a number of draws, or of something else, is an integer of at least 1."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise invalid(name, "an integer >= 1", f"{name}={n!r}")


def check_features(shape: Any) -> None:
    """Raise `ValueError` for the shapes of several inputs in the place of one."""
    if len(shape) and isinstance(shape[0], tuple | list):
        expected = "one tensor of features, of which the layer makes f and S; for heads of your own use EchoLayer"
        raise invalid("inputs", expected, f"{len(shape)} tensors")


def check_is_flat(layer: str, shape: Any) -> None:
    """Raise `ValueError` for feature maps, of which the rate would be that of a single place."""
    check_features(shape)
    if len(shape) != 2:
        raise invalid("inputs", f"shape (batch, features), which a Flatten before {layer!r} gives", f"shape {tuple(shape)}")


def not_negative(name: str, value: Any) -> float:
    """A number, or what holds one, as a float. Raises `ValueError` for what is not finite and at least 0."""
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise invalid(name, "a finite number >= 0", f"{name}={value!r}")
    return number


def check_seed(seed: Any) -> int | None:
    """A seed of Python or NumPy as an integer of Python, or `None`.

    Raises `ValueError` for what cannot seed a generator: Keras accepts larger integers and fails at the first draw.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < SEEDS:
        raise invalid("seed", "None or an integer below 2^32", f"seed={seed!r}")
    return int(seed)


def check_same_shape(mean: Tensor, log_scale: Tensor) -> None:
    """Raise `ValueError` for shapes that differ where both are known."""
    if not alike(mean.shape, log_scale.shape):
        raise invalid("log_scale", f"the shape of `mean`, {tuple(mean.shape)}", str(tuple(log_scale.shape)))


def alike(shape: Any, other: Any) -> bool:
    """Whether two shapes are the same, as far as their sizes are known."""
    return len(shape) == len(other) and all(n == m or None in (n, m) for n, m in zip(shape, other, strict=True))


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in their widest floating type, or float32 if that is wider."""
    converted = [ops.convert_to_tensor(tensor) for tensor in tensors]
    dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in converted}
    return [ops.cast(tensor, "float64" if "float64" in dtypes else "float32") for tensor in converted]


def concatenated(data: Any) -> Tensor:
    """All examples of what `adapt` takes: an array, or an iterable of arrays."""
    batches = [data] if hasattr(data, "shape") else list(data)
    if not batches:
        raise ValueError("Expected at least two examples to adapt to. Received: none")
    if wrong := [batch for batch in batches if isinstance(batch, tuple | dict | str)]:
        expected = "an array of features, or an iterable of such arrays: without targets, `dataset.map(lambda x, y: x)`"
        raise invalid("data", expected, f"one that gives a {type(wrong[0]).__name__}")
    return ops.concatenate([ops.convert_to_tensor(batch, "float32") for batch in batches])


def concatenated_pairs(data: Any) -> tuple[Tensor, Tensor]:
    """The same for pairs of arrays."""
    is_pair = isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape")
    batches = [data] if is_pair else list(data)
    return concatenated([batch[0] for batch in batches]), concatenated([batch[1] for batch in batches])
