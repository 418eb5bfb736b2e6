"""Identities of the paper's appendix on a Gaussian toy, and what happens to a rate that nothing pays for."""

import math

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from echo_tf.echo.dense import EchoDense
from echo_tf.echo.matrix import matrix_moments
from echo_tf.echo.noise import echo_rate, echo_sample
from echo_tf.models.channels import GaussianChannel

COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])
SCALES = np.array([0.5, 0.7])
BATCH, REPEATS, PAIRS = 61, 20, 4_000


def total_correlation(values):
    """-1/2 log det of the correlation matrix; in two dimensions its bias is 1 / 2n."""
    return -0.5 * np.log(np.linalg.det(np.corrcoef(values.T))) - 0.5 / len(values)


def gaussian_information(x, z):
    """I(X; Z) of jointly Gaussian variables from their covariances."""
    joint = np.cov(np.hstack([x, z]).T)
    n = x.shape[1]
    return 0.5 * (np.linalg.slogdet(joint[:n, :n])[1] + np.linalg.slogdet(joint[n:, n:])[1] - np.linalg.slogdet(joint)[1])


@pytest.fixture(scope="module")
def samples():
    """`REPEATS` sets of independent pairs (x, z) of the channel f(x) = x, S constant and diagonal: one of each batch."""
    rng, generator = np.random.default_rng(0), keras.random.SeedGenerator(0)
    root = np.linalg.cholesky(COVARIANCE).T
    sets = []
    for _ in range(REPEATS):
        x = rng.standard_normal((BATCH, PAIRS, 2)) @ root
        z = echo_sample(x, np.broadcast_to(np.log(SCALES), x.shape), d_max=BATCH - 1, seed=generator)
        sets.append((x[0], np.asarray(z)[0]))
    return sets


def assert_equal_in_the_mean(values, truth):
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 5 * error


def test_information_is_the_sum_over_dimensions(samples):
    # The bias of a Gaussian information of p and q dimensions is p q / 2n.
    whole = [gaussian_information(x, z) - 4 / (2 * PAIRS) for x, z in samples]
    parts = [sum(gaussian_information(x, z[:, [j]]) - 2 / (2 * PAIRS) for j in range(2)) for x, z in samples]
    assert_equal_in_the_mean(whole, -np.log(SCALES).sum())
    assert_equal_in_the_mean(np.subtract(whole, parts), 0.0)


def test_total_correlation_given_x_is_that_of_z(samples):
    # Given x all that is left of z is the noise. Both are far from 0: the dimensions of x are correlated.
    of_z = [total_correlation(z) for _, z in samples]
    given_x = [total_correlation(z - x) for x, z in samples]
    # Cov(z)_jk = c_jk / (1 - s_j s_k), so that the squared correlation is:
    squared = 0.8**2 * np.prod(1 - SCALES**2) / (1 - np.prod(SCALES)) ** 2
    assert_equal_in_the_mean(of_z, -0.5 * math.log(1 - squared))
    assert_equal_in_the_mean(np.subtract(of_z, given_x), 0.0)


@pytest.mark.parametrize(("below", "parts"), [(-0.5, 0.960), (0.0, 1.022), (0.5, 0.653)])
def test_information_does_not_add_up_over_dimensions_of_a_matrix(below, parts):
    """`S = [[.6, 0], [a, .6]]`: 1.022 nats for every a, as the determinant says; over dimensions a sum that depends on a."""
    scale = np.array([[0.6, 0.0], [below, 0.6]])
    of_z = scipy.linalg.solve_discrete_lyapunov(scale, COVARIANCE)
    given_x = scale @ of_z @ scale.T
    assert 0.5 * (np.linalg.slogdet(of_z)[1] - np.linalg.slogdet(given_x)[1]) == pytest.approx(-2 * math.log(0.6))
    assert 0.5 * np.log(np.diag(of_z) / np.diag(given_x)).sum() == pytest.approx(parts, abs=5e-4)
    # The layer's own moments, from a sample with the covariance of the source.
    x = np.random.default_rng(0).standard_normal((500, 2))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True))).T @ np.linalg.cholesky(COVARIANCE).T
    _, covariance = matrix_moments(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(np.tile(scale, (500, 1, 1))))
    np.testing.assert_allclose(covariance, of_z, rtol=1e-10)


def test_echo_can_be_arithmetic_coding():
    """Finite source, `f(x)` the probability below `x`, `s(x) = p(x)`: noise uniform in [0, 1), `z` tells `x`, rate H(X)."""
    p = np.array([0.4, 0.3, 0.2, 0.1])
    above = np.cumsum(p)
    x = np.random.default_rng(0).choice(4, (61, PAIRS), p=p)
    z = np.asarray(echo_sample((above - p)[x], np.log(p)[x], d_max=60, seed=0))[0]  # one of each of 4,000 batches
    np.testing.assert_array_equal(np.searchsorted(above, z, side="right"), x[0])
    assert scipy.stats.kstest(z, "uniform").pvalue > 1e-4
    rates = np.asarray(echo_rate(np.log(p)[x[0]][:, None]))
    assert_equal_in_the_mean(rates, -(p * np.log(p)).sum())


@pytest.mark.parametrize("channel", ["echo", "gaussian"])
def test_rate_that_nothing_pays_for_falls_to_its_floor(channel):
    """A decoder that ignores z: the floor -m log r for Echo, 0 for the Gaussian channel."""
    keras.utils.set_random_seed(0)
    layer = EchoDense(3, d_max=49, rate_weight=None, seed=0) if channel == "echo" else GaussianChannel(3, seed=0)

    class RateOnly(keras.Model):
        def call(self, x):
            z, rate = layer(x, return_rate=True)
            return rate + 0.0 * keras.ops.sum(z, axis=-1)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred)

    model = RateOnly()
    model.layer = layer
    layer.build((None, 5))
    model.compile(optimizer=keras.optimizers.Adam(0.3))
    model.optimizer.build(layer.trainable_variables)  # else the step is traced twice
    x = np.random.default_rng(0).standard_normal((1_000, 5)).astype("float32")
    floor = layer.rate_floor
    before = model.predict(x, batch_size=100, verbose=0).mean()
    model.fit(x, batch_size=100, epochs=10, verbose=0)
    after = model.predict(x, batch_size=100, verbose=0).mean()
    assert before > floor + 0.5
    assert floor - 1e-4 <= after < floor + 0.02
