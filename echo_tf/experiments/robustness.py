"""What a trained classifier of the experiment `bottleneck` is worth on training images and on attacked ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from echo_tf.experiments.attacks import fgsm, gradient_of, pgd
from echo_tf.experiments.evaluation import standard_error

SIZES = (0.02, 0.05, 0.1)
STEPS = 10
DRAWS = 5
PASSES = 5


class Attack(NamedTuple):
    """How images were made from those of a split.

    `name` is `clean`, `fgsm`, `pgd`, or `transfer`: the images that `pgd` finds for the classifier without a channel of the
    same seed. `size` is the largest change of a pixel, and `draws` the number of draws of noise that the loss is a mean over.
    """

    name: str
    size: float
    draws: int


@dataclass(frozen=True)
class RobustnessPoint:
    """A trained classifier on images of one kind; `split`, `attack`, `size` and `draws` say of which, see `Attack`.

    `rate_nats` is that on clean test images. Accuracy and cross-entropy are as in `BottleneckPoint`: means over fresh draws of
    `z`, which the attack has not seen.
    """

    dataset: str
    channel: str
    beta: float
    seed: int
    epochs: int
    rate_nats: float
    split: str
    attack: str
    size: float
    draws: int
    accuracy: float
    accuracy_se: float
    cross_entropy_nats: float
    cross_entropy_se: float


class Measured(NamedTuple):
    """Rate and cross-entropy in nats, and whether the likeliest label is right, each of shape `(PASSES, n)`."""

    rate: np.ndarray
    cross_entropy: np.ndarray
    right: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Means, with standard errors over images."""
        return {
            "accuracy": float(self.right.mean()),
            "accuracy_se": standard_error(self.right.mean(axis=0)),
            "cross_entropy_nats": float(self.cross_entropy.mean()),
            "cross_entropy_se": standard_error(self.cross_entropy.mean(axis=0)),
        }


def measure(model: keras.Model, images: np.ndarray, answers: np.ndarray, batch_size: int, rng: np.random.Generator) -> Measured:
    """Rate, cross-entropy and success of a classifier on images, one draw of `z` an image and pass.

    Args:
        model: From images to `logits` and `rate`.
        images: Shape `(n, ...)`.
        answers: Places of the labels among the logits, shape `(n,)`.
        batch_size: Integer.
        rng: For the order of the images, since draws of one batch depend on each other.
    """
    found = Measured(*np.empty((3, PASSES, len(images))))
    for p in range(PASSES):
        order = rng.permutation(len(images))
        outputs = model.predict(images[order], batch_size=batch_size, verbose=0)
        log_probability = ops.convert_to_numpy(ops.log_softmax(outputs["logits"]))
        found.rate[p, order] = outputs["rate"]
        found.cross_entropy[p, order] = -np.take_along_axis(log_probability, answers[order, None], 1)[:, 0]
        found.right[p, order] = log_probability.argmax(1) == answers[order]
    return found


def expected_loss(model: keras.Model, draws: int) -> keras.Model:
    """From images and labels to `1/K sum_k -log p(y|z_k)` with K fresh draws of `z`, in nats, shape `(batch,)`.

    Every draw is a call of the channel: draws of one call would depend on each other, and repeat. The encoder is called once.
    """
    features, channel, head = (model.get_layer(name) for name in ("features", "channel", "logits"))
    labels = keras.Input((), dtype="int32")
    logits = [head(channel(features.output)) for _ in range(draws)]
    losses = [ops.sparse_categorical_crossentropy(labels, values, from_logits=True) for values in logits]
    return keras.Model([model.input, labels], ops.mean(ops.stack(losses), axis=0))


def attacks(
    model: keras.Model, images: np.ndarray, answers: np.ndarray, draws: int, batch_size: int, seed: int
) -> Iterator[tuple[Attack, np.ndarray]]:
    """All attacks on a classifier, one after the other: FGSM and PGD of all `SIZES`, PGD also with a single draw of noise."""
    gradient = gradient_of(expected_loss(model, draws), batch_size)
    rng = np.random.default_rng(seed)
    for size in SIZES:
        yield Attack("fgsm", size, draws), fgsm(gradient, images, answers, size)
        yield Attack("pgd", size, draws), pgd(gradient, images, answers, size, STEPS, rng)
    if draws > 1:
        single = gradient_of(expected_loss(model, 1), batch_size)
        for size in SIZES:
            yield Attack("pgd", size, 1), pgd(single, images, answers, size, STEPS, rng)
