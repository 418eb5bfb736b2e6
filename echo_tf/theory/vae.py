"""The two terms of a VAE's objective as rate and distortion."""

from typing import NamedTuple

import numpy as np
import scipy  # its modules are loaded at their first use
from numpy.typing import ArrayLike

from echo_tf.theory import checks

__all__ = ["VAERateDistortion", "vae_rate_distortion"]


class VAERateDistortion(NamedTuple):
    """Rate, distortion and `loss = distortion + beta * rate` of each example, each of shape `(n,)`."""

    rate: np.ndarray
    distortion: np.ndarray
    loss: np.ndarray


def vae_rate_distortion(
    x: ArrayLike, x_recon: ArrayLike, mean: ArrayLike, log_var: ArrayLike, beta: float = 1.0, distortion: str = "squared"
) -> VAERateDistortion:
    """Rate and distortion of a VAE with encoder `N(mean, exp(log_var))` and marginal `N(0, I)`, per example.

    `rate = KL = 1/2 sum_j (mean_j^2 + var_j - 1 - log var_j)`. Its mean over examples is an upper bound of `I(X; Z)`.
    `"squared"`: `distortion = sum_i (x_i - y_i)^2` with `y = x_recon`.
    `"bernoulli"`: `distortion = -sum_i x_i log y_i + (1 - x_i) log(1 - y_i)`.

    `"bernoulli"` is a negative log likelihood: `beta = 1` gives the negative ELBO. With a decoder `N(x_recon, sigma^2 I)` the
    negative log likelihood is `squared / (2 sigma^2)` plus a constant: `beta = 2 sigma^2` gives `2 sigma^2` times the negative
    ELBO. Texts where beta multiplies the distortion have `beta = 1 / (2 sigma^2)`, the `slope` of `blahut_arimoto`.

    Args:
        x: Data, shape `(n, ...)`.
        x_recon: Reconstructions, the same shape; in [0, 1] for `"bernoulli"`.
        mean: Shape `(n, m)`.
        log_var: Logarithm of the variance, shape `(n, m)`.
        beta: `>= 0`; multiplies the rate.
        distortion: `"squared"` (in squared units of `x`) or `"bernoulli"` (in nats).

    Returns:
        `VAERateDistortion`, the rate in nats. An impossible `x` under `"bernoulli"` has distortion `inf`.

    Raises:
        ValueError: shapes that do not agree; no examples; NaN or infinite values; `x` or `x_recon` outside [0, 1] under
            `"bernoulli"`; negative or infinite `beta`; unknown `distortion`.

    Source: Kingma and Welling 2014, appendix B (KL); Higgins et al. 2017 (beta).

    Example:
        >>> terms = vae_rate_distortion([[1.0, 0.0]], [[0.5, 0.5]], mean=[[1.0]], log_var=[[0.0]])
        >>> [float(term[0]) for term in terms]
        [0.5, 0.5, 1.0]
    """
    if distortion not in ("squared", "bernoulli"):
        raise checks.invalid("distortion", "'squared' or 'bernoulli'", f"distortion={distortion!r}")
    limits = (0, 1) if distortion == "bernoulli" else ()
    x, x_recon = checks.numbers("x", x, *limits), checks.numbers("x_recon", x_recon, *limits)
    mean, log_var = checks.numbers("mean", mean, ndim=2), checks.numbers("log_var", log_var, ndim=2)
    beta = checks.number("beta", beta, 0)
    if x.shape != x_recon.shape or mean.shape != log_var.shape or x.ndim < 2 or len(x) != len(mean):
        expected = "(n, ...) of x and x_recon, (n, m) of mean and log_var"
        raise checks.wrong_shapes(expected, x=x, x_recon=x_recon, mean=mean, log_var=log_var)

    with np.errstate(over="ignore"):  # more than floats hold is inf
        if distortion == "squared":
            errors = np.square(x - x_recon)
        else:
            errors = -scipy.special.xlogy(x, x_recon) - scipy.special.xlog1py(1.0 - x, -x_recon)
        total = errors.reshape(len(x), -1).sum(axis=1)
        rate = 0.5 * np.sum(np.square(mean) + np.maximum(np.expm1(log_var) - log_var, 0.0), axis=1)
        return VAERateDistortion(rate, total, total + beta * rate if beta else total)
