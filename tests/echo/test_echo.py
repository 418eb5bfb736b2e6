import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy.stats import ks_2samp

import echo_tf
from echo_tf.echo.layers_old import (
    CENTRING,
    EchoDense,
    EchoLayer,
    _pull_to_centre,
    _standardise,
    echo_moments,
    echo_noise,
    gather_noise,
    max_scale,
    ring_noise,
)

SAMPLERS = ("ring", "gather")


def pairs(batch, dim=3, seed=0, max_scale=0.9):
    """Random (mean, log_scale) with |mean| < 1 and scales up to `max_scale`, float64."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (batch, dim)), np.log(rng.uniform(0.1, max_scale, (batch, dim)))


def direct_noise(mean, log_scale, echoes):
    """The sum of the paper, term by term, in float64: noise of one example with the given echoes."""
    noise, weight = np.zeros(mean.shape[1:]), np.ones(mean.shape[1:])
    for k in echoes:
        noise += weight * mean[k]
        weight *= np.exp(log_scale[k])
    return noise


class TestMaxScale:
    @pytest.mark.parametrize(("d_max", "expected"), [(99, 0.8358656), (999, 0.980307), (100, 0.837292), (49, 0.704522)])
    def test_known_values(self, d_max, expected):
        assert max_scale(d_max) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("d_max", [1, 2, 99, 4000, 10**7])
    @pytest.mark.parametrize("max_mean", [1e-3, 1.0, 1e6])
    @pytest.mark.parametrize("precision", [2**-53, 2**-23, 2**-7])
    def test_solves_its_equation(self, d_max, max_mean, precision):
        r = max_scale(d_max, max_mean, precision)
        assert 0 < r < 1
        # Compared in logarithms; near r = 1 the spacing of floats in 1 - r limits what r itself can satisfy.
        error = math.log(max_mean) + d_max * math.log(r) - math.log1p(-r) - math.log(precision)
        rounding = 2**-52 * (d_max / r + 1 / (1 - r))
        assert abs(error) < 10 * rounding + 1e-9

    def test_floor_of_the_paper(self):
        assert EchoLayer(d_max=99).rate_floor(32) == pytest.approx(5.7372, abs=5e-5)

    @pytest.mark.parametrize(
        "arguments", [(0,), (-1,), (1.5,), (5.0,), (math.inf,), (99, 0.0), (99, -1.0), (99, math.inf), (99, 1.0, 0.0)]
    )
    def test_invalid(self, arguments):
        with pytest.raises(ValueError, match="Invalid value received for argument"):
            max_scale(*arguments)


class TestDeterministicNoise:
    @pytest.mark.parametrize(("batch", "d_max"), [(2, 1), (5, 4), (7, 3), (100, 99), (100, 64), (33, 31)])
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_equals_direct_sum(self, sampler, batch, d_max):
        mean, log_scale = pairs(batch)
        rng = np.random.default_rng(1)
        if sampler == "ring":
            order = rng.permutation(batch)
            place = np.argsort(order)
            echoes = [order[(place[i] + 1 + np.arange(d_max)) % batch] for i in range(batch)]
            noise = ring_noise(mean.astype("float32"), log_scale.astype("float32"), order, d_max)
        else:
            echoes = np.stack([rng.permutation(np.delete(np.arange(batch), i)) for i in range(batch)])
            noise = gather_noise(mean.astype("float32"), log_scale.astype("float32"), echoes, d_max)
        expected = [direct_noise(mean, log_scale, row[:d_max]) for row in echoes]
        np.testing.assert_allclose(noise, expected, atol=1e-5)

    def test_number_of_echoes_known_at_run_time(self):
        mean, log_scale = pairs(21)
        order = np.random.default_rng(0).permutation(21)
        for count in range(1, 21):
            noise = tf.function(lambda count: ring_noise(mean, log_scale, order, 99, count))(tf.constant(count))
            np.testing.assert_allclose(noise, ring_noise(mean, log_scale, order, count), rtol=1e-6)

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


class TestEchoNoise:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_moments_for_a_fixed_batch_equal_enumeration(self, sampler):
        batch, d_max, draws = 5, 3, 1500
        mean, log_scale = pairs(batch, dim=2)
        generator = keras.random.SeedGenerator(0)
        noise = np.stack(
            [echo_noise(mean, log_scale, d_max=d_max, sampler=sampler, seed=generator) for _ in range(draws)]
        )  # (draws, batch, dim)
        for i in range(batch):
            orders = itertools.permutations([k for k in range(batch) if k != i], d_max)
            values = np.array([direct_noise(mean, log_scale, order) for order in orders])  # all equally likely
            # Mean, and second moments with the covariance among them: each within 5 standard errors of its estimate.
            products = values[:, :, None] * values[:, None, :]
            sampled = noise[:, i, :, None] * noise[:, i, None, :]
            for estimate, truth in ((noise[:, i], values), (sampled, products)):
                error = np.abs(estimate.mean(0) - truth.mean(0))
                assert np.all(error < 5 * truth.std(0) / math.sqrt(draws) + 1e-12)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_with_replacement_draws_from_the_whole_batch(self, sampler):
        batch, d_max, draws = 4, 2, 1500
        mean, log_scale = pairs(batch, dim=2)
        generator = keras.random.SeedGenerator(0)
        noise = np.stack(
            [echo_noise(mean, log_scale, d_max=d_max, sampler=sampler, replace=True, seed=generator) for _ in range(draws)]
        )
        values = np.array([direct_noise(mean, log_scale, order) for order in itertools.product(range(batch), repeat=d_max)])
        for i in range(batch):
            error = np.abs(noise[:, i].mean(0) - values.mean(0))
            assert np.all(error < 5 * values.std(0) / math.sqrt(draws))
            squares, square_values = np.square(noise[:, i]), np.square(values)
            error = np.abs(squares.mean(0) - square_values.mean(0))
            assert np.all(error < 5 * square_values.std(0) / math.sqrt(draws))

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_gaussian_source_has_the_variance_of_the_series(self, sampler):
        s, batch, columns = 0.7, 60, 20_000
        # Each column is a batch of its own; only one value is taken of each, so that all are independent.
        f = np.random.default_rng(0).normal(size=(batch, columns, 1)).astype("float32")
        if sampler == "gather":
            f = f[:, :2000]
        noise = np.asarray(echo_noise(f, np.full_like(f, math.log(s)), d_max=batch - 1, sampler=sampler, seed=0))[0]
        expected = 1 / (1 - s**2)
        assert abs(noise.var() - expected) < 5 * expected * math.sqrt(2 / len(noise))

    @staticmethod
    def variances_differ(a, b):
        """Two-sample test of Gaussian variances at 5 standard errors of the logarithm of their ratio."""
        return abs(math.log(a.var() / b.var())) > 5 * math.sqrt(2 / len(a) + 2 / len(b))

    def test_noise_and_output_have_one_law(self):
        layer = EchoLayer(d_max=99, seed=0)
        # Half the columns, each a fresh batch, give a value of z, the others a value of e: at the largest scale, s = r.
        f = np.random.default_rng(0).normal(size=(100, 400_000, 1)).astype("float32")
        log_s = np.zeros_like(f)
        noise = layer.noise(f, log_s)
        z = np.asarray(layer.transmit(f, log_s, noise))[0, :200_000, 0]
        e = np.asarray(noise)[0, 200_000:, 0]
        assert not self.variances_differ(z, e)
        assert ks_2samp(z, e).pvalue > 1e-6
        # The released code's default for another r, in z only: the test must see it.
        wrong = 0.852635 / layer.max_scale
        z_wrong = f[0, :200_000, 0] + (z - f[0, :200_000, 0]) * wrong
        assert self.variances_differ(z_wrong, e)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_own_sample_is_no_echo(self, sampler):
        batch = 6
        for i in range(batch):
            mean = np.zeros((batch, 1))
            mean[i] = 1.0
            noise = np.asarray(echo_noise(mean, np.full((batch, 1), -0.5), sampler=sampler))
            assert noise[i] == 0
            assert np.all(np.delete(noise, i) > 0)

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
        import tensorflow as tf

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


def test_rate_is_minus_the_sum_of_logs():
    _, log_scale = pairs(4, dim=6)
    np.testing.assert_allclose(echo_tf.echo_rate(log_scale), -log_scale.sum(1))
    np.testing.assert_allclose(echo_tf.echo_rate(log_scale.reshape(4, 1, 2, 3)), -log_scale.sum(1))


def test_sample_is_signal_plus_scaled_noise():
    mean, log_scale = pairs(10)
    expected = mean + np.exp(log_scale) * echo_noise(mean, log_scale, seed=2)
    np.testing.assert_allclose(echo_tf.echo_sample(mean, log_scale, seed=2), expected)


def test_moments_equal_those_of_long_sequences():
    mean, log_scale = pairs(6, max_scale=0.8)
    # With replacement and d_max large the noise has the law for x uniform over these six examples.
    generator = keras.random.SeedGenerator(0)
    draws = np.concatenate(
        [
            np.asarray(gather_noise(mean, log_scale, keras.random.randint((5000, 80), 0, 6, seed=generator), 80))
            for _ in range(4)
        ]
    )
    z_mean, z_variance = (np.asarray(value) for value in echo_moments(mean, log_scale))
    assert np.all(np.abs(draws.mean(0) - z_mean) < 5 * draws.std(0) / math.sqrt(len(draws)))
    squares = np.square(draws - z_mean)
    assert np.all(np.abs(squares.mean(0) - z_variance) < 5 * squares.std(0) / math.sqrt(len(draws)))


class _NoiseInTraining(keras.layers.Layer):
    """Noise of an `EchoLayer` as in training, in a graph."""

    def __init__(self, echo):
        super().__init__()
        self.echo = echo

    def call(self, inputs):
        return self.echo.noise(*inputs, training=True)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


class TestEchoLayer:
    @staticmethod
    def inputs(batch, dim=4, seed=0):
        rng = np.random.default_rng(seed)
        mean, log_scale = np.tanh(rng.normal(size=(batch, dim))), -np.log1p(np.exp(-rng.normal(size=(batch, dim))))
        return mean.astype("float32"), log_scale.astype("float32")

    @classmethod
    def large_scales(cls, batch, dim, seed=0):
        """Inputs whose noise has more than two echoes that matter."""
        mean, log_scale = cls.inputs(batch, dim, seed)
        return mean, 0.2 * log_scale

    def test_rate_uses_the_same_scale_as_the_output(self):
        layer = EchoLayer(d_max=9, seed=0)
        mean, log_scale = self.inputs(20)
        np.testing.assert_allclose(layer.rate(log_scale), -(log_scale + math.log(max_scale(9))).sum(1), rtol=1e-6)
        noise = layer.noise(mean, log_scale)
        expected = mean + max_scale(9) * np.exp(log_scale) * noise
        np.testing.assert_allclose(layer.transmit(mean, log_scale, noise), expected, rtol=1e-5, atol=1e-6)

    def test_rate_is_never_below_the_floor(self):
        layer = EchoLayer()
        log_scale = np.zeros((3, 32), "float32")
        log_scale[1] = -1e-9
        assert np.all(layer.rate(log_scale) >= layer.rate_floor(32) * (1 - 1e-6))

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_fresh_at_every_call(self, sampler):
        layer = EchoLayer(d_max=9, sampler=sampler, seed=0)
        inputs = self.inputs(20)
        assert not np.array_equal(layer(inputs), layer(inputs))

    def test_float32_under_mixed_precision(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            layer = EchoLayer(d_max=3)
            mean, log_scale = self.inputs(8)
            z = layer([ops.cast(mean, "bfloat16"), ops.cast(log_scale, "bfloat16")])
            assert keras.backend.standardize_dtype(z.dtype) == "float32"
        finally:
            keras.config.set_dtype_policy("float32")

    def test_multiplicative_is_the_exponential(self):
        inputs = self.inputs(8)
        additive, multiplicative = EchoLayer(d_max=7, seed=1), EchoLayer(d_max=7, seed=1, multiplicative=True)
        np.testing.assert_allclose(multiplicative(inputs), np.exp(additive(inputs)), rtol=1e-6)
        np.testing.assert_array_equal(multiplicative.rate(inputs[1]), additive.rate(inputs[1]))

    def test_rate_weight_adds_the_mean_rate(self):
        layer = EchoLayer(d_max=7, rate_weight=0.5)
        inputs = self.inputs(8)
        layer(inputs)
        (loss,) = layer.losses
        assert float(loss) == pytest.approx(0.5 * float(np.mean(layer.rate(inputs[1]))), rel=1e-6)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_short_batch_goes_on_in_the_reservoir(self, sampler):
        layer = EchoLayer(d_max=200, sampler=sampler, seed=0)
        mean, log_scale = self.inputs(2, dim=1)
        scale = layer.max_scale * np.exp(log_scale)
        layer.build([mean.shape, log_scale.shape])
        # With one other example and an empty reservoir the noise is that example.
        np.testing.assert_allclose(layer.noise(mean, log_scale, training=True), mean[::-1], rtol=1e-6)
        # Behind it come examples that are all alike: a geometric series to within the truncation.
        layer.adapt((np.full((10, 1), 0.5, "float32"), np.full((10, 1), np.log(0.25), "float32")))
        older = 0.5 / (1 - 0.25 * layer.max_scale)
        noise = layer.noise(mean, log_scale, training=True)
        np.testing.assert_allclose(noise, mean[::-1] + scale[::-1] * older, rtol=1e-5)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("static", [True, False])
    def test_noise_of_a_short_batch_has_the_moments_of_z(self, sampler, static):
        dims, batch = 2_000, 3  # every dimension is an experiment of its own
        layer = EchoLayer(d_max=99, sampler=sampler, reservoir_size=100, seed=0)
        mean, log_scale = self.large_scales(batch + 100, dim=dims)
        layer.adapt((mean[batch:], log_scale[batch:]))
        inputs = [keras.Input(batch_shape=(batch if static else None, dims)) for _ in range(2)]
        model = keras.Model(inputs, _NoiseInTraining(layer)(inputs))
        first = model.predict_on_batch([mean[:batch], log_scale[:batch]])[0]
        mean, log_scale = self.large_scales(500_000, dim=1, seed=1)
        expected, variance = (float(np.squeeze(m)) for m in echo_moments(mean, log_scale + layer.log_max_scale))
        assert abs(first.mean() - expected) < 5 * first.std() / np.sqrt(dims)
        spread = (first - expected) ** 2
        assert abs(spread.mean() - variance) < 5 * spread.std() / np.sqrt(dims)

    def test_batch_of_one_is_refused(self):
        with pytest.raises(ValueError, match="at least 2 examples"):
            EchoLayer(d_max=3)(self.inputs(1))

    def test_unknown_batch_size(self):
        mean, log_scale = keras.Input((4,)), keras.Input((4,))
        model = keras.Model([mean, log_scale], EchoLayer(d_max=9, seed=0)([mean, log_scale]))
        assert model.output_shape == (None, 4)
        assert model.predict(self.inputs(25), batch_size=10, verbose=0).shape == (25, 4)

    def test_save_and_load(self, tmp_path):
        mean, log_scale = keras.Input((4,)), keras.Input((4,))
        layer = EchoLayer(d_max=9, max_mean=2.0, sampler="gather", multiplicative=True, seed=5, name="channel")
        model = keras.Model([mean, log_scale], layer([mean, log_scale]))
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.get_layer("channel").get_config() == layer.get_config()
        inputs = self.inputs(20)
        np.testing.assert_array_equal(loaded(inputs), model(inputs))  # both generators start from seed 5


class TestReservoir:
    """Of the bare layer; `EchoDense` uses the same one."""

    @staticmethod
    def classes(n=600, dim=2):
        """Pairs of two classes, sorted, with signals of opposite sign."""
        rng = np.random.default_rng(0)
        sign = np.repeat([-1.0, 1.0], n // 2)[:, None]
        mean = (sign * rng.uniform(0.5, 1.0, (n, dim))).astype("float32")
        return mean, np.log(rng.uniform(0.2, 0.9, (n, dim))).astype("float32")

    def test_training_fills_it_and_batches_of_one_use_it(self):
        mean, log_scale = pairs(60)
        layer = EchoLayer(d_max=19, seed=0)
        layer([mean, log_scale], training=True)
        one = [np.asarray(layer([mean[:1], log_scale[:1]])) for _ in range(3)]
        assert one[0].shape == (1, 3)
        assert np.std(one, axis=0).min() > 0
        np.testing.assert_allclose(layer.reservoir_mean[:60], mean, rtol=1e-6)
        assert layer.reservoir_mean.shape == (1000, 3)

    @pytest.mark.parametrize("sampler", ["ring", pytest.param("gather", marks=pytest.mark.slow)])
    def test_its_noise_has_the_law_of_batch_noise(self, sampler):
        mean, log_scale = self.classes()
        log_scale = log_scale - np.log(2.0)
        layer = EchoLayer(d_max=29, sampler=sampler, reservoir_size=600, seed=0)
        layer.adapt((mean, log_scale))
        draws = {"batch": [], "reservoir": []}
        for _ in range(400):  # one value of each call: values of one ring depend on each other
            draws["reservoir"].append(np.asarray(layer.noise(mean[:1], log_scale[:1]))[0])
            draws["batch"].append(np.asarray(layer.noise(mean, log_scale))[0])
        for j in range(2):
            p = ks_2samp(np.array(draws["batch"])[:, j], np.array(draws["reservoir"])[:, j]).pvalue
            assert p > 1e-4

    def test_predictions_for_one_example_average_to_those_in_a_batch(self):
        mean, log_scale = self.classes()
        layer = EchoLayer(d_max=29, seed=0)
        layer.adapt((mean, log_scale))
        alone = np.array([layer([mean[:1], log_scale[:1]])[0] for _ in range(500)])
        batched = np.array([layer([mean, log_scale])[0] for _ in range(500)])
        se = np.hypot(alone.std(0), batched.std(0)) / np.sqrt(500)
        assert np.all(np.abs(alone.mean(0) - batched.mean(0)) < 5 * se)

    @pytest.mark.parametrize("training", [False, True])
    def test_cures_batches_of_one_class(self, training):
        """The noise of a sorted batch has the sign of its class, while its rate looks right; that of the reservoir is right."""
        mean, log_scale = self.classes()
        truth = float(echo_moments(mean, log_scale + EchoLayer(d_max=99).log_max_scale)[0][0])
        noise, rates = {}, {}
        for echoes in ("batch", "reservoir"):
            layer = EchoLayer(d_max=99, echoes=echoes, seed=0)
            layer.adapt((mean, log_scale))
            one_class = (mean[300:], log_scale[300:])
            draws = [layer.noise(*one_class, training=training) for _ in range(40)]
            noise[echoes] = np.array([np.mean(draw, axis=0)[0] for draw in draws])  # rings average over most of the dependence
            rates[echoes] = float(np.mean(layer.rate(one_class[1])))
        assert rates["batch"] == rates["reservoir"]
        se = noise["reservoir"].std() / np.sqrt(40)
        # The reservoir is a random sample of the data, 600 of them here: their own mean.
        assert abs(noise["reservoir"].mean() - truth) < 5 * se + 0.02
        assert noise["batch"].mean() > truth + 0.5

    def test_echoes_from_the_reservoir_are_never_of_the_batch_at_hand(self):
        mean, log_scale = pairs(50)
        layer = EchoLayer(d_max=19, echoes="reservoir", seed=0)
        layer([mean, log_scale], training=True)
        loud = [np.full_like(mean, 1e3), log_scale]
        assert np.max(np.abs(layer.noise(*loud, training=True))) < 20
        layer(loud, training=True)
        assert np.max(np.abs(layer.noise(mean, log_scale, training=True))) > 100

    def test_larger_batches_use_its_noise_again(self):
        mean, log_scale = pairs(70)
        layer = EchoLayer(d_max=19, echoes="reservoir", reservoir_size=30, seed=0)
        layer.adapt((mean, log_scale))
        noise = np.asarray(layer.noise(mean, log_scale))
        np.testing.assert_array_equal(noise[:30], noise[30:60])
        assert len(np.unique(noise[:30, 0])) == 30

    def test_draws_of_the_marginal_need_no_data(self):
        layer = EchoLayer(d_max=19, seed=0)
        with pytest.raises(ValueError, match="call adapt"):
            layer.sample_marginal(3)
        layer.adapt(pairs(50))
        assert layer.sample_marginal(1500).shape == (1500, 3)

    def test_draws_of_a_multiplicative_marginal_are_exponentials(self):
        draws = []
        for multiplicative in (False, True):
            layer = EchoLayer(d_max=19, multiplicative=multiplicative, seed=0)
            layer.adapt(pairs(50))
            draws.append(np.asarray(layer.sample_marginal(5)))
        np.testing.assert_allclose(draws[1], np.exp(draws[0]), rtol=1e-6)

    def test_adapt_takes_batches_and_refuses_one_example(self):
        mean, log_scale = pairs(50)
        layers = [EchoLayer(d_max=19) for _ in range(2)]
        layers[0].adapt((mean, log_scale))
        layers[1].adapt([(mean[:20], log_scale[:20]), (mean[20:], log_scale[20:])])
        np.testing.assert_array_equal(layers[0].reservoir_mean, layers[1].reservoir_mean)
        with pytest.raises(ValueError, match="at least two"):
            layers[0].adapt((mean[:1], log_scale[:1]))

    def test_adapt_refuses_heads_without_bounds(self):
        mean, log_scale = pairs(50)
        for wrong in ((1.01 * mean / np.abs(mean).max(), log_scale), (mean, 0.01 - log_scale * 0)):
            with pytest.raises(ValueError, match="tanh"):
                EchoLayer(d_max=9).adapt(wrong)

    def test_unknown_shapes_are_refused(self):
        with pytest.raises(ValueError, match="all its dimensions"):
            EchoLayer().build([(None, None, 3)] * 2)

    def test_weights_that_were_set_count_as_filled(self):
        mean, log_scale = pairs(50)
        trained, fresh = (EchoLayer(d_max=19) for _ in range(2))
        trained.adapt((mean, log_scale))
        fresh.build([mean.shape] * 2)
        fresh.set_weights(trained.get_weights())
        assert np.all(np.isfinite(fresh([mean[:1], log_scale[:1]])))


class TestFeatureMaps:
    def test_echoes_come_from_the_same_place_of_other_examples(self):
        rng = np.random.default_rng(0)
        mean = rng.uniform(-1, 1, (30, 4, 5, 2)).astype("float32")
        log_scale = np.log(rng.uniform(0.1, 0.9, mean.shape)).astype("float32")
        layer = EchoLayer(d_max=19, seed=1)
        z, rate = layer([mean, log_scale], return_rate=True)
        flat = EchoLayer(d_max=19, seed=1)
        expected, expected_rate = flat([mean.reshape(30, -1), log_scale.reshape(30, -1)], return_rate=True)
        np.testing.assert_allclose(np.reshape(z, (30, -1)), expected, rtol=1e-6)
        np.testing.assert_allclose(rate, expected_rate, rtol=1e-6)

    def test_dense_heads_and_moments_are_of_each_place(self, tmp_path):
        features = np.random.default_rng(0).normal(size=(200, 3, 3, 4)).astype("float32")
        inputs = keras.Input((3, 3, 4))
        model = keras.Model(inputs, EchoDense(2, d_max=19, rate_weight=1.0, seed=0)(inputs))
        assert model.output_shape == (None, 3, 3, 2)
        model.compile("sgd", loss="mse")
        model.fit(features, np.zeros((200, 3, 3, 2)), batch_size=50, verbose=0)
        layer = model.layers[-1]
        layer.adapt(features)
        z = np.concatenate([np.asarray(layer(features)) for _ in range(20)])
        assert layer.z_mean.shape == (3, 3, 2)
        assert np.all(np.abs(z.mean(0)) < 0.25) and np.all(np.abs(z.std(0) - 1) < 0.25)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.predict(features[:1], verbose=0).shape == (1, 3, 3, 2)
        assert layer.sample_marginal(5).shape == (5, 3, 3, 2)


class TestEchoDense:
    @staticmethod
    def trained(batch=20, d_max=9, **options):
        layer = EchoDense(3, d_max=d_max, seed=0, **options)
        features = np.random.default_rng(0).normal(size=(batch, 8)).astype("float32")
        layer(features, training=True)
        return layer, features

    def test_rate_is_added_to_the_loss(self):
        layer = EchoDense(3, d_max=9, rate_weight=2.0)
        _, rate = layer(np.ones((20, 8), "float32"), return_rate=True)
        assert float(layer.losses[0]) == pytest.approx(2.0 * float(np.mean(rate)), rel=1e-6)
        assert not EchoDense(3, rate_weight=None, d_max=9).losses

    def test_output_is_standardised(self):
        layer, _ = self.trained()
        features = np.random.default_rng(1).normal(size=(1000, 8)).astype("float32")
        layer.adapt(features)
        # Values of one ring depend on each other: the spread of its means over passes tells the standard error.
        passes = np.stack([np.asarray(layer(features)) for _ in range(40)])
        for values, truth in ((passes, 0.0), (np.square(passes), 1.0)):
            means = values.mean(axis=1)
            assert np.all(np.abs(means.mean(0) - truth) < 5 * means.std(0, ddof=1) / math.sqrt(40) + 1e-3)

    def test_centred_output_is_the_channel_of_the_centred_signal(self):
        layer, features = self.trained(parametrisation="centred", mean_scale=4.0)
        mean, log_scale = layer.statistics(features)
        np.testing.assert_allclose(mean, np.tanh(np.asarray(layer.mean_head(features)) / 4.0), rtol=1e-5)
        mean = np.asarray(mean) - np.asarray(mean).mean(axis=0)
        for training in (True, False):
            state = np.asarray(layer.seed_generator.state)
            z = layer(features, training=training)
            layer.seed_generator.state.assign(state)
            expected = layer.echo.transmit(mean, log_scale, layer.echo.noise(mean, log_scale))
            np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)

    def test_centred_reservoir_holds_centred_signals(self):
        layer, features = self.trained(parametrisation="centred", mean_scale=4.0)
        layer.mean_head.bias.assign(3.0 * np.ones(layer.units))  # |f| near 1, so that a centred one passes it
        layer.adapt(features)
        mean, _ = layer.statistics(features)
        centred = np.asarray(mean) - np.asarray(mean).mean(axis=0)
        kept = np.asarray(layer.echo.reservoir_mean)
        assert np.min(np.abs(kept[:1] - centred).max(axis=1)) < 1e-5
        np.testing.assert_allclose(kept.mean(axis=0), 0.0, atol=0.05)

    def test_literal_output_is_the_channel(self):
        layer, features = self.trained(parametrisation="literal")
        state = np.asarray(layer.seed_generator.state)
        z = np.asarray(layer(features))
        layer.seed_generator.state.assign(state)
        mean, log_scale = layer.statistics(features)
        np.testing.assert_array_equal(z, layer.echo([mean, log_scale]))

    def test_inference_depends_on_the_example_and_constants_only(self):
        layer, features = self.trained()
        state = np.asarray(layer.seed_generator.state)
        outputs = []
        for batch in (features[:1], features[:5], np.concatenate([features[:1], features[:1] + 3.0])):
            layer.seed_generator.state.assign(state)
            outputs.append(np.asarray(layer(batch))[0])
        np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(outputs[2], outputs[0], rtol=1e-5, atol=1e-6)

    def test_large_batches_make_their_own_echoes(self):
        layer, features = self.trained()
        layer.echo.reservoir_mean.assign(np.full(layer.echo.reservoir_mean.shape, np.nan))
        mean, log_scale = layer.statistics(features)
        assert np.all(np.isfinite(layer.echo.noise(mean, log_scale, training=False)))
        assert not np.any(np.isfinite(layer.echo.noise(mean[:5], log_scale[:5], training=False)))

    def test_noise_is_there_in_training_and_inference(self):
        layer, features = self.trained(parametrisation="literal")
        state = np.asarray(layer.seed_generator.state)
        outputs = []
        for training in (True, False):
            layer.seed_generator.state.assign(state)
            outputs.append(np.asarray(layer(features, training=training)))
        np.testing.assert_array_equal(*outputs)
        assert not np.array_equal(layer(features, training=False), layer(features, training=False))

    def test_replacement_uses_the_reservoir_too(self):
        layer, features = self.trained(replace=True)
        draws = [np.asarray(layer(features[:1])) for _ in range(5)]
        assert np.std(draws, axis=0).min() > 0.01

    def test_reservoir_keeps_the_latest_pairs(self):
        layer = EchoDense(3, d_max=9, reservoir_size=30)
        batches = np.random.default_rng(0).normal(size=(3, 20, 8)).astype("float32")
        for batch in batches:
            layer(batch, training=True)
        latest = np.concatenate([batches[2], batches[1, :10]])
        np.testing.assert_allclose(layer.echo.reservoir_mean, layer.statistics(latest)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.echo.reservoir_log_scale, layer.statistics(latest)[1], rtol=1e-5, atol=1e-6)

    def test_adapt_keeps_a_random_sample_of_pairs_and_the_moments_of_all(self):
        features = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
        layers = [EchoDense(3, d_max=9, reservoir_size=30, seed=0) for _ in range(2)]
        for layer, data in zip(layers, (features, [features[:150], features[150:]]), strict=True):
            layer.build((None, 8))
            layer.set_weights(layers[0].get_weights())
            layer.adapt(data)
        for one, other in zip(*(layer.get_weights() for layer in layers), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        layer = layers[0]
        mean, log_scale = (np.asarray(values) for values in layer.statistics(features))
        kept = [np.abs(mean - pair).max(1).argmin() for pair in np.asarray(layer.echo.reservoir_mean)]
        assert len(set(kept)) == 30
        assert 40 < np.mean(kept) < 160 and np.any(np.diff(kept) < 0)  # from all over, so sorted data do no harm
        np.testing.assert_allclose(layer.echo.reservoir_log_scale, log_scale[kept], rtol=1e-5, atol=1e-6)
        expected = echo_moments(mean, log_scale + layer.echo.log_max_scale)
        np.testing.assert_allclose(layer.z_mean, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.z_variance, expected[1], rtol=1e-4, atol=1e-5)

    @staticmethod
    def standardised_by(layer, examples, z):
        mean, log_scale = layer.statistics(examples)
        return _standardise(z, *echo_moments(mean, log_scale + layer.echo.log_max_scale))

    def test_moments_are_of_the_batch_in_training_and_constants_at_inference(self):
        layer = EchoDense(3, d_max=9, seed=0)
        batches = np.random.default_rng(0).normal(size=(2, 20, 8)).astype("float32")
        z = np.random.default_rng(1).normal(size=(20, 3)).astype("float32")

        def output(batch, training):
            return layer._standardised(z, *layer.statistics(batch), training)

        layer(batches[0])  # untrained
        np.testing.assert_allclose(output(batches[0], training=False), self.standardised_by(layer, batches[0], z), rtol=1e-5)
        layer(batches[0], training=True)
        np.testing.assert_allclose(output(batches[1], training=True), self.standardised_by(layer, batches[1], z), rtol=1e-5)
        np.testing.assert_allclose(
            output(batches[1], training=False), self.standardised_by(layer, batches[0], z), rtol=1e-3, atol=1e-4
        )
        both = batches.reshape(40, 8)
        layer.adapt(both)
        np.testing.assert_allclose(output(batches[0], training=False), self.standardised_by(layer, both, z), rtol=1e-5)

    def test_renormalised_value_is_by_the_reservoir_and_gradient_by_the_batch(self):
        import tensorflow as tf

        layer = EchoDense(3, d_max=9, seed=0, reservoir_size=40)
        batches = np.random.default_rng(0).normal(size=(2, 20, 8)).astype("float32")
        layer(batches[0], training=True)

        def output_and_gradient():
            layer.seed_generator.state.assign([0, 0])
            with tf.GradientTape() as tape:
                z = layer(batches[1], training=True)
                nonlinear = tf.reduce_sum(z * np.arange(60.0, dtype="float32").reshape(20, 3))
            return np.asarray(z), np.asarray(tape.gradient(nonlinear, layer.mean_head.kernel.value))

        by_batch, batch_gradient = output_and_gradient()
        layer(batches[0], training=True)  # the reservoir holds both batches, this one and then batches[1], as in a training
        layer.renormalise()
        by_reservoir, reservoir_gradient = output_and_gradient()

        layer.seed_generator.state.assign([0, 0])
        mean, log_scale = layer.statistics(batches[1])
        z = layer.echo.transmit(mean, log_scale, layer.echo.noise(mean, log_scale, training=True))
        np.testing.assert_allclose(by_batch, self.standardised_by(layer, batches[1], z), rtol=1e-4, atol=1e-5)
        both = batches.reshape(40, 8)
        np.testing.assert_allclose(by_reservoir, self.standardised_by(layer, both, z), rtol=1e-4, atol=1e-5)
        assert np.abs(by_reservoir - by_batch).max() > 0.01
        np.testing.assert_allclose(reservoir_gradient, batch_gradient, rtol=1e-4, atol=1e-4)

    def test_pull_to_centre_is_a_gradient_only(self):
        import tensorflow as tf

        mean = tf.constant(np.random.default_rng(0).uniform(-1, 1, (6, 3)))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(mean)
            pulled = _pull_to_centre(mean)
            loss = tf.reduce_sum(tf.sin(pulled))
            expected = tf.reduce_sum(tf.sin(mean)) + CENTRING * tf.reduce_sum(tf.reduce_mean(mean, 0) ** 2)
        np.testing.assert_array_equal(pulled, mean)
        np.testing.assert_allclose(tape.gradient(loss, mean), tape.gradient(expected, mean))

    @pytest.mark.parametrize(("parametrisation", "weight"), [("standardised", CENTRING), ("literal", 0.0)])
    def test_standardised_channel_alone_is_pulled(self, parametrisation, weight):
        import tensorflow as tf

        layer, features = self.trained(parametrisation=parametrisation)
        weights = [weight.value for weight in layer.trainable_weights]
        with tf.GradientTape() as tape:
            loss = 0.0 * tf.reduce_sum(layer(features, training=True))
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        with tf.GradientTape() as tape:
            mean, _ = layer.statistics(features)
            pull = weight * tf.reduce_sum(tf.reduce_mean(mean, 0) ** 2)
        expected = tape.gradient(pull, weights, unconnected_gradients="zero")
        for a, b in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
        assert np.any(np.asarray(gradients[0]) != 0.0) == (weight > 0)

    def test_nothing_is_pulled_at_inference(self):
        import tensorflow as tf

        layer, features = self.trained()
        layer.mean_head.bias.assign(np.ones(layer.units))
        features = tf.constant(features)
        with tf.GradientTape() as tape:
            tape.watch(features)
            loss = 0.0 * tf.reduce_sum(layer(features))
        np.testing.assert_array_equal(tape.gradient(loss, features), 0.0)

    def test_pull_is_said_to_be_lost_in_float16(self, caplog):
        before = keras.config.dtype_policy()
        for policy, said in (("mixed_float16", True), ("mixed_bfloat16", False)):
            caplog.clear()
            keras.config.set_dtype_policy(policy)
            try:
                EchoDense(3)
            finally:
                keras.config.set_dtype_policy(before)
            assert ("the pull of the means to the centre is lost" in caplog.text) == said

    def test_earlier_examples_complete_the_moments_of_a_short_batch(self):
        import tensorflow as tf

        layer, features = self.trained(reservoir_size=40)
        short = tf.constant(np.random.default_rng(1).normal(size=(3, 8)).astype("float32"))
        layer(short, training=True)
        with tf.GradientTape() as tape:
            pairs = layer.statistics(short)
            tape.watch(pairs)
            population = layer._with_earlier(*pairs)
            means = [tf.reduce_mean(values) for values in population]
        expected = layer.statistics(np.concatenate([short, features[:5]]))  # eight in all
        for values, all_values in zip(population, expected, strict=True):
            np.testing.assert_allclose(values, all_values, rtol=1e-5, atol=1e-6)
        for gradient in tape.gradient(means, pairs):  # through the given ones only
            np.testing.assert_allclose(gradient, 1.0 / (8 * 3), rtol=1e-5)
        layer.seed_generator.state.assign([0, 0])
        raw = layer.echo.transmit(*pairs, layer.echo.noise(*pairs, training=True))
        layer.seed_generator.state.assign([0, 0])
        completed = np.concatenate([short, short, features[:2]])  # the step before had the same examples
        np.testing.assert_allclose(
            layer(short, training=True), self.standardised_by(layer, completed, raw), rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize("renormalised", [False, True])
    def test_a_last_batch_of_one_example_does_no_harm(self, renormalised):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        layer = EchoDense(3, d_max=19, rate_weight=None, seed=0)
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(1e-3), loss="mse")
        features = np.random.default_rng(0).normal(size=(401, 8)).astype("float32")
        model.fit(features[:400], np.zeros((400, 3)), batch_size=40, verbose=0)
        if renormalised:
            layer.renormalise()
        before = [np.asarray(weight) for weight in layer.trainable_weights]
        model.fit(features, np.zeros((401, 3)), batch_size=40, shuffle=False, epochs=3, verbose=0)
        change = max(np.abs(weight - old).max() for weight, old in zip(layer.trainable_weights, before, strict=True))
        assert 0 < change < 0.05  # 0.01; by the moments of the last batch alone 0.4 if renormalised, else 20 and more

    def test_training_with_enough_examples_ignores_the_reservoir(self):
        for batch, ignored in ((10, True), (9, False)):
            layer, features = self.trained()
            layer.echo.reservoir_mean.assign(np.full(layer.echo.reservoir_mean.shape, np.nan))
            assert np.all(np.isfinite(layer(features[:batch], training=True))) == ignored

    def test_marginal_has_the_law_of_the_output(self):
        layer, _ = self.trained()
        features = np.random.default_rng(1).normal(size=(1000, 8)).astype("float32")
        layer.adapt(features)
        draws = np.stack([np.asarray(layer.sample_marginal(1000)) for _ in range(40)])
        outputs = np.stack([np.asarray(layer(features)) for _ in range(40)])
        for power in (1, 2, 4):
            a, b = (np.power(values, power).mean(axis=1) for values in (draws, outputs))
            se = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 40)
            assert np.all(np.abs(a.mean(0) - b.mean(0)) < 5 * se)
        assert layer.sample_marginal(2500).shape == (2500, 3)

    def test_pool_and_batch_are_one_population(self):
        features = np.random.default_rng(0).normal(size=(30, 5)).astype("float32")
        outputs, weights = [], None
        for pooled in (False, True):
            layer = EchoDense(4, d_max=19, seed=3)
            layer.build((None, 5))
            weights = weights or layer.get_weights()
            layer.set_weights(weights)
            arguments = (features[:8], features[8:]) if pooled else (features, None)
            outputs.append(layer(arguments[0], training=True, pool=arguments[1], return_rate=True))
        for whole, pooled in zip(*outputs, strict=True):
            assert pooled.shape[0] == 8
            np.testing.assert_allclose(whole[:8], pooled, rtol=1e-5, atol=1e-6)

    def test_gradient_with_a_pool_is_that_of_the_whole_population_on_average(self):
        """Of a loss on the output, which sees the noise, and of the moments."""
        rng = np.random.default_rng(0)
        features = rng.normal(size=(16, 3)).astype("float32")
        weights = rng.normal(size=(16, 2)).astype("float32")  # of every example's output in the loss
        layer = EchoDense(2, d_max=9, rate_weight=None, parametrisation="literal", seed=0)
        layer.build((None, 3))

        def loss_of_output(x, w, pool):
            return ops.mean(w[:4] * ops.square(layer(x, training=True, pool=pool)[:4]))

        def loss_of_moments(x, w, pool):
            pairs = layer.statistics(x)
            mean, variance = echo_moments(*(pairs if pool is None else layer._with_pool(*pairs, pool)[1]))
            return ops.sum(w[0] * (mean + variance))

        @tf.function
        def gradients(order):
            x, w = tf.gather(features, order), tf.gather(weights, order)
            found = []
            for loss in (loss_of_output, loss_of_moments):
                for batch, pool in ((x, None), (x[:4], x[4:])):
                    with tf.GradientTape() as tape:
                        value = loss(batch, w if loss is loss_of_output else weights, pool)
                    found.append(tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(value, layer.trainable_weights)], 0))
            return found

        draws = np.array([gradients(rng.permutation(16)) for _ in range(4000)])
        for whole, pooled in ((draws[:, 0], draws[:, 1]), (draws[:, 2], draws[:, 3])):
            difference = (pooled - whole).mean(0)
            se = (pooled - whole).std(0) / np.sqrt(len(draws))
            assert np.all(np.abs(difference) < 5 * se)
            assert np.max(np.abs(whole.mean(0)) / se) > 20  # so the gradient itself is far from 0

    def test_untrained_layer_says_what_to_do(self):
        layer = EchoDense(3, d_max=9)
        features = np.ones((1, 8), "float32")
        with pytest.raises(ValueError, match="at least 2 examples"):
            layer(features)
        with pytest.raises(ValueError, match="Train it first"):
            layer.sample_marginal(3)
        with pytest.raises(ValueError, match="at least two examples"):
            layer.adapt(features)
        assert layer(np.ones((4, 8), "float32")).shape == (4, 3)

    def test_save_and_load(self, tmp_path):
        inputs = keras.Input((8,))
        model = keras.Model(inputs, EchoDense(3, d_max=9, seed=0, name="channel")(inputs))
        model.compile(optimizer="sgd", loss="mse")
        features = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
        model.fit(features, np.zeros((40, 3)), batch_size=20, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        original, copy = model.get_layer("channel"), loaded.get_layer("channel")
        for before, after in zip(original.weights, copy.weights, strict=True):
            np.testing.assert_array_equal(before, after)
        copy.seed_generator.state.assign(original.seed_generator.state)
        np.testing.assert_array_equal(model.predict(features[:1], verbose=0), loaded.predict(features[:1], verbose=0))

    def test_weights_set_after_training_decide_about_the_reservoir(self):
        layer = EchoDense(3, d_max=9, seed=0)
        layer.build((None, 8))
        initial = layer.get_weights()
        features = np.random.default_rng(0).normal(size=(20, 8)).astype("float32")
        layer(features, training=True)
        trained = layer.get_weights()
        layer.set_weights(initial)
        with pytest.raises(ValueError, match="Train it first"):
            layer.sample_marginal(3)

        inputs = keras.Input((8,))
        for weights, n in ((initial, 5), (trained, 5), (trained, 1)):
            layer = EchoDense(3, d_max=9, seed=0)
            model = keras.Model(inputs, layer(inputs))
            if weights is initial:
                layer(features, training=True)
            model.set_weights(weights)
            for call in (layer, lambda x, model=model: model.predict(x, verbose=0)):  # eagerly, and in a graph traced now
                assert np.std([np.asarray(call(features[:n])) for _ in range(20)], axis=0).min() > 0.01

    def test_a_batch_of_one_after_others_trains(self):
        layer, features = self.trained()
        layer.echo.seed_generator.state.assign([0, 0])
        z = [np.asarray(layer(features[:1], training=True)) for _ in range(20)]
        assert np.all(np.isfinite(z)) and np.std(z, axis=0).min() > 0.01

    @pytest.mark.parametrize("n", [1, 2, 3, 40])
    def test_an_output_rises_with_its_own_signal_in_batches_of_any_size(self, n, monkeypatch):
        import tensorflow as tf

        monkeypatch.setattr("echo_tf.echo.CENTRING", 0.0)
        layer, _ = self.trained(batch=200, d_max=19)
        statistics = layer.statistics
        rng = np.random.default_rng(1)
        gradients = []
        for _ in range(40):
            shift = tf.zeros((n, 3))
            with tf.GradientTape() as tape:
                tape.watch(shift)
                mean, log_scale = statistics(rng.normal(size=(n, 8)).astype("float32"))
                monkeypatch.setattr(layer, "statistics", lambda _, pair=(mean + shift, log_scale): pair)
                first = tf.reduce_sum(layer(np.zeros((n, 8), "float32"), training=True)[0])
            gradients.append(tape.gradient(first, shift)[0])
        assert np.all(np.mean(gradients, axis=0) > 0)

    def test_centred_channel_takes_no_pool(self):
        with pytest.raises(ValueError, match="Expected no `pool`"):
            EchoDense(3, d_max=9, parametrisation="centred")(np.ones((5, 8)), training=True, pool=np.ones((6, 8)))

    def test_pool_behind_a_single_example(self):
        features = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
        layer = EchoDense(3, d_max=19, seed=0)
        assert np.all(np.isfinite(layer(features[:1], training=True, pool=features[1:])))

    @pytest.mark.parametrize(
        "arguments", [{"parametrisation": "none"}, {"mean_scale": 0.0}, {"reservoir_size": 9}, {"d_max": 0}, {"sampler": "x"}]
    )
    def test_invalid(self, arguments):
        with pytest.raises(ValueError, match="Invalid value received for argument"):
            EchoDense(3, **{"d_max": 9, **arguments})
