"""R at given distortions, against closed forms and the ends of the curve."""

import logging
import math

import numpy as np
import pytest

from echo_tf.theory import bernoulli_hamming_rd, gaussian_rd, rate_at_distortion, rd_curve, uniform_hamming_rd


def hamming(size):
    return 1.0 - np.eye(size)


@pytest.mark.parametrize("p", [0.5, 0.2, 0.01])
def test_binary_source(p):
    distortions = p * np.array([[0.0, 1e-9, 0.01], [0.3, 0.99, 1.5]])
    found = rate_at_distortion([1 - p, p], hamming(2), distortions)
    assert found.shape == distortions.shape
    np.testing.assert_allclose(found, bernoulli_hamming_rd(p, distortions), atol=2e-9)


def test_uniform_source():
    assert rate_at_distortion(np.full(4, 0.25), hamming(4), 0.1) == pytest.approx(float(uniform_hamming_rd(4, 0.1)), abs=2e-9)


def test_gaussian_source():
    points = np.linspace(-5.0, 5.0, 101)
    p_x = np.exp(-0.5 * points**2)
    found = rate_at_distortion(p_x / p_x.sum(), (points[:, None] - points) ** 2, [0.25, 0.5])
    np.testing.assert_allclose(found, gaussian_rd(1.0, [0.25, 0.5]), atol=2e-4)  # the grid is not the line


def test_straight_piece_of_the_curve():
    # Erasures: the third output is right with neither input, by half. The curve is the line from (0, log 2) to (1/2, 0).
    distortion = [[0.0, math.inf, 0.5], [math.inf, 0.0, 0.5]]
    targets = np.array([0.0, 0.1, 0.25, 0.4, 0.5, 2.0])
    line = math.log(2.0) * np.maximum(0.0, 1.0 - 2.0 * targets)
    np.testing.assert_allclose(rate_at_distortion([0.5, 0.5], distortion, targets), line, atol=1e-8)


def test_ends_of_a_curve_that_ends_above_zero():
    # The first input has no code without cost; no output may be said of both inputs, so the rate is never 0.
    p_x, distortion = [0.5, 0.5], [[1.0, 3.0, math.inf], [math.inf, math.inf, 2.0]]
    assert rate_at_distortion(p_x, distortion, 1.5) == pytest.approx(math.log(2.0))
    assert rate_at_distortion(p_x, distortion, 100.0) == pytest.approx(math.log(2.0))
    with pytest.raises(ValueError, match="distortions of at least 1.5, below which no code is. Received: 1.4"):
        rate_at_distortion(p_x, distortion, [2.0, 1.4])


def test_it_is_the_inverse_of_the_curve():
    rng = np.random.default_rng(0)
    p_x, distortion = rng.dirichlet(np.ones(5)), rng.random((5, 7))
    curve = rd_curve(p_x, distortion, [1.0, 5.0, 20.0])
    found = rate_at_distortion(p_x, distortion, [point.distortion for point in curve])
    np.testing.assert_allclose(found, [point.rate for point in curve], atol=2e-9)


def test_too_few_iterations_are_told(caplog):
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        rate_at_distortion(rng.dirichlet(np.ones(20)), rng.random((20, 20)), 0.2, max_iterations=1)
    assert "Raise max_iterations" in caplog.text
