import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="session")
def repeated():
    """A function that calls another many times, in one graph: `(function, times) -> results`, stacked. Eagerly it is slow."""

    def run(function, times):
        signature = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), function())

        @tf.function
        def loop():
            return tf.map_fn(lambda _: function(), tf.range(times), fn_output_signature=signature, parallel_iterations=1)

        return tf.nest.map_structure(np.asarray, loop())

    return run


@pytest.fixture(scope="session")
def replaying():
    """A function that calls another with the random numbers that a layer drew in the last such call: `(layer, function)`."""
    kept = {}

    def run(layer, function):
        states = [weight for weight in layer.variables if weight.path.endswith("seed_generator_state")]
        before = kept.setdefault(id(layer), (layer, [state.numpy() for state in states]))[1]
        for state, value in zip(states, before, strict=True):
            state.assign(value)
        return function()

    return run
