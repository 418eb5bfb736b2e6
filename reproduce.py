#!/usr/bin/env python3
"""Train rate-distortion autoencoders, compare them with the paper's tables, and plot them.

python reproduce.py                                     Echo and VAE on digits, a few minutes on two cores
python reproduce.py --dataset binary_mnist              the paper's experiment: 200 epochs
python reproduce.py --experiment theory                 exact rate-distortion functions and learned models beside them
python reproduce.py --report                            tables and figures from what is on disk
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Before TensorFlow is imported: its start-up messages would drown ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves these kernels off on processors without VNNI instructions, where a training step takes twice as long then.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from echo_tf.errors import CellError, ConfigError, DataError, ResultError, TrainingError
from echo_tf.models.config import DATASETS, available_methods, load_config
from echo_tf.report.paper import paper_table

EXIT_OK, EXIT_MISSED, EXIT_USAGE = 0, 1, 2
EXIT_SIGNAL = 128  # plus its number: 130 for Ctrl-C, 143 for SIGTERM

# From where Echo is near its floor to where more rate hardly lowers the distortion.
RD_BETAS = (0.1, 0.25, 0.5, 1.0, 1.8, 3.0, 5.0, 10.0)
# Images held out for --split validation or --validate where a data set has no validation split of its own.
HOLDOUT = {"digits": 237, "omniglot": 1_345, "fashion_mnist": 10_000}


# Signals that ask this program to stop. Keras drops exceptions that fall into its conversion of metrics, so they are noted too.
_signals: list[int] = []


def _stop(number: int, frame) -> None:
    _signals.append(number)
    raise KeyboardInterrupt


# Experiments of their own, and the options that they heed.
_APPLY = {
    "bottleneck": {"experiment", "dataset", "beta", "seeds", "data_dir", "raw_dir", "out", "report", "publish"},
    "theory": {"experiment", "seeds", "out", "report", "publish"},
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--experiment",
        choices=["comparison", "rd", "analysis", "bottleneck", "theory"],
        default="comparison",
        help="comparison (default): train methods on a data set; rd: the same over a grid of betas, for rate-distortion "
        "curves; analysis: comparison, then marginals, pointwise rates and noise of each model; "
        "bottleneck: labels instead of images as what is kept (of the options --dataset, --beta, --seeds, --data-dir, "
        "--raw-dir, --out, --report, --publish apply); theory: synthetic sources (--seeds, --out, --report, --publish)",
    )
    add("--dataset", choices=DATASETS, help="default: digits; for bottleneck fashion_mnist")
    add(
        "--method",
        nargs="+",
        metavar="NAME",
        help="names in configs/, .yaml files, or all (of the paper) (default: echo vae; for rd echo vae iaf)",
    )
    betas = ", ".join(f"{beta:g}" for beta in RD_BETAS)
    add("--beta", nargs="+", type=float, help=f"weights of the rate (default: that of the method, 1; for rd {betas})")
    add("--warm-start", action="store_true", help="start each model of several betas from that of the next smaller one")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--target-rate", type=float, metavar="NATS", help="let training find the beta that gives this rate")
    target.add_argument("--target-distortion", type=float, metavar="NATS", help="the same for the distortion")
    add("--seeds", type=int, default=1, metavar="N", help="train with N seeds, from that of the method, 0, on (default: 1)")
    add("--epochs", type=int, metavar="N", help="default: that of the method, 200; 30 on digits")
    add(
        "--protocol",
        choices=["paper", "released"],
        help="paper (default): what it says, but for Echo's parametrisation; released: what its code does otherwise",
    )
    add("--dtype-policy", choices=["float32", "mixed_bfloat16"], help="precision of the networks (default: float32)")
    add("--split", choices=["test", "validation"], default="test", help="images for the final evaluation (default: test)")
    add(
        "--rate-samples",
        type=int,
        default=5,
        metavar="N",
        help="draws of z for each image in the final evaluation, and terms of the importance-sampled bound (default: 5)",
    )
    add("--validate", action="store_true", help="also measure a validation split after every epoch")
    add("--data-dir", type=Path, help="folder with NAME.npz (default: $ECHO_TF_DATA, else ~/.cache/echo_tf)")
    add("--raw-dir", type=Path, help="folder with the published raw files, used instead of a download")
    add("--out", type=Path, default=Path("runs"), help="folder of all results (default: runs)")
    add("--jobs", type=int, metavar="N", help="train so many models at once (default: 1, in this process; on Ray all)")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="threads of a model for each operation on the CPU, on Ray also the processors that it asks for (default: all of "
        "this machine; on Ray 1 processor). Another number sums in another order, which changes results in their last digits",
    )
    add("--replicas", type=int, default=1, metavar="N", help="split each batch of a model among N devices (default: 1)")
    add("--executor", choices=["local", "ray"], default="local", help="where models are trained: processes here, or Ray")
    add("--ray-address", metavar="ADDRESS", help="of the Ray cluster; auto: the one on this machine (default: a new one)")
    add("--gpus", type=float, metavar="X", help="GPUs that a model asks of Ray, also a share of one (default: 0)")
    add("--tensorboard", action="store_true", help="write event files into every cell's folder (needs tensorboard)")
    add("--dry-run", action="store_true", help="list the cells and stop")
    add("--report", action="store_true", help="make tables and figures from the results in --out, train nothing")
    add("--publish", type=Path, metavar="DIR", help="copy tables and figures to DIR, the results they come from to DIR/cells")
    add("--readme", type=Path, metavar="FILE", help="write the results on the test set into the results section of FILE")
    add("--strict", action="store_true", help="exit with 1 if a compared cell misses the paper's value")
    options = parser.parse_args(arguments)
    if options.experiment in _APPLY:
        for name, value in vars(options).items():
            if value != parser.get_default(name) and name not in _APPLY[options.experiment]:
                parser.error(f"argument --{name.replace('_', '-')}: not with --experiment {options.experiment}")
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        parser.error("argument --tensorboard: TensorBoard is not installed. Run: pip install '.[tensorboard]'")
    if options.dry_run and options.report:
        parser.error("argument --dry-run: not with --report, which trains nothing")
    if options.seeds < 1:
        parser.error(f"argument --seeds: expected at least 1, received {options.seeds}")
    options.dataset = options.dataset or ("fashion_mnist" if options.experiment == "bottleneck" else "digits")
    for name in ("jobs", "threads", "replicas"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"argument --{name}: expected at least 1, received {getattr(options, name)}")
    for name in ("ray_address", "gpus"):
        if getattr(options, name) is not None and options.executor != "ray":
            parser.error(f"argument --{name.replace('_', '-')}: only with --executor ray")
    options.gpus = options.gpus or 0.0
    if not 0 <= options.gpus < float("inf"):
        parser.error(f"argument --gpus: expected 0 or more, received {options.gpus:g}")
    if options.executor == "local":
        options.jobs = options.jobs or 1
    constrained = options.target_rate is not None or options.target_distortion is not None
    if options.experiment == "rd":
        if constrained:
            parser.error("argument --experiment: rd has betas of its own; leave out --target-rate and --target-distortion")
        options.beta = options.beta or list(RD_BETAS)
        options.method = options.method or ["echo", "vae", "iaf"]
    options.method = options.method or ["echo", "vae"]
    if constrained and len(options.beta or []) > 1:
        parser.error("argument --beta: with a target it is where training starts from, so only one is possible")
    if options.warm_start and len(options.beta or []) < 2:
        parser.error("argument --warm-start: needs several --beta, or --experiment rd")
    if options.rate_samples < 2:
        parser.error(f"argument --rate-samples: expected at least 2, for a standard error, received {options.rate_samples}")
    return options


def plan_cells(options: argparse.Namespace) -> list:
    """The cells that the options ask for."""
    training = {"epochs": options.epochs, "dtype_policy": options.dtype_policy}
    overrides = {"training": {key: value for key, value in training.items() if value is not None}}
    if options.protocol is not None:
        overrides["protocol"] = options.protocol
    for quantity in ("rate", "distortion"):
        target = getattr(options, f"target_{quantity}")
        if target is not None:
            overrides["constraint"] = {"quantity": quantity, "target_nats": target}
    methods = options.method
    if methods == ["all"]:
        methods = [method for method in available_methods() if method in paper_table()["binary_mnist"]]

    configs = [load_config(method, dataset=options.dataset, **overrides) for method in methods]
    if options.replicas > 1:
        configs = [_with_replicas(config, options.replicas) for config in configs]
    # Imports Keras, which takes seconds: configurations are checked by now.
    from echo_tf.experiments.cells import plan

    holds_out = options.validate or options.split == "validation"
    holdout = HOLDOUT.get(options.dataset, 0) if holds_out else 0
    return plan(options.dataset, configs, options.beta, options.seeds, holdout, options.warm_start)


def _with_replicas(config, replicas: int):
    """The configuration for so many devices. A share of a batch has fewer echoes: `d_max`, and with it `r`, follow it."""
    channel = config.channel
    others = config.training.batch_size // replicas - 1
    if channel.kind == "echo" and not channel.replace and 1 <= others < channel.d_max:
        logging.warning(
            "%s: each of %d replicas has %d examples, so that d_max is %d.", config.method, replicas, others + 1, others
        )
        channel = dataclasses.replace(channel, d_max=others)
    return dataclasses.replace(config, channel=channel, training=dataclasses.replace(config.training, replicas=replicas))


def train_cells(options: argparse.Namespace, cells: list) -> None:
    """Train and evaluate all cells that are not finished."""
    from echo_tf.data.load import load_dataset
    from echo_tf.experiments.cells import is_finished
    from echo_tf.experiments.executors import Task

    tasks = []
    for cell in cells:
        folder = cell.folder(options.out)
        if is_finished(cell, options.out, options.split, options.rate_samples):
            print(f"{folder}: finished before")
            continue
        task = Task(
            cell=cell.to_dict(),
            folder=folder,
            out=options.out,
            data_dir=options.data_dir,
            raw_dir=options.raw_dir,
            split=options.split,
            passes=options.rate_samples,
            validate=options.validate,
            tensorboard=options.tensorboard,
            after=cell.predecessor and cell.predecessor.folder(options.out),
        )
        tasks.append(task)
    if not tasks:
        return
    load_dataset(options.dataset, options.data_dir, options.raw_dir)  # downloads it once, and fails at once
    here = options.executor == "local" and options.jobs == 1
    failures = []
    for outcome in (_run_here if here else _run_elsewhere)(options, tasks):
        if isinstance(outcome, Exception):
            failures.append(str(outcome))
            print("    failed")
            continue
        means = ", ".join(f"{name} {outcome[key]['mean']:.2f}" for name, key in _QUANTITIES)
        print(f"    {options.split}: {means} nats, trained in {outcome['training_seconds']:.0f} s")
    if failures:
        count = [f"{len(failures)} of {len(tasks)} models failed."] if len(tasks) > 1 else []
        raise CellError("\n".join([*count, *failures]))


def _run_here(options: argparse.Namespace, tasks: list) -> Iterator[dict | Exception]:
    """Run tasks one after the other in this process and yield the result or error of each."""
    from echo_tf.experiments.executors import EXPECTED_ERRORS, run_task

    for number, task in enumerate(tasks, 1):
        print(f"[{number}/{len(tasks)}] {task.folder}")
        with contextlib.ExitStack() as stack:
            try:
                outcome = run_task(task, (_progress(stack),))
            except EXPECTED_ERRORS as error:
                outcome = error
        yield outcome


def _run_elsewhere(options: argparse.Namespace, tasks: list) -> Iterator[dict | Exception]:
    """Run tasks in other processes, and yield the result or error of each as it ends; one bar for all of them."""
    from tqdm import tqdm

    from echo_tf.experiments.executors import LocalProcesses, RayCluster, run_all
    from echo_tf.experiments.training import read_metrics

    if options.executor == "ray":
        executor = RayCluster(options.ray_address, cpus=options.threads or 1, gpus=options.gpus)
    else:
        executor = LocalProcesses()
    epochs = {task.folder: task.cell["config"]["training"]["epochs"] for task in tasks}
    done = {task.folder: len(read_metrics(task.folder)) for task in tasks}
    # Epochs end seldom and then several at once: the speed is the mean since the start.
    with _bar(total=sum(epochs.values()), initial=sum(done.values()), unit="epoch", smoothing=0) as bar:

        def watch(running):
            done.update({task.folder: len(read_metrics(task.folder)) for task in running})
            names = (f"{_short_name(task)} {done[task.folder]}/{epochs[task.folder]}" for task in running)
            bar.set_postfix_str(", ".join(names), refresh=False)
            bar.update(sum(done.values()) - bar.n)
            bar.initial = min(bar.initial, bar.n)  # a model that starts anew has fewer epochs than before

        for number, (task, outcome) in enumerate(run_all(tasks, executor, options.jobs or len(tasks), watch), 1):
            done[task.folder] = epochs[task.folder]
            with tqdm.external_write_mode():
                print(f"[{number}/{len(tasks)}] {task.folder}")
                yield outcome


def _short_name(task) -> str:
    config = task.cell["config"]
    return f"{config['method']} beta={config['beta']:g} seed={config['seed']}"


def _bar(**options):
    """Progress bar with the remaining time; drawn every second on a terminal, and every minute in a file."""
    from tqdm import tqdm

    return tqdm(mininterval=1.0 if sys.stderr.isatty() else 60.0, miniters=0, leave=False, **options)


_QUANTITIES = (("rate", "rate_nats"), ("distortion", "distortion_nats"), ("-ELBO", "neg_elbo_nats"))


def _progress(stack: contextlib.ExitStack):
    """Callback with a progress bar for one training; `stack` clears it, however the training ends."""
    import keras

    class Progress(keras.callbacks.Callback):
        """One bar with the remaining time over all epochs of a cell; it leaves the metrics on the device."""

        async_safe = True

        def on_train_begin(self, logs=None):
            steps = self.params["steps"]
            finished = int(self.model.optimizer.iterations.numpy()) if self.model.optimizer.built else 0
            total = steps * self.params["epochs"]
            self.bar = stack.enter_context(_bar(total=total, initial=finished, unit="step"))

        def on_train_batch_begin(self, batch, logs=None):
            if _signals:
                raise KeyboardInterrupt

        def on_train_batch_end(self, batch, logs=None):
            self.bar.update()

        def on_epoch_end(self, epoch, logs=None):
            values = {"epoch": epoch + 1, "rate": f"{logs['rate']:.1f}", "distortion": f"{logs['distortion']:.1f}"}
            self.bar.set_postfix(values, refresh=False)

        def on_train_end(self, logs=None):
            self.bar.close()

    return Progress()


def check_cells(options: argparse.Namespace, cells: list) -> None:
    """Find out before the training what cannot be analysed after it."""
    from echo_tf.data.load import load_dataset
    from echo_tf.experiments.cells import check_analysable

    dataset = load_dataset(options.dataset, options.data_dir, options.raw_dir)
    for cell in cells:
        check_analysable(cell, dataset, options.split)


def analyse_cells(options: argparse.Namespace, cells: list) -> None:
    """Analyse the trained models of all cells, as far as that is not on disk."""
    from echo_tf.data.load import load_dataset
    from echo_tf.experiments.cells import analyse_cell

    dataset = load_dataset(options.dataset, options.data_dir, options.raw_dir)
    for number, cell in enumerate(cells, 1):
        print(f"[{number}/{len(cells)}] {cell.folder(options.out)}: analysis")
        analyse_cell(cell, dataset, options.out, split=options.split)


def report(options: argparse.Namespace) -> list:
    """Print the comparison, write tables, figures and the page with all of them. Returns the rows of the table."""
    from echo_tf.report import comparison, plots
    from echo_tf.report import report as reports
    from echo_tf.report.page import write_page

    results = comparison.read_results(options.out)
    if not results:
        raise FileNotFoundError(f"No results in {options.out}. Train first, or point --out at a folder with results.")
    rows = comparison.compare(results)
    curves = comparison.curves(rows)
    analyses = comparison.read_analyses(results)
    main_table = reports.comparison_table(rows)
    tables = [
        main_table,
        reports.curve_table(curves),
        reports.noise_table(comparison.read_noises(results)),
        reports.replacement_table(rows),
        reports.released_table(rows),
        reports.ranking_table(rows),
        reports.progress_table(rows),
    ]
    tables = [table for table in tables if table is not None]
    folder = options.out / "report"
    figures = plots.plot_all(results, rows, curves, analyses, folder)
    paths = [path for table in tables for path in table.write(folder)] + figures
    paths.append(write_page(tables, figures, folder / "index.html"))
    if options.publish:
        comparison.copy_results(results, options.publish / "cells")
    if options.readme:
        reports.write_section(rows, options.readme)
    print("\n" + main_table.text() + "\n")
    publish_and_name(paths, options.publish)
    return rows


def theory(options: argparse.Namespace) -> None:
    """Run the experiment `theory` as far as it is not on disk, draw its figures, and name all files."""
    from echo_tf.experiments import theory as theory_experiment
    from echo_tf.report import theory_plots

    folder = options.out / "theory"
    if not options.report:
        logging.getLogger("echo_tf").setLevel(logging.INFO)  # it says what it is at
        theory_experiment.run(folder, options.seeds)
    tables = [folder / name for name in theory_experiment.TABLES]
    missing = [table.name for table in tables if not table.exists()]
    if missing:
        raise FileNotFoundError(
            f"No {', '.join(missing)} in {folder}. Run --experiment theory without --report: it makes what is missing."
        )
    publish_and_name([*tables, *theory_plots.plot_theory(folder)], options.publish)


def bottleneck(options: argparse.Namespace) -> None:
    """Run the experiment `bottleneck` as far as it is not on disk, draw its figure, and name its files."""
    from echo_tf.data.load import load_dataset
    from echo_tf.experiments import bottleneck as experiment
    from echo_tf.report import theory_plots

    table = options.out / "bottleneck" / f"{options.dataset}.csv"
    if not options.report:
        logging.getLogger("echo_tf").setLevel(logging.INFO)
        dataset = load_dataset(options.dataset, options.data_dir, options.raw_dir)
        experiment.run(table.parent, dataset, options.seeds, options.beta)
    if not table.exists():
        raise FileNotFoundError(f"No {table}. Run --experiment bottleneck without --report: it makes what is missing.")
    publish_and_name([table, theory_plots.plot_bottleneck(table)], options.publish)


def publish_and_name(paths: list[Path], publish: Path | None) -> None:
    """Copy files to the folder `publish`, if one is given, and print where to look."""
    if publish:
        publish.mkdir(parents=True, exist_ok=True)
        copies = [publish / path.name for path in paths]
        for path, copy in zip(paths, copies, strict=True):
            if copy.resolve() != path.resolve():
                shutil.copy(path, copy)
        paths = copies
    print("Look at:")
    for path in paths:
        print(f"    {path}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(arguments)
    if options.threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(options.threads)  # read when TensorFlow starts
    if options.jobs != 1:  # models share the memory of a GPU, of which the first would take all
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every new batch size
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("reproduce.py: interrupted. The same command goes on where it stopped.", file=sys.stderr)
        return EXIT_SIGNAL + (_signals[-1] if _signals else signal.SIGINT)


def _run(options: argparse.Namespace) -> int:
    try:
        if options.experiment in ("bottleneck", "theory"):
            (theory if options.experiment == "theory" else bottleneck)(options)
            return EXIT_OK
        if not options.report:
            cells = plan_cells(options)
            if options.dry_run:
                for cell in cells:
                    print(cell.folder(options.out))
                return EXIT_OK
            if options.experiment == "analysis":
                check_cells(options, cells)
            train_cells(options, cells)
            if options.experiment == "analysis":
                analyse_cells(options, cells)
        rows = report(options)
    except (ConfigError, DataError, CellError, ResultError, TrainingError, OSError) as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_MISSED if options.strict and any(row.misses for row in rows) else EXIT_OK


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as for a background job of a shell script
            signal.signal(number, _stop)
    sys.exit(main())
