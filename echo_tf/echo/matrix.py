r"""The Echo channel with a matrix S(x): noise, exact rate, and the Keras layer.

`z = f(x) + S(x) e` as in `echo_tf.echo`, but `S(x)` is lower-triangular with a positive diagonal instead of diagonal, so that
a dimension of the output may carry noise of those before it. With

    e = sum_{l >= 0} S(x_0) S(x_1) ... S(x_{l-1}) f(x_l),    x_0, x_1, ... i.i.d. from q(x),

`z` and `e` have the same law, and `I(X; Z) = -E log |det S(x)|` exactly. The order of the product counts.
`max_scale(d_max, sqrt(m) M)` bounds the spectral norm `||S||_2`: since `|f|_2 <= sqrt(m) M`, what is cut after `d_max` terms
is at most `sqrt(m) M r^d / (1 - r)` in the Euclidean norm, hence in every dimension.

Everything is in nats and per example.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import check_d_max, invalid, max_scale
from echo_tf.echo.checks import Seed, Tensor, at_least_float32, check_seed
from echo_tf.echo.layer import BareEchoLayer, pair
from echo_tf.echo.noise import along_ring, echo_recurrence, take_rows
from echo_tf.echo.source import EchoSource

# Most steps of the iteration for the covariance of z, which is exact up to 33 dimensions; see `matrix_moments`.
MOMENT_STEPS = 64

# Most matrices that are multiplied with each other before they meet a vector (`largest` of `echo_recurrence`). Noise of 100
# examples in 32 dimensions with its gradient takes one thread, in milliseconds: with 8, 16 and no limit 1.9, 2.2 and 3.9 on
# JAX; with 4, 8 and 16 4.6, 3.5 and 3.0 on TensorFlow.
LARGEST_BLOCK = 16


def matrix_ring_noise(
    mean: Tensor, scale: Tensor, order: Tensor, d_max: int, *, count: Tensor | None = None, behind: Tensor | None = None
) -> Tensor:
    """Echo noise of every example for matrices `S`, when `order`, read as a ring, gives the echoes. Deterministic.

    `e = sum_{l < d_max} S(x_0) ... S(x_{l-1}) f(x_l)`, where the example at place `k` has those at places
    `k + 1, ..., k + d_max` (modulo the batch) as its `x_0, x_1, ...`, so that its own sample never occurs.
    By `echo_recurrence` with blocks of at most b = `LARGEST_BLOCK`: O(batch (m^3 log b + m^2 d_max / b)) time, O(batch m^2)
    memory (times log b where a gradient is taken, which keeps all blocks).

    Args:
        mean: `f(x)`. Shape `(batch, m)`, float. More axes, as in `(batch, ..., m)`, hold separate rings of the same order.
        scale: `S(x)`, `r` included. Shape `(batch, m, m)`, float; `(batch, ..., m, m)` with more axes.
        order: Permutation of `0, ..., batch - 1`. Shape `(batch,)`, integer.
        d_max: Integer, number of echoes, from 1 to `batch - 1`.
        count, behind: see `ring_noise`.

    Returns:
        Noise `e`, the shape of `mean`, at least float32; row i belongs to example i. Where the backend computes float32
        matrix products in TF32 (TensorFlow and JAX do on recent NVIDIA GPUs, unless told not to), it is only as exact as that.

    Raises:
        ValueError: `d_max` is not an integer >= 1, or `d_max > batch - 1` without `count`. (Where the batch size is only known
            at run time the latter is not noticed.)

    Source: paper, equations 1 to 3, which allow a matrix `S(x)`; the linear-time evaluation is ours.
    """
    check_d_max(d_max)
    mean, scale = at_least_float32(mean, scale)
    batch = mean.shape[0]
    if batch is not None and d_max > batch - 1 and count is None:
        expected = f"at most batch - 1 = {batch - 1}, so that no example is its own echo"
        raise invalid("d_max", expected, f"d_max={d_max}. Use larger batches or a smaller d_max.")
    recurrence = functools.partial(
        echo_recurrence, d_max=d_max, count=count, apply=product, compose=ops.matmul, largest=LARGEST_BLOCK
    )
    return along_ring(recurrence, mean, scale, ops.convert_to_tensor(order), behind)


def matrix_noise(mean: Tensor, scale: Tensor, d_max: int, *, seed: Seed = None, count=None, behind=None, **options) -> Tensor:
    """`matrix_ring_noise` of a random order; the counterpart of `diagonal_noise`, whose `options` it does not have."""
    order = keras.random.shuffle(ops.arange(ops.shape(mean)[0]), seed=seed)
    return matrix_ring_noise(mean, scale, order, d_max, count=count, behind=behind)


def matrix_gather_noise(mean: Tensor, scale: Tensor, orders: Tensor, d_max: int) -> Tensor:
    """Echo noise of every example for matrices `S`, from its own list of echoes: the sum itself, last echo first.

    Args:
        mean: `f(x)`. Shape `(batch, ..., m)`, float.
        scale: `S(x)`, `r` included. Shape `(batch, ..., m, m)`.
        orders: Row i lists the echoes of example i. Shape `(examples, d_max)` or wider, integer.
        d_max: Integer >= 1, number of echoes.

    Returns:
        Noise `e`. Shape `(examples, ..., m)`. O(examples d_max m^2) time.

    Source: paper, equations 2 and 3.
    """
    noise = take_rows(mean, orders[:, d_max - 1])
    for place in range(d_max - 2, -1, -1):
        echo = orders[:, place]
        noise = take_rows(mean, echo) + product(take_rows(scale, echo), noise)
    return noise


def matrix_moments(mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of `z` (and of the noise) in closed form, for `x` uniform over the given examples.

    Since `e` is independent of `x` and has the law of `z`, `E z = (I - E S)^-1 E f`, and the covariance solves
    `C = E[g g'] + E[S C S']` with `g = f - (I - S) E z`. For triangular `S` entry (i, j) of `E[S C S']` holds `C_ij` with the
    factor `E[s_ii s_jj]`, and apart from it only entries above or left of (i, j). So the iteration that solves every equation
    for its own entry is at the solution after `2 m - 1` steps, and close to it much sooner.

    Args:
        mean: `f(x)`. Shape `(n, ..., m)`, float.
        scale: `S(x)`, lower-triangular, `r` included. Shape `(n, ..., m, m)`.

    Returns:
        `(E z, Cov z)`, of shapes `(..., m)` and `(..., m, m)`.

    Source: ours, from Lemma 2.2 of the paper.
    """
    dim = mean.shape[-1]
    z_mean = ops.squeeze(
        ops.solve_triangular(
            ops.eye(dim, dtype=mean.dtype) - ops.mean(scale, axis=0), ops.expand_dims(ops.mean(mean, axis=0), -1), lower=True
        ),
        -1,
    )
    deviation = mean - z_mean + product(scale, ops.broadcast_to(z_mean, ops.shape(mean)))  # z - E z = deviation + S (e - E e)
    diagonal = ops.diagonal(scale, axis1=-2, axis2=-1)
    own, others = _mean_product(deviation, deviation), 1.0 - _mean_product(diagonal, diagonal)
    covariance = own / others
    for _ in range(min(2 * dim - 2, MOMENT_STEPS)):
        sent = ops.einsum("n...ij,...jk,n...lk->...il", scale, covariance, scale) / ops.cast(ops.shape(mean)[0], mean.dtype)
        covariance = covariance + (own + sent - covariance) / others
    return z_mean, covariance


def below_head(units: int) -> keras.layers.Layer:
    """Head for the `m (m - 1) / 2` entries below the diagonal of a matrix, which are 0 at the start."""
    entries = units * (units - 1) // 2
    if not entries:
        return _NoEntries(name="below")
    return keras.layers.Dense(entries, kernel_initializer="zeros", dtype="float32", name="below")


class _NoEntries(keras.layers.Layer):
    """The head of a matrix with a single entry; Keras has no `Dense` without units."""

    def call(self, inputs):
        return inputs[..., :0]


def lower_triangular(diagonal: Tensor, below: Tensor) -> Tensor:
    """Lower-triangular matrices from their entries.

    Args:
        diagonal: Shape `(..., m)`.
        below: The entries below the diagonal in a fixed order, which is not that of the rows. Shape `(..., m (m - 1) / 2)`.

    Returns:
        Shape `(..., m, m)`.
    """
    dim = diagonal.shape[-1]
    lower = ops.expand_dims(diagonal, -1) * ops.eye(dim, dtype=diagonal.dtype)
    if dim == 1:
        return lower
    # Written once forwards, without its first rows, and once backwards, the list fills a square whose lower half has every
    # entry once. Faster than to gather the entries, whose gradient is a scatter.
    square = ops.concatenate([below[..., dim - 1 :], ops.flip(below, axis=-1)], axis=-1)
    square = ops.tril(ops.reshape(square, (*ops.shape(below)[:-1], dim - 1, dim - 1)))
    return lower + ops.pad(square, [(0, 0)] * (len(below.shape) - 1) + [(1, 0), (0, 1)])


def bounded_triangular(raw: Tensor, max_scale: float) -> tuple[Tensor, Tensor]:
    """Lower-triangular matrix with positive diagonal and spectral norm at most `max_scale`, from unconstrained values.

    `S = r L / max(1, sqrt(||L||_1 ||L||_inf))`, where the diagonal of `L` is the sigmoid of its raw values and the entries
    below it are the raw values themselves. `||L||_1` and `||L||_inf`, the largest absolute column and row sums, bound the
    spectral norm by `||L||_2 <= sqrt(||L||_1 ||L||_inf)`, with equality for a diagonal matrix: `S = r diag(sigmoid(raw))`
    if no entry is below the diagonal, the diagonal channel with the same `r`. For any `max_scale`
    `log |det S| <= m log(max_scale)`.

    Args:
        raw: The `m` values of the diagonal, then those below it row by row: `L_10, L_20, L_21, L_30, ...`.
            Shape `(..., m (m + 1) / 2)`, float.
        max_scale: Float in (0, 1), `r`.

    Returns:
        `(S, log |det S|)`, the latter in nats. Shapes `(..., m, m)` and `(...)`, at least float32. The determinant comes from
        the logarithms of the diagonal, and is finite where that of `S` underflows.

    Raises:
        ValueError: the last axis of `raw` has no length `m (m + 1) / 2`, or `max_scale` is not in (0, 1).

    Source: ours. The bound of the norm is Schur's test, a case of Hölder's inequality between matrix norms.
    """
    if not 0 < max_scale < 1:
        raise invalid("max_scale", "a number in (0, 1)", f"max_scale={max_scale}")
    (raw,) = at_least_float32(raw)
    dim = _triangular_dim(raw)
    logits = raw[..., :dim]

    # Every entry of L from its place in a row of diagonal, entries below, and one 0 for all above.
    entries = np.full((dim, dim), raw.shape[-1], dtype="int32")
    entries[np.diag_indices(dim)] = np.arange(dim)
    entries[np.tril_indices(dim, -1)] = np.arange(dim, raw.shape[-1])
    values = ops.concatenate([ops.sigmoid(logits), raw[..., dim:], ops.zeros_like(raw[..., :1])], axis=-1)
    lower = ops.take(values, entries, axis=-1)  # (..., m, m)

    # Divided by the largest entry first, where that is more than 1: no sum or product overflows. The bound does not depend on
    # that divisor, so that it needs no gradient.
    largest = ops.stop_gradient(ops.max(ops.abs(lower), axis=(-2, -1), initial=1.0))
    divided = lower / largest[..., None, None]
    row_sum = ops.max(ops.sum(ops.abs(divided), axis=-1), axis=-1, initial=0.0)
    column_sum = ops.max(ops.sum(ops.abs(divided), axis=-2), axis=-1, initial=0.0)
    bound_squared = ops.maximum(row_sum * column_sum, ops.square(1.0 / largest))  # (max(1, bound of the norm) / largest)^2

    scale = max_scale * divided / ops.sqrt(bound_squared)[..., None, None]
    log_bound = ops.log(largest) + 0.5 * ops.log(bound_squared)
    log_abs_det = dim * math.log(max_scale) + ops.sum(ops.log_sigmoid(logits), axis=-1) - dim * log_bound
    return scale, log_abs_det


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """`A v` for matrices of shape `(..., m, m)` and vectors `(..., m)`."""
    return ops.squeeze(ops.matmul(matrix, ops.expand_dims(vector, -1)), -1)


def _mean_product(left: Tensor, right: Tensor) -> Tensor:
    """`E[a b']`, shape `(n, ..., m)` twice to `(..., m, m)`."""
    return ops.mean(ops.expand_dims(left, -1) * ops.expand_dims(right, -2), axis=0)


def _triangular_dim(raw: Tensor) -> int:
    length = raw.shape[-1]
    dim = (math.isqrt(8 * length + 1) - 1) // 2
    if length < 1 or dim * (dim + 1) // 2 != length:
        expected = "m (m + 1) / 2 values on the last axis, as 1, 3, 6, 10, ... for m = 1, 2, 3, 4, .."
        raise invalid("raw", expected, f"raw.shape={tuple(raw.shape)}")
    return dim


@keras.saving.register_keras_serializable(package="echo_tf")
class MatrixEchoLayer(BareEchoLayer):
    """The Echo channel with a triangular matrix: `z = f(x) + S(x) e`, and the exact rate `-log |det S(x)|` nats.

    `S(x)` is made of unconstrained values by `bounded_triangular`, with `r = max_scale(d_max, sqrt(m) * max_mean)`, so that the
    diagonal channel with that `r` is contained: all values below the diagonal 0. Since `r` bounds a norm and not single
    entries, it is smaller than that of `EchoLayer`, and the rate floor is higher, the more so the more dimensions there are.

    Batches, reservoir, inference, `adapt` and `sample_marginal` are those of `EchoLayer`; the reservoir holds `(f, S)`.

    Args:
        d_max: Integer >= 1, number of echoes. 99 fits batches of 100 or more.
        max_mean: Float > 0, the bound `M` of `|f_j(x)|`. A precondition; it is not checked.
        rate_weight: Float or `None`, see `EchoLayer`.
        reservoir_size, seed: see `EchoLayer`.

    Call arguments:
        inputs: `[mean, raw]`. `mean`: `f(x)` with `|f_j| <= max_mean`, shape `(batch, m)`. `raw`: unconstrained values, shape
            `(batch, m (m + 1) / 2)`, in the order of `bounded_triangular`: first the `m` of the diagonal.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z`, float32, the shape of `mean`; rate in nats per example, shape `(batch,)`.

    Raises:
        ValueError: invalid arguments; shapes that do not belong together; an empty batch; a batch of one example before all
            others, outside of a graph.

    Source: paper, equation 1, Theorem 2.3 and its outlook, where a matrix `S(x)` is left to future work; the construction of
        `S(x)` and the linear-time evaluation are ours.
        Differs from the paper's channel, whose `S(x)` is diagonal and whose `r` bounds every entry of it.

    Example:
        >>> layer = MatrixEchoLayer(d_max=99)
        >>> z = layer([keras.ops.zeros((100, 8)), keras.ops.zeros((100, 36))], training=True)
        >>> tuple(z.shape), round(layer.rate_floor(8), 4)
        ((100, 8), 1.5143)
    """

    def __init__(
        self,
        d_max: int = 99,
        max_mean: float = 1.0,
        rate_weight: float | None = None,
        reservoir_size: int | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(rate_weight, **kwargs)
        max_scale(d_max, max_mean)  # checks both
        self.d_max, self.max_mean, self.reservoir_size, self.seed = d_max, max_mean, reservoir_size, check_seed(seed)
        self.source = EchoSource(matrix_noise, d_max, "ring", False, reservoir_size, "batch", seed, name="source")
        self.source.owner = self.name

    def build(self, input_shape):
        mean_shape, raw_shape = (tuple(shape) for shape in pair(input_shape))
        _check_shapes(mean_shape, raw_shape)
        self.source.build(mean_shape, (*mean_shape, mean_shape[1]))

    def scale_and_rate(self, mean: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """`S(x)` and the rate."""
        _check_shapes(tuple(mean.shape), tuple(parameters.shape))
        scale, log_abs_det = bounded_triangular(ops.cast(parameters, "float32"), self.norm_bound(mean.shape[1]))
        return scale, -log_abs_det

    def attenuate(self, scale: Tensor, noise: Tensor) -> Tensor:
        return product(scale, noise)

    def norm_bound(self, dim: int) -> float:
        """`r = max_scale(d_max, sqrt(dim) * max_mean)`, the bound of `||S(x)||_2` for `dim` dimensions."""
        return max_scale(self.d_max, math.sqrt(dim) * self.max_mean)

    def rate(self, raw: Tensor) -> Tensor:
        """Exact rate, `-log |det S(x)|`, in nats per example, shape `(batch,)`."""
        (raw,) = at_least_float32(raw)
        return -bounded_triangular(raw, self.norm_bound(_triangular_dim(raw)))[1]

    def rate_floor(self, dim: int) -> float:
        """Smallest rate of a `dim`-dimensional channel, `-dim log r`, in nats: `|det S| <= ||S||_2^dim`."""
        return -dim * math.log(self.norm_bound(dim))

    def compute_output_spec(self, inputs, return_rate=False, training=None):
        _check_shapes(*(tuple(tensor.shape) for tensor in inputs))
        return super().compute_output_spec(inputs, return_rate, training)

    def get_config(self):
        names = ("d_max", "max_mean", "reservoir_size", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _check_shapes(mean: tuple, raw: tuple) -> None:
    if len(mean) != 2 or len(raw) != 2 or raw[1] != mean[1] * (mean[1] + 1) // 2:
        raise ValueError(
            "Invalid shapes received for argument `inputs`. Expected [mean, raw] of shapes (batch, m) and "
            f"(batch, m (m + 1) / 2). Received: {mean} and {raw}"
        )
