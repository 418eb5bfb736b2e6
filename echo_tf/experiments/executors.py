"""Many cells at once: in processes of this machine, or on a Ray cluster.

This module imports no Keras, so that a worker process has its environment set before TensorFlow looks at it.
"""

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo_tf.errors import CellError, ConfigError, DataError, TrainingError
from echo_tf.experiments.cells import Cell

logger = logging.getLogger(__name__)

LOG = "worker.log"
RETRIES = 3  # new workers for a task whose worker was killed, for want of memory or with its machine
RETRY_SECONDS = 10.0  # for a device to recover, and for others to give memory back
POLL_SECONDS = 1.0
CONNECT_SECONDS = 10.0
# Environment variables that choose backend, threads and folders.
_VARIABLES = ("TF_", "XLA_", "JAX_", "KERAS_", "ECHO_TF_", "NPROC")
EXPECTED_ERRORS = (CellError, ConfigError, DataError, TrainingError, OSError)
_DEVICE_LIBRARIES = ("jax", "jaxlib", "tensorflow")
_NO_DEVICE = "Unable to initialize backend"  # how a RuntimeError of Python's own begins, which JAX raises


class LostDeviceError(CellError):
    """A process whose device or memory failed it: as little a reason to end other cells as a process that was killed."""


@dataclass(frozen=True)
class Task:
    """What it takes to run a cell elsewhere. Every machine must have the paths under the same names.

    Attributes:
        cell: The cell.
        folder: Its folder.
        out, data_dir, raw_dir: Folders, as for `reproduce.py`.
        dataset: Name of the data set, or the path of a `.npz` file.
        split, passes, echoes, validate: As for `run_cell`.
        tensorboard: Boolean, write event files into the cell's folder.
    """

    cell: Cell
    folder: Path
    out: Path
    dataset: str | Path
    data_dir: Path | None = None
    raw_dir: Path | None = None
    split: str = "test"
    passes: int = 5
    echoes: str = "reservoir"
    validate: bool = False
    tensorboard: bool = False


def run_task(task: Task, callbacks: tuple = ()) -> dict:
    """Run a cell as `run_cell` does, with its errors, and return its result."""
    import keras

    from echo_tf.data.load import load_dataset
    from echo_tf.experiments.run import run_cell

    dataset = load_dataset(task.dataset, task.data_dir, task.raw_dir)
    if task.tensorboard:
        callbacks = (*callbacks, keras.callbacks.TensorBoard(task.folder / "tensorboard"))
    options = {name: getattr(task, name) for name in ("split", "passes", "echoes", "validate")}
    return run_cell(task.cell, dataset, task.out, callbacks=callbacks, **options)


@contextlib.contextmanager
def device_errors(task: Task) -> Iterator[None]:
    """Errors of the device, which need not come through pickle, become `LostDeviceError`; all of them goes to standard error.

    One model can fail another on a shared GPU: it takes the memory, or ends the service through which both compute.
    """
    try:
        yield
    except EXPECTED_ERRORS:
        raise
    except Exception as error:
        of_device = isinstance(error, MemoryError) or type(error).__module__.partition(".")[0] in _DEVICE_LIBRARIES
        if not of_device and not str(error).startswith(_NO_DEVICE):
            raise
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)  # which hold the model, and its memory
        first = (str(error).strip().splitlines() or [""])[0]
        raise LostDeviceError(f"{task.folder}: {type(error).__name__}: {first[:300]}") from None


def run_task_apart(task: Task, on_gpu: bool) -> dict:
    """Run a cell in a process of its own, with the errors of `run_task` and `device_errors`.

    Raises:
        LostDeviceError: it shall run on a GPU, and there is none. TensorFlow would train on processors in silence.
    """
    from echo_tf.experiments.steps import on_cpu

    with device_errors(task):
        if on_gpu and on_cpu():
            raise LostDeviceError(f"{task.folder}: its process sees no GPU")
        return run_task(task)


class LocalProcesses:
    """Runs a task in a process of its own on this machine, again if that or its device is lost.

    What it prints goes to `worker.log`.

    Args:
        gpus: What `CUDA_VISIBLE_DEVICES` calls the GPUs, among which tasks are shared out; none to run on processors.
    """

    def __init__(self, gpus: Sequence[str] = ()):
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._tasks = Counter(dict.fromkeys(gpus, 0))

    def __call__(self, task: Task) -> dict:
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / LOG).open("a").close()  # a process that cannot open it would seem to be killed
        with self._gpu() as gpu:
            return self._run(task, gpu)

    @contextlib.contextmanager
    def _gpu(self) -> Iterator[str | None]:
        """The GPU with the fewest tasks; `None` where there is no choice."""
        if len(self._tasks) < 2:
            yield None
            return
        with self._lock:
            gpu = min(self._tasks, key=self._tasks.__getitem__)
            self._tasks[gpu] += 1
        try:
            yield gpu
        finally:
            with self._lock:
                self._tasks[gpu] -= 1

    def _run(self, task: Task, gpu: str | None) -> dict:
        reason = ""
        for tried in range(RETRIES + 1):
            if tried:
                logger.warning("%s. Another process goes on from the checkpoint.", reason)
                self._stopped.wait(RETRY_SECONDS)
            if self._stopped.is_set():
                raise CellError(f"{task.folder}: stopped before it began. The same command goes on.")
            try:
                context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
                with futures.ProcessPoolExecutor(1, context, _prepare_worker, (task.folder / LOG, gpu)) as pool:
                    future = pool.submit(run_task_apart, task, bool(self._tasks))
                    if self._stopped.is_set():  # `stop` may have looked before there was a process
                        self.stop()
                    return future.result()
            except BrokenProcessPool:
                if self._stopped.is_set():
                    raise
                reason = f"{task.folder}: its process was killed"
            except LostDeviceError as error:
                reason = str(error)
        times = f"({RETRIES + 1} times, perhaps for want of memory)"
        raise CellError(f"{reason} {times}. Lower --jobs; {task.folder / LOG} has what it printed.")

    def stop(self) -> None:
        """Kill all processes. What they trained since their last checkpoints is lost."""
        self._stopped.set()
        for process in multiprocessing.active_children():
            process.kill()


def _prepare_worker(log: Path, gpu: str | None) -> None:
    """Show warnings where the parent shows its own, send all else to a file, leave signals to the parent, and die with it."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=os.fdopen(os.dup(2), "w"))
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _die_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


class RayCluster:
    """Runs a task on a Ray cluster, again if its worker dies. Every machine needs the same package and folders, by name.

    Args:
        address: Of the cluster, `"auto"` for the one that runs here; `None` for `$RAY_ADDRESS`, else one of this machine alone.
        cpus, gpus: What a cell takes of a machine; a share of a GPU is possible.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str | None, cpus: float, gpus: float):
        try:
            import ray
        except ImportError:
            raise ConfigError("Ray is not installed. Run: pip install '.[ray]'") from None
        checkout = str(Path(__file__).resolve().parents[2])
        variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
        paths = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
        try:
            if not ray.is_initialized():
                _check_reachable(address)
                ray.init(address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"No Ray cluster at {address}: {error}. Start one (ray start --head) or leave it out.") from None
        self._ray, self._on_gpu = ray, gpus > 0
        self._run = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=RETRIES,
            retry_exceptions=[LostDeviceError],
            max_calls=1,  # a process each, as on one machine: Keras and TensorFlow keep state between models
            runtime_env={"env_vars": {**variables, "PYTHONPATH": paths}},
        )(run_task_apart)

    def __call__(self, task: Task) -> dict:
        values: dict[str, Any] = {n: v.absolute() if isinstance(v, Path) else v for n, v in vars(task).items()}
        try:
            return self._ray.get(self._run.remote(Task(**values), self._on_gpu))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:  # the machine died, or the worker, once more than it was retried
            raise CellError(f"{task.folder}: Ray gave up ({error}). The same command goes on from its checkpoint.") from None

    def stop(self) -> None:
        """Leave the cluster, which ends the tasks of this program there."""
        self._ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Fail at once where nobody listens: Ray would try for minutes."""
    host, _, port = (address or "").rpartition("/")[2].partition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


Executor = LocalProcesses | RayCluster
Outcomes = Generator[tuple[Task, dict | Exception], None, None]


def run_all(tasks: list[Task], executor: Executor, at_once: int, watch: Callable[[list[Task]], None]) -> Outcomes:
    """Run tasks in their order, and yield them as they end.

    Args:
        tasks: The tasks.
        executor: Where they run.
        at_once: How many may run at the same time.
        watch: Called about once a second with the tasks that run.

    Yields:
        Each task with its result, or with the expected error that ended it. The others go on.
    """
    waiting = iter(tasks)
    running: dict[futures.Future, Task] = {}
    with futures.ThreadPoolExecutor(at_once) as threads:
        try:
            while True:
                for task in itertools.islice(waiting, at_once - len(running)):
                    running[threads.submit(executor, task)] = task
                if not running:
                    return
                ended, _ = futures.wait(running, POLL_SECONDS, futures.FIRST_COMPLETED)
                watch(list(running.values()))
                for future in ended:
                    error = future.exception()
                    if error is not None and not isinstance(error, EXPECTED_ERRORS):
                        raise error
                    yield running.pop(future), error or future.result()
        except BaseException:  # Ctrl-C too
            executor.stop()
            raise
