"""Whether two samples come from one law, for laws of many dimensions."""

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks

__all__ = ["energy_test"]


def energy_test(x: ArrayLike, y: ArrayLike, permutations: int = 999, seed: int = 0) -> tuple[float, float]:
    """Test of the hypothesis that two samples have one law.

    The statistic is the energy distance `2 E|X - Y| - E|X - X'| - E|Y - Y'|`, with the means over all pairs, themselves
    included. It is 0 for equal laws, and above for any two others. The p-value is the share of random splits of all points, the
    one at hand among them, whose distance is no smaller.

    Args:
        x: Shape `(n, dim)`. Points are independent draws.
        y: Shape `(m, dim)`.
        permutations: Integer >= 1, number of random splits.
        seed: Integer, for the splits.

    Returns:
        The distance, in the units of the points, infinite if no float is as large; and the p-value, at least
        `1 / (permutations + 1)`.

    Raises:
        ValueError: shapes that do not agree, NaN or infinite values, fewer than two points, or an invalid number.

    Source: Székely and Rizzo 2004.

    Example:
        >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 3))
        >>> energy_test(x, y)[1] > 0.05, energy_test(x, 2 * y)[1] < 0.05
        (True, True)
    """
    x, y = checks.numbers("x", x, ndim=2), checks.numbers("y", y, ndim=2)
    checks.integer("permutations", permutations, 1, 10**9)
    checks.integer("seed", seed, 0, 2**32 - 1)
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise checks.wrong_shapes("(n, dim) and (m, dim), n and m at least 2", x=x, y=y)
    points = np.concatenate([x, y])
    # By a power of 2, which is exact: squares of very large or small values would leave the range of floats.
    unit = np.ldexp(0.5, np.frexp(np.abs(points).max())[1]) or 1.0
    distances = scipy.spatial.distance.cdist(points / unit, points / unit)
    # Every column is 1/n for the points of the first sample and -1/m for the others; the first column is the split at hand.
    rng, weights = np.random.default_rng(seed), np.repeat([1.0 / len(x), -1.0 / len(y)], [len(x), len(y)])
    splits = np.stack([weights, *(rng.permutation(weights) for _ in range(permutations))], axis=1)
    found = -np.einsum("ik,ik->k", splits, distances @ splits)
    return float(found[0]) * float(unit), float(np.mean(found >= found[0] * (1.0 - 1e-12)))
