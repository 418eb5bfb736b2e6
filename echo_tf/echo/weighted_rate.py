"""The weight that a layer gives to its own rate in the loss of the model around it."""

import logging
from typing import Any

import keras
from keras import ops

from echo_tf.echo.checks import Tensor, check_options, not_negative
from echo_tf.echo.metrics import RateMetric, RateOfState, RateSums

logger = logging.getLogger(__name__)


class WeightedRateLayer(keras.layers.Layer):
    """A layer in float32, under any dtype policy, that can add `rate_weight * mean(rate)` to the loss of its model.

    `rate_weight` is a variable, and saved. Callbacks may assign it (`layer.rate_weight = 0.5`), on JAX within an epoch only to
    a layer that they reach through `self.model`, which fetches the state of the training first.

    With a weight, `fit` and `evaluate` of that model show `rate` beside `loss`: its mean in nats per example, without the
    weight; of a layer that is called more than once, the mean over its calls, also those by which a callback predicts in the
    midst of an epoch. Of several such layers the metrics are called
    `<name of the layer>_rate`. On JAX the value is known at the end of an epoch; before that the progress bar shows `nan`.

    Args:
        rate_weight: Float >= 0, or `None` for a layer that adds nothing to the loss and has no such variable.

    Raises:
        ValueError: `rate_weight` is no finite number >= 0.
    """

    def __init__(self, rate_weight: float | None = None, **kwargs):
        check_options(type(self), kwargs)
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._weight_variable = None
        self.rate_metric: Any = None  # if the layer has a weight
        self.reports_rate = True  # a model with a metric of its own for the rate says no
        self._has_warned_of_two_rates = False
        if rate_weight is not None:
            initial = keras.initializers.Constant(not_negative("rate_weight", rate_weight))
            self._weight_variable = self.add_weight(shape=(), initializer=initial, trainable=False, name="rate_weight")
            if keras.backend.backend() == "jax":
                self.rate_sums = RateSums(name="rate_sums")
                self.rate_metric = RateOfState(self.rate_sums, name="rate")
            else:
                self.rate_metric = RateMetric(name="rate")

    @property
    def rate_weight(self) -> keras.Variable | None:
        """Weight of the rate in the loss, a scalar variable; `None` if the layer adds nothing to the loss."""
        return self._weight_variable

    @rate_weight.setter
    def rate_weight(self, value: Any) -> None:
        if self._weight_variable is None:
            raise ValueError(f"{self.name} was made with rate_weight=None. Make it with a number to change that later.")
        self._weight_variable.assign(not_negative("rate_weight", value))

    @property
    def metrics(self):
        return [metric for metric in super().metrics if self.reports_rate or metric is not self.rate_metric]

    def add_rate_loss(self, rate: Tensor) -> None:
        """Add the weighted mean of a rate of shape `(batch,)` to the loss of the model, if there is a weight."""
        if self._weight_variable is not None:
            loss = self._weight_variable * ops.mean(rate)
            self.add_loss(ops.cast(loss, keras.config.floatx()))  # the type in which Keras adds the losses of a model
        if self.rate_metric is not None and self.reports_rate:
            self._name_metrics()
            self.rate_metric.update_state(rate)

    def warn_of_two_rates(self) -> None:
        """Warn once, where a rate that is in the loss is also an output of a model or of a training step."""
        if self._weight_variable is not None and not self._has_warned_of_two_rates:
            self._has_warned_of_two_rates = True
            logger.warning(
                "The layer %r adds its rate to the loss, by its rate_weight, and returns it as well (return_rate=True). If the "
                "returned rate gets a loss too, it counts twice: make the layer with rate_weight=None then. To look at it, "
                "there is the metric `rate` of fit and evaluate.",
                self.name,
            )

    def _name_metrics(self) -> None:
        """Name the metrics of all such layers of the model that is being called: two of one name would show as one."""
        model = self._get_call_context().entry_layer
        if model is None or model is self:  # a layer by itself; or on JAX in a model, which has named it while it was built
            return
        layers = model._flatten_layers()
        layers = [layer for layer in layers if isinstance(layer, WeightedRateLayer) and layer.rate_metric is not None]
        layers = [layer for layer in dict.fromkeys(layers) if layer.reports_rate]
        taken: set[str] = set()
        for layer in layers:
            name, number = "rate" if len(layers) == 1 else f"{layer.name}_rate", 1
            while name in taken:
                number += 1
                name = f"{layer.name}_rate_{number}"
            taken.add(name)
            layer.rate_metric.name = name

    def get_config(self):
        weight = None if self._weight_variable is None else float(ops.convert_to_numpy(self._weight_variable))
        return {**super().get_config(), "rate_weight": weight}
