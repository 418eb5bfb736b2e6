"""What the paper shows of a trained model beside rate and distortion: law of the noise, marginals, pointwise information."""

import keras
import numpy as np
from keras import ops
from scipy.stats import gaussian_kde

from echo_tf.experiments.evaluation import evaluate
from echo_tf.experiments.records import Analysis

# Paper, figure 6.
MARGINAL_SAMPLES = 500
HIGHEST, LOWEST = 6, 3  # dimensions by their rates: the paper's are six of high rate, two of low and one of minimal

GRID_POINTS, BINS = 400, 4_000  # of a marginal density

NOISE_DRAWS = 20_000
BOOTSTRAPS = 200


def analyse(model: keras.Model, images: np.ndarray, *, batch_size: int = 100, passes: int = 5, seed: int = 0) -> Analysis:
    """Analyse a trained model.

    Args:
        model: A trained `RateDistortionModel`.
        images: float32, shape `(n, ...)`.
        batch_size, passes: As in `evaluate`, for the pointwise quantities, which are means over the passes.
        seed: Integer, seeds what is drawn here.

    Returns:
        The `Analysis`.

    Source: paper, figures 6 to 8 and table 1 (appendix); nothing of this was released.
    """
    channel, features = model.channel, model.features(images)
    mean, scale = (ops.convert_to_numpy(values) for values in channel.mean_and_scale(features))
    rates = rate_by_dimension(channel, features)
    shown = shown_dimensions(rates)
    # All images together are the batch. (samples, n, shown)
    samples = np.stack([ops.convert_to_numpy(channel(features))[:, shown] for _ in range(MARGINAL_SAMPLES)])
    marginals = [marginal_density(samples[:, :, i].ravel()) for i in range(len(shown))]
    pointwise = evaluate(model, images, batch_size=batch_size, passes=passes, seed=seed)
    noise = channel.noise_samples(features, NOISE_DRAWS, batch_size, seed)
    return Analysis(
        rate_by_dimension_nats=rates,
        shown=shown,
        grid=np.array([grid for grid, _ in marginals]),
        density=np.array([density for _, density in marginals]),
        pointwise_rate_nats=pointwise.rate.mean(axis=0),
        pointwise_distortion_nats=pointwise.distortion.mean(axis=0),
        mean_norm=np.linalg.norm(mean, axis=-1),
        scale_norm=np.linalg.norm(scale, axis=-1),
        total_correlation_nats=np.empty(0) if noise is None else np.array(total_correlation(noise, seed)),
        noise_draws=np.array(NOISE_DRAWS),
        moments=_moments(channel, shown),
    )


def _moments(channel: keras.layers.Layer, shown: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of dimensions before they are standardised, `(2, shown)`; empty if they are not."""
    standardiser = getattr(channel, "standardiser", None)
    if standardiser is None:
        return np.empty(0)
    mean, variance = (ops.convert_to_numpy(values)[shown] for values in (standardiser.mean, standardiser.variance))
    return np.stack([mean, np.sqrt(variance)])


def shown_dimensions(rates: np.ndarray) -> np.ndarray:
    """The `HIGHEST` dimensions of highest rate and the `LOWEST` of lowest, each once, in falling order of their rates."""
    order = np.argsort(-rates)
    return np.concatenate([order[:HIGHEST], order[HIGHEST:][-LOWEST:]])


def rate_by_dimension(channel: keras.layers.Layer, features: np.ndarray) -> np.ndarray:
    """Mean of the channel's `rate_per_dimension` over the features of some images, in nats, shape `(dim,)`."""
    return ops.convert_to_numpy(channel.rate_per_dimension(features)).mean(axis=0, dtype=np.float64)


def marginal_density(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernel density estimate of one dimension.

    Gaussian kernel, bandwidth by Scott's rule, `n^(-1/5)` standard deviations. The samples are binned first: millions of
    them cost what `BINS` do, and the bins are far narrower than the kernel.

    Args:
        values: Samples, shape `(n,)`.

    Returns:
        `(grid, density)`, each of shape `(GRID_POINTS,)`; the grid reaches five bandwidths beyond the samples.

    Source: paper, figure 6 (kernel and rule).
    """
    values = np.asarray(values, np.float64)
    factor = len(values) ** -0.2
    counts, edges = np.histogram(values, BINS)
    kernel = gaussian_kde(0.5 * (edges[1:] + edges[:-1]), bw_method=factor, weights=counts)
    margin = 5.0 * factor * values.std()
    grid = np.linspace(values.min() - margin, values.max() + margin, GRID_POINTS)
    return grid, kernel(grid)


def total_correlation(samples: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Total correlation of the dimensions, to second order, with its standard error.

    `-1/2 log det C` of the sample correlation matrix `C`, less `m (m - 1) / (4 N)`, its bias for `N` samples of `m` independent
    Gaussians. For Gaussians it is `sum_j h(e_j) - h(e)`; for others what their second moments say.

    Args:
        samples: Independent samples, shape `(N, m)`, N > m.
        seed: Integer, for the bootstrap.

    Returns:
        `(estimate, standard error)` in nats; the error is that of `BOOTSTRAPS` bootstrap replications.

    Source: paper, appendix, table 1 (second-order approximation).
    """
    count, dim = samples.shape

    def estimate(rows):
        return -0.5 * np.linalg.slogdet(np.corrcoef(rows, rowvar=False))[1]

    rng = np.random.default_rng(seed)
    replications = [estimate(samples[rng.integers(0, count, count)]) for _ in range(BOOTSTRAPS)]
    return estimate(samples) - dim * (dim - 1) / (4 * count), float(np.std(replications, ddof=1))
