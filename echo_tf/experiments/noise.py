"""The experiment `noise`: what does a trained Echo model need of its noise?

The noise of a trained model is replaced by other noise, encoder, scale and decoder being what they are, and the distortion is
measured again: what the decoder relies on is what raises it when it is gone. Then each dimension of `z` is set to its mean.
Models that were *trained* with other noise (`channel.noise`) are compared by their results alone. How loose a rate is that is
not exact, a marginal says that is fitted afterwards (`fitted.py`).
"""

from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.dataset import Dataset
from echo_tf.errors import ConfigError
from echo_tf.experiments.analysis import rate_by_dimension
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.evaluation import standard_error
from echo_tf.experiments.fitted import STEPS, is_fittable, measure_looseness
from echo_tf.experiments.laws import LAWS, TABLES, DimensionPoint, FitPoint, LawPoint, read_tables
from echo_tf.experiments.run import load_model
from echo_tf.files import locked, write_rows
from echo_tf.models.config import Config

DRAWS = 20_000
PASSES = 5
IMAGES = 2_000  # for the dimensions, each of which takes a pass

Names = tuple[str, str, int, float, int]  # data set, method, epochs, beta and seed of a cell


def draw(law: str, noise: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of noise by a law that given draws of Echo noise determine.

    Args:
        law: One of `LAWS`.
        noise: Draws of Echo noise, shape `(n, dim)`.
        count: Integer, at most `n`.
        rng: The generator.

    Returns:
        Shape `(count, dim)`.
    """
    mean, dim = noise.mean(axis=0), noise.shape[1]
    if law == "echo":
        return rng.permutation(noise)[:count]
    if law == "marginals_independent":
        return np.stack([rng.permutation(column)[:count] for column in noise.T], axis=1)
    normal = rng.standard_normal((count, dim))
    if law == "gaussian":
        return mean + normal @ np.linalg.cholesky(np.cov(noise, rowvar=False)).T
    return mean + normal * noise.std(axis=0)


def measure(model: keras.Model, images: np.ndarray, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Measure a trained model whose channel is Echo's.

    Args:
        model: The model.
        images: float32, shape `(n, ...)`.
        seed: Integer, seeds what is drawn.

    Returns:
        Mean distortion by law, of shape `(passes,)`; rate by dimension, shape `(dim,)`; and for every image the distortion that
        each dimension saves, shape `(dim, images)`. In nats.
    """
    rng, features = np.random.default_rng(seed), model.features(images)
    pool = ops.convert_to_numpy(model.channel.source.sample_marginal(max(DRAWS, len(images))))

    def encodings(law, features):
        return ops.convert_to_numpy(model.channel.with_noise(features, draw(law, pool, len(features), rng)))

    of, passes = model.distortion_of, range(PASSES)
    laws = {law: np.array([of(encodings(law, features), images).mean() for _ in passes]) for law in LAWS}
    shown = images[:IMAGES]
    z = encodings("echo", features[:IMAGES])
    whole, worth = of(z, shown), []
    for j in range(z.shape[1]):
        without = z.copy()
        without[:, j] = z[:, j].mean()
        worth.append(of(without, shown) - whole)
    return laws, rate_by_dimension(model.channel, features), np.array(worth)


def has_echo_noise(config: Config) -> bool:
    """Whether such a model has Echo noise at the end of its training."""
    return config.channel.noise == "echo" and config.rate_floor > 0


def check_measurable(cells: list[Cell]) -> None:
    """Raise `ConfigError` if there is a cell of which this experiment measures nothing."""
    if others := [cell.config.method for cell in cells if not (cell.config.rate_floor or is_fittable(cell.config))]:
        raise ConfigError(
            f"{others[0]} has no Echo noise that could be replaced, and a learnt marginal. With --experiment noise name "
            "methods with Echo noise (echo, echo_matrix, ...) or with the marginal N(0, I) (vae, iaf, ...)."
        )


def run(folder: Path, cells: list[Cell], dataset: Dataset, out: Path, split: str = "test") -> list[Path]:
    """Measure trained models, as far as that is not on disk.

    Args:
        folder: Where the tables go, `laws.csv`, `dimensions.csv` and `fits.csv`.
        cells: Cells of one data set that are finished.
        dataset: Their data set, before any holdout.
        out: Folder of all cells.
        split: Images to measure with.

    Returns:
        The tables.

    Raises:
        ConfigError: as `check_measurable`.
        CellError: a cell is not trained, or another process works in the folder.
        ResultError: a table is damaged.
    """
    check_measurable(cells)
    paths = [folder / name for name in TABLES]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        laws, dimensions, fits = read_tables(folder)
        for cell in cells:
            config, names = cell.config, _names(cell)
            data = dataset.holdout(cell.holdout) if cell.holdout else dataset
            if has_echo_noise(config) and not _holds(dimensions, names):
                model = load_model(cell.folder(out))
                of_laws, of_dimensions = _replaced(names, *measure(model, data.images(split), config.seed))
                laws += of_laws
                dimensions += of_dimensions
                write_rows(paths[0], laws)
                write_rows(paths[1], dimensions)  # last: it says that this is finished
            if is_fittable(config) and not _holds(fits, names):
                model = load_model(cell.folder(out))
                noise = "own" if model.channel.has_density else "gaussian"
                images = data.images("train"), data.images(split)
                rates, gains = measure_looseness(model, *images, steps=STEPS, seed=config.seed)
                means = float(rates.mean()), float((rates - gains).mean()), float(gains.mean())
                fits.append(asdict(FitPoint(*names, noise, *means, standard_error(gains))))
                write_rows(paths[2], fits)
    return [path for path in paths if path.exists()]


def _names(cell: Cell) -> Names:
    """What tells cells of one folder apart: the first columns of every table."""
    config = cell.config
    return cell.dataset, config.method, config.training.epochs, config.beta, config.seed


def _holds(rows: list[dict], names: Names) -> bool:
    return any(tuple(row.values())[: len(names)] == names for row in rows)


def _replaced(names: Names, laws: dict[str, np.ndarray], rates: np.ndarray, worth: np.ndarray) -> tuple[list[dict], list[dict]]:
    """The rows of `laws.csv` and `dimensions.csv` that `measure` gives."""
    rate = float(rates.sum())
    points = [LawPoint(*names, law, rate, float(found.mean()), standard_error(found)) for law, found in laws.items()]
    ranked = enumerate(np.argsort(-rates), 1)
    saved = [
        DimensionPoint(*names, rank, float(rates[j]), float(worth[j].mean()), standard_error(worth[j])) for rank, j in ranked
    ]
    return [asdict(point) for point in points], [asdict(point) for point in saved]
