"""The rate at a given distortion: the slope that belongs to it is sought."""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks
from echo_tf.theory.finite import ROUNDING, RDPoint, blahut_arimoto

__all__ = ["rate_at_distortion"]

logger = logging.getLogger(__name__)

# Relative precision of the slope. Its error counts twice over (the maximum is flat) but on straight pieces of the curve.
PRECISION = 1e-11


def rate_at_distortion(p_x: ArrayLike, distortion: ArrayLike, target: ArrayLike, **options: Any) -> np.ndarray | float:
    """R(D) of a finite source at given distortions, where `blahut_arimoto` has its point at a given slope.

    `R(D) = max_s [ min (R + s D') - s D ]`: the maximum is at the slope `s` whose point has the distortion `D' = D`. Brent's
    method finds it. On a straight piece of the curve one slope has many distortions; the formula holds there too.

    Args:
        p_x: Law of the source, shape `(n,)`.
        distortion: `d(x, y) >= 0`, shape `(n, m)`. `inf` forbids a pair.
        target: Mean distortions `D`, any shape. From the least possible one on, `D_min = E min_y d(X, y)`.
        **options: `tolerance` and `max_iterations` of `blahut_arimoto`.

    Returns:
        Rate in nats, of the shape of `target`; exact at `D_min`, and 0 for `D >= D_max = min_y E d(X, y)`. A warning says if
        the iterations ended before the rate was known to within `tolerance`.

    Raises:
        ValueError: a target below `D_min`, which no code reaches; else as `blahut_arimoto`.

    Source: Berger 1971, section 2.5 (the maximum over slopes); Brent 1973 (the search).

    Example:
        >>> rate = rate_at_distortion([0.4, 0.3, 0.2, 0.1], 1 - np.eye(4), 0.1)  # four symbols, one in ten may be wrong
        >>> round(float(rate), 4)
        0.8449
    """
    targets = checks.numbers("target", target, 0)

    def solve(slope: float) -> RDPoint:
        return blahut_arimoto(p_x, distortion, slope, **options)

    ends = solve(math.inf), solve(0.0)
    least = ends[0].distortion
    if targets.min() < least * (1.0 - ROUNDING):
        raise checks.invalid("target", f"distortions of at least {least:g}, below which no code is", f"{targets.min():g}")
    return np.reshape([_rate(solve, value, *ends) for value in targets.ravel().tolist()], targets.shape)[()]


def _rate(solve: Callable[[float], RDPoint], target: float, steepest: RDPoint, flattest: RDPoint) -> float:
    """R at one distortion between those of the ends of the curve, which have the slopes infinity and 0."""
    for end, is_beyond in ((steepest, target <= steepest.distortion), (flattest, target >= flattest.distortion)):
        if is_beyond:
            return end.rate
    low, high = 0.0, 1.0 / (flattest.distortion - steepest.distortion)
    while solve(high).distortion > target:
        low, high = high, 2.0 * high
    slope = scipy.optimize.brentq(lambda s: solve(s).distortion - target, low, high, xtol=high * PRECISION, rtol=PRECISION)
    point = solve(slope)
    if not point.converged:
        logger.warning("R(%g) is known to within %.1g nats only. Raise max_iterations.", target, point.gap)
    return point.rate + slope * (point.distortion - target)
