"""Trained models as small files: written from finished cells, read by name, without the optimizer and in half precision."""

import dataclasses
import difflib
import hashlib
import io
import json
import logging
import os
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.dataset import KNOWN
from echo_tf.errors import CellError, ConfigError, ResultError
from echo_tf.experiments import records
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.run import load_model
from echo_tf.files import NAME, replacing, write_atomically
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.build import build_model
from echo_tf.models.config import available_methods

logger = logging.getLogger(__name__)

CHECKSUMS = "SHA256SUMS"  # as `sha256sum --check` reads it
# Smaller arrays (biases, moments, beta) stay as they are: together they are next to nothing, and their error counts.
FEWEST_HALVED = 1024


def load_pretrained(method: str, dataset: str, directory: str | Path | None = None) -> RateDistortionModel:
    """A trained model by the names of its method and data set.

    The file is `METHOD_DATASET.npz` with the weights in half precision, rounded to 3 digits, and what inference needs besides:
    reservoir and moments of an Echo channel, beta. It is checked against the list `SHA256SUMS` beside it. With the
    same noise the rounding changed the rate of Echo on digits (3 epochs) by 3e-5 nats, its distortion by 0.002.

    Args:
        method: Name of the method, as `"echo"`.
        dataset: Name of the data set, as `"binary_mnist"`.
        directory: Folder of the files. `None`: `$ECHO_TF_PRETRAINED`, else `~/.cache/echo_tf/pretrained`.

    Returns:
        The compiled model, in float32. Its optimizer starts anew.

    Raises:
        ConfigError: a name of neither a known method or data set nor a file. The message has the nearest name.
        ResultError: no such file (none are published), a damaged one, or one of another version. The message says how to
            make it.

    Example:
        >>> load_pretrained("ecko", "digits")
        Traceback (most recent call last):
        echo_tf.errors.ConfigError: No method is called 'ecko'. Nearest: echo.
    """
    folder = _folder(directory)
    path = folder / _file_name(method, dataset)
    if not path.is_file():
        _check_name("method", method, available_methods())
        _check_name("data set", dataset, list(KNOWN))
        raise ResultError(
            f"There is no {path}, and no such files are published. Make it: {_how(method, dataset, folder)}. If you have it in "
            "another folder, pass that as directory, or set ECHO_TF_PRETRAINED."
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _read_checksums(folder).get(path.name):
        raise ResultError(
            f"{path} has not the checksum in {folder / CHECKSUMS}: one of them is damaged, missing or from elsewhere. "
            f"Make both anew: {_how(method, dataset, folder)}"
        )
    try:
        return _read_model(data)
    except (*records.MISFITS, zipfile.BadZipFile) as error:
        raise ResultError(
            f"{path} was written by another version of echo_tf ({error}). Make it anew: {_how(method, dataset, folder)}"
        ) from None


def export_models(out: Path, directory: Path) -> list[Path]:
    """Write the trained models of all finished cells for `load_pretrained`, one for each method and data set.

    Of several cells it is that on all training data, without target, of the paper's protocol, with most epochs, beta nearest 1,
    and the least seed.

    Args:
        out: Folder of all cells.
        directory: Folder of the files; made if it is not there. Others in it stay as they are.

    Returns:
        The files, the list of checksums last.

    Raises:
        CellError: no finished cell, or none with a model.
        TrainingError: a model cannot be loaded.
        OSError: `directory` cannot be written.
    """
    chosen = _best_cells(out)
    if not chosen:
        raise CellError(
            f"{out} has no finished cell with its model, so that there is nothing to export. Train first, or see to --out."
        )
    directory.mkdir(parents=True, exist_ok=True)
    sums, paths = _read_checksums(directory), []
    for cell in chosen:
        path = directory / _file_name(cell.config.method, cell.dataset)
        logger.info("%s: from %s", path, cell.folder(out))
        contents = _as_bytes(load_model(cell.folder(out)), cell)
        with replacing(path) as temporary:
            temporary.write_bytes(contents)
        sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        paths.append(path)
    lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    write_atomically(directory / CHECKSUMS, "".join(lines))
    return [*paths, directory / CHECKSUMS]


def _as_bytes(model: RateDistortionModel, cell: Cell) -> bytes:
    arrays = [ops.convert_to_numpy(weight) for weight in model.weights]
    about = {"cell": cell.to_dict(), "shape": model.encoder.input_shape[1:], "weights": [w.name for w in model.weights]}
    file = io.BytesIO()
    contents: dict = {"about": json.dumps(about), **{f"weight_{i}": _halved(array) for i, array in enumerate(arrays)}}
    np.savez_compressed(file, **contents)
    return file.getvalue()


def _halved(array: np.ndarray) -> np.ndarray:
    fits = array.dtype == np.float32 and array.size >= FEWEST_HALVED and np.abs(array).max() <= np.finfo(np.float16).max
    return array.astype(np.float16) if fits else array


def _read_model(data: bytes) -> RateDistortionModel:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        arrays = [file[f"weight_{i}"] for i in range(len(about["weights"]))]
    config = Cell.from_dict(about["cell"]).config
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, dtype_policy="float32"))
    model = build_model(config, tuple(about["shape"]))
    if [weight.name for weight in model.weights] != about["weights"]:
        raise ValueError("its weights are not those of the model")
    for weight, array in zip(model.weights, arrays, strict=True):
        weight.assign(array.astype(keras.backend.standardize_dtype(weight.dtype)))
    return model


def _best_cells(out: Path) -> list[Cell]:
    best: dict[tuple[str, str], Cell] = {}
    for path in sorted(out.glob(f"*/*/*/{records.CELL}")):
        if not (records.result_path(path.parent, "test").exists() and (path.parent / records.MODEL).exists()):
            continue
        try:
            cell = records.read_cell(path)
        except records.MISFITS as error:
            logger.warning("%s is left out: it is no cell of this version (%s).", path, error)
            continue
        if cell.config.channel.is_echo and cell.config.channel.gaussian_at < 1:
            logger.warning("%s is left out: its channel changes in the training. Load its %s.", path.parent, records.MODEL)
            continue
        name = (cell.config.method, cell.dataset)
        best[name] = min(best.get(name, cell), cell, key=_rank)
    return [best[name] for name in sorted(best)]


def _rank(cell: Cell) -> tuple:
    config = cell.config
    differs = (cell.holdout > 0, config.constraint.quantity != "none", config.protocol != "paper")
    return (*differs, -config.training.epochs, abs(config.beta - 1.0), config.seed)


def _folder(directory: str | Path | None) -> Path:
    default = os.environ.get("ECHO_TF_PRETRAINED") or Path("~/.cache/echo_tf/pretrained")
    return Path(default if directory is None else directory).expanduser()


def _file_name(method: str, dataset: str) -> str:
    for what, name in (("method", method), ("data set", dataset)):
        if not NAME.fullmatch(str(name)):
            raise ConfigError(f"Invalid name of a {what}. Expected one like echo or binary_mnist. Received: {name!r}")
    return f"{method}_{dataset}.npz"


def _check_name(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, 1, cutoff=0.0)
        raise ConfigError(f"No {what} is called {name!r}. Nearest: {nearest[0]}.")


def _how(method: str, dataset: str, folder: Path) -> str:
    return f"python reproduce.py --dataset {dataset} --method {method}, then python reproduce.py --export {folder}"


def _read_checksums(folder: Path) -> dict[str, str]:
    """Digest by name of file; none if there is no list."""
    path = folder / CHECKSUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
