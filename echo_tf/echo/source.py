"""Where the echoes of a channel come from: the batch, the reservoir behind it, or the reservoir alone."""

import functools
import logging
from collections.abc import Callable

import keras
from keras import ops

from echo_tf.echo.bound import check_d_max
from echo_tf.echo.checks import Tensor, check_choice, check_seed
from echo_tf.echo.laws import NOISE_LAWS, redrawn
from echo_tf.echo.metrics import LargestBatch
from echo_tf.echo.noise import SAMPLERS
from echo_tf.echo.reservoir import Reservoir

logger = logging.getLogger(__name__)

ECHO_SOURCES = ("batch", "reservoir")
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
        check_seed(seed)
        if reservoir_size is not None and reservoir_size <= d_max:
            raise ValueError(
                f"Invalid value received for argument `reservoir_size`. Expected more than d_max = {d_max}. "
                f"Received: reservoir_size={reservoir_size}"
            )
        self.d_max, self.sampler, self.replace, self.echoes = d_max, sampler, replace, echoes
        self.law, self.owner = law, self.name
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._noise = functools.partial(noise, d_max=d_max, sampler=sampler, replace=replace)
        self.reservoir = Reservoir(reservoir_size or max(RESERVOIR_SIZE, d_max + 1), self._noise, seed, name="reservoir")
        self._has_warned = self._has_warned_of_size = False
        self._largest = 0  # training batch of a size that was known before run time
        watched = echoes == "batch" and not replace and keras.backend.backend() == "tensorflow"  # elsewhere sizes are known
        self._largest_batch = LargestBatch(self._warn_of_size, name="largest_batch") if watched else None

    def build(self, mean_shape, scale_shape):
        self.reservoir.build(mean_shape, scale_shape)
        # 1 while inference takes its echoes from the batch.
        self.batch_at_inference = self.add_weight(shape=(), initializer="zeros", trainable=False, name="batch_at_inference")

    def noise(self, mean: Tensor, scale: Tensor, training: bool) -> Tensor:
        """Fresh noise for every example, `scale` with `r`. In training the pairs are stored, for later batches."""
        self._check_batch(mean.shape[0], training)
        from_reservoir = not training or self.echoes == "reservoir"
        earlier = self._earlier(mean, is_needed=from_reservoir)
        noise = self._by_law(self._from_batch(mean, scale, earlier), ops.shape(mean)[0])
        if from_reservoir:
            from_batch = ops.logical_or(self.reservoir.filled == 0, False if training else self.batch_at_inference > 0)
            noise = ops.where(from_batch, noise, earlier)
        if training:
            self._watch_size(mean)
            self.reservoir.store(mean, scale)
        return noise

    def _earlier(self, mean: Tensor, is_needed: bool) -> Tensor:
        """Noise from the reservoir for every example; 0 if it is not needed and the batch has `d_max` others for each."""
        batch = ops.shape(mean)[0]

        def draw():
            return ops.stop_gradient(self.reservoir.draw(batch))

        if is_needed and self.law != "echo":
            return ops.stop_gradient(self._by_law(self.reservoir.draw(self.reservoir.size), batch))
        if mean.shape[0] is None and not (is_needed or self.replace):
            return ops.cond(batch <= self.d_max, draw, lambda: ops.zeros_like(mean))
        return draw() if is_needed or (not self.replace and batch <= self.d_max) else ops.zeros_like(mean)

    def _from_batch(self, mean: Tensor, scale: Tensor, behind: Tensor) -> Tensor:
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
        self._check_filled()
        passes = -(-n // self.reservoir.size)
        size = self.reservoir.size
        return ops.concatenate([self._by_law(self.reservoir.draw(size), size) for _ in range(passes)])[:n]

    def truncation(self) -> float:
        """How much of the noise is cut after `d_max` echoes: the root mean square of what would come behind them.

        In standard deviations of the noise, and of the dimension where it is largest. From the pairs of the reservoir; the
        draws are always the same.

        Raises:
            ValueError: the reservoir is empty.
        """
        self._check_filled()
        mean, scale = self.reservoir.pairs
        noise = self._noise(mean, scale, seed=0)
        cut = self._noise(ops.zeros_like(mean), scale, behind=noise, seed=1)
        return float(ops.max(ops.sqrt(ops.mean(ops.square(cut), axis=0)) / (ops.std(noise, axis=0) + keras.config.epsilon())))

    def _check_filled(self) -> None:
        if self.reservoir.is_filled is False:
            raise ValueError(
                f"The layer {self.owner!r} has no training examples to draw from. Train it first, or call adapt of the "
                "layer with features of at least two training examples."
            )

    def _check_batch(self, batch: int | None, training: bool) -> None:
        if batch == 0:
            raise ValueError(f"The layer {self.owner!r} received an empty batch. Expected at least one example.")
        is_filled = self.reservoir.is_filled
        if batch == 1 and is_filled is False:
            raise ValueError(
                f"The layer {self.owner!r} received a batch of one example, which has no others to make noise from, and its "
                "reservoir is empty. Pass at least 2 examples, train the layer, or call adapt."
            )
        is_empty = not self.reservoir.has_been_filled if is_filled is None else not is_filled
        if is_empty and not training and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The layer %r has seen no training example yet, so that noise comes from the batch at hand (of a single "
                "example: none). Train the model first; a training loop of your own must call it with training=True. Or call "
                "adapt of the layer with features of training examples.",
                self.owner,
            )

    def _watch_size(self, mean: Tensor) -> None:
        """Warn, once, if no training batch has more than `d_max` examples: of the first one, or at the end of an epoch."""
        if self.echoes == "reservoir" or self.replace or self._has_warned_of_size:
            return
        if mean.shape[0] is not None:
            self._largest = max(self._largest, mean.shape[0])
            self._warn_of_size(self._largest)
        elif self._largest_batch is not None:
            self._largest_batch.update_state(ops.shape(mean)[0])

    def _warn_of_size(self, largest: int) -> None:
        if max(largest, self._largest) > self.d_max or self._has_warned_of_size:
            return
        self._has_warned_of_size = True
        logger.warning(
            "The layer %r has training batches of %d examples, no more than d_max = %d. Echoes behind the first %d come from "
            "the reservoir, without gradient. Use batches of more than d_max examples or a smaller d_max, or choose it with "
            "echoes='reservoir'. And shuffle: the examples of a batch are each other's noise, so it must be a random sample of "
            "the data. fit shuffles arrays, but no generator or tf.data.Dataset.",
            self.owner,
            largest,
            self.d_max,
            largest - 1,
        )
