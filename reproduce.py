#!/usr/bin/env python3
"""Train rate-distortion autoencoders, compare them with the paper's tables, and plot them.

python reproduce.py                                     Echo and VAE on digits, a few minutes on two cores
python reproduce.py --dataset binary_mnist              the paper's experiment: 200 epochs
python reproduce.py --dataset all --method all --jobs auto   the paper's whole table
python reproduce.py --dataset mine.npz                  data of your own: arrays train and test
python reproduce.py --experiment theory                 exact rate-distortion functions and learned models beside them
python reproduce.py --report                            tables and figures from what is on disk
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Before TensorFlow is imported: its start-up messages would drown ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves these kernels off on processors without VNNI instructions, where a training step takes twice as long then.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Modules that import Keras, which takes seconds, are imported where something is trained.
from echo_tf.data.dataset import KNOWN
from echo_tf.data.load import load_dataset
from echo_tf.errors import CellError, ConfigError, DataError, ResultError, TrainingError
from echo_tf.experiments import order, progress, sharing
from echo_tf.experiments.cells import Cell, plan
from echo_tf.experiments.estimates import in_words, recorded_speeds, seconds_per_step, total_in_words
from echo_tf.experiments.executors import LocalProcesses, Outcomes, RayCluster, Task
from echo_tf.experiments.inputs import Input, read_inputs
from echo_tf.experiments.records import is_finished
from echo_tf.models.config import PROTOCOLS, available_methods, load_config
from echo_tf.report.paper import paper_table

EXIT_OK, EXIT_MISSED, EXIT_USAGE = 0, 1, 2
EXIT_SIGNAL = 128  # plus its number: 130 for Ctrl-C, 143 for SIGTERM

# From where Echo is near its floor to where more rate hardly lowers the distortion.
RD_BETAS = (0.1, 0.25, 0.5, 1.0, 1.8, 3.0, 5.0, 10.0)

# Experiments of their own, and the options that they heed.
_APPLY = {
    "bottleneck": {"experiment", "dataset", "beta", "seeds", "data_dir", "raw_dir", "out", "report", "publish"},
    "theory": {"experiment", "seeds", "out", "report", "publish"},
}
_QUANTITIES = (("rate", "rate_nats"), ("distortion", "distortion_nats"), ("-ELBO", "neg_elbo_nats"))


def _number(kind: type, low: float, high: float = math.inf) -> dict:
    """Type and name of an argument: a number of at least `low` and below `high`, so never infinite or NaN."""

    def number(text):
        with contextlib.suppress(ValueError):
            if low <= (value := kind(text)) < high:
                return value
        whole, below = "a whole" if kind is int else "a finite", "" if high == math.inf else f" and below {high:,}"
        raise argparse.ArgumentTypeError(f"expected {whole} number of at least {low}{below}, received {text[:20]!r}")

    return {"type": number, "metavar": "N" if kind is int else "X"}


def _dataset(text: str) -> str | Path:
    if text not in (*KNOWN, "all") and Path(text).suffix != ".npz":
        names = ", ".join(KNOWN)
        raise argparse.ArgumentTypeError(f"expected one of {names}, or a .npz file of your own, or all, received {text!r}")
    return Path(text) if text not in (*KNOWN, "all") else text


def _jobs(count: dict) -> dict:
    """Type of `--jobs`: what `count` takes, or `auto`."""
    return count | {"type": lambda text: text if text == "auto" else count["type"](text), "metavar": "N|auto"}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    experiments = (
        "comparison (default): train methods on a data set; rd: the same over a grid of betas, for rate-distortion curves; "
        "analysis: comparison, then marginals, pointwise rates and noise of each model; "
        "noise: comparison, then the distortion of Echo methods under other noise, the worth of each dimension, and the rate "
        "of each method without a learnt marginal after one is fitted; "
        "bottleneck: labels instead of images as what is kept (of the options --dataset, --beta, --seeds, --data-dir, "
        "--raw-dir, --out, --report, --publish apply); theory: synthetic sources (--seeds, --out, --report, --publish)"
    )
    choices = ["comparison", "rd", "analysis", "noise", *_APPLY]
    add("--experiment", choices=choices, default="comparison", help=experiments)
    own = "arrays train, test, optionally validation, train_labels, test_labels; integers to 255 or floats to 1"
    names = (
        f"one or more of {', '.join(KNOWN)}, files of your own ({own}), or all (of the paper); of several the first is trained "
        f"first, and there the methods {', '.join(order.METHODS)} before others (default: digits; for bottleneck, which takes "
        "one, fashion_mnist)"
    )
    add("--dataset", nargs="+", type=_dataset, metavar="NAME|FILE.npz", help=names)
    methods = (
        "names in configs/, .yaml files, and all (of the paper) (default: echo vae; rd: echo vae iaf; noise: echo echo_matrix)"
    )
    add("--method", nargs="+", metavar="NAME", help=methods)
    weights = f"weights of the rate (default: that of the method, 1; for rd {', '.join(f'{beta:g}' for beta in RD_BETAS)})"
    add("--beta", nargs="+", **_number(float, 0), help=weights)
    target, nats = parser.add_mutually_exclusive_group(), _number(float, 0) | {"metavar": "NATS"}
    target.add_argument("--target-rate", **nats, help="let training find the beta that gives this rate")
    target.add_argument("--target-distortion", **nats, help="the same for the distortion")
    count = _number(int, 1, 10_000)
    add("--seeds", **count, default=1, help="train with N seeds, from that of the method, 0, on (default: 1)")
    add("--epochs", **_number(int, 1, 2**31), help="default: that of the method, 200; 30 on digits")
    protocols = "paper (default): what it says, but for Echo's parametrisation; released: what its code does otherwise"
    add("--protocol", choices=PROTOCOLS, help=protocols)
    add("--dtype-policy", choices=["float32", "mixed_bfloat16"], help="precision of the networks (default: float32)")
    add("--split", choices=["test", "validation"], default="test", help="images for the final evaluation (default: test)")
    draws = "draws of z for each image in the final evaluation, and terms of the importance-sampled bound (default: 5)"
    add("--rate-samples", **_number(int, 2, 1_000_000), default=5, help=draws)
    law = "source of Echo noise in the evaluation: training examples, or as in the paper the batch (default: reservoir)"
    add("--echoes", choices=["reservoir", "batch"], default="reservoir", help=law)
    add("--validate", action="store_true", help="also measure a validation split after every epoch")
    add("--data-dir", type=Path, help="folder with NAME.npz (default: $ECHO_TF_DATA, else ~/.cache/echo_tf)")
    add("--raw-dir", type=Path, help="folder with the published raw files, used instead of a download")
    add("--out", type=Path, default=Path("runs"), help="folder of all results (default: runs)")
    jobs = (
        "train so many models at once, the longest first, on a GPU by CUDA's multi-process service where it is installed; "
        f"auto: one for every two cores, on a GPU at most {sharing.MOST_ON_A_GPU} (default: 1, in this process; on Ray all)"
    )
    add("--jobs", **_jobs(count), help=jobs)
    threads = (
        "threads of a model, on Ray its processors (default: all, with --jobs auto its share, on Ray 1); another number "
        "changes the last digits"
    )
    add("--threads", **count, help=threads)
    add("--executor", choices=["local", "ray"], default="local", help="where models are trained: processes here, or Ray")
    add("--ray-address", metavar="ADDRESS", help="of the Ray cluster; auto: the one on this machine (default: a new one)")
    add("--gpus", **_number(float, 0), default=0.0, help="GPUs that a model asks of Ray, also a share of one (default: 0)")
    add("--tensorboard", action="store_true", help="write event files into every cell's folder (needs tensorboard)")
    dry = "list the cells to train in their order, with the hours that epochs on disk in --out let expect, and stop"
    add("--dry-run", action="store_true", help=dry)
    measure = "with --dry-run: expect hours from a few training steps of every method, which are measured now (minutes)"
    add("--measure", action="store_true", help=measure)
    add("--report", action="store_true", help="make tables and figures from the results in --out, train nothing")
    add("--publish", type=Path, metavar="DIR", help="copy tables and figures to DIR, the results they come from to DIR/cells")
    add("--readme", type=Path, metavar="FILE", help="write the results on the test set into the results section of FILE")
    add("--strict", action="store_true", help="exit with 1 if a compared cell misses the paper's value")
    options = parser.parse_args(arguments)
    _check_together(parser, options)

    given = options.dataset or ["fashion_mnist" if options.experiment == "bottleneck" else "digits"]
    options.dataset = list(dict.fromkeys(name for one in given for name in (order.DATASETS if one == "all" else [one])))
    if options.executor == "local":
        options.jobs = options.jobs or 1
    elif options.jobs == "auto":
        options.jobs = None  # Ray knows its machines
    if options.experiment == "rd":
        options.beta = options.beta or list(RD_BETAS)
        options.method = options.method or ["echo", "vae", "iaf"]
    options.method = options.method or (["echo", "echo_matrix"] if options.experiment == "noise" else ["echo", "vae"])
    return options


def _several(datasets: list | None) -> bool:
    return len(datasets or []) > 1 or "all" in (datasets or [])


def _check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that do not go together, or not with this machine."""
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    constrained = bool(given & {"target_rate", "target_distortion"})
    without_tensorboard = importlib.util.find_spec("tensorboard") is None
    rules = (  # when options are refused, which, and why
        (True, given - _APPLY.get(options.experiment, given), f"not with --experiment {options.experiment}"),
        (without_tensorboard, {"tensorboard"}, "TensorBoard is not installed. Run: pip install '.[tensorboard]'"),
        (not options.dry_run, {"measure"}, "only with --dry-run"),
        (options.report, {"dry_run"}, "not with --report, which trains nothing"),
        (options.executor != "ray", {"ray_address", "gpus"}, "only with --executor ray"),
        (options.experiment == "bottleneck" and _several(options.dataset), {"dataset"}, "bottleneck takes one data set"),
        (constrained and options.experiment == "rd", {"experiment"}, "rd has betas of its own; leave out the target"),
        (constrained and len(options.beta or []) > 1, {"beta"}, "training to a target starts from a single one"),
    )
    for applies, names, reason in rules:
        for name in sorted(names & given) if applies else []:
            parser.error(f"argument --{name.replace('_', '-')}: {reason}")


def plan_cells(options: argparse.Namespace, inputs: dict[str, Input] | None = None) -> list[Cell]:
    """The cells that the options ask for, those of several data sets with what matters most first.

    Args:
        options: The command line.
        inputs: Its data sets, as `read_inputs` gives them; `None` to read them here.
    """
    inputs = read_inputs(options.dataset) if inputs is None else inputs
    training = {"epochs": options.epochs, "dtype_policy": options.dtype_policy}
    targets = {"rate": options.target_rate, "distortion": options.target_distortion}
    overrides = {"training": {name: value for name, value in training.items() if value is not None}}
    overrides |= {"protocol": options.protocol} if options.protocol else {}
    for quantity, target in targets.items():
        if target is not None:
            overrides["constraint"] = {"quantity": quantity, "target_nats": target}
    in_paper = [method for method in available_methods() if method in paper_table()["binary_mnist"]]
    methods = [method for one in options.method for method in (in_paper if one == "all" else [one])]
    holds_out = options.validate or options.split == "validation"
    cells = []
    for name, data in inputs.items():
        configs = [load_config(method, dataset=name, **overrides) for method in methods]
        cells += plan(name, configs, options.beta, options.seeds, data.holdout if holds_out else 0, data.fingerprint)
    return order.most_important_first(cells) if len(inputs) > 1 else cells


def unfinished_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> list[Cell]:
    """The cells that are still to train or evaluate, in the order in which that begins."""
    left = [c for c in cells if not is_finished(c, options.out, options.split, options.rate_samples, options.echoes)]
    if options.jobs == 1 or len(inputs) > 1:
        return left
    return order.longest_first(left, {name: data.images for name, data in inputs.items()}, options.out)


def train_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train and evaluate all cells that are not finished."""
    left = unfinished_cells(options, inputs, cells)
    for cell in cells:
        if cell not in left:
            print(f"{cell.folder(options.out)}: finished before")
    names = ("out", "data_dir", "raw_dir", "split", "echoes", "validate", "tensorboard")
    shared = {name: getattr(options, name) for name in names} | {"passes": options.rate_samples}
    tasks = [Task(cell, cell.folder(options.out), dataset=inputs[cell.dataset].given, **shared) for cell in left]
    for name in dict.fromkeys(cell.dataset for cell in left):
        load_dataset(inputs[name].given, options.data_dir, options.raw_dir)  # downloads it once, and fails at once
    if tasks:
        _run_tasks(options, tasks)


def _run_tasks(options: argparse.Namespace, tasks: list[Task]) -> None:
    """Run tasks and print how each ends. Raises `CellError` at the end if any failed."""
    failures = []
    with _outcomes(options, tasks) as outcomes:
        for number, (task, outcome) in enumerate(outcomes, 1):
            print(f"[{number}/{len(tasks)}] {task.folder}")
            if isinstance(outcome, Exception):
                failures.append(str(outcome))
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
            contextlib.closing(progress.run_elsewhere(tasks, LocalProcesses(), options.jobs)) as outcomes,
        ):
            yield outcomes
    else:
        yield progress.run_here(tasks)


def estimate_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Print the cells that are still to train, with the time that each takes as far as that is known."""
    left, images = unfinished_cells(options, inputs, cells), {name: data.images for name, data in inputs.items()}
    speeds = [] if options.measure else recorded_speeds(options.out, images)
    steps = _measured_steps(left, inputs) if options.measure else [seconds_per_step(cell, speeds) for cell in left]
    known = []
    for cell, step in zip(left, steps, strict=True):
        folder = cell.folder(options.out)
        if step is None:
            print(folder)
            continue
        known.append(step * order.epoch_steps(cell, images) * order.epochs_left(cell, options.out))
        print(f"{folder}  {in_words(known[-1])}")
    told = [f"{len(left)} to train, {len(cells) - len(left)} finished."]
    if known:
        source = "steps measured now" if options.measure else f"epochs in {options.out}, wherever those were trained"
        told += [total_in_words(known, options.jobs or len(known)), f"By {source}; compiling and evaluation come on top."]
    if len(known) < len(left):
        which = f"{len(left) - len(known)} of them" if known else "them"
        told.append(f"No epoch in {options.out} tells the time of {which}; --measure trains a few steps to say it.")
    print(*told, file=sys.stderr)


def _measured_steps(cells: list[Cell], inputs: dict[str, Input]) -> list[float | None]:
    """Seconds for a step of every cell. Cells that differ in seed, beta or data of the same shape are measured once."""
    from echo_tf.experiments.measure import measure_step

    kinds = [(dataclasses.replace(c.config, seed=0, beta=1.0), inputs[c.dataset].shape) for c in cells]
    seconds = {}
    for config, shape in dict.fromkeys(kinds):
        seconds[config, shape] = step = measure_step(config, shape)
        print(f"{config.method}: {1000 * step:.3g} ms a step", file=sys.stderr)
    return [seconds[kind] for kind in kinds]


def train_and_analyse_cells(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train all cells and analyse their models, as far as that is not on disk."""
    from echo_tf.experiments.run import analyse_cell, check_analysable

    data = {name: load_dataset(found.given, options.data_dir, options.raw_dir) for name, found in inputs.items()}
    for cell in cells:
        check_analysable(cell, data[cell.dataset], options.split)
    train_cells(options, inputs, cells)
    for number, cell in enumerate(cells, 1):
        print(f"[{number}/{len(cells)}] {cell.folder(options.out)}: analysis")
        analyse_cell(cell, data[cell.dataset], options.out, split=options.split)


def train_and_change_noise(options: argparse.Namespace, inputs: dict[str, Input], cells: list[Cell]) -> None:
    """Train all cells and measure their models under other noise, as far as that is not on disk."""
    from echo_tf.experiments import noise

    noise.check_measurable(cells)
    train_cells(options, inputs, cells)
    for name, found in inputs.items():
        dataset, own = load_dataset(found.given, options.data_dir, options.raw_dir), [c for c in cells if c.dataset == name]
        print(f"{options.out / 'noise' / name}: other noise")
        noise.run(options.out / "noise" / name, own, dataset, options.out, options.split)


def run_theory(options: argparse.Namespace) -> list[Path]:
    """Run the experiment `theory` as far as it is not on disk, and draw its figures. Returns all files."""
    from echo_tf.experiments import theory
    from echo_tf.report.theory_figures import plot_theory

    folder = options.out / "theory"
    if not options.report:
        theory.run(folder, options.seeds)
    tables = [folder / name for name in theory.TABLES]
    _check_there(tables)
    return [*tables, *plot_theory(folder)]


def run_bottleneck(options: argparse.Namespace) -> list[Path]:
    """Run the experiment `bottleneck` as far as it is not on disk, and draw its figure. Returns all files."""
    from echo_tf.report.theory_figures import plot_bottleneck

    (name,) = options.dataset
    if not options.report or isinstance(name, Path):
        dataset = load_dataset(name, options.data_dir, options.raw_dir)
        name = dataset.name + (f"-{dataset.fingerprint[:8]}" if dataset.fingerprint else "")
    table = options.out / "bottleneck" / f"{name}.csv"
    if not options.report:
        from echo_tf.experiments import bottleneck

        bottleneck.run(table, dataset, options.seeds, options.beta)
    _check_there([table])
    return [table, plot_bottleneck(table)]


def _check_there(tables: list[Path]) -> None:
    missing = [table.name for table in tables if not table.exists()]
    if missing:
        found = f"No {', '.join(missing)} in {tables[0].parent}"
        raise FileNotFoundError(f"{found}. Run the same without --report: it makes what is missing.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every new batch size
    try:
        return _run(options)
    except (ConfigError, DataError, CellError, ResultError, TrainingError, OSError) as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("reproduce.py: interrupted. The same command goes on where it stopped.", file=sys.stderr)
        return EXIT_SIGNAL + (progress.signals[-1] if progress.signals else signal.SIGINT)


def _share_machine(options: argparse.Namespace, cells: int) -> None:
    """Settle how many models are trained at once, and set what must be set before TensorFlow and JAX are imported."""
    if options.jobs == "auto":
        options.jobs, threads, told = sharing.choose_jobs(cells)
        options.threads = options.threads or threads
        print(told, file=sys.stderr)
    if options.dry_run and not options.measure:
        return  # nothing is imported
    if options.threads:
        sharing.set_threads(options.threads)
    if options.jobs != 1:
        sharing.share_memory()


def _run(options: argparse.Namespace) -> int:
    missed = False
    if options.experiment in _APPLY:
        from echo_tf.report.publish import publish_files

        logging.getLogger("echo_tf").setLevel(logging.INFO)  # each model that is trained is named
        paths = publish_files((run_theory if options.experiment == "theory" else run_bottleneck)(options), options.publish)
    else:
        if not options.report:
            inputs = read_inputs(options.dataset)
            cells = plan_cells(options, inputs)
            _share_machine(options, len(cells))
            if options.dry_run:
                estimate_cells(options, inputs, cells)
                return EXIT_OK
            train = {"analysis": train_and_analyse_cells, "noise": train_and_change_noise}.get(options.experiment, train_cells)
            train(options, inputs, cells)
        from echo_tf.report.write import write_report

        report = write_report(options.out, publish=options.publish, readme=options.readme)
        print(f"\n{report.text}\n")
        paths, missed = report.paths, options.strict and any(row.verdict == "differs" for row in report.rows)
    print("Look at:", *(f"    {path}" for path in paths), sep="\n")
    return EXIT_MISSED if missed else EXIT_OK


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as for a background job of a shell script
            signal.signal(number, progress.stop)
    sys.exit(main())
