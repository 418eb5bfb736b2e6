import keras
import numpy as np
import pytest
import tensorflow as tf

from echo_tf.errors import ConfigError
from echo_tf.models.config import load_config
from echo_tf.models.losses import median_bandwidth, mmd
from echo_tf.models.penalties import BETA_RANGE, BetaConstraint, MMDPenalty, TotalCorrelationPenalty


@pytest.mark.parametrize(("options", "squared_bandwidth"), [({}, None), ({"bandwidth": "fixed", "fixed_bandwidth": 5.0}, 25.0)])
def test_penalty_follows_its_options_and_moves_the_encodings(options, squared_bandwidth):
    penalty = MMDPenalty(999.0, seed=1, **options)
    z = tf.constant(np.random.default_rng(0).normal(1.0, 1.0, (10, 32)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = penalty(z)
    prior = keras.random.normal((10, 32), seed=keras.random.SeedGenerator(1))
    h2 = median_bandwidth(prior) if squared_bandwidth is None else squared_bandwidth
    assert float(value) == pytest.approx(float(mmd(z, prior, h2)), rel=1e-5)  # without its weight
    assert np.sum(tape.gradient(value, z)) > 0  # downhill is towards 0
    assert float(penalty(z)) != float(value)  # fresh draws


def test_weight_is_a_variable_that_is_saved():
    penalty = MMDPenalty(999.0, bandwidth="fixed", fixed_bandwidth=2.0, seed=1)
    penalty.weight.assign(3.0)
    assert not penalty.weight.trainable
    copy = MMDPenalty.from_config(penalty.get_config())
    assert copy.get_config() == penalty.get_config()
    assert float(copy.weight) == 3.0


@pytest.mark.parametrize(
    "arguments", [{"bandwidth": "mean"}, {"fixed_bandwidth": 0}, {"fixed_bandwidth": np.nan}, {"seed": 2**32}]
)
def test_penalties_that_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`"):
        MMDPenalty(**arguments)


@pytest.mark.parametrize("penalty", [MMDPenalty(), TotalCorrelationPenalty(hidden=(8,))])
def test_codes_that_are_feature_maps_are_refused(penalty):
    with pytest.raises(ValueError, match="Flatten"):
        penalty(np.zeros((10, 4, 4, 3), "float32"))


def constrained(quantity, nats, beta=2.0, target=20.0):
    """Weight and next beta where that quantity has this mean, and the other one another."""
    values = np.float32([nats - 2.0, nats + 2.0])
    arguments = {"rate": values, "distortion": 3.0 * values}
    if quantity == "distortion":
        arguments = {"rate": 3.0 * values, "distortion": values}
    return [float(b) for b in BetaConstraint(quantity, target, gain=0.01)(beta, **arguments)]


@pytest.mark.parametrize(
    ("quantity", "nats", "up"), [("rate", 25, 1), ("rate", 15, -1), ("distortion", 25, -1), ("distortion", 15, 1)]
)
def test_beta_answers_to_a_deviation_at_once_and_lastingly(quantity, nats, up):
    weight, following = constrained(quantity, nats)
    assert following == pytest.approx(2.0 * np.exp(up * 0.01 * 0.25))
    assert up * (weight - 2.0) > up * (following - 2.0) > 0


def test_beta_rests_at_the_target_and_stays_in_its_range():
    assert constrained("rate", 20.0) == [2.0, 2.0]
    assert constrained("rate", 1e6, beta=BETA_RANGE[1])[1] == pytest.approx(BETA_RANGE[1])
    assert constrained("rate", 1e6)[1] == pytest.approx(2.0 * np.exp(0.01))  # cut at 1
    assert constrained("distortion", -1e3, target=1.0)[1] == pytest.approx(2.0 * np.exp(0.01))


def test_weight_of_a_constraint_has_no_gradient():
    rate = tf.Variable([25.0])
    with tf.GradientTape() as tape:
        both = sum(BetaConstraint("rate", 20.0)(2.0, rate=rate, distortion=rate))
    assert tape.gradient(both, rate) is None


@pytest.mark.parametrize("quantity", ["rate", "distortion"])
def test_constraint_is_saved(quantity):
    constraint = BetaConstraint(quantity, 20.0, gain=0.01)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(constraint))
    assert copy.get_config() == {"quantity": quantity, "target_nats": 20.0, "gain": 0.01}


@pytest.mark.parametrize("arguments", [("loss", 1.0), ("rate", 0), ("rate", np.nan), ("rate", 1.0, -1.0), ("rate", "1")])
def test_constraints_that_are_refused(arguments):
    with pytest.raises(ValueError, match="Invalid value received for argument"):
        BetaConstraint(*arguments)


def fitted(z, steps=300):
    """A penalty whose discriminator has been trained on some z, as the optimizer of a model would."""
    penalty = TotalCorrelationPenalty(1.0, hidden=(32, 32), seed=0)
    penalty.build(z.shape)
    optimizer = keras.optimizers.Adam(3e-3)
    optimizer.build(penalty.trainable_weights)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = penalty(z)
        optimizer.apply(tape.gradient(value, [w.value for w in penalty.trainable_weights]), penalty.trainable_weights)

    for _ in range(steps):
        step()
    return penalty


class TestTotalCorrelation:
    def test_of_a_gaussian(self):
        """`-log(1 - rho^2) / 2`; of independent dimensions 0."""
        normal = np.random.default_rng(0).normal(size=(4_000, 2)).astype("float32")
        correlated = tf.constant(np.stack([normal[:, 0], 0.9 * normal[:, 0] + np.sqrt(0.19) * normal[:, 1]], axis=1))
        expected = -0.5 * np.log(0.19)
        assert float(fitted(correlated)(correlated)) == pytest.approx(expected, rel=0.2)
        independent = tf.constant(normal)
        assert abs(float(fitted(independent, 50)(independent))) < 0.05

    def test_gradients(self):
        """z moves to lower the estimate; the discriminator to lower its own loss, in which z has no part."""
        rng = np.random.default_rng(0)
        z = tf.constant((rng.normal(size=(500, 1)) + 0.3 * rng.normal(size=(500, 2))).astype("float32"))
        penalty = fitted(z)
        weights = [w.value for w in penalty.trainable_weights]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(z)
            value = penalty(z)
            alone = tf.reduce_mean(penalty._log_odds(z, penalty.parameters))
        np.testing.assert_allclose(tape.gradient(value, z), tape.gradient(alone, z), rtol=1e-5)
        assert float(value) == pytest.approx(float(alone), abs=1e-6)
        ours, of_estimate = tape.gradient(value, weights), tape.gradient(alone, weights)
        assert not np.allclose(ours[0], of_estimate[0])  # else it would lower the estimate, and not learn

    def test_saved_and_refused(self):
        penalty = TotalCorrelationPenalty(3.0, hidden=(4,), seed=1)
        assert TotalCorrelationPenalty.from_config(penalty.get_config()).get_config() == penalty.get_config()
        with pytest.raises(ValueError, match="`hidden`"):
            TotalCorrelationPenalty(hidden=(0,))


@pytest.mark.parametrize(
    ("method", "groups", "found"),
    [
        ("echo", {"tc": {"weight": 1}}, "sampler"),
        ("echo_matrix", {"tc": {"weight": 1}}, "echo_matrix"),
        ("echo_mmd", {"tc": {"weight": 1}}, "MMD"),
        ("vae_tc", {"network": {"latent_dim": 1}}, "one latent"),
    ],
)
def test_what_does_not_go_with_a_total_correlation(method, groups, found):
    with pytest.raises(ConfigError, match=found):
        load_config(method, **groups)


@pytest.mark.parametrize("penalty", [MMDPenalty, TotalCorrelationPenalty])
def test_negative_weights_are_refused(penalty):
    with pytest.raises(ValueError, match="`weight`"):
        penalty(-1.0)
