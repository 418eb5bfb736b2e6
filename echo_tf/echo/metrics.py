"""What the layers report to `fit` and `evaluate` of the model around them, as metrics that Keras finds by itself."""

from collections.abc import Callable

import keras
from keras import ops

from echo_tf.echo.checks import Tensor


class UnsavedMetric(keras.metrics.Metric):
    """A metric of a layer that leaves no trace in saved files, which models without it then read as well."""

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


class RateMetric(UnsavedMetric, keras.metrics.Mean):
    """Mean rate in nats per example since the last reset."""


class LargestBatch(UnsavedMetric):
    """Size of the largest training batch since the last reset, where it is known at run time only. Adds nothing to the logs.

    Args:
        report: Called with that size where Keras reads the metrics outside of a graph: at the end of an epoch. A last batch
            that is smaller than the others does not matter then.
    """

    def __init__(self, report: Callable[[int], None], **kwargs):
        super().__init__(**kwargs)
        self.report = report
        self.largest = self.add_variable(shape=(), initializer="zeros", name="largest")

    def update_state(self, batch: Tensor, sample_weight=None):
        self.largest.assign(ops.maximum(self.largest, ops.cast(batch, self.largest.dtype)))

    def result(self):
        try:
            largest = int(ops.convert_to_numpy(self.largest))
        except (NotImplementedError, TypeError):  # in a graph
            return {}
        if largest:
            self.report(largest)
        return {}
