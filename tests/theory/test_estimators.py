import math

import numpy as np
import pytest

from echo_tf.theory import correlation_information, histogram_information, nearest_neighbour_information, regression_bound

ESTIMATORS = [nearest_neighbour_information, histogram_information, regression_bound, correlation_information]


def gaussian_pairs(correlation, n=4_000, dim=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    return x, correlation * x + math.sqrt(1 - correlation**2) * rng.standard_normal((n, dim))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_gaussian_pairs(estimator, correlation):
    estimates = np.array([estimator(*gaussian_pairs(correlation, seed=seed)) for seed in range(10)])
    # 16 bins lose 0.011 of the 0.223 nats (measured with a million pairs). The regression is evaluated on data that it was
    # not fitted to, which costs some (degree + 2) / n = 0.002; the squared correlation is biased by 1 / 2n.
    tolerance = {histogram_information: 0.011, regression_bound: 0.004}.get(estimator, 0.001)
    error = estimates.std(ddof=1) / math.sqrt(10)
    assert abs(estimates.mean() + 0.5 * math.log(1 - correlation**2)) < 5 * error + tolerance


def test_nearest_neighbours_in_two_dimensions():
    estimates = np.array([nearest_neighbour_information(*gaussian_pairs(0.6, dim=2, seed=seed)) for seed in range(5)])
    assert abs(estimates.mean() + math.log(1 - 0.36)) < 5 * estimates.std(ddof=1) / math.sqrt(5) + 0.005  # biased at this n


@pytest.mark.parametrize("estimator", ESTIMATORS[1:])  # the largest difference of coordinates depends on their units
@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_unit_of_z_does_not_matter(estimator, unit):
    # Squares of such numbers are 0 or infinite in floats.
    x, z = gaussian_pairs(0.6, n=200)
    assert estimator(x, unit * z) == pytest.approx(estimator(x, z), rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("convert", [np.ndarray.tolist, lambda values: values.astype("float32")])
def test_lists_and_single_precision_are_taken(estimator, convert):
    x, z = (values.astype("float32").astype(float) for values in gaussian_pairs(0.6, n=200))
    assert estimator(convert(x), convert(z)) == estimator(x, z)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_arguments_are_not_changed(estimator):
    x, z = gaussian_pairs(0.6, n=50)
    before = x.copy(), z.copy()
    estimator(x, z)
    np.testing.assert_array_equal((x, z), before)


def test_extremes():
    x = np.random.default_rng(0).standard_normal((50, 1))
    assert correlation_information([[0.0], [1.0], [3.0]], [[0.0], [2.0], [6.0]]) > 15.0  # the same up to rounding
    assert regression_bound(x, x) > 25.0
    assert math.isfinite(regression_bound(x, np.zeros_like(x)))
    assert histogram_information(x, x, bins=50) == pytest.approx(math.log(50) - (50 - 100 + 1) / 100)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("x", "z", "message"),
    [
        (np.zeros((5, 1)), np.zeros((4, 1)), "`x`, `z`"),
        (np.zeros(5), np.zeros((5, 1)), r"`x`.*shape \(5,\)"),
        (np.zeros((0, 1)), np.zeros((0, 1)), "`x`.*not empty"),
        (np.zeros((1, 1)), np.zeros((1, 1)), "n >= 2"),
        (np.zeros((2, 1)), [[0.0], [math.nan]], r"z\[1, 0\]=nan"),
        (np.zeros((2, 1)), [[0.0], [10**400]], "`z`.*float64"),
    ],
)
def test_bad_pairs(estimator, x, z, message):
    with pytest.raises(ValueError, match=message):
        estimator(x, z)


@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
def test_only_one_dimension(estimator):
    with pytest.raises(ValueError, match=r"\(n, 1\)"):
        estimator(np.eye(9), np.eye(9))


@pytest.mark.parametrize(
    ("estimator", "option"),
    [(nearest_neighbour_information, "k"), (histogram_information, "bins"), (regression_bound, "degree")],
)
@pytest.mark.parametrize("value", [-1, 2.0, "4", 10**400, 51])
def test_bad_options(estimator, option, value):
    with pytest.raises(ValueError, match=f"`{option}`.*integer from"):
        estimator(*gaussian_pairs(0.6, n=50), **{option: value})


def test_a_variable_that_does_not_vary_has_no_correlation():
    with pytest.raises(ValueError, match=r"`z`.*differ"):
        correlation_information([[0.0], [1.0]], [[0.1], [0.1]])


def test_nearest_neighbours_of_discrete_and_rounded_numbers_are_refused():
    x, z = gaussian_pairs(0.6, n=1_000)
    labels = np.sign(x)
    for pair in ((labels, labels), (np.round(x, 1), np.round(z, 1)), (0 * x, 0 * x)):
        with pytest.raises(ValueError, match="`x`, `z`. Expected continuous numbers.*equally near"):
            nearest_neighbour_information(*pair)
    # A label beside a number is fine.
    assert nearest_neighbour_information(x + 10 * labels, labels) == pytest.approx(math.log(2), abs=0.01)


def test_equal_values_share_a_bin():
    rng = np.random.default_rng(0)
    x, z = rng.integers(0, 2, (2, 2_000, 1))
    flipped = np.where(rng.random((2_000, 1)) < 0.1, 1 - x, x)
    for bins in (2, 16):
        assert histogram_information(x, x, bins) == pytest.approx(math.log(2), abs=0.01)
        assert histogram_information(x, flipped, bins) == pytest.approx(math.log(2) - 0.325, abs=0.03)  # h(0.1) = 0.325
        assert histogram_information(x, z, bins) == pytest.approx(0, abs=0.002)
        assert histogram_information(x, 0 * x, bins) == pytest.approx(0, abs=1e-9)
