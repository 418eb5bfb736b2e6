r"""The Echo channel as functions: noise made from the data themselves, output, exact rate, moments.

The channel is `z = f(x) + S(x) e` with

    e = sum_{l >= 0} ( prod_{k < l} S(x_k) ) f(x_l),    x_0, x_1, ... i.i.d. from q(x),

so that `z` and `e` have the same law and `I(X; Z) = -E sum_j log s_j(x)` exactly (Theorem 2.3).
The sum is cut after `d_max` terms; `max_scale` bounds every `s_j` so that what is cut is lost in float32 anyway.

Everything is in nats and per example: examples lie along axis 0, dimensions along the last axis.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import check_d_max, invalid
from echo_tf.echo.checks import Seed, Tensor, at_least_float32, check_choice, check_same_shape, check_seed

SAMPLERS = ("ring", "gather")

_CHUNK = 500  # independent draws of noise at a time; each takes d_max encodings


def echo_recurrence(
    mean: Tensor,
    scale: Tensor,
    d_max: int,
    *,
    count: Tensor | None = None,
    behind: Tensor | None = None,
    apply: Callable[[Tensor, Tensor], Tensor] = ops.multiply,
    compose: Callable[[Tensor, Tensor], Tensor] = ops.multiply,
    largest: int | None = None,
) -> Tensor:
    """Noise in front of every place of a ring, from the `d_max` places that start there.

    The noise obeys `e_k = f_k + S_k e_{k+1}`. A block of n places maps the noise behind it to the noise in front of it
    by `e -> b + A e`; a block followed by a second one is the block `(A A', b + A b')`. So blocks of 1, 2, 4, ... places that
    start at every place come from doubling, and the binary digits of the number of terms select those that add up to exactly
    as many: `O(n log d_max)` products.

    Args:
        mean: `f` at every place. Shape `(n, ..., dim)`.
        scale: `S` at every place, `r` included. Shape of `mean`, or whatever `apply` takes.
        d_max: Integer >= 1, number of terms.
        count: Scalar integer tensor, a number of terms of at most `d_max` that is only known at run time; or `None`.
        behind: Noise behind the last term of every place, the shape of `mean`; `None` for 0, which cuts the sum.
        apply: `(A, e) -> A e`.
        compose: `(A, A') -> A A'`.
        largest: Integer, most places of a block, or `None` for `d_max`. Where `compose` costs much more than `apply`, it is
            cheaper to stop the doubling early and to put the last block in front as often as it fits.

    Returns:
        Noise, the shape of `mean`.

    Source: ours.
    """
    total, decay, size = mean, scale, 1  # block of `size` places that starts at each place
    noise = ops.zeros_like(mean) if behind is None and count is not None else behind  # of the blocks selected so far
    terms = d_max if count is None else count
    while True:
        is_last = 2 * size > min(d_max, largest or d_max)
        blocks = terms // size if is_last else terms // size % 2
        for i in range(d_max // size if is_last else 1):  # put this block in front
            if count is not None:
                noise = ops.where(i < blocks, total + apply(decay, ops.roll(noise, -size, axis=0)), noise)
            elif i < blocks:
                noise = total if noise is None else total + apply(decay, ops.roll(noise, -size, axis=0))
        if is_last:
            return noise
        total = total + apply(decay, ops.roll(total, -size, axis=0))
        decay = compose(decay, ops.roll(decay, -size, axis=0))
        size *= 2


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """`ops.take` along axis 0, whose gradient is a tensor.

    TensorFlow would keep the gradient as pairs of rows and values, and add it to the others in an order that chance decides.
    """
    return ops.take(ops.reshape(values, ops.shape(values)), rows, axis=0)


def along_ring(
    recurrence: Callable[..., Tensor], mean: Tensor, scale: Tensor, order: Tensor, behind: Tensor | None = None
) -> Tensor:
    """Noise of every example from `recurrence`, a form of `echo_recurrence`, along a ring of examples.

    Args:
        recurrence: `(mean, scale, behind=...) -> noise in front of every place`.
        mean, scale: Of every example, along axis 0.
        order: Permutation of the examples, see `ring_noise`. The echoes of the example at place `k` start at place `k + 1`.
        behind: see `ring_noise`.

    Returns:
        The shape of `mean`; row i belongs to example i.
    """
    following = ops.roll(order, -1)
    behind = None if behind is None else ops.roll(behind, -1, axis=0)
    noise = recurrence(take_rows(mean, following), take_rows(scale, following), behind=behind)
    return ops.take(noise, ops.argsort(order), axis=0)


def ring_noise(
    mean: Tensor,
    log_scale: Tensor,
    order: Tensor,
    d_max: int,
    *,
    count: Tensor | None = None,
    behind: Tensor | None = None,
    linear: Callable[[Tensor], Tensor] = ops.exp,
) -> Tensor:
    """Echo noise of every example when `order`, read as a ring, gives the echoes. Deterministic.

    The example at place `k` uses those at places `k + 1, ..., k + d_max` (modulo the batch), so its own sample never
    occurs if `d_max < batch`. For a uniformly random `order` each example's echoes are a uniformly random ordering of the
    others, exactly as with independent draws without replacement. Only the dependence *between* examples differs: on one ring
    `e_k = z_{k+1}` up to the truncation.

    Args:
        mean: `f(x)`. Shape `(batch, ..., dim)`, float.
        log_scale: `log s(x)`, `log r` included. Same shape.
        order: Permutation of `0, ..., batch - 1`. Shape `(batch,)`, integer.
        d_max: Integer >= 1, number of echoes.
        count: Scalar integer tensor, a smaller number in the place of `d_max` that is only known at run time; or `None`.
        behind: Noise behind the last echo, the shape of `mean`: `e = (sum of the echoes) + (product of their scales) behind`.
            An independent draw of `z` or `e` makes the noise exact. `None`: the sum is cut.
        linear: What makes the scale of `log_scale`; the identity where that is the scale itself (`signed.py`).

    Returns:
        Noise `e`, the same shape as `mean`; row i belongs to example i. O(batch dim log d_max) time, O(batch dim) memory.

    Source: paper, equations 2 and 3; the linear-time evaluation is ours.
    """
    recurrence = functools.partial(echo_recurrence, d_max=d_max, count=count)
    return along_ring(recurrence, mean, linear(log_scale), order, behind)


def gather_noise(
    mean: Tensor, log_scale: Tensor, orders: Tensor, d_max: Tensor | int, *, behind: Tensor | None = None
) -> Tensor:
    """Echo noise of every example from its own list of echoes. Deterministic.

    `e_i = sum_{l < d_max} f(x_{o_il}) exp( sum_{k < l} log s(x_{o_ik}) )` for row `o_i` of `orders`.

    Args:
        mean: `f(x)`. Shape `(batch, ..., dim)`, float.
        log_scale: `log s(x)`, `log r` included. Same shape.
        orders: Row i lists the echoes of example i. Shape `(examples, d_max)` or wider, integer.
        d_max: Integer >= 1, number of echoes.
        behind: As for `ring_noise`. Shape `(examples, ..., dim)`.

    Returns:
        Noise `e`. Shape `(examples, ..., dim)`. O(examples d_max dim) time and memory.

    Source: paper, equations 2 and 3.
    """
    orders = orders[:, :d_max]
    means = take_rows(mean, orders)  # (examples, d_max, ..., dim)
    log_scales = take_rows(log_scale, orders)  # (examples, d_max, ..., dim)

    log_products = ops.cumsum(log_scales, axis=1)
    log_weights = log_products - log_scales  # exclusive: the first echo has weight 1

    noise = ops.sum(means * ops.exp(log_weights), axis=1)
    return noise if behind is None else noise + ops.exp(ops.sum(log_scales, axis=1)) * behind


def independent_orders(batch: Tensor | int, seed: Seed) -> Tensor:
    """A random order of all examples for each of them, itself last. Shape `(batch, batch)`."""
    keys = keras.random.uniform((batch, batch), dtype="float32", seed=seed)
    return ops.argsort(keys + 2.0 * ops.eye(batch, dtype="float32"), axis=1)  # sorting uniforms orders at random


def echo_noise(
    mean: Tensor,
    log_scale: Tensor,
    *,
    d_max: int | None = None,
    sampler: str = "ring",
    replace: bool = False,
    seed: Seed = None,
) -> Tensor:
    """Random Echo noise: a draw from the marginal law of `z` for every example of the batch.

    `e = sum_{l < d_max} ( prod_{k < l} s(x_k) ) f(x_l)` with echoes `x_0, x_1, ...` from the batch. No gradient is stopped:
    every example is signal for itself and noise for others.

    Args:
        mean: `f(x)`. Shape `(batch, ..., dim)`, float. Echoes lie along axis 0.
        log_scale: `log s(x) < 0`, `log r` included (see `max_scale`). Same shape.
        d_max: Integer, number of echoes. `None` means `batch - 1`, for which the batch must be static; required when
            `replace=True`.
        sampler: `"ring"` takes all echo orders from one random permutation in O(batch dim log d_max) time; `"gather"`
            draws an independent order for every example, in O(batch^2 log batch + batch d_max dim). The law of each example's
            noise is the same; the dependence between examples is not (see `ring_noise`), which matters for statistics of one
            batch.
        replace: Boolean. `False`: all echoes of an example differ and none is the example itself. `True`: echoes are
            drawn uniformly from the whole batch, repeats and the own sample included; then the rate formula is
            approximate, too low: with 99 echoes and the largest scale by 1 to 4 % in batches of 100, by 0.1 to 0.4 % in
            batches of 1,000.
        seed: A `keras.random.SeedGenerator` (fresh draw at each call), an integer (the same draw at each call), or `None`
            (Keras' global generator).

    Returns:
        `e`, the same shape as `mean`, at least float32.

    Raises:
        ValueError: shapes that differ; `d_max` is not an integer >= 1; `d_max > batch - 1` without replacement (checked only
            if the batch size is static; `EchoLayer` has no such limit); `d_max=None` with replacement or with a batch size
            that is not static; unknown `sampler`.

    Source: paper, equations 2 and 3 and section 2.2. Differs from the released code, which draws its permutations once
        when the graph is built, centres `f` over the batch in some versions, and needs `d_max == batch`.
    """
    mean, log_scale = at_least_float32(mean, log_scale)
    check_choice("sampler", sampler, SAMPLERS)
    check_same_shape(mean, log_scale)
    seed = seed if isinstance(seed, keras.random.SeedGenerator) else check_seed(seed)
    static_batch = mean.shape[0]
    if d_max is None:
        if replace or static_batch is None:
            reason = "replace=True has no natural number of echoes" if replace else "the batch size is not static"
            raise invalid("d_max", f"an integer, because {reason}", "d_max=None")
        d_max = static_batch - 1
    check_d_max(d_max)
    if not replace and static_batch is not None and d_max > static_batch - 1:
        remedy = "Use larger batches, a smaller d_max, or replace=True."
        raise invalid("d_max", f"at most batch - 1 = {static_batch - 1} without replacement", f"d_max={d_max}. {remedy}")

    return diagonal_noise(mean, log_scale, d_max, sampler=sampler, replace=replace, seed=seed)


def diagonal_noise(
    mean: Tensor,
    log_scale: Tensor,
    d_max: int,
    *,
    sampler: str = "ring",
    replace: bool = False,
    seed: Seed = None,
    count: Tensor | None = None,
    behind: Tensor | None = None,
    linear: Callable[[Tensor], Tensor] = ops.exp,
    gather: Callable[..., Tensor] = gather_noise,
) -> Tensor:
    """`echo_noise` without its checks; `count`, `behind` and `linear` as for `ring_noise`, the first two not with replacement.

    `gather` is `gather_noise`, or what takes its place where `log_scale` is no logarithm.
    """
    batch = ops.shape(mean)[0]
    if sampler == "ring" and not replace:
        order = keras.random.shuffle(ops.arange(batch), seed=seed)
        return ring_noise(mean, log_scale, order, d_max, count=count, behind=behind, linear=linear)
    if sampler == "ring":
        # The recurrence along one random sequence; the last d_max places only serve as echoes of those before them.
        places = keras.random.randint((batch + d_max,), 0, batch, seed=seed)
        scales = linear(take_rows(log_scale, places))
        return echo_recurrence(take_rows(mean, places), scales, d_max)[1 : batch + 1]
    if replace:
        return gather(mean, log_scale, keras.random.randint((batch, d_max), 0, batch, seed=seed), d_max)
    orders = independent_orders(batch, seed)
    return gather(mean, log_scale, orders, d_max if count is None else count, behind=behind)


def independent_noise(
    mean: Tensor,
    scale: Tensor,
    d_max: int,
    draws: int,
    batch_size: int,
    *,
    replace: bool = False,
    seed: int = 0,
    gather: Callable[..., Tensor] = gather_noise,
) -> np.ndarray:
    """Independent draws of the noise, each from the echoes of a random batch of its own.

    Args:
        mean: `f(x)`. Shape `(n, ..., dim)`, n >= batch_size.
        scale: What `gather` takes with it: `log s(x)`, `log r` included, of the same shape.
        d_max: Integer, number of echoes; at most `batch_size` (`batch_size - 1` others, were there an example to send).
        draws: Number of draws.
        batch_size: Examples of a batch. With replacement echoes are drawn from all of it, else each occurs once.
        replace: Boolean, see `echo_noise`.
        seed: Integer.
        gather: `gather_noise`, or a function like it: `(mean, scale, orders, d_max)`.

    Returns:
        Shape `(draws, ..., dim)`.
    """
    rng = np.random.default_rng(seed)
    noise = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        batches = np.array([rng.choice(len(mean), batch_size, replace=False) for _ in range(count)])
        if replace:
            batches = np.take_along_axis(batches, rng.integers(0, batch_size, (count, d_max)), axis=1)
        noise.append(ops.convert_to_numpy(gather(mean, scale, batches, d_max)))
    return np.concatenate(noise)


def echo_sample(mean: Tensor, log_scale: Tensor, **options: Any) -> Tensor:
    """Output of the Echo channel, `z = f(x) + s(x) e`.

    Args, `options` and errors are those of `echo_noise`.

    Returns:
        `z`, the same shape as `mean`, at least float32.

    Source: paper, equation 1.
    """
    mean, log_scale = at_least_float32(mean, log_scale)
    return mean + ops.exp(log_scale) * echo_noise(mean, log_scale, **options)


def echo_rate(log_scale: Tensor) -> Tensor:
    """Information that the Echo channel transmits about each example, exact and in closed form.

    `rate(x) = -sum_j log s_j(x)`; its mean over `x` is `I(X; Z)`.

    Args:
        log_scale: `log s(x)`, `log r` included. Shape `(batch, ..., dim)`, float.

    Returns:
        Rate in nats per example. Shape `(batch,)`, at least float32.

    Source: paper, Theorem 2.3.
    """
    (log_scale,) = at_least_float32(log_scale)
    return -ops.sum(log_scale, axis=tuple(range(1, len(log_scale.shape))))


def echo_moments(mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of `z` (and of the noise) in closed form, for `x` uniform over the given examples.

    Since `e` is independent of `x` and has the law of `z`,
    `E z = E f / (1 - E s)` and, with `g = f - (1 - s) E z`, `Var z = E g^2 / (1 - E s^2)`.

    Args:
        mean: `f(x)`. Shape `(batch, ..., dim)`, float.
        log_scale: `log s(x)`, `log r` included. Same shape.

    Returns:
        `(E z, Var z)`, each of shape `(..., dim)`.

    Source: ours, from Lemma 2.2 of the paper.
    """
    return scaled_moments(mean, ops.exp(log_scale))


def scaled_moments(mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same for `s(x)` itself, of either sign."""
    z_mean = ops.mean(mean, axis=0) / (1.0 - ops.mean(scale, axis=0))

    deviation = mean - (1.0 - scale) * z_mean  # z - E z = deviation + s (e - E e)
    return z_mean, ops.mean(ops.square(deviation), axis=0) / (1.0 - ops.mean(ops.square(scale), axis=0))
