"""How many models share this machine, and what lets them share its GPU. Needs no Keras."""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

MOST_ON_A_GPU = 9  # as were tried: nine models of the paper make about twice the steps of one there (docs/guides/gpu.md)
CORES_EACH = 2  # on a GPU one for Python and one for compiling; on processors a model of the paper gains little from more
CONTROL = "nvidia-cuda-mps-control"
PIPES, _LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
_ANSWER_SECONDS, _STOP_SECONDS = 10.0, 30.0
_LIST_SECONDS, _IMPORT_SECONDS = 60.0, 120.0  # a driver that sleeps takes seconds for each GPU

# Programs that print the names of the GPUs that a backend sees.
_ASK = {
    "tensorflow": """
import tensorflow as tf
used = tf.config.list_logical_devices("GPU")  # too old ones are not
for device, _ in zip(tf.config.list_physical_devices("GPU"), used):
    print("GPU:", tf.config.experimental.get_device_details(device).get("device_name", "GPU"))
""",
    "jax": """
import jax
for device in jax.devices():
    if device.platform == "gpu":
        print("GPU:", device.device_kind)
""",
}


def choose_jobs(cells: int, devices: int) -> tuple[int, int | None, str]:
    """How many of so many cells to train at once on this machine, with so many GPUs.

    It depends on the plan and the machine only, not on what is finished: a command that goes on chooses as it did before.

    Returns:
        Their number; threads of each, `None` to leave them alone; and a sentence that says so.
    """
    cores = count_cores()
    jobs = max(1, min(cells, cores // CORES_EACH, *([devices * MOST_ON_A_GPU] if devices else [])))
    threads = None if devices or jobs == 1 else cores // jobs
    each = f" with {threads} threads each" if threads else ""
    machine = f"{cores} core{'s'[: cores > 1]}, {devices or 'no'} NVIDIA GPU{'s'[: devices > 1]}"
    return jobs, threads, f"--jobs auto: {jobs} model{'s'[: jobs > 1]} at once{each} ({machine})."


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


@functools.cache
def listed_gpus() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that `nvidia-smi` lists, none where the environment hides them from the backend of Keras."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return ()
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if backend() == "jax" and platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return ()
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_LIST_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(re.findall(r"^GPU \d+: (.*?)(?: \(UUID|$)", done.stdout, re.MULTILINE))


@functools.cache
def gpus() -> tuple[str, ...]:
    """Names of the GPUs on which models of this process will be computed, in the order of CUDA: those that its backend sees.

    Where `nvidia-smi` lists any, the backend is asked, which takes seconds. That it sees none is a warning.
    """
    listed = listed_gpus()
    seen = _ask_backend() if listed else ()
    if listed and seen == ():
        logger.warning(
            "nvidia-smi lists %s, but %s sees no GPU: models are computed on processors. See docs/guides/gpu.md for the "
            "installation; with CUDA_VISIBLE_DEVICES=-1 the GPU is left out on purpose.",
            listed[0],
            backend(),
        )
    return listed if seen is None else seen


def _ask_backend() -> tuple[str, ...] | None:
    """Names of the GPUs that the backend of Keras sees; `None` if it does not answer in time.

    It is asked in a process of its own: it would take their memory in this one.
    """
    command = [sys.executable, "-c", _ASK.get(backend(), "")]
    little = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    options = {"capture_output": True, "text": True, "timeout": _IMPORT_SECONDS, "env": os.environ | little}
    try:
        done = subprocess.run(command, **options)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        logger.warning("%s cannot be asked for its GPUs: %s", backend(), done.stderr.strip().rpartition("\n")[2])
    return tuple(re.findall(r"^GPU: (.*)$", done.stdout, re.MULTILINE))


def devices() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls each of `gpus`."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[: len(gpus())] if given else [str(i) for i in range(len(gpus()))]


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
    """Keep JAX from taking most memory of the GPU when it starts, unless the user has decided. Call it before an import."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@contextlib.contextmanager
def multi_process_service(at_once: int) -> Iterator[None]:
    """CUDA's multi-process service, with which processes compute on a GPU side by side and not in turns.

    It is started if several models will share a GPU and it is installed and does not run yet, and only then stopped at the
    end. All models must have ended before. Without it everything works too, more slowly.
    """
    if not (shutil.which(CONTROL) and 0 < len(gpus()) < at_once) or _runs():
        yield
        return
    # Pipes that no other program knows, unless the user chose some: nobody else takes the service for his own.
    folder, names = tempfile.mkdtemp(prefix="echo_tf_mps_"), [name for name in (PIPES, _LOGS) if name not in os.environ]
    os.environ.update(dict.fromkeys(names, folder))
    runs = True  # before it starts: an interruption may come in between
    try:
        runs = _starts()
        if runs and _ask_backend() == ():
            logger.warning("%s starts, but no program sees a GPU then. Models take turns on it, which is slower.", CONTROL)
            runs = not _stop()
        yield
    finally:
        with _signals_later():
            if not runs or _stop():  # else it could not be stopped any more
                shutil.rmtree(folder, ignore_errors=True)
            for name in names:
                del os.environ[name]


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Signals that stop programs come after the block. In it, a second Ctrl-C would leave the service behind."""
    late: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, lambda number, frame: late.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if late:
            signal.raise_signal(late[0])


def _tell(command: str, seconds: float) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": seconds, "start_new_session": True}  # out of reach of Ctrl-C
    return subprocess.run([CONTROL], input=f"{command}\n", **options)  # type: ignore[call-overload]


def _runs() -> bool:
    try:
        answer = _tell("get_server_list", _ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "Cannot find" not in answer.stdout + answer.stderr


def _starts() -> bool:
    # No pipes, which a daemon might hold open, and a session of its own, which Ctrl-C does not reach. Programs count only those
    # GPUs that the daemon was given, from 0: with all of them, a number means the same to programs with and without it.
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    options = {**streams, "env": environment, "start_new_session": True, "timeout": _ANSWER_SECONDS}
    try:
        done = subprocess.run([CONTROL, "-d"], **options)  # type: ignore[call-overload]
        reason = f"status {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        logger.warning("%s -d did not start (%s). The models take turns on the GPU, which is slower.", CONTROL, reason)
    return not reason


def _stop() -> bool:
    try:
        reason = "" if (done := _tell("quit", _STOP_SECONDS)).returncode == 0 else f"status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        command = f"echo quit | {PIPES}={os.environ[PIPES]} {CONTROL}"
        logger.warning("%s did not stop (%s). Stop it with: %s", CONTROL, reason, command)
    return not reason
