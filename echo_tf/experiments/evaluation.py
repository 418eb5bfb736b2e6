"""Rate and distortion of a trained model on a set of images."""

from dataclasses import dataclass

import keras
import numpy as np
from scipy.special import logsumexp
from scipy.stats import sem

PASSES = 5
MEASURED = {"rate", "distortion", "log_ratio"}  # of what a model returns


@dataclass(frozen=True)
class Evaluation:
    """Per-example results in nats, one row for each pass over the images with a new shuffle and new noise.

    Attributes:
        rate: Shape `(passes, n)`.
        distortion: Shape `(passes, n)`.
        log_ratio: `log q(z|x) - log p(z)` at the draws, shape `(passes, n)`; `None` for Echo.
    """

    rate: np.ndarray
    distortion: np.ndarray
    log_ratio: np.ndarray | None = None

    @property
    def importance_bound(self) -> np.ndarray | None:
        """Upper bound of `-log p(x)` of every binary image in nats, shape `(n,)`; `None` for Echo, which has no `q(z|x)`.

        Of grey images, whose distortion is a cross-entropy, it is the same formula, but no likelihood.

        `-log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x)` with one draw from each of the k passes. Of a single pass it is a noisier
        -ELBO; in expectation it falls with k.

        Source: Burda et al. 2016.
        """
        if self.log_ratio is None:
            return None
        return np.log(len(self.rate)) - logsumexp(-self.distortion - self.log_ratio, axis=0)

    def summary(self) -> dict[str, dict[str, float]]:
        """Means and standard errors as result files hold them.

        `se` is the standard error of the mean over noise and shuffles for these images, from the spread of the passes: the
        examples of one batch share their noise, so the spread within a pass does not tell it. `se_images` is that of the
        mean over images as a sample of all images. `importance_bound_nats` is there for channels with a density.
        """
        bound = self.importance_bound
        summary = {
            "rate_nats": _summarise(self.rate),
            "distortion_nats": _summarise(self.distortion),
            "neg_elbo_nats": _summarise(self.rate + self.distortion),
        }
        if bound is not None:
            summary["importance_bound_nats"] = {"mean": float(bound.mean()), "se_images": standard_error(bound)}
        return summary


def _summarise(values: np.ndarray) -> dict[str, float]:
    ses = {"se": standard_error(values.mean(axis=1)), "se_images": standard_error(values.mean(axis=0))}
    return {"mean": float(values.mean()), **ses}


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values, shape `(n,)`; NaN for a single one."""
    return float(sem(values)) if len(values) > 1 else float("nan")


def evaluate(
    model: keras.Model,
    images: np.ndarray,
    *,
    batch_size: int = 100,
    passes: int = PASSES,
    seed: int = 0,
    echoes: str = "reservoir",
) -> Evaluation:
    """Measure rate and distortion, one draw of `z` per image and pass.

    In every pass the images are shuffled and cut into `n // batch_size` batches of nearly equal size, none of them smaller than
    `batch_size` unless `n` is. Neither beta nor any penalty enters.

    Args:
        model: A trained `RateDistortionModel`.
        images: float32, shape `(n, ...)`.
        batch_size: Integer. The paper's 100.
        passes: Integer >= 1.
        seed: Integer, seeds the shuffles. The noise is that of the model's own generator.
        echoes: What Echo noise is made from: `"reservoir"`, of training examples, as wherever else a trained model is used; or
            `"batch"`, the other images of the batch, as in the paper. Channels without echoes do not look at it.

    Returns:
        The `Evaluation`.

    Source: paper, section 5. Differs from the paper by default: see `echoes`. Differs from the released code, which makes one
        pass and drops the last incomplete batch.
    """
    rng = np.random.default_rng(seed)
    measured: dict[str, np.ndarray] = {}
    try:
        model.channel.echoes_from_batch(echoes == "batch")
        for p in range(passes):
            order = rng.permutation(len(images))
            for rows in np.array_split(order, max(1, len(images) // batch_size)):
                outputs = model.predict_on_batch(images[rows])
                for name in MEASURED & outputs.keys():
                    measured.setdefault(name, np.empty((passes, len(images))))[p, rows] = outputs[name]
    finally:
        model.channel.echoes_from_batch(False)
    return Evaluation(**measured)
