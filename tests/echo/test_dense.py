import copy
import logging
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import echo_tf.echo.heads
from echo_tf.echo.bound import max_scale
from echo_tf.echo.dense import EchoDense
from echo_tf.echo.heads import CENTRING, _pull_to_centre
from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.echo.noise import echo_moments


def features(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 8)).astype("float32")


def trained(batch=20, d_max=7, **options):
    layer = EchoDense(3, **{"d_max": d_max, "seed": 0, **options})
    x = features(batch)
    layer(x, training=True)
    return layer, x


def standardised(z, pairs):
    mean, variance = (np.asarray(value) for value in echo_moments(*pairs))
    return (z - mean) / np.sqrt(variance + 1e-6)


class TestChannel:
    def test_heads(self):
        layer, x = trained(mean_scale=4.0, d_max=19)
        mean, log_scale = (np.asarray(values) for values in layer.statistics(x))
        np.testing.assert_allclose(mean, np.tanh(np.asarray(layer.mean_head(x)) / 4.0), rtol=1e-5)
        raw = x @ layer.log_scale_head.kernel.numpy() + layer.log_scale_head.bias.numpy()
        np.testing.assert_allclose(log_scale, -np.log1p(np.exp(-raw)) + math.log(layer.echo.max_scale), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(layer.echo.source.reservoir.pairs[1][:20], log_scale)  # with log r

    @pytest.mark.parametrize("training", [True, False])
    def test_output_is_the_standardised_channel(self, training, replaying):
        layer, x = trained()
        layer.adapt(features(200, seed=1))
        pairs = layer.statistics(x)
        z = replaying(layer, lambda: layer(x, training=training))
        layer.adapt(features(200, seed=1))
        noise = replaying(layer, lambda: layer.echo.source.noise(*pairs, training=training))
        raw = pairs[0] + np.exp(pairs[1]) * noise
        population = x if training else features(200, seed=1)
        np.testing.assert_allclose(z, standardised(raw, layer.statistics(population)), rtol=1e-4, atol=1e-5)

    def test_output_has_mean_0_and_variance_1_and_the_marginal_its_law(self, repeated):
        layer, _ = trained(reservoir_size=500)
        x = features(500, seed=1)
        layer.adapt(x)
        # Values of one ring depend on each other: the spread of its means over passes tells the standard error.
        outputs = repeated(lambda: layer(x), 25)
        draws = repeated(lambda: layer.sample_marginal(500), 25)
        for power, truth in ((1, 0.0), (2, 1.0), (4, None)):
            a, b = ((values**power).mean(axis=1) for values in (outputs, draws))
            se = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 25)
            assert np.all(np.abs(a.mean(0) - b.mean(0)) < 5 * se)
            assert truth is None or np.all(np.abs(a.mean(0) - truth) < 5 * se + 1e-3)
        assert layer.sample_marginal(1300).shape == (1300, 3)

    def test_multiplicative_is_the_exponential(self):
        (additive, x), (multiplicative, _) = (trained(multiplicative=multiplicative) for multiplicative in (False, True))
        multiplicative.set_weights(additive.get_weights())
        np.testing.assert_allclose(multiplicative(x), np.exp(additive(x)), rtol=1e-4)
        np.testing.assert_allclose(multiplicative.sample_marginal(5), np.exp(additive.sample_marginal(5)), rtol=1e-4)
        np.testing.assert_array_equal(multiplicative.rate_per_dimension(x), additive.rate_per_dimension(x))

    @pytest.mark.parametrize("training", [True, False])
    def test_literal_output_is_the_channel(self, training, replaying):
        layer, x = trained(parametrisation="literal")
        z = replaying(layer, lambda: layer(x, training=training))
        mean, log_scale = layer.statistics(x)
        bare = replaying(layer, lambda: layer.echo([mean, log_scale - math.log(layer.echo.max_scale)], training=training))
        np.testing.assert_allclose(z, bare, rtol=1e-5, atol=1e-6)

    def test_centred_signals(self):
        layer, x = trained(parametrisation="centred", mean_scale=4.0, max_mean=2.0)
        layer.mean_head.bias.assign(3.0 * np.ones(3))  # |f| near 1, so that a centred one passes it
        raw = np.tanh(np.asarray(layer.mean_head(x)) / 4.0)
        mean, _ = layer.statistics(x)
        np.testing.assert_allclose(mean, raw - raw.mean(axis=0), rtol=1e-4, atol=1e-5)
        for training in (True, False):
            assert np.all(np.isfinite(layer(x, training=training)))
        layer.adapt(x)
        kept = np.asarray(layer.echo.source.reservoir.mean)
        assert np.min(np.abs(kept[:1] - mean).max(axis=1)) < 1e-5
        np.testing.assert_allclose(kept.mean(axis=0), 0.0, atol=0.05)

    def test_rate_is_added_to_the_loss(self):
        layer = EchoDense(3, d_max=9, rate_weight=2.0)
        _, rate = layer(features(20), return_rate=True)
        assert float(layer.losses[0]) == pytest.approx(2.0 * float(np.mean(rate)), rel=1e-6)
        assert not EchoDense(3, rate_weight=None, d_max=9).losses

    def test_replacement_uses_the_reservoir_at_inference(self):
        layer, x = trained(replace=True)
        assert np.std([layer(x[:1]) for _ in range(5)], axis=0).min() > 0.01

    @pytest.mark.parametrize(
        "arguments", [{"parametrisation": "none"}, {"mean_scale": 0.0}, {"reservoir_size": 9}, {"d_max": 0}, {"sampler": "x"}]
    )
    def test_invalid(self, arguments):
        with pytest.raises(ValueError, match="Invalid value received for argument"):
            EchoDense(3, **{"d_max": 9, **arguments})


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8,))
    layer = EchoDense(3, d_max=15, reservoir_size=200, seed=0)
    model = keras.Model(inputs, layer(inputs))
    layer.adapt(features(2_000))
    return model


class TestInferenceDoesNotLookAtTheBatch:
    @staticmethod
    def others(n):
        """Rows that are sorted, as those of one class after the other."""
        x = features(n, seed=1)
        return x[np.argsort(x[:, 0])]

    def test_law_of_z_for_one_example(self, model, repeated):
        one, draws = features(1, seed=2), 150
        nan = np.full((1, 8), np.nan, "float32")
        found = {
            "batches of 1": model.predict(np.repeat(one, draws, 0), batch_size=1, verbose=0),
            "batches of 7": model.predict(np.repeat(one, draws, 0), batch_size=7, verbose=0),
            "one batch of repeated rows": model.predict(np.repeat(one, draws, 0), batch_size=500, verbose=0),
        }
        for name, rest in (("sorted rows", self.others(149)), ("a row of NaN", np.concatenate([nan, self.others(3)]))):
            rows = np.concatenate([one, rest])
            found[name] = repeated(lambda rows=rows: model(rows)[0], draws)
        reference = found.pop("batches of 1")
        for name, z in found.items():
            assert np.all(np.isfinite(z)), name
            ratio = z.std(0) / reference.std(0)
            assert np.all((ratio > 0.8) & (ratio < 1.25)), name
            se = np.sqrt((z.var(0) + reference.var(0)) / draws)
            assert np.all(np.abs(z.mean(0) - reference.mean(0)) < 5 * se), name

    def test_nor_do_the_numbers_of_the_others_count(self, model, replaying):
        layer = model.layers[-1]
        one = features(1, seed=2)
        outputs = [
            np.asarray(replaying(layer, lambda rest=rest: layer(np.concatenate([one, rest]))))[0]
            for rest in (one, one + 3.0, np.full_like(one, np.nan), features(40))
        ]
        for z in outputs[1:]:
            np.testing.assert_allclose(z, outputs[0], rtol=1e-5, atol=1e-6)

    def test_the_batch_can_be_had_back(self, model):
        layer = model.layers[-1]
        repeated = np.repeat(features(1, seed=2), 100, 0)
        layer.echoes_from_batch(True)
        from_batch = np.std(layer(repeated), axis=0)  # noise made of copies of one example has no spread
        layer.echoes_from_batch(False)
        assert np.all(from_batch < 0.1 * np.std(layer(repeated), axis=0))

    def test_nan_in_training_is_not_remembered(self):
        layer, x = trained()
        bad = features(20, seed=1)
        bad[3, 2] = np.nan
        layer(bad, training=True)
        assert all(np.all(np.isfinite(weight)) for weight in layer.weights)
        assert np.all(np.isfinite(layer(x))) and np.all(np.isfinite(layer(x, training=True)))


class TestFrozenEncoder:
    def test_training_a_head_on_it_changes_nothing(self, replaying):
        inputs = keras.Input((8,))
        layer, body = EchoDense(3, d_max=7, reservoir_size=50, seed=0), keras.layers.Dense(6, "relu")
        encoder = keras.Model(inputs, layer(body(inputs)))
        model = keras.Model(inputs, keras.layers.Dense(8)(encoder.output))
        x = features(100)
        layer.adapt(body(x))  # the moments are of all examples, and not those of the pairs that are kept
        before = [weight.numpy() for weight in encoder.weights]
        expected = replaying(layer, lambda: model(x[:10]))
        encoder.trainable = False
        head = keras.Sequential([encoder, keras.layers.Dense(1)])
        head.compile("sgd", "mse")
        head.fit(features(40, seed=1) + 2.0, np.zeros((40, 1)), batch_size=20, verbose=0)
        for weight, old in zip(encoder.weights, before, strict=True):
            np.testing.assert_array_equal(weight, old, weight.path)
        np.testing.assert_array_equal(replaying(layer, lambda: model(x[:10])), expected)


class TestAdapt:
    def test_keeps_a_random_sample_of_pairs_and_the_moments_of_all(self):
        x = features(200)
        layers = [EchoDense(3, d_max=9, reservoir_size=30, seed=0) for _ in range(2)]
        for layer, data in zip(layers, (x, [x[:150], x[150:]]), strict=True):
            layer.build((None, 8))
            layer.set_weights(layers[0].get_weights())
            layer.adapt(data)
        for one, other in zip(*(layer.get_weights() for layer in layers), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        layer = layers[0]
        mean, log_scale = (np.asarray(values) for values in layer.statistics(x))
        reservoir, standardiser = layer.echo.source.reservoir, layer.standardiser
        kept = [np.abs(mean - pair).max(1).argmin() for pair in np.asarray(reservoir.mean)]
        assert len(set(kept)) == 30
        assert 40 < np.mean(kept) < 160 and np.any(np.diff(kept) < 0)  # from all over, so sorted data do no harm
        np.testing.assert_allclose(reservoir.scale, log_scale[kept], rtol=1e-5, atol=1e-6)
        expected = echo_moments(mean, log_scale)
        np.testing.assert_allclose(standardiser.mean, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(standardiser.variance, expected[1], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("data", [[], features(0), features(1), [features(1)], np.full((20, 8), np.nan, "float32")])
    def test_refuses(self, data):
        with pytest.raises(ValueError, match="at least two examples|finite"):
            EchoDense(3, d_max=9).adapt(data)

    def test_repairs_a_loop_without_training(self, caplog, repeated):
        """In which the reservoir stays empty: a single example then gets no noise at all, and other moments."""
        layer, x = EchoDense(3, d_max=7, reservoir_size=200, seed=0), features(200)
        inputs = keras.Input((8,))
        model = keras.Model(inputs, layer(inputs))
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x[:100]) - x[:100, :3]))
            gradients = tape.gradient(loss, layer.trainable_weights)
            for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
                weight.assign(weight - 0.1 * gradient)
        assert sum("no training example" in record.getMessage() for record in caplog.records) == 1
        assert "call adapt" in caplog.text and f"The layer '{layer.name}' has" in caplog.text
        in_a_batch = repeated(lambda: model(x)[0], 200)
        graph = tf.function(lambda: model(x[:1])[0])  # outside of one a batch of one is refused
        assert np.std([graph() for _ in range(5)], axis=0).max() < 1e-6
        layer.adapt(x)
        alone = repeated(lambda: model(x[:1])[0], 200)
        ratio = alone.std(0) / in_a_batch.std(0)
        assert np.all((ratio > 0.7) & (ratio < 1.4))
        se = np.sqrt((alone.var(0) + in_a_batch.var(0)) / 200)
        assert np.all(np.abs(alone.mean(0) - in_a_batch.mean(0)) < 5 * se)

    def test_untrained_layer_says_what_to_do(self):
        layer = EchoDense(3, d_max=9)
        with pytest.raises(ValueError, match="at least 2 examples"):
            layer(features(1))
        with pytest.raises(ValueError, match="empty batch"):
            layer(features(0))
        with pytest.raises(ValueError, match="Train it first"):
            layer.sample_marginal(3)
        assert layer(features(4)).shape == (4, 3)


class TestPullToCentre:
    def test_is_a_gradient_only(self):
        mean = tf.constant(np.random.default_rng(0).uniform(-1, 1, (6, 3)))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(mean)
            pulled = _pull_to_centre(mean)
            loss = tf.reduce_sum(tf.sin(pulled))
            expected = tf.reduce_sum(tf.sin(mean)) + CENTRING * tf.reduce_sum(tf.reduce_mean(mean, 0) ** 2)
        np.testing.assert_array_equal(pulled, mean)
        np.testing.assert_allclose(tape.gradient(loss, mean), tape.gradient(expected, mean))

    @pytest.mark.parametrize(
        ("options", "training", "weight"),
        [
            ({}, True, CENTRING),
            ({}, False, 0.0),
            ({"parametrisation": "literal"}, True, 0.0),
            ({"trainable": False}, True, 0.0),
        ],
    )
    def test_of_the_standardised_channel_in_training_alone(self, options, training, weight):
        layer, x = trained(**options)
        weights = [layer.mean_head.kernel.value, layer.mean_head.bias.value]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = 0.0 * tf.reduce_sum(layer(x, training=training))
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        with tf.GradientTape() as tape:
            tape.watch(weights)
            pull = weight * tf.reduce_sum(tf.reduce_mean(layer.statistics(x)[0], 0) ** 2)
        for found, expected in zip(gradients, tape.gradient(pull, weights), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
        assert np.any(np.asarray(gradients[0]) != 0.0) == (weight > 0)

    @pytest.mark.parametrize(("policy", "said"), [("mixed_float16", True), ("mixed_bfloat16", False)])
    def test_is_said_to_be_lost_in_float16(self, policy, said, caplog):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            EchoDense(3)
        finally:
            keras.config.set_dtype_policy(before)
        assert ("the pull of the means to the centre is lost" in caplog.text) == said


class TestTraining:
    @pytest.mark.parametrize("n", [1, 20])
    def test_an_output_rises_with_its_own_signal(self, n, monkeypatch, repeated):
        monkeypatch.setattr(echo_tf.echo.heads, "CENTRING", 0.0)
        layer, _ = trained(batch=100, reservoir_size=100)
        encode = layer.encode

        def gradient():
            shift = tf.zeros((n, 3))
            with tf.GradientTape() as tape:
                tape.watch(shift)
                mean, *others = encode(tf.random.stateless_normal((n, 8), layer.echo.source.seed_generator.next()))
                monkeypatch.setattr(layer, "encode", lambda _: (mean + shift, *others))
                first = tf.reduce_sum(layer.draw(None, training=True).z[0])
            return tape.gradient(first, shift)[0]

        assert np.all(repeated(gradient, 50).mean(axis=0) > 0)

    def test_a_last_batch_of_one_example_does_no_harm(self):
        inputs = keras.Input((8,))
        layer = EchoDense(3, d_max=7, rate_weight=None, seed=0)
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(1e-3), loss="mse")
        model.optimizer.build(model.trainable_variables)
        x = features(121)
        layer(x[:120], training=True)
        for renormalised in (False, True):
            if renormalised:
                layer.renormalise()
            before = [weight.numpy() for weight in layer.trainable_weights]
            model.fit(x, np.zeros((121, 3)), batch_size=40, shuffle=False, epochs=4, verbose=0)
            change = max(np.abs(w - old).max() for w, old in zip(layer.trainable_weights, before, strict=True))
            assert 0 < change < 0.05  # 0.01; by the moments of the last batch alone 0.4 if renormalised, else 20 and more

    def test_a_batch_of_one_after_others(self):
        layer, x = trained()
        z = [np.asarray(layer(x[:1], training=True)) for _ in range(8)]
        assert np.all(np.isfinite(z)) and np.std(z, axis=0).min() > 1e-3


@pytest.mark.parametrize("make", [EchoDense, lambda *a, **k: EchoDense(*a, echoes="reservoir", **k), MatrixEchoDense])
def test_a_first_batch_of_one_example_does_no_harm(make):
    """It has no variance to be standardised by: Adam would remember a gradient of 1e5 for a thousand steps."""
    inputs = keras.Input((8,))
    layer, optimizer = make(4, d_max=9, seed=0), keras.optimizers.Adam(1e-3)
    model = keras.Model(inputs, keras.layers.Dense(8)(layer(inputs)))
    model.compile(optimizer, loss="mse")
    losses = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(logs["loss"]))
    x = features(42)
    batches = np.split(x, (1, 2))
    data = tf.data.Dataset.from_generator(
        lambda: ((batch, batch) for batch in batches), output_signature=(tf.TensorSpec((None, 8)),) * 2
    ).apply(tf.data.experimental.assert_cardinality(3))
    model.fit(data, shuffle=False, callbacks=[watch], verbose=0)
    assert np.max(losses) < 20  # about 12; without the guard 755 with diagonal S(x)
    # After so few steps of Adam the root of the second moment is 0.06 of the length of a gradient.
    moments = [variable for variable in optimizer.variables if "velocity" in variable.path]
    assert len(moments) == len(model.trainable_variables)
    assert max(np.sqrt(np.max(moment)) for moment in moments) < 1.0  # 0.3; without the guard 7 to 290
    assert np.all(np.isfinite(model(x)))


class TestPersistence:
    def test_save_and_load(self, tmp_path, caplog):
        caplog.set_level(logging.WARNING)
        inputs = keras.Input((8,))
        options = {
            "mean_scale": 2.0,
            "reservoir_size": 30,
            "echoes": "reservoir",
            "rate_weight": 0.5,
            "seed": 0,
            "max_mean": 2.0,
        }
        layer = EchoDense(3, d_max=9, multiplicative=True, name="channel", **options)
        model = keras.Model(inputs, layer(inputs))
        x = features(40)
        layer(x, training=True)
        layer.renormalise()
        layer.echoes_from_batch(True)
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras").get_layer("channel")
        assert copy.get_config() == layer.get_config()
        assert len(layer.weights) == len(copy.weights) == 4 + 4 + 3 + 1  # heads, source, standardiser, rate weight
        for before, after in zip(layer.weights, copy.weights, strict=True):
            np.testing.assert_array_equal(before, after)
        for one, other in zip(layer.variables, copy.variables, strict=True):
            other.assign(one)  # the states of the generators too
        np.testing.assert_array_equal(layer(x[:1]), copy(x[:1]))
        tf.function(copy)(x[:1])  # which cannot see that the reservoir is filled
        assert not caplog.records

    def test_copies(self):
        for layer in (EchoDense(3), trained()[0]):
            twin = copy.deepcopy(layer)
            assert twin.get_config() == layer.get_config()
            for one, other in zip(layer.weights, twin.weights, strict=True):
                np.testing.assert_array_equal(one, other)
            twin(features(20, seed=1), training=True)  # what it stores is its own
        assert not np.array_equal(layer.source.reservoir.mean, twin.source.reservoir.mean)

    def test_weights_set_after_training_decide_about_the_reservoir(self):
        layer = EchoDense(3, d_max=9, reservoir_size=20, seed=0)
        layer.build((None, 8))
        initial = layer.get_weights()
        x = features(20)
        layer(x, training=True)
        weights = layer.get_weights()
        layer.set_weights(initial)
        with pytest.raises(ValueError, match="Train it first"):
            layer.sample_marginal(3)
        for given, n in ((initial, 5), (weights, 1)):
            layer.set_weights(given)
            for call in (layer, tf.function(lambda batch: layer(batch))):  # eagerly, and in a graph traced now
                assert np.std([np.asarray(call(x[:n])) for _ in range(5)], axis=0).min() > 1e-3


def test_feature_maps(tmp_path):
    """The heads are 1x1 convolutions; moments and echoes are those of each place."""
    maps = np.random.default_rng(0).normal(size=(200, 3, 3, 4)).astype("float32")
    inputs = keras.Input((3, 3, 4))
    layer = EchoDense(2, d_max=7, reservoir_size=200, seed=0)
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 3, 3, 2)
    _, rate = layer(maps[:50], training=True, return_rate=True)
    assert rate.shape == (50,)
    layer.adapt(maps)
    z = np.concatenate([np.asarray(layer(maps)) for _ in range(10)])
    assert layer.standardiser.mean.shape == (3, 3, 2)
    assert np.all(np.abs(z.mean(0)) < 0.25) and np.all(np.abs(z.std(0) - 1) < 0.25)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded(maps[:1]).shape == (1, 3, 3, 2)
    assert layer.sample_marginal(5).shape == (5, 3, 3, 2)


@pytest.mark.parametrize("kind", [EchoDense, MatrixEchoDense])
def test_floor_of_feature_maps_is_that_of_all_places(kind):
    layer = kind(2, d_max=7)
    assert layer.rate_floor == pytest.approx(-2 * math.log(max_scale(7)))
    layer.build((None, 3, 3, 4))
    layer.log_scale_head.bias.assign([100.0, 100.0])  # s = 1
    _, rate = layer(np.zeros((10, 3, 3, 4), "float32"), return_rate=True)
    assert layer.rate_floor == pytest.approx(-18 * math.log(max_scale(7)))
    assert float(rate[0]) == pytest.approx(layer.rate_floor)


class TestMistakes:
    @pytest.mark.parametrize("n", [0, -1, 2.5, True])
    def test_number_of_draws(self, n):
        layer = EchoDense(2, d_max=9)
        layer.adapt(np.random.default_rng(0).normal(size=(40, 3)).astype("float32"))
        with pytest.raises(ValueError, match="`n`. Expected an integer >= 1"):
            layer.sample_marginal(n)

    def test_two_heads_in_the_place_of_features(self):
        with pytest.raises(ValueError, match="one tensor of features.*EchoLayer"):
            EchoDense(2)([np.zeros((5, 4), "float32"), np.zeros((5, 4), "float32")])

    def test_images_in_the_place_of_features(self):
        layer = EchoDense(2, d_max=9, name="echo")
        layer(np.zeros((20, 3), "float32"), training=True)
        with pytest.raises(ValueError, match=r"what 'echo' is called with, shape \(n, ..., 3\).*Received: shape \(20, 64\)"):
            layer.adapt(np.zeros((20, 64), "float32"))

    def test_examples_with_targets(self):
        with pytest.raises(ValueError, match="without targets.*gives a tuple"):
            EchoDense(2, d_max=9).adapt([(np.zeros((20, 3)), np.zeros(20))])

    @pytest.mark.parametrize("make", [EchoDense, MatrixEchoDense])
    def test_state_is_float32_inside_a_layer_of_lower_precision(self, make):
        """Keras rounds the variables of a layer that is not called itself to the precision of the one that is."""

        class Around(keras.layers.Layer):
            def __init__(self):
                super().__init__(dtype="mixed_bfloat16")
                self.channel = make(3, d_max=7, seed=0, rate_weight=None)

            def build(self, input_shape):
                self.channel.build(input_shape)

            def call(self, inputs, training=None):
                return self.channel.draw(keras.ops.cast(inputs, "float32"), training=training).z

        layer = Around()
        for _ in range(2):
            layer(features(20), training=True)
        kept = np.asarray(layer.channel.source.reservoir.mean)[20:40]  # those of the first call, stored again by the second
        assert np.all(kept != np.asarray(tf.cast(tf.cast(kept, "bfloat16"), "float32")), axis=0).any()

    def test_few_examples_to_adapt_to(self, caplog):
        EchoDense(2, d_max=9).adapt(np.random.default_rng(0).normal(size=(9, 3)).astype("float32"))
        assert "adapted to 9 examples, no more than d_max = 9" in caplog.text
