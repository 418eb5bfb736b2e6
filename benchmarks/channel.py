"""The arithmetic of a channel by itself: draws and their gradients, and nothing else, in one compiled loop."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops


def compiled_draws(channel: keras.Layer) -> Callable[[np.ndarray], float]:
    """A function of the features of many training steps, shape `(steps, batch, features)`. It waits for the last of them.

    Every draw is made in training mode, with what the channel stores, and with the gradient of a function of `z` and rate by
    the weights. No model, optimizer, metric, decoder or input.
    """
    return {"tensorflow": _on_tensorflow, "jax": _on_jax}[keras.backend.backend()](channel)


def _on_tensorflow(channel):
    import tensorflow as tf

    @tf.function
    def run(features):
        def draw(i, total):
            with tf.GradientTape() as tape:
                loss = _loss(*channel(features[i], return_rate=True, training=True))
            return i + 1, total + _total(tape.gradient(loss, [weight.value for weight in channel.trainable_weights]))

        return tf.while_loop(lambda i, _: i < len(features), draw, (0, 0.0))[1]

    return lambda features: float(run(features))


def _on_jax(channel):
    import jax

    def loss(weights, state, features):
        outputs, state = channel.stateless_call(weights, state, features, return_rate=True, training=True)
        return _loss(*outputs), state

    @jax.jit
    def run(weights, state, features):
        def draw(carry, features):
            state, total = carry
            gradients, state = jax.grad(loss, has_aux=True)(weights, state, features)
            return (state, total + _total(gradients)), None

        return jax.lax.scan(draw, (state, 0.0), features)[0][1]

    weights, state = ([v.value for v in group] for group in (channel.trainable_variables, channel.non_trainable_variables))
    return lambda features: float(run(weights, state, features))


def _loss(z, rate):
    return ops.sum(ops.square(z)) + ops.sum(rate)


def _total(gradients):
    """A number that depends on all of them, so that none is left out."""
    return sum(map(ops.sum, gradients))
