import contextlib
import io
import re
import signal
import sys
import weakref

import keras
import numpy as np
import pytest

from echo_tf.experiments import progress
from echo_tf.experiments.cells import plan
from echo_tf.experiments.executors import LostDeviceError, Task
from echo_tf.experiments.records import METRICS, read_metrics
from echo_tf.experiments.run import run_cell
from echo_tf.experiments.training import train
from echo_tf.models.config import load_config


def make_terminal(monkeypatch):
    """A terminal in the place of standard error, and its clock."""
    screen, now = io.StringIO(), [0.0]
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return screen, now


def test_the_line_is_drawn_every_second_and_fits(monkeypatch):
    screen, now = make_terminal(monkeypatch)
    with progress.Line(total=1000) as line:
        for half_second in range(1, 41):
            now[0] += 0.5
            line.update(10 * half_second, "echo_matrix beta=0.25 seed=1" + 60 * "x", " epoch 2.4/200 -ELBO 87.7")
    drawn = [text.strip() for text in screen.getvalue().split("\r") if "epoch" in text]
    assert len(drawn) == 20
    assert drawn[-1].endswith("00:30 left") and max(map(len, drawn)) <= progress.WIDTH
    assert drawn[0].startswith("echo_matrix beta=0.25") and "… epoch 2.4/200 -ELBO 87.7 " in drawn[0]


def test_the_line_has_a_name_from_the_start(monkeypatch):
    screen, _ = make_terminal(monkeypatch)
    with progress.Line(10, text="vae: compiling,"):
        assert screen.getvalue().strip() == "vae: compiling, ? left"


def test_a_log_file_has_a_line_an_epoch(capsys):
    with progress.Line(total=4) as line:
        for epoch in range(1, 5):
            line.update(epoch, "not", " shown")
            line.tell(f"echo epoch {epoch}/4{progress.quantities({'rate': 10, 'distortion': 20.04})}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("echo epoch 1/4 rate 10.0 distortion 20.0 -ELBO 30.0, ") and lines[0].endswith(" left")
    assert lines[3] == "echo epoch 4/4 rate 10.0 distortion 20.0 -ELBO 30.0"


def test_names_say_what_differs(tmp_path):
    def names(*arguments):
        tasks = [Task(cell, tmp_path / str(i), tmp_path, "digits") for i, cell in enumerate(plan("digits", *arguments))]
        return list(progress.short_names(tasks).values())

    config = load_config("vae", dataset="digits")
    assert names([config], [1.0], 1) == ["vae"]
    assert names([config], [1.0, 0.5], 2) == [f"vae beta={beta} seed={seed}" for seed in (0, 1) for beta in ("1", "0.5")]


def test_the_line_of_many_models_counts_the_epochs_of_all(tmp_path, monkeypatch):
    screen, now = make_terminal(monkeypatch)
    (cell,) = plan("digits", [load_config("vae", dataset="digits", training={"epochs": 4})], [1.0], 1)
    tasks = [Task(cell, tmp_path / name, tmp_path, "digits") for name in "ab"]
    for task in tasks:
        task.folder.mkdir()
        (task.folder / METRICS).write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n')

    def run_and_watch(tasks, executor, at_once, watch):
        (tasks[1].folder / METRICS).write_text("")  # it starts anew
        for _ in range(50):
            now[0] += 1.0
            watch(tasks)
        yield tasks[0], {}
        (tasks[1].folder / METRICS).write_text('{"epoch": 1, "rate_nats": 1.0, "distortion_nats": 2.0}\n')
        watch(tasks[1:])
        now[0] += 1.0
        watch(tasks[1:])
        yield tasks[1], {}

    monkeypatch.setattr(progress, "run_all", run_and_watch)
    assert len(list(progress.run_elsewhere(tasks, None, 2))) == 2
    drawn = [text for text in screen.getvalue().split("\r") if "epochs, " in text]
    assert "3/8 epochs, compiling" in drawn[0]
    assert "5/8 epochs, vae 1/4 rate 1.0 distortion 2.0 -ELBO 3.0" in drawn[-1]
    assert not any("-" in text.replace("-ELBO", "") for text in drawn)  # no time is left that is negative


def test_another_process_has_a_line_an_epoch_in_a_log_file(tmp_path, monkeypatch, capsys):
    (cell,) = plan("digits", [load_config("vae", dataset="digits", training={"epochs": 4})], [1.0], 1)
    task = Task(cell, tmp_path, tmp_path, "digits")

    def run_and_watch(tasks, executor, at_once, watch):
        for count in range(4):
            line = '{"epoch": 1, "rate_nats": 1.0, "distortion_nats": 2.0}\n'
            (tmp_path / METRICS).write_text(count * line)
            watch(tasks)
            watch(tasks)
        yield tasks[0], {}

    monkeypatch.setattr(progress, "run_all", run_and_watch)
    list(progress.run_elsewhere([task], None, 1))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"vae epoch {epoch}/4 rate 1.0 distortion 2.0 -ELBO 3.0" for epoch in (1, 2, 3)
    ]


def test_signal_that_keras_swallows_stops_the_next_step(cell, vectors, tmp_path, monkeypatch, capsys):
    """As a signal does that comes while Keras converts metrics, where it drops every exception."""
    steps = []
    monkeypatch.setattr(progress, "signals", [])

    class Receive(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 3:
                steps.append(batch)
                with pytest.raises(KeyboardInterrupt):
                    progress.stop(signal.SIGTERM, None)

    with pytest.raises(KeyboardInterrupt), contextlib.ExitStack() as stack:
        run_cell(cell, vectors, tmp_path, callbacks=[progress.epochs_line(stack, "vae seed=0", 3), Receive()])
    assert steps == [0]
    assert progress.signals == [signal.SIGTERM]
    assert [line["epoch"] for line in read_metrics(cell.folder(tmp_path))] == [1]
    assert "vae seed=0 epoch 1/3 rate" in capsys.readouterr().err


def test_a_training_of_two_phases_has_one_line(vectors, tiny, tmp_path, monkeypatch, capsys):
    lines, line = [], progress.Line
    monkeypatch.setattr(progress, "Line", lambda *arguments: lines.append(arguments) or line(*arguments))
    config = tiny("echo_maf", epochs=2, channel={"gaussian_at": 0.5}, flow={"hidden_units": 8})
    with contextlib.ExitStack() as stack:
        train(config, vectors, tmp_path, callbacks=[progress.epochs_line(stack, "echo_maf", 2)])
    assert lines == [(2 * 3, 0, "echo_maf: compiling,")]
    assert re.findall(r"echo_maf epoch (\S+) rate", capsys.readouterr().err) == ["1/2", "2/2"]


@pytest.mark.parametrize("error", [MemoryError("no memory"), ZeroDivisionError("a mistake")])
def test_a_device_that_fails_one_model_leaves_the_others(tmp_path, monkeypatch, error):
    """As in processes of their own. A mistake in the code ends all."""

    models = []

    def fail_first(task, callbacks):
        if task.folder.name == "a":
            model = np.zeros(3)
            models.append(weakref.ref(model))
            raise error
        assert models[0]() is None  # it would keep its memory
        return {}

    monkeypatch.setattr(progress, "run_task", fail_first)
    (cell,) = plan("digits", [load_config("vae", dataset="digits")], [1.0], 1)
    tasks = [Task(cell, tmp_path / name, tmp_path, "digits") for name in "ab"]
    if isinstance(error, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            list(progress.run_here(tasks))
        return
    (_, first), (_, second) = progress.run_here(tasks)
    assert isinstance(first, LostDeviceError) and "a: MemoryError: no memory" in str(first)
    assert second == {}
