"""What lies in the folder of a cell: names of its files, what is damaged, and results, metrics and analyses as objects.

Needs no Keras.
"""

import contextlib
import dataclasses
import json
import logging
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from echo_tf.errors import CellError, ConfigError, ResultError
from echo_tf.experiments.cells import Cell, differences
from echo_tf.files import checksum, read_checked, read_json, zip_damage
from echo_tf.models.config import Config

logger = logging.getLogger(__name__)

CELL = "cell.json"
MODEL = "model.keras"
CHECKPOINT = "checkpoint.keras"
METRICS = "metrics.jsonl"
FAILED = "failed.json"

SPLITS = ("test", "validation")
QUANTITIES = ("rate_nats", "distortion_nats", "neg_elbo_nats")

# What reading a file raises whose values are no cell, result, noise or model.
MISFITS = (ValueError, TypeError, KeyError, AttributeError)


def _named(stem: str, suffix: str) -> Callable[[Path, str], Path]:
    """Function of a folder and a split that gives a file of a cell: `STEM.json` for the test set, `STEM_SPLIT.json` else."""
    return lambda folder, split: folder / f"{stem}{'' if split == 'test' else f'_{split}'}{suffix}"


result_path = _named("result", ".json")  # final evaluation of a cell
pictures_path = _named("pictures", ".npz")  # images of a split, their reconstructions, and samples
analysis_path = _named("analysis", ".npz")  # `Analysis`
map_path = _named("map", ".npz")  # `LatentMap`
arrays_path = _named("arrays", ".npz")  # what a model makes of every image (`encodings.image_arrays`)
noise_path = _named("noise", ".json")  # total correlation of Echo noise: text, which goes where the result goes


@dataclass(frozen=True)
class Result:
    """Evaluation of the model of a cell on one split, as its file holds it.

    Attributes:
        cell: The cell.
        split: `"test"` or `"validation"`.
        source: `Dataset.source` of the data.
        folder: That of the cell. Two results may be equal in different folders.
        mean: Means over the images in nats, by the names in `QUANTITIES`.
        se: Their standard errors over the draws of the noise.
        passes: Number of draws of `z` for each image; `None` in results of early versions.
        importance_bound_nats: Mean of the bound of -log p(x) from so many draws; `None` for channels without a density.
        rate_floor_nats: Least rate of the channel; `None` where there is none.
        echoes: `"reservoir"` or `"batch"`, what Echo noise was made from in the evaluation; early versions had batches only.
        rate_by_dimension_nats: Mean rate of every latent dimension; empty for channels without a floor.
        final_beta: Where a constraint ended; `None` without one.
        example_size: Numbers that an example has, pixels times channels; `None` in results of early versions.
    """

    cell: Cell
    split: str
    source: str
    folder: Path = field(compare=False)
    mean: dict[str, float]
    se: dict[str, float]
    passes: int | None = None
    importance_bound_nats: float | None = None
    rate_floor_nats: float | None = None
    echoes: str = "batch"
    rate_by_dimension_nats: tuple[float, ...] = ()
    final_beta: float | None = None
    example_size: int | None = None

    @property
    def config(self) -> Config:
        """That of the cell."""
        return self.cell.config

    # What is asked for most, by short names.
    dataset = property(operator.attrgetter("cell.dataset"))
    method = property(operator.attrgetter("cell.config.method"))
    epochs = property(operator.attrgetter("cell.config.training.epochs"))
    target = property(operator.attrgetter("cell.target"))

    @property
    def from_batch(self) -> bool:
        """Whether the evaluation made Echo noise from the batch; an Echo channel is known by its floor."""
        return self.rate_floor_nats is not None and self.echoes == "batch"

    @property
    def squared_error(self) -> float | None:
        """Mean squared error of a pixel by a Gaussian decoder, of one draw of `z`; `None` for another one.

        `D = n ( E (x - y)^2 / (2 sd^2) + log sd + log(2 pi) / 2 )` for `n` pixels.
        """
        law, size = self.config.distortion, self.example_size
        if law.kind != "gaussian" or size is None:
            return None
        return 2.0 * law.sd**2 * (self.mean["distortion_nats"] / size - math.log(law.sd) - 0.5 * math.log(2.0 * math.pi))


def read_results(out: Path) -> list[Result]:
    """All results below `out`, in the order of their paths. Raises `ResultError` as `read_result`."""
    folders = sorted(path for path in out.glob("*/*/*") if path.is_dir())
    return [read_result(path) for folder in folders for split in SPLITS if (path := result_path(folder, split)).exists()]


def read_result(path: Path) -> Result:
    """The result in a file.

    Raises:
        ResultError: the file is no result, or one that this version cannot have made, or it or its pictures are damaged.
    """
    try:
        result = _result(read_json(path), path.parent)
    except ConfigError as error:
        raise ResultError(f"{path} is not a result of this version: {error}") from None
    except MISFITS as error:
        raise ResultError(f"{path} is not a result of this program ({error!r}). Delete it; its cell is made anew.") from None
    for damaged, damage in damages(path.parent, result.split).items():
        raise ResultError(f"{damaged} is damaged ({damage}). Run its cell again, which makes the file anew.")
    return result


def _result(values: dict, folder: Path) -> Result:
    """The result that a file in the folder of its cell holds. Raises one of `MISFITS` for what is no result."""
    means = means_of(values)
    if not all(map(math.isfinite, (*means["mean"].values(), *means["se"].values()))):
        raise ValueError("incomplete")
    named = ("split", "source", "passes", "rate_floor_nats", "echoes", "final_beta", "example_size")
    return Result(
        cell=Cell.from_dict(values),
        folder=folder,
        rate_by_dimension_nats=tuple(values.get("rate_by_dimension_nats", ())),
        **means,
        **{name: values[name] for name in named if name in values},
    )


def means_of(values: dict) -> dict[str, Any]:
    """Of an `Evaluation.summary` in a file, what a `Result` has of it. Raises one of `MISFITS` for what is none."""
    mean, se = ({quantity: float(values[quantity][part]) for quantity in QUANTITIES} for part in ("mean", "se"))
    return {"mean": mean, "se": se, "importance_bound_nats": values.get("importance_bound_nats", {}).get("mean")}


def damages(folder: Path, split: str) -> dict[Path, str]:
    """What is wrong with the files of a result that exist, by file; empty if nothing is."""
    checks = {result_path(folder, split): _result_damage, pictures_path(folder, split): zip_damage}
    found = {path: check(path) for path, check in checks.items() if path.exists()}
    return {path: damage for path, damage in found.items() if damage}


def _result_damage(path: Path) -> str | None:
    try:
        values = read_json(path)
        _result(values, path.parent)
    except MISFITS as error:
        return repr(error)
    intact = values.get("checksum", made := checksum(values)) == made  # early versions wrote none
    return None if intact else "its checksum is not that of its contents"


def is_finished(cell: Cell, out: Path, split: str = "test", passes: int = 0, echoes: str = "reservoir") -> bool:
    """Whether the result of this very cell is on disk and undamaged, with its pictures.

    It is from at least so many passes, and that of an Echo channel, which alone has a floor, from these `echoes`.

    Raises:
        CellError: the folder holds a cell with another configuration.
    """
    folder = cell.folder(out)
    check_same_cell(cell, folder)
    if not pictures_path(folder, split).exists():
        return False
    try:
        result = read_result(result_path(folder, split))
    except (ResultError, FileNotFoundError):
        return False
    return (result.passes or 0) >= passes and (result.rate_floor_nats is None or result.from_batch == (echoes == "batch"))


def read_cell(path: Path) -> Cell:
    """The cell in a file. Raises one of `MISFITS` for what is none of this version."""
    return Cell.from_dict(read_json(path))


def check_same_cell(cell: Cell, folder: Path) -> None:
    """Raise `CellError` if a folder holds another cell than this one, or one that cannot be read."""
    path = folder / CELL
    try:
        there = [read_cell(path)] if path.exists() else _cells_of_results(folder)
    except MISFITS as error:
        raise CellError(f"{path} cannot be read ({error}). Move the folder away or use another --out.") from None
    for found in there:
        if changes := differences(found, cell):
            raise CellError(
                f"{folder} holds a cell with another configuration ({changes}). Use another --out, or move the folder away."
            )


def check_model(folder: Path) -> None:
    """Raise `CellError` for a result whose model is gone: a new training would write over its curve, and then over it."""
    has_model = any(any(folder.glob(f"{name}*")) for name in (MODEL, CHECKPOINT))  # a damaged one is made anew
    if _cells_of_results(folder) and not has_model:
        raise CellError(
            f"{folder} has a result, but its model is gone, as in folders that were published. For tables of what is there use "
            "--report. To train the model anew use another --out, or move the folder away."
        )


def _cells_of_results(folder: Path) -> list[Cell]:
    """What the results say that are all a published folder has. A damaged one, which is set aside later, says nothing."""
    found = []
    for path in (result_path(folder, split) for split in SPLITS):
        with contextlib.suppress(ResultError):
            found += [read_result(path).cell] if path.exists() else []
    return found


def read_metrics(folder: Path) -> list[dict]:
    """The lines of `metrics.jsonl`, one for each finished epoch. A line that is damaged is left out, with a warning."""
    path = folder / METRICS
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        try:
            line = json.loads(text)
            operator.index(line["epoch"])  # a TypeError unless it is a whole number
            lines.append(line)
        except MISFITS:
            logger.warning("%s: line %d is damaged and left out.", path, number)
    return lines


class _Arrays:
    """Arrays that are written together. A subclass is a dataclass of them, and says what it is."""

    what: ClassVar[str]

    def save(self, path: Path) -> None:
        """Write a `.npz` file."""
        np.savez_compressed(path, **dataclasses.asdict(self))  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`. Raises `CellError` for a damaged file, or one of other arrays."""
        if damage := zip_damage(path):
            raise CellError(f"{path} is damaged ({damage}). Run --experiment analysis again, which makes it anew.")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                fields = dataclasses.fields(cls)  # type: ignore[arg-type]
                known = [f.name for f in fields if f.name in arrays or f.default_factory is dataclasses.MISSING]
                return cls(**{name: arrays[name] for name in known})
        except (ValueError, KeyError) as error:
            raise CellError(f"{path} is not {cls.what} of this program ({error!r}). Delete it; it is made anew.") from None


@dataclass(frozen=True)
class Analysis(_Arrays):
    """Analysis of one model on one set of images.

    Attributes:
        rate_by_dimension_nats: Mean rate of every latent dimension, `(dim,)`. See `analysis.rate_by_dimension`.
        shown: Indices of the dimensions with the largest rates, in falling order, `(shown,)`.
        grid: Values of `z` in each of them, `(shown, points)`.
        density: Their marginal density there, `(shown, points)`.
        pointwise_rate_nats: Rate of every image, `(n,)`.
        pointwise_distortion_nats: `-log p(x|z)` of every image, `(n,)`.
        mean_norm: Euclidean norm of the mean of `z`, `f(x)` for Echo, `(n,)`.
        scale_norm: Euclidean norm of the standard deviation of `z`, of `s(x)` for Echo, `(n,)`.
        total_correlation_nats: That of Echo noise and its standard error, `(2,)`; empty for other channels.
        noise_draws: Number of draws behind it.
        moments: Mean and standard deviation of these dimensions before they were standardised, `(2, shown)`; empty for a `z`
            that is not, and in files of version 0.2.
    """

    rate_by_dimension_nats: np.ndarray
    shown: np.ndarray
    grid: np.ndarray
    density: np.ndarray
    pointwise_rate_nats: np.ndarray
    pointwise_distortion_nats: np.ndarray
    mean_norm: np.ndarray
    scale_norm: np.ndarray
    total_correlation_nats: np.ndarray
    noise_draws: np.ndarray
    moments: np.ndarray = field(default_factory=lambda: np.empty(0))

    what = "an analysis"


@dataclass(frozen=True)
class LatentMap(_Arrays):
    """Images in two dimensions of `z`, and what the decoder makes of these (`encodings.latent_map`).

    Attributes:
        dimensions: Indices of the two of highest rate, the higher first, `(2,)`.
        rate_nats: Their mean rates, `(2,)`.
        z: A draw for every image, `(n, 2)`.
        labels: Labels of the images, `(n,)`; empty where there are none.
        ticks: Values of the two dimensions on the grid, `(2, k)`.
        decoded: Decoded images as uint8, `(k, k, ...)`; the first axis goes with the second dimension.
    """

    dimensions: np.ndarray
    rate_nats: np.ndarray
    z: np.ndarray
    labels: np.ndarray
    ticks: np.ndarray
    decoded: np.ndarray

    what = "a map"


def read_noise(path: Path) -> dict:
    """What a `noise.json` holds. Raises `ResultError` for a damaged one."""
    try:
        return read_checked(path)
    except MISFITS as error:
        raise ResultError(f"{path} is damaged ({error!r}). Run --experiment analysis again, which makes it anew.") from None
