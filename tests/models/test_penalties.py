import keras
import numpy as np
import pytest
import tensorflow as tf

from echo_tf.models.losses import constrained_beta, median_bandwidth, mmd
from echo_tf.models.penalties import BetaConstraint, MMDPenalty


@pytest.mark.parametrize(
    ("options", "squared_bandwidth"), [({"bandwidth": "median"}, None), ({"bandwidth": "fixed", "fixed_bandwidth": 5.0}, 25.0)]
)
def test_penalty_follows_its_options_and_moves_the_encodings(options, squared_bandwidth):
    penalty = MMDPenalty(3.0, **options, seed=1)
    z = tf.constant(np.random.default_rng(0).normal(1.0, 1.0, (10, 32)).astype("float32"))
    state = np.asarray(penalty.seed_generator.state)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = penalty(z)
    penalty.seed_generator.state.assign(state)
    prior = keras.random.normal((10, 32), seed=penalty.seed_generator)
    expected = mmd(z, prior, median_bandwidth(prior) if squared_bandwidth is None else squared_bandwidth)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)  # without its weight
    assert np.asarray(tape.gradient(value, z)).sum() > 0  # downhill is towards 0
    copy = MMDPenalty.from_config(penalty.get_config())
    assert (float(copy.weight), copy.get_config()) == (3.0, penalty.get_config())


def test_constraint_is_that_of_the_losses():
    rate, distortion = np.full(10, 1.1, "float32"), np.full(10, 7.0, "float32")
    for quantity, nats in (("rate", 1.1), ("distortion", 7.0)):
        constraint = BetaConstraint(quantity, 1.0, gain=0.2)
        found, expected = constraint(2.0, rate, distortion), constrained_beta(2.0, quantity, nats, 1.0, 0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert BetaConstraint.from_config(constraint.get_config()).get_config() == constraint.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMDPenalty(bandwidth="wide"), "`bandwidth`"),
        (lambda: MMDPenalty(seed=2**32), "`seed`"),
        (lambda: BetaConstraint("loss", 1.0), "`quantity`"),
        (lambda: BetaConstraint("rate", -1.0), "`target_nats`"),
        (lambda: BetaConstraint("rate", 1.0, gain=float("inf")), "`gain`"),
    ],
)
def test_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
