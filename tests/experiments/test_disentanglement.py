import keras
import numpy as np
import pytest

from echo_tf.data.load import load_dataset
from echo_tf.data.sprites import SIZES
from echo_tf.echo.dense import EchoDense
from echo_tf.errors import CellError, ConfigError
from echo_tf.experiments import disentanglement, scores
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.points import read_points
from echo_tf.experiments.run import run_cell
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.report import write

SMALL = (3, 2, 2, 3, 3)


@pytest.fixture
def small(monkeypatch):
    """108 sprites and short scores."""
    monkeypatch.setitem(SIZES, "sprites", SMALL)
    monkeypatch.setattr(scores.factor_vae_score, "__defaults__", (None, 200, 200, 20))


@pytest.fixture(scope="module")
def model():
    channel = EchoDense(2, d_max=40, rate_weight=None, seed=0)
    found = RateDistortionModel(keras.Sequential([keras.Input((3,))]), keras.layers.Dense(3), channel, distortion="gaussian")
    found.build((None, 3))
    channel.mean_head.kernel.assign(np.random.default_rng(1).normal(size=(3, 2)))
    channel.log_scale_head.bias.assign([2.0, 2.0])
    channel.adapt(np.random.default_rng(0).normal(size=(2_000, 3)).astype("float32"))
    return found


class TestLaw:
    """Echoes of a batch in which the image is fixed have the wrong law; codes must not be made of them."""

    BATCH = np.repeat(np.array([[1.0, -0.5, 2.0]], "float32"), 4_000, axis=0)

    def noise_of_training_data(self, model):
        noise = model.channel.source.sample_marginal(4_000)
        return np.asarray(model.channel.with_noise(model.features(self.BATCH), noise))

    def test_codes_have_the_law_of_training_data(self, model):
        found, expected = disentanglement.encode(model, self.BATCH)["sample"], self.noise_of_training_data(model)
        # Draws of one pass of the reservoir depend on each other: as many independent ones as its 1,000 pairs.
        se = expected.std(axis=0) * np.sqrt(2 / 1_000)
        assert np.all(np.abs(found.mean(axis=0) - expected.mean(axis=0)) < 5 * se)
        np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), rtol=5 * np.sqrt(1 / 1_000))

    def test_this_test_finds_echoes_of_the_batch(self, model):
        model.channel.echoes_from_batch(True)
        try:
            found = disentanglement.encode(model, self.BATCH)["sample"]
        finally:
            model.channel.echoes_from_batch(False)
        assert np.all(found.std(axis=0) < 0.01 * self.noise_of_training_data(model).std(axis=0))

    def test_mean_is_a_function_of_the_image(self, model):
        x = np.random.default_rng(2).normal(size=(50, 3)).astype("float32")
        codes = disentanglement.encode(model, x)["mean"]
        np.testing.assert_allclose(disentanglement.encode(model, x[:1])["mean"], codes[:1], rtol=1e-5)

    def test_mean_has_the_units_of_a_draw(self, model):
        x = np.random.default_rng(3).normal(size=(20_000, 3)).astype("float32")
        codes = disentanglement.encode(model, x)
        for mean, sample in zip(codes["mean"].T, codes["sample"].T, strict=True):
            # z = mean + noise that is independent of x, as s is constant here: a slope of 1, with a standard error below 0.02.
            assert np.cov(mean, sample)[0, 1] / mean.var() == pytest.approx(1.0, abs=0.1)


def test_traversal_moves_one_dimension(model):
    samples = np.random.default_rng(0).normal(size=(1_000, 2))

    class Decoder:
        decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4), keras.layers.Reshape((2, 2, 1))])

        @staticmethod
        def decode(z):
            return np.repeat(z, 2, axis=1).reshape(-1, 2, 2, 1)

    found = disentanglement.traverse(Decoder(), samples, np.array([0.1, 3.0]), np.array([0.5, 0.5]))
    assert found.shape == (2, disentanglement.STEPS, 2, 2)
    assert np.all(found[0, :, 0] == found[0, 0, 0]) and found[0, -1, 1, 0] > found[0, 0, 1, 0]  # the highest rate first
    assert np.all(found[1, :, 1] == found[1, 0, 1])


def test_images_are_those_of_the_factors(small):
    images, factors = disentanglement.images_with_factors("sprites_dependent")
    assert len(images) == np.prod(SMALL) and len(np.unique(factors, axis=0)) == len(images)
    from echo_tf.data.sprites import render

    np.testing.assert_array_equal(images, render(factors, SMALL))
    few, of_few = disentanglement.images_with_factors("sprites", most=10)
    np.testing.assert_array_equal(few, render(of_few, SMALL))


def test_from_training_to_report(small, tiny, tmp_path, monkeypatch, without_figures):
    """Scored once, with table and figures of both methods; nothing is scored again."""
    kind = {"network": {"kind": "mlp"}}
    configs = [tiny("echo", 1, **kind), tiny("vae_tc", 1, **kind)]
    cells = [Cell("sprites", config) for config in configs]
    folder = tmp_path / "disentanglement" / "sprites"
    with pytest.raises(CellError, match="is not trained"):
        disentanglement.run(folder, cells, tmp_path)
    for cell in cells:
        run_cell(cell, load_dataset("sprites"), tmp_path)
    before = disentanglement.run(folder, cells, tmp_path).read_bytes()
    rows = read_points(folder / scores.TABLE, scores.ScorePoint)
    assert [(row["method"], row["codes"]) for row in rows] == [
        ("echo", "mean"), ("echo", "sample"), ("vae_tc", "mean"), ("vae_tc", "sample")
    ]  # fmt: skip
    assert all(0 <= row[key] <= 1 for row in rows for key in ("factor_vae", "mig", "dci_disentanglement"))
    monkeypatch.setattr(disentanglement, "load_model", None)
    assert disentanglement.run(folder, cells, tmp_path).read_bytes() == before
    held = Cell("sprites", tiny("echo", 1, constraint={"quantity": "rate", "target_nats": 10.0}, **kind))
    with pytest.raises(TypeError):  # it is not taken for the one that is scored
        disentanglement.run(folder, [held], tmp_path)
    report = write.write_report(tmp_path, publish=tmp_path / "published")
    names = {path.name for path in report.paths}
    assert {"disentanglement.csv", "disentanglement.md"} <= names
    assert {"disentanglement_scores_sprites.png", "disentanglement_traversals_sprites.png"} <= names
    assert all(path.exists() and path.parent == tmp_path / "published" for path in report.paths)


def test_data_without_factors(tiny, tmp_path):
    with pytest.raises(ConfigError, match="digits has no known factors"):
        disentanglement.run(tmp_path, [Cell("digits", tiny())], tmp_path)
