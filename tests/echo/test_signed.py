"""Scales of either sign, and scales that do not depend on x."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from echo_tf.echo.bound import max_scale
from echo_tf.echo.dense import EchoDense
from echo_tf.echo.matrix import matrix_moments
from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.echo.noise import echo_moments, gather_noise, independent_noise, ring_noise, scaled_moments
from echo_tf.echo.signed import LEAST_SCALE, SignedEchoLayer, bounded_scale, signed_gather_noise, signed_noise

BOTH = [EchoDense, MatrixEchoDense]


def pairs(count=12, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, dim)), rng.uniform(-0.8, 0.8, (count, dim))


def direct(mean, scale, order):
    """The sum itself."""
    noise, weight = 0.0, 1.0
    for i in order:
        noise, weight = noise + weight * mean[i], weight * scale[i]
    return noise, weight


class TestNoise:
    def test_gather_is_the_sum(self):
        mean, scale = pairs()
        orders = np.array([np.random.default_rng(i).permutation(12)[:7] for i in range(5)])
        behind = np.full((5, 3), 2.0)
        found = ops.convert_to_numpy(signed_gather_noise(mean, scale, orders, 7, behind=behind))
        sums = [direct(mean, scale, order) for order in orders]
        np.testing.assert_allclose(found, [noise + 2.0 * weight for noise, weight in sums], rtol=1e-12)

    def test_ring_is_the_sum(self):
        mean, scale = pairs()
        order = np.random.default_rng(1).permutation(12)
        found = ops.convert_to_numpy(ring_noise(mean, scale, order, 7, linear=ops.convert_to_tensor))
        for place, i in enumerate(order):
            echoes = order[(place + 1 + np.arange(7)) % 12]
            np.testing.assert_allclose(found[i], direct(mean, scale, echoes)[0], rtol=1e-12)

    def test_positive_scales_are_those_of_the_diagonal_channel(self):
        mean, scale = pairs()
        orders = np.array([np.random.default_rng(i).permutation(12) for i in range(5)])
        scale = np.abs(scale)
        np.testing.assert_allclose(
            signed_gather_noise(mean, scale, orders, 9), gather_noise(mean, np.log(scale), orders, 9), rtol=1e-10
        )
        for found, expected in zip(scaled_moments(mean, scale), echo_moments(mean, np.log(scale)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10)

    @pytest.mark.parametrize("sampler", ["ring", "gather"])
    def test_a_batch_of_one_whose_size_the_graph_does_not_know(self, sampler):
        layer = SignedEchoLayer(d_max=9, sampler=sampler, seed=0)
        pair = np.random.default_rng(0).uniform(-1, 1, (2, 50, 3)).astype("float32")
        layer(list(pair), training=True)
        spec = [tf.TensorSpec((None, 3))] * 2
        for training in (True, False):
            graph = tf.function(lambda f, s, training=training: layer([f, s], training=training), input_signature=spec)
            assert np.all(np.isfinite(graph(*pair[:, :1])))

    @pytest.mark.parametrize("options", [{}, {"sampler": "gather"}, {"replace": True}, {"sampler": "gather", "replace": True}])
    def test_every_sampler_gives_the_moments_in_closed_form(self, options):
        mean, scale = (values.astype("float32") for values in pairs(400, 2))
        mean += 0.5  # with a mean the sign of the scale shows
        expected = scaled_moments(mean, scale)
        draws = [ops.convert_to_numpy(signed_noise(mean, scale, 60, seed=seed, **options)) for seed in range(30)]
        averages = np.array([[noise.mean(axis=0), noise.var(axis=0)] for noise in draws])
        ses = averages.std(axis=0, ddof=1) / np.sqrt(len(draws))
        assert np.all(np.abs(averages.mean(axis=0) - np.array(expected)) < 5 * ses + 0.01)
        assert np.abs(expected[0] - echo_moments(mean, np.log(np.abs(scale)))[0]).min() > 0.1  # of positive scales

    def test_near_zero_the_scale_keeps_its_sign(self):
        found = ops.convert_to_numpy(bounded_scale(np.array([0.0, 1e-12, -1e-12, -1.0, 0.5]), 0.8))
        np.testing.assert_allclose(found, [LEAST_SCALE, LEAST_SCALE, -LEAST_SCALE, -0.8, 0.4])


class TestGaussianCase:
    """With x ~ N(m, C), f(x) = x and S constant all is Gaussian, and `I(X; Z)` has a formula without Echo's theory."""

    @pytest.mark.parametrize("scale", [0.6, -0.6])
    def test_one_dimension(self, scale):
        x = np.random.default_rng(0).normal(0.3, 0.2, (20_000, 1)).astype("float32")
        noise = independent_noise(x, np.full_like(x, scale), 40, 20_000, 41, gather=signed_gather_noise)
        z, count = x + scale * noise, len(x)
        # z and e have one law, N(m / (1 - s), 0.04 / (1 - s^2)).
        mean, sd = 0.3 / (1 - scale), 0.2 / np.sqrt(1 - scale**2)
        for values in (z, noise):
            assert abs(values.mean() - mean) < 5 * sd / np.sqrt(count)
            assert abs(values.std() - sd) < 5 * sd / np.sqrt(2 * count)
        information = 0.5 * np.log(z.var() / (scale * noise).var())
        assert abs(information + np.log(abs(scale))) < 5 * np.sqrt(1 / count)  # the rate

    def test_matrix(self):
        rng = np.random.default_rng(0)
        factor = rng.normal(size=(3, 3))
        matrix = np.tril(rng.uniform(-0.5, 0.5, (3, 3)), -1) + np.diag([0.7, -0.5, -0.8])
        x = rng.normal(size=(50_000, 3)) @ factor.T
        covariance = ops.convert_to_numpy(matrix_moments(x, np.broadcast_to(matrix, (len(x), 3, 3)))[1])
        of_signal = np.cov(x, rowvar=False, bias=True)
        np.testing.assert_allclose(covariance, of_signal + matrix @ covariance @ matrix.T, rtol=1e-6)  # the fixed point
        logdet = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(matrix @ covariance @ matrix.T)[1]
        assert 0.5 * logdet == pytest.approx(-np.log(0.7 * 0.5 * 0.8))


@pytest.mark.parametrize("layer", BOTH)
@pytest.mark.parametrize(("signed", "constant"), [(True, False), (False, True), (True, True)])
class TestLayers:
    def made(self, layer, signed, constant, **options):
        channel = layer(3, d_max=9, signed=signed, constant_scale=constant, seed=0, **options)
        features = np.random.default_rng(0).normal(size=(300, 8)).astype("float32")
        channel.build((None, 8))
        channel.mean_head.bias.assign([0.7, 0.7, 0.7])  # with a mean the sign of the scale shows
        if layer is MatrixEchoDense:
            channel.below_head.bias.assign([-0.5, 0.0, 0.5])
        channel.adapt(features)
        return channel, features

    def test_rate_is_the_log_determinant(self, layer, signed, constant):
        channel, features = self.made(layer, signed, constant)
        matrices = ops.convert_to_numpy(channel.as_matrix(channel.statistics(features)[1]))
        _, rate = channel(features, return_rate=True)
        np.testing.assert_allclose(rate, -np.linalg.slogdet(matrices)[1], rtol=1e-4)
        diagonal = np.diagonal(matrices, axis1=1, axis2=2)
        assert np.abs(diagonal).max() <= max_scale(9)
        assert (diagonal.min() < 0) == signed
        assert np.ptp(diagonal, axis=0).max() == 0 if constant else np.ptp(diagonal, axis=0).min() > 0.01
        assert np.ptp(rate) < 1e-5 if constant else np.ptp(rate) > 0.01
        assert np.all(np.array(rate) >= channel.rate_floor - 1e-5)

    def test_output_and_noise_have_one_law(self, layer, signed, constant):
        """Mean 0 and variance 1 behind the standardisation, which takes both in closed form, for `z` and for its marginal."""
        channel, features = self.made(layer, signed, constant)
        for draw in (lambda: channel(features), lambda: channel.sample_marginal(300)):
            passes = np.array([ops.convert_to_numpy(draw()) for _ in range(60)])
            for values, expected in ((passes.mean(axis=1), 0.0), (np.square(passes).mean(axis=1), 1.0)):
                se = values.std(axis=0, ddof=1) / np.sqrt(len(values))
                assert np.all(np.abs(values.mean(axis=0) - expected) < 5 * se + 0.02)

    def test_is_trained_and_saved(self, layer, signed, constant, tmp_path):
        channel, features = self.made(layer, signed, constant)
        model = keras.Sequential([keras.Input((8,)), channel, keras.layers.Dense(2)])
        model.compile("adam", "mse")
        before = [ops.convert_to_numpy(variable) for variable in channel.trainable_variables]
        model.fit(features, features[:, :2], epochs=2, batch_size=100, verbose=0)
        after = [ops.convert_to_numpy(variable) for variable in channel.trainable_variables]
        assert all(np.any(old != new) for old, new in zip(before, after, strict=True))
        assert all(np.isfinite(values).all() for values in after)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        again = loaded.layers[0]
        assert (again.signed, again.constant_scale) == (signed, constant)
        for found, expected in zip(again.encode(features), channel.encode(features), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_signed_gradient_reaches_scales_through_the_noise():
    features = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    for sampler in ("ring", "gather"):
        for echoes, has_gradient in (("batch", True), ("detached", False)):
            layer = EchoDense(2, signed=True, d_max=9, sampler=sampler, echoes=echoes, seed=0)
            mean, scale = (tf.convert_to_tensor(value) for value in layer.statistics(features))
            with tf.GradientTape() as tape:
                tape.watch(scale)
                noise = layer.source.noise(mean, scale, True)
            gradient = tape.gradient(noise, scale)
            assert (gradient is not None and bool(np.any(gradient))) is has_gradient


def test_bare_layer():
    layer = SignedEchoLayer(d_max=9)
    mean, scale = (values.astype("float32") for values in pairs(40, 3))
    z, rate = layer([mean, scale], return_rate=True, training=True)
    assert z.shape == (40, 3)
    np.testing.assert_allclose(rate, -np.log(np.abs(layer.max_scale * scale)).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(layer.rate(scale), rate, rtol=1e-6)
