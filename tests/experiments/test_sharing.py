import os
import stat

import pytest

from echo_tf.experiments import sharing

CONTROL = """#!/bin/sh
cd "$(dirname "$0")"
if [ "$1" = "-d" ]; then
    echo start >> calls
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
    """One GPU, and the service at hand."""
    machine = Machine(tmp_path / "bin")
    machine.folder.mkdir()
    machine.has("nvidia-smi", '#!/bin/sh\necho "GPU 0: NVIDIA H200 (UUID: GPU-0)"\n')
    machine.has(sharing.CONTROL, CONTROL)
    monkeypatch.setenv("PATH", f"{machine.folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "KERAS_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return machine


class TestService:
    def test_runs_while_models_do(self, machine):
        with sharing.multi_process_service(2):
            assert machine.runs
        assert machine.calls == ["get_server_list", "start", "quit"] and not machine.runs

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_is_stopped_whatever_ends_them(self, machine, error):
        with pytest.raises(error), sharing.multi_process_service(2):
            assert machine.runs
            raise error
        assert machine.calls[-1] == "quit" and not machine.runs

    def test_of_somebody_else_stays(self, machine):
        machine.mark("running")
        with sharing.multi_process_service(2):
            pass
        assert machine.calls == ["get_server_list"] and machine.runs

    def test_is_not_for_one_model(self, machine):
        with sharing.multi_process_service(1):
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
        assert machine.calls == ["get_server_list", "start"]
        assert "take turns on the GPU" in caplog.text

    def test_that_does_not_stop_is_a_warning(self, machine, caplog):
        with sharing.multi_process_service(2):
            machine.mark("stubborn")
        assert "echo quit | nvidia-cuda-mps-control" in caplog.text


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
    assert sharing.has_gpu() is expected


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho No devices were found\nexit 6\n"])
def test_no_driver_or_no_device_is_no_gpu(machine, script):
    (machine.folder / "nvidia-smi").unlink()
    if script:
        machine.has("nvidia-smi", script)
    assert not sharing.has_gpu()


def test_names_of_the_gpus(machine):
    machine.has("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H200 (UUID: GPU-2)'\n")
    assert sharing.gpus() == ["NVIDIA H200", "NVIDIA H200"]


def test_the_backend_is_that_of_keras(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert sharing.backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert sharing.backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert sharing.backend() == "tensorflow"


@pytest.mark.parametrize(
    ("cores", "gpu", "cells", "jobs", "threads"),
    [
        (1, False, 9, 1, None),
        (2, False, 9, 1, None),
        (5, False, 9, 2, 2),
        (8, False, 3, 3, 2),
        (8, False, 1, 1, None),
        (64, False, 27, 27, 2),
        (16, True, 27, 8, None),
        (64, True, 27, 9, None),
        (64, True, 4, 4, None),
        (2, True, 27, 1, None),
    ],
)
def test_jobs_that_fit_the_machine(monkeypatch, cores, gpu, cells, jobs, threads):
    monkeypatch.setattr(sharing, "count_cores", lambda: cores)
    monkeypatch.setattr(sharing, "has_gpu", lambda: gpu)
    chosen = sharing.choose_jobs(cells)
    assert chosen[:2] == (jobs, threads)
    told = chosen[2]
    assert f"{jobs} model" in told and f"{cores} core" in told and ("no NVIDIA GPU" in told) is not gpu
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
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "")  # so that its value is put back
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH")
    sharing.share_memory()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
