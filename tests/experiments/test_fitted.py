"""A marginal that is fitted to the law of `z`, where the divergence of that law from N(0, I) is known."""

import keras
import numpy as np
import pytest

from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.experiments import fitted
from echo_tf.experiments.suitable import is_fittable
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.channels import GaussianChannel

FEATURES = np.random.default_rng(0).normal(size=(6_000, 2)).astype("float32")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fitted, "HIDDEN", (32, 32))


def gaussian(function, log_var=-2.0):
    """A model whose `z` is `function(features)` and Gaussian noise."""
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(function)])
    channel = GaussianChannel(2, seed=0)
    model = RateDistortionModel(
        encoder, keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]), channel, distortion="gaussian"
    )
    model.build((None, 2))
    channel.mean_head.kernel.assign(np.eye(2))
    channel.log_var_head.kernel.assign(np.zeros((2, 2)))
    channel.log_var_head.bias.assign([log_var] * 2)
    return model


def test_gaussian_marginal_of_another_covariance():
    """Of `z ~ N(0, C)` all of `KL(N(0, C) || N(0, I))` is found, by the whitening alone."""
    model = gaussian(lambda x: 2.0 * x)
    rate, lowered = fitted.measure_looseness(model, FEATURES[:5_000], FEATURES[5_000:], steps=100)
    variance = 4.0 + np.exp(-2.0)
    expected, se = variance - 1.0 - np.log(variance), lowered.std() / np.sqrt(len(lowered))
    assert abs(lowered.mean() - expected) < 5 * se
    information = np.log(1.0 + 4.0 * np.exp(2.0))  # twice 1/2 log(1 + signal / noise)
    assert abs((rate - lowered).mean() - information) < 5 * (rate - lowered).std() / np.sqrt(len(rate))


def test_what_a_gaussian_cannot_do_the_flow_does():
    """`z_2` lies on a parabola over `z_1`, which has mean and covariance of N(0, I), but for the noise."""
    model = gaussian(lambda x: keras.ops.stack([x[:, 0], (x[:, 0] ** 2 - 1.0) / np.sqrt(2.0)], axis=1), log_var=-4.0)
    _, lowered = fitted.measure_looseness(model, FEATURES[:5_000], FEATURES[5_000:], steps=600)
    # The variance about the parabola is 3 exp(-4) on average, the third of it noise of z_2 and the rest that of z_1.
    assert 1.1 < lowered.mean() < -0.5 * np.log(3 * np.exp(-4.0)) + 0.2


def test_echo_is_given_gaussian_noise():
    """With the rate of its formula, and a lower one, since Gaussian noise has the larger entropy."""
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 5.0 * keras.ops.sign(x))])
    channel = MatrixEchoDense(2, rate_weight=None, d_max=99, seed=0)
    model = RateDistortionModel(
        encoder, keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]), channel, distortion="gaussian"
    )
    model.build((None, 2))
    channel.mean_head.kernel.assign(np.eye(2))
    channel.adapt(model.features(FEATURES))
    rate, lowered = fitted.measure_looseness(model, FEATURES[:5_000], FEATURES[5_000:], steps=100)
    expected = keras.ops.convert_to_numpy(channel.rate_per_dimension(model.features(FEATURES))).sum(axis=-1).mean()
    assert rate.mean() == pytest.approx(expected, abs=0.1)
    assert lowered.mean() > -0.01


def test_channel_and_decoder_stay_as_they_are():
    model = gaussian(lambda x: x)
    weights = model.channel.trainable_weights
    before = [keras.ops.convert_to_numpy(weight) for weight in weights]
    marginal = fitted.fit_marginal(model.channel, FEATURES, steps=100)
    assert all(map(np.array_equal, before, map(keras.ops.convert_to_numpy, weights)))
    assert all("made" in weight.path or weight.name == "base_log_sd" for weight in marginal.trainable_weights)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("vae", True),
        ("echo", True),
        ("echo_gaussian", True),
        ("echo_independent", False),
        ("echo_literal", False),
        ("vae_maf", False),
        ("echo_maf", False),
    ],
)
def test_what_can_be_fitted(tiny, method, expected):
    assert is_fittable(tiny(method)) is expected
