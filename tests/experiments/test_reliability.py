"""Nothing is lost, whatever happens: killed processes, damaged files, full disks, second processes, losses that are NaN."""

import functools
import json
import logging
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from echo_tf.errors import CellError, TrainingError
from echo_tf.experiments import training
from echo_tf.experiments.records import CHECKPOINT, Analysis, is_finished, read_metrics
from echo_tf.experiments.run import analyse_cell, run_cell
from echo_tf.experiments.training import save_atomically
from echo_tf.files import LOCK, checksum, locked, set_aside, write_atomically, zip_damage

ROOT = Path(__file__).resolve().parents[2]
LOCK_AND_WAIT = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
with files.locked(pathlib.Path(sys.argv[2])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def undisturbed(cell, vectors, tmp_path_factory):
    """Folder of all cells, with one that was trained without any disturbance."""
    out = tmp_path_factory.mktemp("undisturbed")
    run_cell(cell, vectors, out)
    return out


@pytest.fixture
def out(undisturbed, tmp_path):
    """A copy of it to damage."""
    return Path(shutil.copytree(undisturbed, tmp_path / "runs"))


def science(folder):
    """All of a result but what may differ between two runs that are equal."""
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in ("training_seconds", "environment", "checksum")}


def flip(path, place=0.5):
    """Change one bit of a file."""
    contents = bytearray(path.read_bytes())
    contents[int(place * len(contents))] ^= 1
    path.write_bytes(contents)
    return bytes(contents)


def temporaries(folder):
    """Hidden files that an interrupted write would leave."""
    return [path for path in folder.rglob("*") if path.name != LOCK and (path.name[0] == "." or path.name.startswith("tmp"))]


class At(keras.callbacks.Callback):
    """Do something at the beginning of a step, or after it, counted from 0."""

    def __init__(self, epoch, batch, action, after=False):
        super().__init__()
        self.place, self.action, self.after = (epoch, batch), action, after

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.place and not self.after:
            self.action(self.model)

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place and self.after:
            self.action(self.model)


def interrupt(model):
    raise KeyboardInterrupt


def spoil(model):
    weight = model.trainable_variables[-1]
    weight.assign(np.full(weight.shape, np.nan))


class TestFiles:
    def test_every_damaged_bit_is_detected_or_harmless(self, tmp_path):
        path = tmp_path / "arrays.npz"
        np.savez_compressed(path, a=np.arange(20.0), b=np.ones(3, np.uint8))
        with np.load(path, allow_pickle=False) as arrays:
            expected = dict(arrays)
        assert zip_damage(path) is None
        whole, found = path.read_bytes(), 0
        for place in range(len(whole)):
            for bit in (0x01, 0x80):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
                if zip_damage(path):
                    found += 1
                    continue
                with np.load(path, allow_pickle=False) as arrays:  # times and the like
                    for name, values in expected.items():
                        np.testing.assert_array_equal(arrays[name], values)
        assert found > len(whole)  # more than half
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert zip_damage(path)

    def test_set_aside_deletes_nothing(self, tmp_path, caplog):
        for text in ("first", "second", "third"):
            (tmp_path / "a.npz").write_text(text)
            set_aside(tmp_path / "a.npz", "because")
        kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert kept == {"a.npz.damaged": "first", "a.npz.damaged-2": "second", "a.npz.damaged-3": "third"}
        assert str(tmp_path / "a.npz") in caplog.records[0].getMessage()

    @pytest.mark.parametrize("kind", ["text", "model"])
    def test_disk_that_fills_up_leaves_the_old_file(self, tmp_path, kind):
        """The kernel refuses to write beyond a limit, in the midst of the file."""
        path = tmp_path / ("file.json" if kind == "text" else "model.keras")
        path.write_text("old")
        model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(50)])
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
        try:
            with pytest.raises(OSError, match=re.escape(f"{path} cannot be written, and is as it was (")):
                write_atomically(path, 10_000 * "x") if kind == "text" else save_atomically(model, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_lock_ends_with_its_process(self, tmp_path):
        (tmp_path / ".12345.model.keras").write_text("half")
        (tmp_path / "model.keras").write_text("whole")
        script = [sys.executable, "-c", LOCK_AND_WAIT, str(ROOT / "echo_tf" / "files.py"), str(tmp_path)]
        with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline() == "locked\n"
                assert not temporaries(tmp_path)
                (tmp_path / ".12346.model.keras").write_text("being written")
                with pytest.raises(CellError), locked(tmp_path):
                    pass
                assert temporaries(tmp_path)
            finally:
                process.kill()
        with locked(tmp_path):
            assert {path.name for path in tmp_path.iterdir()} == {LOCK, "model.keras"}


class TestDamage:
    """Found by checksum, named in a warning, set aside, and made anew with the same numbers."""

    @pytest.fixture
    def check(self, cell, undisturbed, out, vectors, caplog):
        def run(name, contents):
            folder = cell.folder(out)
            assert not is_finished(cell, out)
            run_cell(cell, vectors, out)
            (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("echo_tf")]
            assert str(folder / name) in warning.getMessage()
            assert (folder / f"{name}.damaged").read_bytes() == contents
            assert science(folder) == science(cell.folder(undisturbed))
            assert is_finished(cell, out)
            assert zip_damage(folder / "model.keras") is None
            assert not temporaries(out)

        return run

    def test_checkpoint(self, cell, check, out, vectors):
        folder = cell.folder(out)
        shutil.rmtree(folder)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, vectors, out, callbacks=[At(2, 0, interrupt)])
        check(CHECKPOINT, flip(folder / CHECKPOINT))
        assert [line["epoch"] for line in read_metrics(folder)] == [1, 2, 3]

    def test_model(self, cell, check, out):
        folder = cell.folder(out)
        (folder / "result.json").unlink()
        check("model.keras", flip(folder / "model.keras"))

    @pytest.mark.parametrize("kind", ["cut short", "edited", "no result", "another cell's"])
    def test_result(self, cell, check, out, kind):
        path = cell.folder(out) / "result.json"
        result = json.loads(path.read_text())
        text = path.read_text()
        if kind == "edited":
            result["rate_nats"]["mean"] -= 1
            text = json.dumps(result)
        elif kind == "another cell's":
            text = json.dumps({**result, "dataset": "../../etc"})
        path.write_text({"cut short": text[: len(text) // 2], "no result": "[1]"}.get(kind, text))
        trained = (cell.folder(out) / "model.keras").stat().st_mtime_ns
        check("result.json", path.read_bytes())
        assert (cell.folder(out) / "model.keras").stat().st_mtime_ns == trained

    def test_pictures(self, cell, check, out):
        check("pictures.npz", flip(cell.folder(out) / "pictures.npz", 0.2))

    def test_result_of_an_older_version_counts(self, cell, out):
        path = cell.folder(out) / "result.json"
        result = json.loads(path.read_text())
        assert result.pop("checksum") == checksum(result)
        path.write_text(json.dumps(result, sort_keys=True))
        assert is_finished(cell, out)

    def test_analysis(self, cell, out, vectors, caplog, monkeypatch):
        monkeypatch.setattr("echo_tf.experiments.analysis.MARGINAL_SAMPLES", 3)
        first = analyse_cell(cell, vectors, out)
        path = cell.folder(out) / "analysis.npz"
        damaged = flip(path)
        with pytest.raises(CellError, match=r"analysis\.npz is damaged"):
            Analysis.load(path)
        again = analyse_cell(cell, vectors, out)
        assert str(path) in caplog.text
        assert path.with_name("analysis.npz.damaged").read_bytes() == damaged
        np.testing.assert_array_equal(first.pointwise_rate_nats, again.pointwise_rate_nats)
        np.savez(path, rate_by_dimension_nats=np.array([None], object), allow_pickle=True)
        with pytest.raises(CellError, match="not an analysis"):  # and no pickle is loaded
            Analysis.load(path)

    def test_torn_line_of_metrics(self, cell, undisturbed, out, vectors, caplog):
        folder = cell.folder(out)
        shutil.rmtree(folder)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, vectors, out, callbacks=[At(2, 0, interrupt)])
        path = folder / "metrics.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
        run_cell(cell, vectors, out)
        assert [line["epoch"] for line in read_metrics(folder)] == [1, 3]
        assert f"{path}: line 2" in caplog.text
        assert science(folder) == science(cell.folder(undisturbed))

    @pytest.mark.parametrize("name", ["result.json", "pictures.npz"])
    def test_report_names_the_file(self, cell, reproduce, out, capsys, name):
        path = cell.folder(out) / name
        flip(path, 0.3)
        assert reproduce.main(["--report", "--out", str(out)]) == 2
        assert str(path) in capsys.readouterr().err
        assert path.exists()

    def test_model_with_code_is_refused(self, cell, out, vectors):
        """Keras' safe mode: a `.keras` file cannot bring functions of its own."""
        folder = cell.folder(out)
        keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)]).save(folder / "model.keras")
        (folder / "result.json").unlink()
        with pytest.raises(TrainingError, match=r"model\.keras cannot be loaded"):
            run_cell(cell, vectors, out)


def test_second_process_is_refused(cell, undisturbed, vectors, tmp_path):
    folder = cell.folder(tmp_path)
    folder.mkdir(parents=True)
    with locked(folder), pytest.raises(CellError, match=re.escape(f"{folder} is in use by another process. Wait")):
        run_cell(cell, vectors, tmp_path)
    assert {path.name for path in folder.iterdir()} == {LOCK}
    with locked(cell.folder(undisturbed)):  # what is finished may be read
        assert run_cell(cell, vectors, undisturbed)["passes"] == 5


class TestNonFiniteLoss:
    @pytest.fixture(autouse=True)
    def single_steps(self, monkeypatch):
        """A call for each step, so that a callback can disturb a certain one."""
        monkeypatch.setattr(training, "CALL_STEPS_ON_CPU", 1)

    def test_stops_at_the_batch_and_resumes_from_the_last_good_epoch(self, cell, undisturbed, vectors, tmp_path):
        folder = cell.folder(tmp_path)
        reached = []
        after = [At(1, batch, lambda model, batch=batch: reached.append(batch)) for batch in range(3)]
        with pytest.raises(TrainingError, match=r"loss is nan in batch 2 of epoch 2.*epoch 1 is kept") as error:
            run_cell(cell, vectors, tmp_path, callbacks=[At(1, 1, spoil), *after])
        assert reached == [0, 1]
        assert json.loads((folder / "failed.json").read_text()) == {"reason": str(error.value)}
        assert [line["epoch"] for line in read_metrics(folder)] == [1]
        assert not is_finished(cell, tmp_path)
        run_cell(cell, vectors, tmp_path)
        assert science(folder) == science(cell.folder(undisturbed))
        assert not (folder / "failed.json").exists()

    def test_weights_that_the_last_step_spoilt_are_not_saved(self, cell, vectors, tmp_path):
        with pytest.raises(TrainingError, match=r"is not finite after epoch 2, whose last batch is 3"):
            run_cell(cell, vectors, tmp_path, callbacks=[At(1, 2, spoil, after=True)])
        saved = keras.saving.load_model(cell.folder(tmp_path) / CHECKPOINT)
        assert int(saved.optimizer.iterations) == 3
        assert all(np.all(np.isfinite(weight)) for weight in saved.weights)

    def test_status_is_2_and_the_report_skips_the_cell(self, reproduce, small_command, tmp_path, capsys):
        assert reproduce.main([*small_command("wild"), "--out", str(tmp_path / "runs")]) == 2
        assert re.search(
            r"reproduce.py: \S+/wild/paper-epochs=1-beta=1-seed=0: The loss is \S+ in batch \d+ of epoch 1\. Lower",
            capsys.readouterr().err,
        )
        (failed,) = tmp_path.glob("runs/*/*/*/failed.json")
        assert {path.name for path in failed.parent.iterdir()} == {LOCK, "cell.json", "failed.json"}
        assert reproduce.main(["--report", "--out", str(tmp_path / "runs")]) == 2
        assert "No results" in capsys.readouterr().err


class TestStopping:
    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_signal_in_training(self, small_command, tmp_path, number):
        command = [sys.executable, "reproduce.py", *small_command("vae"), "--epochs", "100000", "--out", str(tmp_path)]
        options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # Whoever runs these tests in the background ignores SIGINT, and children would inherit that.
        heed = functools.partial(signal.signal, number, signal.SIG_DFL)
        with subprocess.Popen(command, preexec_fn=heed, **options) as process:
            try:
                deadline = time.monotonic() + 300
                while not list(tmp_path.glob("*/*/*/checkpoint.keras")):
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.1)
                process.send_signal(number)
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 128 + number
        assert "reproduce.py: interrupted. The same command goes on where it stopped." in errors
        assert "Traceback" not in errors.partition("Exception ignored")[0]  # of a file that was just being opened
        assert not temporaries(tmp_path)
        (checkpoint,) = tmp_path.glob("*/*/*/checkpoint.keras")
        assert zip_damage(checkpoint) is None

    @pytest.mark.slow
    def test_full_disk_is_one_message(self, reproduce, small_command, tmp_path, capsys):
        arguments = [*small_command("vae"), "--out", str(tmp_path / "runs")]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # a checkpoint has more
        try:
            assert reproduce.main(arguments) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.match(r"reproduce.py: \S+checkpoint\.keras cannot be written, and is as it was \(", message)
        assert not temporaries(tmp_path)
        assert reproduce.main(arguments) == 0


@pytest.mark.slow
def test_killed_at_twenty_random_moments(small_command, tmp_path):
    """The process is killed with no chance to clean up, run again, and ends with the very numbers of an undisturbed one.

    Whenever a run comes to its end, its results are compared and a new one begins. Equality is exact: see `train`.
    """
    command = [sys.executable, "reproduce.py", *small_command("echo"), "--epochs", "20", "--rate-samples", "2"]

    def start(out):
        return subprocess.Popen([*command, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def end(process):
        _, errors = process.communicate(timeout=1200)
        assert process.returncode == 0, errors.decode()

    began = time.monotonic()
    end(start(tmp_path / "undisturbed"))
    duration = time.monotonic() - began
    expected = {
        path.parent.relative_to(tmp_path / "undisturbed"): science(path.parent) for path in tmp_path.rglob("result.json")
    }
    assert len(expected) == 1
    moments, kills, runs = random.Random(0), 0, 0
    while kills < 20:
        out = tmp_path / f"killed-{runs}"
        process = start(out)
        try:
            process.wait(moments.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            if kills < 20:
                continue
            process = start(out)
        end(process)
        runs += 1
        for folder, result in expected.items():
            assert science(out / folder) == result
            names = {path.name for path in (out / folder).iterdir()}
            assert names == {LOCK, "cell.json", "metrics.jsonl", "model.keras", "pictures.npz", "result.json"}
        assert not temporaries(out)


@pytest.mark.slow
def test_a_seed_gives_the_same_numbers_in_every_process(tmp_path):
    command = [
        sys.executable,
        "reproduce.py",
        "--method",
        "results/noise/mlp/echo_matrix.yaml",
        "--epochs",
        "6",
        "--threads",
        "1",
    ]
    for name in ("first", "second"):
        subprocess.run([*command, "--out", str(tmp_path / name)], cwd=ROOT, capture_output=True, check=True)
    first, second = (science(path.parent) for path in sorted(tmp_path.rglob("result.json")))
    assert first == second
