"""Distortions: what it costs, in nats, to know an example only by what the decoder says of it."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import invalid
from echo_tf.echo.checks import Tensor, alike, positive
from echo_tf.models.losses import bernoulli_distortion

# A decoder's parameters of p(x|z) to nats per example, shape (batch,).
DistortionFunction = Callable[[Tensor, Tensor], Tensor]


class Serializable:
    """What Keras asks of an object in a saved model."""

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        return cls(**config)


@keras.saving.register_keras_serializable(package="echo_tf")
class Bernoulli(Serializable):
    """Bernoulli pixels, of which the decoder gives the log odds; see `bernoulli_distortion`."""

    range = (0.0, 1.0)  # of the data

    def __call__(self, x: Tensor, parameters: Tensor) -> Tensor:
        return bernoulli_distortion(x, parameters)

    def mean(self, parameters: Tensor) -> Tensor:
        """`E[x|z]`."""
        return ops.sigmoid(parameters)

    def sample(self, parameters: Tensor) -> Tensor:
        """A draw of `p(x|z)`: pixels of 0 and 1."""
        return ops.cast(keras.random.uniform(ops.shape(parameters)) < ops.sigmoid(parameters), "float32")


@keras.saving.register_keras_serializable(package="echo_tf")
class Gaussian(Serializable):
    """Gaussian decoder of fixed standard deviation: `-log p(x|z)`, its parameters being the means.

    `D = sum_i [ (x_i - y_i)^2 / (2 sd^2) + log(sd) + log(2 pi) / 2 ]` nats. So a model at `beta = 1` minimises
    `rate + slope * squared error` with the slope `1 / (2 sd^2)`.

    Args:
        sd: Float > 0.

    Raises:
        ValueError: `sd` is not a positive finite number.

    Source: Kingma and Welling 2014, appendix C (Gaussian decoder).

    Example:
        >>> round(float(Gaussian(0.5)(np.ones((1, 2)), np.zeros((1, 2)))[0]), 4)  # 2 (1 / 0.5 + log 0.5 + log(2 pi) / 2)
        4.4516
    """

    def __init__(self, sd: float = 1.0):
        self.sd = positive("sd", sd)

    def __call__(self, x: Tensor, parameters: Tensor) -> Tensor:
        scaled = (ops.cast(x, "float32") - ops.cast(parameters, "float32")) / self.sd
        terms = 0.5 * ops.square(scaled) + (math.log(self.sd) + 0.5 * math.log(2.0 * math.pi))
        return ops.sum(terms, axis=tuple(range(1, len(terms.shape))))

    def sample(self, parameters: Tensor) -> Tensor:
        """A draw of `p(x|z)`."""
        return parameters + self.sd * keras.random.normal(ops.shape(parameters))


def make_distortion(distortion: str | DistortionFunction) -> DistortionFunction:
    """The distortion that a name stands for; a function as it is. `bernoulli_distortion` itself means `"bernoulli"`.

    Raises:
        ValueError: neither.
    """
    if distortion is bernoulli_distortion:  # the public loss, which knows no range of data and no mean
        return Bernoulli()
    if callable(distortion):
        return distortion
    if distortion in ("bernoulli", "gaussian"):
        return Bernoulli() if distortion == "bernoulli" else Gaussian()
    expected = "'bernoulli', 'gaussian', Gaussian(sd), or a function (x, parameters) -> nats of shape (batch,)"
    raise invalid("distortion", expected, f"distortion={distortion!r}")


def decoded_mean(distortion: DistortionFunction, parameters: Tensor) -> Tensor:
    """`E[x|z]`; with a function of one's own the decoder's parameters themselves."""
    return getattr(distortion, "mean", lambda values: values)(parameters)


def check_is_array(x: Any) -> None:
    """Raise `ValueError` for examples in a list or dictionary, which Keras takes for several inputs."""
    if isinstance(x, list | tuple | dict):
        raise ValueError(
            f"Expected the examples in one array, or a dataset of such. Received: a {type(x).__name__}. Use np.asarray(x) of a "
            "list of examples, and x[0] of a list with an array."
        )


def check_parameters(distortion: DistortionFunction, x: Tensor, parameters: Tensor) -> None:
    """Raise `ValueError` unless the decoder gives a number for every number of the examples, where the distortion needs it.

    Shapes that can be broadcast would train, and mean nothing.
    """
    check_is_array(x)
    shape, found = tuple(x.shape), tuple(parameters.shape)
    if isinstance(distortion, Bernoulli | Gaussian) and not alike(shape[1:], found[1:]):
        raise ValueError(
            f"Expected a decoder that gives parameters in the shape of the examples, {shape}. Received: {found}. "
            "End it with a Reshape, or pass a distortion that takes such parameters."
        )


def check_data(distortion: DistortionFunction, x: np.ndarray) -> None:
    """Raise `ValueError` for data that are not finite, or outside the range that a distortion is made for."""
    low, high = float(np.min(x)), float(np.max(x))  # NaN if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("Expected finite data. Received NaN or infinite values.")
    least, most = getattr(distortion, "range", (-math.inf, math.inf))
    if not (least <= low and high <= most):
        raise ValueError(
            f"Expected data in [{least:g}, {most:g}]. Received values from {low:g} to {high:g}. Divide images of 0 to 255 by "
            '255, map -1 to 1 by (x + 1) / 2, or use distortion="gaussian".'
        )
