"""Trained models as small files: exported from cells, loaded by name."""

import json
import logging

import numpy as np
import pytest

from echo_tf.errors import CellError, ConfigError, ResultError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.pretrained import CHECKSUMS, _best_cells, export_models, load_pretrained
from echo_tf.experiments.records import CELL, MODEL
from echo_tf.experiments.run import load_model, run_cell
from echo_tf.models.config import load_config


@pytest.fixture(scope="module")
def exported(vectors, tiny, tmp_path_factory):
    """A cell of Echo, its trained model, and the folder of its file."""
    out = tmp_path_factory.mktemp("pretrained")
    cell = Cell("vectors", tiny("echo", epochs=2), data=vectors.fingerprint)
    run_cell(cell, vectors, out / "runs")
    paths = export_models(out / "runs", out / "files")
    assert [path.name for path in paths] == ["echo_vectors.npz", CHECKSUMS]
    return load_model(cell.folder(out / "runs")), out / "files", out / "runs"


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the folder, to be damaged."""
    for path in exported[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def rate_and_distortion(model, x):
    outputs = [model.predict(x, verbose=0) for _ in range(30)]
    return np.mean(outputs[0]["rate"]), np.mean([np.mean(output["distortion"]) for output in outputs])


def test_loaded_model_is_the_exported_one(exported, vectors, monkeypatch, caplog):
    model, files, _ = exported
    monkeypatch.setenv("ECHO_TF_PRETRAINED", str(files))
    with caplog.at_level(logging.WARNING):
        loaded = load_pretrained("echo", "vectors")
        x = vectors.images("test")
        (rate, distortion), (own_rate, own_distortion) = (rate_and_distortion(m, x) for m in (loaded, model))
    assert not caplog.records  # the reservoir came with it
    assert loaded.compiled and all(weight.dtype == "float32" for weight in loaded.trainable_weights)
    for weight, own in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_allclose(weight, own, rtol=2**-11, atol=1e-7)  # half of the last of the 11 bits of float16
    assert rate == pytest.approx(own_rate, rel=1e-3)
    assert distortion == pytest.approx(own_distortion, rel=0.02)  # of 600 draws of z
    loaded.fit(vectors.images("train"), batch_size=20, verbose=0)


def test_which_cell_of_a_method_is_exported(tmp_path, tiny, caplog):
    """Each is preferred to those before it."""
    rising = [
        Cell("digits", tiny("vae", epochs=9), holdout=10),
        Cell("digits", tiny("vae", epochs=9, constraint={"quantity": "rate", "target_nats": 4.0})),
        Cell("digits", load_config("vae", protocol="released", training={"epochs": 9})),
        Cell("digits", tiny("vae", epochs=2)),
        Cell("digits", tiny("vae", epochs=3, beta=0.2)),
        Cell("digits", tiny("vae", epochs=3, seed=5)),
        Cell("digits", tiny("vae", epochs=3, seed=4)),
    ]
    for cell in rising:
        folder = cell.folder(tmp_path)
        folder.mkdir(parents=True)
        for name, text in ((CELL, json.dumps(cell.to_dict())), ("result.json", ""), (MODEL, "")):
            (folder / name).write_text(text)
        assert _best_cells(tmp_path) == [cell]
    untrained = Cell("digits", tiny("vae", epochs=3)).folder(tmp_path)
    untrained.mkdir(parents=True)
    (untrained / CELL).write_text(json.dumps(rising[0].to_dict()))
    assert _best_cells(tmp_path) == [rising[-1]]
    late = Cell("digits", tiny("echo_maf", epochs=3, flow={"hidden_units": 8}))
    late.folder(tmp_path).mkdir(parents=True)
    for name, text in ((CELL, json.dumps(late.to_dict())), ("result.json", ""), (MODEL, "")):
        (late.folder(tmp_path) / name).write_text(text)
    assert _best_cells(tmp_path) == [rising[-1]]
    assert "its channel changes in the training" in caplog.text


def test_file_is_small_and_no_pickle(exported):
    model, files, _ = exported
    path = files / "echo_vectors.npz"
    with np.load(path, allow_pickle=False) as file:
        halves = sum(array.size for array in file.values() if array.dtype == np.float16)
    assert halves > 0.9 * sum(np.prod(weight.shape) for weight in model.weights)
    assert path.stat().st_size < 2.5 * halves


def test_damaged_file(folder):
    path = folder / "echo_vectors.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ResultError, match=r"has not the checksum .* reproduce.py --export"):
        load_pretrained("echo", "vectors", folder)


def test_file_without_checksum(folder):
    (folder / CHECKSUMS).unlink()
    with pytest.raises(ResultError, match=r"has not the checksum .*missing.* reproduce.py --export"):
        load_pretrained("echo", "vectors", folder)


def test_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(ResultError, match="no such files are published.* --method echo, then .*--export.*ECHO_TF_PRETRAINED"):
        load_pretrained("echo", "binary_mnist", tmp_path)


@pytest.mark.parametrize(
    ("method", "dataset", "message"),
    [
        ("ecco", "digits", "No method is called 'ecco'. Nearest: echo."),
        ("echo", "binary_mnst", "Nearest: binary_mnist."),
        ("../echo", "digits", "Invalid name of a method"),
    ],
)
def test_unknown_name(method, dataset, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_pretrained(method, dataset, tmp_path)


def test_nothing_to_export(tmp_path):
    with pytest.raises(CellError, match="nothing to export"):
        export_models(tmp_path, tmp_path / "files")


def test_command(exported, reproduce, tmp_path, capsys):
    assert reproduce.main(["--export", str(tmp_path / "files"), "--out", str(exported[2])]) == 0
    assert "echo_vectors.npz" in capsys.readouterr().out
    load_pretrained("echo", "vectors", tmp_path / "files")
