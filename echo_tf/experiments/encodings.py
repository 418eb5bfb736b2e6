"""What a trained model makes of single images: their signal, scale, rate and code, and a map of two dimensions of the code."""

import keras
import numpy as np
from keras import ops

from echo_tf.experiments.analysis import rate_by_dimension
from echo_tf.experiments.records import LatentMap

GRID = 12  # pictures on a side of a map
RANGE = (0.01, 0.99)  # quantiles of z between which they lie


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images of values from 0 to 1 as they are stored, 255 for 1; what a decoder gives beyond is cut off."""
    return np.rint(255.0 * np.clip(images, 0.0, 1.0)).astype(np.uint8)


def image_arrays(model: keras.Model, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Arrays with a row for every image, float32 unless it says otherwise; `n` images, `m` dimensions of `z`.

    Args:
        model: A trained `RateDistortionModel`.
        images: float32, shape `(n, ...)`.
        labels: Integers of shape `(n,)`, or `None`.

    Returns:
        By name:

        - `mean`, `(n, m)`: signal. Of Echo `f(x)`, before any standardisation; of others the mean of `q(z|x)`.
        - `scale`, `(n, m)`: scale of the noise, in the unit of `mean`. Of Echo the diagonal of `S(x)` with `r`, and with its
          sign; of others the standard deviation of `q(z|x)`, or the diagonal of the factor `L` of its covariance `L L'`.
        - `matrix`, `(n, m, m)`: all of `S(x)` or `L`; only where they are no diagonal matrices.
        - `z`, `(n, m)`: one draw, as the decoder sees it.
        - `rate_nats`, `(n, m)`: rate by dimension in nats. `sum_j` is the rate of an image, unless the marginal was learnt or
          the channel has a flow; see `GaussianChannel.rate_per_dimension`.
        - `distortion_nats`, `(n,)`: `-log p(x|z)` at that draw, in nats.
        - `labels`, `(n,)`, integers: only where there are any.

        With a flow, `mean` and `scale` are those before it.
    """
    channel, features = model.channel, model.features(images)
    mean, scale = channel.mean_and_scale(features)
    matrix = channel.scale_matrix(features)
    draw = channel.draw(features)
    distortion = model.distortion_of(draw.z, images)
    arrays = {
        "mean": mean,
        "scale": scale if matrix is None else ops.diagonal(matrix, axis1=-2, axis2=-1),
        **({} if matrix is None else {"matrix": matrix}),
        "z": draw.z,
        "rate_nats": channel.rate_per_dimension(features),
        "distortion_nats": distortion,
    }
    arrays = {name: ops.convert_to_numpy(values).astype(np.float32) for name, values in arrays.items()}
    return arrays if labels is None else {**arrays, "labels": labels}


def latent_map(model: keras.Model, images: np.ndarray, labels: np.ndarray | None = None) -> LatentMap:
    """Codes of images in the two dimensions of highest rate, and what the decoder makes of these.

    The pictures lie on a grid of `GRID` by `GRID` points between the `RANGE` of the codes; all other dimensions are at their
    mean over the images.

    Args:
        model: A trained `RateDistortionModel` with two dimensions of `z` or more.
        images: float32, shape `(n, ...)`.
        labels: Integers of shape `(n,)`, or `None`.

    Source: the original's `plot_2d`, which is for two dimensions.
    """
    channel, features = model.channel, model.features(images)
    rates = rate_by_dimension(channel, features)
    dimensions = np.argsort(-rates, kind="stable")[:2]
    z = ops.convert_to_numpy(channel.draw(features).z)
    low, high = np.quantile(z[:, dimensions], RANGE, axis=0)
    ticks = np.linspace(low, high, GRID, axis=-1)  # (2, GRID)
    codes = np.tile(z.mean(axis=0), (GRID, GRID, 1))  # (second dimension, first dimension, dim)
    codes[..., dimensions[0]], codes[..., dimensions[1]] = ticks[0][None, :], ticks[1][:, None]
    decoded = as_uint8(model.decode(codes.reshape(-1, z.shape[1])))
    return LatentMap(
        dimensions=dimensions,
        rate_nats=rates[dimensions],
        z=z[:, dimensions],
        labels=np.empty(0, int) if labels is None else labels,
        ticks=ticks,
        decoded=decoded.reshape(GRID, GRID, *decoded.shape[1:]),
    )
