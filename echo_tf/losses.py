"""Per-example terms of the objective, in nats. The mean over examples is taken by the caller, once."""

from typing import Any

from keras import ops

Tensor = Any


def bernoulli_distortion(images: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of Bernoulli pixels, summed over each image.

    `D = -sum_p [ x_p log sigmoid(l_p) + (1 - x_p) log(1 - sigmoid(l_p)) ]`. For grey targets it is a cross-entropy, not a
    likelihood, and no model passes its floor `sum_p H(x_p)`.

    Args:
        images: Targets in [0, 1]. Shape `(batch, ...)`, float.
        logits: Log odds of the pixels. Same shape.

    Returns:
        Distortion in nats per example. Shape `(batch,)`, float32.

    Source: paper, section 5. Differs from the released code, which clips probabilities at 1e-7 and so caps one pixel at
        16.1 nats.
    """
    images, logits = ops.cast(images, "float32"), ops.cast(logits, "float32")
    pixels = ops.softplus(logits) - images * logits
    return ops.sum(pixels, axis=tuple(range(1, len(pixels.shape))))


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a diagonal Gaussian from the standard normal.

    `KL( N(mean, exp(log_var)) || N(0, I) ) = 1/2 sum_j ( exp(log_var_j) + mean_j^2 - 1 - log_var_j )`.

    Args:
        mean: Shape `(batch, dim)`, float.
        log_var: Logarithm of the variances. Same shape.

    Returns:
        Divergence in nats per example: an upper bound of the rate. Shape `(batch,)`.

    Source: Kingma & Welling 2014, appendix B.
    """
    return 0.5 * ops.sum(ops.exp(log_var) + ops.square(mean) - 1.0 - log_var, axis=-1)
