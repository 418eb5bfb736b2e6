import numpy as np
import pytest

import echo_tf
from echo_tf.experiments.encodings import GRID, RANGE, image_arrays, latent_map
from echo_tf.experiments.records import LatentMap

DIM = 4


def made(method, shape=(20,)):
    config = echo_tf.load_config(method, network={"latent_dim": DIM}, channel={"d_max": 9}, flow={"hidden_units": 16})
    return echo_tf.build_model(config, shape)


@pytest.fixture
def examples():
    return np.random.default_rng(0).uniform(size=(25, 20)).astype("float32")


@pytest.mark.parametrize("method", ["echo", "echo_matrix", "vae", "vae_full", "iaf"])
def test_arrays_of_every_image(method, examples):
    model = made(method)
    for weight in model.channel.trainable_variables:  # so that no matrix is diagonal
        weight.assign(weight + 0.1)
    labels = np.arange(25)
    arrays = image_arrays(model, examples, labels)
    vectors = {"mean", "scale", "z", "rate_nats"}
    is_matrix = method in ("echo_matrix", "vae_full")
    assert arrays.keys() == vectors | {"distortion_nats", "labels"} | ({"matrix"} if is_matrix else set())
    for name in vectors:
        assert (arrays[name].shape, arrays[name].dtype) == ((25, DIM), np.float32), name
    assert (arrays["distortion_nats"].shape, arrays["labels"].tolist()) == ((25,), labels.tolist())
    if is_matrix:
        assert np.all(np.abs(arrays["matrix"][:, 1, 0]) > 0) and np.all(arrays["matrix"][:, 0, 1] == 0)
        np.testing.assert_array_equal(arrays["scale"], np.diagonal(arrays["matrix"], axis1=1, axis2=2))
    if "echo" in method:
        np.testing.assert_allclose(arrays["rate_nats"], -np.log(arrays["scale"]), rtol=1e-4)
    # The distortion is that of this very draw.
    expected = model.distortion(examples, model.decoder.predict(arrays["z"], verbose=0))
    np.testing.assert_allclose(arrays["distortion_nats"], expected, rtol=1e-5)


def test_arrays_of_a_decoder_that_takes_the_example():
    config = echo_tf.load_config("vae_pixelcnn", network={"latent_dim": DIM})
    images = (np.random.default_rng(0).uniform(size=(25, 4, 4, 1)) > 0.5).astype("float32")
    model = echo_tf.build_model(config, (4, 4, 1))
    arrays = image_arrays(model, images)
    np.testing.assert_allclose(arrays["distortion_nats"], model.distortion_of(arrays["z"], images), rtol=1e-5)


def test_arrays_of_signed_scales(examples):
    config = echo_tf.load_config("echo", network={"latent_dim": DIM}, channel={"d_max": 9, "signed": True})
    model = echo_tf.build_model(config, (20,))
    arrays, (mean, scale) = image_arrays(model, examples), model.channel.encode(model.features(examples))[:2]
    np.testing.assert_allclose(arrays["mean"], mean, rtol=1e-5, atol=1e-6)  # before it is standardised
    np.testing.assert_allclose(arrays["scale"], scale, rtol=1e-5, atol=1e-6)
    assert np.any(arrays["scale"] < 0) and np.any(arrays["scale"] > 0)


def test_map_of_the_two_dimensions_of_highest_rate(examples, tmp_path, monkeypatch):
    model = made("vae", (28, 28, 1))
    images, labels = np.random.default_rng(0).uniform(size=(25, 28, 28, 1)).astype("float32"), np.arange(25) % 3
    bias = model.channel.mean_head.bias
    bias.assign([0.0, 3.0, 0.0, 5.0])
    monkeypatch.setattr(type(model), "decode", lambda self, z: np.repeat(z / 10.0, 196, axis=1).reshape(-1, 28, 28, 1))
    found = latent_map(model, images, labels)
    assert found.dimensions.tolist() == [3, 1] and found.rate_nats[0] > found.rate_nats[1]
    assert found.z.shape == (25, 2) and found.decoded.shape == (GRID, GRID, 28, 28, 1) and found.decoded.dtype == np.uint8
    np.testing.assert_allclose(found.ticks[:, [0, -1]].T, np.quantile(found.z, RANGE, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.labels, labels)
    # Picture (i, j) is decoded from value i of the second dimension and value j of the first: rows 7 to 13 show dimension 1.
    np.testing.assert_allclose(found.decoded[:, 0, 8, 0, 0], np.clip(25.5 * found.ticks[1], 0, 255), atol=0.51)
    np.testing.assert_allclose(found.decoded[0, :, 22, 0, 0], np.clip(25.5 * found.ticks[0], 0, 255), atol=0.51)
    found.save(tmp_path / "map.npz")
    for name, value in vars(LatentMap.load(tmp_path / "map.npz")).items():
        np.testing.assert_array_equal(value, getattr(found, name))


def test_without_labels(examples):
    model = made("echo")
    assert "labels" not in image_arrays(model, examples)
    assert latent_map(model, examples).labels.shape == (0,)
