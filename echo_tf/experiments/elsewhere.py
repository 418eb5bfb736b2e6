"""Trained models on the test images of other data sets: measured once, in a file in the folder of the cell.

Reading needs no Keras; it is imported where a model is evaluated.
"""

from dataclasses import dataclass, field
from pathlib import Path

from echo_tf.data.dataset import Dataset
from echo_tf.errors import ConfigError, ResultError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.inputs import Input
from echo_tf.experiments.records import MISFITS, means_of
from echo_tf.files import locked, read_checked, set_aside, write_checked


@dataclass(frozen=True)
class Elsewhere:
    """Evaluation of a trained model on the test images of a data set that it was not trained on.

    Attributes:
        dataset: Name of that data set.
        fingerprint: `Dataset.fingerprint`.
        source: `Dataset.source`.
        images: Number of images.
        passes: Draws of `z` for each.
        mean: Means over the images in nats, by the names in `QUANTITIES`.
        se: Their standard errors over the draws of the noise.
        importance_bound_nats: As in `Result`.
    """

    dataset: str
    fingerprint: str
    source: str
    images: int
    passes: int
    mean: dict[str, float] = field(default_factory=dict)
    se: dict[str, float] = field(default_factory=dict)
    importance_bound_nats: float | None = None


def elsewhere_path(folder: Path, dataset: str) -> Path:
    """File in the folder of a cell with its evaluation on another data set."""
    return folder / f"on_{dataset}.json"


def elsewhere_paths(folder: Path) -> list[Path]:
    """All such files of a cell, by the name of the data set."""
    return sorted(folder.glob(elsewhere_path(Path(), "*").name))


def read_elsewhere(folder: Path) -> list[Elsewhere]:
    """What they hold. Raises `ResultError` for a damaged one."""
    return [_read(path) for path in elsewhere_paths(folder)]


def _read(path: Path) -> Elsewhere:
    try:
        values = read_checked(path)
        return Elsewhere(**values["evaluated_on"], **means_of(values))
    except MISFITS as error:
        raise ResultError(f"{path} is damaged ({error!r}). Run --evaluate-on again, which makes it anew.") from None


def check_shapes(trained: dict[str, Input], others: dict[str, Input]) -> None:
    """Raise `ConfigError` if a model would be evaluated on examples of another shape, or on nothing but its own data."""
    pairs = [(own, other) for own in trained.values() for other in others.values() if not _is_same(own, other)]
    for own, other in pairs:
        if own.shape != other.shape:
            raise ConfigError(
                f"Models of {own.name} take examples of shape {own.shape}, and those of {other.name} have {other.shape}. With "
                "--evaluate-on name a data set of the same shape."
            )
    if others and not pairs:
        raise ConfigError(f"Models of {', '.join(trained)} are evaluated on that anyway. With --evaluate-on name another.")


def _is_same(own: Input, other: Input) -> bool:
    return (own.name, own.fingerprint) == (other.name, other.fingerprint)


def evaluate_elsewhere(cell: Cell, dataset: Dataset, out: Path, passes: int) -> bool:
    """Evaluate the trained model of a cell on the test images of another data set, unless that is on disk.

    Echo noise comes from the reservoir, that is, from examples of the data that the model was trained on.

    Args:
        cell: A cell that is finished.
        dataset: The other data set; its examples have the shape of those of the cell.
        out: Folder of all cells.
        passes: Integer >= 2, draws of `z` for each image.

    Returns:
        Whether it was measured now.

    Raises:
        CellError: it has no model, or another process works in its folder.
    """
    from echo_tf.experiments.evaluation import evaluate
    from echo_tf.experiments.run import environment, load_model

    folder = cell.folder(out)
    path, wanted = elsewhere_path(folder, dataset.name), (dataset.fingerprint, dataset.source)
    if not folder.is_dir():
        load_model(folder)  # which says that there is none
    with locked(folder):
        try:
            found = _read(path) if path.exists() else None
        except ResultError as error:
            set_aside(path, str(error))
            found = None
        if found and (found.fingerprint, found.source) == wanted and found.passes >= passes:
            return False
        model, images = load_model(folder), dataset.images("test")
        evaluation = evaluate(model, images, batch_size=cell.evaluation_batch, passes=passes, seed=cell.config.seed)
        names = {"dataset": dataset.name, "fingerprint": dataset.fingerprint, "source": dataset.source}
        about = {**names, "images": len(images), "passes": passes}
        write_checked(path, {**cell.to_dict(), "evaluated_on": about, **evaluation.summary(), "environment": environment()})
    return True
