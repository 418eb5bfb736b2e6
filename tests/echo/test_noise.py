import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy.stats import ks_2samp

from echo_tf.echo.bound import max_scale
from echo_tf.echo.noise import (
    echo_moments,
    echo_noise,
    echo_rate,
    echo_recurrence,
    echo_sample,
    gather_noise,
    independent_noise,
    ring_noise,
)

SAMPLERS = ("ring", "gather")


def pairs(batch, dim=3, seed=0, max_scale=0.9):
    """Random (mean, log_scale) with |mean| < 1 and scales up to `max_scale`, float64."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (batch, dim)), np.log(rng.uniform(0.1, max_scale, (batch, dim)))


def direct_noise(mean, log_scale, echoes, behind=0.0):
    """The sum of the paper, term by term, in float64: noise of one example with the given echoes, and noise behind them."""
    noise, weight = np.zeros(mean.shape[1:]), np.ones(mean.shape[1:])
    for k in echoes:
        noise += weight * mean[k]
        weight *= np.exp(log_scale[k])
    return noise + weight * behind


def ring_echoes(order, d_max):
    """Row i: the echoes of example i, those that follow it on the ring."""
    batch, place = len(order), np.argsort(order)
    return [order[(place[i] + 1 + np.arange(d_max)) % batch] for i in range(batch)]


class TestDeterministicNoise:
    @pytest.mark.parametrize(("batch", "d_max"), [(2, 1), (5, 4), (7, 3), (100, 99), (100, 64), (33, 31)])
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_equals_direct_sum(self, sampler, batch, d_max):
        mean, log_scale = pairs(batch)
        rng = np.random.default_rng(1)
        if sampler == "ring":
            order = rng.permutation(batch)
            echoes = ring_echoes(order, d_max)
            noise = ring_noise(mean.astype("float32"), log_scale.astype("float32"), order, d_max)
        else:
            echoes = np.stack([rng.permutation(np.delete(np.arange(batch), i)) for i in range(batch)])
            noise = gather_noise(mean.astype("float32"), log_scale.astype("float32"), echoes, d_max)
        expected = [direct_noise(mean, log_scale, row[:d_max]) for row in echoes]
        np.testing.assert_allclose(noise, expected, atol=1e-5)

    @pytest.mark.parametrize("d_max", [1, 3, 6])
    def test_noise_behind_the_last_echo(self, d_max):
        """Every row of what is behind is used once: at the place behind the last echo of a ring, at its own row otherwise."""
        mean, log_scale = pairs(7)
        behind = np.random.default_rng(2).normal(size=(7, 3))
        order = np.random.default_rng(1).permutation(7)
        place = np.argsort(order)
        expected = [
            direct_noise(mean, log_scale, echoes, behind[(place[i] + 1 + d_max) % 7])
            for i, echoes in enumerate(ring_echoes(order, d_max))
        ]
        np.testing.assert_allclose(ring_noise(mean, log_scale, order, d_max, behind=behind), expected, rtol=0, atol=1e-12)
        orders = np.array([np.random.default_rng(i).permutation(np.delete(np.arange(7), i)) for i in range(7)])
        expected = [direct_noise(mean, log_scale, orders[i, :d_max], behind[i]) for i in range(7)]
        np.testing.assert_allclose(gather_noise(mean, log_scale, orders, d_max, behind=behind), expected, rtol=0, atol=1e-12)

    def test_number_of_echoes_known_at_run_time(self):
        mean, log_scale = pairs(21)
        behind = np.random.default_rng(2).normal(size=(21, 3))
        order = np.random.default_rng(0).permutation(21)

        @tf.function(input_signature=[tf.TensorSpec((), "int32")])
        def noise(count):
            return ring_noise(mean, log_scale, order, 99, count=count, behind=behind)

        np.testing.assert_allclose(noise(0), np.roll(behind, -1, axis=0)[np.argsort(order)])
        for count in range(1, 21):
            expected = ring_noise(mean, log_scale, order, count, behind=behind)
            np.testing.assert_allclose(noise(count), expected, rtol=1e-6, atol=1e-12)

    @pytest.mark.parametrize("largest", [1, 3, 4, 100])
    @pytest.mark.parametrize("count", [None, 0, 7, 19])
    def test_recurrence_of_blocks_up_to_a_length(self, largest, count):
        mean, log_scale = pairs(21)
        scale, behind = np.exp(log_scale), np.random.default_rng(2).normal(size=(21, 3))
        terms = 19 if count is None else count
        expected = np.roll(behind, -terms, axis=0)
        for place in reversed(range(terms)):
            expected = np.roll(mean, -place, axis=0) + np.roll(scale, -place, axis=0) * expected
        count = None if count is None else tf.constant(count)
        noise = echo_recurrence(mean, scale, 19, count=count, behind=behind, largest=largest)
        np.testing.assert_allclose(noise, expected, rtol=0, atol=1e-12)

    def test_ring_noise_is_the_next_output(self):
        mean, log_scale = pairs(200, max_scale=max_scale(150))
        order = np.random.default_rng(0).permutation(200)
        noise = np.asarray(ring_noise(mean, log_scale, order, 150))[order]
        z = mean[order] + np.exp(log_scale[order]) * noise
        np.testing.assert_allclose(noise, np.roll(z, -1, axis=0), atol=2 * 2**-23)

    def test_more_axes(self):
        mean, log_scale = pairs(10, dim=6)
        order = np.random.default_rng(0).permutation(10)
        flat = ring_noise(mean, log_scale, order, 9)
        shaped = ring_noise(mean.reshape(10, 1, 2, 3), log_scale.reshape(10, 1, 2, 3), order, 9)
        np.testing.assert_array_equal(np.reshape(shaped, (10, 6)), flat)


def assert_moments(samples, values):
    """First and second moments of samples of an example's noise, against values that are equally likely; 5 standard errors."""
    for power in (1, 2):
        error = np.abs((samples**power).mean(0) - (values**power).mean(0))
        assert np.all(error < 5 * (values**power).std(0) / math.sqrt(len(samples)) + 1e-12)


class TestEchoNoise:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_moments_for_a_fixed_batch_equal_enumeration(self, sampler, repeated):
        batch, d_max, draws = 5, 3, 1500
        mean, log_scale = pairs(batch, dim=2)
        seed = keras.random.SeedGenerator(0)
        noise = repeated(lambda: echo_noise(mean, log_scale, d_max=d_max, sampler=sampler, seed=seed), draws)
        for i in range(batch):
            orders = itertools.permutations([k for k in range(batch) if k != i], d_max)
            values = np.array([direct_noise(mean, log_scale, order) for order in orders])
            assert_moments(noise[:, i], values)
            # The covariance of two dimensions too: they share their echoes.
            assert_moments(np.prod(noise[:, i], axis=1), np.prod(values, axis=1))

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_with_replacement_draws_from_the_whole_batch(self, sampler, repeated):
        batch, d_max, draws = 4, 2, 1500
        mean, log_scale = pairs(batch, dim=2)
        seed = keras.random.SeedGenerator(0)
        noise = repeated(lambda: echo_noise(mean, log_scale, d_max=d_max, sampler=sampler, replace=True, seed=seed), draws)
        values = np.array([direct_noise(mean, log_scale, order) for order in itertools.product(range(batch), repeat=d_max)])
        for i in range(batch):
            assert_moments(noise[:, i], values)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_gaussian_source_has_the_variance_of_the_series(self, sampler):
        s, batch, columns = 0.7, 60, 20_000 if sampler == "ring" else 2_000
        # Each column is a batch of its own; only one value is taken of each, so that all are independent.
        f = np.random.default_rng(0).normal(size=(batch, columns, 1)).astype("float32")
        noise = np.asarray(echo_noise(f, np.full_like(f, math.log(s)), d_max=batch - 1, sampler=sampler, seed=0))[0]
        expected = 1 / (1 - s**2)
        assert abs(noise.var() - expected) < 5 * expected * math.sqrt(2 / len(noise))

    def test_noise_and_output_have_one_law(self):
        """Half the columns, each a fresh batch, give a value of z, the others one of e: at the largest scale, s = r."""
        r, half = max_scale(99), 20_000
        f = np.random.default_rng(0).normal(size=(100, 2 * half, 1)).astype("float32")
        noise = np.asarray(echo_noise(f, np.full_like(f, math.log(r)), seed=0))[0, :, 0]
        signal, e = f[0, :half, 0], noise[half:]

        def laws_differ(z):
            # Of Gaussian variances: 5 standard errors of the logarithm of their ratio.
            return abs(math.log(z.var() / e.var())) > 5 * math.sqrt(4 / half) or ks_2samp(z, e).pvalue < 1e-6

        assert not laws_differ(signal + r * noise[:half])
        assert laws_differ(signal + max_scale(999) * noise[:half])  # another r, in z only: the test must see it

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_own_sample_is_no_echo(self, sampler):
        batch = 6
        # Every column has its signal in another example.
        noise = np.asarray(echo_noise(np.eye(batch), np.full((batch, batch), -0.5), sampler=sampler))
        np.testing.assert_array_equal(noise == 0, np.eye(batch, dtype=bool))

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_seeds(self, sampler):
        mean, log_scale = pairs(20)
        generator = keras.random.SeedGenerator(1)
        draw = lambda seed: np.asarray(echo_noise(mean, log_scale, sampler=sampler, seed=seed))  # noqa: E731
        assert not np.array_equal(draw(generator), draw(generator))
        assert not np.array_equal(draw(None), draw(None))
        np.testing.assert_array_equal(draw(3), draw(3))
        assert not np.array_equal(draw(3), draw(4))

    def test_default_uses_all_others(self):
        mean, log_scale = pairs(8)
        np.testing.assert_array_equal(echo_noise(mean, log_scale, seed=1), echo_noise(mean, log_scale, d_max=7, seed=1))

    def test_low_precision_input_gives_float32(self):
        mean = ops.ones((4, 2), dtype="bfloat16")
        assert keras.backend.standardize_dtype(echo_noise(mean, -mean).dtype) == "float32"

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_gradient_through_neighbours(self, sampler):
        mean, log_scale = (tf.constant(value) for value in pairs(5))
        with tf.GradientTape() as tape:
            tape.watch([mean, log_scale])
            first = tf.reduce_sum(echo_noise(mean, log_scale, sampler=sampler, seed=0)[0])
        mean_gradient, scale_gradient = (
            np.asarray(tf.convert_to_tensor(gradient)) for gradient in tape.gradient(first, [mean, log_scale])
        )
        assert np.all(mean_gradient[0] == 0)
        assert np.all(scale_gradient[0] == 0)
        assert np.all(mean_gradient[1:] != 0)
        assert np.count_nonzero(np.all(scale_gradient[1:] != 0, axis=1)) == 3  # the last echo's scale multiplies nothing

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"d_max": 0}, "integer >= 1"),
            ({"d_max": 4}, "at most batch - 1 = 3"),
            ({"replace": True}, "d_max=None"),
            ({"sampler": "loop"}, "sampler='loop'"),
        ],
    )
    def test_invalid(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            echo_noise(*pairs(4), **arguments)

    def test_shapes_that_differ(self):
        with pytest.raises(ValueError, match=r"shape of `mean`, \(4, 3\)"):
            echo_noise(pairs(4)[0], pairs(4, dim=1)[1])


@pytest.mark.parametrize("replace", [False, True])
def test_independent_draws_have_the_moments_of_the_series(replace):
    mean, log_scale = pairs(2_000, dim=2, max_scale=0.5)
    noise = independent_noise(mean, log_scale, 30, 1_200, 30, replace=replace, seed=1)
    assert noise.shape == (1_200, 2)
    expected, variance = (np.asarray(value) for value in echo_moments(mean, log_scale))
    assert np.all(np.abs(noise.mean(0) - expected) < 5 * noise.std(0) / math.sqrt(1_200))
    squares = np.square(noise - expected)
    # With replacement from batches of 30 echoes repeat, which adds some 1 / 30 of the variance.
    assert np.all(np.abs(squares.mean(0) - variance) < 5 * squares.std(0) / math.sqrt(1_200) + replace * variance / 30)
    assert np.abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 5 / math.sqrt(1_200)


def test_rate_is_minus_the_sum_of_logs():
    _, log_scale = pairs(4, dim=6)
    np.testing.assert_allclose(echo_rate(log_scale), -log_scale.sum(1))
    np.testing.assert_allclose(echo_rate(log_scale.reshape(4, 1, 2, 3)), -log_scale.sum(1))


def test_sample_is_signal_plus_scaled_noise():
    mean, log_scale = pairs(10)
    expected = mean + np.exp(log_scale) * echo_noise(mean, log_scale, seed=2)
    np.testing.assert_allclose(echo_sample(mean, log_scale, seed=2), expected)


def test_moments_equal_those_of_long_sequences():
    mean, log_scale = pairs(6, max_scale=0.8)
    # With replacement and d_max large the noise has the law for x uniform over these six examples.
    draws = np.asarray(gather_noise(mean, log_scale, np.random.default_rng(0).integers(0, 6, (10_000, 80)), 80))
    z_mean, z_variance = (np.asarray(value) for value in echo_moments(mean, log_scale))
    assert np.all(np.abs(draws.mean(0) - z_mean) < 5 * draws.std(0) / math.sqrt(len(draws)))
    squares = np.square(draws - z_mean)
    assert np.all(np.abs(squares.mean(0) - z_variance) < 5 * squares.std(0) / math.sqrt(len(draws)))
