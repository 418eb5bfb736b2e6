import keras
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import echo_tf
from echo_tf.models.losses import (
    bernoulli_distortion,
    gaussian_entropy,
    gaussian_kl,
    gaussian_log_density,
    mean_rate,
    median_bandwidth,
    mmd,
)


def samples(n, dim=3, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, dim)).astype("float32")


def test_gaussian_log_density_and_entropy():
    rng = np.random.default_rng(0)
    z, mean, log_var = rng.normal(size=(3, 5, 4))
    expected = [multivariate_normal.logpdf(*row[:2], np.diag(np.exp(row[2]))) for row in zip(z, mean, log_var, strict=True)]
    np.testing.assert_allclose(gaussian_log_density(z, mean, log_var), expected, rtol=1e-5)
    np.testing.assert_allclose(gaussian_log_density(z, 0.0, 0.0), multivariate_normal.logpdf(z, np.zeros(4)), rtol=1e-5)
    expected = [multivariate_normal.entropy(cov=np.diag(np.exp(row))) for row in log_var]
    np.testing.assert_allclose(gaussian_entropy(log_var), expected, rtol=1e-5)


def test_kl_equals_its_monte_carlo_estimate():
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=(2, 4))
    z = mean + np.exp(log_var / 2) * rng.normal(size=(100_000, 4))
    log_q = -0.5 * (np.square(z - mean) / np.exp(log_var) + log_var)
    values = (log_q + 0.5 * np.square(z)).sum(1)
    kl = float(gaussian_kl(mean[None], log_var[None])[0])
    assert abs(values.mean() - kl) < 5 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("shape", [(28, 28, 1), (6,), (4, 4, 3)])
def test_distortion_is_the_sum_of_pixel_cross_entropies(shape):
    rng = np.random.default_rng(0)
    images, logits = rng.uniform(size=(3, *shape)), rng.normal(size=(3, *shape))
    p = 1 / (1 + np.exp(-logits))
    expected = -(images * np.log(p) + (1 - images) * np.log(1 - p)).reshape(3, -1).sum(1)
    np.testing.assert_allclose(bernoulli_distortion(images, logits), expected, rtol=1e-5)


def test_distortion_far_from_0():
    # The probabilities round to 0 and 1, the logits keep the distortion exact.
    np.testing.assert_allclose(bernoulli_distortion(np.array([[0.0, 1.0]]), np.array([[100.0, -50.0]])), [150.0])


def test_mean_rate_ignores_its_target():
    np.testing.assert_array_equal(mean_rate(np.zeros(3), np.arange(3.0)), np.arange(3.0))


def test_mmd_equals_a_double_sum():
    z, prior = samples(6)
    h2 = 1.7

    def mean_kernel(a, b):
        return np.mean([np.exp(-np.sum((x - y) ** 2) / (2 * h2)) for x in a for y in b])

    expected = mean_kernel(z, z) + mean_kernel(prior, prior) - 2 * mean_kernel(z, prior)
    assert float(mmd(z, prior, h2)) == pytest.approx(expected, abs=1e-6)
    assert np.isfinite(float(mmd(z[:1], prior[:1], h2)))


def test_expectation_of_mmd_for_equal_laws():
    # E k for differences of two standard normal vectors: (1 + 2 / h^2)^(-dim / 2).
    n, dim, h2 = 10, 3, 2.0
    truth = 2 * (1 - (1 + 2 / h2) ** (-dim / 2)) / n
    values = [float(mmd(*samples(n, dim, seed), h2)) for seed in range(200)]
    assert abs(np.mean(values) - truth) < 5 * np.std(values, ddof=1) / np.sqrt(200)


@pytest.mark.parametrize("n", [4, 5])
def test_median_bandwidth_is_of_pairs_of_different_draws(n):
    prior = samples(n)[0].astype("float64")
    distances = [np.sum((a - b) ** 2) for i, a in enumerate(prior) for b in prior[:i]]
    # Every distance occurs twice: of an even number of pairs the upper one of the two in the middle is taken.
    assert float(median_bandwidth(prior)) == pytest.approx(sorted(distances)[len(distances) // 2], rel=1e-5)
    assert float(median_bandwidth(prior[:1])) == 1.0


@pytest.mark.parametrize("loss", [bernoulli_distortion, mean_rate])
def test_a_model_with_the_loss_is_loaded_without_custom_objects(loss, tmp_path):
    """As the model of the README."""
    inputs = keras.Input((4, 4, 1))
    z = echo_tf.EchoDense(2, d_max=9, rate_weight=1.0)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Reshape((4, 4, 1))(keras.layers.Dense(16)(z)))
    model.compile("adam", loss=loss)
    images = np.random.default_rng(0).uniform(size=(20, 4, 4, 1)).astype("float32")
    model.fit(images, images, batch_size=20, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.loss is loss
    assert np.isfinite(again.fit(images, images, batch_size=20, verbose=0).history["loss"][0])


@pytest.mark.parametrize("shape", [(5, 4, 4), (5, 4, 4, 3), (5, 16)])
def test_images_and_logits_of_other_shapes_are_refused(shape):
    # In a batch of 4 or of 1 some could be broadcast, without a word.
    with pytest.raises(ValueError, match="`logits`"):
        bernoulli_distortion(np.zeros((5, 4, 4, 1)), np.zeros(shape))


@pytest.mark.parametrize("shape", [(7, 3), (8, 2), (8, 1)])
def test_samples_of_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match="`prior`"):
        mmd(np.zeros((8, 3), "float32"), np.zeros(shape, "float32"), 1.0)
