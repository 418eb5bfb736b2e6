import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm

import echo_tf
from echo_tf.echo.noise import echo_moments
from echo_tf.experiments import analysis
from echo_tf.experiments.analysis import analyse, marginal_density, rate_by_dimension, total_correlation
from echo_tf.experiments.evaluation import evaluate
from echo_tf.experiments.records import Analysis


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

    def test_error_is_the_spread_of_estimates(self, monkeypatch):
        monkeypatch.setattr(analysis, "BOOTSTRAPS", 50)
        estimates = np.array([total_correlation(self.draw(500, seed, self.correlation), seed) for seed in range(200)])
        assert estimates[:, 1].mean() == pytest.approx(estimates[:, 0].std(ddof=1), rel=5 / np.sqrt(2 * 200))

    def test_bias_of_small_samples_is_taken_out(self, monkeypatch):
        monkeypatch.setattr(analysis, "BOOTSTRAPS", 2)
        estimates = np.array([total_correlation(self.draw(60, seed, np.eye(8)), seed) for seed in range(300)])
        se = estimates[:, 0].std(ddof=1) / np.sqrt(len(estimates))
        bias = 8 * 7 / (4 * 60)
        # Next order of the bias is (m / N) of the first; the correction must remove nearly all of it.
        assert abs(estimates[:, 0].mean()) < 5 * se + 0.2 * bias
        assert bias > 20 * se


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


def small(method):
    config = echo_tf.load_config(method, network={"latent_dim": 12}, channel={"d_max": 9}, flow={"hidden_units": 16})
    return echo_tf.build_model(config, (20,))


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    return (rng.permutation(25)[:, None] / 25 * rng.uniform(size=(25, 20))).astype("float32")


def test_marginals_are_those_of_the_shown_dimensions_from_all_draws(examples, monkeypatch):
    monkeypatch.setattr(analysis, "MARGINAL_SAMPLES", 3)
    model, draws = small("vae"), []

    class Channel:
        """Draws around `dimension + 10 * number of the draw`; all else is that of the model's own."""

        def __call__(self, features):
            draws.append(len(draws))
            noise = np.random.default_rng(draws[-1]).normal(0.0, 0.1, (len(features), 12))
            return np.arange(12.0) + 10.0 * draws[-1] + noise

        def __getattr__(self, name):
            return getattr(model.channel, name)

    class Model:
        channel = Channel()

        def __getattr__(self, name):
            return getattr(model, name)

    found = analyse(Model(), examples, batch_size=10, passes=2)
    assert draws == [0, 1, 2]
    assert found.shown.tolist() != list(range(9))
    means = trapezoid(found.grid * found.density, found.grid, axis=1)
    np.testing.assert_allclose(means, found.shown + 10.0, atol=0.1)


@pytest.mark.parametrize("method", ["echo", "vae", "iaf"])
def test_analysis_of_a_model(method, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "MARGINAL_SAMPLES", 3)
    monkeypatch.setattr(analysis, "NOISE_DRAWS", 600)
    model = small(method)
    for weight in model.decoder.trainable_variables[-1:]:
        weight.assign(weight - 5.0)  # black by default, so that bright examples have the largest distortions
    if method == "echo":
        model.refresh_channel(examples)
    found = analyse(model, examples, batch_size=10, passes=2)
    assert found.shown.shape == (9,)
    assert np.all(np.diff(found.rate_by_dimension_nats[found.shown]) <= 0)
    assert found.grid.shape == found.density.shape == (9, 400)
    for values in (found.pointwise_rate_nats, found.pointwise_distortion_nats, found.mean_norm, found.scale_norm):
        assert values.shape == (25,)
    mean, scale = (np.asarray(values) for values in model.channel.mean_and_scale(model.features(examples)))
    np.testing.assert_allclose(found.mean_norm, np.sqrt((mean**2).sum(1)), rtol=1e-4)
    np.testing.assert_allclose(found.scale_norm, np.sqrt((scale**2).sum(1)), rtol=1e-4)
    expected = evaluate(model, examples, batch_size=10, passes=2)
    np.testing.assert_allclose(found.pointwise_distortion_nats, expected.distortion.mean(axis=0), rtol=0.05, atol=2.0)
    noisy = {"atol": 2.0} if method == "iaf" else {"rtol": 1e-4}
    np.testing.assert_allclose(found.pointwise_rate_nats, expected.rate.mean(axis=0), **noisy)
    assert found.total_correlation_nats.shape == ((2,) if method == "echo" else (0,))
    if method == "echo":
        before = echo_moments(*model.channel.statistics(model.features(examples)))
        np.testing.assert_allclose(found.moments[0], np.asarray(before[0])[found.shown], atol=1e-4)
        np.testing.assert_allclose(found.moments[1] ** 2, np.asarray(before[1])[found.shown], rtol=1e-3)
    else:
        assert found.moments.size == 0
    found.save(tmp_path / "analysis.npz")
    for name, value in vars(Analysis.load(tmp_path / "analysis.npz")).items():
        np.testing.assert_array_equal(value, getattr(found, name))
    np.savez(tmp_path / "old.npz", **{name: value for name, value in vars(found).items() if name != "moments"})
    assert Analysis.load(tmp_path / "old.npz").moments.size == 0  # of version 0.2


@pytest.mark.parametrize("method", ["echo", "vae"])
def test_rates_by_dimension_add_up(method, examples):
    model = small(method)
    rates = rate_by_dimension(model.channel, model.features(examples))
    assert rates.shape == (12,)
    assert rates.sum() == pytest.approx(model.predict(examples, verbose=0)["rate"].mean(), rel=1e-4)
    assert np.all(rates >= model.channel.rate_floor / 12 - 1e-6)


@pytest.mark.parametrize(
    ("rates", "shown"),
    [
        (np.arange(12.0), [11, 10, 9, 8, 7, 6, 2, 1, 0]),  # six of high rate, the three lowest last
        (np.array([3.0, 5.0, 1.0]), [1, 0, 2]),
        (np.arange(8.0), [7, 6, 5, 4, 3, 2, 1, 0]),  # each once
    ],
)
def test_dimensions_of_figure_6(rates, shown):
    assert analysis.shown_dimensions(rates).tolist() == shown
