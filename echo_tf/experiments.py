"""Cells of an experiment: one trained and evaluated model each, in a folder of its own."""

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from echo_tf.config import Config, config_from_dict, flatten
from echo_tf.data import Dataset
from echo_tf.evaluation import PASSES, evaluate, rate_by_dimension
from echo_tf.files import write_atomically
from echo_tf.training import CHECKPOINT, read_metrics, save_atomically, train

CELL = "cell.json"
MODEL = "model.keras"
PICTURE_COUNT = 10

_PACKAGES = ("keras", "tensorflow", "jax", "tensorflow-probability", "numpy", "scipy")


class CellError(RuntimeError):
    """A folder that cannot be used for a cell; the message says what to do."""


@dataclass(frozen=True)
class Cell:
    """One model to train and evaluate.

    Attributes:
        dataset: Name of the data set.
        config: The resolved configuration.
        holdout: Number of training images that are held out as a validation split, for data sets that have none; 0 for
            training on all.
    """

    dataset: str
    config: Config
    holdout: int = 0

    def folder(self, out: Path) -> Path:
        config = self.config
        name = f"{config.protocol}-epochs={config.training.epochs}-beta={config.beta:g}-seed={config.seed}"
        if self.holdout:
            name += f"-holdout={self.holdout}"
        return out / self.dataset / config.method / name

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def plan(dataset: str, configs: list[Config], betas: list[float] | None, seeds: int, holdout: int = 0) -> list[Cell]:
    """Cells for configurations, betas (`None`: that of each configuration) and `seeds` seeds from its own on, seed by seed."""
    return [
        Cell(dataset, dataclasses.replace(config, beta=beta, seed=config.seed + i), holdout)
        for i in range(seeds)
        for config in configs
        for beta in (betas or [config.beta])
    ]


def result_path(folder: Path, split: str) -> Path:
    """File with the final evaluation of a cell: `result.json` for the test set, `result_validation.json` for the other."""
    return folder / f"result{_suffix(split)}.json"


def pictures_path(folder: Path, split: str) -> Path:
    """File with images of a split, their reconstructions, and samples."""
    return folder / f"pictures{_suffix(split)}.npz"


def _suffix(split: str) -> str:
    return "" if split == "test" else f"_{split}"


def is_finished(cell: Cell, out: Path, split: str = "test", passes: int = PASSES) -> bool:
    """Whether the result of this very cell, from at least so many passes, is on disk.

    Raises:
        CellError: the folder holds a cell with another configuration, or a damaged result.
    """
    folder = cell.folder(out)
    _check_same_cell(cell, folder)
    path = result_path(folder, split)
    if not path.exists():
        return False
    try:
        return json.loads(path.read_text(encoding="utf-8"))["passes"] >= passes
    except (ValueError, TypeError, KeyError) as error:
        raise CellError(f"{path} is not a result of this program ({error!r}). Delete it; it is then made anew.") from None


def _check_same_cell(cell: Cell, folder: Path) -> None:
    path = folder / CELL
    if not path.exists():
        return
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Cell(**{**values, "config": config_from_dict(values["config"])})
    except (ValueError, TypeError, KeyError) as error:
        raise CellError(f"{path} cannot be read ({error}). Move the folder away or use another --out.") from None
    if found == cell:
        return
    old, new = ({**flatten(c.config), "dataset": c.dataset, "holdout": c.holdout} for c in (found, cell))
    changes = ", ".join(f"{key}: {old[key]} there, {new[key]} asked for" for key in new if old[key] != new[key])
    raise CellError(f"{folder} holds a cell with another configuration ({changes}). Use another --out or move it away.")


def run_cell(
    cell: Cell,
    dataset: Dataset,
    out: Path,
    *,
    split: str = "test",
    passes: int = PASSES,
    validate: bool = False,
    callbacks: list[keras.callbacks.Callback] | None = None,
) -> dict:
    """Train a cell and evaluate it, as far as that is not on disk yet; an interrupted training is resumed.

    Args:
        cell: The cell.
        dataset: Its data set, before any holdout.
        out: Folder of all cells.
        split: Images for the final evaluation: `"test"`, or `"validation"` to decide between variants without reading the
            test set. Both may be asked for, one after the other; the cell is trained once.
        passes: Integer >= 2, draws of `z` for each image.
        validate: Boolean, also measure the validation split after every epoch of the training.
        callbacks: Further Keras callbacks for the training.

    Returns:
        The result, as in `result.json`.

    Raises:
        CellError: the folder holds a cell with another configuration.
        DataError: no such split.
        OSError: `out` cannot be written.
    """
    folder = cell.folder(out)
    if is_finished(cell, out, split, passes):
        return json.loads(result_path(folder, split).read_text(encoding="utf-8"))
    if cell.holdout:
        dataset = dataset.holdout(cell.holdout)
    dataset.raw(split)  # fails now rather than after the training
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CELL, json.dumps(cell.to_dict(), indent=2))

    if (folder / MODEL).exists():
        try:
            model = keras.saving.load_model(folder / MODEL)
        except ValueError as error:
            raise CellError(
                f"{folder / MODEL} cannot be loaded, perhaps because another version wrote it ({error}). Move the folder away "
                "to train anew."
            ) from None
    else:
        model = train(cell.config, dataset, folder, validate=validate, callbacks=callbacks)
        save_atomically(model, folder / MODEL)
        (folder / CHECKPOINT).unlink()

    images = dataset.images(split)
    batch_size = cell.config.training.batch_size
    result = {
        **cell.to_dict(),
        "split": split,
        "source": dataset.source,
        "training_images": len(dataset.raw("train")),
        "evaluated_images": len(images),
        **evaluate(model, images, batch_size=batch_size, passes=passes, seed=cell.config.seed).summary(),
        "passes": passes,
        "training_seconds": round(sum(line["seconds"] for line in read_metrics(folder)), 1),
        "environment": environment(),
    }
    if cell.config.channel.kind == "echo":
        result["rate_floor_nats"] = model.channel.echo.rate_floor(cell.config.network.latent_dim)
        result["rate_by_dimension_nats"] = [round(float(rate), 5) for rate in rate_by_dimension(model, images)]
    # From all over the split, which may be sorted by class.
    _save_pictures(pictures_path(folder, split), model, images[:: max(1, len(images) // PICTURE_COUNT)][:PICTURE_COUNT])
    write_atomically(result_path(folder, split), json.dumps(result, indent=2))  # last: it says that the cell is finished
    return result


def _save_pictures(path: Path, model: keras.Model, images: np.ndarray) -> None:
    def to_uint8(values):
        return np.rint(255.0 * np.asarray(values)[..., 0]).astype(np.uint8)

    np.savez_compressed(
        path,
        originals=to_uint8(images),
        reconstructions=to_uint8(model.reconstruct(images)),
        samples=to_uint8(model.generate(PICTURE_COUNT)),
    )


def environment() -> dict:
    """Versions, backend, device and git commit, for the record of a result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": versions,
        "backend": keras.backend.backend(),
        "devices": [str(device) for device in keras.distribution.list_devices()],
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the checkout that holds this file, `+changes` if its Python or YAML files differ from it."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--", "*.py", "*.yaml") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
