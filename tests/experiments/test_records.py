import dataclasses
import json
import logging

import numpy as np
import pytest

from echo_tf.errors import CellError, ResultError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.records import (
    Analysis,
    check_same_cell,
    damages,
    is_finished,
    pictures_path,
    read_metrics,
    read_noise,
    read_result,
    read_results,
    result_path,
)
from echo_tf.files import checksum
from echo_tf.models.config import load_config

CELL = Cell("binary_mnist", load_config("echo"))
MEASURED = {"mean": 1.5, "se": 0.1, "se_images": 0.2}


def values(**changes):
    """What a result file holds, but for the checksum."""
    quantities = dict.fromkeys(("rate_nats", "distortion_nats", "neg_elbo_nats"), MEASURED)
    return {**CELL.to_dict(), "split": "test", "source": "original", **quantities, "passes": 5, **changes}


def earlier(**groups):
    """The same with the keys that earlier versions had in a configuration."""
    config = values()["config"]
    del config["distortion"], config["channel"]["multiplicative"], config["channel"]["max_mean"]
    config["network"] = {"encoder": "conv", "decoder": "conv", "latent_dim": 32}
    for group, retired in (
        ("channel", {"pool": 0, "context_units": 0}),
        ("flow", {"scale": False}),
        ("training", {"replicas": 1}),
    ):
        config[group] |= retired | groups.get(group, {})
    return values(config=config, warm_start=[])


def write(folder, found, split="test", signed=True):
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(folder, split)
    path.write_text(json.dumps({**found, "checksum": checksum(found)} if signed else found))
    return path


class TestReadResult:
    def test_is_what_was_written(self, tmp_path):
        rates = [0.5, 0.25]
        more = {"importance_bound_nats": {"mean": 80.0}, "final_beta": 2.0, "rate_floor_nats": 0.4}
        result = read_result(write(tmp_path, values(**more, rate_by_dimension_nats=rates)))
        assert (result.cell, result.config, result.split, result.source) == (CELL, CELL.config, "test", "original")
        assert result.mean == dict.fromkeys(("rate_nats", "distortion_nats", "neg_elbo_nats"), 1.5)
        assert set(result.se.values()) == {0.1}
        assert (result.passes, result.importance_bound_nats, result.final_beta, result.rate_floor_nats) == (5, 80.0, 2.0, 0.4)
        assert result.rate_by_dimension_nats == (0.5, 0.25)
        assert result.folder == tmp_path

    def test_what_is_not_there_is_none(self, tmp_path):
        found = values()
        del found["passes"]
        result = read_result(write(tmp_path, found))
        assert {result.passes, result.importance_bound_nats, result.final_beta, result.rate_floor_nats} == {None}
        assert result.rate_by_dimension_nats == ()

    @pytest.mark.parametrize("signed", [True, False])  # early versions wrote no checksum
    def test_of_an_earlier_version(self, tmp_path, signed):
        assert read_result(write(tmp_path, earlier(), signed=signed)).cell == CELL

    @pytest.mark.parametrize(
        ("found", "reason"),
        [
            (earlier(channel={"pool": 900}), "channel.pool: 900"),
            (earlier(training={"replicas": 2}), "training.replicas: 2"),
            ({**earlier(), "warm_start": [0.5]}, "warm start"),
        ],
    )
    def test_of_what_this_version_cannot_train(self, tmp_path, found, reason):
        with pytest.raises(ResultError, match=rf"result\.json is not a result of this version: .*{reason}"):
            read_result(write(tmp_path, found))

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": {"method": "echo"}}', '"text"', "\x00"])
    def test_of_a_file_that_is_none(self, tmp_path, text):
        path = result_path(tmp_path, "test")
        path.write_text(text)
        with pytest.raises(ResultError, match=r"result\.json is not a result of this program"):
            read_result(path)
        assert damages(tmp_path, "test").keys() == {path}

    @pytest.mark.parametrize("lacking", ["dataset", "config", "split", "source", "rate_nats"])
    def test_that_is_incomplete(self, tmp_path, lacking):
        found = values()
        del found[lacking]
        with pytest.raises(ResultError, match=f"not a result of this program .*{lacking}"):
            read_result(write(tmp_path, found))

    def test_that_is_not_finite(self, tmp_path):
        with pytest.raises(ResultError, match="incomplete"):
            read_result(write(tmp_path, values(rate_nats={"mean": float("nan"), "se": 0.1})))

    def test_that_was_edited(self, tmp_path):
        path = write(tmp_path, values())
        path.write_text(path.read_text().replace("1.5", "1.4"))
        with pytest.raises(ResultError, match=r"result\.json is damaged \(its checksum .* Run its cell again"):
            read_result(path)
        assert damages(tmp_path, "test") == {path: "its checksum is not that of its contents"}

    def test_with_damaged_pictures(self, tmp_path):
        path = write(tmp_path, values())
        pictures = pictures_path(tmp_path, "test")
        np.savez(pictures, originals=np.zeros(3))
        read_result(path)
        pictures.write_bytes(pictures.read_bytes()[:-30])
        with pytest.raises(ResultError, match=r"pictures\.npz is damaged"):
            read_result(path)
        assert damages(tmp_path, "test").keys() == {pictures}

    def test_of_all_folders(self, tmp_path):
        folder = tmp_path / "binary_mnist" / "echo" / "cell"
        write(folder, values())
        write(folder, values(split="validation"), split="validation")
        (tmp_path / "binary_mnist" / "vae" / "unfinished").mkdir(parents=True)
        results = read_results(tmp_path)
        assert [found.split for found in results] == ["test", "validation"]
        assert {found.folder for found in results} == {folder}


class TestIsFinished:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = CELL.folder(tmp_path)
        write(folder, values())
        np.savez(pictures_path(folder, "test"), originals=np.zeros(3))
        (folder / "cell.json").write_text(json.dumps(CELL.to_dict()))
        return folder

    def test_with_result_and_pictures_of_enough_passes(self, folder, tmp_path):
        assert is_finished(CELL, tmp_path)
        assert is_finished(CELL, tmp_path, passes=5)
        assert not is_finished(CELL, tmp_path, passes=6)
        assert not is_finished(CELL, tmp_path, "validation")

    @pytest.mark.parametrize(("recorded", "law"), [({"echoes": "reservoir"}, "reservoir"), ({}, "batch")])  # early: batches
    def test_of_an_echo_channel_with_the_law_asked_for(self, folder, tmp_path, recorded, law):
        write(folder, values(rate_floor_nats=5.7, **recorded))
        assert [is_finished(CELL, tmp_path, echoes=asked) for asked in ("reservoir", "batch")] == [
            law == "reservoir",
            law == "batch",
        ]

    @pytest.mark.parametrize("name", ["result.json", "pictures.npz"])
    @pytest.mark.parametrize("damage", [True, False])
    def test_not_without_one_of_them(self, folder, tmp_path, name, damage):
        (folder / name).write_text("damaged") if damage else (folder / name).unlink()
        assert not is_finished(CELL, tmp_path)

    def test_of_an_earlier_version(self, folder, tmp_path):
        found = earlier()
        cell = {name: found[name] for name in ("dataset", "config", "holdout", "warm_start")}
        (folder / "cell.json").write_text(json.dumps(cell))
        assert is_finished(CELL, tmp_path)

    def test_not_of_another_cell(self, folder, tmp_path):
        other = dataclasses.replace(CELL, config=load_config("echo", channel={"d_max": 50}))
        with pytest.raises(CellError, match=r"another configuration \(channel\.d_max: 99 there, 50 wanted\)"):
            is_finished(other, tmp_path)
        (folder / "cell.json").write_text("{")
        with pytest.raises(CellError, match="cannot be read"):
            check_same_cell(CELL, folder)

    @pytest.mark.parametrize("split", ["test", "validation"])
    def test_not_of_another_cell_in_a_published_folder(self, tmp_path, split):
        """It has no cell.json; a new training would write over the result."""
        write(folder := CELL.folder(tmp_path), values(split=split), split)
        assert not is_finished(CELL, tmp_path)
        other = dataclasses.replace(CELL, config=load_config("echo", channel={"d_max": 50}))
        with pytest.raises(CellError, match=r"another configuration \(channel\.d_max: 99 there, 50 wanted\)"):
            is_finished(other, tmp_path)
        result_path(folder, split).write_text("damaged")
        assert not is_finished(other, tmp_path)


def test_metrics_leave_damaged_lines_out(tmp_path, caplog):
    assert read_metrics(tmp_path) == []
    damaged = ('{"epo', "[]", "{}", "5", '{"epoch": "3"}', '{"epoch": 3.5}', "\x00")
    (tmp_path / "metrics.jsonl").write_text("\n".join(['{"epoch": 1}', *damaged, '{"epoch": 2}']))
    with caplog.at_level(logging.WARNING):
        assert [line["epoch"] for line in read_metrics(tmp_path)] == [1, 2]
    assert [record.args[-1] for record in caplog.records] == list(range(2, 2 + len(damaged)))


def test_analysis_is_saved_and_read(tmp_path):
    path = tmp_path / "analysis.npz"
    arrays = {field.name: np.arange(place) for place, field in enumerate(dataclasses.fields(Analysis))}
    Analysis(**arrays).save(path)
    for name, value in vars(Analysis.load(path)).items():
        np.testing.assert_array_equal(value, arrays[name])
    np.savez(path, rate_by_dimension_nats=np.zeros(3))
    with pytest.raises(CellError, match="not an analysis"):
        Analysis.load(path)
    path.write_text("damaged")
    with pytest.raises(CellError, match=r"analysis\.npz is damaged"):
        Analysis.load(path)


def test_noise_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "noise.json"
    noise = {"total_correlation_nats": {"mean": 8.0, "se": 0.1}, "draws": 20_000}
    noise |= {"checksum": checksum(noise)}
    path.write_text(json.dumps(noise))
    assert read_noise(path) == noise
    for damaged in (json.dumps(noise).replace("8.0", "9.0"), '{"draws": 1}', "[]", "{"):
        path.write_text(damaged)
        with pytest.raises(ResultError, match=r"noise\.json is damaged .* Run --experiment analysis again"):
            read_noise(path)
