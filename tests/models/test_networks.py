import keras
import numpy as np
import pytest

from echo_tf.errors import ConfigError
from echo_tf.models.networks import IMAGE_SHAPE, NETWORKS, network_for

CASES = [("conv", (28, 28, 1), 256), ("conv64", (64, 64, 3), 256), ("mlp", (12, 10, 3), 512)]
MORE = [("conv_5x5", (28, 28, 1), 256), ("conv64", (64, 64, 1), 256), ("mlp", (20,), 512), ("mlp", (28, 28, 1), 512)]


def each(cases):
    return pytest.mark.parametrize(("kind", "shape", "features"), cases, ids=lambda value: str(value).replace(" ", ""))


@pytest.fixture(params=["channels_first", "float64", "mixed_bfloat16"])
def odd_settings(request):
    """What a user's keras.json may say."""
    before = keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy()

    def restore():
        keras.config.set_image_data_format(before[0])
        keras.config.set_floatx(before[1])
        keras.config.set_dtype_policy(before[2])

    if request.param == "channels_first":
        keras.config.set_image_data_format("channels_first")
    else:
        keras.config.set_floatx("float64" if request.param == "float64" else "float32")
        keras.config.set_dtype_policy(request.param)
    yield restore
    restore()


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def dtypes(tensors):
    return {keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors}


def examples(shape, n=3):
    return np.random.default_rng(0).uniform(size=(n, *shape)).astype("float32")


@each(CASES + MORE)
def test_shapes(kind, shape, features):
    encoder, decoder = NETWORKS[kind](shape, 7, "float32")
    assert (encoder.input_shape, encoder.output_shape) == ((None, *shape), (None, features))
    assert (decoder.input_shape, decoder.output_shape) == ((None, 7), (None, *shape))
    hidden = numpy(encoder(examples(shape)))
    assert hidden.shape == (3, features) and hidden.min() >= 0  # ReLU
    parameters = numpy(decoder(examples((7,))))
    assert parameters.shape == (3, *shape) and parameters.dtype == np.float32
    assert parameters.min() < 0  # logits


def test_parameters():
    def counts(kind, shape, latent_dim=32):
        return [network.count_params() for network in NETWORKS[kind](shape, latent_dim)]

    encoder = (25 * 32 + 32) + (25 * 32 * 32 + 32) + (25 * 32 * 64 + 64) + (25 * 64 * 64 + 64) + (49 * 64 * 256 + 256)
    decoder = (49 * 32 * 64 + 64) + 2 * (25 * 64 * 64 + 64) + (25 * 64 * 32 + 32) + (25 * 32 * 32 + 32) + (16 * 32 * 32 + 32)
    assert counts("conv", IMAGE_SHAPE) == [encoder, decoder + 16 * 32 + 1]
    assert counts("conv_5x5", IMAGE_SHAPE) == [encoder, decoder + 25 * 32 + 1]
    assert encoder + decoder + 16 * 32 + 1 + 2 * (256 * 32 + 32) == 1_398_849  # with the heads of the channel, as in the paper
    convolutions = 16 * 32 * 32 + 32 + 16 * 32 * 64 + 64 + 16 * 64 * 64 + 64
    for channels in (1, 3):
        encoder = 16 * channels * 32 + 32 + convolutions + 1024 * 256 + 256
        decoder = 10 * 256 + 256 + 256 * 1024 + 1024 + 16 * 64 * 64 + 64 + 16 * 64 * 32 + 32 + 16 * 32 * 32 + 32
        assert counts("conv64", (64, 64, channels), 10) == [encoder, decoder + 16 * 32 * channels + channels]
    hidden = 512 * 512 + 512
    assert counts("mlp", (20,)) == [20 * 512 + 512 + hidden, 32 * 512 + 512 + hidden + 512 * 20 + 20]


@each(CASES)
def test_precision(kind, shape, features):
    encoder, decoder = NETWORKS[kind](shape, 7, "mixed_bfloat16")
    assert {layer.compute_dtype for layer in encoder.layers} == {"bfloat16"}
    *hidden, last = [layer for layer in decoder.layers if layer.weights]
    assert {layer.compute_dtype for layer in hidden} == {"bfloat16"}
    assert last.compute_dtype == "float32"
    assert {weight.dtype for weight in encoder.weights + decoder.weights} == {"float32"}
    assert dtypes([encoder(examples(shape))]) == {"bfloat16"}
    parameters = decoder(examples((7,)))
    assert dtypes([parameters]) == {"float32"}
    exact = NETWORKS[kind](shape, 7, "float32")[1]
    exact.set_weights(decoder.get_weights())
    expected = numpy(exact(examples((7,))))
    np.testing.assert_allclose(parameters, expected, atol=0.03 * np.abs(expected).max())


@each(CASES)
def test_save_and_load(kind, shape, features, tmp_path):
    for network, inputs in zip(NETWORKS[kind](shape, 7, "float32"), (examples(shape), examples((7,))), strict=True):
        network.save(tmp_path / "network.keras")
        loaded = keras.saving.load_model(tmp_path / "network.keras")
        np.testing.assert_array_equal(numpy(network(inputs)), numpy(loaded(inputs)))


@each(CASES)
def test_settings_of_keras_change_nothing(kind, shape, features, odd_settings):
    networks = NETWORKS[kind](shape, 7, "float32")
    inputs = examples(shape), examples((7,))
    outputs = [network(values) for network, values in zip(networks, inputs, strict=True)]
    assert [network.output_shape for network in networks] == [(None, features), (None, *shape)]
    assert dtypes([*networks[0].weights, *networks[1].weights, *outputs]) == {"float32"}
    assert dtypes([*networks[0].inputs, *networks[1].inputs]) == {"float32"}
    odd_settings()
    for network, same, values, found in zip(networks, NETWORKS[kind](shape, 7), inputs, outputs, strict=True):
        same.set_weights(network.get_weights())
        np.testing.assert_array_equal(numpy(same(values)), numpy(found))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((28, 28, 1), "conv"),
        ([28, 28, 1], "conv"),
        ((28, 28, 3), "mlp"),
        ((64, 64, 1), "conv64"),
        ((64, 64, 3), "conv64"),
        ((64, 64), "mlp"),
        ((64, 32, 3), "mlp"),
        ((20,), "mlp"),
    ],
)
def test_networks_for_a_shape(shape, kind):
    assert network_for("auto", shape) == kind
    assert network_for("mlp", shape) == "mlp"
    assert network_for(kind, shape) == kind


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("conv", (64, 64, 1)), ("conv_5x5", (28, 28, 3)), ("conv64", (28, 28, 1)), ("conv64", (4096,)), ("resnet", (28, 28, 1))],
)
def test_networks_that_do_not_fit(kind, shape):
    with pytest.raises(ConfigError, match=rf"network\.kind.*Received: network.kind={kind}.*Use auto"):
        network_for(kind, shape)
    if kind in NETWORKS:
        with pytest.raises(ConfigError):
            NETWORKS[kind](shape, 7)
