import importlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from echo_tf.errors import CellError, ConfigError, TrainingError
from echo_tf.experiments import executors
from echo_tf.experiments.cells import Cell, plan
from echo_tf.experiments.executors import LocalProcesses, LostDeviceError, RayCluster, Task, run_all
from echo_tf.experiments.records import CHECKPOINT
from echo_tf.models.config import load_config


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(executors, "RETRY_SECONDS", 0.0)


class InThreads:
    """An executor that notes what runs, and fails where it is told to."""

    def __init__(self, errors=()):
        self.errors, self.running, self.most, self.ended, self.stopped = dict(errors), 0, 0, [], False
        self.lock = threading.Lock()

    def __call__(self, task):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.05)
        with self.lock:
            self.running -= 1
            self.ended.append(task.folder)
        if task.folder in self.errors:
            raise self.errors[task.folder]
        return {"folder": task.folder}

    def stop(self):
        self.stopped = True


CELL = Cell("digits", load_config("vae", dataset="digits"))


def ignore(running):
    """Watches nothing."""


def task(name):
    return Task(cell=CELL, folder=Path(name), out=Path("."), dataset="digits")


def without_circumstances(result):
    return {key: value for key, value in result.items() if key not in ("training_seconds", "environment", "checksum")}


def science(folder):
    return without_circumstances(json.loads((folder / "result.json").read_text()))


class TestRunAll:
    @pytest.mark.parametrize("at_once", [1, 3, 10])
    def test_runs_each_once_and_so_many_at_the_same_time(self, at_once):
        executor, tasks = InThreads(), [task(str(i)) for i in range(6)]
        outcomes = {task.folder: outcome for task, outcome in run_all(tasks, executor, at_once, ignore)}
        assert outcomes == {task.folder: {"folder": task.folder} for task in tasks}
        assert sorted(executor.ended) == sorted(t.folder for t in tasks)
        assert executor.most <= at_once
        assert at_once == 1 or executor.most > 1

    def test_expected_errors_end_one_task(self):
        error = TrainingError("The loss is nan in batch 3 of epoch 1.")
        outcomes = run_all([task("a"), task("b"), task("c")], InThreads({Path("a"): error}), 2, ignore)
        assert {task.folder.name: outcome for task, outcome in outcomes} == {
            "a": error,
            "b": {"folder": Path("b")},
            "c": {"folder": Path("c")},
        }

    def test_other_errors_stop_all(self):
        executor = InThreads({Path("a"): ZeroDivisionError()})
        with pytest.raises(ZeroDivisionError):
            list(run_all([task("a"), task("b")], executor, 1, ignore))
        assert executor.stopped and executor.ended == [Path("a")]

    def test_watches_what_runs(self, monkeypatch):
        monkeypatch.setattr(executors, "POLL_SECONDS", 0.01)
        seen = []
        tasks, watch = [task("a"), task("b")], lambda running: seen.append([task.folder.name for task in running])
        list(run_all(tasks, InThreads(), 1, watch))
        assert ["a"] in seen and ["b"] in seen


def test_ray_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        RayCluster(None, 1, 0)


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_one_error():
    with pytest.raises(ConfigError, match=r"No Ray cluster at 127\.0\.0\.1:1: .* refused"):
        RayCluster("127.0.0.1:1", 1, 0)


@pytest.fixture(scope="module")
def one_by_one(reproduce, small_command, tmp_path_factory):
    """Folder of four cells that were trained one after the other."""
    out = tmp_path_factory.mktemp("one_by_one")
    assert reproduce.main([*small_command("echo", "vae"), *SWEEP, "--out", str(out)]) == 0
    return out


SWEEP = ["--beta", "1", "2", "--rate-samples", "2"]
EXECUTORS = [
    pytest.param(["--jobs", "2"], marks=pytest.mark.slow),
    pytest.param(["--executor", "ray"], marks=pytest.mark.ray),
]


@pytest.fixture(scope="module", autouse=True)
def leave_ray():
    yield
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()


@pytest.mark.parametrize("options", EXECUTORS)
def test_a_sweep_is_the_same_wherever_it_runs(
    reproduce, small_command, without_figures, one_by_one, tmp_path, options, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert reproduce.main([*small_command("echo", "vae"), *SWEEP, "--out", ".", *options]) == 0
    expected = {path.relative_to(one_by_one): science(path.parent) for path in one_by_one.rglob("result.json")}
    assert len(expected) == 4
    assert {path.relative_to(tmp_path): science(path.parent) for path in tmp_path.rglob("result.json")} == expected
    assert capsys.readouterr().out.count("nats, trained in") == 4


@pytest.mark.parametrize("options", EXECUTORS)
def test_errors_of_workers_are_told_and_the_others_go_on(reproduce, small_command, tmp_path, options, capsys):
    assert reproduce.main([*small_command("wild", "vae"), "--rate-samples", "2", "--out", str(tmp_path), *options]) == 2
    (result,) = tmp_path.rglob("result.json")
    assert result.parent.parent.name == "vae"
    told = capsys.readouterr().err
    assert "1 of 2 models failed.\n" in told and "-seed=0: The loss is nan" in told


def kill_processes(names):
    """SIGKILL for every process whose command line starts with one of the names."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().decode().startswith(names):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, UnicodeDecodeError):
            continue


def kill_children():
    for process in multiprocessing.active_children():
        process.kill()


@pytest.mark.parametrize(
    ("make", "kill"),
    [
        pytest.param(LocalProcesses, kill_children, marks=pytest.mark.slow),
        pytest.param(lambda: RayCluster(None, 1, 0), lambda: kill_processes("ray::run_task"), marks=pytest.mark.ray),
    ],
)
def test_a_killed_worker_changes_nothing(tmp_path, monkeypatch, make, kill):
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.05)
    # Images: between two checkpoints of a model of vectors there is hardly the time to kill it.
    (cell,) = plan("digits", [load_config("vae", dataset="digits", training={"epochs": 3})], [1.0], 1)
    kills = []

    def run(out, watch=ignore):
        task = Task(cell, cell.folder(out), out, "digits", passes=2)
        ((_, result),) = run_all([task], make(), 1, watch)
        return without_circumstances(result)

    def watch(running):
        if not kills and any((task.folder / CHECKPOINT).exists() for task in running):
            kills.append(1)
            kill()

    undisturbed = run(tmp_path / "undisturbed")
    assert run(tmp_path / "killed", watch) == undisturbed
    assert kills


@pytest.mark.slow
def test_a_worker_that_is_always_killed_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(executors, "RETRIES", 1)
    (cell,) = plan("digits", [load_config("vae", dataset="digits")], [1.0], 1)
    task = Task(cell, cell.folder(tmp_path), tmp_path, "digits")
    ((_, error),) = run_all([task], LocalProcesses(), 1, lambda running: kill_children())
    assert isinstance(error, CellError) and "killed (2 times" in str(error)


WORKER = """
import os, signal
from echo_tf.experiments.executors import LostDeviceError

def run(task, on_gpu):
    first = not (task.folder / "tried").exists()
    (task.folder / "tried").touch()
    if task.folder.name == "dies" or (task.folder.name == "dies_once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.folder.name == "no_memory":
        raise LostDeviceError(f"{task.folder}: JaxRuntimeError: RESOURCE_EXHAUSTED")
    return {"process": os.getpid()}
"""


def test_a_lost_process_loses_no_other_cell(tmp_path, monkeypatch, caplog):
    """Nor does a process whose device fails. Each is tried again, with a limit, while the others end."""
    (tmp_path / "echo_tf_test_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(executors, "RETRIES", 1)
    monkeypatch.setattr(executors, "run_task_apart", importlib.import_module("echo_tf_test_worker").run)
    names = ("dies", "no_memory", "dies_once", "well")
    tasks = [Task(CELL, tmp_path / name, tmp_path, "digits") for name in names]
    outcomes = {task.folder.name: outcome for task, outcome in run_all(tasks, LocalProcesses(), 4, ignore)}
    assert "its process was killed (2 times" in str(outcomes["dies"])
    assert "RESOURCE_EXHAUSTED (2 times" in str(outcomes["no_memory"]) and "Lower --jobs" in str(outcomes["no_memory"])
    assert all(isinstance(outcomes[name], CellError) for name in ("dies", "no_memory"))
    assert outcomes["dies_once"]["process"] != outcomes["well"]["process"]
    assert caplog.text.count("Another process goes on from the checkpoint") == 3


DEVICE = """
import os, time

def run(task, on_gpu):
    time.sleep(0.5)
    return on_gpu, os.environ["CUDA_VISIBLE_DEVICES"]
"""


def test_tasks_are_shared_out_among_gpus(tmp_path, monkeypatch):
    (tmp_path / "echo_tf_test_device.py").write_text(DEVICE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(executors, "run_task_apart", importlib.import_module("echo_tf_test_device").run)

    def found(*gpus):
        tasks = [Task(CELL, tmp_path / str(i), tmp_path, "digits") for i in range(4)]
        return sorted(outcome for _, outcome in run_all(tasks, LocalProcesses(gpus), 4, ignore))

    assert found("4", "5") == 2 * [(True, "4")] + 2 * [(True, "5")]
    assert found("4") == 4 * [(True, "4,5")]  # left alone
    assert found() == 4 * [(False, "4,5")]


def test_a_process_without_the_gpu_that_is_there_is_lost(monkeypatch):
    monkeypatch.setattr("echo_tf.experiments.steps.on_cpu", lambda: True)
    monkeypatch.setattr(executors, "run_task", lambda task: {})
    assert executors.run_task_apart(task("cell"), on_gpu=False) == {}
    with pytest.raises(LostDeviceError, match="cell: its process sees no GPU"):
        executors.run_task_apart(task("cell"), on_gpu=True)


@pytest.mark.parametrize("module", ["jaxlib._jax", "jax.errors", "tensorflow.python.framework.errors_impl"])
def test_an_error_of_the_device_is_a_lost_process(monkeypatch, capsys, module):
    error = type("RuntimeErrorOfTheDevice", (RuntimeError,), {"__module__": module})

    def fail(task):
        raise error("RESOURCE_EXHAUSTED: Out of memory\nmany lines")

    monkeypatch.setattr(executors, "run_task", fail)
    with pytest.raises(LostDeviceError, match=r"cell: RuntimeErrorOfTheDevice: RESOURCE_EXHAUSTED: Out of memory$") as found:
        executors.run_task_apart(task("cell"), on_gpu=False)
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)
    assert "many lines" in capsys.readouterr().err  # the log has all of it


def test_a_backend_that_does_not_start_is_a_lost_process(monkeypatch):
    """JAX raises an error of Python's own then."""

    def fail(task):
        raise RuntimeError("Unable to initialize backend 'cuda': INTERNAL: no supported devices found (you may need to ...)")

    monkeypatch.setattr(executors, "run_task", fail)
    with pytest.raises(LostDeviceError, match="Unable to initialize backend"):
        executors.run_task_apart(task("cell"), on_gpu=False)


@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError, TrainingError, CellError])
def test_other_errors_stay_what_they_are(monkeypatch, error):
    def fail(task):
        raise error("a mistake")

    monkeypatch.setattr(executors, "run_task", fail)
    with pytest.raises(error) as found:
        executors.run_task_apart(task("cell"), on_gpu=False)
    assert type(found.value) is error


def test_nothing_begins_after_the_end(tmp_path):
    executor = LocalProcesses()
    executor.stop()
    with pytest.raises(CellError, match="stopped before it began"):
        executor(Task(CELL, tmp_path / "cell", tmp_path, "digits"))


def test_a_log_that_cannot_be_written_is_no_killed_process(tmp_path):
    (tmp_path / "cell" / executors.LOG).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        LocalProcesses()(Task(CELL, tmp_path / "cell", tmp_path, "digits"))
