"""Cells of an experiment: one trained and evaluated model each, in a folder of its own."""

import dataclasses
import importlib.metadata
import json
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.load import Dataset
from echo_tf.errors import CellError, ConfigError, TrainingError
from echo_tf.experiments.analysis import Analysis, analyse, rate_by_dimension
from echo_tf.experiments.evaluation import PASSES, evaluate
from echo_tf.experiments.training import CHECKPOINT, load_saved, read_metrics, save_atomically, train
from echo_tf.files import checksum, locked, replacing, set_aside, write_atomically, zip_damage
from echo_tf.models.config import DATASETS, Config, config_from_dict, flatten

CELL = "cell.json"
MODEL = "model.keras"
FAILED = "failed.json"
PICTURE_COUNT = 10

_PACKAGES = ("keras", "tensorflow", "jax", "tensorflow-probability", "numpy", "scipy")


@dataclass(frozen=True)
class Cell:
    """One model to train and evaluate.

    Attributes:
        dataset: Name of the data set.
        config: The resolved configuration.
        holdout: Number of training images that are held out as a validation split, for data sets that have none; 0 for
            training on all.
        warm_start: Betas through which the weights came before this training: each model was started from the one before it,
            this one from the last. Empty: from scratch.

    Raises:
        ConfigError: an unknown data set, or a method whose name is no name of a folder.
    """

    dataset: str
    config: Config
    holdout: int = 0
    warm_start: tuple[float, ...] = ()

    def __post_init__(self):
        # Both are names of folders, and may come from a file that somebody else wrote.
        if self.dataset not in DATASETS:
            raise ConfigError(f"Invalid value for `dataset`. Expected one of {DATASETS}. Received: {self.dataset!r}")
        if not re.fullmatch(r"\w[\w.+=-]*", self.config.method):
            raise ConfigError(
                f"Invalid value for `method`. Expected letters, digits and any of _.+=-, no dot or sign first: it names a "
                f"folder. Received: {self.config.method!r}. Rename the file."
            )

    def folder(self, out: Path) -> Path:
        config = self.config
        name = f"{config.protocol}-epochs={config.training.epochs}-{self._setting()}-seed={config.seed}"
        if self.holdout:
            name += f"-holdout={self.holdout}"
        if config.training.replicas > 1:
            name += f"-replicas={config.training.replicas}"
        if self.warm_start:
            name += "-after=" + ",".join(f"{beta:g}" for beta in self.warm_start)
        return out / self.dataset / config.method / name

    def _setting(self) -> str:
        constraint = self.config.constraint
        if constraint.quantity == "none":
            return f"beta={self.config.beta:g}"
        return f"{constraint.quantity}={constraint.target_nats:g}"

    @property
    def evaluation_batch(self) -> int:
        """Examples of a batch in the evaluation: as many as in training, and enough for the echoes of each."""
        channel, batch = self.config.channel, self.config.training.batch_size + self.config.channel.pool
        return max(batch, channel.d_max + 1) if channel.kind == "echo" and not channel.replace else batch

    @property
    def predecessor(self) -> "Cell | None":
        """The cell whose weights this one starts from."""
        if not self.warm_start:
            return None
        *earlier, beta = self.warm_start
        config = dataclasses.replace(self.config, beta=beta)
        return dataclasses.replace(self, config=config, warm_start=tuple(earlier))

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Cell":
        """The inverse of `to_dict`, from JSON too. Raises `TypeError`, `KeyError` or `ConfigError` for what is no cell."""
        warm_start = tuple(float(beta) for beta in values.get("warm_start", ()))
        return cls(**{**values, "config": config_from_dict(values["config"]), "warm_start": warm_start})


def plan(
    dataset: str,
    configs: list[Config],
    betas: list[float] | None,
    seeds: int,
    holdout: int = 0,
    warm_start: bool = False,
) -> list[Cell]:
    """Cells for configurations, betas (`None`: that of each configuration) and seeds.

    Args:
        dataset: Name of the data set.
        configs: The configurations.
        betas: Weights of the rate, each used once.
        seeds: Number of seeds from that of each configuration on. Seed by seed.
        holdout: See `Cell`.
        warm_start: Boolean, start each model from that of the beta before it. The betas are then trained in rising order: a
            model that has learnt to send much forgets more easily than one that sends nothing learns.
    """
    ordered = betas and list(dict.fromkeys(sorted(betas) if warm_start else betas))
    cells = [
        Cell(
            dataset,
            dataclasses.replace(config, beta=beta, seed=config.seed + i),
            holdout,
            tuple(ordered[:place]) if ordered and warm_start else (),
        )
        for i in range(seeds)
        for config in configs
        for place, beta in enumerate(ordered or [config.beta])
    ]
    return list(dict.fromkeys(cells))  # a method may be named twice


def result_path(folder: Path, split: str) -> Path:
    """File with the final evaluation of a cell: `result.json` for the test set, `result_validation.json` for the other."""
    return folder / f"result{_suffix(split)}.json"


def pictures_path(folder: Path, split: str) -> Path:
    """File with images of a split, their reconstructions, and samples."""
    return folder / f"pictures{_suffix(split)}.npz"


def analysis_path(folder: Path, split: str) -> Path:
    """File with the analysis of a trained model (`Analysis`)."""
    return folder / f"analysis{_suffix(split)}.npz"


def noise_path(folder: Path, split: str) -> Path:
    """File with the total correlation of the noise of an analysed Echo model: text, which goes where the result goes."""
    return folder / f"noise{_suffix(split)}.json"


def _suffix(split: str) -> str:
    return "" if split == "test" else f"_{split}"


def is_finished(cell: Cell, out: Path, split: str = "test", passes: int = PASSES) -> bool:
    """Whether the result of this very cell, from at least so many passes, is on disk and undamaged, with its pictures.

    Raises:
        CellError: the folder holds a cell with another configuration.
    """
    folder = cell.folder(out)
    _check_same_cell(cell, folder)
    paths = (result_path(folder, split), pictures_path(folder, split))
    return all(path.exists() for path in paths) and not damages(folder, split) and _read(paths[0]).get("passes", 0) >= passes


def damages(folder: Path, split: str) -> dict[Path, str]:
    """What is wrong with the files of a result, by file; nothing is of a file that is not there."""
    result, pictures = result_path(folder, split), pictures_path(folder, split)
    found = {result: _result_damage(result) if result.exists() else None}
    found[pictures] = zip_damage(pictures) if pictures.exists() else None
    return {path: damage for path, damage in found.items() if damage}


def _result_damage(path: Path) -> str | None:
    try:
        result = _read(path)
        if result.get("checksum", checksum(result)) != checksum(result):  # older versions wrote none
            return "its checksum is not that of its contents"
        cell_of(result)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return repr(error)


def cell_of(result: dict) -> Cell:
    """The cell of a result. Raises as `Cell.from_dict`."""
    return Cell.from_dict({field.name: result[field.name] for field in dataclasses.fields(Cell) if field.name in result})


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _check_same_cell(cell: Cell, folder: Path) -> None:
    path = folder / CELL
    if not path.exists():
        return
    try:
        found = Cell.from_dict(_read(path))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CellError(f"{path} cannot be read ({error}). Move the folder away or use another --out.") from None
    if found != cell:
        changes = differences(found, cell)
        raise CellError(f"{folder} holds a cell with another configuration ({changes}). Use another --out or move it away.")


def differences(there: Cell, wanted: Cell) -> str:
    """What tells two cells apart, `"training.epochs: 10 there, 20 wanted"`; empty if they are the same."""
    old, new = ({**flatten(c.config), **{f.name: getattr(c, f.name) for f in dataclasses.fields(c)}} for c in (there, wanted))
    old.pop("config"), new.pop("config")
    return ", ".join(f"{key}: {old[key]} there, {new[key]} wanted" for key in new if old[key] != new[key])


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

    A file found damaged is set aside under another name, with a warning, and what it held is made anew: a result or pictures
    from the model, a model or checkpoint by training from the beginning.

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
        CellError: the folder holds a cell with another configuration, or another process works in it.
        ConfigError: fewer than two passes.
        DataError: no such split.
        TrainingError: see `train`. The reason is in `failed.json` then; running the cell again goes on from its checkpoint.
        OSError: `out` cannot be written.
    """
    if passes < 2:
        raise ConfigError(f"Invalid value for `passes`. Expected at least 2, for a standard error. Received: {passes}")
    folder = cell.folder(out)
    path = result_path(folder, split)
    if is_finished(cell, out, split, passes):
        return _read(path)
    if cell.holdout:
        dataset = dataset.holdout(cell.holdout)
    dataset.raw(split)  # fails now rather than after the training
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if is_finished(cell, out, split, passes):  # another process was faster
            return _read(path)
        for damaged, damage in damages(folder, split).items():
            set_aside(damaged, damage)
        write_atomically(folder / CELL, json.dumps(cell.to_dict(), indent=2))
        model = _trained_model(cell, dataset, out, validate, callbacks)
        result = _evaluated(cell, model, dataset, out, split, passes)
        write_atomically(path, json.dumps(result, indent=2))  # last: it says that the cell is finished
    return result


def _trained_model(
    cell: Cell, dataset: Dataset, out: Path, validate: bool, callbacks: list[keras.callbacks.Callback] | None
) -> keras.Model:
    folder = cell.folder(out)
    model = load_saved(folder / MODEL)
    if model is None:
        start = load_model(cell.predecessor.folder(out)) if cell.predecessor else None
        try:
            model = train(cell.config, dataset, folder, start=start, validate=validate, callbacks=callbacks)
        except TrainingError as error:
            write_atomically(folder / FAILED, json.dumps({"reason": str(error)}, indent=2))
            raise
        save_atomically(model, folder / MODEL)
        if cell.config.training.replicas > 1:
            model = load_model(folder)  # one that is not spread over devices
    for path in (folder / CHECKPOINT, folder / FAILED):
        path.unlink(missing_ok=True)
    return model


def _evaluated(cell: Cell, model: keras.Model, dataset: Dataset, out: Path, split: str, passes: int) -> dict:
    """Evaluate a trained model and save pictures of it."""
    folder = cell.folder(out)
    images = dataset.images(split)
    batch_size = cell.evaluation_batch
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
    if cell.config.constraint.quantity != "none":
        result["final_beta"] = float(ops.convert_to_numpy(model.beta))
    if cell.config.channel.kind == "echo":
        result["rate_floor_nats"] = model.channel.echo.rate_floor(cell.config.network.latent_dim)
        rates = rate_by_dimension(model.channel, model.encoder.predict(images, verbose=0))
        result["rate_by_dimension_nats"] = [round(float(rate), 5) for rate in rates]
    # From all over the split, which may be sorted by class.
    _save_pictures(pictures_path(folder, split), model, images[:: max(1, len(images) // PICTURE_COUNT)][:PICTURE_COUNT])
    return {**result, "checksum": checksum(result)}


def check_analysable(cell: Cell, dataset: Dataset, split: str = "test") -> None:
    """Raise `CellError` if a split has too few images for the noise of an Echo model, which is made from a batch of them."""
    images = len((dataset.holdout(cell.holdout) if cell.holdout else dataset).raw(split))
    if cell.config.channel.kind == "echo" and images < cell.evaluation_batch:
        raise CellError(
            f"{cell.config.method}: its noise is made from {cell.evaluation_batch:,} images, and the {split} split of "
            f"{cell.dataset} has {images:,}. Analyse it on a larger data set, or a method of smaller batches."
        )


def analyse_cell(cell: Cell, dataset: Dataset, out: Path, *, split: str = "test") -> Analysis:
    """Analyse the trained model of a cell, unless that is on disk already, undamaged.

    Writes the analysis, and for Echo what it says of the noise as text besides (`noise_path`).

    Args:
        cell: A cell that `run_cell` has finished.
        dataset: Its data set, before any holdout.
        out: Folder of all cells.
        split: Images to look at.

    Raises:
        CellError: it has no model, the analysis on disk is of another version, another process works in the folder, or as
            `check_analysable`.
        TrainingError: its model cannot be loaded.
        OSError: `out` cannot be written.
    """
    folder = cell.folder(out)
    path = analysis_path(folder, split)
    if path.exists() and not zip_damage(path):
        analysis = load_analysis(path)
    else:
        check_analysable(cell, dataset, split)
        images = (dataset.holdout(cell.holdout) if cell.holdout else dataset).images(split)
        model = load_model(folder)
        with locked(folder):
            if path.exists() and (damage := zip_damage(path)):
                set_aside(path, damage)
            analysis = analyse(model, images, batch_size=cell.evaluation_batch, seed=cell.config.seed)
            with replacing(path) as temporary:
                analysis.save(temporary)
    if len(analysis.total_correlation_nats):
        mean, se = (float(number) for number in analysis.total_correlation_nats)
        noise = {"total_correlation_nats": {"mean": mean, "se": se}, "draws": int(analysis.noise_draws)}
        write_atomically(noise_path(folder, split), json.dumps({**noise, "checksum": checksum(noise)}, indent=2))
    return analysis


def load_analysis(path: Path) -> Analysis:
    """The analysis in a file. Raises `CellError` for a damaged one."""
    if damage := zip_damage(path):
        raise CellError(f"{path} is damaged ({damage}). Run --experiment analysis again, which makes it anew.")
    try:
        return Analysis.load(path)
    except (ValueError, KeyError) as error:
        raise CellError(f"{path} is not an analysis of this program ({error!r}). Delete it; it is then made anew.") from None


def load_model(folder: Path) -> keras.Model:
    """The trained model of a cell.

    Raises:
        CellError: there is none, or a damaged one.
        TrainingError: it cannot be loaded.
    """
    model = load_saved(folder / MODEL)
    if model is None:
        raise CellError(f"{folder} is not trained: it has no {MODEL}. Train that cell first; if it is finished, move it away.")
    return model


def _save_pictures(path: Path, model: keras.Model, images: np.ndarray) -> None:
    def to_uint8(values):
        return np.rint(255.0 * np.asarray(values)[..., 0]).astype(np.uint8)

    pictures = {
        "originals": to_uint8(images),
        "reconstructions": to_uint8(model.reconstruct(images)),
        "samples": to_uint8(model.generate(PICTURE_COUNT)),
    }
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **pictures)


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
    """Commit of the checkout that holds this file, `+changes` if what makes a result differs from it."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        commit = git("rev-parse", "HEAD")
        # A script that somebody keeps beside the package changes no result.
        return commit + ("+changes" if git("status", "--porcelain", "--", "echo_tf", "configs", "reproduce.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
