"""What `--experiment` can name, each declared once. Modules that import Keras are imported where they run."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from echo_tf.command import training
from echo_tf.data.load import load_dataset
from echo_tf.experiments import suitable
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.inputs import Input

# From where Echo is near its floor to where more rate hardly lowers the distortion.
RD_BETAS = (0.1, 0.25, 0.5, 1.0, 1.8, 3.0, 5.0, 10.0)

# Grids that `--beta` takes by name. released: those of the authors' sweeps as they are known to us; their code takes one beta a
# run and lists none.
BETA_GRIDS = {
    "released": (0.0, 0.01, 0.025, 0.05, 0.075, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0),
}

# From where both send more than they need to where a VAE sends next to nothing.
FREERIDING_BETAS = (0.1, 0.3, 1.0, 2.0)


@dataclass(frozen=True)
class Experiment:
    """An experiment of the command line.

    Attributes:
        sentence: What it does, for `--help`.
        train: Of an experiment on cells: `(options, inputs, cells)`, which trains them and does what comes behind.
        check: `(inputs, cells)`, which raises `ConfigError` for data sets and models that it can do nothing with. No Keras.
        run: Of any other: from the options to the files that it has made, or with `--report` found.
        own_betas: By method, betas in the place of its own if the command line names none.
        methods, betas, datasets: What is taken if the command line names none.
        heeds: Names of the options that apply; empty if all do.
        table: How the names of its tables and figures in the report begin; its own name if empty.
    """

    sentence: str
    train: Callable = training.train_cells
    check: Callable[[dict[str, Input], list[Cell]], None] = lambda inputs, cells: None
    run: Callable[[argparse.Namespace], list[Path]] | None = None
    methods: tuple[str, ...] = ("echo", "vae")
    betas: tuple[float, ...] = ()
    own_betas: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    datasets: tuple[str, ...] = ("digits",)
    heeds: frozenset[str] = field(default=frozenset())
    table: str = ""


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
    """Run the experiment `bottleneck` as far as it is not on disk, and draw its figures. Returns all files."""
    from echo_tf.report.bottleneck_figures import plot_bottleneck

    (name,) = options.dataset
    if not options.report or isinstance(name, Path):
        dataset = load_dataset(name, options.data_dir, options.raw_dir)
        name = dataset.name + (f"-{dataset.fingerprint[:8]}" if dataset.fingerprint else "")
    length = f"-epochs={options.epochs}" if options.epochs else ""
    points, robustness = (options.out / "bottleneck" / f"{name}{length}{kind}.csv" for kind in ("", "_robustness"))
    if not options.report:
        from echo_tf.experiments import bottleneck

        bottleneck.run(points, robustness, dataset, options.seeds, options.beta, options.epochs or bottleneck.EPOCHS)
    _check_there([points])  # results of earlier versions have no second table
    return [*filter(Path.exists, (points, robustness)), *plot_bottleneck(points, robustness)]


def _check_there(tables: list[Path]) -> None:
    missing = [table.name for table in tables if not table.exists()]
    if missing:
        found = f"No {', '.join(missing)} in {tables[0].parent}"
        raise FileNotFoundError(f"{found}. Run the same without --report: it makes what is missing.")


_OWN = frozenset({"seeds", "out", "report", "publish"})

EXPERIMENTS = {
    "comparison": Experiment("train methods on a data set and compare them with the paper (default)"),
    "rd": Experiment(
        f"the same over betas, by default {', '.join(f'{beta:g}' for beta in RD_BETAS)}: rate-distortion curves",
        methods=("echo", "vae", "iaf"),
        betas=RD_BETAS,
        table="rate_distortion",
    ),
    "analysis": Experiment(
        "comparison, then marginals, pointwise rates and noise of each model",
        train=training.train_and_analyse_cells,
        table="dimensions",
    ),
    "noise": Experiment(
        "comparison, then Echo under other noise, the worth of its dimensions, and how loose the rates of others are",
        train=training.train_and_change_noise,
        check=suitable.check_noise,
        methods=("echo", "echo_matrix"),
    ),
    "likelihood": Experiment(
        "comparison, then log p(x) of each model by annealed importance sampling, which Echo has no other way to",
        train=training.train_and_anneal,
        check=suitable.check_likelihood,
        methods=("echo", "vae", "iaf"),
        datasets=("binary_digits",),
    ),
    "disentanglement": Experiment(
        "comparison on images of known factors (sprites), then how far single dimensions of z stand for single factors",
        train=training.train_and_score,
        check=suitable.check_factors,
        methods=("echo", "echo_mmd", "echo_tc", "vae", "vae_tc"),
        own_betas={"vae": (1.0, 4.0, 10.0)},
        datasets=("sprites",),
    ),
    "freeriding": Experiment(
        "comparison with decoders that can do without z (PixelCNN), then what they take from it (binary_digits)",
        train=training.train_and_listen,
        check=suitable.check_pixels,
        methods=("echo_pixelcnn", "vae_pixelcnn", "echo", "vae"),
        own_betas=dict.fromkeys(("echo_pixelcnn", "vae_pixelcnn"), FREERIDING_BETAS),
        datasets=("binary_digits",),
    ),
    "bottleneck": Experiment(
        "accuracy against rate, also on training images and under attack: labels as what is kept (fashion_mnist)",
        run=run_bottleneck,
        datasets=("fashion_mnist",),
        heeds=_OWN | {"dataset", "beta", "epochs", "data_dir", "raw_dir"},
    ),
    "theory": Experiment(
        "exact rate-distortion functions of synthetic sources, and learned models beside them", run=run_theory, heeds=_OWN
    ),
}
