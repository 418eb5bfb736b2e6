import math

import numpy as np
import pytest
from scipy.optimize import minimize

from echo_tf.theory import (
    bernoulli_hamming_rd,
    binary_entropy,
    gaussian_rd,
    gaussian_vector_rd,
    laplacian_rd,
    rd_curve,
    shannon_lower_bound,
    to_bits,
    uniform_hamming_rd,
)


class TestClosedForms:
    def test_gaussian(self):
        rates = gaussian_rd([[1.0], [4.0]], [0.0, 0.25, 1.0, 5.0])
        log2 = math.log(2.0)
        np.testing.assert_allclose(rates, [[math.inf, log2, 0.0, 0.0], [math.inf, 2 * log2, log2, 0.0]])
        assert gaussian_rd(0.0, 0.0) == 0.0

    def test_gaussian_vector(self):
        assert gaussian_vector_rd([1.0], 0.25) == pytest.approx(float(gaussian_rd(1.0, 0.25)))
        np.testing.assert_allclose(gaussian_vector_rd([3.0, 1.0], [0.0, 4.0, 9.0]), [math.inf, 0.0, 0.0])
        # All dimensions above the water: the rates of the dimensions add up.
        variances = np.array([4.0, 2.0, 1.0])
        assert gaussian_vector_rd(variances, 1.5) == pytest.approx(np.sum(gaussian_rd(variances, 0.5)))
        # A rotation changes nothing, and the answer minimises the sum over all ways to share D.
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        covariance = rotation @ np.diag(variances) @ rotation.T
        for total in (0.3, 2.5, 5.0):
            best = minimize(
                lambda d: np.sum(0.5 * np.log(variances / d)),
                np.minimum(variances, total / 3) * 0.9,
                bounds=[(1e-9, v) for v in variances],
                constraints={"type": "ineq", "fun": lambda d, total=total: total - d.sum()},
                options={"ftol": 1e-14},
            )
            assert gaussian_vector_rd(covariance, total) == pytest.approx(best.fun, abs=1e-6)
        singular = np.array([[1.0, 1.0], [1.0, 1.0]])
        assert gaussian_vector_rd(singular, 0.5) == pytest.approx(float(gaussian_rd(2.0, 0.5)))

    def test_discrete(self):
        assert bernoulli_hamming_rd(0.2, 0.0) == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
        np.testing.assert_array_equal(bernoulli_hamming_rd([0.2, 0.8, 0.0, 1.0], [0.2, 0.3, 0.0, 0.0]), 0.0)
        np.testing.assert_allclose(
            uniform_hamming_rd(2, [0.0, 0.1, 0.5]), bernoulli_hamming_rd(0.5, [0.0, 0.1, 0.5]), atol=1e-15
        )
        assert uniform_hamming_rd(8, 0.0) == pytest.approx(math.log(8))
        np.testing.assert_allclose(uniform_hamming_rd(8, [7 / 8, 2.0]), 0.0, atol=1e-12)

    def test_laplacian_and_shannon_lower_bound(self):
        distortion = np.array([0.0, 0.1, 0.5, 1.0])
        log_ratio = [math.inf, math.log(20.0), math.log(4.0), math.log(2.0)]
        np.testing.assert_allclose(laplacian_rd(2.0, distortion), log_ratio)
        np.testing.assert_array_equal(laplacian_rd(1.0, [1.0, 3.0]), 0.0)
        gaussian_entropy, laplacian_entropy = 0.5 * math.log(2 * math.pi * math.e), math.log(2 * math.e)
        np.testing.assert_allclose(shannon_lower_bound(gaussian_entropy, distortion), gaussian_rd(1.0, distortion), atol=1e-15)
        np.testing.assert_allclose(
            shannon_lower_bound(laplacian_entropy, distortion, "absolute"), laplacian_rd(1.0, distortion), atol=1e-15
        )

    def test_shannon_lower_bound_is_below_the_exact_curve(self):
        # Uniform on [-1, 1], squared error: h = log 2.
        x = (np.arange(200) + 0.5) / 100 - 1.0
        for point in rd_curve(np.full(200, 1 / 200), np.square(x[:, None] - x), [3.0, 10.0, 30.0], tolerance=1e-4):
            bound = float(shannon_lower_bound(math.log(2.0), point.distortion))
            assert bound < point.rate - point.gap
            assert point.rate - bound < 0.2

    @pytest.mark.parametrize(
        "call",
        [
            lambda: gaussian_rd(-1.0, 0.1),
            lambda: gaussian_rd(1.0, math.nan),
            lambda: gaussian_vector_rd([1.0, -1.0], 0.1),
            lambda: gaussian_vector_rd([[1.0, 0.5], [0.0, 1.0]], 0.1),
            lambda: gaussian_vector_rd([[1.0, 2.0], [2.0, 1.0]], 0.1),
            lambda: gaussian_vector_rd(np.ones((2, 3)), 0.1),
            lambda: gaussian_vector_rd([1.0], -0.1),
            lambda: bernoulli_hamming_rd(1.1, 0.1),
            lambda: bernoulli_hamming_rd(0.5, -0.1),
            lambda: uniform_hamming_rd(1, 0.1),
            lambda: uniform_hamming_rd(2.5, 0.1),
            lambda: uniform_hamming_rd(math.nan, 0.1),
            lambda: binary_entropy(1.5),
            lambda: gaussian_vector_rd(np.zeros((0, 0)), 0.1),
            lambda: gaussian_vector_rd(1e-9 * np.array([[1.0, 0.9], [0.0, 1.0]]), 1e-11),
            lambda: laplacian_rd(1.0, math.inf),
            lambda: shannon_lower_bound(math.nan, 0.1),
            lambda: shannon_lower_bound(1.0, 0.1, "hamming"),
        ],
    )
    def test_bad_input(self, call):
        with pytest.raises(ValueError, match="Invalid value"):
            call()


class TestTutorialNumbers:
    """Numbers that an introduction to rate-distortion theory prints."""

    def test_gaussian_at_a_quarter_of_its_variance_is_one_bit(self):
        assert float(to_bits(gaussian_rd(1.0, 0.25))) == pytest.approx(1.0, abs=1e-12)

    def test_twenty_nats(self):
        assert round(float(to_bits(20.0)), 2) == 28.85
