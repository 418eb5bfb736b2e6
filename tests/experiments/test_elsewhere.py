import json

import numpy as np
import pytest

from echo_tf.data.dataset import Dataset
from echo_tf.errors import CellError, ConfigError, ResultError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.elsewhere import check_shapes, elsewhere_path, evaluate_elsewhere, read_elsewhere
from echo_tf.experiments.evaluation import evaluate
from echo_tf.experiments.inputs import Input
from echo_tf.experiments.run import load_model, run_cell


def found_on(name, shape=(6,), fingerprint=""):
    return {name: Input(name, name, 10, shape, 2, fingerprint)}


@pytest.fixture(scope="module")
def others(vectors):
    """Of the same shape, and of larger values than the vectors that the models are trained on."""
    return Dataset.from_arrays(vectors.train, np.sqrt(vectors.test[:10]), name="others")


@pytest.fixture(scope="module")
def finished(vectors, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    echo = Cell("vectors", tiny("echo", epochs=1), data=vectors.fingerprint)
    run_cell(echo, vectors, out)
    return echo, out


class TestEvaluation:
    def test_is_that_of_the_model_with_echoes_of_its_own_data(self, finished, others):
        cell, out = finished
        assert evaluate_elsewhere(cell, others, out, 3)
        (found,) = read_elsewhere(cell.folder(out))
        assert (found.dataset, found.fingerprint, found.images, found.passes) == ("others", others.fingerprint, 10, 3)
        expected = evaluate(load_model(cell.folder(out)), others.test, batch_size=20, passes=3, seed=0).summary()
        assert {name: expected[name]["mean"] for name in found.mean} == pytest.approx(found.mean)
        assert found.importance_bound_nats is None
        values = json.loads(elsewhere_path(cell.folder(out), "others").read_text())
        assert Cell.from_dict(values) == cell and "environment" in values

    def test_is_made_once_for_the_same_data_and_passes(self, finished, others):
        cell, out = finished
        evaluate_elsewhere(cell, others, out, 3)
        assert not evaluate_elsewhere(cell, others, out, 2)
        changed = Dataset.from_arrays(others.raw("train"), 1 - others.raw("test"), name="others")
        assert evaluate_elsewhere(cell, changed, out, 2)
        assert evaluate_elsewhere(cell, changed, out, 3)
        assert read_elsewhere(cell.folder(out))[0].fingerprint == changed.fingerprint

    def test_damage_is_found_and_set_aside(self, finished, others, caplog):
        cell, out = finished
        evaluate_elsewhere(cell, others, out, 3)
        path = elsewhere_path(cell.folder(out), "others")
        path.write_text(path.read_text().replace('"images": 10', '"images": 11'))
        with pytest.raises(ResultError, match="checksum"):
            read_elsewhere(cell.folder(out))
        assert evaluate_elsewhere(cell, others, out, 3)
        assert "is now called on_others.json.damaged" in caplog.text
        assert len(read_elsewhere(cell.folder(out))) == 1

    def test_needs_a_trained_model(self, cell, others, tmp_path):
        with pytest.raises(CellError, match="not trained"):
            evaluate_elsewhere(cell, others, tmp_path, 2)


class TestShapes:
    def test_others_are_refused(self):
        with pytest.raises(ConfigError, match=r"mine take examples of shape \(6,\), and those of other have \(5,\)"):
            check_shapes(found_on("mine"), found_on("other", (5,)))

    def test_own_data_alone_are_refused(self):
        with pytest.raises(ConfigError, match="Models of mine are evaluated on that anyway"):
            check_shapes(found_on("mine"), found_on("mine"))

    def test_what_goes_together(self):
        check_shapes(found_on("mine"), found_on("other"))
        check_shapes(found_on("mine"), found_on("mine") | found_on("other"))
        check_shapes(found_on("mine", fingerprint="a"), found_on("mine", fingerprint="b"))
        check_shapes(found_on("mine"), {})
