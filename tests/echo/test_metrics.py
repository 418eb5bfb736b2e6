"""What `fit` and `evaluate` show of the layers without the user's doing, and the warning of small batches."""

import logging

import keras
import numpy as np
import pytest

import echo_tf
from echo_tf import EchoDense, EchoLayer, MatrixEchoDense

D_MAX = 9


def data(n=60):
    return np.random.default_rng(0).normal(size=(n, 6)).astype("float32")


def echo(**options):
    return EchoDense(2, **{"d_max": D_MAX, "rate_weight": 0.5, "seed": 0, **options})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.echo, self.head = echo(), keras.layers.Dense(6)

    def call(self, inputs, training=None):
        return self.head(self.echo(inputs, training=training))


def build(style):
    inputs, head = keras.Input((6,)), keras.layers.Dense(6)
    if style == "sequential":
        return keras.Sequential([inputs, echo(), head])
    if style == "subclassed":
        return Subclassed()
    if style == "nested":
        inner = keras.Input((6,))
        return keras.Model(inputs, head(keras.Model(inner, echo()(inner))(inputs)))
    if style == "bare":
        mean, scale = keras.layers.Dense(2, "tanh")(inputs), keras.layers.Dense(2, "log_sigmoid")(inputs)
        return keras.Model(inputs, head(EchoLayer(D_MAX, rate_weight=0.5)([mean, scale])))
    layer = MatrixEchoDense(2, d_max=D_MAX) if style == "matrix" else echo()
    layer.trainable = style != "frozen"
    return keras.Model(inputs, head(layer(inputs)))


STYLES = ("functional", "sequential", "subclassed", "nested", "bare", "matrix", "frozen")


@pytest.mark.parametrize("style", STYLES)
def test_rate_is_shown(style):
    model, x = build(style), data()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(x, x, batch_size=25, validation_data=(x, x), verbose=0).history
    assert set(history) == {"loss", "rate", "val_loss", "val_rate"}
    if style == "functional":  # nothing has changed in the epoch, and the rate of an example has no noise
        layer = model.layers[1]
        rate = float(np.mean(layer(x, return_rate=True)[1]))
        assert history["rate"][0] == pytest.approx(rate, rel=1e-5)
        model.predict(x, verbose=0)
        assert model.evaluate(x[:25], x[:25], return_dict=True, verbose=0)["rate"] == pytest.approx(
            float(np.mean(layer(x[:25], return_rate=True)[1])), rel=1e-5
        )


def test_a_layer_that_is_called_twice_shows_the_mean_of_its_calls():
    inputs, x, layer = keras.Input((6,)), data(), echo()
    model = keras.Model(inputs, keras.layers.Dense(6)(layer(inputs) + layer(2.0 * inputs)))
    model.compile("sgd", "mse")
    model.fit(x, x, batch_size=30, verbose=0)
    expected = np.mean([np.mean(layer(factor * x, return_rate=True)[1]) for factor in (1.0, 2.0)])
    assert model.evaluate(x, x, verbose=0, return_dict=True)["rate"] == pytest.approx(expected, rel=1e-5)


def test_two_layers_have_two_names_and_one_has_the_plain_one_again():
    inputs, x = keras.Input((6,)), data()
    first, second = echo(name="low"), echo(name="high")
    z = first(inputs)
    model = keras.Model(inputs, keras.layers.Dense(6)(second(z)))
    model.compile("sgd", "mse")
    history = model.fit(x, x, batch_size=30, verbose=0).history
    assert set(history) == {"loss", "low_rate", "high_rate"}
    assert history["low_rate"] != history["high_rate"]
    single = keras.Model(inputs, keras.layers.Dense(6)(z))
    single.compile("sgd", "mse")
    assert set(single.fit(x, x, batch_size=30, verbose=0).history) == {"loss", "rate"}


def test_saved_and_loaded(tmp_path):
    model, x = build("functional"), data()
    model.compile("sgd", "mse")
    model.fit(x, x, batch_size=30, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, x, return_dict=True, verbose=0)["rate"] == pytest.approx(
        model.evaluate(x, x, return_dict=True, verbose=0)["rate"], rel=1e-6
    )


def test_model_with_a_rate_of_its_own_shows_it_once():
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model = echo_tf.RateDistortionModel(encoder, keras.layers.Dense(6), echo(), distortion="gaussian")
    model.compile("sgd")
    history = model.fit(data(), batch_size=30, verbose=0).history
    assert set(history) == {"loss", "rate", "distortion"}
    assert history["rate"][0] > model.channel.rate_floor


@pytest.mark.parametrize(
    ("batch", "n", "options", "warns"),
    [
        (9, 54, {}, True),  # the size is known when the graph is made
        (9, 60, {}, True),  # it is not: 6 batches of 9 and one of 6
        (25, 58, {}, False),  # only the last batch is small
        (9, 60, {"echoes": "reservoir"}, False),
        (9, 60, {"replace": True}, False),
    ],
)
def test_warning_of_small_batches(batch, n, options, warns, caplog):
    x, inputs = data(n), keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(6)(echo(name="my_echo", **options)(inputs)))
    model.compile("sgd", "mse")
    with caplog.at_level(logging.WARNING):
        model.fit(x, x, batch_size=batch, epochs=2, verbose=0)
    told = [record.message for record in caplog.records if "no more than d_max" in record.message]
    assert len(told) == warns
    parts = ("of 9 examples", "echoes='reservoir'", "'my_echo'", "shuffle")
    assert all(part in message for message in told for part in parts)


@pytest.mark.parametrize(("weight", "in_training", "times"), [(0.5, False, 1), (0.5, True, 1), (None, True, 0)])
def test_warning_of_a_rate_that_may_count_twice(weight, in_training, times, caplog):
    layer, bare = echo(rate_weight=weight, name="my_echo"), EchoLayer(D_MAX, rate_weight=weight, name="my_echo")
    layer(data(), training=True)
    for channel, x in ((layer, data()), (bare, [np.zeros((20, 2), "float32")] * 2)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            channel(x, return_rate=True)  # only looked at
            told = [record.message for record in caplog.records if "twice" in record.message]
            assert not told
            for _ in range(2):
                symbols = [keras.Input((2,))] * 2 if channel is bare else keras.Input((6,))
                channel(x if in_training else symbols, return_rate=True, training=in_training)
        told = [record.message for record in caplog.records if "twice" in record.message]
        assert len(told) == times
        assert all("'my_echo'" in message and "rate_weight=None" in message for message in told)
