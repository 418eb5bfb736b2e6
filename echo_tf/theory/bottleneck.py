"""The information bottleneck, and the mutual information of a finite joint law."""

from dataclasses import dataclass, field

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks
from echo_tf.theory.finite import log_product

__all__ = ["IBPoint", "information_bottleneck", "mutual_information"]


@dataclass(frozen=True, eq=False)
class IBPoint:
    """A solution of the information bottleneck's equations.

    Attributes:
        beta: Weight of the relevance.
        rate: `I(X; T)`, nats.
        relevance: `I(T; Y)`, nats.
        converged: Whether the last iteration lowered `rate - beta * relevance` by no more than the tolerance.
        iterations: Number of iterations.
        encoder: `p(t|x)`, shape `(n, clusters)`. An `x` of probability 0 has a row of NaN.
        lagrangians: `rate - beta * relevance` after each iteration, nats. They fall, up to rounding. Shape `(iterations,)`.

    Example:
        >>> point = information_bottleneck([[0.5, 0.0], [0.0, 0.5]], beta=20.0)
        >>> point.encoder.round(6)
        array([[1., 0.],
               [0., 1.]])
    """

    beta: float
    rate: float
    relevance: float
    converged: bool
    iterations: int
    encoder: np.ndarray = field(repr=False)
    lagrangians: np.ndarray = field(repr=False)


def information_bottleneck(p_xy: ArrayLike, beta: float, *, tolerance: float = 1e-12, max_iterations: int = 20_000) -> IBPoint:
    """Compress `X` into `T` so that `T` tells about `Y`: a stationary point of `I(X; T) - beta I(T; Y)`.

    Iterates `p(t|x) ~ p(t) exp(-beta KL(p(y|x) || p(y|t)))`. This is Blahut and Arimoto's iteration with a distortion that
    depends on the solution. The problem is not convex, so there is no certificate. The start is near `T = X`, from where
    clusters merge; random starts end in poor solutions.

    Args:
        p_xy: Joint law, shape `(n, k)`. Rows of zeros are allowed.
        beta: `>= 0`, the weight of the relevance.
        tolerance: Fall of the objective in one iteration, in nats, at which to stop.
        max_iterations: Iterations after which to stop in any case.

    Returns:
        An `IBPoint` with as many clusters as values of `x` that occur; some may be equal or empty.

    Raises:
        ValueError: `p_xy` is not a law on a table; `beta` is negative or not finite; `tolerance` or `max_iterations` is not
            positive.

    Source: Tishby, Pereira and Bialek 1999.

    Example:
        >>> joint = [[0.25, 0.0], [0.25, 0.0], [0.0, 0.5]]  # of the first two x, Y says the same
        >>> point = information_bottleneck(joint, beta=20.0)
        >>> round(point.rate, 4), round(point.relevance, 4)
        (0.6931, 0.6931)
    """
    p_xy = checks.law("p_xy", p_xy, 2)
    beta = checks.number("beta", beta, 0)
    checks.positive(tolerance=tolerance, max_iterations=max_iterations)

    occurs = p_xy.any(axis=1)
    joint = p_xy[occurs][:, p_xy.any(axis=0)]
    p_x, n = joint.sum(axis=1), len(joint)
    log_encoder = np.log(0.9 * np.eye(n) + 0.1 / n)
    lagrangians: list[float] = []
    converged = False
    while not converged and len(lagrangians) < max_iterations:
        log_encoder = _bottleneck_step(log_encoder, p_x, joint, beta)
        encoder = np.exp(log_encoder)
        rate = mutual_information(p_x[:, None] * encoder)
        relevance = mutual_information(encoder.T @ joint)
        lagrangians.append(rate - beta * relevance)
        converged = len(lagrangians) > 1 and not lagrangians[-2] - lagrangians[-1] > tolerance
    full_encoder = np.full((len(p_xy), n), np.nan)
    full_encoder[occurs] = np.pad(encoder, ((0, 0), (0, n - encoder.shape[1])))
    return IBPoint(beta, rate, relevance, converged, len(lagrangians), full_encoder, np.array(lagrangians))


def _bottleneck_step(log_encoder: np.ndarray, p_x: np.ndarray, joint: np.ndarray, beta: float) -> np.ndarray:
    """The next `log p(t|x)`, shape `(n, clusters)`, without the clusters whose probability has underflowed."""
    log_p_t = np.logaddexp.reduce(np.log(p_x)[:, None] + log_encoder, axis=0)
    held = log_p_t > np.log(np.finfo(float).tiny)
    log_encoder, log_p_t = log_encoder[:, held], log_p_t[held]
    with np.errstate(divide="ignore"):
        log_joint = np.log(joint)
    log_p_y_given_t = log_product(np.exp(log_encoder.T), log_encoder.T, log_joint) - log_p_t[:, None]
    # Minus the divergence, up to a constant of each x.
    scores = joint / p_x[:, None] @ log_p_y_given_t.T
    with np.errstate(over="ignore"):
        logits = log_p_t + np.maximum(beta * (scores - scores.max(axis=1, keepdims=True)), -1e300)
    return scipy.special.log_softmax(logits, axis=1)


def mutual_information(joint: ArrayLike) -> float:
    """Mutual information of a finite joint law, `I(X; Y) = sum_xy p(x, y) log( p(x, y) / p(x) p(y) )`.

    Args:
        joint: `p(x, y) >= 0`, sums to 1 up to the rounding of its type. Shape `(n, k)`.

    Returns:
        `I(X; Y)` in nats.

    Raises:
        ValueError: `joint` is no law on a table.

    Source: Cover and Thomas, Elements of Information Theory, equation 2.28.

    Example:
        >>> round(mutual_information([[0.5, 0.0], [0.0, 0.5]]), 6)
        0.693147
    """
    joint = checks.law("joint", joint, 2)
    joint = joint[:, joint.any(axis=0)]
    # The product of two small marginals may underflow. These quotients cannot: no entry is larger than its marginals.
    p_x, p_y = joint.sum(axis=1, keepdims=True), joint.sum(axis=0)
    return max(0.0, float(scipy.special.rel_entr(joint / p_y, p_x).sum(axis=0) @ p_y))
