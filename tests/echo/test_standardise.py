import numpy as np
import pytest
import tensorflow as tf

from echo_tf.echo.noise import echo_moments
from echo_tf.echo.reservoir import Reservoir
from echo_tf.echo.standardise import FEWEST_FOR_MOMENTS, VARIANCE_EPSILON, Standardiser, _with_earlier

SIZE = 40


def pairs(batch, seed=0):
    rng = np.random.default_rng(seed)
    mean, log_scale = rng.uniform(-1, 1, (batch, 3)) + 0.3 * seed, np.log(rng.uniform(0.1, 0.9, (batch, 3)))
    return mean.astype("float32"), log_scale.astype("float32")


def outputs(batch=20):
    return np.random.default_rng(9).normal(size=(batch, 3)).astype("float32")


def joined(*batches):
    return tuple(np.concatenate(values) for values in zip(*batches, strict=True))


def by_moments_of(z, *batches):
    mean, variance = (np.asarray(value) for value in echo_moments(*joined(*batches)))
    return (z - mean) / np.sqrt(variance + VARIANCE_EPSILON)


@pytest.fixture
def made():
    """A standardiser with its reservoir, and a function that does what a channel does with a batch."""
    reservoir = Reservoir(SIZE, lambda mean, scale, seed: mean, seed=None)
    reservoir.build((None, 3), (None, 3))
    standardiser = Standardiser()
    standardiser.build((None, 3))

    def transform(z, batch, training, always_renormalise=False):
        if training:
            reservoir.store(*batch)
        return standardiser.transform(z, *batch, reservoir, training=training, always_renormalise=always_renormalise)

    return standardiser, transform


def test_moments_are_of_the_batch_in_training_and_stored_ones_at_inference(made):
    standardiser, transform = made
    batches, z = [pairs(20, seed) for seed in range(2)], outputs()
    np.testing.assert_allclose(transform(z, batches[0], training=False), by_moments_of(z, batches[0]), rtol=1e-4)  # untrained
    transform(z, batches[0], training=True)
    found = transform(z, batches[1], training=True)
    np.testing.assert_allclose(found, by_moments_of(z, batches[1]), rtol=1e-4, atol=1e-5)
    expected = by_moments_of(z, *batches)  # the reservoir holds both
    np.testing.assert_allclose(transform(z, pairs(7, seed=3), training=False), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(standardiser.by_stored(z), expected, rtol=1e-4, atol=1e-5)
    standardiser.set_moments(*batches[0])
    expected = by_moments_of(z, batches[0])
    np.testing.assert_allclose(transform(z, batches[1], training=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("always", [False, True])
def test_renormalised_value_is_by_the_reservoir_and_gradient_by_the_batch(made, always):
    standardiser, transform = made
    batches, z = [pairs(20, seed) for seed in range(2)], outputs()
    transform(z, batches[0], training=True)

    def value_and_gradient(always_renormalise):
        mean = tf.constant(batches[1][0])
        with tf.GradientTape() as tape:
            tape.watch(mean)
            value = transform(mean + z, (mean, batches[1][1]), True, always_renormalise)
            nonlinear = tf.reduce_sum(value * np.arange(60.0, dtype="float32").reshape(20, 3))
        return np.asarray(value), np.asarray(tape.gradient(nonlinear, mean))

    by_batch, batch_gradient = value_and_gradient(False)
    transform(z, batches[0], training=True)  # the reservoir holds both batches, this one and then batches[1], as in a training
    if not always:
        standardiser.renormalising.assign(1.0)
    by_reservoir, gradient = value_and_gradient(always)
    np.testing.assert_allclose(by_batch, by_moments_of(batches[1][0] + z, batches[1]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_reservoir, by_moments_of(batches[1][0] + z, *batches), rtol=1e-4, atol=1e-5)
    assert np.abs(by_reservoir - by_batch).max() > 0.01
    np.testing.assert_allclose(gradient, batch_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("static", [True, False])
def test_earlier_examples_complete_the_moments_of_a_short_batch(static):
    reservoir = Reservoir(SIZE, lambda mean, scale, seed: mean, seed=None)
    reservoir.build((None, 3), (None, 3))
    earlier, short = pairs(20), pairs(3, seed=1)
    reservoir.store(*earlier)
    reservoir.store(*short)
    signature = [tf.TensorSpec((3 if static else None, 3))] * 2

    @tf.function(input_signature=signature)
    def population_and_gradient(mean, log_scale):
        with tf.GradientTape() as tape:
            tape.watch([mean, log_scale])
            population = _with_earlier(mean, log_scale, reservoir)
            means = [tf.reduce_mean(values) for values in population]
        return population, tape.gradient(means, [mean, log_scale])

    population, gradients = population_and_gradient(*short)
    expected = joined(short, tuple(values[: FEWEST_FOR_MOMENTS - 3] for values in earlier))
    for values, all_values in zip(population, expected, strict=True):
        np.testing.assert_array_equal(values, all_values)
    for gradient in gradients:  # through the given ones only
        np.testing.assert_allclose(gradient, 1.0 / (FEWEST_FOR_MOMENTS * 3), rtol=1e-5)


def test_the_rest_of_a_training_uses_them(made):
    _, transform = made
    earlier, short, z = pairs(20), pairs(3, seed=1), outputs(3)
    transform(outputs(), earlier, training=True)
    found = transform(z, short, training=True)
    np.testing.assert_allclose(found, by_moments_of(z, short, tuple(v[:5] for v in earlier)), rtol=1e-4, atol=1e-5)
    enough = pairs(FEWEST_FOR_MOMENTS, seed=2)
    found = transform(outputs(FEWEST_FOR_MOMENTS), enough, training=True)
    np.testing.assert_allclose(found, by_moments_of(outputs(FEWEST_FOR_MOMENTS), enough), rtol=1e-4, atol=1e-5)


def test_a_dead_dimension_stays_finite(made):
    _, transform = made
    mean, log_scale = pairs(20)
    mean[:, 1] = 0.0
    assert np.all(np.isfinite(transform(0.0 * outputs(), (mean, log_scale), training=True)))
