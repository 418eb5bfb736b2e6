"""The experiment `theory`: exact curves, learned models beside them, and the exactness of Echo's rate, as CSV files.

Keras is imported where something is computed with it, so that a report on the files needs none.
"""

import itertools
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from echo_tf.experiments.points import PointTable
from echo_tf.files import locked, write_rows
from echo_tf.theory import rd_curve, to_bits
from echo_tf.theory.sources import BINARY_SOURCE, all_sources

logger = logging.getLogger(__name__)

BINARY_SLOPES = np.geomspace(0.05, 20.0, 30)
CURVE_POINTS = 100
SATURATION_POINTS = (2, 4, 16)
NOISE_EXAMPLES, NOISE_ECHOES = 2_000, 20  # s is 0.4 at most, and 0.4^20 is nothing
SATURATION_FORMULAS = np.linspace(0.1, 4.0, 14)  # -log s


def run(folder: Path, seeds: int) -> None:
    """Make what is missing of the experiment's tables (`TABLES`).

    Args:
        folder: Where the CSV files lie. Files, and models in `learned.csv`, that are there are not made again, by whatever
            version they were made.
        seeds: Number of seeds of the learned models.

    Raises:
        CellError: another process works in `folder`.
        ResultError: `learned.csv` is damaged.
    """
    from echo_tf.experiments.source_models import CHANNELS, LearnedPoint, learn_curve

    with locked(folder):
        for name, make in _MAKERS.items():
            if not (folder / name).exists():
                logger.info("making %s", name)
                write_rows(folder / name, make())
        learned = PointTable(folder / LEARNED, LearnedPoint, ("source", "channel", "seed"))
        for source, channel, seed in itertools.product(all_sources(), CHANNELS, range(seeds)):
            if (source.name, channel, seed) not in learned:
                logger.info("training: %s, %s channel, seed %d", source.name, channel, seed)
                learned.put(learn_curve(source, channel, seed))


def _binary_source() -> list[dict]:
    rows = []
    for point in rd_curve(BINARY_SOURCE, 1.0 - np.eye(2), BINARY_SLOPES):
        rates = {"rate_nats": point.rate, "rate_bits": float(to_bits(point.rate))}
        rows.append({"slope": point.slope, **rates, "distortion": point.distortion, "gap_nats": point.gap})
    return rows


def _exact_curves() -> list[dict]:
    """R(D) of every source between the distortions of a rate of 0 and of well above what is learned."""
    rows = []
    for source in all_sources():
        for distortion in np.geomspace(*source.distortions, CURVE_POINTS):
            rows.append({"source": source.name, "distortion": distortion, "rate_nats": float(source.rate(distortion))})
    return rows


def _exactness() -> list[dict]:
    from echo_tf.experiments.exactness import study

    return [asdict(estimate) for estimate in study()]


def _saturation() -> list[dict]:
    from echo_tf.experiments.exactness import saturation

    settings = itertools.product(SATURATION_POINTS, SATURATION_FORMULAS)
    return [asdict(saturation(points, float(np.exp(-formula)))) for points, formula in settings]


def _noise() -> list[dict]:
    """A ring in the plane through an Echo channel, and through a Gaussian one whose noise has the same mean and covariance."""
    from keras import ops

    from echo_tf.echo.noise import echo_noise

    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0.0, 2 * np.pi, NOISE_EXAMPLES), rng.normal(0.9, 0.03, NOISE_EXAMPLES)
    signal = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    log_scale = np.log(0.25 + 0.15 * np.cos(2 * angle))[:, None] * np.ones(2)
    echo = ops.convert_to_numpy(echo_noise(signal, log_scale, d_max=NOISE_ECHOES, sampler="gather", seed=0))
    gaussian = rng.multivariate_normal(echo.mean(axis=0), np.cov(echo, rowvar=False), NOISE_EXAMPLES)
    clouds = {
        "signal": signal,
        "echo_noise": echo,
        "echo_output": signal + np.exp(log_scale) * echo,
        "gaussian_noise": gaussian,
        "gaussian_output": signal + np.exp(log_scale) * gaussian,
    }
    columns = {f"{name}_{j + 1}": np.round(points[:, j], 4) for name, points in clouds.items() for j in range(2)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# Each is called as the function that makes it.
_MAKERS = {f"{make.__name__[1:]}.csv": make for make in (_binary_source, _exact_curves, _exactness, _saturation, _noise)}
LEARNED = "learned.csv"
TABLES = (*_MAKERS, LEARNED)
