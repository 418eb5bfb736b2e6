"""The weight that a layer gives to its own rate in the loss of the model around it."""

from typing import Any

import keras
from keras import ops

from echo_tf.echo.checks import Tensor, not_negative


class WeightedRateLayer(keras.layers.Layer):
    """A layer in float32, under any dtype policy, that can add `rate_weight * mean(rate)` to the loss of its model.

    `rate_weight` is a variable: callbacks may assign it (`layer.rate_weight = 0.5`) on every backend, and it is saved.

    Args:
        rate_weight: Float >= 0, or `None` for a layer that adds nothing to the loss and has no such variable.

    Raises:
        ValueError: `rate_weight` is no finite number >= 0.
    """

    def __init__(self, rate_weight: float | None = None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._weight_variable = None
        if rate_weight is not None:
            initial = keras.initializers.Constant(not_negative("rate_weight", rate_weight))
            self._weight_variable = self.add_weight(shape=(), initializer=initial, trainable=False, name="rate_weight")

    @property
    def rate_weight(self) -> keras.Variable | None:
        """Weight of the rate in the loss, a scalar variable; `None` if the layer adds nothing to the loss."""
        return self._weight_variable

    @rate_weight.setter
    def rate_weight(self, value: Any) -> None:
        if self._weight_variable is None:
            raise ValueError(f"{self.name} was made with rate_weight=None. Make it with a number to change that later.")
        self._weight_variable.assign(not_negative("rate_weight", value))

    def add_rate_loss(self, rate: Tensor) -> None:
        """Add the weighted mean of a rate of shape `(batch,)` to the loss of the model, if there is a weight."""
        if self._weight_variable is not None:
            loss = self._weight_variable * ops.mean(rate)
            self.add_loss(ops.cast(loss, keras.config.floatx()))  # the type in which Keras adds the losses of a model

    def get_config(self):
        weight = None if self._weight_variable is None else float(ops.convert_to_numpy(self._weight_variable))
        return {**super().get_config(), "rate_weight": weight}
