"""Layers that are frozen stay so where they are loaded, cloned, or made frozen."""

import keras
import numpy as np
import pytest

from echo_tf.echo.dense import EchoDense
from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.channels import FullGaussianChannel, GaussianChannel, IAFChannel
from echo_tf.models.pixel_cnn import PixelCNN
from echo_tf.models.priors import MAFPrior

CHANNELS = {
    "echo": lambda **options: EchoDense(3, d_max=9, **options),
    "echo_matrix": lambda **options: MatrixEchoDense(3, d_max=9, **options),
    "gaussian": lambda **options: GaussianChannel(3, **options),
    "gaussian_full": lambda **options: FullGaussianChannel(3, **options),
    "iaf": lambda **options: IAFChannel(3, 2, (4,), **options),
}


def around(channel):
    inputs = keras.Input((6,))
    return keras.Model(inputs, channel(keras.layers.Dense(5)(inputs)))


def trained_paths(model):
    return [variable.path for variable in model.trainable_variables]


@pytest.mark.parametrize("make", CHANNELS.values(), ids=CHANNELS)
def test_channels(make, tmp_path):
    model = around(make(name="channel"))
    model.get_layer("channel").trainable = False
    model.save(tmp_path / "model.keras")
    copies = [keras.saving.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)]
    for copy in (model, *copies, around(make(trainable=False))):
        assert len(trained_paths(copy)) == 2, trained_paths(copy)  # the dense layer alone
    copies[0].get_layer("channel").trainable = True
    assert len(trained_paths(copies[0])) == len(trained_paths(around(make())))


@pytest.mark.parametrize("train_flow", [True, False])
def test_flows(train_flow, tmp_path):
    networks = (keras.Sequential([keras.Input(shape), keras.layers.Dense(6)]) for shape in ((6,), (3,)))
    channel, prior = IAFChannel(3, 2, (4,), train_flow=train_flow), MAFPrior(3, 2, (4,), train_flow=train_flow)
    model = RateDistortionModel(*networks, channel, prior=prior)
    model.build((None, 6))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = IAFChannel(3, 2, (4,))
    again.flow.trainable = False  # later
    assert not again.get_config()["train_flow"]
    of_flows = 2 * 2 * 4  # of each two networks with four arrays
    for copy in (model, loaded):
        assert len(trained_paths(copy)) == 2 + 2 + 4 + (of_flows if train_flow else 0)


def test_decoders_that_take_the_example(tmp_path):
    decoder = PixelCNN((3, 4, 1), 2, filters=2, depth=2)
    decoder.trainable = False
    decoder.save(tmp_path / "decoder.keras")
    loaded = keras.saving.load_model(tmp_path / "decoder.keras")
    assert not loaded.trainable_variables and loaded.get_config() == decoder.get_config()
    inputs = np.zeros((2, 2), "float32"), np.zeros((2, 3, 4, 1), "float32")
    np.testing.assert_array_equal(loaded(inputs), decoder(inputs))
