"""The memory of an Echo channel: encodings of the latest training examples, and noise made of them."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.checks import SEEDS, Tensor

# Between the seed of a layer and that of its reservoir, so that the two never draw the same numbers.
SEED_SHIFT = 3_000_000


class NotedVariable(keras.Variable):
    """A variable that notes whether it was ever assigned: a graph that is being traced cannot read its value."""

    was_assigned = False

    def assign(self, value):
        self.was_assigned = True
        return super().assign(value)


class Reservoir(keras.layers.Layer):
    """Pairs `(f, S)` of the latest training examples, and draws of the noise that they make.

    The pairs are weights that are not trained: saved with the model, and 0 before the first example. Noise from an empty
    reservoir is 0.

    Args:
        size: Integer, number of pairs.
        noise: `(mean, scale, seed=...) -> noise`, which makes the noise of every pair from the others.
        seed: Integer or `None`, seeds a generator of the reservoir's own.
    """

    def __init__(self, size: int, noise: Callable[..., Tensor], seed: int | None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.size, self._noise = size, noise
        self.seed_generator = keras.random.SeedGenerator(None if seed is None else (seed + SEED_SHIFT) % SEEDS)

    def build(self, mean_shape, scale_shape):
        # Float32 too where a method is called inside a layer of another policy: rounded pairs would be stored again.
        options = {"initializer": "zeros", "trainable": False, "autocast": False}
        self.mean = self.add_weight(shape=(self.size, *mean_shape[1:]), name="mean", **options)
        self.scale = self.add_weight(shape=(self.size, *scale_shape[1:]), name="scale", **options)
        # How many examples were stored, up to `size`. Files of version 0.2 hold 1 for any number.
        self.filled = NotedVariable(shape=(), dtype="float32", name="filled", **options)

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Means and scales, `r` included, the latest first. Each of shape `(size, ...)`."""
        return ops.convert_to_tensor(self.mean), ops.convert_to_tensor(self.scale)

    @property
    def is_filled(self) -> bool | None:
        """Whether it holds examples; `None` while a graph is traced, which may outlive the answer."""
        if not self.built:
            return False
        try:
            return bool(ops.convert_to_numpy(self.filled) > 0)
        except (NotImplementedError, TypeError):  # TensorFlow and JAX, while they trace
            return None

    def store(self, mean: Tensor, scale: Tensor) -> None:
        """Put the pairs of a training batch in front; the oldest fall out. A batch with a number that is not finite is dropped.

        The first batch fills the reservoir, repeated as often as needed; if it is a single example, with the next one.
        """
        count, filled = ops.shape(mean)[0], ops.convert_to_tensor(self.filled)
        values = [ops.stop_gradient(ops.cast(value, "float32")) for value in (mean, scale)]
        is_sound = ops.logical_and(*(ops.all(ops.isfinite(value)) for value in values))

        def shifted(value, kept):
            return ops.concatenate([value, kept[: self.size - count]])[: self.size]

        def repeated(value, kept):
            rows = ops.arange(self.size, dtype="int32") % (count + ops.cast(filled, "int32"))
            return ops.take(ops.concatenate([value, kept]), rows, axis=0)

        # The case is chosen, not the result: what is not needed of so many numbers is not computed.
        case = ops.where(is_sound, ops.where(filled >= 2, 1, 2), 0)
        cases = [lambda form=form: tuple(map(form, values, self.pairs)) for form in (lambda _, kept: kept, shifted, repeated)]
        for variable, value in zip((self.mean, self.scale), ops.switch(case, cases), strict=True):
            variable.assign(value)
        stored = ops.minimum(filled + ops.cast(count, filled.dtype), float(self.size))
        self.filled.assign(ops.where(is_sound, stored, filled))

    def fill(self, mean: Tensor, scale: Tensor, seed: int) -> None:
        """Fill it with a random sample of pairs, repeated if there are fewer than it holds.

        Raises:
            ValueError: fewer than two examples, or a number that is not finite.
        """
        values = [np.asarray(ops.convert_to_numpy(value), "float32") for value in (mean, scale)]
        count = len(values[0])
        if count < 2:
            raise ValueError(f"Expected at least two examples to fill a reservoir with. Received: {count}")
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError("Expected finite means and scales to fill a reservoir with. Received NaN or infinite values.")
        order = np.random.default_rng(seed).permutation(count)
        rows = order[np.arange(self.size) % count]
        self.mean.assign(values[0][rows])
        self.scale.assign(values[1][rows])
        self.filled.assign(float(min(count, self.size)))

    def load_own_variables(self, store):
        if self.built:
            self._check_size(store)
        super().load_own_variables(store)
        if not self.built:  # a copy of a layer that was never called
            return
        kept = ops.convert_to_numpy(self.mean)
        if ops.convert_to_numpy(self.filled) == 1 and np.any(kept != kept[0]):  # of version 0.2
            self.filled.assign(float(self.size))

    def _check_size(self, store: Mapping[str, Any]) -> None:
        """Raise `ValueError` for weights of a reservoir that holds another number of pairs."""
        stored = tuple(store["0"].shape) if "0" in store else ()  # of the means
        if len(stored) > 1 and stored[0] != self.size and stored[1:] == tuple(self.mean.shape[1:]):
            raise ValueError(
                f"These weights are of an Echo layer with reservoir_size={stored[0]}, and this one has {self.size}. Make the "
                f"layer with reservoir_size={stored[0]} and load them again; or load the whole model from a .keras file."
            )

    def draw(self, n: Tensor | int) -> Tensor:
        """`n` draws of the noise, shape `(n, ..., dim)`.

        Each has the law of the noise for the stored pairs. Draws of one call depend on each other; those behind the first
        `size` repeat them.
        """
        noise = self._noise(*self.pairs, seed=self.seed_generator)
        return ops.take(noise, ops.arange(n) % self.size, axis=0)

    def truncation(self) -> float:
        """How much of the noise is cut after the last echo: the root mean square of what would come behind it.

        In standard deviations of the noise, and of the dimension where it is largest. The draws are always the same.
        """
        mean, scale = self.pairs
        noise = self._noise(mean, scale, seed=0)
        cut = self._noise(ops.zeros_like(mean), scale, behind=noise, seed=1)
        return float(ops.max(ops.sqrt(ops.mean(ops.square(cut), axis=0)) / (ops.std(noise, axis=0) + keras.config.epsilon())))
