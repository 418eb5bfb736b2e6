import keras
import numpy as np
from keras import ops
from scipy.stats import multivariate_normal

from echo_tf.experiments.annealing import Annealer, Latents, Start, above, below, temperatures
from echo_tf.experiments.evaluation import standard_error
from echo_tf.models.distortions import Gaussian
from echo_tf.models.losses import gaussian_log_density

WEIGHTS = np.array([[1.5, -0.5, 0.3], [0.2, 1.0, -1.2]], "float32")
LAW = Gaussian(0.4)


def linear(z):
    return ops.matmul(z, WEIGHTS)


def normal_latents():
    return Latents(lambda n: keras.random.normal((n, 2)), lambda z: gaussian_log_density(z, 0.0, 0.0), linear)


def poor_start(x):
    """Gaussians of another place and width than the posterior's, correlated."""
    mean = np.tile(np.array([0.5, -0.3], "float32"), (len(x), 1))
    return Start(ops.convert_to_tensor(mean), ops.tile(np.array([[[0.8, 0.0], [0.3, 0.5]]], "float32"), (len(x), 1, 1)))


def both(latents, count, n=400):
    """Estimates from below and above, and the examples."""
    annealer = Annealer(latents, LAW, count)
    others = ops.convert_to_numpy(LAW.sample(latents.decode(latents.draw(n))))
    annealer.tune(others, poor_start(others))
    z = latents.draw(n)
    x = ops.convert_to_numpy(LAW.sample(latents.decode(z)))
    return annealer.forward(x, poor_start(x))[None], annealer.backward(x, poor_start(x), z)[None], x


def check_bounds(lower, upper, truth):
    """The truth lies between them, the estimates of `p` and of `1 / p` are right, and the gap is small."""
    (down, up) = (lower - truth)[0], (upper - truth)[0]
    assert down.mean() < 5 * standard_error(down) and up.mean() > -5 * standard_error(up)
    for ratio in (np.exp(down), np.exp(-up)):
        assert abs(ratio.mean() - 1.0) < 5 * standard_error(ratio)
    assert 0 <= (above(upper) - below(lower)).mean() < 1.2  # 0.4 if every chain forgot where it was


def test_linear_gaussian():
    lower, upper, x = both(normal_latents(), 60)
    covariance = WEIGHTS.T @ WEIGHTS + LAW.sd**2 * np.eye(3)
    check_bounds(lower, upper, multivariate_normal(np.zeros(3), covariance).logpdf(x))


def test_few_temperatures_leave_a_gap_that_is_seen():
    gaps = [(above(upper) - below(lower)).mean() for lower, upper, _ in (both(normal_latents(), count) for count in (2, 60))]
    assert gaps[0] > 3 * gaps[1]


def test_moves_are_tuned():
    annealer = Annealer(normal_latents(), LAW, 60)
    x = np.zeros((300, 3), "float32")
    shares = annealer.tune(x, poor_start(x))
    assert 0.7 < shares[20:].mean() < 0.9
    assert annealer.steps[-1] != annealer.steps[0]


def test_a_start_at_the_posterior_needs_no_chain():
    """With the exact posterior as start every weight is `p(x)`, whatever the number of temperatures."""
    covariance = np.linalg.inv(np.eye(2) + WEIGHTS @ WEIGHTS.T / LAW.sd**2)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    mean = (x @ WEIGHTS.T @ covariance / LAW.sd**2).astype("float32")
    start = Start(mean, np.tile(np.linalg.cholesky(covariance).astype("float32"), (20, 1, 1)))
    found = Annealer(normal_latents(), LAW, 1).forward(x, start)
    truth = multivariate_normal(np.zeros(3), WEIGHTS.T @ WEIGHTS + LAW.sd**2 * np.eye(3)).logpdf(x)
    np.testing.assert_allclose(found, truth, atol=1e-4)


def test_start_has_the_moments_of_draws():
    draws = np.random.default_rng(0).normal(size=(500, 3, 2)) @ np.array([[1.0, 0.4], [0.0, 0.2]]) + [1.0, -2.0]
    start = Start.of(draws)
    for i in range(3):
        factor = ops.convert_to_numpy(start.factor[i])
        np.testing.assert_allclose(factor @ factor.T, np.cov(draws[:, i], rowvar=False), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(start.mean[i], draws[:, i].mean(axis=0), rtol=1e-4)
    z = ops.convert_to_tensor(draws[0], "float32")
    u = start.coordinates(z)
    np.testing.assert_allclose(start.mean + ops.squeeze(start.factor @ u[..., None], -1), z, atol=1e-5)


def test_temperatures_and_means_over_chains():
    betas = temperatures(10)
    assert betas[0] == 0 and betas[-1] == 1 and np.all(np.diff(betas) > 0)
    np.testing.assert_allclose(below(np.log([[1.0], [3.0]])), np.log(2.0))
    np.testing.assert_allclose(above(np.log([[1.0], [0.5]])), np.log(1 / 1.5))
