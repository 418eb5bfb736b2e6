import logging
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from echo_tf.echo.bound import max_scale
from echo_tf.echo.dense import EchoDense
from echo_tf.echo.layer import EchoLayer
from echo_tf.echo.matrix import MatrixEchoLayer

SAMPLERS = ("ring", "gather")
TOO_LARGE = [-1, 2**32, 10**400, 1.5, True, "0"]


def inputs(batch, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    mean, log_scale = np.tanh(rng.normal(size=(batch, dim))), -np.log1p(np.exp(-rng.normal(size=(batch, dim))))
    return [mean.astype("float32"), log_scale.astype("float32")]


def nothing(target, z):
    """A loss that leaves the rate alone in the objective."""
    return 0.0 * ops.sum(z - target, axis=-1)


class TestChannel:
    def test_output_and_rate_use_the_same_scale(self, replaying):
        layer = EchoLayer(d_max=9, seed=0)
        mean, log_scale = inputs(20)
        z, rate = replaying(layer, lambda: layer([mean, log_scale], return_rate=True))
        log_scale = log_scale + math.log(max_scale(9))
        noise = replaying(layer, lambda: layer.source.noise(mean, log_scale, training=False))
        np.testing.assert_allclose(z, mean + np.exp(log_scale) * noise, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rate, -log_scale.sum(1), rtol=1e-6)

    def test_rate_is_that_of_the_call(self):
        layer, (mean, log_scale) = EchoLayer(d_max=9), inputs(20)
        np.testing.assert_array_equal(layer.rate(log_scale), layer([mean, log_scale], return_rate=True)[1])

    def test_rate_is_never_below_the_floor(self):
        layer = EchoLayer()
        log_scale = np.zeros((3, 32), "float32")
        log_scale[1] = -1e-9
        assert np.all(layer.rate(log_scale) >= layer.rate_floor(32) * (1 - 1e-6))
        assert layer.rate_floor(32) == pytest.approx(5.7372, abs=5e-5)  # the paper's

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_fresh_at_every_call(self, sampler):
        layer, pair = EchoLayer(d_max=9, sampler=sampler, seed=0), inputs(20)
        for training in (False, True, True, False):
            assert not np.array_equal(layer(pair, training=training), layer(pair, training=training))

    def test_multiplicative_is_the_exponential(self):
        pair = inputs(8)
        additive, multiplicative = EchoLayer(d_max=7, seed=1), EchoLayer(d_max=7, seed=1, multiplicative=True)
        np.testing.assert_allclose(multiplicative(pair), np.exp(additive(pair)), rtol=1e-6)
        np.testing.assert_array_equal(multiplicative.rate(pair[1]), additive.rate(pair[1]))

    def test_replacement_draws_from_the_reservoir_too(self):
        layer = EchoLayer(d_max=9, replace=True, seed=0)
        layer(inputs(20), training=True)
        assert np.std([layer(inputs(1)) for _ in range(5)], axis=0).min() > 0.01

    def test_echoes_come_from_the_same_place_of_other_examples(self):
        mean, log_scale = inputs(30, dim=40)
        maps = [values.reshape(30, 4, 5, 2) for values in (mean, log_scale)]
        z, rate = EchoLayer(d_max=19, seed=1)(maps, return_rate=True)
        expected, expected_rate = EchoLayer(d_max=19, seed=1)([mean, log_scale], return_rate=True)
        np.testing.assert_allclose(np.reshape(z, (30, 40)), expected, rtol=1e-6)
        np.testing.assert_allclose(rate, expected_rate, rtol=1e-6)


class TestTypes:
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
    def test_float32_under_any_policy(self, dtype):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            layer = EchoLayer(d_max=3, rate_weight=1.0)
            pair = [ops.cast(values, dtype) for values in inputs(8)]
            outputs = [*layer(pair, return_rate=True, training=True), layer(pair), layer.losses[0]]
        finally:
            keras.config.set_dtype_policy(before)
        assert {keras.backend.standardize_dtype(values.dtype) for values in outputs} == {"float32"}
        assert {weight.dtype for weight in layer.weights if "seed" not in weight.path} == {"float32"}

    def test_float64_policy_and_floatx(self):
        """As a `keras.json` with float64 has it. That a model with them trains is tested in tests/models."""
        before = keras.config.dtype_policy(), keras.config.floatx()
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            x, outputs = np.random.default_rng(0).uniform(-1, 0, (45, 2)), []
            for layer, second in ((EchoLayer(d_max=9), x), (MatrixEchoLayer(d_max=9), x[:, [0, 1, 1]])):
                outputs += [*layer([tf.constant(x), tf.constant(second)], training=True, return_rate=True)]
                layer.adapt((x, second))
                outputs.append(layer([tf.constant(x), tf.constant(second)]))
        finally:
            keras.config.set_floatx(before[1])
            keras.config.set_dtype_policy(before[0])
        assert all(np.all(np.isfinite(values)) for values in outputs)
        assert {keras.backend.standardize_dtype(values.dtype) for values in outputs} == {"float32"}


class TestRateWeight:
    def test_adds_the_mean_rate(self):
        layer, pair = EchoLayer(d_max=7, rate_weight=0.5), inputs(8)
        layer(pair)
        (loss,) = layer.losses
        assert float(loss) == pytest.approx(0.5 * float(np.mean(layer.rate(pair[1]))), rel=1e-6)
        without = EchoLayer(d_max=7)
        without(pair)
        assert not without.losses and without.rate_weight is None

    @pytest.mark.parametrize("make", [EchoLayer, MatrixEchoLayer, lambda **options: EchoDense(3, **options)])
    def test_is_a_variable(self, make):
        layer = make(rate_weight=0.5)
        layer.rate_weight = 2
        assert float(layer.rate_weight) == 2.0 and not layer.rate_weight.trainable
        layer.rate_weight = np.float32(0.25)
        assert type(layer).from_config(layer.get_config()).rate_weight == 0.25
        for wrong in (math.nan, -1, math.inf, "1", True, None, [1.0, 2.0], 10**400):
            with pytest.raises(ValueError, match="`rate_weight`. Expected a finite number >= 0"):
                layer.rate_weight = wrong
            if wrong is not None:
                with pytest.raises(ValueError, match="`rate_weight`. Expected a finite number >= 0"):
                    make(rate_weight=wrong)
        assert float(layer.rate_weight) == 0.25
        with pytest.raises(ValueError, match="rate_weight=None"):
            make(rate_weight=None).rate_weight = 1.0

    def test_a_callback_may_change_it_and_it_is_saved(self, tmp_path):
        h, head = keras.Input((4,)), keras.layers.Dense(4, "log_sigmoid")
        layer = EchoLayer(d_max=9, rate_weight=0.0, name="channel")
        model = keras.Model(h, layer([keras.layers.Dense(4, "tanh")(h), head(h)]))
        model.compile(keras.optimizers.SGD(0.0), nothing)
        anneal = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(layer, "rate_weight", 2.0 * epoch))
        x = inputs(40)[0]
        losses = model.fit(x, x, batch_size=20, epochs=3, callbacks=[anneal], verbose=0).history["loss"]
        np.testing.assert_allclose(losses, np.array([0.0, 2.0, 4.0]) * np.mean(layer.rate(head(x))), rtol=1e-5)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        assert float(loaded.get_layer("channel").rate_weight) == 4.0
        model.save_weights(tmp_path / "model.weights.h5")
        layer.rate_weight = 1.0
        model.load_weights(tmp_path / "model.weights.h5")
        assert float(layer.rate_weight) == 4.0


class TestFrozen:
    MAKE = (
        lambda: EchoLayer(d_max=9, rate_weight=1.0, seed=0),
        lambda: MatrixEchoLayer(d_max=9, rate_weight=1.0, seed=0),
        lambda: EchoDense(2, d_max=9, seed=0),
    )

    @staticmethod
    def batch(layer, seed):
        shapes = [(2,), (3,)] if isinstance(layer, MatrixEchoLayer) else [(2,), (2,)]
        rng = np.random.default_rng(seed)
        mean, raw = (rng.uniform(-1, 0, (20, *shape)).astype("float32") for shape in shapes)
        return mean if isinstance(layer, EchoDense) else [mean, raw]

    @pytest.mark.parametrize("make", MAKE, ids=["layer", "matrix", "dense"])
    def test_is_in_inference_mode_and_stores_nothing(self, make, replaying):
        layer = make()
        layer(self.batch(layer, 0), training=True)
        model = keras.Sequential([layer])  # freezing what is around it freezes the layer
        other = self.batch(layer, 1)
        expected = replaying(layer, lambda: layer(other, training=False))
        before = [weight.numpy() for weight in layer.weights]
        model.trainable = False
        z = replaying(layer, lambda: layer(other, training=True))
        np.testing.assert_array_equal(z, expected)
        for weight, old in zip(layer.weights, before, strict=True):
            np.testing.assert_array_equal(weight, old)
        model.trainable = True
        assert not np.array_equal(replaying(layer, lambda: layer(other, training=True)), expected)
        assert any(not np.array_equal(weight, old) for weight, old in zip(layer.weights, before, strict=True))


class TestWarning:
    """Said the first time that inference meets an empty reservoir, and at no other time."""

    @pytest.fixture
    def said(self, caplog):
        caplog.set_level(logging.WARNING)
        return lambda: [record.getMessage() for record in caplog.records if "no training example" in record.getMessage()]

    @pytest.mark.parametrize("graph", [False, True])
    def test_once(self, said, graph):
        layer, pair = EchoLayer(d_max=9), inputs(20)
        call = tf.function(layer) if graph else layer
        layer.build([values.shape for values in pair])
        assert not said()
        for _ in range(3):
            call(pair)
        layer(pair)
        (message,) = said()
        assert "training=True" in message and "adapt" in message and f"The layer '{layer.name}' has" in message
        EchoLayer(d_max=9)(pair)
        assert len(said()) == 2  # of another layer

    def test_not_in_training_nor_after_it(self, said):
        mean, log_scale = keras.Input((4,)), keras.Input((4,))
        layer, pair = EchoLayer(d_max=9), inputs(20)
        model = keras.Model([mean, log_scale], layer([mean, log_scale]))
        layer(pair, training=True)
        model.predict(pair, verbose=0)
        layer(pair)
        adapted = EchoLayer(d_max=9)
        adapted.adapt(pair)
        adapted(pair)
        fresh = EchoLayer(d_max=9)
        fresh.build([(None, 4)] * 2)
        fresh.set_weights(layer.get_weights())
        fresh(pair)
        assert not said()

    def test_not_of_a_model_with_the_weights_of_a_trained_one(self, said):
        mean, log_scale = keras.Input((4,)), keras.Input((4,))
        layer, pair = EchoLayer(d_max=9), inputs(20)
        model = keras.Model([mean, log_scale], layer([mean, log_scale]))
        layer(pair, training=True)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        clone.predict(pair, verbose=0)  # a graph, which cannot see that the reservoir is filled
        assert not said()


class TestRefusals:
    @pytest.mark.parametrize(
        "arguments",
        [
            *({"d_max": 0}, {"sampler": "x"}, {"echoes": "x"}, {"reservoir_size": 9}, {"max_mean": 0}),
            *({"seed": seed} for seed in TOO_LARGE),
        ],
    )
    def test_arguments(self, arguments):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"Invalid value received for argument `{name}`"):
            EchoLayer(**{"d_max": 9, **arguments})

    def test_bounds_of_the_heads(self):
        mean, log_scale = inputs(20)
        for wrong in ([1.5 * mean / np.abs(mean).max(), log_scale], [mean, log_scale + 5.0]):
            with pytest.raises(ValueError, match=r"\|mean\| of at most max_mean = 1.*log_scale of at most 0"):
                EchoLayer(d_max=9)(wrong)
        assert EchoLayer(d_max=9, max_mean=2.0)([1.5 * mean, log_scale]).shape == (20, 4)
        mean[0, 0] = np.nan  # what it costs is one row, of which the loss tells
        assert np.sum(np.isnan(EchoLayer(d_max=9, max_mean=2.0)([mean, log_scale]))) < 20 * 4

    def test_shapes(self):
        mean, log_scale = inputs(20)
        with pytest.raises(ValueError, match="shape of `mean`"):
            EchoLayer(d_max=9)([mean, log_scale[:, :3]])
        for call in (EchoLayer(d_max=9), EchoLayer(d_max=9).adapt):
            with pytest.raises(ValueError, match=r"`inputs`. Expected shapes \(batch, ..., dim\).*shape \(20,\)"):
                call([mean[:, 0], log_scale[:, 0]])
        with pytest.raises(ValueError, match="all its dimensions"):
            EchoLayer().build([(None, None, 3)] * 2)

    @pytest.mark.parametrize("training", [False, True])
    def test_batches_that_are_too_small(self, training):
        layer = EchoLayer(d_max=3)
        with pytest.raises(ValueError, match="empty batch"):
            layer(inputs(0), training=training)
        with pytest.raises(ValueError, match="at least 2 examples"):
            layer(inputs(1), training=training)
        layer(inputs(2), training=True)
        assert np.all(np.isfinite(layer(inputs(1), training=training)))
        with pytest.raises(ValueError, match="empty batch"):
            layer(inputs(0), training=training)


class TestPersistence:
    def test_save_and_load(self, tmp_path):
        mean, log_scale = keras.Input((4,)), keras.Input((4,))
        layer = EchoLayer(
            d_max=9,
            max_mean=2.0,
            sampler="gather",
            multiplicative=True,
            reservoir_size=30,
            echoes="reservoir",
            seed=5,
            name="a",
        )
        model = keras.Model([mean, log_scale], layer([mean, log_scale]))
        layer(inputs(20), training=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.output_shape == (None, 4)
        copy = loaded.get_layer("a")
        assert copy.get_config() == layer.get_config()
        for before, after in zip(layer.weights, copy.weights, strict=True):
            np.testing.assert_array_equal(before, after)
        copy.source.reservoir.seed_generator.state.assign(layer.source.reservoir.seed_generator.state)
        one = inputs(1)
        np.testing.assert_array_equal(loaded(one), model(one))


@pytest.mark.parametrize("layer", [EchoLayer(d_max=3), MatrixEchoLayer(d_max=3)])
@pytest.mark.parametrize("count", [None, 1, 3])
def test_refuses_what_is_no_pair(layer, count):
    mean = np.zeros((4, 1), "float32")
    with pytest.raises(ValueError, match="Expected a list of two tensors"):
        layer(mean if count is None else [mean] * count)


def test_takes_integers():
    mean, log_scale = np.array([[0], [1], [-1], [0]]), np.array([[-1], [0], [-2], [-3]])
    integer, floating = (
        EchoLayer(d_max=3, seed=0)([mean.astype(dtype), log_scale.astype(dtype)], return_rate=True)
        for dtype in ("int64", "float32")
    )
    for one, other in zip(integer, floating, strict=True):
        np.testing.assert_array_equal(one, other)
