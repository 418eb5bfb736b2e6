"""The paper's convolutional encoder and decoder for 28x28 images, chosen by name in a configuration."""

import functools
from collections.abc import Callable

import keras
from keras import layers

IMAGE_SHAPE = (28, 28, 1)


def conv_encoder(dtype: str = "float32") -> keras.Sequential:
    """The paper's encoder: five convolutions from an image to 256 features.

    Input `(batch, 28, 28, 1)`, output `(batch, 256)`, ReLU throughout. The two heads belong to the channel. `dtype` is a
    Keras dtype policy.

    Source: paper, appendix (architecture), the same as Alemi et al. 2018.
    """
    relu = {"activation": "relu", "dtype": dtype}
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            layers.Conv2D(32, 5, padding="same", **relu),
            layers.Conv2D(32, 5, strides=2, padding="same", **relu),
            layers.Conv2D(64, 5, padding="same", **relu),
            layers.Conv2D(64, 5, strides=2, padding="same", **relu),
            layers.Conv2D(256, 7, **relu),
            layers.Flatten(dtype=dtype),
        ],
        name="encoder",
    )


def conv_decoder(latent_dim: int, dtype: str = "float32", last_kernel: int = 4) -> keras.Sequential:
    """The paper's decoder: six transposed convolutions and a last convolution, from `z` to pixel logits.

    Input `(batch, latent_dim)`, output `(batch, 28, 28, 1)` float32 logits, ReLU in between. `dtype` is a Keras dtype
    policy for all but the last layer. `last_kernel` is the size of the last convolution, 4 in the paper.

    Source: paper, appendix (architecture). Differs from the released code, whose last convolution is 5x5 and ends in a
        sigmoid.
    """
    relu = {"activation": "relu", "dtype": dtype}
    return keras.Sequential(
        [
            keras.Input((latent_dim,)),
            layers.Reshape((1, 1, latent_dim), dtype=dtype),
            layers.Conv2DTranspose(64, 7, **relu),
            layers.Conv2DTranspose(64, 5, padding="same", **relu),
            layers.Conv2DTranspose(64, 5, strides=2, padding="same", **relu),
            layers.Conv2DTranspose(32, 5, padding="same", **relu),
            layers.Conv2DTranspose(32, 5, strides=2, padding="same", **relu),
            layers.Conv2DTranspose(32, 4, padding="same", **relu),
            # bfloat16 has 8 bits, and the distortion sums 784 of these.
            layers.Conv2D(1, last_kernel, padding="same", dtype="float32"),
        ],
        name="decoder",
    )


ENCODERS: dict[str, Callable[..., keras.Model]] = {"conv": conv_encoder}
DECODERS: dict[str, Callable[..., keras.Model]] = {
    "conv": conv_decoder,
    "conv_5x5": functools.partial(conv_decoder, last_kernel=5),  # the last convolution as in the released code
}
