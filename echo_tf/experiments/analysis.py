"""What the paper shows of a trained model beside rate and distortion: law of the noise, marginals, pointwise information."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops
from scipy.stats import gaussian_kde

from echo_tf.echo.layers_old import EchoDense, gather_noise
from echo_tf.experiments.evaluation import evaluate
from echo_tf.models.losses import gaussian_kl

# Paper, figure 6.
MARGINAL_SAMPLES = 500
SHOWN_DIMENSIONS = 9

NOISE_DRAWS = 20_000
BOOTSTRAPS = 200
_CHUNK = 500  # draws of noise at a time; each takes d_max encodings


@dataclass(frozen=True)
class Analysis:
    """Analysis of one model on one set of images.

    Attributes:
        rate_by_dimension_nats: Mean rate of every latent dimension, `(dim,)`. See `rate_by_dimension`.
        shown: Indices of the dimensions with the largest rates, in falling order, `(shown,)`.
        grid: Values of `z` in each of them, `(shown, points)`.
        density: Their marginal density there, `(shown, points)`.
        pointwise_rate_nats: Rate of every image, `(n,)`.
        pointwise_distortion_nats: `-log p(x|z)` of every image, `(n,)`.
        mean_norm: Euclidean norm of the mean of `z`, `f(x)` for Echo, `(n,)`.
        scale_norm: Euclidean norm of the standard deviation of `z`, of `s(x)` for Echo, `(n,)`.
        total_correlation_nats: That of Echo noise and its standard error, `(2,)`; empty for other channels.
        noise_draws: Number of draws behind it.
    """

    rate_by_dimension_nats: np.ndarray
    shown: np.ndarray
    grid: np.ndarray
    density: np.ndarray
    pointwise_rate_nats: np.ndarray
    pointwise_distortion_nats: np.ndarray
    mean_norm: np.ndarray
    scale_norm: np.ndarray
    total_correlation_nats: np.ndarray
    noise_draws: np.ndarray

    def save(self, path: Path) -> None:
        """Write a `.npz` file."""
        np.savez_compressed(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Analysis":
        """The inverse of `save`. Raises `ValueError` or `KeyError` for a file that is no analysis."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


def analyse(model: keras.Model, images: np.ndarray, *, batch_size: int = 100, passes: int = 5, seed: int = 0) -> Analysis:
    """Analyse a trained model.

    Args:
        model: A trained `RateDistortionModel`.
        images: float32 in [0, 1], shape `(n, 28, 28, 1)`.
        batch_size, passes: As in `evaluate`, for the pointwise quantities, which are means over the passes.
        seed: Integer, seeds what is drawn here.

    Returns:
        The `Analysis`.

    Source: paper, figures 6 to 8 and table 1 (appendix); nothing of this was released.
    """
    features = model.encoder.predict(images, verbose=0)
    mean, scale = (ops.convert_to_numpy(values) for values in _mean_and_scale(model, features))
    rates = rate_by_dimension(model.channel, features)
    shown = np.argsort(-rates)[:SHOWN_DIMENSIONS]
    samples = np.stack([_draw(model, features)[:, shown] for _ in range(MARGINAL_SAMPLES)])  # (samples, n, shown)
    marginals = [marginal_density(samples[:, :, i].ravel()) for i in range(len(shown))]
    pointwise = evaluate(model, images, batch_size=batch_size, passes=passes, seed=seed)
    correlation = np.empty(0)
    if isinstance(model.channel, EchoDense):
        noise = noise_samples(model.channel, features, NOISE_DRAWS, batch_size, seed)
        correlation = np.array(total_correlation(noise, seed))
    return Analysis(
        rate_by_dimension_nats=rates,
        shown=shown,
        grid=np.array([grid for grid, _ in marginals]),
        density=np.array([density for _, density in marginals]),
        pointwise_rate_nats=pointwise.rate.mean(axis=0),
        pointwise_distortion_nats=pointwise.distortion.mean(axis=0),
        mean_norm=np.linalg.norm(mean, axis=-1),
        scale_norm=np.linalg.norm(scale, axis=-1),
        total_correlation_nats=correlation,
        noise_draws=np.array(NOISE_DRAWS),
    )


def _mean_and_scale(model: keras.Model, features: np.ndarray) -> tuple:
    """`f(x)` and `s(x)` of Echo, mean and standard deviation of the others; with a flow those before it."""
    mean, spread = model.channel.statistics(features)
    if isinstance(model.channel, EchoDense):
        return mean, ops.exp(spread + model.channel.echo.log_max_scale)
    return mean, ops.exp(0.5 * spread)


def _draw(model: keras.Model, features: np.ndarray) -> np.ndarray:
    """One draw of `z` for each image, all images together being the batch."""
    return ops.convert_to_numpy(model.channel(features))


def rate_by_dimension(channel: keras.layers.Layer, features: np.ndarray) -> np.ndarray:
    """Mean rate of every latent dimension in nats, shape `(dim,)`, for the features of some images, shape `(n, features)`.

    Echo: `-E log s_j`, which cannot be below the floor `-log r`. Other channels: the divergence of the Gaussian from N(0, 1) in
    that dimension, which sums to the rate where that is the marginal. With a flow it is that of the dimension before the flow,
    and with a learned marginal it is no share of the rate: there it only serves to put dimensions in order.
    """
    first, second = channel.statistics(features)
    if isinstance(channel, EchoDense):
        return -np.mean(ops.convert_to_numpy(second), axis=0, dtype=np.float64) - channel.echo.log_max_scale
    by_dimension = gaussian_kl(ops.expand_dims(first, -1), ops.expand_dims(second, -1))
    return np.mean(ops.convert_to_numpy(by_dimension), axis=0, dtype=np.float64)


def marginal_density(values: np.ndarray, points: int = 400, bins: int = 4_000) -> tuple[np.ndarray, np.ndarray]:
    """Kernel density estimate of one dimension.

    Gaussian kernel, bandwidth by Scott's rule, `n^(-1/5)` standard deviations. The samples are binned first: millions of
    them cost what `bins` do, and the bins are far narrower than the kernel.

    Args:
        values: Samples, shape `(n,)`.
        points: Number of points of the grid.
        bins: Number of bins.

    Returns:
        `(grid, density)`, each of shape `(points,)`; the grid reaches five bandwidths beyond the samples.

    Source: paper, figure 6 (kernel and rule).
    """
    values = np.asarray(values, np.float64)
    factor = len(values) ** -0.2
    counts, edges = np.histogram(values, bins)
    kernel = gaussian_kde(0.5 * (edges[1:] + edges[:-1]), bw_method=factor, weights=counts)
    margin = 5.0 * factor * values.std()
    grid = np.linspace(values.min() - margin, values.max() + margin, points)
    return grid, kernel(grid)


def noise_samples(channel: EchoDense, features: np.ndarray, draws: int, batch_size: int, seed: int = 0) -> np.ndarray:
    """Independent draws of the noise of a trained channel, each from the echoes of a batch of its own.

    Args:
        channel: The Echo channel.
        features: Of the images whose encodings are the echoes. Shape `(n, features)`, n >= batch_size.
        draws: Number of draws.
        batch_size: Examples of a batch. With replacement echoes are drawn from all of it, else from all but one.
        seed: Integer.

    Returns:
        Noise `e` as the channel adds it, before any standardisation. Shape `(draws, dim)`.
    """
    rng = np.random.default_rng(seed)
    mean, log_scale = channel.statistics(features)
    if channel.parametrisation == "centred":
        mean = mean - ops.mean(mean, axis=0)
    log_scale = log_scale + channel.echo.log_max_scale
    d_max = channel.echo.d_max
    noise = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        batches = np.array([rng.choice(len(features), batch_size, replace=False) for _ in range(count)])
        if channel.echo.replace:
            orders = np.take_along_axis(batches, rng.integers(0, batch_size, (count, d_max)), axis=1)
        else:
            orders = batches[:, :d_max]
        noise.append(ops.convert_to_numpy(gather_noise(mean, log_scale, orders, d_max)))
    return np.concatenate(noise)


def total_correlation(samples: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Total correlation of the dimensions, to second order, with its standard error.

    `-1/2 log det C` of the sample correlation matrix `C`, less `m (m - 1) / (4 N)`, its bias for `N` samples of `m` independent
    Gaussians. For Gaussians it is `sum_j h(e_j) - h(e)`; for others what their second moments say.

    Args:
        samples: Independent samples, shape `(N, m)`, N > m.
        seed: Integer, for the bootstrap.

    Returns:
        `(estimate, standard error)` in nats; the error is that of `BOOTSTRAPS` bootstrap replications.

    Raises:
        ValueError: no more samples than dimensions.

    Source: paper, appendix, table 1 (second-order approximation).
    """
    count, dim = samples.shape
    if count <= dim:
        raise ValueError(f"Expected more samples than dimensions. Received: {count} samples of {dim} dimensions")

    def estimate(rows):
        return -0.5 * np.linalg.slogdet(np.corrcoef(rows, rowvar=False))[1]

    rng = np.random.default_rng(seed)
    replications = [estimate(samples[rng.integers(0, count, count)]) for _ in range(BOOTSTRAPS)]
    return estimate(samples) - dim * (dim - 1) / (4 * count), float(np.std(replications, ddof=1))


def by_likelihood(distortion: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Arrays of shape `(n,)` sorted so that the image with the largest conditional likelihood, `-distortion`, comes first."""
    order = np.argsort(distortion, kind="stable")
    return [array[order] for array in (distortion, *values)]
