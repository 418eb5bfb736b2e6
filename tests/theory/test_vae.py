import math

import numpy as np
import pytest

from echo_tf.theory import vae_rate_distortion

VAE_SHAPES = {"x": (2, 3), "x_recon": (2, 3), "mean": (2, 1), "log_var": (2, 1)}


class TestVAERateDistortion:
    def test_rate_is_the_divergence(self):
        # KL by quadrature, one dimension at a time.
        mean, log_var = np.array([[0.5, -1.0]]), np.array([[0.3, -2.0]])
        z, width = np.linspace(-15.0, 15.0, 20_000, retstep=True)
        expected = 0.0
        for m, v in zip(mean[0], np.exp(log_var[0]), strict=True):
            log_q = -0.5 * np.square(z - m) / v - 0.5 * math.log(2 * math.pi * v)
            log_p = -0.5 * np.square(z) - 0.5 * math.log(2 * math.pi)
            expected += np.sum(np.exp(log_q) * (log_q - log_p)) * width
        terms = vae_rate_distortion(np.zeros((1, 1)), np.zeros((1, 1)), mean, log_var)
        assert terms.rate[0] == pytest.approx(expected, abs=1e-9)

    def test_sums_over_dimensions_and_beta(self):
        rng = np.random.default_rng(0)
        x, y = rng.random((2, 5, 4, 3, 1))
        mean, log_var = rng.normal(size=(2, 5, 7))
        rate, distortion, loss = vae_rate_distortion(x, y, mean, log_var, beta=0.5)
        assert rate.shape == distortion.shape == loss.shape == (5,)
        np.testing.assert_allclose(distortion, np.square(x - y).sum(axis=(1, 2, 3)))
        np.testing.assert_allclose(loss, distortion + 0.5 * rate)
        bernoulli = vae_rate_distortion(x, y, mean, log_var, distortion="bernoulli").distortion
        np.testing.assert_allclose(bernoulli, -(x * np.log(y) + (1 - x) * np.log(1 - y)).sum(axis=(1, 2, 3)))

    def test_certain_pixels(self):
        x = np.array([[0.0], [1.0], [1.0]])
        terms = vae_rate_distortion(x, [[0.0], [1.0], [0.0]], np.zeros((3, 1)), np.zeros((3, 1)), distortion="bernoulli")
        np.testing.assert_array_equal(terms.distortion, [0.0, 0.0, math.inf])

    def test_slope_is_one_over_twice_the_variance_of_the_decoder(self):
        # Log likelihood of N(y, sigma^2 I) against the squared error.
        rng = np.random.default_rng(0)
        x, y, sigma = rng.normal(size=(4, 6)), rng.normal(size=(4, 6)), 0.7
        zeros = np.zeros((4, 1))
        nll = 0.5 * np.square((x - y) / sigma).sum(1) + 6 * math.log(sigma * math.sqrt(2 * math.pi))
        terms = vae_rate_distortion(x, y, zeros, zeros, beta=2 * sigma**2)
        np.testing.assert_allclose(np.ptp(nll - terms.loss / (2 * sigma**2)), 0.0, atol=1e-12)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x_recon": np.zeros((2, 4))}, "shape"),
            ({"mean": np.zeros((2, 2))}, "shape"),
            ({"mean": np.zeros((3, 1)), "log_var": np.zeros((3, 1))}, "shape"),
            *[({name: np.full(shape, np.nan)}, f"`{name}`.*nan") for name, shape in VAE_SHAPES.items()],
            ({"log_var": np.full((2, 1), np.inf)}, "finite"),
            ({"x_recon": np.full((2, 3), -0.5)}, ">= 0 and <= 1"),
            ({name: np.zeros((0, *shape[1:])) for name, shape in VAE_SHAPES.items()}, "not empty|at least one"),
            ({"x": np.full((2, 3), 1.5)}, ">= 0 and <= 1"),
            ({"beta": -1.0}, "beta"),
            ({"distortion": "hamming"}, "distortion"),
        ],
    )
    def test_bad_input(self, changes, message):
        arguments = {
            "x": np.zeros((2, 3)),
            "x_recon": np.full((2, 3), 0.5),
            "mean": np.zeros((2, 1)),
            "log_var": np.zeros((2, 1)),
        }
        with pytest.raises(ValueError, match=message):
            vae_rate_distortion(**arguments | {"distortion": "bernoulli"} | changes)
