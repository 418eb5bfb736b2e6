"""Noise channels of the models: features -> (z, rate). `EchoDense` in `echo.py` is the third of the same form.

A rate here is that of the channel's own marginal. Another one (`priors.py`) goes with the density of `z` that `draw` gives.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from echo_tf.distribution import SeedGenerator
from echo_tf.models.flows import AutoregressiveFlow
from echo_tf.models.losses import gaussian_entropy, gaussian_kl, gaussian_log_density

Tensor = Any


class Draw(NamedTuple):
    """A draw `z = T(base)`, `base ~ N(mean, exp(log_var))`, from `q(z|x)` for each example.

    Attributes:
        z: What is decoded. Shape `(batch, dim)`.
        base: `z` before the flow `T`; `z` itself where there is none. Same shape.
        mean: Mean of `base`. Same shape.
        log_var: Logarithm of the variance of `base`. Same shape.
        log_det: `log |det dz/dbase|`, shape `(batch,)`, 0 without a flow.
        expected_log_density: `E log q(base|x)` over draws for the Gaussian channel; for IAF its estimate from this very draw,
            as in the paper. Nats, `(batch,)`.
    """

    z: Tensor
    base: Tensor
    mean: Tensor
    log_var: Tensor
    log_det: Tensor
    expected_log_density: Tensor

    @property
    def log_density(self) -> Tensor:
        """`log q(base|x)` at this draw; `log_density - log_det` is `log q(z|x)`. Nats, shape `(batch,)`."""
        return gaussian_log_density(self.base, self.mean, self.log_var)


@keras.saving.register_keras_serializable(package="echo_tf")
class GaussianChannel(keras.layers.Layer):
    """Gaussian channel with a standard normal marginal: the encoder of the VAE.

    `z = mean(h) + exp(log_var(h) / 2) n`, `n ~ N(0, I)`, independent for every example; the rate is the analytic
    `KL(q(z|x) || N(0, I))`, an upper bound of `I(X; Z)`. Works in float32 under any dtype policy.

    Args:
        units: Integer, dimension of `z`.
        shared_noise: Boolean. `True` draws one `n` for the whole batch, as the code of the paper's submission did: wrong, and
            here to show what it costs.
        seed: Integer or `None`, seeds the layer's own generator.

    Call arguments:
        inputs: Features. Shape `(batch, features)`.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z` of shape `(batch, units)`; rate in nats per example, shape `(batch,)`. Both float32.

    Source: Kingma & Welling 2014.

    Example:
        >>> z, rate = GaussianChannel(8)(keras.ops.ones((4, 16)), return_rate=True)
        >>> tuple(z.shape), tuple(rate.shape)
        ((4, 8), (4,))
    """

    def __init__(self, units: int, *, shared_noise: bool = False, seed: int | None = None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units = units
        self.shared_noise = shared_noise
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)
        self.mean_head = keras.layers.Dense(units, dtype="float32", name="mean")
        self.log_var_head = keras.layers.Dense(units, dtype="float32", name="log_var")

    def build(self, input_shape):
        self.mean_head.build(input_shape)
        self.log_var_head.build(input_shape)

    def statistics(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of `q(z|x)`, each of shape `(batch, units)`."""
        return self.mean_head(inputs), self.log_var_head(inputs)

    def call(self, inputs, return_rate=False):
        draw = self.draw(inputs)
        return (draw.z, self.rate(draw)) if return_rate else draw.z

    def rate(self, draw: Draw) -> Tensor:
        """Rate with the channel's own marginal `N(0, I)`, nats per example, shape `(batch,)`."""
        return gaussian_kl(draw.mean, draw.log_var)

    def draw(self, inputs: Tensor) -> Draw:
        """A draw of `z` for each example, with its density."""
        mean, log_var = self.statistics(inputs)
        shape = (1, self.units) if self.shared_noise else ops.shape(mean)
        noise = keras.random.normal(shape, seed=self.seed_generator)
        base = mean + ops.exp(0.5 * log_var) * noise
        return self._transformed(base, mean, log_var, inputs)

    def _transformed(self, base: Tensor, mean: Tensor, log_var: Tensor, inputs: Tensor) -> Draw:
        return Draw(base, base, mean, log_var, ops.zeros_like(base[:, 0]), -gaussian_entropy(log_var))

    def transform(self, base: Tensor) -> Tensor:
        """`T(base)`: the identity."""
        return base

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal `N(0, I)` that the rate refers to. Shape `(n, units)`."""
        return keras.random.normal((n, self.units), seed=self.seed_generator)

    def get_config(self):
        names = ("units", "shared_noise", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="echo_tf")
class IAFChannel(GaussianChannel):
    """Inverse autoregressive flow of a Gaussian channel: `z = T(base)`, in one parallel pass.

    `T` is the direction in which an `AutoregressiveFlow` is called, the inverse of that of a MAF.

    `log q(z|x) = log N(base; mean(h), exp(log_var(h))) - log |det dT/dbase|` at the draw itself, and the rate with the standard
    normal marginal is `log q(z|x) - log N(z; 0, I)`, one sample of an upper bound of `I(X; Z)`.

    Args:
        units: Integer, dimension of `z`.
        steps, hidden, scale: see `AutoregressiveFlow`.
        context_units: Integer, number of features `relu(W h + b)` that every network of the flow sees beside its inputs; 0 for
            none, so that `T` is the same for all `x`.
        shared_noise: see `GaussianChannel`.
        seed: Integer or `None`, seeds the layer's own generator.

    Call arguments and returns: as `GaussianChannel`.

    Source: Kingma et al. 2016; without context as in the paper's appendix (four shift-only steps). Differs from the released
        code, which never trains the flow.

    Example:
        >>> z, rate = IAFChannel(8, hidden=(16,))(keras.ops.ones((4, 16)), return_rate=True)
        >>> tuple(z.shape), tuple(rate.shape)
        ((4, 8), (4,))
    """

    def __init__(
        self,
        units: int,
        steps: int = 4,
        hidden: tuple[int, ...] = (640, 640, 640),
        *,
        scale: bool = False,
        context_units: int = 0,
        shared_noise: bool = False,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(units, shared_noise=shared_noise, seed=seed, **kwargs)
        self.flow = AutoregressiveFlow(units, steps, hidden, scale=scale, context_dim=context_units, name="flow")
        self.context_head = (
            keras.layers.Dense(context_units, activation="relu", dtype="float32", name="context") if context_units else None
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.flow.build()
        if self.context_head is not None:
            self.context_head.build(input_shape)

    def rate(self, draw: Draw) -> Tensor:
        return draw.log_density - draw.log_det - gaussian_log_density(draw.z, 0.0, 0.0)

    def _transformed(self, base: Tensor, mean: Tensor, log_var: Tensor, inputs: Tensor) -> Draw:
        context = None if self.context_head is None else self.context_head(inputs)
        z, log_det = self.flow(base, context)
        return Draw(z, base, mean, log_var, log_det, gaussian_log_density(base, mean, log_var))

    def transform(self, base: Tensor) -> Tensor:
        """`T(base)` of a flow without context."""
        return self.flow(base)[0]

    def get_config(self):
        flow = {name: getattr(self.flow, name) for name in ("steps", "scale")}
        return {
            **super().get_config(),
            **flow,
            "hidden": list(self.flow.hidden),
            "context_units": self.flow.context_dim,
        }
