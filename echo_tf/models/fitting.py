"""What surrounds the steps of a training: examples are looked at, the prior is started, and the channel renewed."""

import logging
import math
from typing import Any

import keras
from keras import ops

from echo_tf.models.examples import check_examples, some_examples
from echo_tf.models.passing import Passing
from echo_tf.models.refresh import REFRESH_EXAMPLES, RefreshChannel
from echo_tf.models.refusals import check_training

logger = logging.getLogger(__name__)


class Fitting(Passing):
    """`fit`, `evaluate` and `predict`."""

    _has_warned_of_order = False

    def fit(self, x=None, y=None, batch_size=None, *args, callbacks=None, **kwargs):
        """`keras.Model.fit`, after which what the channel stores is that of the final parameters.

        It is also renewed for each validation, which leaves no trace in the training. From a generator, which cannot be read a
        second time, it stays that of the last training steps; `refresh_channel` renews it, and so it should in a model that
        `ModelCheckpoint` saved in the middle. A channel that is frozen stays as it is. The pseudo-inputs of a VampPrior are set
        to training examples before the first training.

        Raises:
            ValueError: see the class; a generator for a VampPrior that has not been started.
        """
        weights = [kwargs[name] for name in ("sample_weight", "class_weight") if kwargs.get(name) is not None]
        check_training(self, x, y, weights or None)
        if kwargs.get("validation_data") is not None:  # else an epoch passes before it is looked at
            check_training(self, *keras.utils.unpack_x_y_sample_weight(kwargs["validation_data"]))
        data = x
        if hasattr(x, "shape"):
            if not kwargs.get("shuffle", True):
                self._warn_of_order()
            data = x[: math.floor(len(x) * (1.0 - kwargs.get("validation_split", 0.0)))]  # as Keras splits it
        callbacks = callbacks if isinstance(callbacks, list | tuple) else [c for c in (callbacks,) if c]
        # Behind callbacks that change the weights: `SwapEMAWeights` before a validation, `EarlyStopping` at the end. But those
        # that use the model at the end find it renewed.
        refresh = self.follow(data)
        first = keras.callbacks.LambdaCallback(on_train_end=refresh.on_train_end)
        return super().fit(x, y, batch_size, *args, callbacks=[first, *callbacks, refresh], **kwargs)

    def follow(self, data: Any) -> RefreshChannel:
        """Ready the prior for a training on `data`; the callback that renews the channel, for loops other than `fit` of it."""
        if self.prior is not None and self.prior.needs_start:
            if not self.prior.built:  # as the model is, until Keras has seen a batch
                self.prior.build((None, self.channel.units))
            if not ops.convert_to_numpy(self.prior.started) > 0:
                self._start_prior(data)
        return RefreshChannel(data)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate`. Raises `ValueError` as `fit`."""
        check_training(self, x, y, kwargs.get("sample_weight"))
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict`. Raises `ValueError` for examples, as `fit`."""
        if not hasattr(x, "__next__"):
            check_examples(x, self.encoder, self.distortion)
        return super().predict(x, *args, **kwargs)

    def _warn_of_order(self) -> None:
        if self.channel.has_memory and not self._has_warned_of_order:
            self._has_warned_of_order = True
            logger.warning(
                "fit(shuffle=False) takes batches in the order of the data. The examples of a batch are each other's noise in "
                "%r, so each must be a random sample: of data that are sorted, by label say, the rate is wrong. Leave out "
                "shuffle=False unless they are in random order.",
                self.channel.name,
            )

    def _start_prior(self, data: Any) -> None:
        if hasattr(data, "__next__"):
            raise ValueError(
                "The pseudo-inputs of a VampPrior start from training images, which a generator gives only once. Call "
                "model.prior.start_from(images) before fit, or pass an array or a dataset."
            )
        # Of an array, which may be sorted, all; a dataset is taken to be shuffled.
        self.prior.start_from(ops.convert_to_numpy(data) if hasattr(data, "shape") else some_examples(data, REFRESH_EXAMPLES))
