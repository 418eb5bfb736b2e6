"""Is Echo's rate exact? Independent estimates of I(X; Z) beside -E log s, and where the formula ends.

Every estimate uses pairs `(x, z)` whose batches are independent: examples of one batch depend on each other through their
noise. Rates in nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops
from scipy.stats import sem

from echo_tf import theory
from echo_tf.echo.bound import max_scale
from echo_tf.echo.noise import echo_noise

REPEATS = 10
PAIRS_PER_CALL = 250
DRAWS, BINS = 200_000, 4_000  # of the noise of finite data, and its histogram


@dataclass(frozen=True)
class Estimate:
    """One estimate of I(X; Z) in nats, mean and standard error over repeated samples, beside the formula -E log s."""

    case: str
    sampler: str
    replace: bool
    d_max: int
    batch: int
    estimator: str
    formula_nats: float
    estimate_nats: float
    estimate_se: float


# --- Channels to look at ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An Echo channel on standard normal data: `statistics(x, d_max) -> (f, log s)`, `log r` included."""

    name: str
    dim: int
    statistics: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    estimators: tuple[Callable, ...]
    samplers: tuple[str, ...] = ("ring", "gather")
    pairs: int = 4_000  # with so few, nearest neighbours find 3 % too little in four dimensions


def _gaussian(x, d_max):
    return x, np.full_like(x, math.log(0.5))


def _tanh(x, d_max):
    return np.tanh(x), math.log(max_scale(d_max)) - np.logaddexp(0.0, -x)


def _tanh_2d(x, d_max):
    # More noise than above: in four dimensions nearest neighbours miss part of a large information.
    mixed = x @ np.array([[1.0, 0.5], [-0.5, 1.0]], dtype=x.dtype)
    return np.tanh(mixed), math.log(max_scale(d_max)) - np.logaddexp(0.0, -2.0 - mixed)


CASES = (
    Case("Gaussian, s = 1/2", 1, _gaussian, (theory.correlation_information, theory.nearest_neighbour_information)),
    Case("tanh, s(x)", 1, _tanh, (theory.nearest_neighbour_information, theory.histogram_information, theory.regression_bound)),
    Case("tanh, s(x), two-dimensional", 2, _tanh_2d, (theory.nearest_neighbour_information,), ("ring",), pairs=16_000),
)

# (d_max, batch) for the largest scale. With replacement 20 / (1 - r) examples are needed: 122 for 99 echoes, 1,016 for 999.
SETTINGS = ((9, 10), (99, 100), (99, 1_000), (999, 1_000))
REPLACEMENT_SETTINGS = ((9, 10), (99, 1_000), (99, 100), (99, 20), (999, 1_000), (999, 100))


def independent_pairs(case: Case, d_max: int, batch: int, sampler: str, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Pairs of `x` and `z` from batches of independent data, and the formula.

    Batches lie side by side along an inner axis, on which `echo_noise` does not mix; of each only the first example is used.
    Those of one call share the order of their echoes, which does not depend on the data.

    Returns:
        `x` and `z`, each of shape `(case.pairs, case.dim)`, and the mean of `-sum_j log s_j(x)` over the pairs, nats.
    """
    rng, generator = np.random.default_rng(seed), keras.random.SeedGenerator(seed)
    xs, zs, rates = [], [], []
    for _ in range(case.pairs // PAIRS_PER_CALL):
        x = rng.standard_normal((batch, PAIRS_PER_CALL, case.dim), dtype=np.float32)
        mean, log_scale = case.statistics(x, d_max)
        noise = ops.convert_to_numpy(echo_noise(mean, log_scale, d_max=d_max, sampler=sampler, seed=generator))
        xs.append(x[0])
        zs.append(mean[0] + np.exp(log_scale[0]) * noise[0])
        rates.append(-log_scale[0].sum(axis=-1))
    return np.concatenate(xs).astype(np.float64), np.concatenate(zs).astype(np.float64), float(np.mean(rates))


def order_bounds(d_max: int, batch: int, sampler: str, replace: bool, seed: int) -> tuple[float, float]:
    """Lower and upper bound of I(X; Z) of the channel `f(x) = x`, `s = r` on Gaussian data, without sampled data.

    Given the order of the echoes `z_i = sum_k a_ik x_k` is Gaussian; the coefficients are what the channel makes of the unit
    vectors. Upper bound: `E 1/2 log( sum_k a_ik^2 / sum_{k != i} a_ik^2 )`, the information if the order, which is independent
    of `x`, were known. Lower bound: that of the joint second moments, `-1/2 log(1 - rho^2)` with
    `rho^2 = (E a_ii)^2 / E sum_k a_ik^2`. Without replacement every order has the same terms, and the two agree.

    Means are over the orders of one or more batches, at least 1,000 examples.
    """
    unit_vectors = np.eye(batch, dtype=np.float32)
    log_scale = np.full_like(unit_vectors, math.log(max_scale(d_max)))
    options = {"d_max": d_max, "sampler": sampler, "replace": replace, "seed": keras.random.SeedGenerator(seed)}
    owns, totals = [], []
    for _ in range(math.ceil(1_000 / batch)):
        noise = ops.convert_to_numpy(echo_noise(unit_vectors, log_scale, **options))
        coefficients = unit_vectors + max_scale(d_max) * noise.astype(np.float64)
        owns.append(np.diag(coefficients))
        totals.append(np.square(coefficients).sum(axis=1))
    own, total = np.concatenate(owns), np.concatenate(totals)
    squared_correlation = np.mean(own) ** 2 / np.mean(total)
    return float(-0.5 * np.log1p(-squared_correlation)), float(np.mean(-0.5 * np.log1p(-np.square(own) / total)))


def study() -> list[Estimate]:
    """All estimates: samplers and estimators on three channels, then `d_max` and the batch, without and with replacement."""
    settings = [(case, sampler) for case in CASES for sampler in case.samplers]
    estimates = [e for i, (case, sampler) in enumerate(settings) for e in _estimates(case, sampler, 1_000 * i)]
    for replace, limits in ((False, SETTINGS), (True, REPLACEMENT_SETTINGS)):
        for d_max, batch in limits:
            bounds = np.array([order_bounds(d_max, batch, "ring", replace, seed) for seed in range(REPEATS)])
            setting, formula = ("Gaussian, s = r", "ring", replace, d_max, batch), -math.log(max_scale(d_max))
            for name, values in zip(("lower bound", "upper bound"), bounds.T, strict=True):
                estimates.append(Estimate(*setting, name, formula, float(values.mean()), float(sem(values))))
    return estimates


def _estimates(case: Case, sampler: str, seed: int) -> list[Estimate]:
    samples = [independent_pairs(case, 99, 100, sampler, seed + i) for i in range(REPEATS)]
    formula = float(np.mean([rate for _, _, rate in samples]))
    estimates = []
    for estimator in case.estimators:
        # The formula of the same examples is subtracted, so that the spread of s(x) over examples cancels.
        differences = np.array([estimator(x, z) - rate for x, z, rate in samples])
        mean, error = formula + float(differences.mean()), float(sem(differences))
        estimates.append(Estimate(case.name, sampler, False, 99, 100, estimator.__name__, formula, mean, error))
    return estimates


# --- Finite data --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saturation:
    """I(X; Z) for `x` uniform on so many equally spaced points and constant scale, beside -log s. Nats."""

    points: int
    formula_nats: float
    information_nats: float


def saturation(points: int, scale: float) -> Saturation:
    """The information that reaches `z` when `x` takes finitely many values `f` in [-1, 1].

    `I = log N - H(X|Z)`, with the posterior from a histogram of the noise, which lies within `1 / (1 - s)`. If `s < 1/N` the
    noise is a Cantor set whose N copies in `z` do not overlap: `z` tells `x`, and `I = log N`, whatever `-log s` says. The
    formula needs noise with a density.

    Args:
        points: Integer N >= 2.
        scale: `s` in (0, 1).
    """
    rng = np.random.default_rng(0)
    means = np.linspace(-1.0, 1.0, points)
    terms = math.ceil(math.log(1e-9) / math.log(scale)) + 1
    limit = 1.0 / (1.0 - scale) + 1e-9

    def noise():
        total = np.zeros(DRAWS)
        for _ in range(terms):
            total = rng.choice(means, DRAWS) + scale * total
        return total

    density = np.histogram(noise(), BINS, (-limit, limit))[0]
    x = rng.integers(0, points, DRAWS)
    z = means[x] + scale * noise()
    places = np.floor(((z[:, None] - means) / scale + limit) * (BINS / (2.0 * limit))).astype(int)
    within = (places >= 0) & (places < BINS)
    posterior = np.where(within, density[np.clip(places, 0, BINS - 1)], 0).astype(np.float64)
    total = posterior.sum(axis=1)
    own = posterior[np.arange(DRAWS), x]
    seen = own > 0  # a bin that the first sample missed
    information = np.log(points) + np.mean(np.log(own[seen] / total[seen]))
    return Saturation(points, float(-np.log(scale)), float(information))
