import json
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from echo_tf.data.dataset import Dataset
from echo_tf.errors import CellError, ConfigError, DataError, TrainingError
from echo_tf.experiments import analysis, records, run
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.records import LatentMap, is_finished, result_path
from echo_tf.experiments.run import analyse_cell, check_analysable, load_model, run_cell
from echo_tf.files import checksum, locked, zip_damage


@pytest.fixture(scope="module")
def finished(vectors, tiny, tmp_path_factory):
    """Folder of all cells, with an Echo cell that is trained and evaluated."""
    out = tmp_path_factory.mktemp("runs")
    echo = Cell("vectors", tiny("echo", epochs=1), data=vectors.fingerprint)
    return echo, out, run_cell(echo, vectors, out)


@pytest.fixture
def short_analysis(monkeypatch):
    monkeypatch.setattr(analysis, "MARGINAL_SAMPLES", 3)
    monkeypatch.setattr(analysis, "NOISE_DRAWS", 60)


def test_result_holds_cell_measures_and_circumstances(finished, vectors):
    cell, out, result = finished
    assert json.loads(result_path(cell.folder(out), "test").read_text()) == result
    assert Cell.from_dict({key: result[key] for key in ("dataset", "config", "holdout", "data")}) == cell
    assert result["source"] == "own"
    assert (result["training_images"], result["evaluated_images"], result["passes"]) == (60, 20, 5)
    total = result["rate_nats"]["mean"] + result["distortion_nats"]["mean"]
    assert result["neg_elbo_nats"]["mean"] == pytest.approx(total)
    assert 0 < result["rate_floor_nats"] < result["rate_nats"]["mean"]
    assert len(result["rate_by_dimension_nats"]) == 2
    assert sum(result["rate_by_dimension_nats"]) == pytest.approx(result["rate_nats"]["mean"], rel=1e-4)
    assert {"python", "versions", "backend", "devices", "git_commit"} <= set(result["environment"])
    assert {"keras", "tensorflow", "numpy"} <= set(result["environment"]["versions"])
    assert result["checksum"] == checksum(result)
    assert {path.name for path in cell.folder(out).iterdir()} == {
        *(".lock", "cell.json", "metrics.jsonl", "model.keras", "pictures.npz", "result.json")
    }


def test_a_result_whose_model_is_gone_is_kept(finished, vectors, tmp_path):
    cell, out, _ = finished
    folder = cell.folder(tmp_path)
    shutil.copytree(cell.folder(out), folder)
    for name in ("model.keras", "pictures.npz"):  # what published folders lack
        (folder / name).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CellError, match=r"has a result, but its model is gone.*use --report"):
        run_cell(cell, vectors, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "model.keras.damaged").touch()  # which was set aside, so that it is made anew
    records.check_model(folder)


def test_metrics_that_lack_epochs_are_named(finished, vectors, tmp_path, caplog):
    cell, out, _ = finished
    folder = cell.folder(tmp_path)
    shutil.copytree(cell.folder(out), folder)
    (folder / records.METRICS).write_text("")
    result_path(folder, "test").unlink()
    run_cell(cell, vectors, tmp_path)
    assert [record.getMessage() for record in caplog.records if "has 0 of 1 epochs" in record.getMessage()]


def test_channels_without_a_floor_have_none_in_their_result(cell, vectors, tmp_path):
    result = run_cell(cell, vectors, tmp_path, passes=2)
    assert not {"rate_floor_nats", "rate_by_dimension_nats"} & set(result)
    assert result["importance_bound_nats"]["mean"] <= result["neg_elbo_nats"]["mean"]


@pytest.mark.parametrize(("shape", "saved"), [((28, 28, 1), (28, 28)), ((8, 8, 3), (8, 8, 3)), ((6,), (6,))])
def test_pictures_of_any_shape(tmp_path, shape, saved):
    class Model:
        def reconstruct(self, images):
            return images - 0.5  # a Gaussian decoder may leave the range

        def generate(self, n):
            return np.full((n, *shape), 1.5)

    images = np.random.default_rng(0).uniform(size=(25, *shape)).astype("float32")
    run._save_pictures(tmp_path / "pictures.npz", Model(), images)
    with np.load(tmp_path / "pictures.npz", allow_pickle=False) as pictures:
        originals, reconstructions, samples = (pictures[name] for name in ("originals", "reconstructions", "samples"))
    assert originals.shape == reconstructions.shape == samples.shape == (10, *saved)
    assert originals.dtype == np.uint8
    np.testing.assert_array_equal(originals, np.rint(255 * images[:20:2].reshape(10, *saved)))  # from all over the split
    np.testing.assert_array_equal(reconstructions, np.rint(255 * np.clip(images[:20:2].reshape(10, *saved) - 0.5, 0, 1)))
    assert np.all(samples == 255)


def test_fewer_passes_than_a_standard_error_needs(cell, vectors, tmp_path):
    with pytest.raises(ConfigError, match="at least 2"):
        run_cell(cell, vectors, tmp_path, passes=1)


def test_missing_split_is_found_before_the_training(cell, vectors, tmp_path):
    with pytest.raises(DataError, match="no validation split"):
        run_cell(cell, vectors, tmp_path, split="validation")
    assert not list(tmp_path.iterdir())


def test_data_that_changed_since_the_plan_are_refused(cell, vectors, tmp_path):
    other = Dataset.from_arrays(1 - vectors.train, vectors.test, name="vectors")
    with pytest.raises(DataError, match="have changed"):
        run_cell(cell, other, tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_data_in_the_same_folder_are_refused(finished, vectors):
    cell, out, _ = finished
    other = Dataset.from_arrays(1 - vectors.train, vectors.test, name="vectors")
    with pytest.raises(CellError, match=f"data: {vectors.fingerprint} there, {other.fingerprint} wanted"):
        run_cell(Cell("vectors", cell.config, data=other.fingerprint), other, out)


class TestAnalysis:
    def test_is_made_once_and_the_noise_is_told_as_text(self, finished, vectors, short_analysis, tmp_path):
        cell, trained, _ = finished
        out = Path(shutil.copytree(trained, tmp_path / "runs"))
        first = analyse_cell(cell, vectors, out)
        path, noise = cell.folder(out) / "analysis.npz", cell.folder(out) / "noise.json"
        told = json.loads(noise.read_text())
        assert told["total_correlation_nats"]["mean"] == pytest.approx(first.total_correlation_nats[0])
        assert told["draws"] == 60 and told["checksum"] == checksum(told)
        written = path.stat().st_mtime_ns
        noise.unlink()
        (cell.folder(out) / "map.npz").unlink()
        again = analyse_cell(cell, vectors, out, arrays=True)
        assert path.stat().st_mtime_ns == written and noise.exists()
        assert LatentMap.load(cell.folder(out) / "map.npz").z.shape == (20, 2)
        with np.load(cell.folder(out) / "arrays.npz") as arrays:
            np.testing.assert_allclose(arrays["rate_nats"].sum(axis=1), first.pointwise_rate_nats, rtol=1e-4)
        np.testing.assert_array_equal(first.pointwise_rate_nats, again.pointwise_rate_nats)

    def test_needs_a_trained_model(self, cell, vectors, tmp_path):
        for _ in range(2):
            with pytest.raises(CellError, match="not trained"):
                analyse_cell(cell, vectors, tmp_path)
            cell.folder(tmp_path).mkdir(parents=True, exist_ok=True)
        with pytest.raises(CellError, match="not trained"):
            load_model(cell.folder(tmp_path))

    def test_noise_needs_a_batch_of_images(self, vectors, tiny):
        echo = tiny("echo", channel={"d_max": 20})
        with pytest.raises(CellError, match="made from 21 images, and the test split of vectors has 20"):
            check_analysable(Cell("vectors", echo, data=vectors.fingerprint), vectors)
        check_analysable(Cell("vectors", tiny("vae", channel={"d_max": 20}), data=vectors.fingerprint), vectors)


def test_all_files_of_a_cell_are_written_under_its_lock(cell, vectors, tiny, tmp_path, short_analysis, monkeypatch):
    """A second process that took the lock meanwhile would delete the temporary file that is to be renamed."""
    written, replace = [], Path.replace

    def checked(path, target):
        with pytest.raises(CellError), locked(path.parent):
            pass
        written.append(Path(target).name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", checked)
    echo = Cell("vectors", tiny("echo", epochs=1), data=vectors.fingerprint)
    run_cell(echo, vectors, tmp_path)
    analyse_cell(echo, vectors, tmp_path)
    path = records.analysis_path(echo.folder(tmp_path), "test")
    path.write_bytes(path.read_bytes()[:-9])
    analyse_cell(echo, vectors, tmp_path)  # which sets the damaged one aside
    kinds = {"cell.json", "metrics.jsonl", "checkpoint.keras", "model.keras", "pictures.npz", "result.json"}
    assert set(written) == kinds | {"analysis.npz", "analysis.npz.damaged", "map.npz", "noise.json"}


def test_model_of_another_version_is_refused_with_a_sentence(cell, vectors, tmp_path):
    @keras.saving.register_keras_serializable(package="earlier")
    class RateDistortionModel(keras.Model):
        def __init__(self, config=None, **kwargs):
            super().__init__(**kwargs)

        def call(self, x):
            return x

        def get_config(self):
            return {"config": {"method": "vae", "channel": {"pool": 0}}}

    folder = cell.folder(tmp_path)
    folder.mkdir(parents=True)
    model = RateDistortionModel()
    model(np.zeros((1, 6)))
    model.save(folder / "model.keras")
    keras.saving.get_custom_objects().pop("earlier>RateDistortionModel")
    whole = (folder / "model.keras").read_bytes()
    with pytest.raises(TrainingError, match=r"model\.keras cannot be loaded, perhaps because another version wrote it"):
        run_cell(cell, vectors, tmp_path)
    assert (folder / "model.keras").read_bytes() == whole
    assert not is_finished(cell, tmp_path) and zip_damage(folder / "model.keras") is None


def test_a_result_names_its_commit_and_changes_of_what_makes_it(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        done = subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    module = tmp_path / "echo_tf" / "experiments" / "run.py"
    for path in (module, tmp_path / "configs" / ".keep"):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(run, "__file__", str(module))

    def named():
        return run.environment()["git_commit"]

    assert named() is None  # no checkout
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "launch.py").touch()
    assert named() == commit
    for path in (module, tmp_path / "configs" / "mine.yaml", tmp_path / "reproduce.py"):
        path.write_text("changed")
        assert named() == f"{commit}+changes"
        git("stash", "--include-untracked")
        assert named() == commit
