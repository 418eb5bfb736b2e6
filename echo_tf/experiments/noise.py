"""The experiment `noise`: what does a trained Echo model need of its noise?

The noise of a trained model is replaced by other noise, encoder, scale and decoder being what they are, and the distortion is
measured again: what the decoder relies on is what raises it when it is gone. Then each dimension of `z` is set to its mean.
Models that were *trained* with other noise (`channel.noise`) are compared by their results alone. How loose a rate is that is
not exact, a marginal says that is fitted afterwards (`fitted.py`). Whether `z` has the law of the noise, without which no rate
is exact, a two-sample test says.
"""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.dataset import Dataset
from echo_tf.echo.noise import independent_noise
from echo_tf.experiments.analysis import rate_by_dimension
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.evaluation import standard_error
from echo_tf.experiments.fitted import STEPS, measure_looseness
from echo_tf.experiments.laws import KEY, LAWS, TABLES, TESTED, DimensionPoint, FitPoint, LawPoint, LawTestPoint
from echo_tf.experiments.points import ModelKey, PointTable, model_key
from echo_tf.experiments.run import held_out, load_model
from echo_tf.experiments.suitable import check_noise, has_echo_noise, is_fittable
from echo_tf.files import locked
from echo_tf.models.examples import some_examples
from echo_tf.theory import energy_test

DRAWS = 20_000
PASSES = 5
IMAGES = 2_000  # for the dimensions, each of which takes a pass
TEST_DRAWS = 2_000
POOL = 10_000  # images that test noise is made of


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
    shown = some_examples(images, IMAGES)
    z = encodings("echo", some_examples(features, IMAGES))
    whole, worth = of(z, shown), []
    for j in range(z.shape[1]):
        without = z.copy()
        without[:, j] = z[:, j].mean()
        worth.append(of(without, shown) - whole)
    return laws, rate_by_dimension(model.channel, features), np.array(worth)


def compare_laws(model: keras.Model, images: np.ndarray, batch_size: int, seed: int = 0) -> dict[str, tuple[int, float, float]]:
    """Test whether the noise of a trained model has the law of `z`, and, for comparison, a Gaussian law.

    All draws are independent: each is made of the examples of a random batch of its own. `z = f(x) + S(x) e` is the noise with
    one more echo in front, the example that is sent. So what is tested is that `d_max` echoes are enough for these scales.

    Args:
        model: The model.
        images: Training images.
        batch_size: Integer, examples of a batch.
        seed: Integer, seeds what is drawn.

    Returns:
        Number of draws, energy distance and p-value by what the noise is tested against, in the order of `TESTED`.
    """
    rng, channel, d_max = np.random.default_rng(seed), model.channel, model.channel.source.d_max
    features = model.features(images[rng.permutation(len(images))[:POOL]])
    mean, scale = channel.statistics(ops.convert_to_tensor(features))
    count = min(TEST_DRAWS, len(features))
    batch_size = min(max(batch_size, d_max + 1), len(features))
    # Echoes that repeat (`replace`) would come from the batch of their draw alone; here all differ.
    noise, more, z = (
        independent_noise(mean, scale, terms, count, batch_size, seed=seed + k, gather=channel.gather)
        for k, terms in enumerate((d_max, d_max, d_max + 1))
    )
    units = noise.std(axis=0) + keras.config.epsilon()
    samples = {"z": z, "gaussian": draw("gaussian", more, count, rng)}
    return {law: (count, *energy_test(noise / units, samples[law] / units, seed=seed)) for law in TESTED}


def run(folder: Path, cells: list[Cell], dataset: Dataset, out: Path, split: str = "test") -> list[Path]:
    """Measure trained models, as far as that is not on disk.

    Args:
        folder: Where the `TABLES` go.
        cells: Cells of one data set that are finished.
        dataset: Their data set, before any holdout.
        out: Folder of all cells.
        split: Images to measure with.

    Returns:
        The tables.

    Raises:
        ConfigError: as `check_noise`.
        CellError: a cell is not trained, or another process works in the folder.
        ResultError: a table is damaged.
    """
    check_noise([dataset.name], cells)
    with locked(folder):
        laws, dimensions, fits, tests = tables = [PointTable(folder / name, kind, KEY) for name, kind in TABLES.items()]
        for cell in cells:
            config, data, key = cell.config, held_out(cell, dataset), (*model_key(cell), split)
            if has_echo_noise(config) and key not in dimensions:
                model = load_model(cell.folder(out))
                found, rates, worth = measure(model, data.images(split), config.seed)
                laws.put(
                    [LawPoint(*key, law, float(rates.sum()), float(d.mean()), standard_error(d)) for law, d in found.items()]
                )
                dimensions.put(_ranked(key, rates, worth))  # last: it says that this is finished
            if has_echo_noise(config) and config.channel.parametrisation != "centred" and key not in tests:
                model = load_model(cell.folder(out))
                compared = compare_laws(model, data.images("train"), config.training.batch_size, config.seed)
                tests.put([LawTestPoint(*key, law, *values) for law, values in compared.items()])
            if is_fittable(config) and key not in fits:
                model = load_model(cell.folder(out))
                noise = "own" if model.channel.has_density else "gaussian"
                images = data.images("train"), data.images(split)
                rates, gains = measure_looseness(model, *images, steps=STEPS, seed=config.seed)
                means = float(rates.mean()), float((rates - gains).mean()), float(gains.mean())
                fits.put([FitPoint(*key, noise, *means, standard_error(gains))])
    return [table.path for table in tables if table.path.exists()]


def _ranked(key: tuple[*ModelKey, str], rates: np.ndarray, worth: np.ndarray) -> list[DimensionPoint]:
    """The rows of `dimensions.csv` that `measure` gives, by falling rate."""
    ranked = enumerate(np.argsort(-rates), 1)
    return [DimensionPoint(*key, rank, float(rates[j]), float(worth[j].mean()), standard_error(worth[j])) for rank, j in ranked]
