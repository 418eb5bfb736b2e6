r"""Blahut-Arimoto: the rate-distortion function of a finite source, with a certificate at every point.

    R(D) = min I(X; Y)   over all channels p(y|x) with E d(X, Y) <= D

is convex and decreasing. Its point of slope `-s` minimises `R + s D`: `s` multiplies the distortion and is the `1 / beta` of
an objective `D + beta * R`. All rates are in nats; `to_bits` converts.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks

__all__ = ["RDPoint", "blahut_arimoto", "rd_curve"]

# Accelerated steps between two certificates. Only a certificate looks at outputs that are not used.
STEPS_PER_CERTIFICATE = 30

# An output below this fraction of the rarest input is dropped. If the certificate says that it is needed (extrapolation may
# have gone too far), it comes back with the second probability.
PRUNE_BELOW = 1e-30
REVIVE_WITH = 1e-12

# Smaller sums of products may have lost digits to underflow.
UNDERFLOW = 1e-290

# Share of the uniform law in a warm start, for the outputs that the neighbouring slope did not use.
WARM_START_UNIFORM = 1e-6

# Relative error of a few operations in double precision; the order of sums differs from processor to processor.
ROUNDING = 4 * np.finfo(float).eps


@dataclass(frozen=True, eq=False)
class RDPoint:
    """A point of a rate-distortion function with its certificate: `rate - gap <= R(distortion) <= rate`.

    Attributes:
        slope: `s = -dR/dD`, the weight of the distortion.
        rate: `I(X; Y)` of the channel, nats.
        distortion: `E d(X, Y)` of the channel.
        gap: How far `rate + slope * distortion` lies above Blahut's lower bound of its minimum, nats. Zero up to rounding
            where the point is known exactly.
        converged: Whether `gap` is within the tolerance.
        iterations: Number of evaluations of the fixed-point map.
        output: Law of `Y`, shape `(m,)`.
        lagrangians: `rate + slope * distortion` at each certificate (at infinite slope the rate alone), nats. They fall, up to
            rounding. Shape `(certificates,)`.

    Example:
        >>> point = blahut_arimoto([0.5, 0.5], [[0, 1], [1, 0]], slope=math.log(3.0))
        >>> point.channel.round(6)
        array([[0.75, 0.25],
               [0.25, 0.75]])
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
        """The channel `p(y|x)`, shape `(n, m)`, computed on access. An `x` to which every output is forbidden has NaN."""
        costs = _cost(self._excess, self.slope)
        logits = self._log_prior - costs
        unreached = np.all(logits == -np.inf, axis=1)  # only an x of probability 0: any output will do
        logits[unreached] = -costs[unreached]
        with np.errstate(invalid="ignore"):
            return scipy.special.softmax(logits, axis=1)


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

    Minimises `-sum_x p(x) log sum_y q(y) exp(-s d(x, y))` over laws `q` by the steps `q <- q c` with

        c(y) = sum_x p(x) exp(-s d(x, y)) / sum_y' q(y') exp(-s d(x, y')).

    At the optimum `c <= 1`, with equality where `q > 0`. `max_y log c(y)` bounds what is left to gain (Blahut's dual bound).
    The steps are extrapolated in `log q` (SQUAREM); an extrapolation that raises the objective is not taken.

    Args:
        p_x: Law of the source, shape `(n,)`. Zeros are allowed.
        distortion: `d(x, y) >= 0`, shape `(n, m)`. `inf` forbids a pair.
        slope: `s >= 0`; multiplies the distortion (1 / beta). `math.inf` gives the least distortion and the least rate there.
            `0` gives `R = 0` at `D_max = min_y E d(X, y)`; if every output is forbidden to some input, the least rate of a
            finite distortion.
        tolerance: Largest gap in nats at which to stop.
        max_iterations: Evaluations after which to stop with `converged=False`, checked about every thirty. One evaluation is
            two matrix-vector products.
        initial_output: Law of `Y` to start from, shape `(m,)`, e.g. that of a neighbouring slope. Default: uniform.

    Returns:
        An `RDPoint`.

    Raises:
        ValueError: `p_x` or `initial_output` is not a law; `distortion` has the wrong shape, NaN or negative entries, or only
            infinite ones for an `x` that occurs; `slope` is negative or NaN; `tolerance` or `max_iterations` is not positive; a
            value does not fit float64.

    Source: Blahut 1972, theorem 6 (bounds); Arimoto 1972; Varadhan and Roland 2008, scheme S3 (extrapolation).

    Example:
        >>> point = blahut_arimoto([0.8, 0.2], [[0, 1], [1, 0]], slope=3.85662)
        >>> round(point.rate / math.log(2.0), 4), round(point.distortion, 4)  # rate in bits
        (0.5766, 0.0207)
    """
    p_x, distortion = _check_source(p_x, distortion)
    slope = checks.number("slope", slope, 0, infinite=True)
    checks.positive(tolerance=tolerance, max_iterations=max_iterations)
    size = distortion.shape[1]
    log_output = np.full(size, -math.log(size))
    if initial_output is not None:
        initial_output = checks.law("initial_output", initial_output, 1)
        if len(initial_output) != size:
            raise checks.wrong_shapes("(m,) and (n, m)", initial_output=initial_output, distortion=distortion)
        log_output = np.log((1.0 - WARM_START_UNIFORM) * initial_output + WARM_START_UNIFORM / size)

    # Only differences within a row matter for the channel: what all outputs of an input cost would drown them.
    least = distortion.min(axis=1)
    with np.errstate(invalid="ignore"):
        excess = np.where(np.isinf(distortion), np.inf, distortion - least[:, None])
    occurs = p_x > 0
    p, least = p_x[occurs], least[occurs]
    single = _single_output_point(p, distortion[occurs], excess)
    if slope == 0 and single is not None:
        return single

    log_kernel = -_cost(excess[occurs], slope)
    log_q, gap, iterations, values = _minimise(p, log_kernel, log_output, tolerance, max_iterations)
    channel = scipy.special.softmax(log_q + log_kernel, axis=1)
    output = p @ channel
    seen = output > 0  # a channel entry may be so small that its share of the output is 0 in floats
    distortions = channel * np.where(channel > 0, excess[occurs], 0.0)
    point = RDPoint(
        slope=slope,
        rate=max(0.0, float(p @ scipy.special.rel_entr(channel[:, seen], output[seen]).sum(axis=1))),
        distortion=float(p @ (least + distortions.sum(axis=1))),
        gap=max(0.0, gap),
        converged=gap <= tolerance,
        iterations=iterations,
        output=output,
        lagrangians=np.array(values) + (slope * float(p @ least) if math.isfinite(slope) else 0.0),
        _log_prior=log_q,
        _excess=excess,
    )
    return point if single is None or math.isinf(slope) else _better_with_single_output(point, single, tolerance)


def rd_curve(p_x: ArrayLike, distortion: ArrayLike, slopes: Iterable[float] | float, **options: Any) -> list[RDPoint]:
    """Points of the rate-distortion function for several slopes. Each starts from the solution of the next steeper one.

    Args:
        p_x: Law of the source, shape `(n,)`.
        distortion: `d(x, y) >= 0`, shape `(n, m)`. `inf` forbids a pair.
        slopes: Slopes; `0` and `math.inf` give the ends of the curve exactly.
        **options: `tolerance` and `max_iterations` of `blahut_arimoto`.

    Returns:
        A list of `RDPoint` in the order of `slopes`.

    Raises:
        ValueError: as `blahut_arimoto`.

    Source: as `blahut_arimoto`; the order of the slopes is ours.

    Example:
        >>> curve = rd_curve([0.5, 0.5], [[0, 1], [1, 0]], slopes=[0.0, math.log(3.0), math.inf])
        >>> [(round(point.rate, 4), round(point.distortion, 4)) for point in curve]
        [(0.0, 0.5), (0.1308, 0.25), (0.6931, 0.0)]
    """
    listed = list(slopes) if isinstance(slopes, Iterable) and not isinstance(slopes, np.ndarray) else np.atleast_1d(slopes)
    values = checks.numbers("slopes", listed, 0, ndim=1, infinite=True)
    points: dict[float, RDPoint] = {}
    output = None
    for slope in sorted(set(values.tolist()), reverse=True):
        points[slope] = blahut_arimoto(p_x, distortion, slope, initial_output=output, **options)
        output = points[slope].output
    return [points[slope] for slope in values.tolist()]


def _minimise(
    p_x: np.ndarray, log_kernel: np.ndarray, log_q: np.ndarray, tolerance: float, max_iterations: int
) -> tuple[np.ndarray, float, int, list[float]]:
    """Minimise rate + E cost for `p_x > 0` and costs `-log_kernel`, see `blahut_arimoto`.

    Returns the last `log q`, its gap, the number of evaluations, and the values at the certificates.
    """
    log_p, kernel, size = np.log(p_x), np.exp(log_kernel), log_kernel.shape[1]
    log_prune = math.log(PRUNE_BELOW) + log_p.min() - math.log(size)
    iterations, values, step_limit = 0, [], 4.0
    while True:
        log_z = log_product(kernel, log_kernel, log_q)
        log_c = log_product(kernel.T, log_kernel.T, log_p - log_z)
        log_output = log_q + log_c
        gain = float(np.exp(log_output) @ np.where(np.isfinite(log_output), log_c, 0.0))  # what this very step gains
        values.append(float(-p_x @ log_z) - gain)
        gap = float(log_c.max()) - gain
        iterations += 1
        if gap <= tolerance or iterations >= max_iterations:
            return log_q, gap, iterations, values

        used = np.isfinite(log_q)
        weak = log_output < log_prune
        revived = weak & (log_c > 0)
        log_output[weak] = np.where(revived[weak], math.log(REVIVE_WITH), -np.inf)
        if revived.any() or not np.array_equal(np.isfinite(log_output), used):
            log_q = log_output - np.log(np.exp(log_output).sum())
        else:
            channel = kernel[:, used] * np.exp(log_q[used]) / np.exp(log_z)[:, None]
            log_q[used], steps, step_limit = _accelerate(p_x, channel, log_q[used], log_c[used], step_limit)
            iterations += steps


def log_product(factor: np.ndarray, log_factor: np.ndarray, log_other: np.ndarray) -> np.ndarray:
    """`log(factor @ exp(log_other))`, from logarithms wherever the sum of floats may have lost digits.

    Args:
        factor: Shape `(n, m)`, at most 1.
        log_factor: Its logarithm, where nothing has underflowed.
        log_other: Shape `(m,)` or `(m, k)`, with a finite entry in each column.

    Returns:
        Shape `(n,)` or `(n, k)`.
    """
    shift = log_other.max(axis=0)
    total = factor @ np.exp(log_other - shift)
    with np.errstate(divide="ignore"):
        result = np.log(total) + shift
    rows, *columns = np.nonzero(total < UNDERFLOW)
    result[rows, *columns] = np.logaddexp.reduce(log_factor[rows] + log_other.T[*columns], axis=1)
    return result


def _accelerate(
    p_x: np.ndarray, channel: np.ndarray, log_q: np.ndarray, u: np.ndarray, step_limit: float
) -> tuple[np.ndarray, int, float]:
    """Steps of the fixed-point map from `u`, extrapolated where that lowers the objective, without exponentials of matrices.

    `channel` belongs to `log_q`. With `u = log q' - log q`, the sums for another law `q'` are those for `q` times
    `channel @ exp(u)`. Returns the last `log q'`, the number of evaluations, and the limit of the next extrapolation.
    """

    def step(u):
        sums = channel @ np.exp(u)
        return -p_x @ np.log(sums), u + np.log(p_x / sums @ channel) - log_q

    evaluations = 0
    with np.errstate(all="ignore"):  # what leaves the range of floats is not taken
        while evaluations < STEPS_PER_CERTIFICATE:
            _, u1 = step(u)
            value, u2 = step(u1)
            evaluations += 2
            if not np.all(np.isfinite(u2)):
                break
            first, second = u1 - u, u2 - u1
            weights = np.exp(log_q + u2)
            change = weights @ np.square(second - first)
            length = min(math.sqrt(weights @ np.square(first) / change), step_limit) if change > 0 else 1.0
            u = u2
            if length > 1.0:
                far = u1 - first + 2.0 * length * first + length**2 * (second - first)
                far -= np.log(np.exp(log_q + far).sum())  # to the last digit: values are compared
                far_value, after_far = step(far)
                evaluations += 1
                if far_value <= value and np.all(np.isfinite(after_far)):
                    u = after_far
                    step_limit *= 4.0 if length == step_limit else 1.0
                else:
                    step_limit = max(length / 2.0, 2.0)
    return log_q + u - np.log(np.exp(log_q + u).sum()), evaluations, step_limit


def _single_output_point(p_x: np.ndarray, distortion: np.ndarray, excess: np.ndarray) -> RDPoint | None:
    """R = 0: the best single output for all inputs, `p_x > 0`. `None` if each output is forbidden to some input."""
    means = p_x @ distortion
    best = int(np.argmin(means))
    if not np.isfinite(means[best]):
        return None
    log_prior = np.full(len(means), -np.inf)
    log_prior[best] = 0.0
    return RDPoint(0.0, 0.0, float(means[best]), 0.0, True, 0, np.exp(log_prior), np.zeros(1), log_prior, excess)


def _better_with_single_output(point: RDPoint, single: RDPoint, tolerance: float) -> RDPoint:
    """The point, or the exact one of R = 0 with the same lower bound if that is as low up to rounding.

    Below the slope at which the curve leaves R = 0, the iteration comes near R = 0 without reaching it.
    """
    iterated, with_single = point.rate + point.slope * point.distortion, point.slope * single.distortion
    if math.isinf(iterated) or math.isinf(with_single):
        return point
    gap = max(0.0, with_single - (iterated - point.gap))
    is_rounding = with_single - iterated <= ROUNDING * iterated and gap <= tolerance
    if with_single > iterated and not is_rounding:
        return point
    lagrangians = np.append(point.lagrangians, with_single)
    found = dataclasses.replace(single, slope=point.slope, iterations=point.iterations, lagrangians=lagrangians)
    return dataclasses.replace(found, gap=gap, converged=gap <= tolerance)


def _cost(excess: np.ndarray, slope: float) -> np.ndarray:
    """`slope * excess`; with infinite slope all but the least distortions of each input are forbidden."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where((excess == 0) | np.isinf(excess), excess, slope * excess)


def _check_source(p_x: ArrayLike, distortion: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p_x = checks.law("p_x", p_x, 1)
    distortion = checks.numbers("distortion", distortion, 0, ndim=2, infinite=True)
    if len(p_x) != len(distortion):
        raise checks.wrong_shapes("(n,) and (n, m)", p_x=p_x, distortion=distortion)
    hopeless = np.flatnonzero((p_x > 0) & np.isinf(distortion).all(axis=1))
    if len(hopeless):
        expected = "a finite entry for every x with p(x) > 0"
        raise checks.invalid("distortion", expected, f"only inf in row {hopeless[0]}")
    return p_x, distortion
