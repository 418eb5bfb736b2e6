"""In which order cells are trained: what matters most first, or what takes longest first. Needs no Keras."""

from collections.abc import Mapping
from pathlib import Path

from echo_tf.experiments.cells import Cell
from echo_tf.experiments.records import CHECKPOINT, MODEL, read_metrics
from echo_tf.models.config import Config

# The paper's data sets and the methods that say most about its claims, the most telling first.
DATASETS = ("binary_mnist", "omniglot", "fashion_mnist")
METHODS = ("echo", "echo_matrix", "vae_maf", "iaf", "echo_maf", "vae", "vae_full")

# What a part adds to the time of a step of the VAE, as a share of it (results/benchmarks, mixed bfloat16).
_MARGINALS = {"own": 0.0, "maf": 0.15, "vamp": 0.8}
_IAF = 0.2


def most_important_first(cells: list[Cell]) -> list[Cell]:
    """Seed by seed, in each the data sets in the order given, in each `METHODS` before the others, which keep their order."""
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    methods = list(dict.fromkeys([*METHODS, *(cell.config.method for cell in cells)]))
    return sorted(cells, key=lambda cell: (cell.config.seed, datasets.index(cell.dataset), methods.index(cell.config.method)))


def longest_first(cells: list[Cell], images: Mapping[str, int], out: Path) -> list[Cell]:
    """Cells with the most work left first: with several at once, a long one that came last would run alone at the end.

    Args:
        cells: The cells.
        images: Number of training images by data set, before any holdout.
        out: Folder of all cells.
    """
    return sorted(cells, key=lambda cell: -epochs_left(cell, out) * epoch_steps(cell, images) * weight(cell.config))


def epochs_left(cell: Cell, out: Path) -> int:
    """Epochs that a cell still has to train, by what is on disk."""
    folder = cell.folder(out)
    if (folder / MODEL).exists():  # only its evaluation is missing
        return 0
    done = len(read_metrics(folder)) if (folder / CHECKPOINT).exists() else 0
    return max(0, cell.config.training.epochs - done)


def epoch_steps(cell: Cell, images: Mapping[str, int]) -> int:
    """Training steps of an epoch."""
    return (images[cell.dataset] - cell.holdout) // cell.config.training.batch_size


def weight(config: Config) -> float:
    """About how long a step takes, that of a VAE being 1: flows and the VampPrior are dearer."""
    return 1.0 + _MARGINALS[config.prior.kind] + (_IAF if config.channel.kind == "iaf" else 0.0)
