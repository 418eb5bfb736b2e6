import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.linalg

from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.errors import CellError, ConfigError
from echo_tf.experiments import fitted, noise
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.laws import TABLES, FitPoint
from echo_tf.experiments.points import read_points
from echo_tf.experiments.run import run_cell
from echo_tf.models.autoencoder import RateDistortionModel

COUNT = 40_000


@pytest.fixture(autouse=True)
def short_fit(monkeypatch):
    monkeypatch.setattr(noise, "STEPS", 5)
    monkeypatch.setattr(fitted, "EPOCH_STEPS", 5)
    monkeypatch.setattr(fitted, "HIDDEN", (8,))


# Skewed and correlated, as Echo noise may be.
POOL = np.random.default_rng(0).exponential(size=(COUNT, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])


@pytest.mark.parametrize(
    ("law", "correlated", "skewed"),
    [
        ("echo", True, True),
        ("gaussian", True, False),
        ("gaussian_independent", False, False),
        ("marginals_independent", False, True),
    ],
)
def test_laws_keep_what_they_say(law, correlated, skewed):
    draws = noise.draw(law, POOL, COUNT, np.random.default_rng(1))
    se = 5 * POOL.std(axis=0) / np.sqrt(COUNT)
    assert np.all(np.abs(draws.mean(axis=0) - POOL.mean(axis=0)) < se)
    np.testing.assert_allclose(draws.std(axis=0), POOL.std(axis=0), rtol=0.05)
    expected = np.corrcoef(POOL, rowvar=False)[0, 1] if correlated else 0.0
    assert abs(np.corrcoef(draws, rowvar=False)[0, 1] - expected) < 0.05
    skewness = np.mean(((draws[:, 0] - draws[:, 0].mean()) / draws[:, 0].std()) ** 3)
    assert bool(skewness > 1.5) is skewed  # 2 of the exponential law, with a standard error of 0.1


class TestCompareLaws:
    @staticmethod
    def compared(d_max, bias):
        encoder, channel = keras.Sequential([keras.Input((3,))]), MatrixEchoDense(2)
        model = RateDistortionModel(encoder, keras.layers.Dense(3), channel, distortion="gaussian")
        model.build((None, 3))
        model.channel.log_scale_head.bias.assign([bias, bias])
        model.channel.below_head.bias.assign([0.5])
        model.channel.source.d_max = d_max
        # Two values an input, so that neither noise nor `z` is Gaussian.
        x = np.sign(np.random.default_rng(0).normal(size=(4_000, 3))).astype("float32")
        return noise.compare_laws(model, x, 100)

    def test_noise_has_the_law_of_z_and_is_not_gaussian(self):
        found = self.compared(99, bias=-1.0)  # a few echoes, whose sum is far from Gaussian
        assert found["z"][0] == 2_000 and found["z"][2] > 0.01
        assert found["gaussian"][2] < 0.01 and found["gaussian"][1] > 2 * found["z"][1]

    def test_a_sum_that_is_cut_too_early_is_noticed(self):
        assert self.compared(2, bias=3.0)["z"][2] < 0.01 < self.compared(99, bias=3.0)["z"][2]


class TestMeasure:
    """A decoder that reads the first dimension alone, and another that needs the correlation of two."""

    @staticmethod
    def model(decoder):
        channel = MatrixEchoDense(2, rate_weight=None, d_max=99, seed=0)
        model = RateDistortionModel(keras.Sequential([keras.Input((3,))]), decoder, channel, distortion="gaussian")
        model.build((None, 3))
        channel.log_scale_head.bias.assign([5.0, 5.0])
        channel.below_head.bias.assign([0.5])
        x = np.random.default_rng(0).normal(size=(1_000, 3)).astype("float32")
        channel.adapt(x)
        return model, x

    def test_dimension_that_nobody_reads_is_worth_nothing(self):
        read = keras.layers.Dense(3, kernel_initializer=keras.initializers.Constant([[1.0] * 3, [0.0] * 3]))
        _, rates, worth = noise.measure(*self.model(keras.Sequential([keras.Input((2,)), read])))
        assert rates.shape == (2,) and worth.shape == (2, 1_000)
        assert np.all(worth[1] == 0) and np.any(worth[0] != 0)

    def test_decoder_that_cancels_noise_needs_its_covariance(self):
        model, x = self.model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False)]))
        covariance = np.cov(keras.ops.convert_to_numpy(model.channel.source.sample_marginal(1_000)), rowvar=False)
        scale = keras.ops.convert_to_numpy(model.channel.statistics(x)[1]).mean(axis=0)
        correlated, independent = (scale @ cov @ scale.T for cov in (covariance, np.diag(np.diag(covariance))))
        direction = scipy.linalg.eigh(independent, correlated)[1][:, -1]  # where the correlation of the noise cancels most
        sd = np.sqrt(keras.ops.convert_to_numpy(model.channel.standardiser.variance))
        model.decoder.layers[-1].kernel.assign(np.outer(sd * direction, np.ones(3)))
        variance = {}
        for law in ("echo", "gaussian", "gaussian_independent"):
            pool = keras.ops.convert_to_numpy(model.channel.source.sample_marginal(1_000))
            draws = noise.draw(law, pool, 1_000, np.random.default_rng(0))
            z = model.channel.with_noise(np.repeat(x[:1], 1_000, axis=0), draws)
            variance[law] = model.decoder.predict(z, verbose=0)[:, 0].var()
        assert variance["gaussian"] == pytest.approx(variance["echo"], rel=0.2)
        assert variance["gaussian_independent"] > 1.5 * variance["echo"]
        # What is measured over the data: noise that is independent costs half of the variance that it adds, in each of three.
        found, *_ = noise.measure(model, x)
        means = {law: values.mean() for law, values in found.items()}
        assert means["gaussian"] == pytest.approx(means["echo"], rel=0.1)
        cost = 1.5 * (variance["gaussian_independent"] - variance["echo"])
        for law in ("gaussian_independent", "marginals_independent"):
            assert means[law] - means["echo"] == pytest.approx(cost, rel=0.5)


def test_tables(tmp_path, vectors, tiny):
    cells = [Cell("vectors", tiny("echo", epochs=1), data=vectors.fingerprint)]
    run_cell(cells[0], vectors, tmp_path, passes=2)
    noise.run(tmp_path / "noise", cells[:1], vectors, tmp_path)
    laws, dimensions, fits, tests = (read_points(tmp_path / "noise" / name, kind) for name, kind in TABLES.items())
    assert [row["other"] for row in tests] == ["z", "gaussian"] and tests[0]["p_value"] > 0.01
    assert [(row["noise"], row["rate_nats"] - row["fitted_rate_nats"]) for row in fits] == [
        ("gaussian", pytest.approx(fits[0]["lowered_nats"], abs=1e-4))
    ]
    assert [row["law"] for row in laws] == list(noise.LAWS)
    assert {row["method"] for row in laws} == {"echo"}
    assert sum(row["rate_nats"] for row in dimensions) == pytest.approx(laws[0]["rate_nats"])
    before = (tmp_path / "noise" / "laws.csv").read_text()
    noise.run(tmp_path / "noise", cells[:1], vectors, tmp_path)  # measures nothing anew
    assert (tmp_path / "noise" / "laws.csv").read_text() == before
    held = Cell(
        "vectors", tiny("echo", epochs=1, constraint={"quantity": "rate", "target_nats": 10.0}), data=vectors.fingerprint
    )
    with pytest.raises(CellError, match="not trained"):  # it is not taken for the one that is measured
        noise.run(tmp_path / "noise", [held], vectors, tmp_path)
    noise.run(tmp_path / "noise", cells[:1], vectors, tmp_path, split="train")
    assert [row["split"] for row in read_points(tmp_path / "noise" / "fits.csv", FitPoint)] == ["test", "train"]


def test_refusals(tmp_path, vectors, tiny):
    with pytest.raises(ConfigError, match="vae_maf has no Echo noise"):
        noise.run(tmp_path, [Cell("vectors", tiny("vae_maf"))], vectors, tmp_path)
    with pytest.raises(CellError, match="not trained"):
        noise.run(tmp_path, [Cell("vectors", tiny("echo"))], vectors, tmp_path)


def test_command_refuses_a_learnt_marginal_before_it_trains(reproduce, small_command, tmp_path, capsys):
    data = small_command()[:2]
    command = [*data, "--method", "vae_maf", "--experiment", "noise", "--out", str(tmp_path / "runs")]
    assert reproduce.main(command) == 2
    assert "vae_maf has no Echo noise" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_command_reports_tables_and_figures(reproduce, small_command, tmp_path):
    command = small_command("echo", "vae")
    values = json.loads(Path(command[-2]).read_text())
    values["channel"]["noise"] = "independent"
    (tmp_path / "echo_independent.yaml").write_text(json.dumps(values))
    command += [str(tmp_path / "echo_independent.yaml"), "--experiment", "noise", "--out", str(tmp_path / "runs")]
    assert reproduce.main(command) == 0
    report = tmp_path / "runs" / "report"
    for name in ("noise_laws.csv", "noise_laws.md", "noise_vectors.png", "noise_trained_vectors.png"):
        assert (report / name).exists()
    assert "marginals, independent" in (report / "noise_laws.md").read_text()
    with (report / "noise_trained.csv").open() as lines:
        echo, independent = csv.DictReader(lines)
    assert (echo["noise"], independent["noise"]) == ("echo", "independent")
    difference = float(independent["neg_elbo_nats"]) - float(echo["neg_elbo_nats"])
    assert float(independent["beyond_nats"]) == pytest.approx(difference) and difference != 0
    with (report / "noise_fits.csv").open() as lines:
        assert [row["method"] for row in csv.DictReader(lines)] == ["echo", "vae"]
