"""Trainings as a person at the terminal sees them: a progress line, and signals that stop them. Needs no Keras to import."""

import contextlib
import signal
import sys
import time

from tqdm import tqdm

from echo_tf.experiments.estimates import in_words
from echo_tf.experiments.executors import EXPECTED_ERRORS, Executor, Outcomes, Task, device_errors, run_all, run_task
from echo_tf.experiments.records import read_metrics

WIDTH = 80

# Ctrl-C, a request to end, and a terminal that is closed.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# Numbers of the signals that asked this process to stop.
signals: list[int] = []


def stop(number: int, frame) -> None:
    """Handler of signals. It also notes each, because Keras drops an exception that comes while it converts metrics."""
    signals.append(number)
    raise KeyboardInterrupt


class Line:
    """The state of a training: on a terminal one line that is drawn anew every second, elsewhere a line of text an epoch.

    Args:
        total: Steps or epochs of all.
        initial: Those that are done already.
        text: What stands there before the first `update`.
    """

    def __init__(self, total: int, initial: int = 0, text: str = "compiling,"):
        self._on_terminal = sys.stderr.isatty()
        self._start, self._initial = time.monotonic(), initial
        self.bar = tqdm(
            total=total,
            initial=initial,
            desc=text,
            bar_format="{desc} {remaining} left",
            leave=False,
            mininterval=1.0,
            miniters=0,
            smoothing=0,  # the mean since the start: epochs of several models end at once
            ncols=WIDTH,
            disable=not self._on_terminal,
        )
        self.done, self.total = initial, total

    def update(self, done: int, name: str, values: str) -> None:
        """Say how much is done, and what there is to see. A long name is cut, so that the values stay."""
        self._initial = min(self._initial, done)  # a model that starts anew has fewer epochs than before
        if self._on_terminal:
            self.bar.initial = self._initial
            room = WIDTH - len(" 00:00:00 left") - len(values)
            self.bar.set_description_str((name if len(name) <= room else name[: room - 1] + "…") + values, refresh=False)
            self.bar.update(done - self.done)
        self.done = done

    def tell(self, text: str) -> None:
        """A line of its own, where the output is no terminal."""
        if not self._on_terminal:
            rate = (self.done - self._initial) / (time.monotonic() - self._start)
            left = f", {in_words((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
            print(f"{text}{left}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()


def quantities(values: dict) -> str:
    """`rate 12.1 distortion 281.2 -ELBO 293.3` for the metrics of an epoch; empty if there are none."""
    if not {"rate", "distortion"} <= values.keys():
        return ""
    rate, distortion = float(values["rate"]), float(values["distortion"])
    return f" rate {rate:.1f} distortion {distortion:.1f} -ELBO {rate + distortion:.1f}"


def run_here(tasks: list[Task]) -> Outcomes:
    """Run tasks one after the other in this process, with a line of the epochs of each; yields as `run_all` does."""
    names = short_names(tasks)
    for task in tasks:
        with contextlib.ExitStack() as stack:  # clears the line, however the training ends
            outcome: dict | Exception
            try:
                with device_errors(task):
                    outcome = run_task(task, (epochs_line(stack, names[task.folder], task.cell.config.training.epochs),))
            except EXPECTED_ERRORS as error:
                outcome = error
        yield task, outcome


def run_elsewhere(tasks: list[Task], executor: Executor, at_once: int) -> Outcomes:
    """Run tasks in other processes, with one line for all and for the epoch that ended last; yields as `run_all` does."""
    names, epochs = short_names(tasks), {task.folder: task.cell.config.training.epochs for task in tasks}
    done = {task.folder: len(read_metrics(task.folder)) for task in tasks}
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(Line(sum(epochs.values()), sum(done.values())))
        latest = "compiling", ""

        def watch(running):
            nonlocal latest
            before = done.copy()
            metrics = {task.folder: read_metrics(task.folder) for task in running}
            done.update({folder: len(lines) for folder, lines in metrics.items()})
            for folder, lines in metrics.items():
                if done[folder] > before[folder]:
                    last = {key.removesuffix("_nats"): value for key, value in lines[-1].items()}
                    latest = names[folder], f" {done[folder]}/{epochs[folder]}{quantities(last)}"
                    line.tell(" epoch".join(latest))
            line.update(sum(done.values()), f"{sum(done.values())}/{sum(epochs.values())} epochs, {latest[0]}", latest[1])

        # Closed with this generator, which ends the processes before whoever closes it goes on.
        outcomes = stack.enter_context(contextlib.closing(run_all(tasks, executor, at_once, watch)))
        for task, outcome in outcomes:
            done[task.folder] = epochs[task.folder]
            with tqdm.external_write_mode():
                yield task, outcome


def short_names(tasks: list[Task]) -> dict:
    """By folder, the method, and of data set, beta and seed those that are not the same in all tasks."""
    configs = [task.cell.config for task in tasks]
    shown = {
        "": len({task.cell.dataset for task in tasks}) > 1,
        "beta=": len({config.beta for config in configs}) > 1,
        "seed=": len({config.seed for config in configs}) > 1,
    }
    names = {}
    for task, config in zip(tasks, configs, strict=True):
        values = (task.cell.dataset, f"{config.beta:g}", config.seed)
        named = zip(shown.items(), values, strict=True)
        names[task.folder] = " ".join([config.method, *(f"{key}{value}" for (key, differs), value in named if differs)])
    return names


def epochs_line(stack: contextlib.ExitStack, name: str, epochs: int):
    """Keras callback with the line of one training, which `stack` clears. It leaves the metrics on the device.

    A training of two phases is two calls of `fit`, each of which knows its last epoch only: `epochs` are those of all.
    """
    import keras

    class EpochsLine(keras.callbacks.Callback):
        """Also stops a training whose signal Keras has swallowed, before the next steps and before the epoch is recorded."""

        async_safe = True
        line, values = None, ""

        def on_train_begin(self, logs=None):
            self.train_function, self.steps = self.model.train_function, self.model.train_function.steps_per_epoch
            if self.line is None:
                finished = int(self.model.optimizer.iterations.numpy())
                self.line = stack.enter_context(Line(epochs * self.steps, finished, f"{name}: compiling,"))

        def on_train_batch_begin(self, batch, logs=None):
            self.stop_if_asked()

        def on_train_batch_end(self, batch, logs=None):
            done = self.line.done + len(self.train_function.losses)
            self.line.update(done, name, f" epoch {done / self.steps:.1f}/{epochs}{self.values}")
            self.stop_if_asked()

        def stop_if_asked(self):
            if signals:
                raise KeyboardInterrupt

        def on_epoch_end(self, epoch, logs=None):
            self.values = quantities(logs)
            self.line.tell(f"{name} epoch {epoch + 1}/{epochs}{self.values}")

    return EpochsLine()
