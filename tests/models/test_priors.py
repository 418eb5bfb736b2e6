import keras
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from echo_tf.models.priors import MAFPrior, VampPrior


def vamp(components=3):
    prior = VampPrior(components, (4,), seed=0)
    prior.build()
    return prior


def components(k=3, dim=2, seed=0):
    return np.random.default_rng(seed).normal(size=(2, k, dim))


def test_mixture_density_equals_double_precision():
    mean, log_var = components()
    log_var *= 3.0  # some components far sharper than others
    z = np.random.default_rng(1).normal(0, 3, (50, 2))
    densities = norm.logpdf(z[:, None], mean, np.exp(log_var / 2)).sum(axis=2)
    expected = logsumexp(densities, axis=1) - np.log(3)
    np.testing.assert_allclose(
        vamp().log_prob(z.astype("float32"), *(c.astype("float32") for c in (mean, log_var))), expected, rtol=1e-4
    )
    # The mean of the logarithms is something else.
    assert np.abs(expected - densities.mean(axis=1)).max() > 1.0


def test_start_is_drawn_from_all_examples():
    prior, data = vamp(10), np.arange(1000, dtype="float32")[:, None] / 1000 * np.ones((1, 4), "float32")
    prior.start_from(data)
    assert np.asarray(prior.pseudo_inputs).max() > 0.5


def test_mean_of_logs_is_the_lower_bound():
    mean, log_var = (c.astype("float32") for c in components())
    z = np.random.default_rng(1).normal(0, 3, (50, 2)).astype("float32")
    prior = VampPrior(3, (4,), average="logs")
    expected = norm.logpdf(z[:, None], mean, np.exp(log_var / 2)).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(prior.log_prob(z, mean, log_var), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="average"):
        VampPrior(3, (4,), average="mean")


def test_start_at_the_mean():
    data = np.random.default_rng(0).uniform(size=(10, 4)).astype("float32")
    equal, spread = (VampPrior(50, (4,), start="mean", start_noise=noise, seed=0) for noise in (0.0, 0.5))
    for prior in (equal, spread):
        prior.build()
        prior.start_from(data)
    np.testing.assert_allclose(equal.pseudo_inputs, np.tile(data.mean(axis=0), (50, 1)), rtol=1e-6)
    values = np.asarray(spread.pseudo_inputs)
    assert len(np.unique(values, axis=0)) == 50
    assert (values.min(), values.max()) == (0.0, 1.0)
    with pytest.raises(ValueError, match="`start`"):
        VampPrior(3, (4,), start="zero")


def test_mixture_draws_have_its_moments():
    mean, log_var = components()
    z = np.asarray(vamp().sample(20_000, *(c.astype("float32") for c in (mean, log_var))))
    second = np.square(mean) + np.exp(log_var)
    for values, truth in ((z, mean.mean(0)), (np.square(z), second.mean(0))):
        assert np.all(np.abs(values.mean(0) - truth) < 5 * values.std(0) / np.sqrt(len(z)))


def test_start_takes_every_example_once_if_there_are_as_many():
    prior, data = vamp(4), np.random.default_rng(0).uniform(size=(4, 4)).astype("float32")
    prior.start_from(data)
    np.testing.assert_array_equal(np.sort(prior.pseudo_inputs, axis=0), np.sort(data, axis=0))
    prior.start_from(data[:3])
    assert len(np.unique(np.asarray(prior.pseudo_inputs), axis=0)) == 3


def maf(dim=2, size=0.2, **options):
    prior = MAFPrior(dim, hidden=(16, 16), seed=0, **options)
    prior.build()
    rng = np.random.default_rng(0)
    prior.set_weights([rng.normal(0, size, weight.shape) for weight in prior.get_weights()])
    return prior


def test_flow_density_integrates_to_one():
    axis = np.linspace(-25.0, 25.0, 1001, dtype="float32")
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = np.exp(np.asarray(maf().log_prob(points), dtype=np.float64))
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_flow_draws_have_the_moments_of_its_density():
    prior = maf(size=0.4)
    axis = np.linspace(-20.0, 20.0, 801, dtype="float32")
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(np.asarray(prior.log_prob(points), dtype=np.float64)) * (axis[1] - axis[0]) ** 2
    z = np.asarray(prior.sample(20_000))
    assert np.abs(np.corrcoef(z.T)[0, 1]) > 0.05  # not N(0, I)
    for power in (1, 2):
        values = z**power
        assert np.all(np.abs(values.mean(0) - mass @ points**power) < 5 * values.std(0) / np.sqrt(len(z)) + 1e-3)


@pytest.mark.parametrize("make", [vamp, maf])
def test_survives_its_config(make):
    prior = make()
    assert type(prior).from_config(prior.get_config()).get_config() == prior.get_config()
    assert keras.backend.standardize_dtype(prior.compute_dtype) == "float32"
