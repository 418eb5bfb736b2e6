import numpy as np
import pytest

from echo_tf.data.dataset import Dataset
from echo_tf.errors import CellError, ConfigError, ResultError
from echo_tf.experiments import freeriding
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.points import read_points
from echo_tf.experiments.run import run_cell
from echo_tf.experiments.used import TABLE, UsedPoint
from echo_tf.report import write
from echo_tf.report.freeriding_figures import settings


class Listening:
    """Encodes which of four kinds an image is; its decoder charges `price` nats for the wrong kind, one for the right."""

    def __init__(self, price):
        self.price = price

    @staticmethod
    def encode(images):
        return images[:, :1]

    def distortion_of(self, z, images):
        return np.where(z[:, 0] == images[:, 0], 1.0, 1.0 + self.price)


def test_what_a_decoder_uses():
    kinds = np.tile(np.arange(4.0), 64)[:, None]  # 256 others, a quarter of each kind
    deaf, keen = (freeriding.measure(Listening(price), kinds[:20], kinds) for price in (0.0, 5.0))
    for values in vars(deaf).values():
        np.testing.assert_allclose(values, 0.0, atol=1e-12)
    np.testing.assert_allclose(keen.used, -np.log((1 + 3 * np.exp(-5.0)) / 4))
    np.testing.assert_allclose(keen.certain, -np.log((65 + 192 * np.exp(-5.0)) / 257))
    assert np.isin(keen.shuffled, (0.0, 5.0)).all()
    alone = freeriding.measure(Listening(5.0), np.arange(6.0)[:, None], kinds)
    np.testing.assert_allclose(alone.shuffled, 5.0)  # no image has its own z


@pytest.fixture(scope="module")
def stripes():
    """4x4 images of one colour each, with some pixels flipped."""
    rng = np.random.default_rng(0)
    images = (rng.uniform(size=(60, 1, 1)) < 0.5) ^ (rng.uniform(size=(60, 4, 4)) < 0.1)
    return Dataset.from_arrays(images[:40], images[40:], name="stripes")


def test_run_is_resumed_and_reported(stripes, tiny, tmp_path, monkeypatch, without_figures):
    monkeypatch.setattr(freeriding, "OTHERS", 20)
    configs = [tiny("echo_pixelcnn", 1), tiny("vae", 1, constraint={"quantity": "rate", "target_nats": 3.0})]
    cells = [Cell("stripes", config, data=stripes.fingerprint) for config in configs]
    folder = tmp_path / "freeriding" / "stripes"
    with pytest.raises(CellError, match="is not trained"):
        freeriding.run(folder, cells, stripes, tmp_path)
    for cell in cells:
        run_cell(cell, stripes, tmp_path)
    freeriding.run(folder, cells[:1], stripes, tmp_path)
    before = freeriding.run(folder, cells, stripes, tmp_path).read_text()
    echo, vae = read_points(folder / TABLE, UsedPoint)
    assert (echo["method"], echo["target"], echo["beta"], echo["split"]) == ("echo_pixelcnn", "", 1.0, "test")
    assert (vae["method"], vae["target"]) == ("vae", "rate 3") and vae["beta"] != 1.0
    assert echo["rate_floor_nats"] == pytest.approx(configs[0].rate_floor) and vae["rate_floor_nats"] == 0.0
    assert echo["rate_nats"] + echo["distortion_nats"] == pytest.approx(echo["neg_elbo_nats"])
    with np.load(folder / "vae-paper-epochs=1-rate=3-seed=0-test.npz") as pictures:
        assert pictures["draws"].shape == (freeriding.SHOWN, freeriding.DRAWS, 4, 4)
        assert set(np.unique(pictures["draws"])) == {0, 1}
    monkeypatch.setattr(freeriding, "load_model", None)
    assert freeriding.run(folder, cells, stripes, tmp_path).read_text() == before
    report = write.write_report(tmp_path)
    names = {path.name for path in report.paths}
    assert {"freeriding.csv", "freeriding.md", "freeriding_used_stripes.png", "freeriding_draws_stripes.png"} <= names
    assert "What powerful decoders take from z" in (tmp_path / "report/index.html").read_text()
    (folder / "echo_pixelcnn-paper-epochs=1-beta=1-seed=0-test.npz").write_text("damaged")
    with pytest.raises(ResultError, match="cannot be read"):
        write.write_report(tmp_path)
    (folder / TABLE).write_text("dataset\nstripes\n")
    with pytest.raises(ResultError, match="columns are missing"):
        freeriding.run(folder, cells, stripes, tmp_path)


def test_seeds_of_models_with_a_target_are_averaged():
    numbers = ("rate_nats", "distortion_nats", "neg_elbo_nats", "used_nats", "certain_nats", "shuffled_nats")
    row = {
        "dataset": "a",
        "method": "vae",
        "split": "test",
        "epochs": 1,
        "target": "rate 3",
        "cell": "c",
        **dict.fromkeys(numbers, 1.0),
    }
    (found,) = settings([row | {"beta": 0.5}, row | {"beta": 0.7, "used_nats": 3.0}])
    assert (found["seeds"], found["beta"], found["used_nats"], found["used_nats_se"]) == (2, pytest.approx(0.6), 2.0, 1.0)
    assert len(settings([row | {"beta": 0.5, "target": ""}, row | {"beta": 0.7, "target": ""}])) == 2


def test_data_and_methods_that_do_not_fit(stripes, tiny, vectors):
    def check(dataset, *config, **groups):
        freeriding.check_cells([Cell(dataset.name, tiny(*config, **groups))], {dataset.name: dataset})

    check(stripes, "vae_pixelcnn")
    grey = Dataset.from_arrays(np.full((4, 4, 4), 0.5), np.zeros((2, 4, 4)), name="grey")
    colour = Dataset.from_arrays(np.zeros((4, 4, 4, 3)), np.zeros((2, 4, 4, 3)), name="colour")
    for dataset in (grey, colour, vectors):
        with pytest.raises(ConfigError, match=f"{dataset.name} has other values.*binary_digits"):
            check(dataset, "vae")
    with pytest.raises(ConfigError, match="Gaussian pixels"):
        check(stripes, "vae", distortion={"kind": "gaussian"})
    with pytest.raises(ConfigError, match="network.kind=conv"):
        check(stripes, "vae", network={"kind": "conv"})
