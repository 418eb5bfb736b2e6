import keras
import numpy as np
import pytest

import echo_tf
from echo_tf.echo import EchoDense


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, 28, 28, 1)).astype("float32")


def small(method, **overrides):
    """A configuration whose batches are quick."""
    defaults = {"channel": {"d_max": 9}, "training": {"batch_size": 10}}
    return echo_tf.load_config(method, **{**defaults, **overrides})


METHODS = ("echo", "vae")


@pytest.mark.parametrize("method", METHODS)
def test_parameters_of_the_paper(method):
    model = echo_tf.build_model(method)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == 1_398_849


@pytest.mark.parametrize("method", METHODS)
def test_every_weight_changes_in_one_step(method):
    model = echo_tf.build_model(small(method))
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(images(10), batch_size=10, verbose=0)
    after = zip(model.trainable_weights, before, strict=True)
    assert not [weight.path for weight, value in after if np.array_equal(weight.numpy(), value)]


@pytest.mark.parametrize("method", METHODS)
def test_fit_evaluate_predict(method):
    model = echo_tf.build_model(small(method, beta=2.0))
    data = images(25)
    history = model.fit(data, batch_size=10, validation_data=data, epochs=2, verbose=0).history
    assert set(history) == {f"{prefix}{name}" for prefix in ("", "val_") for name in ("loss", "rate", "distortion")}
    values = model.evaluate(data, batch_size=10, return_dict=True, verbose=0)
    assert values["loss"] == pytest.approx(values["distortion"] + 2 * values["rate"], rel=1e-5)
    outputs = model.predict(data, batch_size=10, verbose=0)
    shapes = {name: value.shape for name, value in outputs.items()}
    assert shapes == {"z": (25, 32), "logits": (25, 28, 28, 1), "rate": (25,)}
    assert values["rate"] == pytest.approx(outputs["rate"].mean(), rel=1e-5)  # no noise in the rate


@pytest.mark.parametrize("method", METHODS)
def test_encode_decode_reconstruct_generate(method):
    model = echo_tf.build_model(small(method))
    model.fit(images(40), batch_size=10, verbose=0)
    z = model.encode(images(3))
    assert z.shape == (3, 32)
    for pictures in (model.decode(z), model.reconstruct(images(3), samples=2), model.generate(3)):
        assert pictures.shape == (3, 28, 28, 1)
        assert np.all((pictures > 0) & (pictures < 1))
    assert model.encode(images(1)).shape == (1, 32)
    assert model.predict(images(1), verbose=0)["z"].shape == (1, 32)


def test_fit_renews_the_reservoir_with_the_final_parameters():
    model = echo_tf.build_model(small("echo"))
    data = images(40)
    model.fit(data, batch_size=10, shuffle=False, verbose=0)
    mean, _ = model.channel.statistics(model.encoder.predict(data, verbose=0))
    np.testing.assert_allclose(model.channel.reservoir_mean[:40], mean, rtol=1e-5, atol=1e-6)
    assert model.channel.reservoir_mean.shape[0] == 1000


@pytest.mark.parametrize("method", METHODS)
def test_save_and_load(method, tmp_path):
    model = echo_tf.build_model(small(method))
    data = images(20)
    model.fit(data, batch_size=10, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.config == model.config
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(
        model.channel.statistics(model.encoder(data)), loaded.channel.statistics(loaded.encoder(data)), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(loaded.channel.seed_generator.state, model.channel.seed_generator.state)
    before, after = model.predict(data, verbose=0), loaded.predict(data, verbose=0)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("method", METHODS)
def test_mixed_precision_keeps_channel_and_logits_in_float32(method):
    model = echo_tf.build_model(small(method, training={"batch_size": 10, "dtype_policy": "mixed_bfloat16"}))
    outputs = model(images(10))
    assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {"float32"}
    assert keras.backend.standardize_dtype(model.encoder(images(10)).dtype) == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    assert all(weight.dtype == "float32" for weight in model.trainable_weights)


def test_rates_are_at_or_above_the_floor():
    model = echo_tf.build_model("echo")
    rate = model.predict(images(100), batch_size=100, verbose=0)["rate"]
    assert np.all(rate >= model.channel.echo.rate_floor(32) * (1 - 1e-6))


def test_data_sets_renew_the_reservoir_too():
    import tensorflow as tf

    data = images(40)
    model = echo_tf.build_model(small("echo"))
    model.fit(tf.data.Dataset.from_tensor_slices(data).batch(10), shuffle=False, verbose=0)
    mean, _ = model.channel.statistics(model.encoder.predict(data, verbose=0))
    np.testing.assert_allclose(model.channel.reservoir_mean[:40], mean, rtol=1e-5, atol=1e-6)


def test_generators_leave_the_running_reservoir():
    model = echo_tf.build_model(small("echo"))
    model.fit(((images(10, seed),) for seed in range(4)), steps_per_epoch=4, shuffle=False, verbose=0)
    assert model.generate(2).shape == (2, 28, 28, 1)


def test_readme_example():
    """The three lines of the README in a model of one's own, on a batch size that does not divide the data."""
    inputs = keras.Input((784,))
    h = keras.layers.Dense(32, activation="relu")(inputs)
    z = EchoDense(8, d_max=19)(h)
    outputs = keras.layers.Dense(784)(z)
    model = keras.Model(inputs, outputs)
    model.compile(optimizer="adam", loss=lambda x, logits: keras.ops.sum(keras.ops.square(x - logits), -1))
    data = np.random.default_rng(0).uniform(size=(110, 784)).astype("float32")
    losses = model.fit(data, data, batch_size=25, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.predict(data[:1], verbose=0).shape == (1, 784)
