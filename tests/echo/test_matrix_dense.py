"""The Echo channel with a triangular S(x) and its heads; what it shares with all channels is in test_channel.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.linalg import solve_discrete_lyapunov

from echo_tf.echo.dense import EchoDense
from echo_tf.echo.heads import CENTRING
from echo_tf.echo.matrix import matrix_moments
from echo_tf.echo.matrix_dense import LARGEST_TRUNCATION, MatrixEchoDense
from echo_tf.echo.standardise import VARIANCE_EPSILON

UNITS, FEATURES = 3, 8


def features(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, FEATURES)).astype("float32")


def made(units=UNITS, below=1.0, **options):
    """A layer whose entries below the diagonal are far from 0 and depend on x."""
    layer = MatrixEchoDense(units, **{"d_max": 19, "rate_weight": None, "seed": 0, **options})
    layer.build((None, FEATURES))
    rng = np.random.default_rng(1)
    layer.below_head.set_weights([below * rng.normal(0, 0.5, weight.shape) for weight in layer.below_head.weights])
    return layer


def numpy(*values):
    return [np.asarray(value) for value in values]


def sent(scale, noise):
    """`S e`, by loops over nothing but numpy's own."""
    return np.einsum("nij,nj->ni", scale, noise)


def test_gradients_through_the_noise():
    found = {}
    for echoes in ("batch", "detached", "reservoir"):
        layer = made(d_max=9, echoes=echoes, reservoir_size=30)
        layer.adapt(features(40, seed=1))
        mean, scale = (tf.convert_to_tensor(value) for value in layer.statistics(features(20)))
        with tf.GradientTape() as tape:
            tape.watch(mean)
            noise = layer.source.noise(mean, scale, True)
        gradient = tape.gradient(noise, mean)
        found[echoes] = np.zeros(1) if gradient is None else np.asarray(tf.convert_to_tensor(gradient))
        assert np.all(np.std(noise, axis=0) > 0)
    assert not np.any(found["reservoir"]) and not np.any(found["detached"])
    assert np.any(found["batch"])


class TestChannel:
    def test_starts_as_the_diagonal_channel(self, replaying):
        diagonal, matrix = (kind(UNITS, d_max=9, rate_weight=None, seed=0) for kind in (EchoDense, MatrixEchoDense))
        x = features(20)
        for layer in (diagonal, matrix):
            layer.build((None, FEATURES))
        for head in ("mean_head", "log_scale_head"):
            getattr(matrix, head).set_weights(getattr(diagonal, head).get_weights())
        mean, log_scale = numpy(*diagonal.statistics(x))
        found, scale = numpy(*matrix.statistics(x))
        np.testing.assert_allclose(found, mean, rtol=1e-6)
        np.testing.assert_allclose(scale, np.exp(log_scale)[:, :, None] * np.eye(UNITS), rtol=1e-5)
        np.testing.assert_allclose(matrix.rate_per_dimension(x), diagonal.rate_per_dimension(x), rtol=1e-5)
        assert matrix.rate_floor == pytest.approx(diagonal.rate_floor)
        # The same generators of the same numbers: one ring.
        noises = [
            replaying(layer, lambda layer=layer: layer.source.noise(*layer.statistics(x), training=True))
            for layer in (diagonal, matrix)
        ]
        np.testing.assert_allclose(noises[1], noises[0], rtol=1e-4, atol=1e-6)
        for layer in (diagonal, matrix):
            layer.adapt(features(500, seed=1))
        outputs = [replaying(layer, lambda layer=layer: layer(x)) for layer in (diagonal, matrix)]
        np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)

    def test_rate_is_of_the_determinant_alone(self):
        layer, x = made(), features(20)
        _, rate = layer(x, return_rate=True)
        np.testing.assert_allclose(rate, -np.linalg.slogdet(np.asarray(layer.statistics(x)[1]))[1], rtol=1e-4)
        before = layer.rate_per_dimension(x)
        layer.below_head.bias.assign([5.0, -3.0, 2.0])
        np.testing.assert_array_equal(layer.rate_per_dimension(x), before)

    def test_entries_below_the_diagonal_are_those_of_their_head(self):
        layer, x = made(), features(20)
        _, scale = numpy(*layer.statistics(x))
        entries = np.sort(scale[:, *np.tril_indices(UNITS, -1)], axis=1)
        np.testing.assert_allclose(entries, np.sort(layer.below_head(x), axis=1) / math.sqrt(UNITS), rtol=1e-6)
        assert np.all(scale[:, *np.triu_indices(UNITS, 1)] == 0) and np.abs(entries).min(axis=0).max() > 0

    @pytest.mark.parametrize("training", [True, False])
    def test_output_is_the_standardised_channel(self, training, replaying):
        layer, x, population = made(), features(40), features(500, seed=1)
        layer.adapt(population)
        mean, scale = numpy(*layer.statistics(x))
        z = replaying(layer, lambda: layer(x, training=training))
        layer.adapt(population)
        noise = np.asarray(replaying(layer, lambda: layer.source.noise(*layer.statistics(x), training=training)))
        raw = mean + sent(scale, noise)
        z_mean, covariance = numpy(*matrix_moments(*layer.statistics(population)))
        moments = (raw.mean(0), raw.var(0)) if training else (z_mean, np.diag(covariance))
        np.testing.assert_allclose(z, (raw - moments[0]) / np.sqrt(moments[1] + VARIANCE_EPSILON), rtol=1e-3, atol=1e-4)

    def test_output_noise_and_marginal_have_one_law(self, repeated):
        """The moments to the second order, the products of dimensions among them, and those of the fourth."""
        layer, x = made(reservoir_size=500), features(500, seed=1)
        layer.adapt(x)
        passes = 40  # values of one ring depend on each other: the spread over passes tells the standard error
        outputs, draws = repeated(lambda: (layer(x), layer.sample_marginal(500)), passes)

        def statistics(z):
            products = np.einsum("pni,pnj->pnij", z, z).mean(axis=1)[:, *np.triu_indices(UNITS, 1)]
            return np.concatenate([z.mean(axis=1), (z**2).mean(axis=1), products, (z**4).mean(axis=1)], axis=1)

        a, b = statistics(outputs), statistics(draws)
        se = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / passes)
        assert np.all(np.abs(a.mean(0) - b.mean(0)) < 5 * se)
        truth = np.repeat([0.0, 1.0], UNITS)

        assert np.all(np.abs(a.mean(0)[: 2 * UNITS] - truth) < 5 * se[: 2 * UNITS] + 1e-3)
        correlations = a.mean(0)[2 * UNITS : 3 * UNITS]
        assert np.abs(correlations).max() > 0.3  # there is something to be the same

    def test_rate_is_the_information_of_gaussian_data(self):
        """Correlated Gaussian f, constant S: the information of pairs of x and z, as Gaussians have it."""
        rng, groups, size = np.random.default_rng(0), 25, 400
        x = (rng.standard_normal((groups * size, 2)) @ np.linalg.cholesky([[1.0, 0.8], [0.8, 1.0]]).T).astype("float32")
        layer = MatrixEchoDense(2, rate_weight=None, seed=0)
        layer.build((None, 2))
        layer.mean_head.kernel.assign(0.02 * np.eye(2))  # where tanh is linear
        layer.log_scale_head.kernel.assign(np.zeros((2, 2)))
        layer.below_head.bias.assign([math.sqrt(2) * 0.5])
        mean, scale = numpy(*layer.statistics(x))
        noise = layer.noise_samples(x, len(x), 100, seed=1)
        z = mean + sent(scale, noise)

        def information(x, z):
            joint, n, dim = np.cov(np.hstack([x, z]).T), len(x), z.shape[1]
            logs = [np.linalg.slogdet(block)[1] for block in (joint[:2, :2], joint[2:, 2:], joint)]
            return 0.5 * (logs[0] + logs[1] - logs[2]) - 2 * dim / (2 * n)  # less the bias

        found = np.array([information(x[i::groups], z[i::groups]) for i in range(groups)])
        se = found.std(ddof=1) / math.sqrt(groups)
        rate = float(np.mean(layer(x, return_rate=True)[1]))
        assert abs(found.mean() - rate) < 5 * se and se < 0.02
        # With this S the dimensions tell less of x than the whole: a sum over them is no rate.
        parts = np.mean([sum(information(x[i::groups], z[i::groups, [j]]) for j in range(2)) for i in range(groups)])
        covariance = solve_discrete_lyapunov(scale[0], np.cov(mean.T))
        given_x = scale[0] @ covariance @ scale[0].T
        assert abs(parts - 0.5 * np.log(np.diag(covariance) / np.diag(given_x)).sum()) < 5 * se
        assert parts < rate - 0.1

    def test_one_dimension_is_the_diagonal_channel(self):
        layer, x = MatrixEchoDense(1, d_max=9, rate_weight=None, seed=0), features(20)
        z, rate = layer(x, return_rate=True, training=True)
        assert z.shape == (20, 1) and np.all(np.isfinite(z))
        np.testing.assert_allclose(rate, -np.log(np.asarray(layer.statistics(x)[1])[:, 0, 0]), rtol=1e-5)

    def test_feature_maps(self):
        layer = MatrixEchoDense(UNITS, d_max=9, rate_weight=None, seed=0)
        x = np.random.default_rng(0).normal(size=(20, 2, 4, FEATURES)).astype("float32")
        z, rate = layer(x, return_rate=True, training=True)
        layer.adapt(x)
        assert z.shape == (20, 2, 4, UNITS) and rate.shape == (20,)
        assert layer(x[:1]).shape == (1, 2, 4, UNITS) and layer.sample_marginal(7).shape == (7, 2, 4, UNITS)


class TestBatches:
    @pytest.mark.parametrize("batch", [1, 3, 20, 21])
    def test_a_size_known_at_run_time_makes_no_difference(self, batch, replaying):
        x = features(batch)
        outputs, layer = [], made()
        for size in (batch, None):
            other = made()
            other.set_weights(layer.get_weights())
            layer = other
            layer.adapt(features(100, seed=1))
            step = tf.function(
                lambda x, layer=layer: layer(x, training=True), input_signature=[tf.TensorSpec((size, FEATURES), tf.float32)]
            )
            outputs.append(step(x))
            assert np.all(np.isfinite(outputs[-1]))
            np.testing.assert_allclose(layer.source.reservoir.mean[:batch], layer.statistics(x)[0], rtol=1e-5)
        np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)

    def test_behind_the_last_of_a_few_stands_noise_from_the_reservoir(self):
        layer = made(d_max=200)
        mean, scale = layer.statistics(features(2))
        older = np.full((9, UNITS), 0.5, "float32"), np.broadcast_to(0.25 * np.eye(UNITS, dtype="float32"), (9, UNITS, UNITS))
        layer.source.reservoir.fill(*older, 0)
        noise = np.asarray(layer.source.noise(mean, scale, training=True))
        expected = np.asarray(mean) + sent(np.asarray(scale), np.full((2, UNITS), 0.5 / (1 - 0.25)))
        np.testing.assert_allclose(noise, expected[::-1], rtol=1e-4)  # one echo each

    @pytest.mark.parametrize(("batch", "draws"), [(20, False), (19, True)])
    def test_the_reservoir_is_spared_where_it_adds_nothing(self, batch, draws):
        layer = made(d_max=19)
        layer.adapt(features(100))
        before = layer.source.reservoir.seed_generator.state.numpy()
        layer(features(batch), training=True)
        assert draws == bool(np.any(layer.source.reservoir.seed_generator.state.numpy() != before))

    def test_training_with_a_last_batch_of_one(self):
        inputs = keras.Input((FEATURES,))
        layer = MatrixEchoDense(UNITS, d_max=7, rate_weight=1.0, seed=0)
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        model.compile("adam", "mse")
        x = features(41)
        before = [weight.numpy() for weight in model.trainable_weights]
        history = model.fit(x, x[:, :2], batch_size=20, epochs=2, verbose=0).history
        assert np.all(np.isfinite(history["loss"]))
        after = [weight.numpy() for weight in model.trainable_weights]
        assert not any(np.array_equal(*values) for values in zip(before, after, strict=True))
        assert model.predict(x[:1], verbose=0).shape == (1, 2)
        assert np.std([model.predict(x[:1], verbose=0) for _ in range(3)]) > 0

    def test_untrained_layer_says_what_to_do(self):
        layer = MatrixEchoDense(UNITS, d_max=9)
        with pytest.raises(ValueError, match="at least 2 examples"):
            layer(features(1))
        with pytest.raises(ValueError, match="Train it first"):
            layer.sample_marginal(3)
        with pytest.raises(ValueError, match="Train it first"):
            layer.truncation()
        with pytest.raises(ValueError, match="at least two examples"):
            layer.adapt(features(1))

    def test_nan_is_not_remembered(self):
        layer, x = made(), features(40)
        layer(x, training=True)
        bad = features(40, seed=1)
        bad[3, 2] = np.nan
        layer(bad, training=True)
        assert all(np.all(np.isfinite(weight)) for weight in layer.weights) and np.all(np.isfinite(layer(x)))


def test_frozen_layer_is_in_inference_mode(replaying):
    layer, x = made(), features(40)
    layer.adapt(features(100, seed=1))
    expected = replaying(layer, lambda: layer(x))
    layer.trainable = False
    before = [weight.numpy() for weight in layer.weights]
    np.testing.assert_array_equal(replaying(layer, lambda: layer(x, training=True)), expected)
    for weight, old in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old, weight.path)


def test_the_means_are_pulled_to_the_centre():
    layer, x = made(), features(40)
    with tf.GradientTape(persistent=True) as tape:
        loss = 0.0 * tf.reduce_sum(layer(x, training=True))
        pull = CENTRING * tf.reduce_sum(tf.reduce_mean(layer.statistics(x)[0], 0) ** 2)
    kernel = layer.mean_head.kernel
    np.testing.assert_allclose(tape.gradient(loss, kernel.value), tape.gradient(pull, kernel.value), rtol=1e-4, atol=1e-7)


class TestTruncation:
    def test_is_what_stands_behind_the_last_echo(self):
        layer = MatrixEchoDense(2, d_max=5, reservoir_size=3_000, rate_weight=None, seed=0)
        layer.build((None, 2))
        mean = np.random.default_rng(0).uniform(-1, 1, (3_000, 2)).astype("float32")
        scale = np.broadcast_to(np.array([[0.5, 0.0], [2.0, 0.8]], "float32"), (3_000, 2, 2))
        layer.source.reservoir.fill(mean, scale, 0)
        covariance = solve_discrete_lyapunov(scale[0], np.cov(mean.T))
        centre = np.linalg.solve(np.eye(2) - scale[0], mean.mean(axis=0))
        power = np.linalg.matrix_power(scale[0], 5)
        second = power @ (covariance + np.outer(centre, centre)) @ power.T
        expected = np.sqrt(np.diag(second) / np.diag(covariance)).max()
        assert layer.truncation() == pytest.approx(expected, rel=0.2)  # of 3,000 and of one ring

    @pytest.mark.parametrize(("units", "below", "said"), [(4, 0.5, False), (12, 0.05, False), (12, 2.0, True)])
    def test_is_looked_at_by_adapt(self, units, below, said, caplog):
        layer = made(units, below=0.0, d_max=99)
        layer.log_scale_head.bias.assign(np.full(units, 20.0))  # every dimension at the floor of the rate
        layer.below_head.bias.assign(np.full(units * (units - 1) // 2, below))
        layer.adapt(features(1_000))
        assert (layer.truncation() > LARGEST_TRUNCATION) == said == ("Train it with a larger d_max" in caplog.text)
