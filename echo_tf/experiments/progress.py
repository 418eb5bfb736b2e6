"""Trainings as a person at the terminal sees them: progress bars, and signals that stop them. Needs no Keras to import."""

import contextlib
import sys

from tqdm import tqdm

from echo_tf.experiments.executors import EXPECTED_ERRORS, Executor, Outcomes, Task, run_all, run_task
from echo_tf.experiments.records import read_metrics

# Numbers of the signals that asked this process to stop.
signals: list[int] = []


def stop(number: int, frame) -> None:
    """Handler of signals. It also notes each, because Keras drops an exception that comes while it converts metrics."""
    signals.append(number)
    raise KeyboardInterrupt


def run_here(tasks: list[Task]) -> Outcomes:
    """Run tasks one after the other in this process, with a bar of the steps of each; yields as `run_all` does."""
    for task in tasks:
        with contextlib.ExitStack() as stack:  # clears the bar, however the training ends
            outcome: dict | Exception
            try:
                outcome = run_task(task, (steps_bar(stack, short_name(task)),))
            except EXPECTED_ERRORS as error:
                outcome = error
        yield task, outcome


def run_elsewhere(tasks: list[Task], executor: Executor, at_once: int) -> Outcomes:
    """Run tasks in other processes, with one bar of the epochs of all; yields as `run_all` does."""
    epochs = {task.folder: task.cell.config.training.epochs for task in tasks}
    done = {task.folder: len(read_metrics(task.folder)) for task in tasks}
    # Epochs end seldom and then several at once: the speed is the mean since the start.
    with contextlib.ExitStack() as stack:
        options = {"total": sum(epochs.values()), "initial": sum(done.values()), "unit": "epoch"}
        bar = stack.enter_context(make_bar(**options, smoothing=0))

        def watch(running):
            done.update({task.folder: len(read_metrics(task.folder)) for task in running})
            names = (f"{short_name(task)} {done[task.folder]}/{epochs[task.folder]}" for task in running)
            bar.set_postfix_str(", ".join(names), refresh=False)
            bar.update(sum(done.values()) - bar.n)
            bar.initial = min(bar.initial, bar.n)  # a model that starts anew has fewer epochs than before

        # Closed with this generator, which ends the processes before whoever closes it goes on.
        outcomes = stack.enter_context(contextlib.closing(run_all(tasks, executor, at_once, watch)))
        for task, outcome in outcomes:
            done[task.folder] = epochs[task.folder]
            with tqdm.external_write_mode():
                yield task, outcome


def short_name(task: Task) -> str:
    """What tells the models of a sweep apart, for a bar."""
    config = task.cell.config
    return f"{config.method} beta={config.beta:g} seed={config.seed}"


def make_bar(**options):
    """Progress bar with the remaining time; drawn every second on a terminal, and every minute in a file."""
    return tqdm(mininterval=1.0 if sys.stderr.isatty() else 60.0, miniters=0, leave=False, **options)


def steps_bar(stack: contextlib.ExitStack, name: str):
    """Keras callback with a bar of all steps of one training, which `stack` clears. It leaves the metrics on the device."""
    import keras

    class StepsBar(keras.callbacks.Callback):
        """Also stops a training whose signal Keras has swallowed, before the next steps and before the epoch is recorded."""

        async_safe = True

        def on_train_begin(self, logs=None):
            finished, self.train_function = int(self.model.optimizer.iterations.numpy()), self.model.train_function
            total = self.params["epochs"] * self.train_function.steps_per_epoch
            bar = make_bar(total=total, initial=finished, unit="step", desc=name)
            self.bar = stack.enter_context(bar)

        def on_train_batch_begin(self, batch, logs=None):
            self.stop_if_asked()

        def on_train_batch_end(self, batch, logs=None):
            self.bar.update(len(self.train_function.losses))
            self.stop_if_asked()

        def stop_if_asked(self):
            if signals:
                raise KeyboardInterrupt

        def on_epoch_end(self, epoch, logs=None):
            values = {"epoch": epoch + 1, "rate": f"{logs['rate']:.1f}", "distortion": f"{logs['distortion']:.1f}"}
            self.bar.set_postfix(values, refresh=False)

        def on_train_end(self, logs=None):
            self.bar.close()

    return StepsBar()
