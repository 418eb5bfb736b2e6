"""Noise channels of the models: features -> (z, rate). `EchoDense` in `echo.py` is the third of the same form."""

from typing import Any

import keras
from keras import ops

from echo_tf.losses import gaussian_kl

Tensor = Any


@keras.saving.register_keras_serializable(package="echo_tf")
class GaussianChannel(keras.layers.Layer):
    """Gaussian channel with a standard normal marginal: the encoder of the VAE.

    `z = mean(h) + exp(log_var(h) / 2) n`, `n ~ N(0, I)`, independent for every example; the rate is the analytic
    `KL(q(z|x) || N(0, I))`, an upper bound of `I(X; Z)`. Works in float32 under any dtype policy.

    Args:
        units: Integer, dimension of `z`.
        seed: Integer or `None`, seeds the layer's own generator.

    Call arguments:
        inputs: Features. Shape `(batch, features)`.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z` of shape `(batch, units)`; rate in nats per example, shape `(batch,)`. Both float32.

    Source: Kingma & Welling 2014. Differs from the authors' code of the paper's submission, which drew one noise vector
        for the whole batch.

    Example:
        >>> z, rate = GaussianChannel(8)(keras.ops.ones((4, 16)), return_rate=True)
        >>> tuple(z.shape), tuple(rate.shape)
        ((4, 8), (4,))
    """

    def __init__(self, units: int, *, seed: int | None = None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units = units
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.mean_head = keras.layers.Dense(units, dtype="float32", name="mean")
        self.log_var_head = keras.layers.Dense(units, dtype="float32", name="log_var")

    def build(self, input_shape):
        self.mean_head.build(input_shape)
        self.log_var_head.build(input_shape)

    def statistics(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of `q(z|x)`, each of shape `(batch, units)`."""
        return self.mean_head(inputs), self.log_var_head(inputs)

    def call(self, inputs, return_rate=False):
        mean, log_var = self.statistics(inputs)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        z = mean + ops.exp(0.5 * log_var) * noise
        return (z, gaussian_kl(mean, log_var)) if return_rate else z

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal `N(0, I)` that the rate refers to. Shape `(n, units)`."""
        return keras.random.normal((n, self.units), seed=self.seed_generator)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "seed": self.seed}
