"""Rate-distortion functions in closed form, Shannon's lower bound, and the entropy of a bit."""

import math

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks

__all__ = [
    "bernoulli_hamming_rd",
    "binary_entropy",
    "gaussian_rd",
    "gaussian_vector_rd",
    "laplacian_rd",
    "shannon_lower_bound",
    "to_bits",
    "uniform_hamming_rd",
]


def to_bits(nats: ArrayLike) -> np.ndarray | float:
    """Information in bits, `nats / log 2`.

    Args:
        nats: Information in nats, any shape. May be infinite.

    Returns:
        Bits, of the shape of `nats`.

    Raises:
        ValueError: NaN, or no number.

    Example:
        >>> float(to_bits(math.log(8.0)))
        3.0
    """
    return np.divide(checks.numbers("nats", nats, infinite=True), math.log(2.0))


def gaussian_rd(variance: ArrayLike, distortion: ArrayLike) -> np.ndarray | float:
    """Gaussian source, squared error: `R(D) = 1/2 log(variance / D)`, 0 for `D >= variance`, `inf` at `D = 0`.

    Args:
        variance: `>= 0`. Arguments broadcast.
        distortion: `D >= 0`, mean squared error.

    Returns:
        Rate in nats, of the broadcast shape.

    Raises:
        ValueError: a negative, NaN or infinite argument.

    Source: Cover and Thomas, Elements of Information Theory, theorem 10.3.2.

    Example:
        >>> round(float(to_bits(gaussian_rd(1.0, 0.25))), 12)
        1.0
    """
    variance, distortion = checks.broadcast(variance=(variance, 0), distortion=(distortion, 0))
    return 0.5 * _log_ratio_or_zero(variance, distortion)


def gaussian_vector_rd(covariance_or_variances: ArrayLike, distortion: ArrayLike) -> np.ndarray | float:
    """Gaussian vector, squared error summed over dimensions, by reverse water-filling.

    `R(D) = sum_j max(0, 1/2 log(v_j / w))`, where `v_j` are the eigenvalues of the covariance and the water level `w` solves
    `sum_j min(w, v_j) = D`.

    Args:
        covariance_or_variances: Variances of independent dimensions, shape `(m,)`, or a covariance matrix, `(m, m)`.
        distortion: `D >= 0`, any shape; total squared error, not its mean over dimensions.

    Returns:
        Rate in nats, of the shape of `distortion`; 0 for `D >=` the total variance, `inf` at `D = 0`.

    Raises:
        ValueError: a negative, NaN or infinite variance or distortion; a covariance of another shape, or one that is not
            symmetric and positive semidefinite up to the rounding of its type.

    Source: Cover and Thomas, theorem 10.3.3.

    Example:
        >>> float(gaussian_vector_rd([4.0, 1.0], 2.0) / math.log(2.0))  # water level 1: the second dimension gets nothing
        1.0
    """
    variances = _variances(covariance_or_variances)
    distortion = checks.numbers("distortion", distortion, 0)
    # Between two neighbouring variances D is linear in the water level: interpolation inverts it exactly.
    levels = np.concatenate([[0.0], np.sort(variances)])
    m = len(variances)  # means instead of sums, which may leave the range of floats
    level = np.interp(distortion / m, (np.minimum(levels[:, None], variances) / m).sum(axis=1), levels)
    return 0.5 * _log_ratio_or_zero(variances, np.asarray(level)[..., None]).sum(axis=-1)


def bernoulli_hamming_rd(p: ArrayLike, distortion: ArrayLike) -> np.ndarray | float:
    """Binary source, Hamming distortion: `R(D) = h(p) - h(D)`, 0 for `D >= min(p, 1 - p)`; `h` is the binary entropy.

    Args:
        p: Probability of a one, in [0, 1]. Arguments broadcast.
        distortion: `D >= 0`, probability of error.

    Returns:
        Rate in nats, of the broadcast shape.

    Raises:
        ValueError: `p` outside [0, 1], or a negative, NaN or infinite distortion.

    Source: Cover and Thomas, theorem 10.3.1.

    Example:
        >>> round(float(bernoulli_hamming_rd(0.5, 0.25)), 4)
        0.1308
    """
    p, distortion = checks.broadcast(p=(p, 0, 1), distortion=(distortion, 0))
    largest = np.minimum(p, 1.0 - p)
    return np.maximum(0.0, binary_entropy(largest) - binary_entropy(np.minimum(distortion, largest)))


def uniform_hamming_rd(m: int, distortion: ArrayLike) -> np.ndarray | float:
    """Uniform source of `m` symbols, Hamming: `R(D) = log m - h(D) - D log(m - 1)`, 0 for `D >= 1 - 1/m`.

    Args:
        m: Integer >= 2.
        distortion: `D >= 0`, probability of error.

    Returns:
        Rate in nats, of the shape of `distortion`.

    Raises:
        ValueError: `m` is no integer from 2 to 2^53; a negative, NaN or infinite distortion.

    Source: Cover and Thomas, exercise 10.5.

    Example:
        >>> round(float(uniform_hamming_rd(4, 0.0)), 4)  # log 4
        1.3863
    """
    checks.integer("m", m, 2, 2**53)
    largest = 1.0 - 1.0 / m
    below = np.minimum(checks.numbers("distortion", distortion, 0), largest)
    lost = binary_entropy(below) - binary_entropy(largest) + (below - largest) * math.log(m - 1)
    return np.maximum(0.0, -lost)


def laplacian_rd(scale: ArrayLike, distortion: ArrayLike) -> np.ndarray | float:
    """Laplacian source of density `exp(-|x| / b) / 2b`, absolute error: `R(D) = log(b / D)`, 0 for `D >= b`.

    Args:
        scale: `b >= 0`. Arguments broadcast.
        distortion: `D >= 0`, mean absolute error.

    Returns:
        Rate in nats, of the broadcast shape; `inf` at `D = 0`.

    Raises:
        ValueError: a negative, NaN or infinite argument.

    Source: Berger 1971, section 4.3.

    Example:
        >>> round(float(laplacian_rd(1.0, 0.5)), 4)  # log 2
        0.6931
    """
    return _log_ratio_or_zero(*checks.broadcast(scale=(scale, 0), distortion=(distortion, 0)))


def shannon_lower_bound(entropy: ArrayLike, distortion: ArrayLike, measure: str = "squared") -> np.ndarray | float:
    """Shannon's lower bound for a scalar source with a density: `h(X)` minus the largest entropy of an error of size `D`.

    `"squared"`: `h - 1/2 log(2 pi e D)`. `"absolute"`: `h - log(2 e D)`. Never below 0. It equals `R(D)` for the Gaussian
    (squared) and the Laplacian (absolute). Every other smooth source approaches it as `D` goes to 0.

    Args:
        entropy: Differential entropy `h(X)` in nats. Arguments broadcast.
        distortion: `D >= 0`, mean error in the given measure.
        measure: `"squared"` or `"absolute"`.

    Returns:
        Lower bound of `R(D)` in nats, of the broadcast shape; `inf` at `D = 0`.

    Raises:
        ValueError: unknown `measure`; NaN or infinite entropy; a negative, NaN or infinite distortion.

    Source: Shannon 1959; Berger 1971, section 4.3.

    Example:
        >>> round(float(shannon_lower_bound(0.0, 0.01)), 4)  # uniform in [0, 1], squared error
        0.8836
    """
    entropy, distortion = checks.broadcast(entropy=(entropy,), distortion=(distortion, 0))
    if measure not in ("squared", "absolute"):
        raise checks.invalid("measure", "'squared' or 'absolute'", f"measure={measure!r}")
    with np.errstate(divide="ignore"):
        log_distortion = np.log(distortion)
    if measure == "squared":
        error_entropy = 0.5 * (math.log(2.0 * math.pi * math.e) + log_distortion)
    else:
        error_entropy = math.log(2.0 * math.e) + log_distortion
    return np.maximum(0.0, entropy - error_entropy)


def binary_entropy(p: ArrayLike) -> np.ndarray | float:
    """Entropy of a binary variable, `-p log p - (1 - p) log(1 - p)`.

    Args:
        p: Probability of a one, in [0, 1]. Any shape.

    Returns:
        Entropy in nats, of the shape of `p`.

    Raises:
        ValueError: `p` outside [0, 1].

    Source: Cover and Thomas, equation 2.5.

    Example:
        >>> round(float(binary_entropy(0.5)), 4)  # log 2
        0.6931
    """
    p = checks.numbers("p", p, 0, 1)
    return scipy.special.entr(p) - scipy.special.xlog1py(1.0 - p, -p)


def _variances(covariance_or_variances: ArrayLike) -> np.ndarray:
    """Variances as they are, or the eigenvalues of a covariance, which is checked up to the rounding of its type."""
    name = "covariance_or_variances"
    values = np.atleast_1d(checks.numbers(name, covariance_or_variances))
    if values.ndim == 1:
        return checks.numbers(name, values, 0)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise checks.invalid(name, "shape (m,) or (m, m)", f"shape {values.shape}")
    rounding = checks.tolerance(covariance_or_variances) * np.abs(values).max()
    if not np.allclose(values, values.T, rtol=0, atol=rounding):
        raise checks.invalid(name, "a symmetric matrix", "one that differs from its transpose")
    eigenvalues = np.linalg.eigvalsh(values)
    if eigenvalues.min() < -rounding:
        raise checks.invalid(name, "a positive semidefinite matrix", f"smallest eigenvalue {eigenvalues.min()}")
    return np.maximum(eigenvalues, 0.0)


def _log_ratio_or_zero(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """`max(0, log(numerator / denominator))`, 0 where both are 0. Logarithms are subtracted: the ratio may not be a float."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator < numerator, np.log(numerator) - np.log(denominator), 0.0)[()]
