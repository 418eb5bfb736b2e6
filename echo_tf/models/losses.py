"""Terms of the objective in nats: per example, so that the caller takes the mean once, and the MMD penalty of a batch."""

import math

import keras
from keras import ops

from echo_tf.echo.bound import invalid
from echo_tf.echo.checks import Tensor, alike


@keras.saving.register_keras_serializable(package="echo_tf")
def bernoulli_distortion(images: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of Bernoulli pixels, summed over each image.

    `D = -sum_p [ x_p log sigmoid(l_p) + (1 - x_p) log(1 - sigmoid(l_p)) ]`. For grey targets it is a cross-entropy, not a
    likelihood, and no model passes its floor `sum_p H(x_p)`.

    Args:
        images: Targets in [0, 1]. Shape `(batch, ...)`, float.
        logits: Log odds of the pixels. Same shape.

    Returns:
        Distortion in nats per example. Shape `(batch,)`, float32.

    Raises:
        ValueError: shapes that differ. Those that can be broadcast would train, and mean nothing.

    Source: paper, section 5. Differs from the released code, which clips probabilities at 1e-7 and so caps one pixel at
        16.1 nats.
    """
    images, logits = ops.cast(images, "float32"), ops.cast(logits, "float32")
    if not alike(images.shape, logits.shape):
        raise invalid("logits", f"the shape of the images, {tuple(images.shape)}", f"shape {tuple(logits.shape)}")
    pixels = ops.softplus(logits) - images * logits
    return ops.sum(pixels, axis=tuple(range(1, len(pixels.shape))))


@keras.saving.register_keras_serializable(package="echo_tf")
def mean_rate(target: Tensor, rate: Tensor) -> Tensor:
    """The rate itself, as a Keras loss for models that have it among their outputs; Keras takes the mean over the batch.

    With `loss_weights` beta it adds `beta` times the mean rate to the loss, and is reported as a metric in nats.

    Args:
        target: Ignored; Keras wants one, zeros for example.
        rate: Nats per example. Shape `(batch,)`.

    Returns:
        `rate`.
    """
    return rate


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a diagonal Gaussian from the standard normal.

    `KL( N(mean, exp(log_var)) || N(0, I) ) = 1/2 sum_j ( exp(log_var_j) + mean_j^2 - 1 - log_var_j )`.

    Args:
        mean: Shape `(batch, dim)`, float.
        log_var: Logarithm of the variances. Same shape.

    Returns:
        Divergence in nats per example, an upper bound of the rate. Shape `(batch,)`.

    Source: Kingma & Welling 2014, appendix B.
    """
    return 0.5 * ops.sum(ops.exp(log_var) + ops.square(mean) - 1.0 - log_var, axis=-1)


def gaussian_log_density(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian, `-1/2 sum_j ( log 2 pi + log_var_j + (z_j - mean_j)^2 exp(-log_var_j) )`.

    Args:
        z: Shape `(..., dim)`, float.
        mean: Broadcasts with `z`.
        log_var: Logarithm of the variances. Broadcasts with `z`.

    Returns:
        Nats, float32. The broadcast shape without its last axis.
    """
    z, mean, log_var = (ops.cast(value, "float32") for value in (z, mean, log_var))
    return -0.5 * ops.sum(math.log(2.0 * math.pi) + log_var + ops.square(z - mean) * ops.exp(-log_var), axis=-1)


def gaussian_entropy(log_var: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian, `1/2 sum_j ( log 2 pi e + log_var_j )`, nats. Shape `(batch, dim)` to `(batch,)`."""
    return 0.5 * ops.sum(math.log(2.0 * math.pi * math.e) + log_var, axis=-1)


def mmd(z: Tensor, prior: Tensor, squared_bandwidth: Tensor | float) -> Tensor:
    """Squared maximum mean discrepancy between two samples of equal size, kernel `k(x, y) = exp(-|x - y|^2 / (2 h^2))`.

    `mean_ij k(z_i, z_j) + mean_ij k(p_i, p_j) - 2 mean_ij k(z_i, p_j)`; for equal laws `2 (1 - E k) / n` in expectation.

    Args:
        z: Encodings, shape `(n, dim)`, float. The expectations hold for independent ones: the noise of one Echo ring is not.
        prior: Fresh draws of the prior. Same shape.
        squared_bandwidth: `h^2 > 0`, see `median_bandwidth`.

    Returns:
        Scalar without unit.

    Raises:
        ValueError: samples of another size or dimension than each other.

    Source: Gretton et al. 2012, the biased estimate, as in the authors' code.
    """

    z, prior = ops.convert_to_tensor(z), ops.convert_to_tensor(prior)
    if not alike(z.shape, prior.shape):
        raise invalid("prior", f"as many draws as encodings, shape {tuple(z.shape)}", f"shape {tuple(prior.shape)}")

    def kernel(a, b):
        return ops.exp(-squared_distances(a, b) / (2.0 * squared_bandwidth))

    n = ops.cast(ops.shape(z)[0], "float32")
    return (ops.sum(kernel(z, z)) + ops.sum(kernel(prior, prior))) / (n * n) - 2.0 * ops.mean(kernel(z, prior))


def median_bandwidth(prior: Tensor) -> Tensor:
    """`h^2`, the median of the squared distances between draws of the prior. Shape `(n, dim)` to a scalar; 1 for one draw."""
    ordered = ops.sort(ops.reshape(squared_distances(prior, prior), (-1,)))
    n = ops.shape(prior)[0]
    middle = ops.minimum((n * n + n) // 2, n * n - 1)  # behind the n zeros of the diagonal, in the middle of the rest
    return ops.where(n > 1, ops.take(ordered, middle), 1.0)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """`|a_i - b_j|^2`. Shapes `(n, dim)` and `(m, dim)` to `(n, m)`."""
    # Differences, not |a|^2 + |b|^2 - 2 a b: near 0 that is all rounding.
    return ops.sum(ops.square(ops.expand_dims(a, 1) - ops.expand_dims(b, 0)), axis=-1)
