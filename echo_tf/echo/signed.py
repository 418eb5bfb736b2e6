"""Diagonal Echo with scales of either sign: `z = f(x) + S(x) e`, `-r <= s_j(x) <= r`, and the rate `-sum_j log |s_j(x)|`.

A negative scale turns the noise over. Nothing in the theory needs `s > 0`: products of the scales go to 0 since
`|s_j| <= r < 1`, so that `z` and `e` have one law, and `I(X; Z) = -E log |det S(x)|` exactly. Scales are given themselves here,
not by their logarithm. Everything is in nats and per example.
"""

import functools

import keras
from keras import ops

from echo_tf.echo.checks import Tensor, check_same_shape
from echo_tf.echo.layer import EchoLayer
from echo_tf.echo.noise import diagonal_noise, scaled_moments, take_rows

# Least |s|, as in the authors' code: the rate of a scale that passes through 0 is large and not infinite.
LEAST_SCALE = 1e-7


def bounded_scale(scale: Tensor, max_scale: float) -> Tensor:
    """`r s(x)`, at least `LEAST_SCALE` from 0, in float32. The scale 0 counts as positive.

    Args:
        scale: `s(x)` in [-1, 1], as tanh gives it.
        max_scale: Float in (0, 1), `r`.

    Source: the released code, where the scale 0 stays 0 and its rate is that of 1e-7.
    """
    scale = max_scale * ops.cast(scale, "float32")
    return ops.where(ops.abs(scale) < LEAST_SCALE, ops.where(scale < 0, -LEAST_SCALE, LEAST_SCALE), scale)


def log_magnitude(scale: Tensor) -> Tensor:
    """`log |s|`."""
    return ops.log(ops.abs(scale))


def signed_gather_noise(
    mean: Tensor, scale: Tensor, orders: Tensor, d_max: Tensor | int, *, behind: Tensor | None = None
) -> Tensor:
    """`gather_noise` for scales themselves: `e_i = sum_{l < d_max} ( prod_{k < l} s(x_{o_ik}) ) f(x_{o_il})`.

    Args:
        mean: `f(x)`. Shape `(batch, ..., dim)`, float.
        scale: `s(x)`, `r` included, of either sign. Same shape.
        orders, d_max, behind: As for `gather_noise`.

    Returns:
        Noise `e`. Shape `(examples, ..., dim)`.
    """
    orders = orders[:, :d_max]
    means, scales = take_rows(mean, orders), take_rows(scale, orders)  # (examples, d_max, ..., dim)
    products = ops.cumprod(scales, axis=1)
    weights = ops.concatenate([ops.ones_like(products[:, :1]), products[:, :-1]], axis=1)  # the first echo has weight 1
    noise = ops.sum(means * weights, axis=1)
    return noise if behind is None else noise + ops.prod(scales, axis=1) * behind  # 1 where a batch of one has no echoes


signed_noise = functools.partial(diagonal_noise, linear=ops.convert_to_tensor, gather=signed_gather_noise)


@keras.saving.register_keras_serializable(package="echo_tf")
class SignedEchoLayer(EchoLayer):
    """`EchoLayer` for scales of either sign: it takes `[mean, scale]` with `s(x)` itself, without `r`.

    `z = f(x) + r s(x) e`, and the rate is `-sum_j log |r s_j(x)|` nats. That `|s_j| <= 1`, as tanh ensures, is a precondition,
    not checked. All else is as in `EchoLayer`.

    Source: the released code (`calc_log=False`), whose sampler and rate have different smallest scales.

    Example:
        >>> layer = SignedEchoLayer(d_max=99)
        >>> z, rate = layer([keras.ops.zeros((100, 2)), -keras.ops.ones((100, 2))], return_rate=True, training=True)
        >>> tuple(z.shape), round(float(rate[0]), 4)  # the floor: the sign costs nothing
        ((100, 2), 0.3586)
    """

    make_noise = staticmethod(signed_noise)
    gather = staticmethod(signed_gather_noise)
    moments = staticmethod(scaled_moments)

    def scale_and_rate(self, mean: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """`r s(x)` and the rate."""
        check_same_shape(mean, parameters)
        scale, rates = self.scale_and_rates(parameters)
        return scale, ops.sum(rates, axis=tuple(range(1, len(rates.shape))))

    def scale_and_rates(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        scale = bounded_scale(parameters, self.max_scale)
        return scale, -log_magnitude(scale)

    def attenuate(self, scale: Tensor, noise: Tensor) -> Tensor:
        return scale * noise

    def rate(self, scale: Tensor) -> Tensor:
        """Exact rate, `-sum_j log |r s_j(x)|`, in nats per example, shape `(batch,)`. `scale` is without `r`."""
        rates = self.scale_and_rates(scale)[1]
        return ops.sum(rates, axis=tuple(range(1, len(rates.shape))))
