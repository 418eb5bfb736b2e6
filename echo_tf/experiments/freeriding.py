"""The experiment `freeriding`: does a decoder that can do without `z` take anything from it?

A PixelCNN sees the pixels before the one it describes. A VAE then may send nothing; Echo sends at least its floor, whether or
not the decoder listens. So the rate does not say what is used, and it is measured here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from scipy.special import logsumexp

from echo_tf.data.dataset import Dataset
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.evaluation import standard_error
from echo_tf.experiments.inputs import Input
from echo_tf.experiments.points import PointTable
from echo_tf.experiments.records import Result, read_result, result_path
from echo_tf.experiments.run import held_out, load_model
from echo_tf.experiments.suitable import check_pixels
from echo_tf.experiments.used import TABLE, UsedPoint, pictures_name
from echo_tf.files import locked, replacing
from echo_tf.models.examples import some_examples
from echo_tf.models.networks import network_for

IMAGES, OTHERS = 128, 256  # images that are measured, and encodings of others beside each
AT_ONCE = 16  # images in one pass, each with all of the others
SHOWN, DRAWS = 4, 7  # images, and draws of the decoder for the z of each


@dataclass(frozen=True)
class Used:
    """Of each image in nats, arrays of shape `(n,)`; see `measure`."""

    used: np.ndarray
    certain: np.ndarray
    shuffled: np.ndarray


def measure(model: keras.Model, images: np.ndarray, training_images: np.ndarray, seed: int = 0) -> Used:
    """What the decoder of a trained model takes from `z`.

    With one `z` of each image and `z_1, ..., z_K` of others:

        used     = log p(x|z) - log 1/K sum_k p(x|z_k)
        certain  = log p(x|z) - log 1/(K+1) [p(x|z) + sum_k p(x|z_k)]
        shuffled = log p(x|z) - log p(x|z')

    `z'` is that of another of the images. For many `K` the mean of `used` is `E log p(x|z) / p(x)` with `p(x) = E p(x|z)` over
    the marginal of `z`, which is at most `I(X; Z)` where images and others have one law; for finite `K` it is too large in
    expectation. The mean of `certain` is at most `I(X; Z)` and at most `log(K + 1)`. A decoder that does not listen has 0 in
    all three; one that a wrong `z` misleads, but that does as well without any, has a large third one alone.

    Args:
        model: A trained `RateDistortionModel`.
        images: float32, shape `(n, ...)`, n > 1.
        training_images: The same for the others, of which `OTHERS` or fewer are taken from all over.
        seed: Integer, for which image has the `z` of which.

    Returns:
        The `Used`.

    Source: Poole et al. 2019, "On variational bounds of mutual information", equation 12 (`certain`).
    """
    z, others = model.encode(images), model.encode(some_examples(training_images, OTHERS))
    own = -model.distortion_of(z, images)
    crossed = np.concatenate([_crossed(model, images[i : i + AT_ONCE], others) for i in range(0, len(images), AT_ONCE)])
    ring = np.random.default_rng(seed).permutation(len(images))
    wrong = np.empty(len(images), int)
    wrong[ring] = np.roll(ring, 1)  # no image has its own
    together = np.column_stack([own, crossed])
    return Used(
        used=own - logsumexp(crossed, axis=1) + np.log(len(others)),
        certain=own - logsumexp(together, axis=1) + np.log(together.shape[1]),
        shuffled=own + model.distortion_of(z[wrong], images),
    )


def _crossed(model: keras.Model, images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`log p(x|z)` of every image with every `z`, shape `(images, others)`."""
    x, z = np.repeat(images, len(others), axis=0), np.tile(others, (len(images), 1))
    return -model.distortion_of(z, x).reshape(len(images), len(others))


def draws(model: keras.Model, images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draws of `p(x|z)`, several for one `z` of each image: uint8 of 0 and 1, shape `(images, DRAWS, height, width)`."""
    found = model.decode(np.repeat(model.encode(images), DRAWS, axis=0))
    if not model.takes_example:  # these are probabilities
        found = np.random.default_rng(seed).uniform(size=found.shape) < found
    return found.astype(np.uint8).reshape(len(images), DRAWS, *images.shape[1:3])


def check_cells(cells: list[Cell], data: Mapping[str, Input | Dataset]) -> None:
    """`check_pixels`, and `ConfigError` for networks that do not fit the images."""
    check_pixels(data, cells)
    for cell in cells:
        network_for(cell.config.network.kind, data[cell.dataset].shape)


def run(folder: Path, cells: list[Cell], dataset: Dataset, out: Path, split: str = "test") -> Path:
    """Measure trained models and draw from their decoders, as far as that is not on disk. Returns the table.

    Args:
        folder: Where `used.csv` and the draws go.
        cells, dataset, out, split: See `noise.run`.

    Raises:
        ConfigError: as `check_cells`.
        CellError, ResultError: as `noise.run`.
    """
    check_cells(cells, dict.fromkeys((cell.dataset for cell in cells), dataset))
    with locked(folder):
        table = PointTable(folder / TABLE, UsedPoint, ("method", "cell", "split"))
        for cell in cells:
            home = cell.folder(out)
            if (cell.config.method, home.name, split) in table:
                continue
            model, data = load_model(home), held_out(cell, dataset)
            images = some_examples(data.images(split), IMAGES)
            found = measure(model, images, data.images("train"), cell.config.seed)
            point = _point(read_result(result_path(home, split)), found)
            shown = some_examples(images, SHOWN)
            with replacing(folder / pictures_name(asdict(point))) as temporary:
                originals = shown[..., 0].astype(np.uint8)
                np.savez_compressed(temporary, originals=originals, draws=draws(model, shown, cell.config.seed))
            table.put([point])  # last: it says that the cell is finished
    return table.path


def _point(result: Result, found: Used) -> UsedPoint:
    config, beta = result.config, result.final_beta
    measured = {f"{name}_nats": float(values.mean()) for name, values in vars(found).items()}
    measured |= {f"{name}_nats_se": standard_error(values) for name, values in vars(found).items()}
    return UsedPoint(
        dataset=result.dataset,
        method=result.method,
        cell=result.folder.name,
        split=result.split,
        epochs=result.epochs,
        beta=config.beta if beta is None else beta,
        target=result.target,
        fingerprint=result.cell.fingerprint,
        seed=config.seed,
        rate_floor_nats=config.rate_floor,
        **result.mean,
        **measured,
    )
