import keras
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from echo_tf.models.channels import GaussianChannel, IAFChannel
from echo_tf.models.priors import MAFPrior, VampPrior


def vamp(components=3, **options):
    prior = VampPrior(components, (4,), seed=0, **options)
    prior.build()
    return prior


def components(k=3, dim=2, seed=0):
    return np.random.default_rng(seed).normal(size=(2, k, dim))


class TestVampPrior:
    def test_mixture_density_equals_double_precision(self):
        mean, log_var = components()
        log_var *= 3.0  # some components far sharper than others
        z = np.random.default_rng(1).normal(0, 3, (50, 2))
        densities = norm.logpdf(z[:, None], mean, np.exp(log_var / 2)).sum(axis=2)
        expected = logsumexp(densities, axis=1) - np.log(3)
        arguments = [values.astype("float32") for values in (z, mean, log_var)]
        np.testing.assert_allclose(vamp().log_prob(*arguments), expected, rtol=1e-4)
        # The mean of the logarithms, the authors', is something else: a lower bound.
        np.testing.assert_allclose(vamp(average="logs").log_prob(*arguments), densities.mean(axis=1), rtol=1e-4)
        assert np.abs(expected - densities.mean(axis=1)).max() > 1.0

    def test_draws_have_the_moments_of_the_mixture(self):
        mean, log_var = components()
        z = np.asarray(vamp().sample(20_000, *(c.astype("float32") for c in (mean, log_var))))
        second = np.square(mean) + np.exp(log_var)
        for values, truth in ((z, mean.mean(0)), (np.square(z), second.mean(0))):
            assert np.all(np.abs(values.mean(0) - truth) < 5 * values.std(0) / np.sqrt(len(z)))

    def test_density_and_draws_of_z_pass_through_the_flow_of_the_channel(self):
        channel = IAFChannel(2, 2, (8,), seed=0)
        draw = channel.draw(np.random.default_rng(0).normal(size=(20, 5)).astype("float32"))
        mixture = [values.astype("float32") for values in components()]
        prior = vamp()
        np.testing.assert_array_equal(prior.log_marginal(draw, mixture), prior.log_prob(draw.density.base, *mixture))
        state = prior.seed_generator.state.numpy()
        z = np.asarray(prior.latent(30, channel, mixture))
        prior.seed_generator.state.assign(state)
        np.testing.assert_array_equal(z, channel.transform(prior.sample(30, *mixture)))

    def test_start_is_drawn_from_all_examples(self):
        prior, data = vamp(10), np.arange(1000, dtype="float32")[:, None] / 1000 * np.ones((1, 4), "float32")
        assert float(prior.started) == 0.0 and len(np.unique(prior.pseudo_inputs, axis=0)) == 10
        prior.start_from(data)
        assert float(prior.started) == 1.0
        assert np.asarray(prior.pseudo_inputs).max() > 0.5
        assert {tuple(row) for row in np.asarray(prior.pseudo_inputs)} <= {tuple(row) for row in data}

    def test_start_builds_it(self):
        prior = VampPrior(3, (2,), seed=0)
        prior.start_from(np.full((5, 2), 0.5))
        np.testing.assert_array_equal(prior.pseudo_inputs, 0.5)

    def test_start_takes_every_example_once_if_there_are_as_many(self):
        prior, data = vamp(4), np.random.default_rng(0).uniform(size=(4, 4)).astype("float32")
        prior.start_from(data)
        np.testing.assert_array_equal(np.sort(prior.pseudo_inputs, axis=0), np.sort(data, axis=0))
        prior.start_from(data[:3])
        assert len(np.unique(np.asarray(prior.pseudo_inputs), axis=0)) == 3

    @pytest.mark.parametrize("noise", [0.0, 0.5])
    def test_start_at_the_mean(self, noise):
        prior = vamp(50, start="mean", start_noise=noise)
        data = np.random.default_rng(0).uniform(size=(10, 4)).astype("float32")
        prior.start_from(data)
        values = np.asarray(prior.pseudo_inputs)
        if not noise:
            np.testing.assert_allclose(values, np.tile(data.mean(axis=0), (50, 1)), rtol=1e-6)
        else:
            assert len(np.unique(values, axis=0)) == 50
            assert (values.min(), values.max()) == (0.0, 1.0)

    @pytest.mark.parametrize("arguments", [{"average": "mean"}, {"start": "zeros"}, {"seed": 2**32}])
    def test_refusals(self, arguments):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"`{name}`"):
            VampPrior(3, (4,), **arguments)


def maf(dim=2, size=0.2, **options):
    prior = MAFPrior(dim, hidden=(16, 16), seed=0, **options)
    prior.build()
    rng = np.random.default_rng(0)
    prior.set_weights([rng.normal(0, size, weight.shape) for weight in prior.get_weights()])
    return prior


class TestMAFPrior:
    def test_density_integrates_to_one_and_draws_have_its_moments(self):
        prior = maf(size=0.5)
        axis = np.linspace(-20.0, 20.0, 401, dtype="float32")
        points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        mass = np.exp(np.asarray(prior.log_prob(points), dtype=np.float64)) * (axis[1] - axis[0]) ** 2
        assert mass.sum() == pytest.approx(1.0, abs=1e-3)
        z = np.asarray(prior.sample(20_000))
        assert np.abs(np.corrcoef(z.T)[0, 1]) > 0.05  # not N(0, I)
        for power in (1, 2):
            values = z**power
            assert np.all(np.abs(values.mean(0) - mass @ points**power) < 5 * values.std(0) / np.sqrt(len(z)) + 1e-3)

    def test_density_and_draws_of_z_are_its_own(self):
        channel = GaussianChannel(2, seed=0)
        draw = channel.draw(np.random.default_rng(0).normal(size=(20, 5)).astype("float32"))
        prior = maf()
        np.testing.assert_array_equal(prior.log_marginal(draw), prior.log_prob(draw.z))
        assert prior.latent(7, channel).shape == (7, 2)

    def test_refuses_a_seed(self):
        with pytest.raises(ValueError, match="`seed`"):
            MAFPrior(2, seed=2**32)


@pytest.mark.parametrize("make", [lambda: vamp(start="mean", average="logs", start_noise=0.3), lambda: maf(steps=3)])
def test_survives_its_config(make):
    prior = make()
    assert type(prior).from_config(prior.get_config()).get_config() == prior.get_config()
    assert keras.backend.standardize_dtype(prior.compute_dtype) == "float32"


@pytest.mark.parametrize("arguments", [{"components": 0}, {"components": 2.5}, {"components": 2, "start_noise": -1.0}])
def test_priors_that_are_refused(arguments):
    with pytest.raises(ValueError, match=f"`{list(arguments)[-1]}`"):
        VampPrior(**arguments)


@pytest.mark.parametrize(
    "inputs", [np.full((5, 4), 1.5), np.full((5, 4), -0.5), np.full((5, 4), np.nan), np.ones((0, 4)), np.ones((5, 3))]
)
def test_starts_that_are_refused(inputs):
    # Training holds pseudo-inputs in [0, 1], where those of other data would be none of them.
    with pytest.raises(ValueError, match="`inputs`"):
        vamp().start_from(inputs)
