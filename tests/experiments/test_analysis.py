import keras
import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm

import echo_tf
from echo_tf import analysis
from echo_tf.echo.layers_old import EchoDense, echo_moments
from echo_tf.experiments.analysis import (
    Analysis,
    analyse,
    by_likelihood,
    marginal_density,
    noise_samples,
    rate_by_dimension,
    total_correlation,
)
from echo_tf.experiments.evaluation import evaluate


class TestTotalCorrelation:
    correlation = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 1.0]])

    def draw(self, count, seed, correlation):
        return np.random.default_rng(seed).multivariate_normal(np.zeros(len(correlation)), correlation, count)

    @pytest.mark.parametrize("seed", range(3))
    def test_of_a_correlated_gaussian(self, seed):
        truth = -0.5 * np.log(np.linalg.det(self.correlation))
        samples = self.draw(4_000, seed, self.correlation) * [1.0, 10.0, 0.1] + 3.0  # no matter the units
        estimate, se = total_correlation(samples)
        assert abs(estimate - truth) < 5 * se
        assert 0 < se < 0.05

    def test_error_is_the_spread_of_estimates(self):
        estimates = np.array([total_correlation(self.draw(500, seed, self.correlation), seed) for seed in range(200)])
        assert estimates[:, 1].mean() == pytest.approx(estimates[:, 0].std(ddof=1), rel=5 / np.sqrt(2 * 200))

    def test_bias_of_small_samples_is_taken_out(self):
        estimates = np.array([total_correlation(self.draw(60, seed, np.eye(8)), seed) for seed in range(300)])
        se = estimates[:, 0].std(ddof=1) / np.sqrt(len(estimates))
        bias = 8 * 7 / (4 * 60)
        # Next order of the bias is (m / N) of the first; the correction must remove nearly all of it.
        assert abs(estimates[:, 0].mean()) < 5 * se + 0.2 * bias
        assert bias > 20 * se

    def test_needs_more_samples_than_dimensions(self):
        with pytest.raises(ValueError, match="more samples"):
            total_correlation(np.zeros((3, 3)))


class TestMarginalDensity:
    def test_integrates_to_one_and_finds_the_density(self):
        values = np.random.default_rng(0).normal(2.0, 3.0, 100_000)
        grid, density = marginal_density(values)
        assert trapezoid(density, grid) == pytest.approx(1.0, abs=1e-4)
        widened = np.hypot(3.0, 3.0 * len(values) ** -0.2)  # by the kernel
        assert np.max(np.abs(density - norm.pdf(grid, 2.0, widened))) < 5 * 0.01 * norm.pdf(0, 0, 3.0)

    def test_equals_the_plain_estimate(self):
        values = np.random.default_rng(0).gamma(2.0, size=300)
        grid, density = marginal_density(values)
        bandwidth = len(values) ** -0.2 * values.std(ddof=1)
        plain = norm.pdf(grid[:, None], values, bandwidth).mean(axis=1)
        np.testing.assert_allclose(density, plain, atol=2e-3 * plain.max())


def test_sorting_by_likelihood():
    distortion, rate, name = by_likelihood(np.array([3.0, 1.0, 2.0]), np.array([30.0, 10.0, 20.0]), np.array(["c", "a", "b"]))
    assert distortion.tolist() == [1.0, 2.0, 3.0]
    assert rate.tolist() == [10.0, 20.0, 30.0]
    assert name.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(("replace", "parametrisation"), [(False, "literal"), (True, "literal"), (False, "centred")])
def test_noise_has_the_moments_of_the_channel(replace, parametrisation):
    features = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    layer = EchoDense(3, d_max=39, replace=replace, parametrisation=parametrisation, seed=0)
    layer(features)
    noise = noise_samples(layer, features, 4_000, 40, seed=1)
    mean, log_scale = layer.statistics(features)
    if parametrisation == "centred":
        mean = mean - np.mean(mean, axis=0)
    expected, _ = echo_moments(mean, log_scale + layer.echo.log_max_scale)  # exact for independent draws
    se = noise.std(axis=0) / np.sqrt(len(noise))
    # Without replacement, echoes from 40 examples are slightly more even than independent ones: within 1/40 of the mean.
    allowed = 5 * se + (0 if replace else np.abs(expected) / 40)
    assert np.all(np.abs(noise.mean(axis=0) - expected) < allowed)
    repeated = np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]
    assert abs(repeated) < 5 / np.sqrt(len(noise))  # draws are independent


def test_noise_is_made_of_all_images():
    features = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    features[:10] += 3.0
    layer = EchoDense(3, d_max=9, parametrisation="literal", seed=0)
    layer(features)
    noise = noise_samples(layer, features, 4_000, 10, seed=1)
    mean, log_scale = layer.statistics(features)
    expected, variance = echo_moments(mean, log_scale + layer.echo.log_max_scale)
    # 9 echoes, each other, in the place of endlessly many: within a tenth of a standard deviation.
    assert np.all(np.abs(noise.mean(axis=0) - expected) < 0.1 * np.sqrt(variance))


def test_marginals_are_those_of_the_shown_dimensions_from_all_draws(monkeypatch):
    draws = []

    def draw(model, features):
        draws.append(len(draws))
        return np.arange(32.0) + 10.0 * draws[-1] + np.random.default_rng(draws[-1]).normal(0.0, 0.1, (len(features), 32))

    monkeypatch.setattr(analysis, "MARGINAL_SAMPLES", 3)
    monkeypatch.setattr(analysis, "_draw", draw)
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).uniform(size=(25, 28, 28, 1)).astype("float32")
    found = analyse(small("vae"), images, batch_size=10, passes=2)
    assert found.shown.tolist() != list(range(9))
    means = trapezoid(found.grid * found.density, found.grid, axis=1)
    np.testing.assert_allclose(means, found.shown + 10.0, atol=0.1)


def small(method):
    return echo_tf.build_model(echo_tf.load_config(method, channel={"d_max": 9}, flow={"hidden_units": 16}))


@pytest.mark.parametrize("method", ["echo", "vae", "iaf"])
def test_analysis_of_a_model(method, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "MARGINAL_SAMPLES", 3)
    monkeypatch.setattr(analysis, "NOISE_DRAWS", 600)
    rng = np.random.default_rng(0)
    images = (rng.permutation(25)[:, None, None, None] / 25 * rng.uniform(size=(25, 28, 28, 1))).astype("float32")
    model = small(method)
    for weight in model.decoder.trainable_variables[-1:]:
        weight.assign(weight - 5.0)  # black by default, so that bright images have the largest distortions
    found = analyse(model, images, batch_size=10, passes=2)
    assert found.shown.shape == (9,)
    assert np.all(np.diff(found.rate_by_dimension_nats[found.shown]) <= 0)
    assert found.grid.shape == found.density.shape == (9, 400)
    for values in (found.pointwise_rate_nats, found.pointwise_distortion_nats, found.mean_norm, found.scale_norm):
        assert values.shape == (25,)
    mean, spread = (np.asarray(values) for values in model.channel.statistics(model.encoder.predict(images, verbose=0)))
    np.testing.assert_allclose(found.mean_norm, np.sqrt((mean**2).sum(1)), rtol=1e-4)
    scale = model.channel.echo.max_scale * np.exp(spread) if method == "echo" else np.exp(spread / 2)
    np.testing.assert_allclose(found.scale_norm, np.sqrt((scale**2).sum(1)), rtol=1e-4)
    expected = evaluate(model, images, batch_size=10, passes=2)
    np.testing.assert_allclose(found.pointwise_distortion_nats, expected.distortion.mean(axis=0), rtol=0.05, atol=2.0)
    noisy = {"atol": 2.0} if method == "iaf" else {"rtol": 1e-4}
    np.testing.assert_allclose(found.pointwise_rate_nats, expected.rate.mean(axis=0), **noisy)
    assert found.total_correlation_nats.shape == ((2,) if method == "echo" else (0,))
    found.save(tmp_path / "analysis.npz")
    for name, value in vars(Analysis.load(tmp_path / "analysis.npz")).items():
        np.testing.assert_array_equal(value, getattr(found, name))


@pytest.mark.parametrize("method", ["echo", "vae"])
def test_rates_by_dimension_add_up(method):
    model = small(method)
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(0).uniform(size=(20, 28, 28, 1)).astype("float32")
    rates = rate_by_dimension(model.channel, model.encoder.predict(images, verbose=0))
    assert rates.shape == (32,)
    assert rates.sum() == pytest.approx(model.predict(images, verbose=0)["rate"].mean(), rel=1e-4)
    if method == "echo":
        assert np.all(rates >= model.channel.echo.rate_floor(1) - 1e-6)
