"""The experiment `likelihood`: `log p(x)` of trained models by annealed importance sampling, for all methods alike.

-ELBO is above `-log p(x)` by how far the encoder is from the posterior, and Echo has no density `q(z|x)` for importance
sampling. Annealing needs the decoder and a marginal with a density: that of the model, N(0, I) or learnt. Echo's own, the law
of its noise, has none; in its place stands a MAF fitted to `q(z)` afterwards. What is measured then is Echo's decoder with
that marginal, a model that one can sample from, but not quite Echo.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.dataset import Dataset
from echo_tf.errors import ConfigError
from echo_tf.experiments.annealed import TABLE, AnnealedPoint
from echo_tf.experiments.annealing import Annealer, Latents, above, below, check_backend
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.evaluation import evaluate, standard_error
from echo_tf.experiments.fitted import STEPS, fit_marginal
from echo_tf.experiments.points import MODEL, PointTable, model_key
from echo_tf.experiments.run import load_model
from echo_tf.files import locked
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.losses import gaussian_log_density

logger = logging.getLogger(__name__)

SIMULATED = 100  # examples for the bounds from both sides, and as many to set the size of the moves
AT_ONCE = 200  # chains that a machine of small memory holds


@dataclass(frozen=True)
class Effort:
    """What is measured: `images` drawn at random from the split, with so many `chains` for each, of so many `temperatures`."""

    images: int = 1_000
    temperatures: int = 500
    chains: int = 1


def latents_of(model: RateDistortionModel, train: np.ndarray, steps: int = STEPS, seed: int = 0) -> Latents:
    """The marginal that a trained model is measured with: its own where that has a density, else a MAF fitted to `q(z)`.

    Args:
        model: The model.
        train: Training images, float32, for the fit.
        steps, seed: See `fit_marginal`.
    """
    channel, prior = model.channel, model.prior
    if not channel.has_density:
        fitted = fit_marginal(channel, model.features(train), steps, seed)
        return Latents(fitted.sample, fitted.log_prob, model.decoder)
    if prior is None:
        return Latents(channel.sample_marginal, lambda z: gaussian_log_density(z, 0.0, 0.0), model.decoder)
    if not prior.needs_components:
        return Latents(prior.sample, prior.log_prob, model.decoder)
    components = model.components() or ()  # in front of the flow, where there is one
    return Latents(
        lambda n: prior.sample(n, *components),
        lambda z: prior.log_prob(z, *components),
        lambda z: model.decoder(channel.transform(z)),
    )


def measure(
    model: RateDistortionModel, latents: Latents, images: np.ndarray, effort: Effort, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Measure a decoder with a marginal.

    Args:
        model: The trained model, of which the law `p(x|z)` is taken.
        latents: The marginal.
        images: Held-out images, float32, shape `(n, ...)`.
        effort: Its `temperatures` and `chains`.
        seed: Integer.

    Returns:
        Estimates of `log p(x)` of the images, below it in expectation, shape `(n,)`; upper less lower bound for `SIMULATED`
        examples drawn from decoder and marginal; and the share of accepted proposals. In nats.
    """
    keras.utils.set_random_seed(seed)
    annealer = Annealer(latents, model.distortion, effort.temperatures)

    def simulate():
        z = latents.draw(SIMULATED)
        return z, ops.convert_to_numpy(model.distortion.sample(latents.decode(z)))

    def repeated(run: Callable, *arrays) -> np.ndarray:
        """Log weights of all chains, shape `(chains, n)`."""
        cuts = range(0, len(arrays[0]), AT_ONCE)
        once = [lambda i=i: run(*(values[i : i + AT_ONCE] for values in arrays)) for i in cuts]
        return np.array([np.concatenate([part() for part in once]) for _ in range(effort.chains)])

    acceptance = float(annealer.tune(simulate()[1]).mean())
    z, simulated = simulate()
    gaps = above(repeated(annealer.backward, simulated, z)) - below(repeated(annealer.forward, simulated))
    return below(repeated(annealer.forward, images)), gaps, acceptance


def check_measurable(cells: list[Cell]) -> None:
    """Raise `ConfigError` if there is a cell whose marginal is not known, or a backend other than TensorFlow."""
    check_backend()
    for cell in cells:
        config = cell.config
        if config.prior.kind == "vamp" and config.prior.average == "logs":
            raise ConfigError(
                f"{config.method} has no likelihood: the average of log densities in its VampPrior is no density."
            )


def run(folder: Path, cells: list[Cell], dataset: Dataset, out: Path, split: str = "test", effort: Effort = Effort()) -> Path:
    """Measure trained models, as far as that is not on disk.

    Args:
        folder: Where the table goes.
        cells: Cells of one data set that are finished.
        dataset: Their data set, before any holdout.
        out: Folder of all cells.
        split: Images to measure with.
        effort: How many of them, and how long the chains are. Rows of another effort stay.

    Returns:
        The table.

    Raises:
        ConfigError: as `check_measurable`.
        CellError: a cell is not trained, or another process works in the folder.
        ResultError: the table is damaged.
    """
    check_measurable(cells)
    with locked(folder):
        table = PointTable(folder / TABLE, AnnealedPoint, (*MODEL, "split", "images", "temperatures", "chains"))
        for cell in cells:
            data = dataset.holdout(cell.holdout) if cell.holdout else dataset
            images = data.images(split)
            if len(images) < effort.images:
                logger.warning("%s has %d images of the split %s: all are measured.", data.name, len(images), split)
            images = images[np.random.default_rng(0).permutation(len(images))[: effort.images]]  # the same for all models
            point = {**_described(cell), "split": split, **asdict(effort), "images": len(images)}
            if any(point.items() <= row.items() for row in table.rows):
                continue
            model, seed = load_model(cell.folder(out)), cell.config.seed
            point |= _measured(model, latents_of(model, data.images("train"), seed=seed), images, effort, seed)
            table.put([AnnealedPoint(**point)])
    return table.path


def _described(cell: Cell) -> dict:
    channel = cell.config.channel
    marginal = "fitted" if channel.is_echo and channel.gaussian_at == 1 else "own"
    return {**dict(zip(MODEL, model_key(cell), strict=True)), "marginal": marginal}


def _measured(model: RateDistortionModel, latents: Latents, images: np.ndarray, effort: Effort, seed: int) -> dict[str, float]:
    """The measured columns of a row."""
    sums = evaluate(model, images, seed=seed)
    neg_elbo = (sums.rate + sums.distortion).mean(axis=0)
    lower, gaps, acceptance = measure(model, latents, images, effort, seed)
    return {
        "neg_log_likelihood_nats": float(-lower.mean()),
        "neg_log_likelihood_se": standard_error(lower),
        "simulated": len(gaps),
        "gap_nats": float(gaps.mean()),
        "gap_se": standard_error(gaps),
        "acceptance": acceptance,
        "neg_elbo_nats": float(neg_elbo.mean()),
        "lowered_nats": float((neg_elbo + lower).mean()),
        "lowered_se": standard_error(neg_elbo + lower),
    }
