"""A decoder that also sees the pixels before the one it describes: a small gated PixelCNN, conditioned on `z`."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from scipy.special import expit

from echo_tf.echo.checks import Tensor

CHANNELS_LAST = {"data_format": "channels_last"}  # whatever keras.json says


def _padded(x: Tensor, axis: int, before: int, shift: bool = False) -> Tensor:
    """`x` with zeros in front of an axis; with `shift` as many entries fall off its end as make it one shorter."""
    pads = [(0, 0)] * 4
    pads[axis] = (before + shift, 0)
    padded = ops.pad(x, pads)
    return ops.take(padded, ops.arange(padded.shape[axis] - 1), axis=axis) if shift else padded


@keras.saving.register_keras_serializable(package="echo_tf")
class GatedConvolution(layers.Layer):
    """Two stacks of features, `tanh(a) * sigmoid(b)` each, that never see the pixel at which they stand.

    The vertical stack sees the rows above it, the horizontal one what is left of it in its row, and the vertical one. Zeros in
    front of rows and columns, in the place of masks, keep out what comes later: the first layer moves its input by one
    (mask A), the others do not (mask B).

    Args:
        filters: Integer, features of each stack.
        kernel: Odd integer, width of the vertical convolution; it and the horizontal one reach `kernel // 2` further.
        first: Boolean, whether the input is the image.

    Call arguments:
        vertical, horizontal: Shape `(batch, height, width, features)`; the image twice for the first layer.
        maps: What `z` says at each pixel, shape `(batch, height, width, maps)`.

    Call returns: the two stacks, of shape `(batch, height, width, filters)`.

    Source: van den Oord et al. 2016, figure 2. Differs: the vertical stack has a residual connection too.
    """

    def __init__(self, filters: int, kernel: int, first: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel, self.first = filters, kernel, first
        policy, reach = {"dtype": self.dtype_policy, **CHANNELS_LAST}, kernel // 2 + 1
        self.down = layers.Conv2D(2 * filters, (reach, kernel), name="down", **policy)
        self.along = layers.Conv2D(2 * filters, (1, reach), name="along", **policy)
        self.across = layers.Conv2D(2 * filters, 1, name="across", **policy)
        self.condition = layers.Conv2D(4 * filters, 1, use_bias=False, name="condition", **policy)
        self.mix = layers.Conv2D(filters, 1, name="mix", **policy)

    def build(self, vertical_shape, horizontal_shape, maps_shape):
        both, inputs = 2 * self.filters, {self.down: vertical_shape[-1], self.along: horizontal_shape[-1]}
        for layer, features in {**inputs, self.across: both, self.condition: maps_shape[-1], self.mix: self.filters}.items():
            layer.build((None, None, None, features))  # images of any size

    def call(self, vertical, horizontal, maps):
        half = self.kernel // 2
        rows = ops.pad(vertical, [(0, 0), (0, 0), (half, half), (0, 0)])
        for_vertical, for_horizontal = ops.split(self.condition(maps), 2, axis=-1)
        above = self.down(_padded(rows, 1, half, self.first)) + for_vertical
        left = self.along(_padded(horizontal, 2, half, self.first)) + self.across(above) + for_horizontal
        new_vertical, new_horizontal = _gate(above), self.mix(_gate(left))
        if self.first:
            return new_vertical, new_horizontal
        return vertical + new_vertical, horizontal + new_horizontal

    def compute_output_shape(self, vertical_shape, horizontal_shape, maps_shape):
        return (*vertical_shape[:-1], self.filters), (*horizontal_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "kernel": self.kernel, "first": self.first}


def _gate(features: Tensor) -> Tensor:
    value, gate = ops.split(features, 2, axis=-1)
    return ops.tanh(value) * ops.sigmoid(gate)


@keras.saving.register_keras_serializable(package="echo_tf")
class PixelCNN(keras.Model):
    """Autoregressive decoder of binary images: `p(x|z) = prod_i p(x_i | x_1, ..., x_{i-1}, z)`, pixels row by row.

    Called with `[z, x]` it gives the log odds of all pixels in one pass, each made from `z` and the pixels *before* it in `x`.
    Such a decoder can describe an image without `z`. So a VAE with it may send nothing at all, while Echo cannot send less than
    its floor. Whether the decoder listens is another question: see the experiment `freeriding`.

    Grey pixels are taken as well. Then `-log p(x|z)` is a cross-entropy and no likelihood, as everywhere with Bernoulli pixels,
    and the binary images that `sample` draws do not look like the data.

    Args:
        shape: Shape of an image, `(height, width, 1)`.
        latent_dim: Dimension of `z`.
        filters: Integer, features of each of the two stacks.
        depth: Integer, number of gated layers. Each reaches `kernel // 2` pixels further; by default all of 8x8
            is seen.
        kernel: Odd integer, width of the convolutions.
        maps: Integer; two dense layers turn `z` into so many numbers for each pixel, which every gate sees.
        units: Integer, width of the first of them.
        seed: Integer or `None`, seeds what `sample` draws.
        dtype: Keras dtype policy of all layers but the last.

    Call arguments: `z`, shape `(batch, latent_dim)`, and `x`, shape `(batch, height, width, 1)`, in one list.

    Call returns: float32 log odds, the shape of `x`.

    Raises:
        ValueError: images of another kind, an even kernel, or a number below 1.

    Source: van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders". Differs: `z` enters by a map, one
        bias for each channel and pixel, in the place of one for each channel; and see `GatedConvolution`.

    Example:
        >>> decoder = PixelCNN((4, 4, 1), latent_dim=2, filters=8, depth=2)
        >>> z, x = np.zeros((3, 2), "float32"), np.ones((3, 4, 4, 1), "float32")
        >>> decoder([z, x]).shape == (3, 4, 4, 1), decoder.sample(z).shape
        (True, (3, 4, 4, 1))
    """

    takes_example = True  # is called with `[z, x]`, and `sample` draws from it

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        *,
        filters: int = 24,
        depth: int = 3,
        kernel: int = 5,
        maps: int = 8,
        units: int = 256,
        seed: int | None = None,
        dtype: str = "float32",
        name: str = "decoder",
    ):
        shape = tuple(shape)
        if len(shape) != 3 or shape[2] != 1:
            raise ValueError(f"Invalid value received for argument `shape`. Expected (height, width, 1). Received: {shape}")
        sizes = {"filters": filters, "depth": depth, "kernel": kernel, "maps": maps, "units": units, "latent_dim": latent_dim}
        for size, value in sizes.items():
            if value < 1 or (size == "kernel" and value % 2 == 0):
                kind = "an odd integer" if size == "kernel" else "an integer"
                raise ValueError(f"Invalid value received for argument `{size}`. Expected {kind} >= 1. Received: {value}")
        z, x = keras.Input((latent_dim,), dtype="float32"), keras.Input(shape, dtype="float32")
        spread = layers.Dense(units, "relu", dtype=dtype)(z)
        spread = layers.Dense(shape[0] * shape[1] * maps, dtype=dtype)(spread)
        spread = layers.Reshape((*shape[:2], maps), dtype=dtype)(spread)
        vertical = horizontal = x
        for i in range(depth):
            vertical, horizontal = GatedConvolution(filters, kernel, first=i == 0, dtype=dtype)(vertical, horizontal, spread)
        hidden = layers.Conv2D(filters, 1, activation="relu", dtype=dtype, **CHANNELS_LAST)(horizontal)
        super().__init__([z, x], layers.Conv2D(1, 1, dtype="float32", **CHANNELS_LAST)(hidden), name=name)
        self.settings: dict[str, Any] = {"shape": shape, **sizes, "seed": seed, "dtype": dtype, "name": name}
        self.seed_generator = keras.random.SeedGenerator(seed)

    def sample(self, z: Tensor, seed: int | None = None) -> np.ndarray:
        """One image of 0 and 1 for each `z`, drawn pixel by pixel; as many passes as an image has pixels.

        Args:
            z: Shape `(n, latent_dim)`.
            seed: Integer, for the same draws every time; `None` for the decoder's own generator.

        Returns:
            float32, shape `(n, height, width, 1)`.
        """
        z = ops.convert_to_numpy(z).astype("float32")
        height, width, _ = self.settings["shape"]
        images = np.zeros((len(z), height, width, 1), "float32")
        generator = self.seed_generator if seed is None else seed
        uniform = ops.convert_to_numpy(keras.random.uniform(images.shape, dtype="float32", seed=generator))
        for row, column in np.ndindex(height, width):
            log_odds = self.predict_on_batch([z, images])[:, row, column]
            images[:, row, column] = uniform[:, row, column] < expit(log_odds)
        return images

    def get_config(self):
        return {**self.settings, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        decoder = cls(**{name: value for name, value in config.items() if name != "trainable"})
        if not config.get("trainable", True):
            decoder.trainable = False
        return decoder
