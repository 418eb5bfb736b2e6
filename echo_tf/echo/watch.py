"""What an Echo channel says of the batches that it gets: errors and warnings, each warning once."""

import logging
from typing import Any

import keras
from keras import ops

from echo_tf.echo.checks import Tensor
from echo_tf.echo.metrics import LargestBatch
from echo_tf.echo.reservoir import Reservoir

logger = logging.getLogger(__name__)


class BatchWatch:
    """Looks at every batch of an Echo channel.

    Args:
        source: The `EchoSource` whose `owner` is named in what is said.
        reservoir: Its reservoir.
        d_max: Integer, the number of echoes that a batch should have.
        wants_size: Boolean, whether training batches should have more than `d_max` examples.

    Attributes:
        metric: `LargestBatch`, which the source must have among its attributes, where Keras finds it; or `None`.
    """

    def __init__(self, source: Any, reservoir: Reservoir, d_max: int, wants_size: bool):
        self._source, self._reservoir, self._d_max = source, reservoir, d_max
        self._has_warned_of_none, self._has_warned_of_size = False, not wants_size
        self._largest = 0  # training batch of a size that was known before run time
        at_run_time = wants_size and keras.backend.backend() == "tensorflow"  # elsewhere sizes are known
        self.metric = LargestBatch(self._warn_of_size, name="largest_batch") if at_run_time else None

    def check_filled(self) -> None:
        """Raise `ValueError` if there is nothing to draw from, outside of a graph."""
        if self._reservoir.is_filled is False:
            raise ValueError(
                f"The layer {self._source.owner!r} has no training examples to draw from. Train it first, or call adapt of the "
                "layer with features of at least two training examples."
            )

    def check(self, mean: Tensor, training: bool) -> None:
        """Refuse a batch that no noise can be made for, and warn at inference before any training.

        Args:
            mean: `f(x)` of the batch, whose size may be known at run time only.
            training: Boolean.

        Raises:
            ValueError: no example, or a single one before all others.
        """
        batch = mean.shape[0]
        if batch == 0:
            raise ValueError(f"The layer {self._source.owner!r} received an empty batch. Expected at least one example.")
        is_filled = self._reservoir.is_filled
        if batch == 1 and is_filled is False:
            raise ValueError(
                f"The layer {self._source.owner!r} received a batch of one example, which has no others to make noise from, "
                "and its reservoir is empty. Pass at least 2 examples, train the layer, or call adapt."
            )
        # Weights of an untrained layer that were set are not worth a warning.
        is_empty = not self._reservoir.filled.was_assigned if is_filled is None else not is_filled
        if is_empty and not training and not self._has_warned_of_none and not _is_building(mean, is_filled):
            self._has_warned_of_none = True
            logger.warning(
                "The layer %r has seen no training example yet, so that noise comes from the batch at hand (of a single "
                "example: none). Train the model first; a training loop of your own must call it with training=True. Or call "
                "adapt of the layer with features of training examples.",
                self._source.owner,
            )

    def see(self, mean: Tensor) -> None:
        """Warn if no training batch has more than `d_max` examples: of the first one, or at the end of an epoch."""
        if self._has_warned_of_size:
            return
        if mean.shape[0] is not None:
            self._largest = max(self._largest, mean.shape[0])
            self._warn_of_size(self._largest)
        elif self.metric is not None:
            self.metric.update_state(ops.shape(mean)[0])

    def _warn_of_size(self, largest: int) -> None:
        if max(largest, self._largest) > self._d_max or self._has_warned_of_size:
            return
        self._has_warned_of_size = True
        logger.warning(
            "The layer %r has training batches of %d examples, no more than d_max = %d. Echoes behind the first %d come from "
            "the reservoir, without gradient. Use batches of more than d_max examples or a smaller d_max; or set "
            "echoes='reservoir', with which all noise is from there and has no gradient. And shuffle: the examples of a batch "
            "are each other's noise, so it must be a random sample of the data. fit shuffles arrays, but no generator or "
            "tf.data.Dataset.",
            self._source.owner,
            largest,
            self._d_max,
            largest - 1,
        )


def _is_building(mean: Tensor, is_filled: bool | None) -> bool:
    """Whether Keras only looks for shapes, as in the first `fit` on JAX: the weights can be read there, and values cannot."""
    if is_filled is None or keras.backend.backend() != "jax":
        return False
    try:
        ops.convert_to_numpy(mean[:0])
    except TypeError:
        return True
    return False
