"""Estimates of the mutual information of two variables from independent pairs, in nats."""

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks
from echo_tf.theory.bottleneck import mutual_information

__all__ = ["correlation_information", "histogram_information", "nearest_neighbour_information", "regression_bound"]

# Of pairs of continuous numbers next to none have two neighbours at one distance; those of rounded ones bias the estimate.
LARGEST_SHARE_OF_TIES = 0.01


def nearest_neighbour_information(x: ArrayLike, z: ArrayLike, k: int = 4) -> float:
    """Estimate of I(X; Z) from nearest neighbours.

    `psi(k) + psi(n) - E[psi(n_x + 1) + psi(n_z + 1)]`, with `n_x`, `n_z` the numbers of points strictly nearer in one of the
    variables than the k-th neighbour is in both (largest coordinate difference).

    Args:
        x: Continuous, shape `(n, dim_x)`.
        z: Continuous, shape `(n, dim_z)`.
        k: Integer from 1 to `n - 1`. A larger one has less variance and more bias.

    Returns:
        The estimate in nats; below 0 by chance if the information is small.

    Raises:
        ValueError: shapes that do not agree, NaN or infinite values, fewer than two pairs, or `k` out of its range; values so
            discrete or rounded that the k-th neighbour of more than a hundredth of the pairs is as near as the next one.

    Source: Kraskov, Stoegbauer and Grassberger 2004, first estimator.

    Example:
        >>> x, noise = np.random.default_rng(0).normal(size=(2, 2_000, 1))
        >>> round(nearest_neighbour_information(x, x + noise), 2)  # 1/2 log 2 = 0.35
        0.34
    """
    x, z = _pairs(x, z)
    checks.integer("k", k, 1, len(x) - 1)
    pairs = np.hstack([x, z])
    distance, following = scipy.spatial.cKDTree(pairs).query(pairs, k + 2, p=np.inf)[0][:, k:].T  # the first is itself
    tied = np.mean(np.isclose(distance, following, rtol=1e-9, atol=0.0))
    if tied > LARGEST_SHARE_OF_TIES:
        expected = "continuous numbers; of discrete ones histogram_information or mutual_information tells the information"
        raise checks.invalid("x`, `z", expected, f"pairs of which {tied:.0%} have neighbours that are equally near")
    inside = np.nextafter(distance, 0.0)
    counts = [scipy.spatial.cKDTree(v).query_ball_point(v, inside, p=np.inf, return_length=True) for v in (x, z)]
    psi = scipy.special.digamma
    return float(psi(k) + psi(len(x)) - np.mean(psi(counts[0]) + psi(counts[1])))


def histogram_information(x: ArrayLike, z: ArrayLike, bins: int = 16) -> float:
    """Estimate of I(X; Z) of two numbers from their joint histogram in bins of equal counts.

    Equal values share a bin. Binning loses information. The bias of the plug-in estimate,
    `(occupied cells - occupied rows - occupied columns + 1) / 2n`, is subtracted.

    Args:
        x: Shape `(n, 1)`.
        z: Shape `(n, 1)`.
        bins: Integer from 1 to `n`, bins along each axis.

    Returns:
        The estimate in nats; below 0 by chance if the information is small.

    Raises:
        ValueError: shapes that do not agree, NaN or infinite values, fewer than two pairs, or `bins` out of its range.

    Source: Miller 1955 (bias).

    Example:
        >>> x, noise = np.random.default_rng(0).normal(size=(2, 2_000, 1))
        >>> round(histogram_information(x, x + noise), 2)  # 1/2 log 2 = 0.35
        0.33
    """
    x, z = _pairs(x, z, one_dimensional=True)
    checks.integer("bins", bins, 1, len(x))
    ranks = [_middle_ranks(v[:, 0]) * bins // len(v) for v in (x, z)]
    joint = np.zeros((bins, bins))
    np.add.at(joint, tuple(ranks), 1.0 / len(x))
    lines = np.count_nonzero(joint.any(axis=0)) + np.count_nonzero(joint.any(axis=1))
    return mutual_information(joint) - float(np.count_nonzero(joint) - lines + 1) / (2 * len(x))


def regression_bound(x: ArrayLike, z: ArrayLike, degree: int = 5) -> float:
    """Variational lower bound of I(X; Z) for standard normal `x`: `h(X) + E log q(x|z)`.

    `q(x|z)` is normal around a polynomial of `z`, fitted on one half and evaluated on the other. Tight for Gaussian channels.

    Args:
        x: Standard normal, shape `(n, 1)`.
        z: Shape `(n, 1)`.
        degree: Integer from 0 to `n // 2 - 2`, degree of the polynomial.

    Returns:
        The bound in nats; below 0 by chance if the information is small.

    Raises:
        ValueError: shapes that do not agree, NaN or infinite values, fewer than four pairs, or `degree` out of its range.

    Source: Barber and Agakov 2003.

    Example:
        >>> x, noise = np.random.default_rng(0).normal(size=(2, 2_000, 1))
        >>> round(regression_bound(x, x + noise), 2)  # 1/2 log 2 = 0.35
        0.34
    """
    x, z = _pairs(x, z, one_dimensional=True)
    half = len(x) // 2
    checks.integer("degree", degree, 0, half - 2)
    basis = np.polynomial.chebyshev.chebvander(z[:, 0] / (np.abs(z).max() or 1.0), degree)
    coefficients = np.linalg.lstsq(basis[:half], x[:half, 0], rcond=None)[0]
    residuals = x[:, 0] - basis @ coefficients
    variance = max(np.mean(np.square(residuals[:half])), np.finfo(float).tiny)
    log_q = -0.5 * np.square(residuals[half:]) / variance - 0.5 * np.log(variance)
    return float(np.mean(log_q) + 0.5)  # h(X) = 1/2 log(2 pi e); the 2 pi cancel


def correlation_information(x: ArrayLike, z: ArrayLike) -> float:
    """I(X; Z) of jointly Gaussian numbers from their sample correlation `rho`, `-1/2 log(1 - rho^2)`.

    Args:
        x: Shape `(n, 1)`.
        z: Shape `(n, 1)`.

    Returns:
        The estimate in nats; `inf`, or by rounding some 18, if one is a multiple of the other.

    Raises:
        ValueError: shapes that do not agree, NaN or infinite values, fewer than two pairs, or a variable that does not vary.

    Source: Cover and Thomas, Elements of Information Theory, example 8.5.1.

    Example:
        >>> x, noise = np.random.default_rng(0).normal(size=(2, 2_000, 1))
        >>> round(correlation_information(x, x + noise), 2)  # 1/2 log 2 = 0.35
        0.34
    """
    x, z = _pairs(x, z, one_dimensional=True)
    for name, values in (("x", x), ("z", z)):
        if values.min() == values.max():
            raise checks.invalid(name, "numbers that differ", f"only {values.max()}")
    # Scaled to [-1, 1], no square leaves the range of floats.
    rho = np.corrcoef(x[:, 0] / np.abs(x).max(), z[:, 0] / np.abs(z).max())[0, 1]
    with np.errstate(divide="ignore"):
        return float(-0.5 * np.log1p(-np.square(rho)))


def _middle_ranks(values: np.ndarray) -> np.ndarray:
    """Place of each value in their order, from 0; of equal ones, that of the one in the middle."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) // 2


def _pairs(x: ArrayLike, z: ArrayLike, one_dimensional: bool = False) -> tuple[np.ndarray, np.ndarray]:
    x, z = checks.numbers("x", x, ndim=2), checks.numbers("z", z, ndim=2)
    if len(x) != len(z) or len(x) < 2 or (one_dimensional and not x.shape[1] == z.shape[1] == 1):
        expected = "(n, 1)" if one_dimensional else "(n, dim_x) and (n, dim_z)"
        raise checks.wrong_shapes(f"{expected}, n >= 2", x=x, z=z)
    return x, z
