import math

import keras
import numpy as np
from keras import ops

from echo_tf.models.channels import GaussianChannel, IAFChannel
from echo_tf.models.losses import gaussian_kl


def test_gaussian_noise_is_independent_for_every_example():
    layer = GaussianChannel(3, seed=0)
    z = np.asarray(layer(np.ones((4000, 5), "float32")))  # equal features: what varies is noise
    mean, log_var = (np.asarray(value)[0] for value in layer.statistics(np.ones((1, 5), "float32")))
    sd = np.exp(log_var / 2)
    assert np.all(np.abs(z.mean(0) - mean) < 5 * sd / math.sqrt(len(z)))
    assert np.all(np.abs(z.var(0) / sd**2 - 1) < 5 * math.sqrt(2 / len(z)))


def test_shared_noise_is_one_vector_a_batch():
    features = np.random.default_rng(0).normal(size=(50, 5)).astype("float32")
    for layer in (GaussianChannel(3, shared_noise=True, seed=0), IAFChannel(3, hidden=(4,), shared_noise=True, seed=0)):
        density = layer.draw(features).density
        noise = (np.asarray(density.base) - density.mean) / np.exp(np.asarray(density.log_var) / 2)
        np.testing.assert_allclose(noise, noise[:1] * np.ones((50, 1)), rtol=1e-3, atol=1e-4)
        assert not np.allclose(layer.draw(features).density.base, density.base)


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


def iaf(units=2, **options):
    layer = IAFChannel(units, hidden=(16, 16), seed=0, **options)
    layer.build((None, 5))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])
    return layer


def test_iaf_density_is_that_of_its_draws():
    """For one x: the mean of `1 / q(z|x)` over draws that fall into a box is the volume of the box."""
    layer = iaf()
    features = np.repeat(np.random.default_rng(1).normal(size=(1, 5)).astype("float32"), 200_000, axis=0)
    draw = layer.draw(features)
    z, log_q = np.asarray(draw.z), np.asarray(draw.density.at_draw - draw.density.log_det, dtype=np.float64)
    low, high = np.quantile(z, 0.3, axis=0), np.quantile(z, 0.7, axis=0)
    weights = np.where(np.all((z > low) & (z < high), axis=1), np.exp(-log_q), 0.0)
    volume = np.prod(high - low)
    assert abs(weights.mean() - volume) < 5 * weights.std() / math.sqrt(len(z))
    expected = log_q + 0.5 * np.square(z).sum(1) + math.log(2 * math.pi)
    np.testing.assert_allclose(np.asarray(draw.rate, dtype=np.float64), expected, rtol=1e-4, atol=1e-4)


def test_iaf_survives_its_config():
    layer = iaf(rate_weight=2.0)
    assert IAFChannel.from_config(layer.get_config()).get_config() == layer.get_config()


def test_rates_of_dimensions_add_up_where_the_marginal_is_the_channels():
    features = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    layer = GaussianChannel(3, seed=0)
    _, rate = layer(features, return_rate=True)
    np.testing.assert_allclose(np.asarray(layer.rate_per_dimension(features)).sum(1), rate, rtol=1e-5)
    assert (layer.rate_floor, layer.has_memory, layer.has_density) == (0.0, False, True)
    assert tuple(layer.sample_marginal(7).shape) == (7, 3)
    layer.adapt(features)  # stores nothing
    assert len(layer.weights) == 4


def test_weight_of_the_rate_enters_the_loss():
    layer = GaussianChannel(3, rate_weight=2.0, seed=0)
    _, rate = layer(np.ones((4, 5), "float32"), return_rate=True)
    assert float(layer.losses[0]) == np.float32(2.0) * np.float32(np.mean(rate))
