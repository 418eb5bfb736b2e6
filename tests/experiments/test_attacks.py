import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from echo_tf.errors import ConfigError
from echo_tf.experiments.attacks import fgsm, gradient_of, pgd
from echo_tf.experiments.robustness import expected_loss
from echo_tf.models.channels import GaussianChannel

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(12, 6)).astype("float32")
LABELS = np.arange(12) % 2


def classifier(channel, hidden=None):
    """Two classes; without a hidden layer and noise a linear one."""
    keras.utils.set_random_seed(0)
    examples = keras.Input((6,))
    h = keras.layers.Dense(hidden, activation="tanh")(examples) if hidden else examples
    h = keras.layers.Identity(name="features")(h)
    return keras.Model(examples, keras.layers.Dense(2, name="logits")(channel(h)))


@pytest.fixture
def linear():
    return classifier(keras.layers.Identity(name="channel"))


@pytest.fixture
def noisy():
    return classifier(GaussianChannel(3, seed=0, name="channel"), hidden=8)


@pytest.mark.parametrize("size", [0.0, 0.05, 0.4])
def test_a_linear_classifier_is_attacked_in_closed_form(linear, size):
    """The loss grows with the logit of the wrong class less that of the right one: no image within `size` has a larger one."""
    kernel = np.asarray(linear.get_layer("logits").kernel)
    direction = np.sign(kernel[:, 1 - LABELS] - kernel[:, LABELS]).T
    best = np.clip(IMAGES + size * direction, 0, 1)
    gradient = gradient_of(expected_loss(linear, 1), batch_size=5)
    np.testing.assert_allclose(fgsm(gradient, IMAGES, LABELS, size), best, atol=1e-6)
    np.testing.assert_allclose(pgd(gradient, IMAGES, LABELS, size, 10, RNG), best, atol=1e-6)


def test_attacked_images_are_images_within_the_size(noisy):
    gradient = gradient_of(expected_loss(noisy, 3), batch_size=5)
    for attacked in (fgsm(gradient, IMAGES, LABELS, 0.3), pgd(gradient, IMAGES, LABELS, 0.3, 4, np.random.default_rng(1))):
        assert attacked.dtype == np.float32 and attacked.shape == IMAGES.shape
        assert attacked.min() == 0 and attacked.max() == 1  # where the limit holds it back
        assert 0.299 < np.abs(attacked - IMAGES).max() <= 0.3 + 1e-6


def test_pgd_starts_at_random(noisy):
    def never_moved(images, labels):
        return np.zeros_like(images)

    starts = pgd(never_moved, IMAGES, LABELS, 0.1, 1, np.random.default_rng(1)) - IMAGES
    assert (starts < -0.05).any() and (starts > 0.05).any()


def test_without_noise_the_expectation_is_the_plain_gradient(linear):
    plain, expected = (gradient_of(expected_loss(linear, draws), batch_size=12)(IMAGES, LABELS) for draws in (1, 4))
    np.testing.assert_allclose(expected, plain, atol=1e-7)


def test_draws_of_noise_are_fresh_and_averaged(noisy):
    """The variance of a mean of 16 independent draws is a sixteenth; F has a quantile of 5 standard errors near 1.5 here."""
    spread = {}
    for draws in (1, 16):
        gradient = gradient_of(expected_loss(noisy, draws), batch_size=12)
        found = np.array([gradient(IMAGES, LABELS) for _ in range(200)])
        spread[draws] = found.var(axis=0).mean()
    assert 16 / 1.5 < spread[1] / spread[16] < 16 * 1.5


def test_bad_input_is_named(linear, monkeypatch):
    gradient = gradient_of(expected_loss(linear, 1), batch_size=5)
    with pytest.raises(ValueError, match=r"size of at least 0\. Received: size=-0\.1"):
        fgsm(gradient, IMAGES, LABELS, -0.1)
    with pytest.raises(ValueError, match=r"images in \[0, 1\]\. Received values from .* to 255"):
        pgd(gradient, np.float32(255) * (IMAGES > 0.5), LABELS, 0.1, 2, RNG)
    with pytest.raises(ValueError, match=r"at least one step\. Received: steps=0"):
        pgd(gradient, IMAGES, LABELS, 0.1, 0, RNG)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ConfigError, match="tensorflow or jax. Found: torch"):
        gradient_of(None, batch_size=5)


ON_JAX = """
import keras, numpy as np, sys
from echo_tf.experiments.attacks import gradient_of
from echo_tf.experiments.robustness import expected_loss
from echo_tf.models.channels import GaussianChannel
h = keras.layers.Identity(name="features")(examples := keras.Input((4,)))
z = GaussianChannel(2, seed=0, name="channel")(h)
model = keras.Model(examples, keras.layers.Dense(2, name="logits")(z))
gradient = gradient_of(expected_loss(model, 2), 3)
images, labels = np.full((5, 4), 0.5), np.arange(5) % 2
first, second = gradient(images, labels), gradient(images, labels)
assert keras.backend.backend() == "jax" and first.shape == (5, 4)
assert np.abs(first).min() > 0 and np.abs(first - second).max() > 1e-6  # fresh noise at every call
"""


@pytest.mark.jax
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")
def test_jax():
    options = {"env": os.environ | {"KERAS_BACKEND": "jax"}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", ON_JAX], **options)
    assert done.returncode == 0, done.stderr
