"""Statistics of repeated measurements."""

import numpy as np
from numpy.typing import ArrayLike


def standard_error(values: ArrayLike) -> float:
    """Standard error of the mean of independent values, `sd / sqrt(n)`, NaN for a single one. Shape `(n,)`."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
