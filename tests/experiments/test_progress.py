import contextlib
import io
import signal
import sys

import keras
import pytest

from echo_tf.experiments import progress
from echo_tf.experiments.cells import plan
from echo_tf.experiments.executors import Task
from echo_tf.experiments.records import METRICS, read_metrics
from echo_tf.experiments.run import run_cell
from echo_tf.models.config import load_config


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 1), (False, 60)])
def test_the_bar_is_drawn_seldom_in_a_log_file(monkeypatch, terminal, seconds):
    log, now = io.StringIO(), [0.0]
    log.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with progress.make_bar(total=1000) as bar:
        for half_second in range(240):
            now[0] += 0.5
            bar.update(int(half_second % 60 == 0))  # its clock goes on while no step ends
    assert log.getvalue().count("/1000 [") == 1 + 120 // seconds


def test_the_bar_of_many_models_counts_the_epochs_of_all(tmp_path, monkeypatch, capsys):
    (cell,) = plan("digits", [load_config("vae", dataset="digits", training={"epochs": 4})], [1.0], 1)
    tasks = [Task(cell, tmp_path / name, tmp_path, "digits") for name in "ab"]
    for task in tasks:
        task.folder.mkdir()
        (task.folder / METRICS).write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n')
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def run_and_watch(tasks, executor, at_once, watch):
        (tasks[1].folder / METRICS).write_text("")  # it starts anew
        for _ in range(50):
            now[0] += 1.0
            watch(tasks)
        yield tasks[0], {}
        (tasks[1].folder / METRICS).write_text('{"epoch": 1}\n')
        watch(tasks[1:])
        yield tasks[1], {}

    monkeypatch.setattr(progress, "run_all", run_and_watch)
    assert len(list(progress.run_elsewhere(tasks, None, 2))) == 2
    bars = [line for line in capsys.readouterr().err.split("\r") if "/8 [" in line]
    assert len(bars) == 3  # at the start and after each model
    assert "6/8 [" in bars[0] and "3/8 [" in bars[1] and "5/8 [" in bars[2] and "vae beta=1 seed=0 1/4" in bars[2]
    assert "<-" not in bars[1]  # no time is left that is negative


def test_signal_that_keras_swallows_stops_the_next_step(cell, vectors, tmp_path, monkeypatch, capsys):
    """As a signal does that comes while Keras converts metrics, where it drops every exception."""
    steps, bars, make_bar = [], [], progress.make_bar
    monkeypatch.setattr(progress, "signals", [])
    monkeypatch.setattr(progress, "make_bar", lambda **options: bars.append(options) or make_bar(**options))

    class Receive(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 3:
                steps.append(batch)
                with pytest.raises(KeyboardInterrupt):
                    progress.stop(signal.SIGTERM, None)

    with pytest.raises(KeyboardInterrupt), contextlib.ExitStack() as stack:
        run_cell(cell, vectors, tmp_path, callbacks=[progress.steps_bar(stack, "vae seed=0"), Receive()])
    assert steps == [0]
    assert progress.signals == [signal.SIGTERM]
    assert [line["epoch"] for line in read_metrics(cell.folder(tmp_path))] == [1]
    assert bars == [{"total": 9, "initial": 0, "unit": "step", "desc": "vae seed=0"}]  # of all three epochs
    assert "vae seed=0" in capsys.readouterr().err
