"""Renewal of what a channel stores about the training data, which lags behind the weights while they change."""

import logging

import keras
import numpy as np
from keras import ops

from echo_tf.models.examples import some_examples

logger = logging.getLogger(__name__)

# Training examples that renew what a channel stores: enough that their sampling error does not count.
REFRESH_EXAMPLES = 10_000


class RefreshChannel(keras.callbacks.Callback):
    """Renew what the channel stores for each validation and at the end of training.

    After a validation all is as before it, the states of the noise too, so that a training that is watched goes as one that
    is not.
    """

    def __init__(self, data):
        super().__init__()
        self.data = data
        self.renewed = []  # weights behind the last renewal at the end

    def on_test_begin(self, logs=None):
        states = (*self.model.channel.non_trainable_weights, *self.model.random_states)
        self.before = [(state, ops.copy(state)) for state in states]
        self._refresh()

    def on_test_end(self, logs=None):
        for state, value in self.before:
            state.assign(value)

    def on_train_end(self, logs=None):
        # Callbacks may call this more than once.
        if not self.renewed or not all(map(np.array_equal, self._weights(), self.renewed)):
            self._refresh()
            self.renewed = self._weights()

    def _weights(self):
        return [ops.convert_to_numpy(weight) for weight in self.model.weights]

    def _refresh(self):
        channel = self.model.channel
        if not (channel.has_memory and channel.trainable) or hasattr(self.data, "__next__"):
            return
        if not all(np.isfinite(weight).all() for weight in self._weights()):
            logger.warning(
                "The training has diverged: there are weights that are not finite. What %r stores is not renewed. Lower the "
                "learning rate, and train anew.",
                channel.name,
            )
        else:
            self.model.refresh_channel(some_examples(self.data, REFRESH_EXAMPLES))
