r"""Rate-distortion theory: exact functions for finite sources, closed forms, and the two terms of a VAE's objective.

    R(D) = min I(X; Y)   over all channels p(y|x) with E d(X, Y) <= D

is convex and decreasing. Its point of slope `-s` minimises `R + s D`: `s` multiplies the distortion and is the `1 / beta` of
an objective `D + beta * R`.

NumPy only. All rates are in nats; `to_bits` converts.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# A law may miss 1 by this much (single precision: the second), which rounding of long sums explains.
NORMALISATION_TOLERANCE, SINGLE_PRECISION_TOLERANCE = 1e-9, 1e-5

# Accelerated steps, which need exponentials of vectors only, between two certificates, which take those of the matrix.
STEPS_PER_CERTIFICATE = 30

# An output less probable than this fraction of the rarest input is dropped, or brought back with the second probability,
# as the bound of its gain says. Extrapolation may have driven one there that is needed.
PRUNE_BELOW = 1e-30
REVIVE_WITH = 1e-12

# Sums that may have lost digits to underflow are made anew in the log domain.
UNDERFLOW = 1e-290

# Share of the uniform law in a warm start: an output that the neighbouring slope did not use can come back at once.
WARM_START_UNIFORM = 1e-6

# Relative error of a few operations in double precision; the order of sums differs from processor to processor.
ROUNDING = 4 * np.finfo(float).eps


def to_bits(nats: ArrayLike) -> np.ndarray | float:
    """Information in bits, `nats / log 2`, of the shape of `nats`.

    Example:
        >>> float(to_bits(math.log(8.0)))
        3.0
    """
    return np.divide(nats, math.log(2.0))


# --- Finite sources -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RDPoint:
    """A point of a rate-distortion function with its certificate: `rate - gap <= R(distortion) <= rate`.

    Attributes:
        slope: `s = -dR/dD`, the weight of the distortion.
        rate: `I(X; Y)` of the channel, nats.
        distortion: `E d(X, Y)` of the channel.
        gap: Largest possible excess of `rate + slope * distortion` over its minimum, nats: Blahut's dual lower bound is
            that much lower. Zero up to rounding where the point is known exactly.
        converged: Whether `gap` is within the tolerance.
        iterations: Number of evaluations of the fixed-point map.
        output: Law of `Y`, shape `(m,)`.
        lagrangians: `rate + slope * distortion` at each certificate, never rising but for rounding; of infinite slope the rate
            alone. Shape `(certificates,)`, nats.
    """

    slope: float
    rate: float
    distortion: float
    gap: float
    converged: bool
    iterations: int
    output: np.ndarray = field(repr=False)
    lagrangians: np.ndarray = field(repr=False)
    _log_prior: np.ndarray = field(repr=False)
    _excess: np.ndarray = field(repr=False)

    @property
    def channel(self) -> np.ndarray:
        """The channel `p(y|x)`, shape `(n, m)`, computed on access. An `x` of probability 0 may have a row of NaN."""
        logits = self._log_prior - _cost(self._excess, self.slope)
        with np.errstate(invalid="ignore"):
            return np.exp(logits - _log_sum_exp(logits, axis=1)[:, None])


def blahut_arimoto(
    p_x: ArrayLike,
    distortion: ArrayLike,
    slope: float,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 5_000,
    initial_output: ArrayLike | None = None,
) -> RDPoint:
    """The point of given slope on the rate-distortion function of a finite source.

    Minimises `-sum_x p(x) log sum_y q(y) exp(-s d(x, y))` over laws `q` by `q <- q c`,
    `c(y) = sum_x p(x) exp(-s d(x, y)) / sum_y' q(y') exp(-s d(x, y'))`, whose optimum has `c <= 1` with equality where `q > 0`;
    `max log c` bounds what is left to gain (Blahut's dual bound), over all outputs, used or not. The steps are extrapolated in
    `log q` (SQUAREM), and an extrapolation that raises the objective is not taken.

    Args:
        p_x: Law of the source, shape `(n,)`. Zeros are allowed.
        distortion: `d(x, y) >= 0`, shape `(n, m)`. `inf` forbids a pair.
        slope: `s >= 0`; multiplies the distortion (1 / beta). `0` gives the point `R = 0` at `D_max = min_y E d(X, y)`, or, if
            every output is forbidden to some input, the least rate of a finite distortion. `math.inf` gives the least
            distortion and the least rate there.
        tolerance: Largest gap in nats at which to stop.
        max_iterations: Evaluations after which to stop with `converged=False`, looked at every thirty or so. One evaluation
            is two matrix-vector products.
        initial_output: Law of `Y` to start from, shape `(m,)`, e.g. that of a neighbouring slope. Default: uniform.

    Returns:
        An `RDPoint`.

    Raises:
        ValueError: `p_x` or `initial_output` is not a law; `distortion` has the wrong shape, NaN or negative entries, or only
            infinite ones for an `x` that occurs; `slope` negative or NaN; `tolerance` or `max_iterations` not positive.

    Source: Blahut 1972, theorem 6 (bounds); Arimoto 1972; Varadhan and Roland 2008, scheme S3 (extrapolation).

    Example:
        >>> point = blahut_arimoto([0.8, 0.2], [[0, 1], [1, 0]], slope=3.85662)
        >>> round(float(to_bits(point.rate)), 4), round(point.distortion, 4)
        (0.5766, 0.0207)
    """
    p_x, distortion = _check_source(p_x, distortion)
    if not slope >= 0:
        raise ValueError(f"Invalid value received for argument `slope`. Expected slope >= 0. Received: slope={slope}")
    _check_positive(tolerance=tolerance, max_iterations=max_iterations)
    size = distortion.shape[1]
    log_output = np.full(size, -math.log(size))
    if initial_output is not None:
        initial_output = _check_law(initial_output, "initial_output", (size,))
        log_output = np.log((1.0 - WARM_START_UNIFORM) * initial_output + WARM_START_UNIFORM / size)

    # Only differences within a row matter for the channel: what all outputs of an input cost would drown them.
    least = distortion.min(axis=1)
    with np.errstate(invalid="ignore"):
        excess = np.where(np.isinf(distortion), np.inf, distortion - least[:, None])
    single = _single_output_point(p_x, distortion, excess)
    if slope == 0 and single is not None:
        return single

    occurs = p_x >= np.finfo(float).tiny
    p, least = p_x[occurs], least[occurs]
    solution = _minimise(p, _cost(excess[occurs], slope), log_output, tolerance, max_iterations)
    channel, output = solution.channel, solution.output
    with np.errstate(divide="ignore", invalid="ignore"):
        # A channel entry may be so small that its share of the output is 0 in floats.
        information = np.where((channel > 0) & (output > 0), channel * (np.log(channel) - np.log(output)), 0.0)
        distortions = np.where(channel > 0, channel * excess[occurs], 0.0)
    point = RDPoint(
        slope=float(slope),
        rate=max(0.0, float(p @ information.sum(axis=1))),
        distortion=float(p @ (least + distortions.sum(axis=1))),
        gap=max(0.0, solution.gap),
        converged=solution.gap <= tolerance,
        iterations=solution.iterations,
        output=output,
        lagrangians=np.array(solution.values) + (slope * float(p @ least) if math.isfinite(slope) else 0.0),
        _log_prior=solution.log_prior,
        _excess=excess,
    )
    return point if single is None or math.isinf(slope) else _better_with_single_output(point, single, tolerance)


def rd_curve(p_x: ArrayLike, distortion: ArrayLike, slopes: Iterable[float], **options) -> list[RDPoint]:
    """Points of the rate-distortion function for several slopes, each started from the solution of the next steeper one.

    Args:
        p_x, distortion: as for `blahut_arimoto`.
        slopes: Slopes; `0` and `math.inf` give the ends of the curve exactly.
        **options: `tolerance` and `max_iterations` of `blahut_arimoto`.

    Returns:
        A list of `RDPoint` in the order of `slopes`.

    Raises:
        ValueError: as `blahut_arimoto`.

    Source: as `blahut_arimoto`; that a point starts from the next steeper one is ours.

    Example:
        >>> curve = rd_curve([0.5, 0.5], [[0, 1], [1, 0]], slopes=[0.0, math.log(3.0), math.inf])
        >>> [(round(point.rate, 4), round(point.distortion, 4)) for point in curve]
        [(0.0, 0.5), (0.1308, 0.25), (0.6931, 0.0)]
    """
    slopes = list(slopes)
    points, output = {}, None
    for slope in sorted(set(slopes), reverse=True):
        points[slope] = blahut_arimoto(p_x, distortion, slope, initial_output=output, **options)
        output = points[slope].output
    return [points[slope] for slope in slopes]


class _Solution(NamedTuple):
    log_prior: np.ndarray  # the q that makes the channel, shape (m,)
    channel: np.ndarray  # (inputs that occur, m)
    output: np.ndarray  # its law of Y, (m,)
    gap: float
    iterations: int
    values: list[float]


def _minimise(p_x: np.ndarray, cost: np.ndarray, log_q: np.ndarray, tolerance: float, max_iterations: int) -> _Solution:
    """Minimise rate + E cost for `p_x > 0`, see `blahut_arimoto`."""
    log_p, size = np.log(p_x), cost.shape[1]
    log_prune = math.log(PRUNE_BELOW) + log_p.min() - math.log(size)
    iterations, values, step_limit = 0, [], 4.0
    while True:
        used = np.isfinite(log_q)
        logits = log_q[used] - cost[:, used]
        log_z = _log_sum_exp(logits, axis=1)
        channel = np.exp(logits - log_z[:, None])
        output, log_c = np.zeros(size), np.empty(size)
        output[used] = p_x @ channel
        seen = output > UNDERFLOW
        log_c[seen] = np.log(output[seen]) - log_q[seen]
        log_c[~seen] = _log_sum_exp(log_p[:, None] - cost[:, ~seen] - log_z[:, None], axis=0)

        gain = float(np.sum(output[output > 0] * log_c[output > 0]))  # what this very step gains
        values.append(float(-p_x @ log_z) - gain)
        gap = float(log_c.max()) - gain
        iterations += 1
        if gap <= tolerance or iterations >= max_iterations:
            full_channel = np.zeros((len(p_x), size))
            full_channel[:, used] = channel
            return _Solution(log_q, full_channel, output, gap, iterations, values)

        log_output = log_q + log_c
        weak = log_output < log_prune
        revived = weak & (log_c > 0)
        log_output[weak] = np.where(revived[weak], math.log(REVIVE_WITH), -np.inf)
        if revived.any() or not np.array_equal(np.isfinite(log_output), used):
            log_q = log_output - _log_sum_exp(log_output, axis=0)
        else:
            log_q[used], steps, step_limit = _accelerate(p_x, channel, log_q[used], step_limit)
            iterations += steps


def _accelerate(p_x: np.ndarray, channel: np.ndarray, log_q: np.ndarray, step_limit: float) -> tuple[np.ndarray, int, float]:
    """Steps of the fixed-point map, extrapolated where that lowers the objective, without exponentials of matrices.

    `channel` belongs to `log_q`; with `u = log q' - log q` the sums for another law `q'` are those for `q` times
    `channel @ exp(u)`. Returns the last `log q'`, the number of evaluations, and the limit for the next extrapolation.
    """

    def step(u):
        sums = channel @ np.exp(u)
        return -p_x @ np.log(sums), u + np.log(p_x / sums @ channel) - log_q

    u, evaluations = np.zeros_like(log_q), 0
    with np.errstate(all="ignore"):  # an extrapolation may leave the range of floats, and is not taken then
        while evaluations < STEPS_PER_CERTIFICATE:
            _, u1 = step(u)
            value, u2 = step(u1)
            evaluations += 2
            first, second = u1 - u, u2 - u1
            weights = np.exp(log_q + u2)
            change = weights @ np.square(second - first)
            length = min(math.sqrt(weights @ np.square(first) / change), step_limit) if change > 0 else 1.0
            u = u2
            if length > 1.0:
                far = u1 - first + 2.0 * length * first + length**2 * (second - first)
                far -= _log_sum_exp(log_q + far, axis=0)
                far_value, after_far = step(far)
                evaluations += 1
                if far_value <= value and np.all(np.isfinite(after_far)):
                    u = after_far
                    step_limit *= 4.0 if length == step_limit else 1.0
                else:
                    step_limit = max(length / 2.0, 2.0)
    return log_q + u - _log_sum_exp(log_q + u, axis=0), evaluations, step_limit


def _single_output_point(p_x: np.ndarray, distortion: np.ndarray, excess: np.ndarray) -> RDPoint | None:
    """R = 0: one output for all inputs, the best. `None` if each output is forbidden to some input."""
    occurs = p_x > 0
    means = p_x[occurs] @ distortion[occurs]
    best = int(np.argmin(means))
    if not np.isfinite(means[best]):
        return None
    output = np.zeros(len(means))
    output[best] = 1.0
    with np.errstate(divide="ignore"):
        log_prior = np.log(output)
    return RDPoint(0.0, 0.0, float(means[best]), 0.0, True, 0, output, np.zeros(1), log_prior, excess)


def _better_with_single_output(point: RDPoint, single: RDPoint, tolerance: float) -> RDPoint:
    """The point, or that of R = 0 with the same lower bound if it is as low but for rounding.

    Below the slope at which the curve leaves R = 0 the iteration only comes near its end, and rounding may put it beyond.
    """
    found, with_single = point.rate + point.slope * point.distortion, point.slope * single.distortion
    if math.isinf(found) or math.isinf(with_single):
        return point
    gap = max(0.0, with_single - (found - point.gap))
    is_rounding = with_single - found <= ROUNDING * found and gap <= tolerance
    if with_single > found and not is_rounding:
        return point
    return dataclasses.replace(
        single,
        slope=point.slope,
        gap=gap,
        converged=gap <= tolerance,
        iterations=point.iterations,
        lagrangians=np.append(point.lagrangians, with_single),
    )


def _cost(excess: np.ndarray, slope: float) -> np.ndarray:
    """`slope * excess`; with infinite slope all but the least distortions of each input are forbidden."""
    if slope == 0:
        return np.where(np.isinf(excess), np.inf, 0.0)
    if math.isinf(slope):
        return np.where(excess == 0, 0.0, np.inf)
    with np.errstate(over="ignore"):
        return slope * excess


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    largest = np.max(values, axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.squeeze(largest, axis) + np.log(np.sum(np.exp(values - largest), axis=axis))


# --- Information bottleneck ---------------------------------------------------------------------------------------------


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
        lagrangians: `rate - beta * relevance` after each iteration, never rising. Shape `(iterations,)`, nats.
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

    `p(t|x) ~ p(t) exp(-beta KL(p(y|x) || p(y|t)))`: the iteration of Blahut and Arimoto with a distortion that depends on the
    solution. The problem is not convex, so there is no certificate; starting near `T = X`, whose clusters merge as they can,
    avoids the poor solutions of random starts.

    Args:
        p_xy: Joint law, shape `(n, k)`. Rows of zeros are allowed.
        beta: `>= 0`, the weight of the relevance.
        tolerance: Fall of the objective in one iteration, in nats, at which to stop.
        max_iterations: Iterations after which to stop in any case.

    Returns:
        An `IBPoint` with as many clusters as values of `x` that occur; some may be equal or empty. Memory is `n^2 k`.

    Raises:
        ValueError: `p_xy` is not a law on a table; `beta` negative or not finite; `tolerance` or `max_iterations` not
            positive.

    Source: Tishby, Pereira and Bialek 1999.

    Example:
        >>> joint = [[0.25, 0.0], [0.25, 0.0], [0.0, 0.5]]  # of the first two x, Y says the same
        >>> point = information_bottleneck(joint, beta=20.0)
        >>> round(point.rate, 4), round(point.relevance, 4)
        (0.6931, 0.6931)
    """
    p_xy = np.asarray(p_xy, dtype=np.float64)
    if p_xy.ndim != 2 or p_xy.size == 0:
        raise ValueError(f"Invalid value received for argument `p_xy`. Expected shape (n, k). Received: shape {p_xy.shape}")
    p_xy = _check_law(p_xy, "p_xy", p_xy.shape)
    if not 0 <= beta < math.inf:
        raise ValueError(f"Invalid value received for argument `beta`. Expected a number >= 0. Received: beta={beta}")
    _check_positive(tolerance=tolerance, max_iterations=max_iterations)

    p_x = p_xy.sum(axis=1)
    occurs = p_x > 0
    joint, p_x = p_xy[occurs], p_x[occurs]
    n = len(p_x)
    encoder = 0.9 * np.eye(n) + 0.1 / n
    lagrangians, converged = [], False
    while not converged and len(lagrangians) < max_iterations:
        encoder = _bottleneck_step(encoder, p_x, joint, beta)
        rate = mutual_information(p_x[:, None] * encoder)
        relevance = mutual_information(encoder.T @ joint)
        lagrangians.append(rate - beta * relevance)
        converged = len(lagrangians) > 1 and lagrangians[-2] - lagrangians[-1] <= tolerance
    full_encoder = np.full((len(p_xy), n), np.nan)
    full_encoder[occurs] = encoder
    return IBPoint(float(beta), rate, relevance, converged, len(lagrangians), full_encoder, np.array(lagrangians))


def _bottleneck_step(encoder: np.ndarray, p_x: np.ndarray, joint: np.ndarray, beta: float) -> np.ndarray:
    p_t = p_x @ encoder
    with np.errstate(divide="ignore", invalid="ignore"):
        p_y_given_x = (joint / p_x[:, None])[:, None, :]
        p_y_given_t = (encoder.T @ joint / p_t[:, None])[None, :, :]
        terms = np.where(p_y_given_x > 0, p_y_given_x * (np.log(p_y_given_x) - np.log(p_y_given_t)), 0.0)
        logits = np.where(p_t > 0, np.log(p_t) - beta * terms.sum(axis=2), -np.inf)
    return np.exp(logits - _log_sum_exp(logits, axis=1)[:, None])


def mutual_information(joint: ArrayLike) -> float:
    """Mutual information of a finite joint law, `I(X; Y) = sum_xy p(x, y) log( p(x, y) / p(x) p(y) )`.

    Args:
        joint: `p(x, y) >= 0`, sums to 1. Shape `(n, k)`.

    Returns:
        `I(X; Y)` in nats.

    Raises:
        ValueError: `joint` is no law, or has not two axes.

    Source: Cover and Thomas, Elements of Information Theory, equation 2.28.

    Example:
        >>> round(mutual_information([[0.5, 0.0], [0.0, 0.5]]), 6)
        0.693147
    """
    if np.ndim(joint) != 2:
        raise ValueError(f"Invalid value received for argument `joint`. Expected two axes. Received: shape {np.shape(joint)}")
    joint = _check_law(joint, "joint", np.shape(joint))
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return max(0.0, float(np.where(joint > 0, joint * np.log(joint / independent), 0.0).sum()))


# --- Closed forms -------------------------------------------------------------------------------------------------------


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
    variance, distortion = _check_nonnegative(variance=variance, distortion=distortion)
    return 0.5 * _log_ratio_or_zero(variance, distortion)


def gaussian_vector_rd(covariance_or_variances: ArrayLike, distortion: ArrayLike) -> np.ndarray | float:
    """Gaussian vector, squared error summed over dimensions, by reverse water-filling.

    `R(D) = sum_j max(0, 1/2 log(v_j / w))` with the water level `w` of `sum_j min(w, v_j) = D` and `v_j` the eigenvalues of the
    covariance.

    Args:
        covariance_or_variances: Variances of independent dimensions, shape `(m,)`, or a covariance matrix, `(m, m)`.
        distortion: `D >= 0`, any shape; total squared error, not its mean over dimensions.

    Returns:
        Rate in nats, of the shape of `distortion`; 0 for `D >=` the total variance, `inf` at `D = 0`.

    Raises:
        ValueError: a negative, NaN or infinite variance or distortion; a covariance that is not symmetric and positive
            semidefinite, or of another shape.

    Source: Cover and Thomas, theorem 10.3.3.

    Example:
        >>> float(gaussian_vector_rd([4.0, 1.0], 2.0) / math.log(2.0))  # water level 1: the second dimension gets nothing
        1.0
    """
    variances = _eigenvalues(covariance_or_variances)
    (distortion,) = _check_nonnegative(distortion=distortion)
    # Between two neighbouring variances D is linear in the water level: interpolation inverts it exactly.
    levels = np.concatenate([[0.0], np.sort(variances)])
    totals = np.minimum(levels[:, None], variances).sum(axis=1)
    level = np.interp(distortion, totals, levels)
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
    p, distortion = _check_nonnegative(p=p, distortion=distortion)
    entropy = binary_entropy(p)
    largest = np.minimum(p, 1.0 - p)
    return np.where(distortion < largest, np.maximum(0.0, entropy - binary_entropy(np.minimum(distortion, largest))), 0.0)[()]


def uniform_hamming_rd(m: int, distortion: ArrayLike) -> np.ndarray | float:
    """Uniform source of `m` symbols, Hamming: `R(D) = log m - h(D) - D log(m - 1)`, 0 for `D >= 1 - 1/m`.

    Args:
        m: Integer >= 2.
        distortion: `D >= 0`, probability of error.

    Returns:
        Rate in nats, of the shape of `distortion`.

    Raises:
        ValueError: `m < 2`, or a negative, NaN or infinite distortion.

    Source: Cover and Thomas, exercise 10.5.

    Example:
        >>> round(float(uniform_hamming_rd(4, 0.0)), 4)  # log 4
        1.3863
    """
    if not isinstance(m, Integral) or m < 2:
        raise ValueError(f"Invalid value received for argument `m`. Expected an integer >= 2. Received: m={m}")
    (distortion,) = _check_nonnegative(distortion=distortion)
    largest = 1.0 - 1.0 / m
    below = np.minimum(distortion, largest)
    rate = np.maximum(0.0, math.log(m) - binary_entropy(below) - below * math.log(m - 1))
    return np.where(distortion < largest, rate, 0.0)[()]


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
    scale, distortion = _check_nonnegative(scale=scale, distortion=distortion)
    return _log_ratio_or_zero(scale, distortion)


def shannon_lower_bound(entropy: ArrayLike, distortion: ArrayLike, measure: str = "squared") -> np.ndarray | float:
    """Shannon's lower bound for a scalar source with a density: `h(X)` less the largest entropy of an error of size `D`.

    `"squared"`: `h - 1/2 log(2 pi e D)`. `"absolute"`: `h - log(2 e D)`. Never below 0. Equal to `R(D)` for the Gaussian
    (squared) and the Laplacian (absolute), and approached by every other smooth source as `D` goes to 0.

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
    (distortion,) = _check_nonnegative(distortion=distortion)
    entropy = np.asarray(entropy, dtype=np.float64)
    if not np.all(np.isfinite(entropy)):
        raise ValueError(f"Invalid value received for argument `entropy`. Expected finite numbers. Received: {entropy}")
    with np.errstate(divide="ignore"):
        if measure == "squared":
            error_entropy = 0.5 * np.log(2.0 * math.pi * math.e * distortion)
        elif measure == "absolute":
            error_entropy = np.log(2.0 * math.e * distortion)
        else:
            raise ValueError(
                "Invalid value received for argument `measure`. Expected 'squared' or 'absolute'. "
                f"Received: measure={measure!r}"
            )
    return np.maximum(0.0, entropy - error_entropy)


def binary_entropy(p: ArrayLike) -> np.ndarray | float:
    """Entropy `-p log p - (1 - p) log(1 - p)` of a binary variable, in nats. `p` in [0, 1], any shape, else `ValueError`.

    Source: Cover and Thomas, equation 2.5.

    Example:
        >>> round(float(binary_entropy(0.5)), 4)  # log 2
        0.6931
    """
    p = np.asarray(p, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"Invalid value received for argument `p`. Expected values in [0, 1]. Received: {p}")
    return 0.0 - _x_log_y(p, p) - _x_log_y(1.0 - p, 1.0 - p)


# --- The two terms of a VAE's objective ---------------------------------------------------------------------------------


class VAERateDistortion(NamedTuple):
    """Rate, distortion and `loss = distortion + beta * rate` of each example, each of shape `(n,)`."""

    rate: np.ndarray
    distortion: np.ndarray
    loss: np.ndarray


def vae_rate_distortion(
    x: ArrayLike,
    x_recon: ArrayLike,
    mean: ArrayLike,
    log_var: ArrayLike,
    beta: float = 1.0,
    distortion: str = "squared",
) -> VAERateDistortion:
    """Rate and distortion of a VAE with encoder `N(mean, exp(log_var))` and marginal `N(0, I)`, per example.

    `rate = KL = 1/2 sum_j (mean_j^2 + var_j - 1 - log var_j)`, an upper bound of `I(X; Z)` in its mean over examples.
    `"squared"`: `distortion = sum_i (x_i - y_i)^2` with `y = x_recon`.
    `"bernoulli"`: `distortion = -sum_i x_i log y_i + (1 - x_i) log(1 - y_i)`.

    On beta: `"bernoulli"` is a negative log likelihood, and `beta = 1` gives the negative ELBO. So is `squared / (2 sigma^2)`,
    but for a constant, if the decoder is `N(x_recon, sigma^2 I)`. `squared + beta * rate` is the same objective times
    `2 sigma^2`, with `beta = 2 sigma^2`. Texts that let beta multiply the distortion have `beta = 1 / (2 sigma^2)`: that is the
    `slope` of this module.

    Args:
        x: Data, shape `(n, ...)`.
        x_recon: Reconstructions, the same shape; in [0, 1] for `"bernoulli"`.
        mean: Shape `(n, m)`.
        log_var: Logarithm of the variance, shape `(n, m)`.
        beta: `>= 0`; multiplies the rate.
        distortion: `"squared"` (in squared units of `x`) or `"bernoulli"` (in nats).

    Returns:
        `VAERateDistortion`; the rate in nats. An impossible `x` under `"bernoulli"` has distortion `inf`.

    Raises:
        ValueError: shapes that do not agree, no examples; NaN or infinite values; `x` or `x_recon` outside [0, 1] under
            `"bernoulli"`; negative `beta`; unknown `distortion`.

    Source: Kingma and Welling 2014, appendix B (KL); Higgins et al. 2017 (beta).

    Example:
        >>> terms = vae_rate_distortion([[1.0, 0.0]], [[0.5, 0.5]], mean=[[1.0]], log_var=[[0.0]])
        >>> [float(term[0]) for term in terms]
        [0.5, 0.5, 1.0]
    """
    x, x_recon, mean, log_var = (np.asarray(a, dtype=np.float64) for a in (x, x_recon, mean, log_var))
    if (
        x.shape != x_recon.shape
        or mean.shape != log_var.shape
        or x.ndim < 2
        or mean.ndim != 2
        or len(x) != len(mean)
        or x.size == 0
    ):
        raise ValueError(
            "Invalid shapes. Expected x and x_recon of shape (n, ...), mean and log_var of shape (n, m), n >= 1. "
            f"Received: x {x.shape}, x_recon {x_recon.shape}, mean {mean.shape}, log_var {log_var.shape}"
        )
    for name, array in (("x", x), ("x_recon", x_recon), ("mean", mean), ("log_var", log_var)):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"Invalid value received for argument `{name}`. It contains NaN or infinite values.")
    if not 0 <= beta < math.inf:
        raise ValueError(f"Invalid value received for argument `beta`. Expected a number >= 0. Received: beta={beta}")

    if distortion == "squared":
        errors = np.square(x - x_recon)
    elif distortion == "bernoulli":
        for name, array in (("x", x), ("x_recon", x_recon)):
            if array.min() < 0 or array.max() > 1:
                raise ValueError(
                    f"Invalid value received for argument `{name}`. Expected values in [0, 1] for distortion='bernoulli'. "
                    f"Received: from {array.min()} to {array.max()}"
                )
        errors = -_x_log_y(x, x_recon) - _x_log_y(1.0 - x, 1.0 - x_recon)
    else:
        raise ValueError(
            "Invalid value received for argument `distortion`. Expected 'squared' or 'bernoulli'. "
            f"Received: distortion={distortion!r}"
        )
    total = errors.reshape(len(x), -1).sum(axis=1)
    rate = 0.5 * np.sum(np.square(mean) + np.expm1(log_var) - log_var, axis=1)
    return VAERateDistortion(rate, total, total + beta * rate)


# --- Checks and small helpers -------------------------------------------------------------------------------------------


def _check_law(values: ArrayLike, name: str, shape: tuple[int, ...]) -> np.ndarray:
    single_precision = getattr(values, "dtype", None) in (np.float32, np.float16)
    values = np.asarray(values, dtype=np.float64)
    if values.shape != shape:
        raise ValueError(
            f"Invalid value received for argument `{name}`. Expected shape {shape}. Received: shape {values.shape}"
        )
    total = values.sum()
    tolerance = SINGLE_PRECISION_TOLERANCE if single_precision else NORMALISATION_TOLERANCE
    if not (values.min() >= 0 and abs(total - 1.0) <= tolerance):
        raise ValueError(
            f"Invalid value received for argument `{name}`. Expected probabilities >= 0 that sum to 1. "
            f"Received: sum {total}, smallest {values.min()}"
        )
    return values / total


def _check_source(p_x: ArrayLike, distortion: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    distortion = np.asarray(distortion, dtype=np.float64)
    if np.ndim(p_x) != 1 or distortion.ndim != 2 or distortion.shape[0] != len(p_x) or distortion.size == 0:
        raise ValueError(
            "Invalid shapes. Expected p_x of shape (n,) and distortion of shape (n, m). "
            f"Received: p_x {np.shape(p_x)}, distortion {distortion.shape}"
        )
    p_x = _check_law(p_x, "p_x", np.shape(p_x))
    if not np.all(distortion >= 0):
        raise ValueError(
            "Invalid value received for argument `distortion`. Expected entries >= 0 (inf forbids a pair). "
            "Received: negative entries or NaN"
        )
    hopeless = np.flatnonzero((p_x > 0) & np.isinf(distortion).all(axis=1))
    if len(hopeless):
        raise ValueError(
            "Invalid value received for argument `distortion`. Expected a finite entry for every x with p(x) > 0. "
            f"Received: only inf in row {hopeless[0]}"
        )
    return p_x, distortion


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"Invalid value received for argument `{name}`. Expected a value > 0. Received: {name}={value}")


def _check_nonnegative(**values: ArrayLike) -> list[np.ndarray]:
    arrays = []
    for name, value in values.items():
        array = np.asarray(value, dtype=np.float64)
        if not np.all((array >= 0) & np.isfinite(array)):
            raise ValueError(
                f"Invalid value received for argument `{name}`. Expected finite numbers >= 0. Received: {name}={value}"
            )
        arrays.append(array)
    return arrays


def _eigenvalues(covariance_or_variances: ArrayLike) -> np.ndarray:
    values = np.asarray(covariance_or_variances, dtype=np.float64)
    name = "covariance_or_variances"
    if values.ndim == 2 and values.shape[0] == values.shape[1] and values.size and np.all(np.isfinite(values)):
        if not np.allclose(values, values.T, atol=1e-12 * np.abs(values).max()):
            raise ValueError(f"Invalid value received for argument `{name}`. Expected a symmetric matrix.")
        eigenvalues = np.linalg.eigvalsh(values)
        # Rounding makes the zero eigenvalues of a singular covariance slightly negative.
        rounding = len(values) * np.finfo(float).eps * np.abs(eigenvalues).max()
        if eigenvalues.min() < -rounding:
            raise ValueError(
                f"Invalid value received for argument `{name}`. Expected a positive semidefinite matrix. "
                f"Received: smallest eigenvalue {eigenvalues.min()}"
            )
        return np.maximum(eigenvalues, 0.0)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"Invalid value received for argument `{name}`. Expected finite values of shape (m,) or (m, m). "
            f"Received: shape {values.shape}"
        )
    return _check_nonnegative(**{name: values})[0]


def _log_ratio_or_zero(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """`max(0, log(numerator / denominator))`, 0 where both are 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator < numerator, np.log(numerator) - np.log(denominator), 0.0)[()]


def _x_log_y(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`x log y`, 0 where `x` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, 0.0, x * np.log(y))
