import importlib.util
import os
import signal
import stat
import subprocess
import sys

import pytest

from echo_tf.experiments import sharing

WITH_JAX = [pytest.mark.jax, pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")]

CONTROL = """#!/bin/sh
cd "$(dirname "$0")"
if [ "$1" = "-d" ]; then
    echo start >> calls
    echo "$CUDA_VISIBLE_DEVICES $CUDA_MPS_PIPE_DIRECTORY" > environment
    [ -e broken ] && exit 1
    touch running
    exit 0
fi
read command
echo "$command" >> calls
[ -e running ] || { echo "Cannot find MPS control daemon process"; exit 1; }
[ "$command" = quit ] && [ ! -e stubborn ] && rm running
[ ! -e stubborn ] || exit 1
"""


class Machine:
    """A folder on PATH with programs of NVIDIA's that only note their calls."""

    def __init__(self, folder):
        self.folder = folder

    def has(self, program, script):
        path = self.folder / program
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def mark(self, name):
        (self.folder / name).touch()

    @property
    def calls(self):
        path = self.folder / "calls"
        return path.read_text().split() if path.exists() else []

    @property
    def runs(self):
        return (self.folder / "running").exists()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """One GPU, which the backend sees, and the service at hand."""
    machine = Machine(tmp_path / "bin")
    machine.folder.mkdir()
    machine.has("nvidia-smi", '#!/bin/sh\necho "GPU 0: NVIDIA H200 (UUID: GPU-0)"\n')
    machine.has(sharing.CONTROL, CONTROL)
    monkeypatch.setattr(sharing, "_ask_backend", lambda: ("NVIDIA H200",))
    monkeypatch.setattr(sharing.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", f"{machine.folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "KERAS_BACKEND", sharing.PIPES):
        monkeypatch.delenv(name, raising=False)
    return machine


@pytest.fixture(autouse=True)
def asked_anew():
    """Each test has GPUs of its own."""
    for function in (sharing.gpus, sharing.listed_gpus):
        function.cache_clear()
    yield
    for function in (sharing.gpus, sharing.listed_gpus):
        function.cache_clear()


class TestService:
    def test_runs_while_models_do(self, machine):
        with sharing.multi_process_service(2):
            assert machine.runs
        assert machine.calls == ["get_server_list", "start", "quit"] and not machine.runs

    def test_has_pipes_of_its_own_and_all_gpus(self, machine, tmp_path, monkeypatch):
        """So that it ends no models of others, and a number in `CUDA_VISIBLE_DEVICES` means the same with it and without."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        with sharing.multi_process_service(2):
            visible, pipes = (machine.folder / "environment").read_text().rstrip("\n").split(" ")
            assert (visible, pipes) == ("", os.environ[sharing.PIPES])
            assert os.path.dirname(pipes) == str(tmp_path) and os.path.isdir(pipes)
        assert sharing.PIPES not in os.environ and not os.path.exists(pipes)

    def test_takes_the_pipes_of_the_user(self, machine, monkeypatch):
        monkeypatch.setenv(sharing.PIPES, "/somewhere")
        with sharing.multi_process_service(2):
            assert (machine.folder / "environment").read_text() == " /somewhere\n"
        assert os.environ[sharing.PIPES] == "/somewhere"

    def test_that_hides_the_gpu_is_stopped(self, machine, monkeypatch, caplog):
        answers = [("NVIDIA H200",), ()]
        monkeypatch.setattr(sharing, "_ask_backend", lambda: answers.pop(0))
        with sharing.multi_process_service(2):
            assert not machine.runs
        assert "no program sees a GPU then" in caplog.text

    def test_is_stopped_in_spite_of_a_second_ctrl_c(self, machine, monkeypatch):
        tell = sharing._tell

        def interrupted(command, seconds):
            if command == "quit":
                signal.raise_signal(signal.SIGINT)
            return tell(command, seconds)

        monkeypatch.setattr(sharing, "_tell", interrupted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in the background
        with pytest.raises(KeyboardInterrupt), sharing.multi_process_service(2):  # it comes when the service is gone
            pass
        assert not machine.runs and sharing.PIPES not in os.environ
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_is_stopped_whatever_ends_them(self, machine, error):
        with pytest.raises(error), sharing.multi_process_service(2):
            assert machine.runs
            raise error
        assert "quit" in machine.calls and not machine.runs

    def test_of_somebody_else_stays(self, machine):
        machine.mark("running")
        with sharing.multi_process_service(2):
            pass
        assert machine.calls == ["get_server_list"] and machine.runs

    def test_is_not_for_one_model(self, machine):
        with sharing.multi_process_service(1):
            pass
        assert not machine.calls

    def test_is_not_for_a_gpu_each(self, machine, monkeypatch):
        monkeypatch.setattr(sharing, "_ask_backend", lambda: 2 * ("NVIDIA H200",))
        with sharing.multi_process_service(2):
            pass
        assert not machine.calls

    def test_is_not_for_processors(self, machine, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with sharing.multi_process_service(2):
            pass
        assert not machine.calls

    def test_is_not_needed(self, machine):
        (machine.folder / sharing.CONTROL).unlink()
        with sharing.multi_process_service(2):
            pass

    def test_that_does_not_start_is_a_warning(self, machine, caplog):
        machine.mark("broken")
        with sharing.multi_process_service(2):
            pass
        assert "quit" not in machine.calls
        assert "take turns on the GPU" in caplog.text

    def test_that_does_not_stop_is_a_warning(self, machine, caplog):
        with sharing.multi_process_service(2):
            machine.mark("stubborn")
            pipes = os.environ[sharing.PIPES]
        assert f"echo quit | CUDA_MPS_PIPE_DIRECTORY={pipes} nvidia-cuda-mps-control" in caplog.text


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, False),
        ({"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}, False),
        ({"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cuda,cpu"}, True),
        ({"JAX_PLATFORMS": "cpu"}, True),  # TensorFlow does not ask it
    ],
)
def test_a_gpu_is_found_unless_it_is_hidden(machine, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert bool(sharing.gpus()) is expected


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho No devices were found\nexit 6\n"])
def test_no_driver_or_no_device_is_no_gpu(machine, script):
    (machine.folder / "nvidia-smi").unlink()
    if script:
        machine.has("nvidia-smi", script)
    assert not sharing.gpus()


def test_the_gpus_are_those_that_the_backend_sees(machine, monkeypatch, caplog):
    machine.has("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H200 (UUID: GPU-2)'\n")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{machine.folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setitem(sharing._ASK, "tensorflow", "print('GPU: NVIDIA A')\nprint('else')\nprint('GPU: NVIDIA B')")
    assert sharing.gpus() == ("NVIDIA A", "NVIDIA B")
    assert not caplog.text
    sharing.gpus.cache_clear()
    monkeypatch.setitem(sharing._ASK, "tensorflow", "raise RuntimeError('no library')")
    assert sharing.gpus() == ()
    assert "nvidia-smi lists NVIDIA H200, but tensorflow sees no GPU" in caplog.text
    assert "tensorflow cannot be asked for its GPUs: RuntimeError: no library" in caplog.text
    sharing.gpus.cache_clear()
    monkeypatch.setattr(sharing, "_IMPORT_SECONDS", 0.001)  # no answer is no answer
    assert sharing.gpus() == ("NVIDIA H200", "NVIDIA H200")


@pytest.mark.parametrize("backend", [pytest.param("tensorflow", marks=pytest.mark.slow), pytest.param("jax", marks=WITH_JAX)])
def test_backends_can_be_asked(backend):
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", sharing._ASK[backend]], capture_output=True, text=True, env=hidden)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("given", "expected"), [(None, ["0", "1"]), ("3,GPU-5", ["3", "GPU-5"]), ("3,4,99", ["3", "4"])])
def test_what_cuda_calls_the_gpus(machine, monkeypatch, given, expected):
    monkeypatch.setattr(sharing, "_ask_backend", lambda: 2 * ("NVIDIA H200",))
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert sharing.devices() == expected


def test_the_backend_is_that_of_keras(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert sharing.backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert sharing.backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert sharing.backend() == "tensorflow"


@pytest.mark.parametrize(
    ("cores", "gpus", "cells", "jobs", "threads"),
    [
        (1, 0, 9, 1, None),
        (2, 0, 9, 1, None),
        (5, 0, 9, 2, 2),
        (8, 0, 3, 3, 2),
        (8, 0, 1, 1, None),
        (64, 0, 27, 27, 2),
        (16, 1, 27, 8, None),
        (64, 1, 27, 9, None),
        (64, 2, 27, 18, None),
        (64, 1, 4, 4, None),
        (2, 1, 27, 1, None),
    ],
)
def test_jobs_that_fit_the_machine(monkeypatch, cores, gpus, cells, jobs, threads):
    monkeypatch.setattr(sharing, "count_cores", lambda: cores)
    chosen = sharing.choose_jobs(cells, gpus)
    assert chosen[:2] == (jobs, threads)
    told = chosen[2]
    assert f"{jobs} model" in told and f"{cores} core" in told and f"{gpus or 'no'} NVIDIA GPU" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("backend", "environment", "threads"),
    [
        ("tensorflow", {"TF_NUM_INTRAOP_THREADS": "3", "NPROC": "4"}, 3),
        ("jax", {"TF_NUM_INTRAOP_THREADS": "3", "NPROC": "4"}, 4),
        ("tensorflow", {"TF_NUM_INTRAOP_THREADS": "0"}, 5),  # TensorFlow takes all then
        ("tensorflow", {}, 5),
    ],
)
def test_threads_are_those_of_the_environment(monkeypatch, backend, environment, threads):
    monkeypatch.setattr(sharing, "count_cores", lambda: 5)
    for name in ("TF_NUM_INTRAOP_THREADS", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"KERAS_BACKEND": backend, **environment}.items():
        monkeypatch.setenv(name, value)
    assert sharing.count_threads() == threads


def test_memory_is_left_to_others_unless_the_user_decided(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")  # so that its value is put back
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    sharing.share_memory()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    sharing.share_memory()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
