"""What the Echo channels with heads of their own share: the pull of the means, standardisation, reservoir, `adapt`."""

import logging
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import invalid
from echo_tf.echo.channel import Channel, Draw
from echo_tf.echo.checks import Tensor, concatenated
from echo_tf.echo.laws import redrawn
from echo_tf.echo.noise import independent_noise
from echo_tf.echo.source import EchoSource
from echo_tf.echo.standardise import Standardiser

logger = logging.getLogger(__name__)

# Weight of the pull of E f towards 0. With S(x) constant the objective does not depend on E f at all.
CENTRING = 3.0


class ConstantHead(keras.layers.Layer):
    """A head whose output is the same for every example: a trained vector, behind an activation.

    Args:
        units: Integer, length of the vector.
        activation: As for `Dense`.
        initializer: Of the vector.
    """

    def __init__(self, units: int, activation: str | None = None, initializer: Any = "zeros", **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units, self.activation, self.initializer = units, keras.activations.get(activation), initializer

    def build(self, input_shape):
        self.bias = self.add_weight(shape=(self.units,), initializer=self.initializer, name="bias")

    def call(self, inputs):
        rows = ops.zeros_like(inputs[..., :1], dtype="float32")
        return self.activation(rows + self.bias)


def scale_head(units: int, signed: bool, constant_scale: bool) -> keras.layers.Layer:
    """The head for the diagonal of `S(x)` without `r`: `log s(x)` by log_sigmoid, or `signed`, `s(x)` itself by tanh.

    A signed constant starts at random, since 0 is where its rate is largest; one that is positive as a `Dense` head does on
    average, at 1/2.
    """
    activation = "tanh" if signed else "log_sigmoid"
    if constant_scale:
        start = keras.initializers.RandomUniform(-1.0, 1.0) if signed else "zeros"
        return ConstantHead(units, activation, start, name="log_scale")
    return keras.layers.Dense(units, activation=activation, dtype="float32", name="log_scale")


class EchoWithHeads(Channel):
    """An Echo channel that makes `f(x)` and `S(x)` from features.

    A subclass has a `source` and a `standardiser`, which is `None` where `z` itself is the output; it implements `encode`,
    `attenuate` and `build`.
    """

    has_density = False
    has_memory = True
    source: EchoSource
    standardiser: Standardiser | None
    gather: Callable[..., Tensor]  # noise from given echoes
    _has_warned_of_few = False

    @property
    def places(self) -> int:
        """Number of places of the feature maps that the layer is built for, each with `units` dimensions; else 1."""
        return math.prod(self.source.reservoir.mean.shape[1:-1]) if self.built else 1

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`f(x)`; `S(x)` with `r`, in the form that the source takes; rate by dimension in nats, `(batch, ..., units)`."""
        raise NotImplementedError

    def attenuate(self, scale: Tensor, noise: Tensor) -> Tensor:
        """`S(x) e`."""
        raise NotImplementedError

    def as_matrix(self, scale: Tensor) -> Tensor:
        """`S(x)` as matrices of shape `(batch, ..., units, units)`."""
        return self.attenuate(ops.expand_dims(scale, -1), ops.eye(self.units))

    def finished(self, z: Tensor) -> Tensor:
        """What the channel returns for a standardised `z`: itself."""
        return z

    def statistics(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The first two of `encode`."""
        return self.encode(inputs)[:2]

    def draw(self, inputs: Tensor, training: bool | None = None) -> Draw:
        training = bool(training) and self.trainable  # a frozen layer is in inference mode, as in Keras
        mean, scale, rates = self.encode(inputs)
        if self.standardiser is not None and training:
            mean = _pull_to_centre(mean)
        z = mean + self.attenuate(scale, self.source.noise(mean, scale, training))
        if self.standardiser is not None:
            options = {"training": training, "always_renormalise": self.source.echoes == "reservoir"}
            z = self.standardiser.transform(z, mean, scale, self.source.reservoir, **options)
        return Draw(self.finished(z), ops.sum(rates, axis=tuple(range(1, len(rates.shape)))))

    def with_noise(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """The output for given noise `e`, before any standardisation, of the shape of `z`; standardised by what is stored."""
        mean, scale = self.statistics(inputs)
        z = mean + self.attenuate(scale, ops.cast(noise, mean.dtype))
        return self.finished(z if self.standardiser is None else self.standardiser.by_stored(z))

    def rate_per_dimension(self, inputs: Tensor) -> Tensor:
        return self.encode(inputs)[2]

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal law of the output: those of `EchoLayer.sample_marginal`, standardised like `z`."""
        z = self.source.sample_marginal(n)
        return self.finished(z if self.standardiser is None else self.standardiser.by_stored(z))

    def noise_samples(self, inputs: Tensor, draws: int, batch_size: int, seed: int = 0) -> np.ndarray:
        """Independent draws of the noise `e`, before any standardisation; see `independent_noise`."""
        pairs = self.statistics(ops.convert_to_tensor(inputs))
        source, gather = self.source, self.gather
        noise = independent_noise(*pairs, source.d_max, draws, batch_size, replace=source.replace, seed=seed, gather=gather)
        return noise if source.law == "echo" else ops.convert_to_numpy(redrawn(noise, len(noise), source.law, seed))

    def adapt(self, data: Any, seed: int = 0) -> None:
        """Renew reservoir and moments with the pairs of given examples under the present parameters, in one pass.

        Args:
            data: Features of training examples, shape `(n, ..., features)`, or an iterable of batches of them; some 10,000 make
                the moments precise, which are those of all. Of the reservoir see `EchoLayer.adapt`.
            seed: Integer, for the sample that the reservoir keeps.

        Raises:
            ValueError: fewer than two examples, or features of another size, or that are not finite.
        """
        features = concatenated(data)
        self.build_for(features)
        expected = self.mean_head.kernel.shape[0]
        if features.shape[-1] != expected:
            what = f"what {self.name!r} is called with, shape (n, ..., {expected}), as the layer before it gives them"
            raise invalid("data", what, f"shape {tuple(features.shape)}")
        if len(features) <= self.source.d_max and not self._has_warned_of_few:
            self._has_warned_of_few = True
            logger.warning(
                "%r is adapted to %d examples, no more than d_max = %d, so that its noise repeats them. Pass some 10,000 "
                "training examples.",
                self.name,
                len(features),
                self.source.d_max,
            )
        mean, scale = self.statistics(features)
        self.source.reservoir.fill(mean, scale, seed)
        if self.standardiser is not None:
            self.standardiser.set_moments(mean, scale, self.source.law)

    def renormalise(self) -> None:
        """From now on, standardise in training by the stored moments, with the gradient of those of the batch.

        Moments of 100 examples jitter, which costs distortion as channel noise does. While the heads move fast the stored ones
        lag too far behind: call this when the learning rate is small, as `train` does after four fifths of the epochs.
        """
        if self.standardiser is not None:
            self.standardiser.renormalising.assign(1.0)

    def echoes_from_batch(self, yes: bool) -> None:
        self.source.batch_at_inference.assign(float(yes))

    def warn_of_loss_scaling(self) -> None:
        """Warn where the gradient that is added to that of `f` comes to nothing."""
        if self.standardiser is not None and keras.config.dtype_policy().name == "mixed_float16":
            logger.warning(
                "%s: where the loss is scaled, as Keras does under the policy mixed_float16, the pull of the means to the "
                "centre is lost, and they may drift until they saturate. Use mixed_bfloat16.",
                self.name,
            )


@ops.custom_gradient
def _pull_to_centre(mean: Tensor):
    """The identity, whose gradient adds that of `CENTRING * sum_j (batch mean of f_j)^2`, a penalty left out of the loss."""
    pull = 2.0 * CENTRING * ops.mean(mean, axis=0) / ops.cast(ops.shape(mean)[0], mean.dtype)

    def gradient(*arguments, upstream=None):
        return (arguments[0] if upstream is None else upstream) + pull

    return mean, gradient
