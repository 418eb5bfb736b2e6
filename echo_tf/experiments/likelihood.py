"""The experiment `likelihood`: `log p(x)` of trained models by annealed importance sampling, for all methods alike.

-ELBO is above `-log p(x)` by how far the encoder is from the posterior, and Echo has no density `q(z|x)` for importance
sampling. Annealing needs the decoder and a marginal with a density. That of a model, N(0, I) or learnt, is one. Echo's own, the
law of its noise, has none; in its place stands a MAF fitted to `q(z)` afterwards. What is measured then is Echo's decoder with
that marginal, a model that one can sample from, but not quite Echo. So that the comparison is fair, models with the marginal
N(0, I) are measured with such a MAF too.
"""

import itertools
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_type_hints

import keras
import numpy as np
from keras import ops

from echo_tf.data.dataset import Dataset
from echo_tf.echo.source import RESERVOIR_SIZE
from echo_tf.experiments.annealed import EFFORT, KEY, PAIRS, TABLE, AnnealedPoint, PairPoint, images_name
from echo_tf.experiments.annealing import Annealer, Latents, Start, above, below
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.evaluation import evaluate, standard_error
from echo_tf.experiments.fitted import STEPS, fit_marginal
from echo_tf.experiments.points import PointTable, model_key
from echo_tf.experiments.run import held_out, load_model
from echo_tf.experiments.suitable import check_likelihood
from echo_tf.files import locked, replacing
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.config import Config
from echo_tf.models.losses import gaussian_log_density

logger = logging.getLogger(__name__)

SIMULATED = 100  # examples for the bounds from both sides, and as many to set the size of the moves
AT_ONCE = 200  # chains that a machine of small memory holds
ENCODINGS = 600  # draws of z, whose mean and covariance chains start from


@dataclass(frozen=True)
class Effort:
    """What is measured: `images` drawn at random from the split, with so many `chains` for each, of so many `temperatures`."""

    images: int = 1_000
    temperatures: int = 100
    chains: int = 1


def marginals(config: Config) -> tuple[str, ...]:
    """The marginals that a model is measured with: `own` where it has a density, `fitted` where it has no parameters."""
    has_density = not config.channel.is_echo or config.channel.gaussian_at < 1
    own, fitted = ("own",) if has_density else (), ("fitted",) if config.prior.kind == "own" else ()
    return own + fitted


def latents_of(
    model: RateDistortionModel, train: np.ndarray, marginal: str = "own", steps: int = STEPS, seed: int = 0
) -> Latents:
    """Marginal and decoder of a trained model.

    Args:
        model: The model.
        train: Training images, float32, for the fit.
        marginal: One of those that `marginals` names.
        steps, seed: See `fit_marginal`.
    """
    channel, prior = model.channel, model.prior
    if marginal == "fitted":
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


def start_of(model: RateDistortionModel, images: np.ndarray) -> Start:
    """Where chains of images start: Gaussians with mean and covariance of what the encoder sends for each."""
    features, channel = model.features(images), model.channel
    in_front = model.prior is not None and model.prior.needs_components  # of a flow, as in `latents_of`

    def encodings(repeated):
        draw = channel.draw(repeated, training=False)
        return draw.density.base if in_front else draw.z

    calls = -(-ENCODINGS // (each := max(1, RESERVOIR_SIZE // len(images))))  # of more draws in a call some are the same
    repeated = ops.tile(features, (each, 1))
    drawn = [ops.convert_to_numpy(encodings(repeated)).reshape(each, len(images), -1) for _ in range(calls)]
    return Start.of(np.concatenate(drawn))


def measure(
    model: RateDistortionModel, latents: Latents, images: np.ndarray, effort: Effort, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Measure a decoder with a marginal.

    Args:
        model: The trained model, of which the law `p(x|z)` is taken, and where chains start.
        latents: Marginal and decoder.
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
        x = ops.convert_to_numpy(model.distortion.sample(latents.decode(z)))
        return x, start_of(model, x), z

    def repeated(run: Callable, *arrays) -> np.ndarray:
        """Log weights of all chains, shape `(chains, n)`."""
        return np.array([run(*arrays) for _ in range(effort.chains)])

    x, start, _ = simulate()
    acceptance = float(annealer.tune(x, start).mean())
    x, start, z = simulate()
    gaps = above(repeated(annealer.backward, x, start, z)) - below(repeated(annealer.forward, x, start))
    parts = (images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE))
    return np.concatenate([below(repeated(annealer.forward, part, start_of(model, part))) for part in parts]), gaps, acceptance


def run(folder: Path, cells: list[Cell], dataset: Dataset, out: Path, split: str = "test", effort: Effort = Effort()) -> Path:
    """Measure trained models, as far as that is not on disk.

    Args:
        folder: Where the table goes, and a file of the estimates of all images for each row.
        cells, dataset, out, split: See `noise.run`.
        effort: How many of them, and how long the chains are. Rows of another effort stay.

    Returns:
        The table. That of the differences of pairs is beside it.

    Raises:
        ConfigError: as `check_likelihood`.
        CellError, ResultError: as `noise.run`.
    """
    check_likelihood([dataset.name], cells)
    with locked(folder):
        table = PointTable(folder / TABLE, AnnealedPoint, KEY)
        for cell in cells:
            data = held_out(cell, dataset)
            images = data.images(split)
            if len(images) < effort.images:
                logger.warning("%s has %d images of the split %s: all are measured.", data.name, len(images), split)
            images = images[np.random.default_rng(0).permutation(len(images))[: effort.images]]  # the same for all models
            for marginal in marginals(cell.config):
                key = (*model_key(cell), marginal, split, len(images), effort.temperatures, effort.chains)
                if key in table:
                    continue
                logger.info("%s, marginal %s", cell.folder(out), marginal)
                model, seed = load_model(cell.folder(out)), cell.config.seed
                latents = latents_of(model, data.images("train"), marginal, seed=seed)
                lower, measured = _measured(model, latents, images, effort, seed)
                point = AnnealedPoint(*key, **measured)  # type: ignore[arg-type]
                with replacing(folder / images_name(asdict(point))) as temporary:
                    np.save(temporary, lower)
                table.put([point])  # last: it says that this is finished
        _compare(folder, table.rows)
    return table.path


def _compare(folder: Path, rows: list[dict]) -> None:
    """Write the differences of all pairs of rows about the same images, trained alike but for the method."""
    names = [name for name in get_type_hints(PairPoint) if not name.startswith("difference")]
    pairs, alike = PointTable(folder / PAIRS, PairPoint, names), ("dataset", "cell", *EFFORT)
    for row, other in itertools.combinations(rows, 2):
        files = [folder / images_name(one) for one in (row, other)]
        if any(row[name] != other[name] for name in alike) or not all(map(Path.exists, files)):
            continue  # tables that were published, and rows of earlier versions, have no such files
        first, second = (np.load(file, allow_pickle=False) for file in files)
        key = (*(row[name] for name in alike), *(one[name] for one in (row, other) for name in ("method", "marginal")))
        pairs.put([PairPoint(*key, float(np.mean(second - first)), standard_error(second - first))])  # type: ignore[call-arg]


def _measured(
    model: RateDistortionModel, latents: Latents, images: np.ndarray, effort: Effort, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Estimates of all images, and the measured columns of a row."""
    sums = evaluate(model, images, seed=seed)
    neg_elbo = (sums.rate + sums.distortion).mean(axis=0)
    lower, gaps, acceptance = measure(model, latents, images, effort, seed)
    return lower, {
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
