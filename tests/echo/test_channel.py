"""The interface of all channels: the classes of the package, and one that a user might write."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from echo_tf.echo.channel import Channel, Draw
from echo_tf.echo.dense import EchoDense
from echo_tf.echo.matrix import MatrixEchoLayer, matrix_moments
from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.echo.noise import echo_moments, echo_noise, echo_rate
from echo_tf.models.channels import FullGaussianChannel, GaussianChannel, IAFChannel

UNITS, FEATURES = 3, 5


@keras.saving.register_keras_serializable(package="tests")
class UniformChannel(Channel):
    """The least that a channel must have: `z = tanh(h) + uniform noise of width 1`, with the rate of an additive channel."""

    has_density = False

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.head = keras.layers.Dense(units, activation="tanh")
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, input_shape):
        self.head.build(input_shape)

    def draw(self, inputs, training=None):
        noise = keras.random.uniform(ops.shape(self.head(inputs)), -0.5, 0.5, seed=self.seed_generator)
        return Draw(self.head(inputs) + noise, ops.sum(self.rate_per_dimension(inputs), axis=-1))

    def rate_per_dimension(self, inputs):
        return math.log(3.0) * ops.ones_like(self.head(inputs))  # of at most three widths

    def mean_and_scale(self, inputs):
        return self.head(inputs), ops.ones_like(self.head(inputs)) / math.sqrt(12.0)

    def sample_marginal(self, n):
        return keras.random.uniform((n, self.units), -1.5, 1.5, seed=self.seed_generator)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


CHANNELS = {
    "echo": lambda **o: EchoDense(UNITS, **{"d_max": 9, "rate_weight": None, "seed": 0, **o}),
    "echo literal": lambda **o: EchoDense(UNITS, **{"d_max": 9, "rate_weight": None, "parametrisation": "literal", **o}),
    "echo centred": lambda **o: EchoDense(UNITS, **{"d_max": 9, "rate_weight": None, "parametrisation": "centred", **o}),
    "echo matrix": lambda **o: MatrixEchoDense(UNITS, **{"d_max": 9, "rate_weight": None, "seed": 0, **o}),
    "gaussian": lambda **o: GaussianChannel(UNITS, **{"seed": 0, **o}),
    "gaussian full": lambda **o: FullGaussianChannel(UNITS, **{"seed": 0, **o}),
    "iaf": lambda **o: IAFChannel(UNITS, 2, (8,), **{"seed": 0, **o}),
    "of a user": lambda **o: UniformChannel(UNITS, **o),
}
ONE_SAMPLE = ("iaf",)  # whose rate is a draw, of which the rate by dimension is no share


def features(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, FEATURES)).astype("float32")


def numpy(*values):
    return [ops.convert_to_numpy(value) for value in values]


@pytest.mark.parametrize("name", CHANNELS)
def test_interface(name, tmp_path):
    channel, x = CHANNELS[name](rate_weight=0.5), features(40)
    has_memory = name.startswith("echo")

    # A call, and what a model knows of it beforehand.
    z, rate = numpy(*channel(x, return_rate=True, training=True))
    assert (z.shape, z.dtype, rate.shape, rate.dtype) == ((40, UNITS), "float32", (40,), "float32")
    assert np.asarray(channel(x)).shape == (40, UNITS)
    (loss,) = channel.losses
    z_spec, rate_spec = channel.compute_output_spec(keras.KerasTensor((None, FEATURES)), return_rate=True)
    assert (z_spec.shape, rate_spec.shape) == ((None, UNITS), (None,))
    assert tuple(channel.compute_output_shape((7, FEATURES))) == (7, UNITS) == (7, channel.units)

    # Draws and rates.
    draw = channel.draw(x)
    assert np.std(numpy(draw.z, channel.draw(x).z), axis=0).min() > 0
    assert (draw.density is not None) == channel.has_density == (name in ("gaussian", "gaussian full", "iaf"))
    by_dimension = np.asarray(channel.rate_per_dimension(x))
    assert by_dimension.shape == (40, UNITS)
    assert channel.rate_floor >= 0 and (channel.rate_floor > 0) == has_memory
    if name not in ONE_SAMPLE:
        np.testing.assert_allclose(by_dimension.sum(1), draw.rate, rtol=1e-4)
        np.testing.assert_allclose(rate, draw.rate, rtol=1e-5)
        assert float(loss) == pytest.approx(0.5 * float(np.mean(draw.rate)), rel=1e-5)
        assert np.all(np.asarray(draw.rate) >= channel.rate_floor * (1 - 1e-6))
    mean, scale = numpy(*channel.mean_and_scale(x))
    assert mean.shape == scale.shape == (40, UNITS) and np.all(scale > 0)

    # What is stored about the training data: nothing, unless it says so.
    assert channel.has_memory == has_memory
    before = numpy(*(weight for weight in channel.non_trainable_weights if "seed" not in weight.path))
    channel.adapt(features(200, seed=1))
    after = numpy(*(weight for weight in channel.non_trainable_weights if "seed" not in weight.path))
    assert has_memory == any(not np.array_equal(*values) for values in zip(before, after, strict=True))
    channel.renormalise()
    for yes in (True, False):
        channel.echoes_from_batch(yes)
        assert np.all(np.isfinite(channel(x)))
    noise = channel.noise_samples(features(200, seed=1), 50, 20)
    assert noise is None if not has_memory else (type(noise), noise.shape) == (np.ndarray, (50, UNITS))
    marginal = np.asarray(channel.sample_marginal(30))
    assert marginal.shape == (30, UNITS) and len(np.unique(marginal[:, 0])) == 30

    # As part of a model, on file.
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, channel(inputs))
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras").layers[-1]
    assert copy.get_config() == channel.get_config()
    for one, other in zip(channel.variables, copy.variables, strict=True):
        other.assign(one)  # the states of the generators, which Keras does not save
    np.testing.assert_array_equal(copy(x[:1]), channel(x[:1]))
    assert copy(x[:1]).shape == (1, UNITS)


@pytest.mark.parametrize(
    ("make", "options", "moments"),
    [
        (EchoDense, {"replace": False}, echo_moments),
        (EchoDense, {"replace": True}, echo_moments),
        (MatrixEchoDense, {}, matrix_moments),
    ],
)
def test_noise_samples_have_the_law_of_the_noise(make, options, moments):
    channel, x = make(UNITS, d_max=19, rate_weight=None, seed=0, **options), features(1_000)
    channel.build((None, FEATURES))
    if make is MatrixEchoDense:
        channel.below_head.bias.assign([1.0, -0.5, 0.7])
    noise = channel.noise_samples(x, 800, 100, seed=3)
    mean, variance = numpy(*moments(*channel.statistics(x)))
    variance = np.diag(variance) if make is MatrixEchoDense else variance
    assert np.all(np.abs(noise.mean(0) - mean) < 5 * noise.std(0) / math.sqrt(800))
    squares = (noise - mean) ** 2
    assert np.all(np.abs(squares.mean(0) - variance) < 5 * squares.std(0) / math.sqrt(800))
    assert not np.array_equal(noise, channel.noise_samples(x, 800, 100, seed=4))
    np.testing.assert_array_equal(noise[:20], channel.noise_samples(x, 800, 100, seed=3)[:20])


@pytest.mark.parametrize("make", [EchoDense, MatrixEchoDense])
@pytest.mark.parametrize(
    ("law", "correlated", "tails"), [("echo", True, None), ("gaussian", True, 3.0), ("independent", False, None)]
)
def test_noise_samples_follow_the_law_of_the_channel(make, law, correlated, tails):
    channel, x = make(2, d_max=19, rate_weight=None, seed=0, noise=law), np.repeat(features(1_000)[:, :1], FEATURES, axis=1)
    channel.build((None, FEATURES))  # all dimensions see one number
    noise = channel.noise_samples(x, 2_000, 100, seed=3)
    noise = (noise - noise.mean(axis=0)) / noise.std(axis=0)
    assert bool(abs(np.mean(noise[:, 0] * noise[:, 1])) > 5 / math.sqrt(2_000)) is correlated
    if tails:
        assert np.all(np.abs(np.mean(noise**4, axis=0) - tails) < 5 * math.sqrt(24 / 2_000))


@pytest.mark.parametrize(
    "make",
    [GaussianChannel, FullGaussianChannel, EchoDense, MatrixEchoDense, lambda units, **o: IAFChannel(units, 1, (4,), **o)],
)
@pytest.mark.parametrize("seed", [2**32, -1, 0.5, "1"])
def test_seeds_that_are_refused(make, seed):
    with pytest.raises(ValueError, match="`seed`. Expected None or an integer below 2"):
        make(UNITS, seed=seed)


@pytest.mark.parametrize("make", [GaussianChannel, EchoDense, MatrixEchoDense, lambda _, **o: MatrixEchoLayer(**o)])
def test_seeds_of_numpy(make):
    assert type(make(UNITS, seed=np.int64(4)).get_config()["seed"]) is int


@pytest.mark.parametrize("name", [name for name in CHANNELS if name != "of a user"])
@pytest.mark.parametrize("method", ["draw", "rate_per_dimension", "mean_and_scale"])
def test_methods_build_the_channel(name, method):
    channel = CHANNELS[name]()
    getattr(channel, method)(features(20))
    assert channel(features(20)).shape == (20, channel.units)


def test_seeds_of_functions():
    mean, log_scale = np.random.default_rng(0).uniform(-1, -0.5, size=(2, 20, 3))
    np.testing.assert_array_equal(echo_noise(mean, log_scale, seed=np.uint32(4)), echo_noise(mean, log_scale, seed=4))
    with pytest.raises(ValueError, match="`seed`. Expected None or an integer below 2"):
        echo_noise(mean, log_scale, seed=-1)


@pytest.mark.parametrize("name", ["echo", "echo matrix", "gaussian", "gaussian full", "iaf"])
def test_float64_features_and_policy(name):
    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        channel, x = CHANNELS[name](rate_weight=1.0), tf.constant(features(40).astype("float64"))
        with tf.GradientTape() as tape:
            z, rate = channel(x, return_rate=True, training=True)
            loss = ops.mean(z) + ops.cast(channel.losses[0], "float32")
        gradients = tape.gradient(loss, channel.trainable_weights)
        marginal = channel.sample_marginal(3)
    finally:
        keras.config.set_floatx(before[1])
        keras.config.set_dtype_policy(before[0])
    assert {keras.backend.standardize_dtype(v.dtype) for v in (z, rate, marginal, *channel.trainable_weights)} == {"float32"}
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients) and len(gradients) >= 4


def test_rate_of_echo_is_of_its_scales():
    channel, x = CHANNELS["echo"](), features(40)
    _, rate = channel(x, return_rate=True)
    np.testing.assert_array_equal(rate, echo_rate(channel.statistics(x)[1]))
    np.testing.assert_allclose(channel.mean_and_scale(x)[1], np.exp(channel.statistics(x)[1]), rtol=1e-6)
