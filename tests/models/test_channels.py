"""Channels with Gaussian noise; what they share with all others is in tests/echo/test_channel.py."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from echo_tf.models.channels import FullGaussianChannel, GaussianChannel, IAFChannel
from echo_tf.models.losses import gaussian_entropy, gaussian_kl, gaussian_log_density


def test_gaussian_noise_is_independent_for_every_example():
    layer = GaussianChannel(3, seed=0)
    z = np.asarray(layer(np.ones((4000, 5), "float32")))  # equal features: what varies is noise
    mean, log_var = (np.asarray(value)[0] for value in layer.statistics(np.ones((1, 5), "float32")))
    sd = np.exp(log_var / 2)
    assert np.all(np.abs(z.mean(0) - mean) < 5 * sd / math.sqrt(len(z)))
    assert np.all(np.abs(z.var(0) / sd**2 - 1) < 5 * math.sqrt(2 / len(z)))


@pytest.mark.parametrize("make", [GaussianChannel, lambda units, **options: IAFChannel(units, 2, (4,), **options)])
def test_shared_noise_is_one_vector_a_batch(make):
    features = np.random.default_rng(0).normal(size=(50, 5)).astype("float32")
    layer = make(3, shared_noise=True, seed=0)
    density, (mean, log_var) = layer.draw(features).density, layer.statistics(features)
    noise = (np.asarray(density.base) - mean) / np.exp(np.asarray(log_var) / 2)
    np.testing.assert_allclose(noise, noise[:1] * np.ones((50, 1)), rtol=1e-3, atol=1e-4)
    assert not np.allclose(layer.draw(features).density.base, density.base)


def test_rate_and_density_of_the_gaussian_channel():
    layer, features = GaussianChannel(3, seed=0), np.random.default_rng(0).normal(size=(50, 5)).astype("float32")
    z, rate, density = layer.draw(features)
    mean, log_var = layer.statistics(features)
    np.testing.assert_array_equal(z, density.base)
    np.testing.assert_array_equal(rate, gaussian_kl(mean, log_var))
    np.testing.assert_array_equal(density.at_draw, gaussian_log_density(z, mean, log_var))
    np.testing.assert_array_equal(density.expected, -gaussian_entropy(log_var))
    np.testing.assert_array_equal(density.log_det, 0.0)
    np.testing.assert_allclose(layer.mean_and_scale(features)[1], np.exp(np.asarray(log_var) / 2), rtol=1e-6)
    np.testing.assert_array_equal(layer.transform(z), z)


def test_iaf_density_is_that_of_its_draws():
    """For one x: the mean of `1 / q(z|x)` over draws that fall into a box is the volume of the box."""
    layer = IAFChannel(2, hidden=(16, 16), seed=0)
    layer.build((None, 5))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])
    features = np.repeat(np.random.default_rng(1).normal(size=(1, 5)).astype("float32"), 100_000, axis=0)
    draw = layer.draw(features)
    z, log_q = np.asarray(draw.z), np.asarray(draw.density.at_draw - draw.density.log_det, dtype=np.float64)
    low, high = np.quantile(z, 0.3, axis=0), np.quantile(z, 0.7, axis=0)
    weights = np.where(np.all((z > low) & (z < high), axis=1), np.exp(-log_q), 0.0)
    assert abs(weights.mean() - np.prod(high - low)) < 5 * weights.std() / math.sqrt(len(z))
    expected = log_q + 0.5 * np.square(z).sum(1) + math.log(2 * math.pi)
    np.testing.assert_allclose(draw.rate, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(draw.density.expected, draw.density.at_draw)  # there is no formula for the entropy
    np.testing.assert_allclose(layer.transform(draw.density.base), z, rtol=1e-5, atol=1e-5)
    assert np.abs(z - draw.density.base).max() > 0.1


def test_iaf_holds_its_arguments():
    layer = IAFChannel(3, 2, (8, 9), shared_noise=True, rate_weight=0.5, seed=4)
    config = IAFChannel.from_config(layer.get_config()).get_config()
    assert config == layer.get_config()
    assert (config["steps"], config["hidden"], config["shared_noise"], config["rate_weight"]) == (2, [8, 9], True, 0.5)


class TestFullGaussian:
    @staticmethod
    def made():
        layer = FullGaussianChannel(3, seed=0)
        layer.build((None, 5))
        rng = np.random.default_rng(0)
        layer.set_weights([rng.normal(0, 0.4, weight.shape) for weight in layer.get_weights()])
        return layer, rng.normal(size=(50, 5)).astype("float32")

    def test_rate_and_density_are_those_of_the_covariance(self):
        layer, features = self.made()
        mean, _, factor = (np.asarray(values, np.float64) for values in layer.statistics(features))
        covariance = factor @ np.swapaxes(factor, 1, 2)
        assert np.abs(covariance[:, 1, 0]).max() > 0.1
        z, rate, density = layer.draw(features)
        trace, log_det = np.trace(covariance, axis1=1, axis2=2), np.linalg.slogdet(covariance)[1]
        np.testing.assert_allclose(rate, 0.5 * (trace + np.square(mean).sum(1) - 3 - log_det), rtol=1e-4, atol=1e-5)
        laws = [multivariate_normal(*values) for values in zip(mean, covariance, strict=True)]
        np.testing.assert_allclose(
            density.at_draw, [law.logpdf(value) for law, value in zip(laws, np.asarray(z), strict=True)], rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(density.expected, [-law.entropy() for law in laws], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(density.base, z)

    def test_draws_have_the_covariance(self):
        layer, features = self.made()
        n = 20_000
        z = np.asarray(layer(np.repeat(features[:1], n, axis=0)))
        mean, _, factor = (np.asarray(values)[0] for values in layer.statistics(features[:1]))
        covariance = factor @ factor.T
        variances = np.diag(covariance)
        assert np.all(np.abs(z.mean(0) - mean) < 5 * np.sqrt(variances / n))
        assert np.all(np.abs(np.cov(z.T) - covariance) < 5 * np.sqrt((np.outer(variances, variances) + covariance**2) / n))

    def test_starts_as_the_diagonal_channel(self):
        full, diagonal, features = FullGaussianChannel(3, seed=0), GaussianChannel(3, seed=0), np.ones((4, 5), "float32")
        for layer in (full, diagonal):
            layer.build((None, 5))
        full.mean_head.set_weights(diagonal.mean_head.get_weights())
        full.log_sd_head.set_weights([0.5 * weight for weight in diagonal.log_var_head.get_weights()])
        for found, expected in zip(full.draw(features)[:2], diagonal.draw(features)[:2], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            full.rate_per_dimension(features), diagonal.rate_per_dimension(features), rtol=1e-4, atol=1e-6
        )

    def test_one_dimension(self):
        z, rate = FullGaussianChannel(1, seed=0)(np.ones((4, 5), "float32"), return_rate=True)
        assert z.shape == (4, 1) and rate.shape == (4,)


@pytest.mark.parametrize("channel", [GaussianChannel(3), FullGaussianChannel(3), IAFChannel(3, 2, (4,))])
def test_feature_maps_are_refused(channel):
    # The rate would be that of one place, and too small by the number of places.
    with pytest.raises(ValueError, match="Flatten"):
        channel(np.zeros((10, 4, 4, 5), "float32"))
