"""Synthetic sources whose rate-distortion function is known: in closed form, or by Blahut-Arimoto with a certificate."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks
from echo_tf.theory.closed_forms import gaussian_rd, gaussian_vector_rd, laplacian_rd
from echo_tf.theory.finite import RDPoint, rd_curve

BINARY_SOURCE = (0.8, 0.2)  # Hamming distortion; no models are trained on it
MIXTURE_MEANS, MIXTURE_SD = np.array([-2.0, 2.0]), 0.5
POINTS, POINT_MASSES = np.array([-3.0, -1.0, 1.0, 3.0]), np.array([0.4, 0.3, 0.2, 0.1])

# Variances along the axes of the 16-dimensional source; at the slopes below between none and 10 dimensions lie under water.
SPECTRUM = 4.0 * 0.7 ** np.arange(16)

OCTAVES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
LAPLACIAN_SLOPES = (1.5, 2.5, 4.0, 6.0, 8.0, 12.0)

# Slopes of the curves that stand behind `rate` where there is no closed form.
CURVE_SLOPES = np.geomspace(0.05, 100.0, 60)
GRID_SIZE = 500


@dataclass(frozen=True)
class Source:
    """A source with a distortion measure.

    Attributes:
        name: Unique name.
        dim: Dimension of a sample.
        measure: `"squared"` or `"absolute"`, summed over dimensions.
        sample: `(generator, n) -> (n, dim)` float32 array.
        rate: `R(D)` in nats for an array of distortions. Where it rests on a finite grid, a lower bound of the grid's `R(D)`.
        slopes: Slopes `-dR/dD` at which to look at the source, the flattest first.
        distortions: Range of distortions worth drawing, up to that of rate 0.

    Example:
        >>> laplacian = {source.name: source for source in all_sources()}["laplacian"]
        >>> round(float(laplacian.rate(0.5)), 4)  # log 2
        0.6931
    """

    name: str
    dim: int
    measure: str
    sample: Callable[[np.random.Generator, int], np.ndarray]
    rate: Callable[[ArrayLike], np.ndarray | float]
    slopes: tuple[float, ...]
    distortions: tuple[float, float]


def all_sources() -> list[Source]:
    """A Gaussian, a correlated Gaussian vector, a Laplacian, a mixture of two Gaussians, and four points on a line."""
    spread = float(SPECTRUM.sum())
    return [
        Source("gaussian", 1, "squared", _sample_gaussian, partial(gaussian_rd, 1.0), OCTAVES, (0.01, 1.0)),
        Source("gaussian_16", 16, "squared", _sample_vector, partial(gaussian_vector_rd, SPECTRUM), OCTAVES, (0.2, spread)),
        Source("laplacian", 1, "absolute", _sample_laplacian, partial(laplacian_rd, 1.0), LAPLACIAN_SLOPES, (0.06, 1.0)),
        Source("mixture", 1, "squared", _sample_mixture, _mixture_rate, (0.2, 0.5, 2.0, 8.0, 16.0, 32.0), (0.01, 4.25)),
        Source("points", 1, "squared", _sample_points, _points_rate, (0.2, 0.5, 1.0, 4.0, 8.0, 32.0), (0.002, 4.0)),
    ]


def _sample_gaussian(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, 1), dtype=np.float32)


def _sample_vector(rng: np.random.Generator, n: int) -> np.ndarray:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    return (rng.standard_normal((n, 16)) @ (np.sqrt(SPECTRUM)[:, None] * rotation)).astype("float32")


def _sample_laplacian(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.laplace(size=(n, 1)).astype("float32")


def _sample_mixture(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.choice(MIXTURE_MEANS, (n, 1)) + MIXTURE_SD * rng.standard_normal((n, 1))).astype("float32")


def _sample_points(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice(POINTS, (n, 1), p=POINT_MASSES).astype("float32")


@cache
def _mixture_curve() -> list[RDPoint]:
    edges = np.linspace(-5.0, 5.0, GRID_SIZE + 1)
    cdf = scipy.special.ndtr((edges[:, None] - MIXTURE_MEANS) / MIXTURE_SD).mean(axis=1)
    masses, middles = np.diff(cdf) / (cdf[-1] - cdf[0]), 0.5 * (edges[1:] + edges[:-1])
    return rd_curve(masses, np.square(middles[:, None] - middles), CURVE_SLOPES, tolerance=1e-4, max_iterations=1_000)


@cache
def _points_curve() -> list[RDPoint]:
    outputs = np.linspace(POINTS[0], POINTS[-1], 601)  # the points are among them
    return rd_curve(POINT_MASSES, np.square(POINTS[:, None] - outputs), CURVE_SLOPES, tolerance=1e-6)


def _highest_supporting_line(curve: Callable[[], list[RDPoint]], distortion: ArrayLike) -> np.ndarray:
    """Lower bound of R(D) from the certificates: every point's line `rate - gap + slope (D_point - D)` lies below the curve."""
    distortion = checks.numbers("distortion", distortion, 0)
    lines = [p.rate - p.gap + p.slope * (p.distortion - distortion) for p in curve()]
    return np.maximum(0.0, np.max(lines, axis=0))


_mixture_rate = partial(_highest_supporting_line, _mixture_curve)
_points_rate = partial(_highest_supporting_line, _points_curve)
