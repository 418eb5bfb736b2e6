"""The experiment `noise`: what does a trained Echo model need of its noise?

The noise of a trained model is replaced by other noise, encoder, scale and decoder being what they are, and the distortion is
measured again: what the decoder relies on is what raises it when it is gone. Then each dimension of `z` is set to its mean.
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
from echo_tf.experiments.laws import LAWS, TABLES, DimensionPoint, LawPoint, read_tables
from echo_tf.experiments.run import load_model
from echo_tf.files import locked, write_rows

DRAWS = 20_000
PASSES = 5
IMAGES = 2_000  # for the dimensions, each of which takes a pass


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

    def distortion(z, x):
        return ops.convert_to_numpy(model.distortion(x, model.decoder.predict(z, verbose=0)))

    laws = {law: np.array([distortion(encodings(law, features), images).mean() for _ in range(PASSES)]) for law in LAWS}
    shown = images[:IMAGES]
    z = encodings("echo", features[:IMAGES])
    whole, worth = distortion(z, shown), []
    for j in range(z.shape[1]):
        without = z.copy()
        without[:, j] = z[:, j].mean()
        worth.append(distortion(without, shown) - whole)
    return laws, rate_by_dimension(model.channel, features), np.array(worth)


def check_echo(cells: list[Cell]) -> None:
    """Raise `ConfigError` if one of some cells has no Echo noise at the end of its training."""
    if others := [cell.config.method for cell in cells if not cell.config.rate_floor]:
        raise ConfigError(
            f"{others[0]} has no Echo noise that could be replaced. With --experiment noise name methods that have it: echo, "
            "echo_matrix, ..."
        )


def run(folder: Path, cells: list[Cell], dataset: Dataset, out: Path, split: str = "test") -> list[Path]:
    """Measure trained Echo models, as far as that is not on disk.

    Args:
        folder: Where the tables `laws.csv` and `dimensions.csv` go.
        cells: Cells of one data set that are finished.
        dataset: Their data set, before any holdout.
        out: Folder of all cells.
        split: Images to measure with.

    Returns:
        The tables.

    Raises:
        ConfigError: as `check_echo`.
        CellError: a cell is not trained, or another process works in the folder.
        ResultError: a table is damaged.
    """
    check_echo(cells)
    paths = [folder / name for name in TABLES]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        laws, dimensions = read_tables(folder)
        for cell in cells:
            config = cell.config
            names = (cell.dataset, config.method, config.training.epochs, config.beta, config.seed)
            if names in {tuple(row.values())[: len(names)] for row in dimensions}:
                continue
            data = dataset.holdout(cell.holdout) if cell.holdout else dataset
            found, rates, worth = measure(load_model(cell.folder(out)), data.images(split), config.seed)
            for law, d in found.items():
                point = LawPoint(*names, law, float(rates.sum()), float(d.mean()), standard_error(d))
                laws.append(asdict(point))
            for rank, j in enumerate(np.argsort(-rates), 1):
                saved = float(worth[j].mean()), standard_error(worth[j])
                dimensions.append(asdict(DimensionPoint(*names, rank, float(rates[j]), *saved)))
            write_rows(paths[0], laws)
            write_rows(paths[1], dimensions)  # last: it says that the cell is finished
    return paths
