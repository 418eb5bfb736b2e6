"""The truncation bound of the Echo noise: how large a scale `d_max` echoes allow. Needs no Keras."""

import difflib
import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np


def invalid(name: str, expected: str, received: str) -> ValueError:
    """The error about the argument `name`."""
    return ValueError(f"Invalid value received for argument `{name}`. Expected {expected}. Received: {received}")


def nearest(name: str, names: Sequence[str]) -> str:
    """A question that names the most similar of `names`, to stand behind a name that is none of them; else nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def check_d_max(d_max: int) -> None:
    """Raise `ValueError` unless `d_max` is an integer of at least 1."""
    if not isinstance(d_max, Integral) or d_max < 1:
        raise invalid("d_max", "an integer >= 1", f"d_max={d_max}")


def max_scale(d_max: int, max_mean: float = 1.0, precision: float = 2**-23) -> float:
    """Largest scale `r` for which `d_max` echoes give the noise to within `precision`.

    `r` solves `M r^d / (1 - r) = precision`, where the left side bounds what the echoes after the first `d` add to any
    dimension when `|f_j| <= M` and `0 < s_j <= r`.

    Args:
        d_max: Integer >= 1, the number of echoes `d`.
        max_mean: Float > 0, the bound `M` of `|f_j(x)|`.
        precision: Float > 0, the largest error of the noise. The default is the spacing of float32 numbers at 1.

    Returns:
        `r` in (0, 1), float. `-log(r)` is the rate floor of one dimension in nats.

    Raises:
        ValueError: `d_max` is not an integer >= 1, or `max_mean` or `precision` is not a positive finite number.

    Source: paper, section 2.2 (its 0.8359 is `max_scale(99)`).
        Differs from the released code, whose default solves `M r^d = precision`, which bounds one dropped term instead of
        all of them, and whose sampler and loss have different defaults for `r`.

    Example:
        >>> round(max_scale(99), 7)
        0.8358656
    """
    check_d_max(d_max)
    for name, value in (("max_mean", max_mean), ("precision", precision)):
        if not (value > 0 and math.isfinite(value)):
            raise invalid(name, "a positive finite number", f"{name}={value}")
    from scipy.optimize import brentq  # half of the start of `reproduce.py --dry-run`, which may not need it

    log_target = math.log(precision / max_mean)

    # In the logit t of r both log r and log(1 - r) keep full precision at either end, and the left side increases.
    def excess(t):
        log_r, log_one_minus_r = -np.logaddexp(0.0, -t), -np.logaddexp(0.0, t)
        return d_max * log_r - log_one_minus_r - log_target

    logit = brentq(excess, -750.0, 750.0, xtol=1e-13)
    return 1.0 / (1.0 + math.exp(-logit))
