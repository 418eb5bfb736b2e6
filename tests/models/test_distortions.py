import keras
import numpy as np
import pytest
from scipy.stats import norm

from echo_tf.models.distortions import Bernoulli, Gaussian, check_data, decoded_mean, make_distortion
from echo_tf.models.losses import bernoulli_distortion


@pytest.mark.parametrize("sd", [0.1, 1.0, 30])
@pytest.mark.parametrize("shape", [(6,), (4, 4, 3)])
def test_gaussian_is_minus_the_log_density(sd, shape):
    x, mean = np.random.default_rng(0).normal(size=(2, 5, *shape))
    expected = -norm.logpdf(x, mean, sd).reshape(5, -1).sum(1)
    np.testing.assert_allclose(Gaussian(sd)(x, mean), expected, rtol=1e-5)


def test_gaussian_is_the_squared_error_with_slope():
    x, mean, other = np.random.default_rng(0).normal(size=(3, 5, 6))
    differences = np.asarray(Gaussian(0.5)(x, mean)) - np.asarray(Gaussian(0.5)(x, other))
    errors = np.square(x - mean).sum(1) - np.square(x - other).sum(1)
    np.testing.assert_allclose(differences, errors / (2 * 0.5**2), rtol=1e-4)


@pytest.mark.parametrize("sd", [0, -1.0, np.nan, np.inf, "1", True, None])
def test_standard_deviations_that_are_refused(sd):
    with pytest.raises(ValueError, match="`sd`. Expected a positive finite number"):
        Gaussian(sd)


def of_a_user(x, parameters):
    return keras.ops.sum(keras.ops.abs(x - parameters), axis=-1)


def test_names_objects_and_functions():
    for name in ("bernoulli", bernoulli_distortion):
        assert isinstance(make_distortion(name), Bernoulli)
    assert make_distortion("gaussian").sd == 1.0
    for given in (Gaussian(2.0), of_a_user):
        assert make_distortion(given) is given
    for wrong in ("laplace", None, 3):
        with pytest.raises(ValueError, match="`distortion`. Expected 'bernoulli', 'gaussian', Gaussian"):
            make_distortion(wrong)


def test_mean_of_the_decoder():
    parameters = np.array([[-2.0, 0.0, 50.0]])
    np.testing.assert_allclose(decoded_mean(Bernoulli(), parameters), 1 / (1 + np.exp(-parameters)), rtol=1e-6)
    for distortion in (Gaussian(3.0), of_a_user):
        np.testing.assert_array_equal(decoded_mean(distortion, parameters), parameters)


def test_draws_of_bernoulli():
    logits = np.tile(np.array([-2.0, 0.0, 1.0], "float32"), (20_000, 1))
    draws = np.asarray(Bernoulli().sample(logits))
    p = 1.0 / (1.0 + np.exp(-logits[0]))
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert np.all(np.abs(draws.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / len(draws)))


def test_bernoulli_is_the_function():
    x, logits = np.random.default_rng(0).uniform(size=(2, 5, 6))
    np.testing.assert_array_equal(Bernoulli()(x, logits), bernoulli_distortion(x, logits))


@pytest.mark.parametrize("distortion", [Bernoulli(), Gaussian(0.3)])
def test_survives_its_config(distortion):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(distortion))
    assert type(copy) is type(distortion) and copy.get_config() == distortion.get_config()


UNIT = np.linspace(0, 1, 12).reshape(3, 4)


@pytest.mark.parametrize(
    ("distortion", "x", "message"),
    [
        (Bernoulli(), UNIT, None),
        (Bernoulli(), (255 * UNIT).astype("uint8"), r"\[0, 1\].*from 0 to 255.*by 255"),
        (Bernoulli(), 2 * UNIT - 1, r"from -1 to 1.*\(x \+ 1\) / 2"),
        (Bernoulli(), np.where(UNIT > 0.5, np.nan, UNIT), "finite"),
        (Bernoulli(), np.where(UNIT > 0.5, np.inf, UNIT), "finite"),
        (Gaussian(), 100 * UNIT - 50, None),
        (Gaussian(), np.where(UNIT > 0.5, np.nan, UNIT), "finite"),
        (of_a_user, 100 * UNIT - 50, None),
        (of_a_user, np.where(UNIT > 0.5, -np.inf, UNIT), "finite"),
    ],
)
def test_data_that_are_refused(distortion, x, message):
    if message is None:
        check_data(distortion, x)
    else:
        with pytest.raises(ValueError, match=message):
            check_data(distortion, x)


def test_numbers_of_numpy():
    assert type(Gaussian(np.float32(0.5)).sd) is float  # as `images.std()` gives them; it goes into saved files
    with pytest.raises(ValueError, match="`sd`"):
        Gaussian(np.float32(-1.0))
