"""Rate and distortion of a trained model on a set of images."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from echo_tf.losses import bernoulli_distortion
from echo_tf.statistics import standard_error

SHUFFLES = 5


@dataclass(frozen=True)
class Evaluation:
    """Per-example results in nats, one row for each pass over the images with a new shuffle and new noise.

    Attributes:
        rate: Shape `(passes, n)`.
        distortion: Shape `(passes, n)`.
    """

    rate: np.ndarray
    distortion: np.ndarray

    def summary(self) -> dict[str, dict[str, float]]:
        """Means and standard errors as result files hold them.

        `se` is the standard error of the mean over noise and shuffles for these images, from the spread of the passes: the
        examples of one batch share their noise, so the spread within a pass does not tell it. `se_images` is that of the
        mean over images as a sample of all images.
        """
        return {
            "rate_nats": _summarise(self.rate),
            "distortion_nats": _summarise(self.distortion),
            "neg_elbo_nats": _summarise(self.rate + self.distortion),
        }


def _summarise(values: np.ndarray) -> dict[str, float]:
    passes, images = values.mean(axis=1), values.mean(axis=0)
    return {
        "mean": float(values.mean()),
        "se": standard_error(passes),
        "se_images": standard_error(images),
    }


def evaluate(
    model: keras.Model, images: np.ndarray, *, batch_size: int = 100, passes: int = SHUFFLES, seed: int = 0
) -> Evaluation:
    """Measure rate and distortion, one draw of `z` per image and pass.

    In every pass the images are shuffled and cut into `n // batch_size` batches of nearly equal size, so that none is too small
    for Echo to find its echoes in it. Neither beta nor any penalty enters.

    Args:
        model: A trained `RateDistortionModel`.
        images: float32 in [0, 1], shape `(n, 28, 28, 1)`.
        batch_size: Integer. The paper's 100.
        passes: Integer >= 1.
        seed: Integer, seeds the shuffles. The noise is that of the model's own generator.

    Returns:
        The `Evaluation`.

    Source: paper, section 5. Differs from the released code, which makes one pass and drops the last incomplete batch.
    """
    rng = np.random.default_rng(seed)
    rate, distortion = np.empty((2, passes, len(images)), np.float32)
    for p in range(passes):
        order = rng.permutation(len(images))
        for rows in np.array_split(order, max(1, len(images) // batch_size)):
            outputs = model.predict_on_batch(images[rows])
            rate[p, rows] = outputs["rate"]
            distortion[p, rows] = ops.convert_to_numpy(bernoulli_distortion(images[rows], outputs["logits"]))
    return Evaluation(rate.astype(np.float64), distortion.astype(np.float64))


def rate_by_dimension(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Mean rate of every latent dimension of an Echo model in nats, shape `(dim,)`.

    A dimension carries information only as far as it lies above the floor `-log r`.
    """
    _, log_scale = model.channel.statistics(model.encoder.predict(images, verbose=0))
    return -np.mean(ops.convert_to_numpy(log_scale), axis=0, dtype=np.float64) - model.channel.echo.log_max_scale
