"""The experiment `disentanglement`: do single dimensions of `z` stand for single factors of the images?

Trained models encode images of all combinations of the factors, also where they have seen a dependent part of them only. An
image sends `f(x)`, and `z = f(x) + S(x) e` with echoes `e` from the reservoir of training examples: never from the images at
hand, which in a batch with a factor fixed would have the wrong law.
"""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.load import load_dataset
from echo_tf.data.sprites import DEPENDENT, factor_sizes, factors_of
from echo_tf.experiments.analysis import rate_by_dimension
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.encodings import as_uint8
from echo_tf.experiments.points import PointTable, model_key
from echo_tf.experiments.run import load_model
from echo_tf.experiments.scores import (
    TABLE,
    ScorePoint,
    active_dimensions,
    dci,
    factor_vae_score,
    gaussian_total_correlation,
    mutual_information_gaps,
    pictures_name,
)
from echo_tf.experiments.suitable import check_factors
from echo_tf.files import locked, replacing

IMAGES = 10_000  # at most, of all combinations
DIMENSIONS, STEPS = 5, 7  # of a traversal
QUANTILES = np.linspace(0.02, 0.98, STEPS)


def images_with_factors(name: str, data_dir: Path | None = None, most: int = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    """Images of all combinations of the factors, or of `most` of them drawn at random, and the factors.

    Returns:
        float32 images of shape `(n, 64, 64, 1)` and integers of shape `(n, 5)`.
    """
    full = load_dataset(name.removesuffix(DEPENDENT), data_dir)
    splits = list(full.splits)
    combinations = np.concatenate([full.labels[split] for split in splits])
    chosen = np.random.default_rng(0).permutation(len(combinations))[:most]
    images, start = np.empty((len(chosen), *full.shape), np.float32), 0
    for split in splits:  # without a copy of all of dSprites
        inside = (chosen >= start) & (chosen < start + len(full.raw(split)))
        images[inside] = full.raw(split)[chosen[inside] - start]
        start += len(full.raw(split))
    return images, factors_of(combinations[chosen], factor_sizes(name))


def encode(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Codes of images by kind, `"mean"` and `"sample"`, each of shape `(n, dim)`. No code depends on the other images."""
    features = model.features(images)
    mean, _ = model.channel.mean_and_scale(features)
    if hasattr(model.channel, "with_noise"):  # f(x) of Echo, in the units of z
        mean = model.channel.with_noise(features, ops.zeros_like(mean))
    return {"mean": ops.convert_to_numpy(mean), "sample": ops.convert_to_numpy(model.channel.draw(features, training=False).z)}


def score(codes: np.ndarray, factors: np.ndarray, variance: np.ndarray, seed: int) -> dict[str, float]:
    """All scores of codes; `variance` is that of `z`, shape `(dim,)`. The keys are columns of `ScorePoint`."""
    active = active_dimensions(codes, variance)
    found = dci(codes, factors, seed)
    return {
        "active": int(active.sum()),
        "factor_vae": factor_vae_score(codes, factors, np.random.default_rng(seed), active),
        "mig": float(mutual_information_gaps(codes, factors).mean()),
        "dci_disentanglement": found.disentanglement,
        "dci_completeness": found.completeness,
        "dci_informativeness": found.informativeness,
        "total_correlation_nats": gaussian_total_correlation(codes, active),
    }


def traverse(model: keras.Model, samples: np.ndarray, rates: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Decoded images along single dimensions of `z`, those of the highest rates, between quantiles of their draws.

    Args:
        model: The model.
        samples: Draws of `z`, shape `(n, dim)`.
        rates: Rate by dimension, shape `(dim,)`.
        start: The `z` whose other dimensions stay, shape `(dim,)`.

    Returns:
        uint8, shape `(dimensions, steps, 64, 64)`.
    """
    chosen = np.argsort(-rates)[:DIMENSIONS]
    z = np.tile(start, (len(chosen), STEPS, 1))
    for row, j in enumerate(chosen):
        z[row, :, j] = np.quantile(samples[:, j], QUANTILES)
    images = model.decode(z.reshape(-1, z.shape[-1])).reshape(len(chosen), STEPS, *model.decoder.output_shape[1:3])
    return as_uint8(images)


def run(folder: Path, cells: list[Cell], out: Path, data_dir: Path | None = None) -> Path:
    """Score trained models and decode their traversals, as far as that is not on disk. Returns the table.

    Args:
        folder: Where `scores.csv` and the traversals go.
        cells, out: See `noise.run`.
        data_dir: As in `load_dataset`.

    Raises:
        ConfigError: as `check_factors`.
        CellError, ResultError: as `noise.run`.
    """
    check_factors([cell.dataset for cell in cells], cells)
    with locked(folder):
        table = PointTable(folder / TABLE, ScorePoint)
        images, factors = images_with_factors(cells[0].dataset, data_dir)
        for cell in cells:
            if (key := model_key(cell)) in table:
                continue
            model = load_model(cell.folder(out))
            codes, rates = encode(model, images), rate_by_dimension(model.channel, model.features(images))
            variance = codes["sample"].var(axis=0)
            scores = {kind: score(values, factors, variance, cell.config.seed) for kind, values in codes.items()}
            pictures = traverse(model, codes["sample"], rates, codes["mean"][0])
            with replacing(folder / pictures_name(cell.config.method, cell.folder(out).name)) as temporary:
                np.savez_compressed(temporary, images=pictures, rates=np.sort(rates)[::-1][: len(pictures)])
            # Last: it says that the cell is finished.
            table.put([ScorePoint(*key, kind, float(rates.sum()), **found) for kind, found in scores.items()])  # type: ignore[arg-type]
    return table.path
