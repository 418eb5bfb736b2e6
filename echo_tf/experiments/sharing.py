"""How many models share this machine, and what lets them share its GPU. Needs no Keras."""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

MOST_ON_A_GPU = 9  # as were tried: nine models of the paper make about twice the steps of one there (docs/guides/gpu.md)
CORES_EACH = 2  # on a GPU one for Python and one for compiling; on processors a model of the paper gains little from more
CONTROL = "nvidia-cuda-mps-control"
_ANSWER_SECONDS, _STOP_SECONDS = 10.0, 30.0


def choose_jobs(cells: int) -> tuple[int, int | None, str]:
    """How many of so many cells to train at once on this machine.

    It depends on the plan and the machine only, not on what is finished: a command that goes on chooses as it did before.

    Returns:
        Their number; threads of each, `None` to leave them alone; and a sentence that says so.
    """
    cores, on_gpu = count_cores(), has_gpu()
    jobs = max(1, min(cells, cores // CORES_EACH, *([MOST_ON_A_GPU] if on_gpu else [])))
    threads = None if on_gpu or jobs == 1 else cores // jobs
    each = f" with {threads} threads each" if threads else ""
    machine = f"{cores} core{'s' if cores > 1 else ''}, {'an NVIDIA GPU' if on_gpu else 'no NVIDIA GPU'}"
    return jobs, threads, f"--jobs auto: {jobs} model{'s' if jobs > 1 else ''} at once{each} ({machine})."


def count_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend() -> str:
    """The backend that Keras will take: of `KERAS_BACKEND`, else of its file of settings."""
    settings = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    given = os.environ.get("KERAS_BACKEND")
    with contextlib.suppress(OSError, ValueError, AttributeError):  # as Keras does, which makes a new file
        given = given or json.loads(settings.read_text(encoding="utf-8")).get("backend")
    return given or "tensorflow"


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU that models may use, see `gpus`."""
    return bool(gpus())


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs of this machine, as far as can be told without the libraries that compute on them.

    Empty if models may use none; those that `CUDA_VISIBLE_DEVICES` leaves out of several are listed too.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return []
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if backend() == "jax" and platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU \d+: (.*?)(?: \(UUID|$)", listed.stdout, re.MULTILINE)


def set_threads(threads: int) -> None:
    """Give TensorFlow and JAX so many threads, in this process and its children. Call it before an import."""
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(threads)  # operations at a time: with more, one thread each is more than one
    os.environ["NPROC"] = str(threads)  # what XLA takes for the number of processors


def count_threads() -> int:
    """Threads that kernels get: those of `set_threads` or of the environment, else one for each processor."""
    given = os.environ.get("NPROC" if backend() == "jax" else "TF_NUM_INTRAOP_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else count_cores()


def share_memory() -> None:
    """Keep models from taking all memory of the GPU when they start, unless the user has decided. Call it before an import."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@contextlib.contextmanager
def multi_process_service(at_once: int) -> Iterator[None]:
    """CUDA's multi-process service, with which processes compute on a GPU side by side and not in turns.

    It is started if several models will share a GPU and it is installed and does not run yet, and only then stopped at the
    end. All models must have ended before. Without it everything works too, more slowly.
    """
    ours = False
    try:
        if at_once > 1 and shutil.which(CONTROL) and has_gpu() and not _runs():
            ours = True  # before it starts: an interruption may come in between
            ours = _starts()
        yield
    finally:
        if ours:
            _stop()


def _tell(command: str, seconds: float) -> subprocess.CompletedProcess:
    return subprocess.run([CONTROL], input=f"{command}\n", capture_output=True, text=True, timeout=seconds)


def _runs() -> bool:
    try:
        answer = _tell("get_server_list", _ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "Cannot find" not in answer.stdout + answer.stderr


def _starts() -> bool:
    # No pipes, which a daemon might hold open, and a session of its own, which Ctrl-C does not reach.
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        done = subprocess.run([CONTROL, "-d"], timeout=_ANSWER_SECONDS, start_new_session=True, **options)  # type: ignore[call-overload]
        reason = f"status {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        logger.warning("%s -d did not start (%s). The models take turns on the GPU, which is slower.", CONTROL, reason)
    return not reason


def _stop() -> None:
    try:
        reason = "" if (done := _tell("quit", _STOP_SECONDS)).returncode == 0 else f"status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        logger.warning("%s did not stop (%s). Stop it with: echo quit | %s", CONTROL, reason, CONTROL)
