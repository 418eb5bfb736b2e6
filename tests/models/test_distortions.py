import numpy as np
import pytest
from scipy.stats import norm

import echo_tf
from echo_tf.models.distortions import Bernoulli, check_data, decoded_mean, make_distortion


def test_gaussian_distortion_is_a_negative_log_density():
    x, means = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
    for sd in (0.3, 1.0):
        expected = -norm.logpdf(x, means, sd).sum((1, 2))
        np.testing.assert_allclose(echo_tf.Gaussian(sd)(x, means), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="Expected a positive finite number"):
        echo_tf.Gaussian(0.0)


def test_names_and_functions_are_distortions():
    assert isinstance(make_distortion("bernoulli"), Bernoulli)
    assert make_distortion("gaussian").sd == 1.0
    assert make_distortion(max) is max
    with pytest.raises(ValueError, match="Expected .bernoulli."):
        make_distortion("poisson")


def test_decoded_means():
    parameters = np.array([[0.0, 2.0]], "float32")
    np.testing.assert_allclose(decoded_mean(Bernoulli(), parameters), 1 / (1 + np.exp(-parameters)), rtol=1e-6)
    np.testing.assert_array_equal(decoded_mean(echo_tf.Gaussian(2.0), parameters), parameters)
    np.testing.assert_array_equal(decoded_mean(max, parameters), parameters)


@pytest.mark.parametrize("values", [[0, 255], [-1, 1], [0.0, 1.001], [0.0, np.nan], [0.0, np.inf]])
def test_data_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="Expected"):
        check_data(Bernoulli(), np.array(values, "float32"))
    if np.all(np.isfinite(values)):
        check_data(echo_tf.Gaussian(), np.array(values))
    check_data(Bernoulli(), np.array([0, 1]))
