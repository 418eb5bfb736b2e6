import math

import keras
import numpy as np
from keras import ops

from echo_tf.channels import GaussianChannel
from echo_tf.losses import bernoulli_distortion, gaussian_kl


def test_gaussian_noise_is_independent_for_every_example():
    layer = GaussianChannel(3, seed=0)
    z = np.asarray(layer(np.ones((4000, 5), "float32")))  # equal features: what varies is noise
    mean, log_var = (np.asarray(value)[0] for value in layer.statistics(np.ones((1, 5), "float32")))
    sd = np.exp(log_var / 2)
    assert np.all(np.abs(z.mean(0) - mean) < 5 * sd / math.sqrt(len(z)))
    assert np.all(np.abs(z.var(0) / sd**2 - 1) < 5 * math.sqrt(2 / len(z)))


def test_gaussian_channel_is_float32_and_survives_its_config():
    layer = GaussianChannel(3, seed=4)
    z, rate = layer(ops.ones((2, 5), dtype="bfloat16"), return_rate=True)
    assert {keras.backend.standardize_dtype(value.dtype) for value in (z, rate)} == {"float32"}
    assert GaussianChannel.from_config(layer.get_config()).get_config() == layer.get_config()


def test_kl_equals_its_monte_carlo_estimate():
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=(2, 4))
    z = mean + np.exp(log_var / 2) * rng.normal(size=(100_000, 4))
    log_q = -0.5 * (np.square(z - mean) / np.exp(log_var) + log_var)
    values = (log_q + 0.5 * np.square(z)).sum(1)
    kl = float(gaussian_kl(mean[None], log_var[None])[0])
    assert abs(values.mean() - kl) < 5 * values.std() / math.sqrt(len(values))


def test_distortion_is_the_sum_of_pixel_cross_entropies():
    rng = np.random.default_rng(0)
    images, logits = rng.uniform(size=(3, 28, 28, 1)), rng.normal(size=(3, 28, 28, 1))
    p = 1 / (1 + np.exp(-logits))
    expected = -(images * np.log(p) + (1 - images) * np.log(1 - p)).sum((1, 2, 3))
    np.testing.assert_allclose(bernoulli_distortion(images, logits), expected, rtol=1e-5)
    # Far from 0 the probabilities round to 0 and 1, the logits keep the distortion exact.
    np.testing.assert_allclose(bernoulli_distortion(np.array([[0.0, 1.0]]), np.array([[100.0, -50.0]])), [150.0])
