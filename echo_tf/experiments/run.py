"""Train, evaluate and analyse the cells of an experiment, as far as that is not on disk."""

import contextlib
import importlib.metadata
import json
import logging
import math
import platform
import subprocess
from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.dataset import Dataset
from echo_tf.errors import CellError, ConfigError, DataError, TrainingError
from echo_tf.experiments import records
from echo_tf.experiments.analysis import analyse, rate_by_dimension
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.encodings import as_uint8, image_arrays, latent_map
from echo_tf.experiments.evaluation import PASSES, evaluate
from echo_tf.experiments.training import Callbacks, load_saved, save_atomically, train
from echo_tf.files import locked, read_json, replacing, set_aside, write_atomically, write_checked, zip_damage

logger = logging.getLogger(__name__)

PICTURE_COUNT = 10

_PACKAGES = ("keras", "tensorflow", "jax", "tensorflow-probability", "numpy", "scipy")


def run_cell(
    cell: Cell,
    dataset: Dataset,
    out: Path,
    *,
    split: str = "test",
    passes: int = PASSES,
    echoes: str = "reservoir",
    validate: bool = False,
    callbacks: Callbacks = (),
) -> dict:
    """Train a cell and evaluate it, as far as that is not on disk yet; an interrupted training is resumed.

    A file found damaged is set aside under another name, with a warning, and what it held is made anew: a result or pictures
    from the model, a model or checkpoint by training from the beginning.

    Args:
        cell: The cell.
        dataset: Its data set, before any holdout.
        out: Folder of all cells.
        split: Images for the final evaluation: `"test"`, or `"validation"` to decide between variants without reading the
            test set. Both may be asked for, one after the other; the cell is trained once.
        passes: Integer >= 2, draws of `z` for each image.
        echoes: `"reservoir"` or `"batch"`, see `evaluate`.
        validate: Boolean, also measure the validation split after every epoch of the training.
        callbacks: Further Keras callbacks for the training.

    Returns:
        The result, as in `result.json`.

    Raises:
        CellError: the folder holds a cell with another configuration, or a result whose model is gone, or another process works
            in it.
        ConfigError: fewer than two passes.
        DataError: no such split, or other data than those of the cell.
        TrainingError: see `train`. The reason is in `failed.json` then; the same call resumes from the checkpoint.
        OSError: `out` cannot be written.
    """
    if passes < 2:
        raise ConfigError(f"Invalid value for `passes`. Expected at least 2, for a standard error. Received: {passes}")
    folder = cell.folder(out)
    path = records.result_path(folder, split)
    if records.is_finished(cell, out, split, passes, echoes):
        return read_json(path)
    dataset = _data_of(cell, dataset)
    images = dataset.images(split)  # a split that is missing is found before the training
    with locked(folder):
        if records.is_finished(cell, out, split, passes, echoes):  # another process was faster
            return read_json(path)
        records.check_model(folder)
        for damaged, damage in records.damages(folder, split).items():
            set_aside(damaged, damage)
        write_atomically(folder / records.CELL, json.dumps(cell.to_dict(), indent=2))
        model = _trained_model(cell, dataset, folder, validate, callbacks)
        result = {
            **cell.to_dict(),
            "split": split,
            "source": dataset.source,
            "training_images": len(dataset.raw("train")),
            "example_size": math.prod(dataset.shape),
            **_evaluated(cell, model, images, passes, echoes),
            "training_seconds": _training_seconds(cell, folder),
            "environment": environment(),
        }
        _save_pictures(records.pictures_path(folder, split), model, images)
        return write_checked(path, result)  # last: it says that the cell is finished


def _data_of(cell: Cell, dataset: Dataset) -> Dataset:
    """The data on which a cell is trained and evaluated."""
    if cell.data != dataset.fingerprint:
        raise DataError(f"The arrays of {cell.dataset} have changed since the cell was planned. Run the command again.")
    return held_out(cell, dataset)


def held_out(cell: Cell, dataset: Dataset) -> Dataset:
    """A data set with the validation split that a cell takes from its training images, if any."""
    return dataset.holdout(cell.holdout) if cell.holdout else dataset


def _trained_model(cell: Cell, dataset: Dataset, folder: Path, validate: bool, callbacks: Callbacks) -> keras.Model:
    model = load_saved(folder / records.MODEL)
    if model is None:
        try:
            model = train(cell.config, dataset, folder, validate=validate, callbacks=callbacks)
        except TrainingError as error:
            write_atomically(folder / records.FAILED, json.dumps({"reason": str(error)}, indent=2))
            raise
        save_atomically(model, folder / records.MODEL)
    for path in (folder / records.CHECKPOINT, folder / records.FAILED):
        path.unlink(missing_ok=True)
    return model


def _training_seconds(cell: Cell, folder: Path) -> float:
    """Time of all epochs in the metrics; a warning counts those that are missing, of a file that was deleted or cut."""
    lines, epochs = records.read_metrics(folder), cell.config.training.epochs
    if len(lines) < epochs:
        logger.warning(
            "%s has %d of %d epochs: curves of the training and its time lack the others. To have them, move the folder away "
            "and train anew.",
            *(folder / records.METRICS, len(lines), epochs),
        )
    return round(sum(line["seconds"] for line in lines), 1)


def _evaluated(cell: Cell, model: keras.Model, images: np.ndarray, passes: int, echoes: str) -> dict:
    """What the evaluation of a trained model adds to its result."""
    options = {"batch_size": cell.evaluation_batch, "passes": passes, "seed": cell.config.seed}
    evaluation = evaluate(model, images, echoes=echoes, **options)
    result = {"evaluated_images": len(images), **evaluation.summary(), "passes": passes}
    if cell.config.constraint.quantity != "none":
        result["final_beta"] = float(ops.convert_to_numpy(model.beta))
    if model.channel.rate_floor:
        rates = rate_by_dimension(model.channel, model.features(images))
        result["echoes"], result["rate_floor_nats"] = echoes, model.channel.rate_floor
        result["rate_by_dimension_nats"] = [round(float(rate), 5) for rate in rates]
    return result


def _save_pictures(path: Path, model: keras.Model, images: np.ndarray) -> None:
    shown = images[:: max(1, len(images) // PICTURE_COUNT)][:PICTURE_COUNT]  # from all over: a split may be sorted by class
    pictures = {"originals": shown, "reconstructions": model.reconstruct(shown), "samples": model.generate(PICTURE_COUNT)}
    for name, values in pictures.items():
        pictures[name] = as_uint8(values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **pictures)


def check_analysable(cell: Cell, dataset: Dataset, split: str = "test") -> None:
    """Raise `CellError` if a split has too few images for the noise of an Echo model, which is made from a batch of them."""
    images = len(_data_of(cell, dataset).raw(split))
    if cell.config.channel.is_echo and images < cell.evaluation_batch:
        raise CellError(
            f"{cell.config.method}: its noise is made from {cell.evaluation_batch:,} images, and the {split} split of "
            f"{cell.dataset} has {images:,}. Analyse it on a larger data set, or a method of smaller batches."
        )


def analyse_cell(cell: Cell, dataset: Dataset, out: Path, *, split: str = "test", arrays: bool = False) -> records.Analysis:
    """Analyse the trained model of a cell, as far as that is not on disk already, undamaged.

    Writes the analysis, a map of two dimensions of `z` if there are two, and for Echo what the analysis says of the noise as
    text besides (`noise_path`).

    Args:
        cell: A cell that `run_cell` has finished.
        dataset: Its data set, before any holdout.
        out: Folder of all cells.
        split: Images to look at.
        arrays: Boolean, also write what the model makes of every image (`arrays_path`, `image_arrays`).

    Raises:
        CellError: it has no model, the analysis on disk is of another version, another process works in the folder, or as
            `check_analysable`.
        TrainingError: its model cannot be loaded.
        OSError: `out` cannot be written.
    """
    folder = cell.folder(out)
    path = records.analysis_path(folder, split)
    check_analysable(cell, dataset, split)
    if not folder.is_dir():
        raise _not_trained(folder)
    with locked(folder):  # which a second process would take before it deletes temporary files, ours too
        paths = [path, *([records.map_path(folder, split)] if cell.config.network.latent_dim > 1 else [])]
        _make_missing(cell, dataset, split, folder, [*paths, *([records.arrays_path(folder, split)] if arrays else [])])
        analysis = records.Analysis.load(path)
        if len(analysis.total_correlation_nats):
            mean, se = (float(number) for number in analysis.total_correlation_nats)
            noise = {"total_correlation_nats": {"mean": mean, "se": se}, "draws": int(analysis.noise_draws)}
            write_checked(records.noise_path(folder, split), noise)
    return analysis


def _make_missing(cell: Cell, dataset: Dataset, split: str, folder: Path, paths: list[Path]) -> None:
    """Make those of the files of an analysis that are missing or damaged."""
    for path in paths:
        if path.exists() and (damage := zip_damage(path)):
            set_aside(path, damage)
    if not (missing := [path for path in paths if not path.exists()]):
        return
    model, data = load_model(folder), _data_of(cell, dataset)
    images, labels = data.images(split), data.labels.get(split)
    for path in missing:
        with replacing(path) as temporary:
            if path == records.analysis_path(folder, split):
                analyse(model, images, batch_size=cell.evaluation_batch, seed=cell.config.seed).save(temporary)
            elif path == records.map_path(folder, split):
                latent_map(model, images, labels).save(temporary)
            else:
                np.savez_compressed(temporary, **image_arrays(model, images, labels))  # type: ignore[arg-type]


def load_model(folder: Path) -> keras.Model:
    """The trained model of a cell.

    Raises:
        CellError: there is none, or a damaged one.
        TrainingError: it cannot be loaded.
    """
    model = load_saved(folder / records.MODEL)
    if model is None:
        raise _not_trained(folder)
    return model


def _not_trained(folder: Path) -> CellError:
    return CellError(
        f"{folder} is not trained: it has no {records.MODEL}. Train that cell first; if it is finished, move it away."
    )


def environment() -> dict:
    """Versions, backend, device and git commit, for the record of a result."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "backend": keras.backend.backend(),
        "devices": [str(device) for device in keras.distribution.list_devices()],
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the checkout that holds this file, `+changes` if what makes a result differs from it."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        # A script that somebody keeps beside the package changes no result.
        changes = git("status", "--porcelain", "--", "echo_tf", "configs", "reproduce.py")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
