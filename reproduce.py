#!/usr/bin/env python3
"""Train rate-distortion autoencoders, compare them with the paper, and plot them.

python reproduce.py                          Echo and VAE on digits, in minutes
python reproduce.py --dataset binary_mnist   the paper's experiment: 200 epochs
python reproduce.py --dataset all --method all --jobs auto
                                             the paper's whole table
python reproduce.py --dataset mine.npz       your own arrays train and test
python reproduce.py --experiment theory      exact R(D), and learned models
python reproduce.py --report                 report on what is on disk
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

# Before TensorFlow is imported: its start-up messages would drown ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves these kernels off on processors without VNNI instructions, where a training step takes twice as long then.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# TensorFlow would take all memory of a GPU, also where it only prepares data for JAX.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# Channels and losses are in float32, which JAX would multiply in TensorFloat-32 on a GPU. For TensorFlow see `keep_to_float32`.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

from tqdm.contrib.logging import logging_redirect_tqdm

# Modules that import Keras, which takes seconds, are imported where something is trained.
from echo_tf.command import terminal
from echo_tf.command.experiments import EXPERIMENTS
from echo_tf.command.options import parse_arguments
from echo_tf.command.planning import estimate_cells, plan_cells, unfinished_cells
from echo_tf.command.training import evaluate_on_others
from echo_tf.errors import CellError, ConfigError, DataError, ResultError, TrainingError
from echo_tf.experiments import progress, sharing
from echo_tf.experiments.elsewhere import check_shapes
from echo_tf.experiments.inputs import read_inputs

EXIT_OK, EXIT_MISSED, EXIT_USAGE = 0, 1, 2
EXIT_SIGNAL = 128  # plus its number: 130 for Ctrl-C, 143 for SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(arguments, __doc__)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every new batch size
    try:
        with logging_redirect_tqdm():  # a warning does not end up behind the progress line
            status = _run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_SIGNAL + signal.SIGPIPE
    except (ConfigError, DataError, CellError, ResultError, TrainingError, OSError) as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # a terminal that was closed
            print("reproduce.py: interrupted. The same command goes on where it stopped.", file=sys.stderr)
        return EXIT_SIGNAL + (progress.signals[-1] if progress.signals else signal.SIGINT)


def _run(options: argparse.Namespace) -> int:
    experiment = EXPERIMENTS[options.experiment]
    if options.export:
        from echo_tf.experiments.pretrained import export_models

        terminal.tell_files(export_models(options.out, options.export))
        return EXIT_OK
    if experiment.run:
        from echo_tf.report.publish import publish_measured

        logging.getLogger("echo_tf").setLevel(logging.INFO)  # each model that is trained is named
        if not options.report:
            terminal.tell_machine(options)
        terminal.tell_files(publish_measured(experiment.run(options), options.publish))
        return EXIT_OK
    if not options.report:
        inputs, others = read_inputs(options.dataset), read_inputs(options.evaluate_on)
        check_shapes(inputs, others)
        cells = plan_cells(options, inputs)
        experiment.check(inputs, cells)
        _share_machine(options, len(cells))
        if options.dry_run:
            estimate_cells(options, inputs, cells)
            return EXIT_OK
        terminal.tell_machine(options, len(unfinished_cells(options, inputs, cells)))
        experiment.train(options, inputs, cells)
        evaluate_on_others(options, others, cells)
    from echo_tf.report.write import write_report

    report = write_report(options.out, publish=options.publish, readme=options.readme)
    terminal.tell_results(report.rows)
    terminal.tell_files(report.paths, experiment.table or options.experiment)
    missed = options.strict and any(row.verdict == "differs" for row in report.rows)
    return EXIT_MISSED if missed else EXIT_OK


def _share_machine(options: argparse.Namespace, cells: int) -> None:
    """Settle how many models are trained at once, and set what must be set before TensorFlow and JAX are imported."""
    if options.jobs == "auto":
        gpus = sharing.gpus() if options.measure or not options.dry_run else sharing.listed_gpus()
        options.jobs, threads, told = sharing.choose_jobs(cells, len(gpus))
        options.threads = options.threads or threads
        print(told, file=sys.stderr)
    if options.dry_run and not options.measure:
        return  # nothing is imported
    if options.threads:
        sharing.set_threads(options.threads)
    if options.jobs != 1:
        sharing.share_memory()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in a log file, in its order with the errors
    terminal.filter_errors()
    for number in progress.STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as for a background job of a shell script
            signal.signal(number, progress.stop)
    terminal.leave(main())
