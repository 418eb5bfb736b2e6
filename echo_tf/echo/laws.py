"""Other laws of the noise than Echo's, to tell what Echo's shape and its correlations are worth to a training."""

import math

import keras
from keras import ops

from echo_tf.echo.checks import Tensor

# Echo's own; Gaussian with the mean and covariance of Echo's; every dimension by its own law, but independent of the others.
NOISE_LAWS = ("echo", "gaussian", "independent")


def redrawn(noise: Tensor, count: Tensor | int, law: str, seed: keras.random.SeedGenerator | int | None = None) -> Tensor:
    """New draws of a law that `n` given draws `e_1, ..., e_n` of Echo noise determine. Gradients flow into these.

    `"gaussian"`: `M + sum_k g_k (e_k - M) / sqrt(n)` with `g_k ~ N(0, 1)`, where `M` is the mean of the draws: a Gaussian of
    that mean and of their covariance. `"independent"`: each dimension is that of a given draw chosen for it alone.

    With these laws `R = -E log det S(x)` is no longer the exact rate of `z = f + S e`:

    - Gaussian: `z` has the mean and covariance of `e`, so that `R = E KL(q(z|x) || N(M, C))`, the rate of a VAE with full
      covariance in whitened coordinates. It is an upper bound of `I(X; Z)`, too high by `KL(q(z) || N(M, C))`.
    - Independent, `S` diagonal: each `z_j` has the law of `e_j`, and `R = sum_j I(X; Z_j)`: an upper bound of `I(X; Z)`, too
      high by the total correlation of `z`.
    - Independent, `S` a matrix: a formula only. The law of `z` is no longer that of `e`.

    Both hold up to terms of order `1/n`: among the given draws of a batch are those that an example has a part in.

    Args:
        noise: Draws of Echo noise, shape `(n, ...)`.
        count: Integer, number of new draws.
        law: `"gaussian"` or `"independent"`.
        seed: See `keras.random`.

    Returns:
        Shape `(count, ...)`.
    """
    shape = tuple(noise.shape[1:])
    noise = ops.reshape(noise, (-1, math.prod(shape)))
    n, dim = ops.shape(noise)[0], noise.shape[1]
    if law == "gaussian":
        mean = ops.mean(noise, axis=0)
        normal = keras.random.normal((count, n), dtype=noise.dtype, seed=seed)
        drawn = mean + ops.matmul(normal, noise - mean) / ops.sqrt(ops.cast(n, noise.dtype))
    else:
        chosen = ops.cast(ops.cast(n, "float32") * keras.random.uniform((count, dim), seed=seed), "int32")
        drawn = ops.take_along_axis(noise, ops.minimum(chosen, n - 1), axis=0)  # rounding may reach n
    return ops.reshape(drawn, (count, *shape))
