"""Attacks on a classifier: images moved by at most `size` in every pixel so that its loss grows (L-infinity, white box).

Our own: for a classifier with noise the mean of the losses is what must grow. Foolbox averages the logits instead, which takes
the noise away where a linear map makes them. An attack is a few lines; the gradient is what needs care.
"""

from collections.abc import Callable

import keras
import numpy as np

from echo_tf.errors import ConfigError

# From images `(n, ...)` in [0, 1] and integer labels `(n,)` to the gradient of the loss of each with regard to it.
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def gradient_of(loss: keras.Model, batch_size: int) -> Gradient:
    """The gradient of losses with regard to the images, `d loss_i / d x_i`.

    Where the loss is a mean over draws of noise, so is the gradient: the expectation over transformations. Every call has fresh
    noise.

    Args:
        loss: Keras model from `[images, labels]` to losses, shape `(n,)`. That of an image must not depend on other images.
        batch_size: Integer, images in one step.

    Returns:
        Function from images of shape `(n, ...)` and labels of shape `(n,)` to gradients of the shape of the images.

    Raises:
        ConfigError: a backend other than TensorFlow and JAX.

    Source: Athalye, Engstrom, Ilyas & Kwok 2018, section 2.1.
    """
    backends = {"tensorflow": _tensorflow_gradient, "jax": _jax_gradient}
    if (backend := keras.backend.backend()) not in backends:
        raise ConfigError(f"Attacks need the Keras backend tensorflow or jax. Found: {backend}. Set KERAS_BACKEND.")
    of_batch = backends[backend](loss)

    def gradient(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        images, labels = images.astype("float32"), labels.astype("int32")
        parts = (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
        return np.concatenate([np.asarray(of_batch(images[part], labels[part])) for part in parts])

    return gradient


def fgsm(gradient: Gradient, images: np.ndarray, labels: np.ndarray, size: float) -> np.ndarray:
    """Fast gradient sign method: `clip(x + size * sign(gradient), 0, 1)`. For a linear loss no other attack is stronger.

    Args:
        gradient: See `gradient_of`.
        images: Shape `(n, ...)`, in [0, 1].
        labels: Integers, shape `(n,)`.
        size: Float >= 0, the largest change of a pixel.

    Returns:
        Attacked images in [0, 1], float32.

    Raises:
        ValueError: a negative size, or images outside [0, 1].

    Source: Goodfellow et al. 2015, section 4.
    """
    return _stepped(images, images, size, size, gradient(_checked(images, size), labels))


def pgd(
    gradient: Gradient, images: np.ndarray, labels: np.ndarray, size: float, steps: int, rng: np.random.Generator
) -> np.ndarray:
    """Projected gradient ascent: `steps` signed steps of `2.5 size / steps`, each clipped to `size` and to [0, 1].

    It starts at a uniform draw from all images that are within `size`.

    Args:
        gradient, images, labels, size: See `fgsm`.
        steps: Integer >= 1.
        rng: For the start.

    Returns:
        Attacked images in [0, 1], float32.

    Raises:
        ValueError: as `fgsm`, or fewer steps than one.

    Source: Madry et al. 2018, section 2.1. With such steps the boundary can be reached from every start.
    """
    if steps < 1:
        raise ValueError(f"Expected at least one step. Received: steps={steps}")
    start = _checked(images, size) + rng.uniform(-size, size, images.shape)
    found = np.clip(start, 0.0, 1.0).astype("float32")
    for _ in range(steps):
        found = _stepped(found, images, 2.5 * size / steps, size, gradient(found, labels))
    return found


def _checked(images: np.ndarray, size: float) -> np.ndarray:
    if not size >= 0:
        raise ValueError(f"Expected a size of at least 0. Received: size={size}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"Expected images in [0, 1]. Received values from {images.min():g} to {images.max():g}")
    return images


def _stepped(found: np.ndarray, images: np.ndarray, step: float, size: float, gradient: np.ndarray) -> np.ndarray:
    """A signed step from `found`, brought back to within `size` of `images` and to [0, 1]."""
    moved = found + np.float32(step) * np.sign(gradient)
    return np.clip(np.clip(moved, images - np.float32(size), images + np.float32(size)), 0.0, 1.0)


def _tensorflow_gradient(loss: keras.Model) -> Callable:
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def gradient(images, labels):
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(loss([images, labels], training=False))
        return tape.gradient(total, images)

    return lambda images, labels: gradient(tf.constant(images), tf.constant(labels))


def _jax_gradient(loss: keras.Model) -> Callable:
    import jax

    @jax.jit
    def gradient(images, labels, trained, others):
        def total(images):
            losses, updated = loss.stateless_call(trained, others, [images, labels], training=False)
            return losses.sum(), updated

        return jax.grad(total, has_aux=True)(images)

    def of_batch(images, labels):
        values = ([variable.value for variable in group] for group in (loss.trainable_variables, loss.non_trainable_variables))
        found, updated = gradient(images, labels, *values)
        for variable, value in zip(loss.non_trainable_variables, updated, strict=True):
            variable.assign(value)  # the state of the noise: without it every call would draw the same
        return found

    return of_batch
