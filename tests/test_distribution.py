"""One training on two devices. Processes of their own: virtual devices are made when a backend starts."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from echo_tf.config import ConfigError, load_config
from echo_tf.distribution import SeedGenerator, replica_count, split_among
from echo_tf.truncation import max_scale

TRAIN = """
def trained(replicas, **overrides):
    import pathlib, tempfile
    from echo_tf.data import load_dataset
    from echo_tf.training import read_metrics, train

    dataset = load_dataset("digits")
    dataset = type(dataset)("digits", {"train": dataset.raw("train")[:80]}, 255, {})
    training = {"batch_size": 40, "replicas": replicas, "epochs": 2}
    config = echo_tf.load_config("echo", channel={"d_max": 19}, training=training, **overrides)
    with tempfile.TemporaryDirectory() as folder:
        model = train(config, dataset, pathlib.Path(folder))
        model.save(f"{folder}/model.keras")
        loaded = keras.saving.load_model(f"{folder}/model.keras")
        return {
            "metrics": read_metrics(pathlib.Path(folder)),
            "floor": model.channel.echo.rate_floor(32),
            "predicted": list(loaded.predict(dataset.images("train"), verbose=0)["z"].shape),
        }
"""

TENSORFLOW = (
    """
import json
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
import keras, numpy as np
import echo_tf
from echo_tf.distribution import split_among

answers = {}
with split_among(2):
    strategy = tf.distribute.get_strategy()
    layer = echo_tf.EchoLayer(d_max=19, seed=5)
    layer.build([(None, 3)] * 2)

def per_replica(function):
    return [values.numpy() for values in strategy.experimental_local_results(strategy.run(tf.function(function)))]

mean = np.linspace(-1, 1, 60, dtype="float32").reshape(20, 3)
answers["noise"] = [per_replica(lambda: layer.noise(mean, 0 * mean, training=True)) for _ in range(2)]
alone = echo_tf.EchoLayer(d_max=19, seed=5)
alone.build([(None, 3)] * 2)
answers["alone"] = [alone.noise(mean, 0 * mean, training=True).numpy() for _ in range(2)]

def shards():
    sign = 1.0 - 2.0 * tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
    mean = sign * tf.constant([[0.5]] * 20)
    layer([mean, 0.0 * mean], training=True)
    return tf.concat([layer.noise(mean, 0.0 * mean, training=True), layer.reservoir_mean.value], 0)

with split_among(2):
    strategy = tf.distribute.get_strategy()
    layer = echo_tf.EchoLayer(d_max=19, seed=5)
    layer.build([(None, 1)] * 2)
answers["shards"] = [values.tolist() for values in per_replica(shards)]

def pull():
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(0.0 * dense(mean, training=True))
    return tape.gradient(loss, dense.mean_head.kernel.value)

kernels = []
for replicas in (1, 2):
    with split_among(replicas):
        keras.utils.set_random_seed(1)
        dense = echo_tf.EchoDense(2, d_max=19, rate_weight=None)
        dense.build((None, 3))
        strategy = tf.distribute.get_strategy()
        kernels.append(np.sum(per_replica(pull), axis=0).tolist())
answers["pull"] = kernels
"""
    + TRAIN
    + """
answers["trained"] = trained(2)
answers["another"] = trained(2, network={"latent_dim": 16})["predicted"]
print(json.dumps(answers, default=lambda array: array.tolist()))
"""
)

JAX = (
    """
import json
import keras
import echo_tf
"""
    + TRAIN
    + """
print(json.dumps([trained(1), trained(2)]))
"""
)


def answers(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_sound(trained):
    assert trained["floor"] == pytest.approx(-32 * np.log(max_scale(19)))
    assert trained["predicted"] == [80, 32]
    assert [line["epoch"] for line in trained["metrics"]] == [1, 2]
    for line in trained["metrics"]:
        assert line["loss_nats"] == pytest.approx(line["rate_nats"] + line["distortion_nats"], rel=1e-5)
        assert line["rate_nats"] > trained["floor"]


@pytest.mark.slow
def test_replicas_have_noise_and_echoes_of_their_own():
    found = answers(TENSORFLOW)
    noise, alone = np.array(found["noise"]), np.array(found["alone"])
    np.testing.assert_allclose(noise[:, 0], alone, rtol=1e-6)  # the first draws what a single device draws
    draws = [*noise[:, 0], *noise[:, 1]]
    for i, first in enumerate(draws):
        for second in draws[:i]:
            assert np.abs(first - second).max() > 0.1

    # Shards of constant examples: every echo is from the own one, and so is the reservoir.
    r = max_scale(19)
    for sign, values in zip((1, -1), found["shards"], strict=True):
        values = np.array(values)[:, 0]
        np.testing.assert_allclose(values[:20], sign * 0.5 * (1 - r**19) / (1 - r), rtol=1e-5)
        np.testing.assert_allclose(values[20:], sign * 0.5)

    np.testing.assert_allclose(*found["pull"], rtol=1e-5)  # the same data on both replicas, and on a single device
    assert np.abs(found["pull"]).max() > 0
    assert_sound(found["trained"])
    assert found["another"] == [80, 16]  # a second model of other shapes, in the same process


@pytest.mark.jax
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")
def test_on_jax_two_devices_compute_what_one_does():
    one, two = answers(JAX, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert_sound(two)
    for alone, split in zip(one["metrics"], two["metrics"], strict=True):
        assert split["loss_nats"] == pytest.approx(alone["loss_nats"], rel=1e-3)


def test_one_replica_changes_nothing():
    ours, theirs = SeedGenerator(3), keras.random.SeedGenerator(3)
    with split_among(1):
        assert replica_count() == 1
        np.testing.assert_array_equal(ours.next(), theirs.next())
        np.testing.assert_array_equal(ours.next(), theirs.next())


def test_more_replicas_than_devices_are_refused():
    with pytest.raises(ConfigError, match="number of devices"), split_among(99):
        pass


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("vae", {"training": {"replicas": 3}}, "divisor of training.batch_size = 100"),
        ("vae", {"training": {"replicas": 0}}, "at least 1"),
        ("echo_pool", {"training": {"replicas": 2}}, "channel.pool"),
        ("echo", {"training": {"replicas": 2}}, r"`channel.d_max`. Expected at most 49"),
    ],
)
def test_batches_that_cannot_be_split_are_refused(method, options, message):
    with pytest.raises(ConfigError, match=message):
        load_config(method, **options)


def test_echoes_follow_the_share_of_each_replica(reproduce):
    options = reproduce.parse_arguments(["--replicas", "2", "--method", "echo", "vae"])
    echo, vae = reproduce.plan_cells(options)
    assert (echo.config.channel.d_max, echo.config.training.replicas, vae.config.training.replicas) == (49, 2, 2)
    assert "-replicas=2" in str(echo.folder(options.out))
    assert echo.config == load_config(
        "echo", channel={"d_max": 49}, training={"replicas": 2, "epochs": echo.config.training.epochs}
    )
