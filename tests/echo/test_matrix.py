import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy.linalg import solve_discrete_lyapunov
from scipy.stats import ks_2samp

from echo_tf.echo.bound import max_scale
from echo_tf.echo.layer import EchoLayer
from echo_tf.echo.matrix import (
    MatrixEchoLayer,
    bounded_triangular,
    lower_triangular,
    matrix_gather_noise,
    matrix_moments,
    matrix_noise,
    matrix_ring_noise,
)
from echo_tf.echo.noise import echo_moments, ring_noise


def examples(batch, dim=3, seed=0, r=0.9, spread=1.0):
    """Random (mean, scale) with |mean| < 1 and norms below r, float64."""
    rng = np.random.default_rng(seed)
    raw = spread * rng.normal(size=(batch, dim * (dim + 1) // 2))
    return rng.uniform(-1, 1, (batch, dim)), np.asarray(bounded_triangular(raw, r)[0])


def direct_noise(mean, scale, echoes, behind=None):
    """The sum of the paper, term by term, in float64: noise of one example with the given echoes, and noise behind them."""
    noise, product = np.zeros(mean.shape[1]), np.eye(mean.shape[1])
    for k in echoes:
        noise += product @ mean[k]
        product = product @ scale[k]
    return noise if behind is None else noise + product @ behind


def lower_matrix(raw, dim):
    """L of one example by loops: the diagonal first, then the entries below it row by row."""
    lower, entries = np.zeros((dim, dim)), iter(raw[dim:])
    for i in range(dim):
        for j in range(i):
            lower[i, j] = next(entries)
        lower[i, i] = 1 / (1 + np.exp(-raw[i]))
    return lower


def transpose(matrix):
    return np.swapaxes(matrix, -1, -2)


class TestBoundedTriangular:
    ADVERSARIAL = (
        [0.0] * 10,
        [50.0] * 4 + [0.0] * 6,  # the diagonal at its limit
        [50.0] * 10,
        [50.0] * 4 + [-1e-3] * 6,
        [-50.0] * 4 + [1e6] * 6,
        [50.0] * 4 + [1e8, 0, 0, 0, 0, 0],  # one entry: the bound is that entry
        [50.0] * 4 + [0, 0, 0, 3.0, 3.0, 3.0],  # one row
        [50.0] * 4 + [3.0, 3.0, 0, 3.0, 0, 0],  # one column
        [0.0, 1.0, 2.0, 3.0, 1e3, -1e3, 1e3, -1e3, 1e3, -1e3],
        [0.0] * 4 + [1e200] * 6,
    )

    @pytest.mark.parametrize("dim", [1, 2, 5])
    @pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
    def test_is_the_formula(self, dim, spread):
        raw = spread * np.random.default_rng(dim).normal(size=(20, dim * (dim + 1) // 2))
        scale, _ = bounded_triangular(raw, 0.8)
        for values, matrix in zip(raw, np.asarray(scale), strict=True):
            lower = lower_matrix(values, dim)
            bound = math.sqrt(np.linalg.norm(lower, 1) * np.linalg.norm(lower, np.inf))
            np.testing.assert_allclose(matrix, 0.8 * lower / max(1.0, bound), rtol=1e-12)

    @pytest.mark.parametrize("r", [0.3, 0.99])
    def test_spectral_norm_is_bounded(self, r):
        random = [spread * np.random.default_rng(0).normal(size=(500, 10)) for spread in (0.1, 1.0, 10.0, 1e3)]
        raw = np.concatenate([*random, self.ADVERSARIAL])
        norms = np.linalg.norm(np.asarray(bounded_triangular(raw, r)[0]), 2, axis=(1, 2))
        rounding = 100 * 2**-52
        assert np.all(norms <= r * (1 + rounding))
        # The bound is met by the diagonal at its limit and by the single entry, so that no smaller r would do.
        np.testing.assert_allclose(norms[[2001, 2005]], r, rtol=1e-7)

    @pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
    def test_determinant_is_that_of_the_matrix(self, spread):
        raw = spread * np.random.default_rng(0).normal(size=(200, 10))
        scale, log_abs_det = bounded_triangular(raw, 0.8)
        sign, expected = np.linalg.slogdet(np.asarray(scale))
        assert np.all(sign == 1)
        np.testing.assert_allclose(log_abs_det, expected, rtol=1e-10)

    def test_determinant_of_adversarial_values(self):
        # Too ill-conditioned for slogdet, but the determinant of a triangular matrix is the product of its diagonal.
        raw = np.concatenate([10.0 * np.random.default_rng(0).normal(size=(200, 10)), self.ADVERSARIAL[:-1]])
        scale, log_abs_det = bounded_triangular(raw, 0.8)
        diagonal = np.diagonal(np.asarray(scale), axis1=1, axis2=2)
        np.testing.assert_allclose(log_abs_det, np.log(diagonal).sum(1), rtol=1e-12)
        assert np.all(log_abs_det <= 4 * math.log(0.8))

    def test_determinant_outlasts_the_float32_diagonal(self):
        # exp(-200) is 0 in float32, and the squares of 1e30 overflow.
        raw = tf.constant([[-200.0, -200.0, 0.0], [0.0, 0.0, 1e30]])
        with tf.GradientTape() as tape:
            tape.watch(raw)
            scale, log_abs_det = bounded_triangular(raw, 0.5)
            total = tf.reduce_sum(log_abs_det) + tf.reduce_sum(scale)
        assert np.all(np.diagonal(scale[0]) == 0)
        expected = [2 * math.log(0.5) - 400, 2 * math.log(0.5) + 2 * math.log(0.5) - 2 * math.log(1e30)]
        np.testing.assert_allclose(log_abs_det, expected, rtol=1e-6)
        assert float(scale[1, 1, 0]) == pytest.approx(0.5, rel=1e-6)
        gradient = np.asarray(tape.gradient(total, raw))
        np.testing.assert_allclose(gradient[0, :2], 1.0)  # d log_sigmoid
        assert np.all(np.isfinite(gradient))

    def test_gradient_equals_differences(self):
        # Spread so that the largest entry, the largest sums, and a bound below 1 all occur.
        rng = np.random.default_rng(0)
        raw = np.array([0.3, 1.0, 3.0])[:, None] * rng.normal(size=(3, 10))
        weights, det_weights = rng.normal(size=(3, 4, 4)), rng.normal(size=3)

        def value(raw):
            scale, log_abs_det = bounded_triangular(raw, 0.8)
            return tf.reduce_sum(weights * scale, axis=(1, 2)) + det_weights * log_abs_det

        tensor = tf.constant(raw)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            total = tf.reduce_sum(value(tensor))
        gradient = tape.gradient(total, tensor)
        step = 1e-5
        for j in range(10):
            shift = step * np.eye(10)[j]
            difference = (np.asarray(value(raw + shift)) - np.asarray(value(raw - shift))) / (2 * step)
            np.testing.assert_allclose(gradient[:, j], difference, rtol=1e-6, atol=1e-8)

    def test_any_leading_axes(self):
        raw = np.random.default_rng(0).normal(size=(4, 5, 6))
        scale, log_abs_det = bounded_triangular(raw, 0.8)
        flat_scale, flat_log_abs_det = bounded_triangular(raw.reshape(20, 6), 0.8)
        np.testing.assert_array_equal(np.reshape(scale, (20, 3, 3)), flat_scale)
        np.testing.assert_array_equal(np.reshape(log_abs_det, 20), flat_log_abs_det)

    @pytest.mark.parametrize(
        ("length", "r", "message"),
        [(2, 0.5, "raw.shape"), (0, 0.5, "raw.shape"), (3, 0.0, "max_scale=0"), (3, 1.0, "max_scale=1")],
    )
    def test_invalid(self, length, r, message):
        with pytest.raises(ValueError, match=message):
            bounded_triangular(np.zeros((4, length)), r)


class TestMatrixRingNoise:
    @pytest.mark.parametrize(("batch", "d_max"), [(2, 1), (3, 2), (7, 3), (33, 31), (40, 32), (100, 99)])
    def test_equals_direct_sum(self, batch, d_max):
        mean, scale = examples(batch)
        order = np.random.default_rng(1).permutation(batch)
        place = np.argsort(order)
        echoes = [order[(place[i] + 1 + np.arange(d_max)) % batch] for i in range(batch)]
        noise = np.asarray(matrix_ring_noise(mean, scale, order, d_max))
        assert noise.dtype == "float64"
        expected = np.stack([direct_noise(mean, scale, row) for row in echoes])
        np.testing.assert_allclose(noise, expected, rtol=0, atol=1e-13)
        if d_max > 1:  # the matrices do not commute: the order of the product shows
            assert np.abs(noise - [direct_noise(mean, transpose(scale), row) for row in echoes]).max() > 1e-2

    @pytest.mark.parametrize(("d_max", "count"), [(4, None), (99, 3), (99, 8)])
    def test_noise_behind_the_last_echo_and_a_number_of_echoes_known_at_run_time(self, d_max, count):
        mean, scale = examples(9)
        behind = np.random.default_rng(2).normal(size=(9, 3))
        order = np.random.default_rng(1).permutation(9)
        terms, place = count or d_max, np.argsort(order)
        echoes = [order[(place[i] + 1 + np.arange(terms)) % 9] for i in range(9)]
        expected = [direct_noise(mean, scale, row, behind[(place[i] + 1 + terms) % 9]) for i, row in enumerate(echoes)]
        count = None if count is None else tf.constant(count)
        noise = matrix_ring_noise(mean, scale, order, d_max, count=count, behind=behind)
        np.testing.assert_allclose(noise, expected, rtol=0, atol=1e-12)

    def test_diagonal_matrices_give_the_noise_of_the_diagonal_channel(self):
        rng = np.random.default_rng(0)
        mean, log_scale = rng.uniform(-1, 1, (50, 4)), np.log(rng.uniform(0.1, 0.9, (50, 4)))
        order = rng.permutation(50)
        scale = np.exp(log_scale)[:, :, None] * np.eye(4)
        expected = ring_noise(tf.constant(mean), tf.constant(log_scale), order, 37)
        np.testing.assert_allclose(matrix_ring_noise(mean, scale, order, 37), expected, rtol=0, atol=1e-13)

    def test_more_axes_are_separate_rings(self):
        mean, scale = examples(60)
        mean, scale = mean.reshape(10, 2, 3, 3), scale.reshape(10, 2, 3, 3, 3)
        order = np.random.default_rng(0).permutation(10)
        noise = np.asarray(matrix_ring_noise(mean, scale, order, 9))
        for i, j in itertools.product(range(2), range(3)):
            single = matrix_ring_noise(mean[:, i, j], scale[:, i, j], order, 9)
            np.testing.assert_allclose(noise[:, i, j], single, rtol=0, atol=1e-13)

    @pytest.mark.parametrize(("d_max", "dim", "max_mean"), [(20, 4, 1.0), (50, 3, 2.5)])
    def test_what_is_cut_is_below_the_precision(self, d_max, dim, max_mean):
        r = max_scale(d_max, math.sqrt(dim) * max_mean)
        batch = 8 * d_max
        long = batch - 1  # r^(8 d) is as good as no cut

        def tail(mean, scale):
            order = np.arange(batch)
            cut = np.subtract(*(matrix_ring_noise(mean, scale, order, d) for d in (long, d_max)))
            return np.linalg.norm(cut, axis=1)

        corners = max_mean * np.sign(np.random.default_rng(0).normal(size=(batch, dim)))
        _, scale = examples(batch, dim, r=r, spread=10.0)
        assert np.all(tail(corners, scale) < 2**-23)
        # The worst case meets the bound: all of f in one corner and S = r I.
        worst = tail(np.full((batch, dim), max_mean), np.broadcast_to(r * np.eye(dim), (batch, dim, dim)))
        np.testing.assert_allclose(worst, 2**-23, rtol=1e-6)

    def test_random_orders_have_the_law_of_all(self, repeated):
        batch, d_max, draws = 4, 2, 1500
        mean, scale = examples(batch, dim=2)
        seed = keras.random.SeedGenerator(0)
        noise = repeated(lambda: matrix_noise(mean, scale, d_max, seed=seed), draws)
        for i in range(batch):
            orders = itertools.permutations([k for k in range(batch) if k != i], d_max)
            values = np.array([direct_noise(mean, scale, order) for order in orders])  # equally likely
            products = values[:, :, None] * values[:, None, :]
            sampled = noise[:, i, :, None] * noise[:, i, None, :]
            for estimate, truth in ((noise[:, i], values), (sampled, products)):
                error = np.abs(estimate.mean(0) - truth.mean(0))
                assert np.all(error < 5 * truth.std(0) / math.sqrt(draws))

    @pytest.mark.parametrize("batch", [2, 5, 8])
    def test_own_sample_is_no_echo(self, batch):
        _, scale = examples(batch, dim=2)
        order = np.random.default_rng(0).permutation(batch)
        for i in range(batch):
            mean = np.zeros((batch, 2))
            mean[i] = 1.0
            noise = np.asarray(matrix_ring_noise(mean, np.abs(scale), order, batch - 1))
            assert np.all(noise[i] == 0)
            assert np.all(np.delete(noise, i, axis=0) > 0)

    def test_gradient_through_neighbours(self):
        mean, scale = (tf.constant(value) for value in examples(5))
        order = [2, 0, 4, 1, 3]  # the echoes of example 0 are 4, 1, 3, 2
        with tf.GradientTape() as tape:
            tape.watch([mean, scale])
            first = tf.reduce_sum(matrix_ring_noise(mean, scale, order, 4)[0])
        mean_gradient, scale_gradient = (
            np.asarray(tf.convert_to_tensor(gradient)) for gradient in tape.gradient(first, [mean, scale])
        )
        assert np.all(mean_gradient[0] == 0)
        assert np.all(scale_gradient[0] == 0)
        assert np.all(mean_gradient[1:] != 0)
        # d(1' e) / d f_{x_l} = S(x_{l-1})' ... S(x_0)' 1
        expected = np.ones(3)
        for k in (4, 1, 3, 2):
            np.testing.assert_allclose(mean_gradient[k], expected, rtol=1e-12)
            expected = np.asarray(scale[k]).T @ expected
        assert np.all(scale_gradient[[4, 1, 3]] != 0)
        assert np.all(scale_gradient[2] == 0)  # the last echo's matrix multiplies nothing

    def test_batch_known_at_run_time(self):
        mean, scale = examples(9)
        order = np.random.default_rng(0).permutation(9)

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, 3), "float64"),
                tf.TensorSpec((None, 3, 3), "float64"),
                tf.TensorSpec((None,), "int64"),
            ]
        )
        def noise(mean, scale, order):
            return matrix_ring_noise(mean, scale, order, 8)

        expected = matrix_ring_noise(mean, scale, order, 8)
        np.testing.assert_allclose(noise(mean, scale, order), expected, rtol=0, atol=1e-13)

    @pytest.mark.parametrize(("d_max", "message"), [(0, "integer >= 1"), (2.0, "integer >= 1"), (4, "at most batch - 1 = 3")])
    def test_invalid(self, d_max, message):
        with pytest.raises(ValueError, match=message):
            matrix_ring_noise(*examples(4), np.arange(4), d_max)

    def test_low_precision_input_gives_float32(self):
        noise = matrix_ring_noise(ops.ones((4, 2), "bfloat16"), ops.ones((4, 2, 2), "bfloat16"), np.arange(4), 3)
        assert keras.backend.standardize_dtype(noise.dtype) == "float32"


RINGS, RING = 10_000, 60
SIGMA = np.array([[1.0, 0.6, -0.3], [0.6, 2.0, 0.5], [-0.3, 0.5, 0.7]])


def constant_scale():
    """A matrix S that is not diagonal, and log |det S|."""
    scale, log_abs_det = bounded_triangular(np.array([1.0, 2.0, 0.0, 0.8, -0.5, 0.6]), 0.8)
    return np.asarray(scale), float(log_abs_det)


@pytest.fixture(scope="module")
def gaussian_samples():
    """Signal N(0, SIGMA) and noise for a constant S: one example of each ring, so that all are independent."""
    f = np.random.default_rng(0).multivariate_normal(np.zeros(3), SIGMA, (RING, RINGS))
    scale = np.broadcast_to(constant_scale()[0], (RING, 1, 3, 3))
    # The norm of S to the power of 59 is 2e-6: what is cut is far less than any standard error here.
    return f[0], np.asarray(matrix_ring_noise(f, scale, np.arange(RING), RING - 1))[0]


class TestGaussianChannel:
    """f(x) correlated Gaussian, S constant: noise and output are Gaussian, and all is known."""

    def test_covariance_of_the_noise_solves_the_lyapunov_equation(self, gaussian_samples):
        scale, _ = constant_scale()
        _, noise = gaussian_samples
        covariance = solve_discrete_lyapunov(scale, SIGMA)
        variances = np.diag(covariance)
        se = np.sqrt((np.outer(variances, variances) + covariance**2) / RINGS)
        assert np.all(np.abs(np.cov(noise.T) - covariance) < 5 * se)
        assert np.all(np.abs(noise.mean(0)) < 5 * np.sqrt(variances / RINGS))
        # The sample is large enough to tell the transposed and the diagonal matrix from S.
        for wrong in (scale.T, np.diag(np.diag(scale))):
            assert np.max(np.abs(np.cov(noise.T) - solve_discrete_lyapunov(wrong, SIGMA)) / se) > 20

    def test_rate_is_the_mutual_information(self):
        scale, log_abs_det = constant_scale()
        noise = solve_discrete_lyapunov(scale, SIGMA)
        given_x = scale @ noise @ scale.T
        information = 0.5 * (np.linalg.slogdet(SIGMA + given_x)[1] - np.linalg.slogdet(given_x)[1])
        assert information == pytest.approx(-log_abs_det, rel=1e-10)

    def test_rate_is_the_information_of_samples(self, gaussian_samples):
        scale, log_abs_det = constant_scale()
        signal, noise = gaussian_samples
        half = RINGS // 2  # output and noise from different rings: independent
        output, noise = signal[:half] + noise[:half] @ scale.T, noise[half:]
        given_x = np.cov((noise @ scale.T).T)
        information = 0.5 * (np.linalg.slogdet(np.cov(output.T))[1] - np.linalg.slogdet(given_x)[1])
        se = 0.5 * math.sqrt(2 * (2 * 3 / half))  # log det of a sample covariance has the variance 2 dim / n
        assert abs(information + log_abs_det) < 5 * se
        assert -log_abs_det > 50 * se  # so that the test says something


@pytest.fixture(scope="module")
def dependent_samples():
    """f(x), S(x) and e of one example in each of many independent rings; float32."""
    rings, batch = 8_000, 48  # the bound of the norm to the power of 47 is 1e-6: the cut is far below any standard error
    x = np.random.default_rng(0).normal(size=(batch, rings, 2)).astype("float32")
    mean = np.tanh(x @ np.array([[1.5, 0.5], [0.0, 1.0]], "float32") + 0.7)  # off the centre: f and S e are correlated
    raw = np.stack([2 + x[..., 0], 2 - x[..., 1], 0.6 + 0.5 * x[..., 0]], axis=-1)
    scale, _ = bounded_triangular(raw, 0.75)
    noise = matrix_ring_noise(mean, scale, np.arange(batch), batch - 1)
    return mean[0], np.asarray(scale[0]), np.asarray(noise[0])


def laws_differ(a, b):
    """Two-sample tests: of first and second moments at 5 standard errors, and of the laws of four projections."""
    moments = [np.concatenate([values, values**2, values[:, :1] * values[:, 1:]], axis=1) for values in (a, b)]
    se = np.sqrt(sum(values.var(0) / len(values) for values in moments))
    if np.any(np.abs(moments[0].mean(0) - moments[1].mean(0)) > 5 * se):
        return True
    directions = np.array([[1, 0], [0, 1], [1, 1], [1, -1]]).T
    return any(ks_2samp(*values).pvalue < 1e-6 for values in zip((a @ directions).T, (b @ directions).T, strict=True))


def test_noise_and_output_have_one_law(dependent_samples):
    mean, scale, noise = dependent_samples
    half = len(mean) // 2  # output and noise from different rings: independent

    def output(scale):
        return (mean + np.einsum("nij,nj->ni", scale, noise))[:half]

    assert not laws_differ(output(scale), noise[half:])
    # The test must see the transposed matrix, another r, and matrices that do not belong to their f.
    assert laws_differ(output(transpose(scale)), noise[half:])
    assert laws_differ(output(1.15 * scale), noise[half:])
    assert laws_differ(output(np.roll(scale, 1, axis=0)), noise[half:])


class TestMatrixEchoLayer:
    @staticmethod
    def inputs(batch, dim=4, seed=0, spread=1.0):
        rng = np.random.default_rng(seed)
        mean, raw = np.tanh(rng.normal(size=(batch, dim))), spread * rng.normal(size=(batch, dim * (dim + 1) // 2))
        return mean.astype("float32"), raw.astype("float32")

    def test_output_is_the_channel_with_the_norm_bound_of_its_dimension(self):
        layer = MatrixEchoLayer(d_max=9, max_mean=2.0, seed=5)
        mean, raw = self.inputs(20)
        z, rate = layer([mean, raw], return_rate=True)
        order = keras.random.shuffle(np.arange(20), seed=keras.random.SeedGenerator(5))
        r = max_scale(9, 2 * 2.0)  # sqrt(4) * max_mean
        scale, log_abs_det = bounded_triangular(raw, r)
        noise = np.asarray(matrix_ring_noise(mean, scale, order, 9))
        np.testing.assert_allclose(z, mean + np.einsum("nij,nj->ni", scale, noise), rtol=1e-5, atol=1e-6)
        for values in (rate, layer.rate(raw)):
            np.testing.assert_allclose(values, -np.asarray(log_abs_det), rtol=1e-6)
        assert layer.norm_bound(4) == r

    def test_diagonal_channel_is_contained(self):
        mean, raw = self.inputs(20)
        raw[:, 4:] = 0.0
        log_scale = np.asarray(ops.log_sigmoid(raw[:, :4]))
        matrix, diagonal = (
            MatrixEchoLayer(d_max=9, max_mean=0.5, seed=3),
            EchoLayer(d_max=9, max_mean=math.sqrt(4) * 0.5, seed=3),
        )
        for training in (False, True, False):  # with an empty reservoir and with a filled one
            outputs = matrix([mean, raw], training=training), diagonal([mean, log_scale], training=training)
            np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(matrix.rate(raw), diagonal.rate(log_scale), rtol=1e-6)
        assert matrix.norm_bound(4) == diagonal.max_scale
        assert matrix.rate_floor(4) == pytest.approx(diagonal.rate_floor(4), rel=1e-12)

    def test_rate_is_never_below_the_floor(self):
        layer = MatrixEchoLayer()
        _, raw = self.inputs(50, spread=3.0)
        at_the_floor = np.array([[100.0] * 4 + [0.0] * 6])
        assert np.all(layer.rate(np.concatenate([raw, at_the_floor])) >= layer.rate_floor(4) * (1 - 1e-6))
        np.testing.assert_allclose(layer.rate(at_the_floor), layer.rate_floor(4), rtol=1e-6)

    def test_fresh_at_every_call(self):
        layer = MatrixEchoLayer(d_max=9, seed=0)
        inputs = self.inputs(20)
        assert not np.array_equal(layer(inputs), layer(inputs))

    def test_float32_under_mixed_precision(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            layer = MatrixEchoLayer(d_max=3, seed=1)
            mean, raw = (ops.cast(value, "bfloat16") for value in self.inputs(8))
            z = layer([mean, raw])
        finally:
            keras.config.set_dtype_policy("float32")
        assert keras.backend.standardize_dtype(z.dtype) == "float32"
        # Computed in float32 too: nothing but the inputs is rounded.
        expected = MatrixEchoLayer(d_max=3, seed=1)([ops.cast(mean, "float32"), ops.cast(raw, "float32")])
        np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)
        assert keras.backend.standardize_dtype(layer.rate(raw).dtype) == "float32"

    def test_rate_weight_adds_the_mean_rate(self):
        layer = MatrixEchoLayer(d_max=7, rate_weight=0.5)
        inputs = self.inputs(8)
        layer(inputs)
        (loss,) = layer.losses
        assert float(loss) == pytest.approx(0.5 * float(np.mean(layer.rate(inputs[1]))), rel=1e-6)
        without = MatrixEchoLayer(d_max=7)
        without(inputs)
        assert not without.losses

    @pytest.mark.parametrize("batch", [1, 2, 4, 40])
    def test_behind_the_last_echo_stands_noise_from_the_reservoir(self, batch):
        layer = MatrixEchoLayer(d_max=40, max_mean=0.1, reservoir_size=41, seed=0)
        mean, raw = self.inputs(batch, dim=2)
        mean *= 0.1
        alike = np.full((41, 2), 0.1, "float32"), np.tile([[2.0, 2.0, 0.5]], (41, 1)).astype("float32")
        layer.adapt(alike)
        scale, one = (np.asarray(bounded_triangular(values, layer.norm_bound(2))[0]) for values in (raw, alike[1][0]))
        series = np.linalg.solve(np.eye(2) - one, alike[0][0])  # noise of examples that are all alike
        noise = np.asarray(layer.source.noise(mean, scale, training=True))
        if batch < 4:  # few enough to try all orders
            for i in range(batch):
                orders = itertools.permutations([k for k in range(batch) if k != i])
                errors = [np.abs(direct_noise(mean, scale, order, series) - noise[i]).max() for order in orders]
                assert min(errors) < 1e-5
        # What follows has a law that does not depend on the batch: at inference all noise is of the reservoir.
        layer.adapt(alike)
        z = layer([mean, raw])
        np.testing.assert_allclose(z, mean + np.einsum("nij,j->ni", scale, series), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.sample_marginal(50), np.tile(series, (50, 1)), rtol=1e-4)

    @staticmethod
    def model(**options):
        inputs = keras.Input((5,))
        mean, raw = keras.layers.Dense(3, "tanh")(inputs), keras.layers.Dense(6, name="raw")(inputs)
        z = MatrixEchoLayer(**{"d_max": 9, "seed": 2, "name": "channel", "reservoir_size": 60, **options})([mean, raw])
        return keras.Model(inputs, z)

    def test_trains_with_a_partial_last_batch_and_predicts_in_any(self):
        model = self.model(rate_weight=10.0, max_mean=0.01)
        model.compile(keras.optimizers.Adam(0.1), loss="mse")
        model.optimizer.build(model.trainable_variables)
        x = np.random.default_rng(0).normal(size=(81, 5)).astype("float32")
        layer, raw = model.get_layer("channel"), model.get_layer("raw")
        before = np.mean(layer.rate(raw(x)))
        logs = model.fit(x, np.tanh(x[:, :3]), batch_size=40, epochs=8, verbose=0).history
        after = np.mean(layer.rate(raw(x)))
        assert layer.rate_floor(3) < after < 0.8 * before
        assert len(model.losses) == 1 and abs(logs["loss"][-1] - 10.0 * after) < 0.2 * logs["loss"][-1]  # the rate counts once
        assert all(np.all(np.isfinite(model(x[:n]))) for n in (1, 9, 81))

    def test_save_and_load(self, tmp_path):
        model = self.model(rate_weight=0.25)
        x = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
        model(x, training=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        layers = loaded.get_layer("channel"), model.get_layer("channel")
        assert layers[0].get_config() == layers[1].get_config()
        for one, other in zip(*(layer.variables for layer in layers), strict=True):
            if "seed" in one.path:
                one.assign(other)
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(loaded(x[:1]), model(x[:1]))

    def test_config_holds_every_argument(self):
        layer = MatrixEchoLayer(d_max=7, max_mean=2.0, rate_weight=0.5, reservoir_size=30, seed=4, name="channel")
        copy = MatrixEchoLayer.from_config(layer.get_config())
        assert (copy.d_max, copy.max_mean, copy.rate_weight, copy.seed, copy.name) == (7, 2.0, 0.5, 4, "channel")
        assert copy.source.reservoir.size == 30

    @pytest.mark.parametrize("training", [False, True])
    def test_batches_that_are_too_small(self, training):
        layer = MatrixEchoLayer(d_max=3)
        with pytest.raises(ValueError, match="empty batch"):
            layer(self.inputs(0), training=training)
        with pytest.raises(ValueError, match="at least 2 examples"):
            layer(self.inputs(1), training=training)

    @pytest.mark.parametrize("count", [0, 1])
    def test_adapt_refuses_fewer_than_two_examples(self, count):
        for data in ([self.inputs(1)] * count, self.inputs(count)):
            with pytest.raises(ValueError, match="at least two examples"):
                MatrixEchoLayer(d_max=9).adapt(data)

    @pytest.mark.parametrize("shapes", [((20, 4), (20, 9)), ((20, 4), (20, 6)), ((20, 1, 4), (20, 10)), ((20, 4), (20, 1, 10))])
    def test_shapes_that_do_not_belong_together_are_refused(self, shapes):
        with pytest.raises(ValueError, match="Expected \\[mean, raw\\]"):
            MatrixEchoLayer(d_max=9)([np.zeros(shape, "float32") for shape in shapes])

    @pytest.mark.parametrize(
        "arguments",
        [{"d_max": 0}, {"d_max": 1.5}, {"max_mean": 0.0}, {"max_mean": math.inf}, {"seed": 2**32}, {"reservoir_size": 99}],
    )
    def test_invalid(self, arguments):
        with pytest.raises(ValueError, match="Invalid value received for argument"):
            MatrixEchoLayer(**arguments)


JAX_SCRIPT = """
import json, sys
import jax, keras, numpy as np
from echo_tf.echo.matrix import MatrixEchoLayer, bounded_triangular, matrix_ring_noise

with np.load(sys.argv[1]) as arrays:
    mean, raw, order = arrays["mean"], arrays["raw"], arrays["order"]
scale, log_abs_det = jax.jit(lambda raw: bounded_triangular(raw, 0.8))(raw)
noise = jax.jit(lambda *arguments: matrix_ring_noise(*arguments, 13))(mean, scale, order)
gradient = jax.grad(lambda scale: matrix_ring_noise(mean, scale, order, 13).sum())(scale)

inputs = keras.Input((3,))
heads = [keras.layers.Dense(3, "tanh")(inputs), keras.layers.Dense(6)(inputs)]
model = keras.Model(inputs, MatrixEchoLayer(9, rate_weight=0.5)(heads))
model.compile("sgd", loss="mse")
history = model.fit(mean, mean, batch_size=20, epochs=1, verbose=0).history
answers = {"backend": keras.backend.backend(), "loss": float(history["loss"][0])}
for name, values in {"log_abs_det": log_abs_det, "noise": noise, "gradient": gradient}.items():
    answers[name] = np.asarray(values).tolist()
print(json.dumps(answers))
"""


@pytest.mark.jax
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax, see the extra `jax` in pyproject.toml")
def test_jax_gives_the_same_values(tmp_path):
    rng = np.random.default_rng(0)
    mean, raw = (rng.normal(size=(20, length)).astype("float32") for length in (3, 6))
    order = rng.permutation(20)
    np.savez(tmp_path / "arrays.npz", mean=mean, raw=raw, order=order)
    run = subprocess.run(
        [sys.executable, "-c", JAX_SCRIPT, str(tmp_path / "arrays.npz")],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.splitlines()[-1])
    assert answers["backend"] == "jax"
    assert math.isfinite(answers["loss"])

    scale, log_abs_det = bounded_triangular(tf.constant(raw), 0.8)
    with tf.GradientTape() as tape:
        tape.watch(scale)
        noise = matrix_ring_noise(mean, scale, order, 13)
        total = tf.reduce_sum(noise)
    np.testing.assert_allclose(answers["log_abs_det"], log_abs_det, rtol=1e-5)
    np.testing.assert_allclose(answers["noise"], noise, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answers["gradient"], tf.convert_to_tensor(tape.gradient(total, scale)), rtol=1e-4, atol=1e-5)


class TestMatricesWithoutABound:
    """Lower-triangular, with a norm above 1, and moments of z all the same."""

    @staticmethod
    def pairs(n=40, dim=4):
        rng = np.random.default_rng(0)
        mean, below = rng.uniform(-1, 1, (n, dim)) + 0.3, rng.normal(size=(n, dim * (dim - 1) // 2))
        scale = np.array(lower_triangular(tf.constant(rng.uniform(0.3, 0.8, (n, dim))), tf.constant(below)))
        assert np.linalg.norm(scale, 2, axis=(1, 2)).mean() > 1.5
        return mean, scale

    @pytest.mark.parametrize("dim", [1, 2, 3, 6])
    def test_lower_triangular_has_every_entry_once(self, dim):
        count = dim * (dim - 1) // 2
        diagonal, below = np.arange(1.0, dim + 1)[None], 10.0 + np.arange(count)[None]
        (matrix,) = np.asarray(lower_triangular(tf.constant(diagonal), tf.constant(below)))
        np.testing.assert_array_equal(np.diag(matrix), diagonal[0])
        np.testing.assert_array_equal(np.sort(matrix[np.tril_indices(dim, -1)]), below[0])
        assert np.all(matrix[np.triu_indices(dim, 1)] == 0)
        many = lower_triangular(tf.ones((2, 5, dim)), tf.ones((2, 5, count)))
        np.testing.assert_array_equal(many, np.broadcast_to(np.tril(np.ones((dim, dim))), (2, 5, dim, dim)))

    def test_gathered_noise_is_the_sum_of_the_paper(self):
        mean, scale = self.pairs()
        orders = np.array([np.random.default_rng(i).permutation(40) for i in range(7)])
        for d_max in (1, 2, 23):
            expected = [direct_noise(mean, scale, row[:d_max]) for row in orders]
            np.testing.assert_allclose(matrix_gather_noise(mean, scale, orders, d_max), expected, rtol=1e-10)

    def test_moments_solve_the_lyapunov_equation(self):
        mean, scale = self.pairs(400, 3)
        scale = np.broadcast_to(scale[0], scale.shape)
        z_mean, covariance = matrix_moments(tf.constant(mean), tf.constant(scale))
        np.testing.assert_allclose(z_mean, np.linalg.solve(np.eye(3) - scale[0], mean.mean(0)), rtol=1e-10)
        expected = solve_discrete_lyapunov(scale[0], np.cov(mean.T, bias=True))
        np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)

    def test_moments_of_matrices_that_depend_on_x_are_at_the_fixed_point(self):
        mean, scale = self.pairs(40, 8)
        z_mean, covariance = matrix_moments(tf.constant(mean), tf.constant(scale))
        # The same equation for the second moments, as one linear system for all of their entries.
        own = np.einsum("ni,nj->ij", mean, mean) / 40
        mixed = np.einsum("ni,njk,k->ij", mean, scale, z_mean) / 40
        kernel = np.einsum("nij,nkl->ikjl", scale, scale).reshape(64, 64) / 40
        second = np.linalg.solve(np.eye(64) - kernel, (own + mixed + mixed.T).ravel()).reshape(8, 8)
        np.testing.assert_allclose(covariance, second - np.outer(z_mean, z_mean), rtol=1e-6, atol=1e-9)

    def test_moments_of_diagonal_matrices_and_of_more_axes(self):
        rng = np.random.default_rng(0)
        mean, log_scale = rng.uniform(-1, 1, (30, 2, 3)), np.log(rng.uniform(0.1, 0.8, (30, 2, 3)))
        scale = np.exp(log_scale)[..., None] * np.eye(3)
        z_mean, covariance = matrix_moments(tf.constant(mean), tf.constant(scale))
        variance = np.diagonal(covariance, axis1=-2, axis2=-1)
        for value, expected in zip((z_mean, variance), echo_moments(mean, log_scale), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-9)
