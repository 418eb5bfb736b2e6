"""Channels whose noise is Gaussian: that of the VAE, the same with full covariance, and an inverse autoregressive flow of it.

Their rate is that of the channel's own marginal N(0, I). Another one (`priors.py`) goes with the density that `draw` gives.
"""

import keras
from keras import ops

from echo_tf.echo.channel import Channel, Density, Draw
from echo_tf.echo.checks import Tensor, check_count, check_is_flat, check_seed
from echo_tf.echo.freezing import freeze_parts
from echo_tf.echo.matrix import below_head, lower_triangular, product
from echo_tf.models.flows import AutoregressiveFlow
from echo_tf.models.losses import gaussian_entropy, gaussian_kl, gaussian_log_density


class StandardMarginal(Channel):
    """A channel whose own marginal is N(0, I). It draws its noise from a generator of its own."""

    def __init__(self, units: int, *, rate_weight: float | None = None, seed: int | None = None, **kwargs):
        super().__init__(rate_weight, **kwargs)
        self.units, self.seed = units, check_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal `N(0, I)` that the rate refers to. Shape `(n, units)`."""
        check_count(n)
        return keras.random.normal((n, self.units), dtype="float32", seed=self.seed_generator)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "seed": self.seed}


@keras.saving.register_keras_serializable(package="echo_tf")
class GaussianChannel(StandardMarginal):
    """Gaussian channel with a standard normal marginal: the encoder of the VAE.

    `z = mean(h) + exp(log_var(h) / 2) n`, `n ~ N(0, I)`, independent for every example; the rate is the analytic
    `KL(q(z|x) || N(0, I))`, an upper bound of `I(X; Z)`. Works in float32 under any dtype policy.

    Args:
        units: Integer, dimension of `z`.
        shared_noise: Boolean. `True` draws one `n` for the whole batch, as the code of the paper's submission did: wrong, and
            here to show what it costs.
        rate_weight: Float or `None`, see `WeightedRateLayer`. Unlike in `EchoDense` nothing is added to the loss by default.
        seed: Integer or `None`, seeds the layer's own generator.

    Call arguments:
        inputs: Features. Shape `(batch, features)`.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z` of shape `(batch, units)`; rate in nats per example, shape `(batch,)`. Both float32.

    Raises:
        ValueError: invalid arguments; features of another shape, such as feature maps.

    Source: Kingma & Welling 2014.

    Example:
        >>> z, rate = GaussianChannel(8)(keras.ops.ones((4, 16)), return_rate=True)
        >>> tuple(z.shape), tuple(rate.shape)
        ((4, 8), (4,))
    """

    def __init__(
        self, units: int, *, shared_noise: bool = False, rate_weight: float | None = None, seed: int | None = None, **kwargs
    ):
        super().__init__(units, rate_weight=rate_weight, seed=seed, **kwargs)
        self.shared_noise = shared_noise
        self.mean_head = keras.layers.Dense(units, dtype="float32", name="mean")
        self.log_var_head = keras.layers.Dense(units, dtype="float32", name="log_var")

    def build(self, input_shape):
        check_is_flat(self.name, input_shape)
        freeze_parts(self)
        self.mean_head.build(input_shape)
        self.log_var_head.build(input_shape)

    def statistics(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of `q(z|x)`, each of shape `(batch, units)`."""
        self.build_for(inputs)
        return self.mean_head(inputs), self.log_var_head(inputs)

    def draw(self, inputs: Tensor, training: bool | None = None) -> Draw:
        mean, log_var = self.statistics(inputs)
        shape = (1, self.units) if self.shared_noise else ops.shape(mean)
        noise = keras.random.normal(shape, dtype="float32", seed=self.seed_generator)
        base = mean + ops.exp(0.5 * log_var) * noise
        return self._draw_of(base, mean, log_var)

    def _draw_of(self, base: Tensor, mean: Tensor, log_var: Tensor) -> Draw:
        at_draw = gaussian_log_density(base, mean, log_var)
        density = Density(base, ops.zeros_like(at_draw), at_draw, -gaussian_entropy(log_var))
        return Draw(base, gaussian_kl(mean, log_var), density)

    def rate_per_dimension(self, inputs: Tensor) -> Tensor:
        """Divergence of the Gaussian from N(0, 1) by dimension in nats, shape `(batch, units)`.

        It sums to the rate where that is the marginal. With a flow it is that of the dimension before the flow; with a learned
        marginal it is no share of the rate, and only puts dimensions in order.
        """
        mean, log_var = self.statistics(inputs)
        return gaussian_kl(ops.expand_dims(mean, -1), ops.expand_dims(log_var, -1))

    def mean_and_scale(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of `q(z|x)`; with a flow those before it. Each of shape `(batch, units)`."""
        mean, log_var = self.statistics(inputs)
        return mean, ops.exp(0.5 * log_var)

    def get_config(self):
        return {**super().get_config(), "shared_noise": self.shared_noise}


class CorrelatedGaussianChannel(StandardMarginal):
    """A Gaussian channel `z = mean + L n`, `n ~ N(0, I)`, with full covariance `L L'` and a standard normal marginal.

    `L` is lower-triangular, and `log_sd` the logarithm of its diagonal. The rate is the analytic
    `KL(N(mean, L L') || N(0, I)) = 1/2 ( |L|_F^2 + |mean|^2 - m ) - sum_j log_sd_j`, an upper bound of `I(X; Z)` in nats.
    A subclass implements `statistics`.
    """

    has_components = False

    def statistics(self, inputs: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and `log_sd`, each of shape `(batch, m)`, and `L` of shape `(batch, m, m)`."""
        raise NotImplementedError

    def draw(self, inputs: Tensor, training: bool | None = None) -> Draw:
        mean, log_sd, factor = self.statistics(inputs, bool(training) and self.trainable)
        noise = keras.random.normal(ops.shape(mean), dtype="float32", seed=self.seed_generator)
        z = mean + product(factor, noise)
        log_det = ops.sum(log_sd, axis=-1)
        rate = 0.5 * ops.sum(row_squares(factor) + ops.square(mean) - 1.0, axis=-1) - log_det
        density = Density(
            base=z,
            log_det=ops.zeros_like(log_det),
            at_draw=gaussian_log_density(noise, 0.0, 0.0) - log_det,
            expected=-gaussian_entropy(2.0 * log_sd),  # it depends on the determinant alone
        )
        return Draw(z, rate, density)

    def rate_per_dimension(self, inputs: Tensor) -> Tensor:
        """Shares of the rate in nats that sum to it, shape `(batch, units)`: dimension j given those before it."""
        mean, log_sd, factor = self.statistics(inputs)
        return 0.5 * (row_squares(factor) + ops.square(mean) - 1.0) - log_sd

    def mean_and_scale(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every dimension of `q(z|x)`, each of shape `(batch, units)`."""
        mean, _, factor = self.statistics(inputs)
        return mean, ops.sqrt(row_squares(factor))

    def scale_matrix(self, inputs: Tensor) -> Tensor:
        return self.statistics(inputs)[2]


@keras.saving.register_keras_serializable(package="echo_tf")
class FullGaussianChannel(CorrelatedGaussianChannel):
    """Gaussian channel with a full covariance and a standard normal marginal: the rival of `MatrixEchoDense`.

    `z = mean(h) + L(h) n`, `n ~ N(0, I)`, with lower-triangular `L`: its diagonal is `exp(log_sd(h))`, and the `m (m - 1) / 2`
    entries below are a third linear head, whose kernel and bias start at 0. The rate is the analytic
    `KL(N(mean, L L') || N(0, I)) = 1/2 ( |L|_F^2 + |mean|^2 - m ) - sum_j log_sd_j`, an upper bound of `I(X; Z)` in nats.

    Args:
        units: Integer, dimension `m` of `z`.
        rate_weight: Float or `None`, see `WeightedRateLayer`.
        seed: Integer or `None`, seeds the layer's own generator.

    Call arguments and returns: as `GaussianChannel`.

    Source: Kingma & Welling 2019, section 2.5.1.

    Example:
        >>> z, rate = FullGaussianChannel(8)(keras.ops.ones((4, 16)), return_rate=True)
        >>> tuple(z.shape), tuple(rate.shape)
        ((4, 8), (4,))
    """

    def __init__(self, units: int, *, rate_weight: float | None = None, seed: int | None = None, **kwargs):
        super().__init__(units, rate_weight=rate_weight, seed=seed, **kwargs)
        self.mean_head = keras.layers.Dense(units, dtype="float32", name="mean")
        self.log_sd_head = keras.layers.Dense(units, dtype="float32", name="log_sd")
        self.below_head = below_head(units)

    def build(self, input_shape):
        check_is_flat(self.name, input_shape)
        freeze_parts(self)
        for head in (self.mean_head, self.log_sd_head, self.below_head):
            head.build(input_shape)

    def statistics(self, inputs: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and `log_sd`, each of shape `(batch, m)`, and `L` of shape `(batch, m, m)`."""
        self.build_for(inputs)
        log_sd = self.log_sd_head(inputs)
        return self.mean_head(inputs), log_sd, lower_triangular(ops.exp(log_sd), self.below_head(inputs))


def row_squares(factor: Tensor) -> Tensor:
    """Diagonal of `L L'`: the variance of every dimension."""
    return ops.sum(ops.square(factor), axis=-1)


@keras.saving.register_keras_serializable(package="echo_tf")
class IAFChannel(GaussianChannel):
    """Inverse autoregressive flow of a Gaussian channel: `z = T(base)`, in one parallel pass.

    `T` is the direction in which an `AutoregressiveFlow` is called, the inverse of that of a MAF.

    `log q(z|x) = log N(base; mean(h), exp(log_var(h))) - log |det dT/dbase|` at the draw itself, and the rate with the standard
    normal marginal is `log q(z|x) - log N(z; 0, I)`, one sample of an upper bound of `I(X; Z)`.

    Args:
        units: Integer, dimension of `z`.
        steps, hidden: see `AutoregressiveFlow`.
        train_flow: Boolean. `False` leaves the flow as it starts.
        **kwargs: `shared_noise`, `rate_weight` and `seed`, see `GaussianChannel`.

    Call arguments and returns: as `GaussianChannel`.

    Source: Kingma et al. 2016; without context as in the paper's appendix (four shift-only steps). Differs from the released
        code, which never trains the flow.

    Example:
        >>> z, rate = IAFChannel(8, hidden=(16,))(keras.ops.ones((4, 16)), return_rate=True)
        >>> tuple(z.shape), tuple(rate.shape)
        ((4, 8), (4,))
    """

    def __init__(
        self, units: int, steps: int = 4, hidden: tuple[int, ...] = (640, 640, 640), *, train_flow: bool = True, **kwargs
    ):
        super().__init__(units, **kwargs)
        self.flow = AutoregressiveFlow(units, steps, hidden, trainable=train_flow, name="flow")

    def build(self, input_shape):
        super().build(input_shape)
        if not self.flow.built:
            self.flow.build()

    def _draw_of(self, base: Tensor, mean: Tensor, log_var: Tensor) -> Draw:
        z, log_det = self.flow(base)
        at_draw = gaussian_log_density(base, mean, log_var)
        rate = at_draw - log_det - gaussian_log_density(z, 0.0, 0.0)
        return Draw(z, rate, Density(base, log_det, at_draw, at_draw))

    def transform(self, base: Tensor) -> Tensor:
        """`T(base)`, shape `(n, units)`."""
        return self.flow(base)[0]

    def get_config(self):
        flow = {"steps": self.flow.steps, "hidden": list(self.flow.hidden), "train_flow": self.flow.trainable}
        return {**super().get_config(), **flow}
