"""Encoders and decoders by kind: the paper's for 28x28 images, a usual one for 64x64, dense ones, and a PixelCNN decoder."""

import functools
import math
from collections.abc import Callable

import keras
from keras import layers

from echo_tf.errors import ConfigError
from echo_tf.models.pixel_cnn import CHANNELS_LAST, PixelCNN

IMAGE_SHAPE = (28, 28, 1)  # of all data sets of the paper
Networks = tuple[keras.Sequential, keras.Model]


def _models(shape: tuple[int, ...], latent_dim: int, encoder: list, decoder: list) -> Networks:
    return (
        keras.Sequential([keras.Input(shape, dtype="float32"), *encoder], name="encoder"),
        keras.Sequential([keras.Input((latent_dim,), dtype="float32"), *decoder], name="decoder"),
    )


def conv(shape: tuple[int, ...], latent_dim: int, dtype: str = "float32", last_kernel: int = 4) -> Networks:
    """The paper's networks: five convolutions from an image to 256 features; seven, six of them transposed, from `z` to logits.

    ReLU throughout, but for the last layer. The heads for mean and scale belong to the channel.

    Args:
        shape: Shape of one image, `(28, 28, 1)`.
        latent_dim: Dimension of `z`.
        dtype: Keras dtype policy of all layers but the decoder's last.
        last_kernel: Size of the decoder's last convolution: 4 in the paper, 5 (kind `conv_5x5`) in the released code.

    Returns:
        `(encoder, decoder)`: images of shape `(batch, 28, 28, 1)` to features `(batch, 256)`, and `z` of shape
        `(batch, latent_dim)` to float32 parameters `(batch, 28, 28, 1)`.

    Raises:
        ConfigError: another `shape`.

    Source: paper, appendix (architecture), the same as Alemi et al. 2018. Differs from the released code, whose last
        convolution is 5x5 and ends in a sigmoid.
    """
    network_for("conv", shape)
    relu = {"activation": "relu", "dtype": dtype, **CHANNELS_LAST}
    encoder = [
        layers.Conv2D(32, 5, padding="same", **relu),
        layers.Conv2D(32, 5, strides=2, padding="same", **relu),
        layers.Conv2D(64, 5, padding="same", **relu),
        layers.Conv2D(64, 5, strides=2, padding="same", **relu),
        layers.Conv2D(256, 7, **relu),
        layers.Flatten(dtype=dtype, **CHANNELS_LAST),
    ]
    decoder = [
        layers.Reshape((1, 1, latent_dim), dtype=dtype),
        layers.Conv2DTranspose(64, 7, **relu),
        layers.Conv2DTranspose(64, 5, padding="same", **relu),
        layers.Conv2DTranspose(64, 5, strides=2, padding="same", **relu),
        layers.Conv2DTranspose(32, 5, padding="same", **relu),
        layers.Conv2DTranspose(32, 5, strides=2, padding="same", **relu),
        layers.Conv2DTranspose(32, 4, padding="same", **relu),
        # bfloat16 has 8 bits, and the distortion sums 784 of these.
        layers.Conv2D(1, last_kernel, padding="same", dtype="float32", **CHANNELS_LAST),
    ]
    return _models(shape, latent_dim, encoder, decoder)


def conv64(shape: tuple[int, ...], latent_dim: int, dtype: str = "float32") -> Networks:
    """Networks for 64x64 images, usual for disentanglement: four 4x4 convolutions of stride 2, a dense layer, and the mirror.

    Args:
        shape: Shape of one image, `(64, 64, channels)`.
        latent_dim: Dimension of `z`.
        dtype: Keras dtype policy of all layers but the decoder's last.

    Returns:
        `(encoder, decoder)` as of `conv`, with 256 features and parameters of shape `(batch, 64, 64, channels)`.

    Raises:
        ConfigError: another `shape`.

    Source: Higgins et al. 2017 (beta-VAE), appendix, the networks for CelebA.
    """
    network_for("conv64", shape)
    relu = {"activation": "relu", "dtype": dtype}
    strided = {"kernel_size": 4, "strides": 2, "padding": "same", **CHANNELS_LAST}
    encoder = [
        *(layers.Conv2D(filters, **strided, **relu) for filters in (32, 32, 64, 64)),
        layers.Flatten(dtype=dtype, **CHANNELS_LAST),
        layers.Dense(256, **relu),
    ]
    decoder = [
        layers.Dense(256, **relu),
        layers.Dense(4 * 4 * 64, **relu),
        layers.Reshape((4, 4, 64), dtype=dtype),
        *(layers.Conv2DTranspose(filters, **strided, **relu) for filters in (64, 32, 32)),
        layers.Conv2DTranspose(shape[-1], **strided, dtype="float32"),
    ]
    return _models(shape, latent_dim, encoder, decoder)


def mlp(shape: tuple[int, ...], latent_dim: int, dtype: str = "float32", units: int = 512) -> Networks:
    """Dense networks for vectors and for images of any shape: two hidden layers of `units` ReLU each way.

    Args:
        shape: Shape of one example.
        latent_dim: Dimension of `z`.
        dtype: Keras dtype policy of all layers but the decoder's last.
        units: Width of the hidden layers, and number of features.

    Returns:
        `(encoder, decoder)` as of `conv`, with `units` features and parameters of shape `(batch, *shape)`.
    """
    relu = {"activation": "relu", "dtype": dtype}
    encoder = [
        layers.Flatten(dtype=dtype, **CHANNELS_LAST),
        layers.Dense(units, **relu),
        layers.Dense(units, **relu),
    ]
    decoder = [
        layers.Dense(units, **relu),
        layers.Dense(units, **relu),
        layers.Dense(math.prod(shape), dtype="float32"),
        layers.Reshape(shape, dtype="float32"),
    ]
    return _models(shape, latent_dim, encoder, decoder)


def pixelcnn(shape: tuple[int, ...], latent_dim: int, dtype: str = "float32") -> Networks:
    """The encoder of `mlp`, and a `PixelCNN` decoder, which also sees the pixels before the one it describes.

    Args:
        shape: Shape of one image, `(height, width, 1)`.
        latent_dim: Dimension of `z`.
        dtype: Keras dtype policy of all layers but the decoder's last.

    Returns:
        `(encoder, decoder)` as of `mlp`, but that the decoder is called with `[z, x]`.

    Raises:
        ConfigError: another `shape`.
    """
    network_for("pixelcnn", shape)
    return mlp(shape, latent_dim, dtype)[0], PixelCNN(shape, latent_dim, dtype=dtype)


NETWORKS: dict[str, Callable[..., Networks]] = {
    "conv": conv,
    "conv_5x5": functools.partial(conv, last_kernel=5),  # the last convolution as in the released code
    "conv64": conv64,
    "mlp": mlp,
    "pixelcnn": pixelcnn,
}


def network_for(kind: str, shape: tuple[int, ...]) -> str:
    """Kind of networks for examples of a shape: the named one, or for `"auto"` that which is made for the shape.

    Args:
        kind: A key of `NETWORKS`, or `"auto"`: `conv` for `(28, 28, 1)`, `conv64` for `(64, 64, channels)`, else `mlp`.
        shape: Shape of one example, without the axis of the batch.

    Raises:
        ConfigError: no such kind, or one that is made for another shape.
    """
    made_for = {"conv": tuple(shape) == IMAGE_SHAPE, "conv64": len(shape) == 3 and tuple(shape[:2]) == (64, 64), "mlp": True}
    made_for["pixelcnn"] = len(shape) == 3 and shape[2] == 1  # never by itself: it samples pixel by pixel
    if kind == "auto":
        return next(name for name, fits in made_for.items() if fits)
    if kind not in NETWORKS or not made_for[kind.removesuffix("_5x5")]:
        raise ConfigError(
            "Invalid value received for argument `network.kind`. Expected auto, mlp (any shape), conv or conv_5x5 (28, 28, 1), "
            f"conv64 (64, 64, channels), or pixelcnn (height, width, 1). Received: network.kind={kind} for examples of shape "
            f"{tuple(shape)}. Use auto."
        )
    return kind
