"""Training of the cells that a command line asks for, and what each experiment does behind it."""

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from echo_tf.command.planning import unfinished_cells
from echo_tf.data.dataset import Dataset
from echo_tf.data.load import load_dataset
from echo_tf.errors import CellError
from echo_tf.experiments import progress, sharing
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.elsewhere import evaluate_elsewhere
from echo_tf.experiments.executors import LocalProcesses, Outcomes, RayCluster, Task
from echo_tf.experiments.inputs import Input
from echo_tf.experiments.points import check_points
from echo_tf.experiments.records import read_metrics

logger = logging.getLogger(__name__)

_QUANTITIES = (("rate", "rate_nats"), ("distortion", "distortion_nats"), ("-ELBO", "neg_elbo_nats"))


def train_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train and evaluate all cells that are not finished."""
    left = unfinished_cells(options, inputs, cells)
    for cell in cells:
        folder = cell.folder(options.out)
        if cell not in left:
            print(f"{folder}: finished before")
        if options.validate and any("validation_rate_nats" not in line for line in read_metrics(folder)):
            logger.warning(
                "%s has epochs that were trained without --validate, which are not measured now: the table of overfitting will "
                "lack it. Move it away to train it anew.",
                folder,
            )
    names = ("out", "data_dir", "raw_dir", "split", "echoes", "validate", "tensorboard")
    shared = {name: getattr(options, name) for name in names} | {"passes": options.rate_samples}
    tasks = [Task(cell, cell.folder(options.out), dataset=inputs[cell.dataset].given, **shared) for cell in left]
    for name in dict.fromkeys(cell.dataset for cell in left):
        _load(options, inputs[name])  # downloads it once, and fails at once
    if tasks:
        _run_tasks(options, tasks)


def _run_tasks(options: argparse.Namespace, tasks: list[Task]) -> None:
    """Run tasks and print how each ends. Raises `CellError` at the end if any failed."""
    failures = []
    with _outcomes(options, tasks) as outcomes:
        for number, (task, outcome) in enumerate(outcomes, 1):
            print(f"[{number}/{len(tasks)}] {task.folder}")
            if isinstance(outcome, Exception):
                named = str(task.folder) in str(outcome)
                failures.append(str(outcome) if named else f"{task.folder}: {outcome}")
                print("    failed")
                continue
            means = ", ".join(f"{name} {outcome[key]['mean']:.2f}" for name, key in _QUANTITIES)
            print(f"    {options.split}: {means} nats, trained in {outcome['training_seconds']:.0f} s")
    if failures:
        count = [f"{len(failures)} of {len(tasks)} models failed."] if len(tasks) > 1 else []
        raise CellError("\n".join([*count, *failures]))


@contextlib.contextmanager
def _outcomes(options: argparse.Namespace, tasks: list[Task]) -> Iterator[Outcomes]:
    """Run tasks where the options say. At the end, also after an error, all processes have ended before the service does."""
    if options.executor == "ray":
        cluster = RayCluster(options.ray_address, cpus=options.threads or 1, gpus=options.gpus)
        yield progress.run_elsewhere(tasks, cluster, options.jobs or len(tasks))
    elif options.jobs > 1:
        with (
            sharing.multi_process_service(min(options.jobs, len(tasks))),
            contextlib.closing(progress.run_elsewhere(tasks, LocalProcesses(sharing.devices()), options.jobs)) as outcomes,
        ):
            yield outcomes
    else:
        yield progress.run_here(tasks)


def train_and_analyse_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train all cells and analyse their models, as far as that is not on disk."""
    from echo_tf.experiments.run import analyse_cell, check_analysable

    data = {name: _load(options, found) for name, found in inputs.items()}
    for cell in cells:
        check_analysable(cell, data[cell.dataset], options.split)
    train_cells(options, inputs, cells)
    for number, cell in enumerate(cells, 1):
        print(f"[{number}/{len(cells)}] {cell.folder(options.out)}: analysis")
        analyse_cell(cell, data[cell.dataset], options.out, split=options.split, arrays=options.arrays)


def evaluate_on_others(options: argparse.Namespace, others: dict[str, Input], cells: list[Cell]) -> None:
    """Evaluate the models of cells on other data sets, as far as that is not on disk."""
    for other in others.values():
        dataset = _load(options, other)
        for cell in cells:
            if (cell.dataset, cell.data) != (other.name, other.fingerprint):
                done = "measured" if evaluate_elsewhere(cell, dataset, options.out, options.rate_samples) else "finished before"
                print(f"{cell.folder(options.out)} on {other.name}: {done}")


def train_and_score(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train all cells and score the disentanglement of their models, as far as that is not on disk."""
    from echo_tf.experiments import disentanglement

    for folder, own, _ in _trained(options, inputs, cells, "scores"):
        disentanglement.run(folder, own, options.out, options.data_dir)


def train_and_listen(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train all cells and measure what their decoders take from `z`, as far as that is not on disk."""
    from echo_tf.experiments import freeriding

    freeriding.check_cells(cells, inputs)
    for folder, own, found in _trained(options, inputs, cells, "what decoders take from z"):
        freeriding.run(folder, own, _load(options, found), options.out, options.split)


def train_and_change_noise(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train all cells and measure their models under other noise, as far as that is not on disk."""
    from echo_tf.experiments import noise

    for folder, own, found in _trained(options, inputs, cells, "other noise"):
        noise.run(folder, own, _load(options, found), options.out, options.split)


def train_and_anneal(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train all cells and measure the likelihood of their models, as far as that is not on disk."""
    from echo_tf.experiments import likelihood

    effort = likelihood.Effort(options.images, options.temperatures, options.chains)
    for folder, own, found in _trained(options, inputs, cells, "annealed importance sampling"):
        likelihood.run(folder, own, _load(options, found), options.out, options.split, effort)


def _trained(
    options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell], told: str
) -> Iterator[tuple[Path, list[Cell], Input]]:
    """Train all cells, and then give for each data set the folder of the experiment, which is printed, and its cells."""
    parts = [
        (options.out / options.experiment / name, [cell for cell in cells if cell.dataset == name], found)
        for name, found in inputs.items()
    ]
    for folder, own, _ in parts:
        check_points(folder, own)
    train_cells(options, inputs, cells)
    for part in parts:
        print(f"{part[0]}: {told}")
        yield part


def _load(options: argparse.Namespace, found: Input) -> Dataset:
    return load_dataset(found.given, options.data_dir, options.raw_dir)
