import csv

import keras
import numpy as np
import pytest
from scipy.stats import kurtosis, multivariate_normal

from echo_tf.echo.dense import EchoDense
from echo_tf.errors import CellError, ConfigError
from echo_tf.experiments import fitted, likelihood
from echo_tf.experiments.annealed import PAIRS, TABLE, AnnealedPoint, PairPoint, images_name
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.evaluation import standard_error
from echo_tf.experiments.likelihood import Effort
from echo_tf.experiments.points import read_points
from echo_tf.experiments.run import load_model, run_cell
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.distortions import Gaussian

SHORT = Effort(images=10, temperatures=3, chains=2)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(likelihood, "SIMULATED", 20)
    monkeypatch.setattr(likelihood, "AT_ONCE", 8)
    monkeypatch.setattr(likelihood, "ENCODINGS", 40)
    monkeypatch.setattr(fitted, "EPOCH_STEPS", 5)
    monkeypatch.setattr(fitted, "HIDDEN", (8,))


def test_table_is_resumed_by_cell_and_effort(tmp_path, vectors, tiny, monkeypatch):
    cells = [Cell("vectors", tiny(method, epochs=1), data=vectors.fingerprint) for method in ("vae", "echo")]
    for cell in cells:
        run_cell(cell, vectors, tmp_path, passes=2)
    likelihood.run(tmp_path, cells, vectors, tmp_path, effort=SHORT)
    rows = read_points(tmp_path / TABLE, AnnealedPoint)
    expected = [("vae", "own", 10), ("vae", "fitted", 10), ("echo", "fitted", 10)]
    assert [(row["method"], row["marginal"], row["images"]) for row in rows] == expected
    for row in rows:
        assert row["neg_elbo_nats"] - row["neg_log_likelihood_nats"] == pytest.approx(row["lowered_nats"])
        assert row["gap_nats"] > -5 * row["gap_se"] and 0 < row["acceptance"] <= 1
        assert np.load(tmp_path / images_name(row)).mean() == pytest.approx(-row["neg_log_likelihood_nats"])
    first, second = (np.load(tmp_path / images_name(rows[i])) for i in (0, 2))
    pairs = read_points(tmp_path / PAIRS, PairPoint)
    (pair,) = [pair for pair in pairs if (pair["marginal"], pair["other_method"]) == ("own", "echo")]
    assert pair["difference_nats"] == pytest.approx(np.mean(second - first)) and len(pairs) == 3
    assert pair["difference_nats"] == pytest.approx(rows[0]["neg_log_likelihood_nats"] - rows[2]["neg_log_likelihood_nats"])
    assert pair["difference_se"] == pytest.approx(np.std(second - first, ddof=1) / np.sqrt(10))
    asked = []
    monkeypatch.setattr(likelihood, "load_model", lambda folder: asked.append(folder) or load_model(folder))
    likelihood.run(tmp_path, cells, vectors, tmp_path, effort=SHORT)
    assert not asked
    likelihood.run(tmp_path, cells[:1], vectors, tmp_path, effort=Effort(5, 3, 1))
    assert len(asked) == 2 and sorted(row["images"] for row in read_points(tmp_path / TABLE, AnnealedPoint)) == [
        5,
        5,
        10,
        10,
        10,
    ]


def test_images_are_the_same_for_all_models(tmp_path, vectors, tiny, monkeypatch):
    """And drawn from all of the split, which may be sorted."""
    cells = [Cell("vectors", tiny("vae", epochs=1, seed=seed), data=vectors.fingerprint) for seed in (0, 7)]
    for cell in cells:
        run_cell(cell, vectors, tmp_path, passes=2)
    seen, measured = [], likelihood._measured
    monkeypatch.setattr(likelihood, "_measured", lambda *o: seen.append(o[2]) or measured(*o))
    likelihood.run(tmp_path, cells, vectors, tmp_path, effort=SHORT)
    assert len(seen) == 4 and all(np.array_equal(images, seen[0]) for images in seen)
    assert not np.array_equal(seen[0], vectors.images("test")[: len(seen[0])])


@pytest.mark.parametrize("method", ["vae", "vae_maf", "vae_vamp", "iaf_vamp"])
def test_marginal_of_a_model_is_that_of_its_density(tmp_path, vectors, tiny, method):
    """Draws and density belong together: for two laws p and N of one mean, `E_p[N(z) / p(z)] = 1`."""
    from echo_tf.models.build import build_model

    options = {"flow": {"hidden_units": 8, "hidden_layers": 1}}
    model = build_model(tiny(method, **options), vectors.shape)
    model.channel.log_var_head.bias.assign([-2.0, -2.0])  # of the components of a VampPrior
    latents = likelihood.latents_of(model, vectors.images("train"))
    z = np.asarray(latents.draw(4_000))
    other = multivariate_normal(z.mean(axis=0), 0.25 * np.cov(z, rowvar=False))
    ratios = np.exp(other.logpdf(z) - np.asarray(latents.log_density(z)))
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(len(z))
    assert latents.decode(z).shape == (4_000, 6)


def test_fitted_marginal_is_the_law_of_z(vectors, tiny):
    """Of correlated `z`: the fit has its moments, and draws and density belong together."""
    from echo_tf.models.build import build_model

    model = build_model(tiny("echo_matrix"), vectors.shape)
    model.channel.below_head.bias.assign([2.0])  # so that dimensions are correlated
    train = vectors.images("train")
    model.refresh_channel(train)
    latents = likelihood.latents_of(model, train, "fitted", steps=5)
    own, z = (np.asarray(draw) for draw in (model.channel.sample_marginal(4_000), latents.draw(4_000)))
    assert abs(np.corrcoef(own, rowvar=False)[0, 1]) > 0.3
    np.testing.assert_allclose(np.corrcoef(z, rowvar=False), np.corrcoef(own, rowvar=False), atol=0.08)
    np.testing.assert_allclose(z.std(axis=0), own.std(axis=0), rtol=0.1)
    other = multivariate_normal(z.mean(axis=0), 0.25 * np.cov(z, rowvar=False))
    ratios = np.exp(other.logpdf(z) - np.asarray(latents.log_density(z)))
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(len(z))


def linear_echo(n=4_000):
    """A linear Gaussian model with an Echo channel of constant `S`: `z`, its noise and `x` are Gaussian. With training data."""
    model = RateDistortionModel(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)]),
        keras.layers.Dense(3),
        EchoDense(2, constant_scale=True, mean_scale=100.0, seed=0),  # far from where tanh bends
        distortion=Gaussian(0.4),
    )
    model.build((None, 3))
    train = np.random.default_rng(0).normal(size=(n, 3)).astype("float32")
    model.encoder.layers[-1].kernel.assign([[0.9, 0.1], [-0.3, 0.7], [0.2, 0.5]])
    model.decoder.layers[-1].kernel.assign([[1.5, -0.5, 0.3], [0.2, 1.0, -1.2]])
    model.refresh_channel(train)
    return model, train


def test_likelihood_of_an_echo_model_that_is_known():
    """Noise of Gaussian `f` and constant `S` is Gaussian, so that decoder and Echo's own marginal have a known `p(x)`."""
    model, train = linear_echo()
    z = np.asarray(model.channel.sample_marginal(20_000))
    assert np.abs(kurtosis(z)).max() < 5 * np.sqrt(24 / len(train))  # of a Gaussian
    weights = np.asarray(model.decoder.layers[-1].kernel)
    law = multivariate_normal(z.mean(axis=0) @ weights, weights.T @ np.cov(z, rowvar=False) @ weights + 0.16 * np.eye(3))
    images = law.rvs(150, random_state=1).astype("float32")
    latents = likelihood.latents_of(model, train, "fitted", steps=5)
    found, gaps, _ = likelihood.measure(model, latents, images, Effort(150, 30, 1))
    short = found - law.logpdf(images)
    assert -gaps.mean() < short.mean() + 5 * standard_error(short) and short.mean() < 5 * standard_error(short)
    ratios = np.exp(short)  # estimates of p(x), over p(x)
    assert abs(ratios.mean() - 1.0) < 5 * standard_error(ratios) + 0.02  # of the moments that the marginal is fitted to
    assert 0 < gaps.mean() < 1.0


def test_refusals(tmp_path, vectors, tiny, monkeypatch):
    with pytest.raises(ConfigError, match="vae_vamp has no likelihood"):
        likelihood.run(tmp_path, [Cell("vectors", tiny("vae_vamp", prior={"average": "logs"}))], vectors, tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ConfigError, match="KERAS_BACKEND=tensorflow. Received: jax"):
        likelihood.run(tmp_path, [Cell("vectors", tiny("echo"))], vectors, tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(CellError, match="not trained"):
        likelihood.run(tmp_path, [Cell("vectors", tiny("echo"))], vectors, tmp_path)


def test_command_reports_tables_and_bounds(reproduce, small_command, tmp_path, monkeypatch, capsys):
    command = [*small_command("echo", "vae"), "--out", str(tmp_path / "runs")]
    assert reproduce.main([*command, "--experiment", "likelihood", "--images", "8", "--temperatures", "2"]) == 0
    report = tmp_path / "runs" / "report"
    assert (report / "bounds_vectors.png").exists()
    with (report / "likelihood.csv").open() as lines:
        rows = {row["method"]: row for row in sorted(csv.DictReader(lines), key=lambda row: row["marginal"])}  # own last
    assert (rows["echo"]["marginal"], rows["vae"]["marginal"], rows["vae"]["images"]) == ("fitted", "own", "8")
    assert "| Echo, fitted | VAE, own |" in (report / "likelihood_pairs.md").read_text()
    with (report / "comparison.csv").open() as lines:
        for row in csv.DictReader(lines):
            assert row["annealed_nats"] == rows[row["method"]]["value"]
    with pytest.raises(SystemExit):
        reproduce.main([*command, "--images", "8"])
    assert "--images: only with --experiment likelihood" in capsys.readouterr().err
