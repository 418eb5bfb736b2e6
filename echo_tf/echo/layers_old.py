r"""The Echo noise channel of Brekelmans et al. 2019: noise, sample, exact rate, and the Keras layers.

The channel is `z = f(x) + S(x) e` with noise made from the data themselves,

    e = sum_{l >= 0} ( prod_{k < l} S(x_k) ) f(x_l),    x_0, x_1, ... i.i.d. from q(x),

so that `z` and `e` have the same law and `I(X; Z) = -E sum_j log s_j(x)` exactly (Theorem 2.3).
The sum is cut after `d_max` terms; `max_scale` bounds every `s_j` so that what is cut is lost in float32 anyway.

Everything is in nats and per example: examples lie along axis 0, dimensions along the last axis.
"""

import logging
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.distribution import SeedGenerator, replica_count
from echo_tf.echo.bound import check_d_max, max_scale
from echo_tf.models.names import ECHO_SOURCES, PARAMETRISATIONS, SAMPLERS

logger = logging.getLogger(__name__)

Tensor = Any
Seed = int | keras.random.SeedGenerator | None

# Weight of the pull of E f towards 0 in EchoDense. With s(x) constant the objective does not depend on E f at all.
CENTRING = 3.0

# Examples that moments in training are made of at least: two or three may have next to no variance. Not more than that takes,
# since those of earlier batches lag behind the heads.
FEWEST_FOR_MOMENTS = 8

# Guards the division by the standard deviation of a dimension whose signal has died; far below that of one in use.
VARIANCE_EPSILON = 1e-6


def _echo_recurrence(mean: Tensor, log_scale: Tensor, d_max: int, count: Tensor | None = None) -> Tensor:
    """Noise at every place of a ring, from the `d_max` places that follow it, or from `count <= d_max` of them.

    The noise obeys `e_k = f_{k+1} + s_{k+1} e_{k+1}`. A block of n places maps the noise behind it to the noise in front of
    it by `e -> total + decay * e`; blocks compose, so blocks of 1, 2, 4, ... places starting at every place come from
    doubling, and the binary digits of the number of terms select those that add up to exactly as many:
    O(n dim log d_max) time, O(n dim) memory.
    """
    decay, total = ops.exp(log_scale), mean  # block of `size` places that starts at each place
    noise, size = ops.zeros_like(mean), 1
    while True:
        if count is not None:
            noise = ops.where(count // size % 2 == 1, total + decay * ops.roll(noise, -size, axis=0), noise)
        elif d_max & size:  # put this block in front of those selected so far
            noise = total + decay * ops.roll(noise, -size, axis=0)
        if 2 * size > d_max:
            return ops.roll(noise, -1, axis=0)
        total = total + decay * ops.roll(total, -size, axis=0)
        decay = decay * ops.roll(decay, -size, axis=0)
        size *= 2


def ring_noise(mean: Tensor, log_scale: Tensor, order: Tensor, d_max: int, count: Tensor | None = None) -> Tensor:
    """Echo noise of every example when `order`, read as a ring, gives the echoes.

    The example at place `k` uses those at places `k + 1, ..., k + d_max` (modulo the batch), so its own sample never
    occurs if `d_max < batch`. For a uniformly random `order` each example's echoes are a uniformly random ordering of the
    others, exactly as with independent draws without replacement; only the dependence *between* examples differs
    (on one ring `e_k = z_{k+1}` up to the truncation). Deterministic.

    Args:
        mean: `f(x)`. Shape `(batch, ..., dim)`, float.
        log_scale: `log s(x)`, `log r` included. Same shape.
        order: Permutation of `0, ..., batch - 1`. Shape `(batch,)`, integer.
        d_max: Integer >= 1, number of echoes.
        count: Scalar integer tensor, a smaller number in the place of `d_max` that is only known at run time; or `None`.

    Returns:
        Noise `e`, the same shape as `mean`; row i belongs to example i. O(batch dim log d_max) time, O(batch dim) memory.

    Source: paper, equations 2 and 3; the linear-time evaluation is ours.
    """
    places = _echo_recurrence(ops.take(mean, order, axis=0), ops.take(log_scale, order, axis=0), d_max, count)
    return ops.take(places, ops.argsort(order), axis=0)


def gather_noise(mean: Tensor, log_scale: Tensor, orders: Tensor, d_max: int) -> Tensor:
    """Echo noise of every example from its own list of echoes. Deterministic.

    `e_i = sum_{l < d_max} f(x_{o_il}) exp( sum_{k < l} log s(x_{o_ik}) )` for row `o_i` of `orders`.

    Args:
        mean: `f(x)`. Shape `(batch, ..., dim)`, float.
        log_scale: `log s(x)`, `log r` included. Same shape.
        orders: Row i lists the echoes of example i. Shape `(examples, d_max)` or wider, integer.
        d_max: Integer >= 1, number of echoes.

    Returns:
        Noise `e`. Shape `(examples, ..., dim)`. O(examples d_max dim) time and memory.

    Source: paper, equations 2 and 3.
    """
    orders = orders[:, :d_max]
    means = ops.take(mean, orders, axis=0)  # (examples, d_max, ..., dim)
    log_scales = ops.take(log_scale, orders, axis=0)  # (examples, d_max, ..., dim)

    log_weights = ops.cumsum(log_scales, axis=1) - log_scales  # exclusive: the first echo has weight 1

    return ops.sum(means * ops.exp(log_weights), axis=1)


def _independent_orders(batch: Tensor, seed: Seed) -> Tensor:
    """A random order of all examples for each of them, itself last. Shape `(batch, batch)`."""
    keys = keras.random.uniform((batch, batch), seed=seed) + 2.0 * ops.eye(batch)  # sorting uniforms orders at random
    return ops.argsort(keys, axis=1)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Invalid value received for argument `{name}`. Expected one of {choices}. Received: {name}={value!r}")


def _check_pairs(mean: Tensor, log_scale: Tensor) -> None:
    """Refuse shapes that differ where both are known."""
    shapes = tuple(mean.shape), tuple(log_scale.shape)
    if len(shapes[0]) != len(shapes[1]) or any(
        None not in sizes and len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True)
    ):
        raise ValueError(
            f"Invalid value received for argument `log_scale`. Expected the shape of `mean`, {shapes[0]}. Received: {shapes[1]}"
        )


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in their widest floating type, or float32 if that is wider."""
    tensors = [ops.convert_to_tensor(tensor) for tensor in tensors]
    dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors}
    return [ops.cast(tensor, "float64" if "float64" in dtypes else "float32") for tensor in tensors]


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
            approximate, within 1 % only if the batch has at least `20 / (1 - r)` examples.
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
    mean, log_scale = _at_least_float32(mean, log_scale)
    _check_choice("sampler", sampler, SAMPLERS)
    _check_pairs(mean, log_scale)
    static_batch = mean.shape[0]
    if d_max is None:
        if replace or static_batch is None:
            raise ValueError(
                "Invalid value received for argument `d_max`. Expected an integer, because "
                + ("replace=True has no natural number of echoes. " if replace else "the batch size is not static. ")
                + "Received: d_max=None"
            )
        d_max = static_batch - 1
    check_d_max(d_max)
    if not replace and static_batch is not None and d_max > static_batch - 1:
        raise ValueError(
            f"Invalid value received for argument `d_max`. Expected at most batch - 1 = {static_batch - 1} without "
            f"replacement. Received: d_max={d_max}. Use larger batches, a smaller d_max, or replace=True."
        )

    batch = ops.shape(mean)[0]
    if sampler == "ring" and not replace:
        order = keras.random.shuffle(ops.arange(batch), seed=seed)
        return ring_noise(mean, log_scale, order, d_max)
    if sampler == "ring":
        # The recurrence along one random sequence; the last d_max places only serve as echoes of those before them.
        places = keras.random.randint((batch + d_max,), 0, batch, seed=seed)
        return _echo_recurrence(ops.take(mean, places, axis=0), ops.take(log_scale, places, axis=0), d_max)[:batch]
    orders = keras.random.randint((batch, d_max), 0, batch, seed=seed) if replace else _independent_orders(batch, seed)
    return gather_noise(mean, log_scale, orders, d_max)


def echo_sample(
    mean: Tensor,
    log_scale: Tensor,
    *,
    d_max: int | None = None,
    sampler: str = "ring",
    replace: bool = False,
    seed: Seed = None,
) -> Tensor:
    """Output of the Echo channel, `z = f(x) + s(x) e`.

    Args and errors are those of `echo_noise`.

    Returns:
        `z`, the same shape as `mean`, at least float32.

    Source: paper, equation 1.
    """
    mean, log_scale = _at_least_float32(mean, log_scale)
    noise = echo_noise(mean, log_scale, d_max=d_max, sampler=sampler, replace=replace, seed=seed)
    return mean + ops.exp(log_scale) * noise


def echo_rate(log_scale: Tensor) -> Tensor:
    """Information that the Echo channel transmits about each example, exact and in closed form.

    `rate(x) = -sum_j log s_j(x)`; its mean over `x` is `I(X; Z)`.

    Args:
        log_scale: `log s(x)`, `log r` included. Shape `(batch, ..., dim)`, float.

    Returns:
        Rate in nats per example. Shape `(batch,)`, at least float32.

    Source: paper, Theorem 2.3.
    """
    (log_scale,) = _at_least_float32(log_scale)
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
    scale = ops.exp(log_scale)
    z_mean = ops.mean(mean, axis=0) / (1.0 - ops.mean(scale, axis=0))

    deviation = mean - (1.0 - scale) * z_mean  # z - E z = deviation + s (e - E e)
    return z_mean, ops.mean(ops.square(deviation), axis=0) / (1.0 - ops.mean(ops.square(scale), axis=0))


@keras.saving.register_keras_serializable(package="echo_tf")
class EchoLayer(keras.layers.Layer):
    """The bare Echo channel: `z = f(x) + r s(x) e`, with the noise made from other examples and the exact rate.

    Randomness is fresh at every call, in training and inference alike. The layer works in float32 under any dtype policy. It
    owns `r = max_scale(d_max, max_mean)`, so that noise, signal and rate cannot use different ones.

    Echoes are other examples. In training they are those of the batch, and gradients flow through them. As non-trainable
    weights, saved with the model, the layer keeps a reservoir of the latest training pairs `(f, log s)`: each step puts its
    batch in front, and the oldest fall out. At inference it gives the echoes for batches of at most `d_max` examples, down to
    one. After training its pairs lag by some `reservoir_size / batch` steps; `adapt` renews it with the final parameters.

    Batches must be random samples of the data: echoes from a batch of one class follow the law of that class, while the rate,
    which does not look at the noise, seems right. With `echoes="reservoir"` they come from the reservoir always, which holds
    the right law if it spans all classes; gradients do not flow through them then.

    In a training batch of at most `d_max` examples the echoes of each are all others, then examples of earlier batches, from
    the reservoir, without gradient: all differ (but for repetitions at the turn of an epoch, or of few training examples), and
    only the lag of the reservoir stands between the noise and the law of `z`.
    In the first training step, and before it, there are no earlier ones, and the noise ends with the batch; the pairs of that
    step then fill the reservoir, repeated, until `reservoir_size` others have come.

    A decoder that reads the output of this layer tends to drive `f` into saturation, where nothing is learnt; `EchoDense`
    contains the cure.

    Args:
        d_max: Integer >= 1, number of echoes. 99 fits batches of 100 or more.
        max_mean: Float > 0, the bound `M` of `|f(x)|`. A precondition; only `adapt` checks it.
        sampler: `"ring"` or `"gather"`, see `echo_noise`.
        replace: Boolean, see `echo_noise`.
        multiplicative: Boolean. `True` returns `exp(f + r s e)`, which has the same rate.
        rate_weight: Float or `None`. If given, `rate_weight` times the mean rate is added to the loss of the model. Leave it
            out where the layer is called more than once in a step: Keras then counts the losses differently by backend.
        reservoir_size: Integer > `d_max`, or `None` for 1,000 or `d_max + 1` if that is more. Larger batches that draw from the
            reservoir use its noise again from the beginning.
        echoes: `"batch"` or `"reservoir"`, see above.
        seed: Integer or `None`, seeds the layer's own generator.

    Call arguments:
        inputs: `[mean, log_scale]`, `f(x)` with `|f| <= max_mean` and `log s(x) <= 0`, *without* `log r`. Each of shape
            `(batch, ..., dim)`; of feature maps `(batch, height, width, channels)` every place is a dimension of its own, whose
            echoes come from the same place of other examples.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z`, float32, the shape of `mean`; rate in nats per example, shape `(batch,)`.

    Raises:
        ValueError: invalid arguments; shapes that are not known but for the batch; a batch of one example before all others,
            outside of a graph. (In one it cannot be noticed: such a batch has no noise.)

    Source: paper, section 2. Differs: the reservoir is ours; the paper evaluates in batches of 100.

    Example:
        >>> layer = EchoLayer(d_max=99)
        >>> z = layer([keras.ops.zeros((100, 32)), keras.ops.zeros((100, 32))])
        >>> tuple(z.shape), round(layer.rate_floor(32), 4)
        ((100, 32), 5.7372)
    """

    def __init__(
        self,
        d_max: int = 99,
        max_mean: float = 1.0,
        sampler: str = "ring",
        replace: bool = False,
        multiplicative: bool = False,
        rate_weight: float | None = None,
        reservoir_size: int | None = None,
        echoes: str = "batch",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        _check_choice("sampler", sampler, SAMPLERS)
        _check_choice("echoes", echoes, ECHO_SOURCES)
        self.max_scale = max_scale(d_max, max_mean)
        self.log_max_scale = math.log(self.max_scale)
        if reservoir_size is not None and reservoir_size <= d_max:
            raise ValueError(
                f"Invalid value received for argument `reservoir_size`. Expected more than d_max = {d_max}. "
                f"Received: reservoir_size={reservoir_size}"
            )
        self.d_max = d_max
        self.max_mean = max_mean
        self.sampler = sampler
        self.replace = replace
        self.multiplicative = multiplicative
        self.rate_weight = rate_weight
        self.reservoir_size = reservoir_size
        self.echoes = echoes
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)

    def build(self, input_shape):
        shape = tuple(input_shape[0])[1:]
        if None in shape:
            raise ValueError(
                f"{self.name} keeps a reservoir of examples and must know their shape. Received: {input_shape[0]}. Give the "
                "model's Input all its dimensions but the batch."
            )
        size = self.reservoir_size or max(1000, self.d_max + 1)
        for name in ("reservoir_mean", "reservoir_log_scale"):
            setattr(self, name, self.add_weight(shape=(size, *shape), initializer="zeros", trainable=False, name=name))
        self.reservoir_filled = self.add_weight(shape=(), initializer="zeros", trainable=False, name="reservoir_filled")

    def call(self, inputs, return_rate=False, training=None):
        mean, log_scale = inputs
        z = self.transmit(mean, log_scale, self.noise(mean, log_scale, training=training))
        if training:
            self.store(mean, log_scale)
        rate = self.rate(log_scale)
        if self.rate_weight is not None:
            self.add_loss(self.rate_weight * ops.mean(rate))
        return (z, rate) if return_rate else z

    def transmit(self, mean: Tensor, log_scale: Tensor, noise: Tensor) -> Tensor:
        """`f + r s e` for given noise (its exponential if `multiplicative`)."""
        z = mean + ops.exp(log_scale + self.log_max_scale) * noise
        return ops.exp(z) if self.multiplicative else z

    def noise(self, mean: Tensor, log_scale: Tensor, training: bool | None = None) -> Tensor:
        """Fresh noise for every example, from the batch or the reservoir. `log_scale` is without `log r`."""
        _check_pairs(mean, log_scale)
        batch = ops.shape(mean)[0]  # an integer where it is known in advance
        is_static = mean.shape[0] is not None

        def from_batch():
            return self._batch_noise(mean, log_scale)

        def from_reservoir():
            # Modulo: a batch that is larger than the reservoir uses its noise again.
            return ops.take(self.reservoir_noise(), ops.arange(batch) % self.reservoir_mean.shape[0], axis=0)

        if self.echoes == "batch" and (training or (is_static and batch > self.d_max)):
            return from_batch()
        filled = self._is_filled()
        if filled is False:
            return from_batch()
        if filled:
            if is_static or self.echoes == "reservoir":
                return from_reservoir()
            return ops.cond(batch > self.d_max, from_batch, from_reservoir)
        if not is_static:
            wanted = batch <= self.d_max if self.echoes == "batch" else True
            return ops.cond(ops.logical_and(wanted, self.reservoir_filled > 0), from_reservoir, from_batch)
        if batch == 1:
            return from_reservoir()
        # Where the batch is static on JAX too, whose `cond` cannot advance a seed generator.
        return ops.where(self.reservoir_filled > 0, from_reservoir(), from_batch())

    def _batch_noise(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        log_scale = log_scale + self.log_max_scale

        def from_batch():
            return echo_noise(
                mean, log_scale, d_max=self.d_max, sampler=self.sampler, replace=self.replace, seed=self.seed_generator
            )

        def from_batch_and_reservoir():
            return self._short_batch_noise(mean, log_scale)

        batch = mean.shape[0]  # None where it is only known at run time
        if batch == 1 and self._is_filled() is False:
            raise ValueError(
                f"{self.name} received a batch of one example, which has no others to make noise from, and its reservoir is "
                "empty. Pass at least 2 examples, train the layer, or call adapt."
            )
        if self.replace or (batch is not None and batch > self.d_max):
            return from_batch()
        if batch is not None:
            return from_batch_and_reservoir()
        return ops.cond(ops.shape(mean)[0] > self.d_max, from_batch, from_batch_and_reservoir)

    def _short_batch_noise(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Noise whose echoes are all other examples of the batch, then those of the reservoir. `log_scale` with `log r`."""
        batch = ops.shape(mean)[0]
        if self.sampler == "ring":
            order = keras.random.shuffle(ops.arange(batch), seed=self.seed_generator)
            noise = ring_noise(mean, log_scale, order, self.d_max, batch - 1)
        else:
            noise = gather_noise(mean, log_scale, _independent_orders(batch, self.seed_generator), batch - 1)
        decay = ops.exp(ops.sum(log_scale, axis=0) - log_scale)  # product over all others
        older = ops.stop_gradient(self.reservoir_noise()[:batch])
        return noise + ops.where(self.reservoir_filled > 0, decay * older, ops.zeros_like(noise))

    def reservoir_noise(self) -> Tensor:
        """As many draws of the noise as the reservoir holds, from its pairs.

        Draws of one call depend on each other; each has the exact law.
        """
        return echo_noise(
            self.reservoir_mean,
            self.reservoir_log_scale + self.log_max_scale,
            d_max=self.d_max,
            sampler=self.sampler,
            replace=self.replace,
            seed=self.seed_generator,
        )

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal law of the output, which is that of the noise: no data needed.

        Draws that come from one pass over the reservoir depend on each other; each has the exact law.

        Args:
            n: Integer >= 1, number of draws.

        Returns:
            Shape `(n, ..., dim)`, float32.

        Raises:
            ValueError: the reservoir is empty, outside of a graph. (In one that cannot be noticed: the draws are 0 then.)
        """
        if self._is_filled() is False:
            raise ValueError(
                f"{self.name} has no training examples to draw from. Train it first, or call adapt with at least two examples."
            )
        passes = -(-n // self.reservoir_mean.shape[0])
        z = ops.concatenate([self.reservoir_noise() for _ in range(passes)])[:n]
        return ops.exp(z) if self.multiplicative else z

    def store(self, mean: Tensor, log_scale: Tensor) -> None:
        """Put the pairs of a training batch in front of the reservoir; the oldest fall out."""
        size = self.reservoir_mean.shape[0]
        repeated = ops.arange(size) % ops.shape(mean)[0]  # the first batch fills the reservoir
        for reservoir, values in ((self.reservoir_mean, mean), (self.reservoir_log_scale, log_scale)):
            values = ops.stop_gradient(ops.cast(values, reservoir.dtype))
            older = ops.where(self.reservoir_filled > 0, ops.convert_to_tensor(reservoir), ops.take(values, repeated, axis=0))
            reservoir.assign(ops.concatenate([values, older])[:size])
        self.reservoir_filled.assign(1.0)

    def adapt(self, data: Any, seed: int = 0) -> None:
        """Fill the reservoir from data, with one pass over them.

        Args:
            data: What the layer is called with, `(mean, log_scale)`, or an iterable of such batches. A random sample of them
                all is kept, so they may be sorted; fewer than the reservoir holds are repeated, which makes noise drawn from it
                approximate.
            seed: Integer, for the sample.

        Raises:
            ValueError: fewer than two examples, or pairs for which the noise need not converge.
        """
        is_pair = isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape")
        batches = [data] if is_pair else list(data)
        mean, log_scale = (ops.concatenate([ops.convert_to_tensor(batch[i]) for batch in batches]) for i in range(2))
        bounds = float(ops.max(ops.abs(mean))), float(ops.max(log_scale))
        if not (bounds[0] <= self.max_mean and bounds[1] <= 0):
            raise ValueError(
                f"Expected |mean| of at most max_mean = {self.max_mean:g} and log_scale of at most 0 (heads with tanh and "
                f"log_sigmoid have them). Received up to {bounds[0]:g} and {bounds[1]:g}"
            )
        if not self.built:
            self.build([(None, *mean.shape[1:])] * 2)
        self.keep_sample(mean, log_scale, seed)

    def keep_sample(self, mean: Tensor, log_scale: Tensor, seed: int) -> None:
        """Fill the reservoir with a random sample of pairs, `mean` of any size, each of shape `(n, ..., dim)`; see `adapt`."""
        if mean.shape[0] < 2:
            raise ValueError(f"Expected at least two examples. Received: {mean.shape[0]}")
        order = np.random.default_rng(seed).permutation(mean.shape[0])
        rows = order[np.arange(self.reservoir_mean.shape[0]) % len(order)]
        self.reservoir_mean.assign(ops.take(mean, rows, axis=0))
        self.reservoir_log_scale.assign(ops.take(log_scale, rows, axis=0))
        self.reservoir_filled.assign(1.0)

    def _is_filled(self) -> bool | None:
        """Whether the reservoir is filled; `None` while a graph is traced, which may outlive the answer."""
        if not self.built:
            return False
        try:
            return bool(ops.convert_to_numpy(self.reservoir_filled) > 0)
        except (NotImplementedError, TypeError):  # TensorFlow and JAX, while they trace
            return None

    def rate(self, log_scale: Tensor) -> Tensor:
        """Exact rate, `-sum_j (log r + log s_j(x))`, in nats per example, shape `(batch,)`. `log_scale` is without `log r`."""
        (log_scale,) = _at_least_float32(log_scale)
        return echo_rate(log_scale + self.log_max_scale)

    def rate_floor(self, dim: int) -> float:
        """Smallest rate of a `dim`-dimensional channel, `-dim log r`, in nats."""
        return -dim * self.log_max_scale

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def compute_output_spec(self, inputs, return_rate=False, training=None):
        # Tracing `call` to find the shape would try it with made-up batch sizes.
        z = keras.KerasTensor(inputs[0].shape, "float32")
        return (z, keras.KerasTensor((inputs[0].shape[0],), "float32")) if return_rate else z

    def get_config(self):
        config = super().get_config()
        names = ("d_max", "max_mean", "sampler", "replace", "multiplicative", "rate_weight", "reservoir_size", "echoes", "seed")
        return {**config, **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="echo_tf")
class EchoDense(keras.layers.Layer):
    """Echo channel with its two heads: replaces the sampling block of a VAE in one line.

    `f = tanh((W h + b) / mean_scale)`, `log s = log_sigmoid(W' h + b')`, `z = f + r s e` with Echo noise `e` (see `EchoLayer`,
    also for the reservoir that makes batches of any size possible), and the output is `z` standardised per dimension,
    `(z - E z) / sd(z)`.

    Why standardised: Echo puts no price on mean or scale of `z`, and a decoder that reads `z` itself asks for an ever larger
    constant until tanh saturates and passes no gradient. With `E z` and `sd(z)` taken out, as functions of the parameters
    (`echo_moments` of the batch), there is nothing to gain. The map is affine, so channel, noise and rate are exact whatever
    it is; but made from the training batch it lets its examples depend on each other. At inference the moments are constants.
    A training batch of fewer than eight is made up to eight by the latest earlier examples, without gradient, so that an odd
    last batch of a single one, whose variance is 0, does no harm.

    Why the pull: nothing is left to hold `E f` then. It drifts into saturation too, only slowly, and dimensions off the centre
    multiply the sampling error of the batch moments. So the gradient of `CENTRING * sum_j (E f_j)^2` is added to that of
    `f` in training, though not to the loss. (If `s(x)` is constant the objective does not depend on `E f`, else it does so
    slightly. In a loss that is not in nats per example the pull weighs more or less; in batches of a few it shrinks `f` too.
    Under the policy `mixed_float16` Keras scales the loss up and the gradients down again, by 32,768 at first, which leaves
    nothing of the pull; a warning says so.)

    Why renormalised late: moments of 100 examples jitter, which costs distortion as channel noise does. After `renormalise`
    the moments in training are those of the reservoir, while the gradient is still that of the batch moments (batch
    renormalisation, Ioffe 2017, without its clipping). While the heads still move fast the reservoir lags too far behind
    for that: call it when the learning rate is small, as `train` does after four fifths of the epochs. With
    `echoes="reservoir"`, where batches do not have the law of the data, it is so from the start.

    The moments at inference are those of the reservoir, until `adapt` computes them from more examples with the final
    parameters (`RateDistortionModel.fit` does so itself); without it the pairs lag by some ten training steps, and moments of
    a thousand pairs are less precise than those of ten thousand.

    Args:
        units: Integer, dimension of `z`.
        rate_weight: Float or `None`, see `EchoLayer`. This is beta, if the rest of the loss is a negative log likelihood
            *summed* over pixels, in nats.
        d_max, sampler, replace, reservoir_size, echoes, seed: see `EchoLayer`.
        parametrisation: `"standardised"`; `"literal"`, which returns `z` itself as the paper describes it; or `"centred"`, as
            the code of its submission did: `z` itself, of `f` less its mean over the batch, at inference too, so that the
            output for an example depends on its batch. (`|f|` may pass 1 then: the truncation bound doubles.)
        mean_scale: Float > 0, by which the input of tanh is divided. The authors' code had 64, later 16.

    Call arguments:
        inputs: Features. Shape `(batch, ..., features)`; of feature maps the heads are 1x1 convolutions, and moments and echoes
            are those of each place.
        return_rate: Boolean, return `(z, rate)` instead of `z`.
        pool: Features of further examples, shape `(pool, ..., features)`, or `None`. They serve as echoes beside those of the
            batch, and for the moments, so that `d_max` may exceed the batch. They receive no gradient; that of the batch's
            echoes and moments is multiplied to stand for theirs. For training.

    Returns:
        `z` of shape `(batch, ..., units)`; rate in nats per example, shape `(batch,)`. Both float32.

    Raises:
        ValueError: invalid arguments; `pool` with `"centred"`; a batch of one example before all others, outside of a graph.
            (In one it cannot be noticed: such a batch has no noise.)

    Source: paper, section 2 and appendix (heads). Differs: the standardisation is ours (the paper's parametrisation
        collapses; the code of its submission centred `f` over the batch), as is the reservoir.

    Example:
        >>> h = keras.Input((256,))
        >>> z = EchoDense(32)(h)  # and the rate is in the loss of any model made with it
        >>> z.shape
        (None, 32)
    """

    def __init__(
        self,
        units: int,
        *,
        rate_weight: float | None = 1.0,
        d_max: int = 99,
        sampler: str = "ring",
        replace: bool = False,
        parametrisation: str = "standardised",
        mean_scale: float = 1.0,
        reservoir_size: int | None = None,
        echoes: str = "batch",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        _check_choice("parametrisation", parametrisation, PARAMETRISATIONS)
        if not 0 < mean_scale < math.inf:
            raise ValueError(
                "Invalid value received for argument `mean_scale`. Expected a positive finite number. "
                f"Received: mean_scale={mean_scale}"
            )
        self.units = units
        self.rate_weight = rate_weight
        self.parametrisation = parametrisation
        self.mean_scale = mean_scale
        if parametrisation == "standardised" and keras.config.dtype_policy().name == "mixed_float16":
            logger.warning(
                "%s: where the loss is scaled, as Keras does under the policy mixed_float16, the pull of the means to the "
                "centre is lost, and they may drift until they saturate. Use mixed_bfloat16.",
                self.name,
            )
        self.echo = EchoLayer(
            d_max=d_max,
            sampler=sampler,
            replace=replace,
            reservoir_size=reservoir_size,
            echoes=echoes,
            seed=seed,
            name="echo",
        )
        self.mean_head = keras.layers.Dense(units, dtype="float32", name="mean")
        self.log_scale_head = keras.layers.Dense(units, activation="log_sigmoid", dtype="float32", name="log_scale")

    @property
    def seed_generator(self) -> keras.random.SeedGenerator:
        return self.echo.seed_generator

    def build(self, input_shape):
        self.mean_head.build(input_shape)
        self.log_scale_head.build(input_shape)
        shape = (*input_shape[1:-1], self.units)
        self.echo.build([(None, *shape)] * 2)
        self.echo.built = True  # it is not called, only its methods are
        self.z_mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="z_mean")
        self.z_variance = self.add_weight(shape=shape, initializer="ones", trainable=False, name="z_variance")
        self.renormalising = self.add_weight(shape=(), initializer="zeros", trainable=False, name="renormalising")

    def statistics(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`f(x)` and `log s(x)` without `log r`, each of shape `(batch, ..., units)`."""
        return ops.tanh(self.mean_head(inputs) / self.mean_scale), self.log_scale_head(inputs)

    def call(self, inputs, return_rate=False, training=None, pool=None):
        mean, log_scale = self.statistics(inputs)
        if self.parametrisation == "standardised" and training:
            mean = _pull_to_centre(mean)
        elif self.parametrisation == "centred":
            if pool is not None:
                raise ValueError('Expected no `pool` with parametrisation="centred", which centres by the batch alone.')
            mean = mean - ops.mean(mean, axis=0)
        echoes = population = (mean, log_scale)  # pairs that noise and moments are made of
        if pool is not None:
            echoes, population = self._with_pool(mean, log_scale, pool)
        noise = self.echo.noise(*echoes, training=training)[: ops.shape(mean)[0]]
        z = self.echo.transmit(mean, log_scale, noise)
        if training:
            self.echo.store(*population)
            self._set_moments(self.echo.reservoir_mean, self.echo.reservoir_log_scale)
            population = self._with_earlier(*population)
        if self.parametrisation == "standardised":
            z = self._standardised(z, *population, training)
        rate = self.echo.rate(log_scale)
        if self.rate_weight is not None:
            self.add_loss(self.rate_weight * ops.mean(rate))
        return (z, rate) if return_rate else z

    def _with_pool(self, mean: Tensor, log_scale: Tensor, pool: Tensor) -> tuple:
        """Pairs of batch and pool for the noise, and for the moments; they differ in their gradient only.

        All pairs have the same law, so that the gradient through the batch's, times their inverse share, stands for that
        through all: for the moments `(batch + pool) / batch`, for the noise, where no example is its own echo, with one less
        in both. What an example does to its own output by way of the moments is overrated thereby, by a share of `1 / batch`.
        """
        batch, total = ops.shape(mean)[0], ops.shape(mean)[0] + ops.shape(pool)[0]
        others = [ops.stop_gradient(values) for values in self.statistics(pool)]

        def joined(factor):
            pairs = zip((mean, log_scale), others, strict=True)
            return tuple(ops.concatenate([_scale_gradient(own, factor), other]) for own, other in pairs)

        return joined((total - 1) / ops.maximum(batch - 1, 1)), joined(total / batch)

    def _with_earlier(self, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs for the moments in training: if there are too few, the latest earlier ones behind them.

        The given ones have been stored already, so that earlier ones lie behind them in the reservoir; in the first step they
        are repetitions.
        """
        given, wanted = ops.shape(mean)[0], min(FEWEST_FOR_MOMENTS, self.echo.reservoir_mean.shape[0])
        if mean.shape[0] is not None and given >= wanted:
            return mean, log_scale
        pairs = zip((mean, log_scale), (self.echo.reservoir_mean, self.echo.reservoir_log_scale), strict=True)
        return tuple(ops.concatenate([values, ops.convert_to_tensor(earlier)[given:wanted]]) for values, earlier in pairs)

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal law of the output: those of `EchoLayer.sample_marginal`, standardised like `z`.

        Args, returns and errors are those of `EchoLayer.sample_marginal`.
        """
        z = self.echo.sample_marginal(n)
        return _standardise(z, self.z_mean, self.z_variance) if self.parametrisation == "standardised" else z

    def adapt(self, data: Any, seed: int = 0) -> None:
        """Renew reservoir and moments with the pairs of given examples under the present parameters, in one pass.

        Args:
            data: Features of training examples, shape `(n, ..., features)`, or an iterable of batches of them; some 10,000 make
                the moments precise, which are those of all. Of the reservoir see `EchoLayer.adapt`.
            seed: Integer, for the sample that the reservoir keeps.

        Raises:
            ValueError: fewer than two examples.
        """
        batches = [data] if hasattr(data, "shape") else list(data)
        if not self.built:
            self.build((None, *batches[0].shape[1:]))
        pairs = [self.statistics(batch) for batch in batches]
        mean, log_scale = (ops.concatenate(values) for values in zip(*pairs, strict=True))
        if self.parametrisation == "centred":
            mean = mean - ops.mean(mean, axis=0)
        self.echo.keep_sample(mean, log_scale, seed)
        self._set_moments(mean, log_scale)

    def renormalise(self) -> None:
        """From now on, standardise in training by the moments of the reservoir, with the gradient of the batch moments."""
        self.renormalising.assign(1.0)

    def _set_moments(self, mean: Tensor, log_scale: Tensor) -> None:
        moments = echo_moments(ops.convert_to_tensor(mean), ops.convert_to_tensor(log_scale) + self.echo.log_max_scale)
        for constant, value in zip((self.z_mean, self.z_variance), moments, strict=True):
            constant.assign(value)

    def _standardised(self, z: Tensor, mean: Tensor, log_scale: Tensor, training: bool | None) -> Tensor:
        by_batch = _standardise(z, *echo_moments(mean, log_scale + self.echo.log_max_scale))
        by_reservoir = _standardise(z, ops.convert_to_tensor(self.z_mean), ops.convert_to_tensor(self.z_variance))
        if training:
            renormalised = by_batch + ops.stop_gradient(by_reservoir - by_batch)
            if self.echo.echoes == "reservoir":
                return renormalised
            return ops.where(self.renormalising > 0, renormalised, by_batch)
        return ops.where(self.echo.reservoir_filled > 0, by_reservoir, by_batch)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def compute_output_spec(self, inputs, return_rate=False, training=None, pool=None):
        z = keras.KerasTensor((*inputs.shape[:-1], self.units), "float32")
        return (z, keras.KerasTensor((inputs.shape[0],), "float32")) if return_rate else z

    def get_config(self):
        config = super().get_config()
        names = ("units", "rate_weight", "parametrisation", "mean_scale")
        echo = {name: getattr(self.echo, name) for name in ("d_max", "sampler", "replace", "reservoir_size", "echoes", "seed")}
        return {**config, **{name: getattr(self, name) for name in names}, **echo}


@ops.custom_gradient
def _pull_to_centre(mean: Tensor):
    """The identity, whose gradient adds that of `CENTRING * sum_j (batch mean of f_j)^2`, a penalty left out of the loss."""
    examples = ops.cast(replica_count() * ops.shape(mean)[0], mean.dtype)  # gradients of replicas are summed
    pull = 2.0 * CENTRING * ops.mean(mean, axis=0) / examples

    def gradient(*arguments, upstream=None):
        return (arguments[0] if upstream is None else upstream) + pull

    return mean, gradient


def _scale_gradient(values: Tensor, factor: Tensor) -> Tensor:
    """The identity, with a gradient that is multiplied by `factor`."""
    factor = ops.cast(factor, values.dtype)
    return ops.stop_gradient(values) + factor * (values - ops.stop_gradient(values))


def _standardise(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (z - mean) / ops.sqrt(variance + VARIANCE_EPSILON)
