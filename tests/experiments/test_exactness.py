import math

import numpy as np
import pytest

from echo_tf.echo.layers_old import max_scale
from echo_tf.experiments.exactness import (
    CASES,
    correlation_information,
    histogram_information,
    independent_pairs,
    nearest_neighbour_information,
    order_bounds,
    regression_bound,
    saturation,
)


def gaussian_pairs(correlation, n=4_000, dim=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    return x, correlation * x + math.sqrt(1 - correlation**2) * rng.standard_normal((n, dim))


@pytest.mark.parametrize(
    "estimator", [nearest_neighbour_information, histogram_information, regression_bound, correlation_information]
)
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_estimators_on_gaussian_pairs(estimator, correlation):
    estimates = np.array([estimator(*gaussian_pairs(correlation, seed=seed)) for seed in range(10)])
    # 16 bins lose 0.011 of the 0.223 nats (measured with a million pairs). The regression is evaluated on data that it was
    # not fitted to, which costs some (degree + 2) / n = 0.002; the squared correlation is biased by 1 / 2n.
    tolerance = {histogram_information: 0.011, regression_bound: 0.004}.get(estimator, 0.001)
    error = estimates.std(ddof=1) / math.sqrt(10)
    assert abs(estimates.mean() + 0.5 * math.log(1 - correlation**2)) < 5 * error + tolerance


def test_nearest_neighbours_in_two_dimensions():
    estimates = np.array([nearest_neighbour_information(*gaussian_pairs(0.6, dim=2, seed=seed)) for seed in range(5)])
    assert abs(estimates.mean() + math.log(1 - 0.36)) < 5 * estimates.std(ddof=1) / math.sqrt(5) + 0.005  # biased at this n


def test_pairs_follow_the_channel():
    # f(x) = x, s = 1/2: var z = 1 / (1 - s^2), correlation^2 = 1 - s^2.
    x, z, rate = independent_pairs(CASES[0], 20, 21, "ring", seed=0)
    assert x.shape == z.shape == (CASES[0].pairs, 1)
    assert rate == pytest.approx(math.log(2.0))
    z_variance = np.mean(np.square(z))
    assert abs(z_variance - 4 / 3) < 5 * math.sqrt(2 / len(x)) * 4 / 3
    assert abs(np.corrcoef(x[:, 0], z[:, 0])[0, 1] - math.sqrt(0.75)) < 5 * 0.25 / math.sqrt(len(x))


def test_order_bounds():
    for sampler in ("ring", "gather"):
        lower, upper = order_bounds(9, 10, sampler, replace=False, seed=0)
        assert lower == pytest.approx(-math.log(max_scale(9)), rel=1e-5)
        assert upper == pytest.approx(lower, rel=1e-9)
    lower, upper = order_bounds(99, 20, "ring", replace=True, seed=0)
    assert -math.log(max_scale(99)) * 1.01 < lower < upper


def test_saturation():
    # s = 1/N fills an interval with noise of constant density: the last scale at which the formula holds.
    for points in (2, 4):
        at_limit = saturation(points, 1 / points)
        assert at_limit.formula_nats == pytest.approx(math.log(points))
        assert at_limit.information_nats == pytest.approx(math.log(points), abs=1e-3)
        beyond = saturation(points, 0.5 / points)
        assert beyond.information_nats == pytest.approx(math.log(points), abs=1e-9)
        assert beyond.formula_nats > math.log(points) + 0.5
    # Bins lose 0.003 nats of it (measured).
    assert saturation(4, 0.7).information_nats == pytest.approx(-math.log(0.7), abs=0.006)
    with pytest.raises(ValueError, match="scale"):
        saturation(2, 1.0)
