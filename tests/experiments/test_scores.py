"""Each score on codes whose score is known."""

import numpy as np
import pytest

from echo_tf.experiments.scores import (
    active_dimensions,
    dci,
    factor_vae_score,
    gaussian_total_correlation,
    mutual_information_gaps,
)

SIZES = (3, 4, 5)
GRID = np.stack(np.unravel_index(np.arange(60), SIZES), axis=1).repeat(20, axis=0)
# Two factors of equal size, and the same turned by 45 degrees.
SQUARE = np.stack(np.unravel_index(np.arange(64), (8, 8)), axis=1).repeat(20, axis=0)
TURNED = SQUARE @ np.array([[1.0, 1.0], [1.0, -1.0]])


def rng():
    return np.random.default_rng(0)


class TestPerfect:
    def test_factor_vae(self):
        assert factor_vae_score(-2.0 * GRID[:, [2, 0, 1]], GRID, rng(), votes=300, test_votes=300) == pytest.approx(1, abs=1e-6)

    def test_mig(self):
        np.testing.assert_allclose(mutual_information_gaps(GRID.astype(float), GRID), 1.0, atol=1e-6)

    def test_dci(self):
        assert dci(GRID.astype(float), GRID) == pytest.approx((1, 1, 1), abs=1e-6)


class TestRandom:
    CODES = np.random.default_rng(1).normal(size=(len(GRID), 4))

    def test_factor_vae_is_chance(self):
        # Most votes for a factor, of 3 and of 4 dimensions, are those of chance, 1/3, and of what chance favours in the sample.
        codes = np.random.default_rng(2).normal(size=(60_000, 4))
        factors = np.stack([np.random.default_rng(k).integers(0, 3, 60_000) for k in (3, 4, 5)], axis=1)
        found = factor_vae_score(codes, factors, rng(), votes=4_000, test_votes=4_000)
        assert abs(found - 1 / 3) < 5 * np.sqrt(2 / 9 / 4_000)

    def test_mig_is_the_bias_of_finite_samples(self):
        # The information of independent variables is estimated as chi2 / 2n, of mean (bins - 1)(values - 1) / 2n.
        bias = 19 * (np.array(SIZES) - 1) / (2 * len(GRID)) / np.log(SIZES)
        assert np.all(mutual_information_gaps(self.CODES, GRID) < bias)

    def test_dci(self):
        disentanglement, completeness, informativeness = dci(self.CODES, GRID)
        assert disentanglement < 0.02 and completeness < 0.02
        chance = np.mean(1 / np.array(SIZES))
        se = np.sqrt(np.sum([(1 / s) * (1 - 1 / s) for s in SIZES]) / 9 / (len(GRID) // 4))
        assert abs(informativeness - chance) < 5 * se


class TestTurned:
    def test_factor_vae_is_one_half(self):
        # Either dimension has half of its variance left when either factor is fixed, and which has less is a toss.
        found = factor_vae_score(TURNED, SQUARE, rng(), votes=4_000, test_votes=4_000)
        assert abs(found - 0.5) < 5 * np.sqrt(0.25 / 4_000)

    def test_mig_is_zero(self):
        np.testing.assert_allclose(mutual_information_gaps(TURNED, SQUARE, bins=15), 0.0, atol=1e-6)

    def test_dci_is_near_zero(self):
        found = dci(TURNED, SQUARE)
        assert found.disentanglement < 0.1 and found.completeness < 0.1 and found.informativeness > 0.95


def test_gap_of_a_copy_and_of_a_coarse_code():
    """A factor that two dimensions know has no gap; one bit of a factor of four values is half of its entropy."""
    v = np.arange(400)[:, None] % 4
    np.testing.assert_allclose(mutual_information_gaps(np.hstack([v, v]).astype(float), v), 0.0, atol=1e-6)
    np.testing.assert_allclose(mutual_information_gaps((v // 2).astype(float), v), 0.5, atol=1e-6)
    np.testing.assert_array_equal(mutual_information_gaps(v.astype(float), np.zeros_like(v)), 0.0)


def test_dimensions_that_are_pruned():
    codes = np.random.default_rng(0).normal(size=(10_000, 3)) * np.sqrt([1.0, 0.06, 0.04])
    active = active_dimensions(codes, np.ones(3))
    np.testing.assert_array_equal(active, [True, True, False])
    assert factor_vae_score(GRID.astype(float), GRID, rng(), np.zeros(3, bool)) == 0.0
    # The noise that wins every vote counts only where it is not pruned.
    noisy = np.hstack([GRID, np.where(np.arange(len(GRID)) == 0, 1.0, 0.0)[:, None]])
    kept = np.array([True, True, True, False])
    assert factor_vae_score(noisy, GRID, rng(), kept, votes=300, test_votes=300) == pytest.approx(1.0, abs=1e-6)
    assert factor_vae_score(noisy, GRID, rng(), votes=300, test_votes=300) < 0.8


def test_total_correlation_of_a_gaussian():
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 1.0]])
    codes = np.random.default_rng(0).normal(size=(500, 3))
    codes -= codes.mean(axis=0)
    codes = codes @ np.linalg.inv(np.linalg.cholesky(np.cov(codes, rowvar=False))).T @ np.linalg.cholesky(covariance).T
    expected = 0.5 * (np.log(np.diag(covariance)).sum() - np.log(np.linalg.det(covariance)))
    assert gaussian_total_correlation(codes) == pytest.approx(expected, abs=1e-6)
    assert gaussian_total_correlation(SQUARE.astype(float)) == pytest.approx(0.0, abs=1e-6)
    assert gaussian_total_correlation(TURNED) == pytest.approx(0.0, abs=1e-6)
    assert gaussian_total_correlation(codes, np.array([True, False, False])) == 0.0
