"""What the layers report to `fit` and `evaluate` of the model around them, as metrics that Keras finds by itself."""

import math
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


class RateSums(keras.layers.Layer):
    """Sum and number of the rates since the last reset, as state of the layer that sends them.

    On JAX the call of a layer may change the layer's state but no metric's. No weights: they are neither saved nor counted.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        options = {"shape": (), "initializer": "zeros", "trainable": False}
        self.total, self.count = self.add_weight(name="total", **options), self.add_weight(name="count", **options)
        self.built = True  # it is not called

    @property
    def weights(self):
        return []

    def add(self, rate: Tensor) -> None:
        """Count the rates of a batch, shape `(batch,)`."""
        rate = ops.stop_gradient(rate)
        self.total.assign(self.total + ops.sum(rate))
        self.count.assign(self.count + ops.cast(ops.shape(rate)[0], "float32"))

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


class RateOfState(UnsavedMetric):
    """`RateMetric` for JAX, where it reads what a layer has counted.

    Keras hands the state of the layers back at the end of an epoch: before that the value is NaN, not an old one.

    Args:
        sums: `RateSums`.
    """

    def __init__(self, sums: RateSums, **kwargs):
        super().__init__(**kwargs)
        self.sums = sums
        self.probe = self.add_variable(shape=(), initializer="zeros", name="probe")  # cannot be read in a graph

    def update_state(self, rate: Tensor, sample_weight=None):
        self.sums.add(rate)

    def result(self):
        try:
            total, count, _ = (float(ops.convert_to_numpy(value)) for value in (self.sums.total, self.sums.count, self.probe))
        except TypeError:  # in a graph
            return ops.convert_to_tensor(math.nan)
        return ops.convert_to_tensor(total / count if count else math.nan)

    def reset_state(self):
        self.sums.total.assign(0.0)
        self.sums.count.assign(0.0)


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
