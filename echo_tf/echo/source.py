"""Where the echoes of a channel come from: the batch, the reservoir behind it, or the reservoir alone."""

import functools
from collections.abc import Callable

import keras
from keras import ops

from echo_tf.echo.bound import check_d_max, invalid
from echo_tf.echo.checks import Tensor, check_choice, check_count, check_seed
from echo_tf.echo.laws import NOISE_LAWS, redrawn
from echo_tf.echo.noise import SAMPLERS
from echo_tf.echo.reservoir import Reservoir
from echo_tf.echo.watch import BatchWatch

ECHO_SOURCES = ("batch", "detached", "reservoir")
RESERVOIR_SIZE = 1_000


class EchoSource(keras.layers.Layer):
    """Noise for pairs `(f, S)` of a batch, and the reservoir that makes any batch size possible.

    In training: `e = (echoes from the batch) + (product of their scales) * (noise from the reservoir, without gradient)`, with
    the others of the batch as echoes, up to `d_max`. Behind `d_max` of them the second term is 0 but for rounding, and is left
    out: noise from a thousand pairs costs as much as that from the batch with its gradient. At inference: noise from the
    reservoir. With an empty reservoir its part is 0, and inference takes the echoes from the batch. With another
    `law` than Echo's all draws of the batch, or of the reservoir, are redrawn.

    Args:
        noise: `diagonal_noise`, or a function like it: `(mean, scale, d_max, sampler=, replace=, seed=, count=, behind=)`.
        d_max, sampler, replace, reservoir_size, echoes, seed: see `EchoLayer`.
        law: One of `NOISE_LAWS`; see `redrawn`.

    Attributes:
        owner: Name of the layer that a user has made, which messages call by it.

    Raises:
        ValueError: invalid arguments.
    """

    def __init__(
        self,
        noise: Callable[..., Tensor],
        d_max: int,
        sampler: str,
        replace: bool,
        reservoir_size: int | None,
        echoes: str,
        seed: int | None,
        law: str = "echo",
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_d_max(d_max)
        check_choice("sampler", sampler, SAMPLERS)
        check_choice("echoes", echoes, ECHO_SOURCES)
        check_choice("noise", law, NOISE_LAWS)
        seed = check_seed(seed)
        if reservoir_size is not None and reservoir_size <= d_max:
            raise invalid("reservoir_size", f"more than d_max = {d_max}", f"reservoir_size={reservoir_size}")
        self.d_max, self.sampler, self.replace, self.echoes = d_max, sampler, replace, echoes
        self.law, self.owner = law, self.name
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._noise = functools.partial(noise, d_max=d_max, sampler=sampler, replace=replace)
        self.reservoir = Reservoir(reservoir_size or max(RESERVOIR_SIZE, d_max + 1), self._noise, seed, name="reservoir")
        self._watch = BatchWatch(self, self.reservoir, d_max, wants_size=echoes != "reservoir" and not replace)
        self._largest_batch = self._watch.metric

    def build(self, mean_shape, scale_shape):
        self.reservoir.build(mean_shape, scale_shape)
        # 1 while inference takes its echoes from the batch.
        options = {"initializer": "zeros", "trainable": False, "autocast": False}
        self.batch_at_inference = self.add_weight(shape=(), name="batch_at_inference", **options)

    def noise(self, mean: Tensor, scale: Tensor, training: bool) -> Tensor:
        """Fresh noise for every example, `scale` with `r`. In training the pairs are stored, for later batches."""
        self._watch.check(mean, training)
        from_reservoir = not training or self.echoes == "reservoir"
        earlier = self._earlier(mean, is_needed=from_reservoir)
        if not training and self._takes_reservoir():
            return earlier
        noise = self._by_law(self._from_batch(mean, scale, earlier), ops.shape(mean)[0])
        if self.echoes == "detached":
            noise = ops.stop_gradient(noise)
        if from_reservoir:
            from_batch = ops.logical_or(self.reservoir.filled == 0, False if training else self.batch_at_inference > 0)
            noise = ops.where(from_batch, noise, earlier)
        if training:
            self._watch.see(mean)
            self.reservoir.store(mean, scale)
        return noise

    def _takes_reservoir(self) -> bool:
        """Whether inference is known to take its noise from the reservoir, so that a large batch needs none of its own."""
        return self.reservoir.is_filled is True and not bool(ops.convert_to_numpy(self.batch_at_inference) > 0)

    def _earlier(self, mean: Tensor, is_needed: bool) -> Tensor | None:
        """Noise from the reservoir for every example. `None` or 0 if it is not needed and the batch has `d_max` others."""
        batch = ops.shape(mean)[0]

        def draw():
            return ops.stop_gradient(self.reservoir.draw(batch))

        if is_needed and self.law != "echo":
            return ops.stop_gradient(self._by_law(self.reservoir.draw(self.reservoir.size), batch))
        if mean.shape[0] is None and not (is_needed or self.replace):
            return ops.cond(batch <= self.d_max, draw, lambda: ops.zeros_like(mean))
        return draw() if is_needed or (not self.replace and batch <= self.d_max) else None

    def _from_batch(self, mean: Tensor, scale: Tensor, behind: Tensor | None) -> Tensor:
        batch = mean.shape[0]  # None where it is only known at run time
        if batch is None:
            count = ops.minimum(ops.shape(mean)[0] - 1, self.d_max)
            return self._noise(mean, scale, seed=self.seed_generator, count=count, behind=behind)
        # A number, and no constant of the graph: TensorFlow folds the choices that hang on one, and breaks the graph by it.
        echoes = self.d_max if self.replace else min(batch - 1, self.d_max)
        if echoes == 0:  # a single example
            return behind
        return self._noise(mean, scale, d_max=echoes, seed=self.seed_generator, behind=behind)

    def _by_law(self, noise: Tensor, count: Tensor | int) -> Tensor:
        return noise if self.law == "echo" else redrawn(noise, count, self.law, self.seed_generator)

    def sample_marginal(self, n: int) -> Tensor:
        """Draws of the noise from the reservoir, shape `(n, ...)`; see `EchoLayer.sample_marginal`."""
        check_count(n)
        self._watch.check_filled()
        passes = -(-n // self.reservoir.size)
        size = self.reservoir.size
        return ops.concatenate([self._by_law(self.reservoir.draw(size), size) for _ in range(passes)])[:n]

    def truncation(self) -> float:
        """`Reservoir.truncation`. Raises `ValueError` if the reservoir is empty."""
        self._watch.check_filled()
        return self.reservoir.truncation()
