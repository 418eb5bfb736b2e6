import csv

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from echo_tf.errors import CellError, ConfigError
from echo_tf.experiments import fitted, likelihood
from echo_tf.experiments.annealed import read_table
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.likelihood import Effort
from echo_tf.experiments.run import load_model, run_cell

SHORT = Effort(images=10, temperatures=3, chains=2)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(likelihood, "SIMULATED", 20)
    monkeypatch.setattr(likelihood, "AT_ONCE", 8)
    monkeypatch.setattr(fitted, "EPOCH_STEPS", 5)
    monkeypatch.setattr(fitted, "HIDDEN", (8,))


def test_table_is_resumed_by_cell_and_effort(tmp_path, vectors, tiny, monkeypatch):
    cells = [Cell("vectors", tiny(method, epochs=1), data=vectors.fingerprint) for method in ("vae", "echo")]
    for cell in cells:
        run_cell(cell, vectors, tmp_path, passes=2)
    likelihood.run(tmp_path, cells, vectors, tmp_path, effort=SHORT)
    rows = read_table(tmp_path)
    assert [(row["method"], row["marginal"], row["images"]) for row in rows] == [("vae", "own", 10), ("echo", "fitted", 10)]
    for row in rows:
        assert row["neg_elbo_nats"] - row["neg_log_likelihood_nats"] == pytest.approx(row["lowered_nats"])
        assert row["gap_nats"] > -5 * row["gap_se"] and 0 < row["acceptance"] <= 1
    asked = []
    monkeypatch.setattr(likelihood, "load_model", lambda folder: asked.append(folder) or load_model(folder))
    likelihood.run(tmp_path, cells, vectors, tmp_path, effort=SHORT)
    assert not asked
    likelihood.run(tmp_path, cells[:1], vectors, tmp_path, effort=Effort(5, 3, 1))
    assert len(asked) == 1 and sorted(row["images"] for row in read_table(tmp_path)) == [5, 10, 10]


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


def test_fitted_marginal_draws_from_its_density(vectors, tiny):
    from echo_tf.models.build import build_model

    model = build_model(tiny("echo_matrix"), vectors.shape)
    model.channel.below_head.bias.assign([2.0])  # so that dimensions are correlated
    model.refresh_channel(vectors.images("train"))
    latents = likelihood.latents_of(model, vectors.images("train"), steps=5)
    z = np.asarray(latents.draw(4_000))
    other = multivariate_normal(z.mean(axis=0), 0.25 * np.cov(z, rowvar=False))
    ratios = np.exp(other.logpdf(z) - np.asarray(latents.log_density(z)))
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(len(z))


def test_refusals(tmp_path, vectors, tiny):
    with pytest.raises(ConfigError, match="vae_vamp has no likelihood"):
        likelihood.check_measurable([Cell("vectors", tiny("vae_vamp", prior={"average": "logs"}))])
    with pytest.raises(CellError, match="not trained"):
        likelihood.run(tmp_path, [Cell("vectors", tiny("echo"))], vectors, tmp_path)


def test_command_reports_tables_and_bounds(reproduce, small_command, tmp_path, monkeypatch, capsys):
    command = [*small_command("echo", "vae"), "--out", str(tmp_path / "runs")]
    assert reproduce.main([*command, "--experiment", "likelihood", "--images", "8", "--temperatures", "2"]) == 0
    report = tmp_path / "runs" / "report"
    assert (report / "bounds_vectors.png").exists()
    with (report / "likelihood.csv").open() as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines)}
    assert rows["echo"]["marginal"] == "fitted" and rows["vae"]["images"] == "8"
    with (report / "comparison.csv").open() as lines:
        for row in csv.DictReader(lines):
            assert row["annealed_nats"] == rows[row["method"]]["value"]
    with pytest.raises(SystemExit):
        reproduce.main([*command, "--images", "8"])
    assert "--images: only with --experiment likelihood" in capsys.readouterr().err
