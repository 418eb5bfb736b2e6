import numpy as np
import pytest
import tensorflow as tf

from echo_tf.echo.matrix import matrix_moments
from echo_tf.echo.noise import echo_moments
from echo_tf.echo.reservoir import Reservoir
from echo_tf.echo.standardise import (
    FEWEST_FOR_MOMENTS,
    NEWEST,
    VARIANCE_EPSILON,
    RunningStandardiser,
    Standardiser,
    _with_earlier,
)

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


@pytest.mark.parametrize("always", [False, True])
def test_a_single_example_is_left_as_it_is(made, always):
    standardiser, transform = made
    one, z = pairs(1), outputs(1)
    np.testing.assert_allclose(transform(z, one, True, always), z, rtol=1e-5)
    np.testing.assert_allclose(transform(z, one, training=False), z, rtol=1e-5)
    np.testing.assert_array_equal(standardiser.variance, 1.0)
    transform(outputs(), pairs(20, seed=1), training=True)
    assert np.all(np.abs(np.asarray(standardiser.variance) - 1.0) > 1e-3)


def test_so_it_is_at_inference_before_any_training(made):
    z = outputs(1)
    np.testing.assert_allclose(made[1](z, pairs(1), training=False), z, rtol=1e-5)
    _, transform = TestRunning.made(filled=False)
    np.testing.assert_allclose(transform(z, training=False), z, rtol=1e-5)


def test_a_dead_dimension_stays_finite(made):
    _, transform = made
    mean, log_scale = pairs(20)
    mean[:, 1] = 0.0
    assert np.all(np.isfinite(transform(0.0 * outputs(), (mean, log_scale), training=True)))


class TestRunning:
    """Of matrices; `pairs` and the reservoir count only where the moments are set."""

    @staticmethod
    def made(filled=True):
        reservoir = Reservoir(SIZE, lambda mean, scale, seed: mean, seed=None)
        reservoir.build((None, 3), (None, 3, 3))
        reservoir.filled.assign(float(SIZE * filled))
        standardiser = RunningStandardiser()
        standardiser.build((None, 3))

        def transform(z, training=True, always_renormalise=False):
            options = {"training": training, "always_renormalise": always_renormalise}
            return standardiser.transform(z, None, None, reservoir, **options)

        return standardiser, transform

    @staticmethod
    def by(z, *batches):
        values = np.concatenate(batches)
        return (z - values.mean(0)) / np.sqrt(values.var(0) + VARIANCE_EPSILON)

    def test_training_is_by_the_batch_and_inference_by_all_that_was_seen(self):
        """The first batches have equal weights: the moments are those of their union, between the batches as well."""
        standardiser, transform = self.made()
        batches = [scale * np.float32(outputs()) + shift for scale, shift in ((1, 0), (2, 1), (1, 3), (3, -2))]
        for number, z in enumerate(batches, 1):
            np.testing.assert_allclose(transform(z), self.by(z, z), rtol=1e-4, atol=1e-5)
            expected = self.by(batches[0], *batches[:number])
            np.testing.assert_allclose(transform(batches[0], training=False), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(standardiser.by_stored(z), self.by(z, *batches), rtol=1e-4, atol=1e-5)

    def test_of_echoes_from_the_reservoir_alone_training_is_by_all_that_was_seen(self):
        """So that a batch of one class is standardised as it will be at inference."""
        _, transform = self.made()
        batches = [np.float32(outputs()), np.float32(2 * outputs() + 3)]
        transform(batches[0])
        expected = self.by(batches[1], *batches)
        np.testing.assert_allclose(transform(batches[1], always_renormalise=True), expected, rtol=1e-4, atol=1e-5)

    def test_later_batches_have_a_constant_weight(self):
        standardiser, transform = self.made()
        mean = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype("float32")
        scale = np.broadcast_to(0.5 * np.eye(3, dtype="float32"), (20, 3, 3))
        standardiser.set_moments(mean, scale)
        stored = [np.asarray(value) for value in matrix_moments(mean, scale)]
        stored[1] = np.diag(stored[1])
        np.testing.assert_allclose(standardiser.mean, stored[0], rtol=1e-5, atol=1e-6)
        z = outputs() + 1.0
        transform(z)
        np.testing.assert_allclose(standardiser.mean, (1 - NEWEST) * stored[0] + NEWEST * z.mean(0), rtol=1e-4, atol=1e-5)
        between = NEWEST * (1 - NEWEST) * (z.mean(0) - stored[0]) ** 2
        np.testing.assert_allclose(
            standardiser.variance, (1 - NEWEST) * stored[1] + NEWEST * z.var(0) + between, rtol=1e-4, atol=1e-5
        )

    def test_renormalised_has_the_stored_value_and_the_gradient_of_the_batch(self):
        standardiser, transform = self.made()
        transform(3.0 * outputs() + 1.0)
        weights, gradients = np.random.default_rng(1).normal(size=(20, 3)), []
        for renormalising in (0.0, 1.0):
            standardiser.renormalising.assign(renormalising)
            z = tf.constant(outputs())
            with tf.GradientTape() as tape:
                tape.watch(z)
                found = transform(z)
                loss = tf.reduce_sum(weights * found)
            gradients.append(tape.gradient(loss, z))
        np.testing.assert_allclose(found, standardiser.by_stored(z), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(*gradients)

    def test_a_few_examples_are_standardised_by_the_stored_moments(self):
        standardiser, transform = self.made()
        transform(outputs())
        few = outputs(FEWEST_FOR_MOMENTS - 1)
        found = transform(few)
        np.testing.assert_allclose(found, standardiser.by_stored(few), rtol=1e-5, atol=1e-6)
        assert not np.allclose(found, self.by(few, few), atol=0.1)

    def test_a_few_examples_before_all_others_move_the_initial_moments_only(self):
        standardiser, transform = self.made()
        few = outputs(2)
        transform(few)
        variance = (1 - NEWEST) * (1 + NEWEST * few.mean(0) ** 2) + NEWEST * few.var(0)
        np.testing.assert_allclose(standardiser.mean, NEWEST * few.mean(0), rtol=1e-5)
        np.testing.assert_allclose(standardiser.variance, variance, rtol=1e-5)
        transform(outputs())
        np.testing.assert_allclose(standardiser.by_stored(few), self.by(few, outputs()), rtol=1e-4, atol=1e-5)

    def test_an_untrained_one_takes_the_batch_at_inference_and_none_remembers_nan(self):
        standardiser, transform = self.made(filled=False)
        np.testing.assert_allclose(transform(outputs(), training=False), self.by(outputs(), outputs()), rtol=1e-4, atol=1e-5)
        transform(outputs())
        before = [weight.numpy() for weight in standardiser.weights]
        transform(np.where(np.arange(20)[:, None] == 3, np.nan, outputs()).astype("float32"))
        for weight, old in zip(standardiser.weights, before, strict=True):
            np.testing.assert_array_equal(weight, old)
