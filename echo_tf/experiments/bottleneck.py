"""The experiment `bottleneck`: labels instead of images as what must be kept, the cross-entropy of the label as distortion.

`min E[-log p(y|z)] + beta I(X; Z)`, the information bottleneck (Tishby et al. 1999) in its variational form (Alemi et al.
2017), with an Echo channel, whose rate is exact, with a Gaussian one, whose rate is an upper bound (deep VIB), and with none: a
layer of the same size without noise. What each is worth on training images and under attack is in a second table.
"""

import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import stats

from echo_tf.data.dataset import Dataset
from echo_tf.errors import DataError
from echo_tf.experiments.points import PointTable
from echo_tf.experiments.robustness import DRAWS, Attack, Measured, RobustnessPoint, attacks, measure
from echo_tf.experiments.source_models import CHANNELS, make_channel
from echo_tf.experiments.steps import keep_to_float32
from echo_tf.files import locked
from echo_tf.models.examples import some_examples
from echo_tf.models.losses import mean_rate

logger = logging.getLogger(__name__)

BETAS = (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.7)

# A label is worth log 10 = 2.3 nats: with 999 echoes the floor of Echo is 0.16 nats, with 99 it would be 1.4. A batch is the
# whole data set where that has fewer examples.
BATCH_SIZE = 1_000
LATENT_DIM = 8
HIDDEN = (256, 256)
EPOCHS = 20
LEARNING_RATE = 1e-3
REFRESH_IMAGES = 10_000
TRAINING_IMAGES = 10_000  # of which the accuracy is measured
ATTACKED_IMAGES = 1_000

NO_CHANNEL = "none"

KEY = ("channel", "beta", "seed")


@dataclass(frozen=True)
class BottleneckPoint:
    """A trained classifier on the test set.

    `rate_nats` is the channel's own rate, infinite without noise, `cross_entropy_nats` the mean of `-log p(y|z)` and `accuracy`
    the share of images whose likeliest label is right, both for one draw of `z` an image, averaged over some passes. Standard
    errors are over images. `label_entropy_nats` is that of the labels of the test set.
    """

    dataset: str
    channel: str
    beta: float
    seed: int
    rate_nats: float
    cross_entropy_nats: float
    cross_entropy_se: float
    accuracy: float
    accuracy_se: float
    label_entropy_nats: float


def build_classifier(
    shape: tuple[int, ...], channel: str, beta: float, classes: int, seed: int, batch_size: int, steps: int
) -> keras.Model:
    """A functional Keras model from examples to logits, its rate in its loss.

    Args:
        shape: Shape of one example.
        channel: One of `CHANNELS`, where Echo has all other examples of a batch as echoes; or `NO_CHANNEL`, a linear layer.
        beta: Weight of the rate.
        classes: Number of labels.
        seed: Integer, for the noise.
        batch_size: Integer.
        steps: Length of the training, over which the learning rate falls along a cosine.

    Returns:
        A compiled model with the outputs `logits` and `rate`, which is 0 without a channel.
    """
    examples = keras.Input(shape)
    h = keras.layers.Flatten()(examples)
    for units in HIDDEN:
        h = keras.layers.Dense(units, activation="relu")(h)
    h = keras.layers.Identity(name="features")(h)
    if channel == NO_CHANNEL:
        z = keras.layers.Dense(LATENT_DIM, name="channel")(h)
        rate = ops.zeros_like(z[:, 0])
    else:
        z, rate = make_channel(channel, LATENT_DIM, batch_size - 1, seed)(h, return_rate=True)
    model = keras.Model(examples, {"logits": keras.layers.Dense(classes, name="logits")(z), "rate": rate})
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        loss={"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "rate": mean_rate},
        loss_weights={"logits": 1.0, "rate": beta},
    )
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step a second time, for its variables
    return model


def train_classifier(dataset: Dataset, channel: str, beta: float, seed: int, epochs: int) -> keras.Model:
    """Train one classifier, with its stored noise made of the final parameters. Labels are integers or strings."""
    keep_to_float32()
    keras.utils.set_random_seed(seed)
    images, (labels, _), batch_size = dataset.train, _answers(dataset), _batch_size(dataset)
    count = len(images) // batch_size * batch_size
    steps = epochs * count // batch_size
    model = build_classifier(dataset.shape, channel, beta, int(labels.max()) + 1, seed, batch_size, steps)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(images))[:count]  # whole batches only: Echo needs its echoes
        targets = {"logits": labels[order], "rate": np.zeros(count)}
        model.fit(images[order], targets, batch_size=batch_size, shuffle=False, verbose=0)
    if channel != NO_CHANNEL:
        encoder = keras.Model(model.input, model.get_layer("features").output)
        sample = some_examples(images, REFRESH_IMAGES)  # from all of it: it may be sorted by label
        model.get_layer("channel").adapt(encoder.predict(sample, batch_size=batch_size, verbose=0))
    return model


def _batch_size(dataset: Dataset) -> int:
    return min(BATCH_SIZE, len(dataset.raw("train")))


def _answers(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Labels of training and test images, as their places among those of the training set."""
    classes, labels = np.unique(dataset.labels["train"], return_inverse=True)
    return labels, np.searchsorted(classes, dataset.labels["test"])


def measure_classifier(
    model: keras.Model, dataset: Dataset, settings: dict, epochs: int, transferred: dict[float, np.ndarray]
) -> tuple[BottleneckPoint, list[RobustnessPoint]]:
    """Measure a trained classifier on training and test images, and under attack. Labels of the test set are known.

    Args:
        model: From `train_classifier`.
        dataset: The same data.
        settings: Columns of both tables: `dataset`, `channel`, `beta`, `seed`.
        epochs: Length of its training.
        transferred: By size, the test images as they were attacked for the classifier without a channel.
    """
    (labels, answers), batch_size = _answers(dataset), _batch_size(dataset)
    rng = np.random.default_rng(settings["seed"])
    clean = measure(model, dataset.test, answers, batch_size, rng)
    rate = math.inf if settings["channel"] == NO_CHANNEL else float(clean.rate.mean())

    def row(split: str, attack: Attack, found: Measured) -> RobustnessPoint:
        made: dict[str, Any] = {"split": split, "attack": attack.name, "size": attack.size, "draws": attack.draws}
        return RobustnessPoint(**settings, epochs=epochs, rate_nats=rate, **made, **found.summary())

    seen = some_examples(dataset.train, TRAINING_IMAGES), some_examples(labels, TRAINING_IMAGES)
    trained = measure(model, *seen, batch_size, rng)
    rows = [row("train", Attack("clean", 0.0, 0), trained), row("test", Attack("clean", 0.0, 0), clean)]
    draws = 1 if settings["channel"] == NO_CHANNEL else DRAWS
    right = some_examples(answers, ATTACKED_IMAGES)
    own = attacks(model, some_examples(dataset.test, ATTACKED_IMAGES), right, draws, batch_size, settings["seed"])
    others = ((Attack("transfer", size, 1), attacked) for size, attacked in transferred.items())
    for attack, attacked in itertools.chain(own, others):
        rows.append(row("test", attack, measure(model, attacked, right, batch_size, rng)))
    entropy = float(stats.entropy(np.bincount(answers)))
    return BottleneckPoint(**settings, rate_nats=rate, **clean.summary(), label_entropy_nats=entropy), rows


def run(
    points: Path, robustness: Path, dataset: Dataset, seeds: int, betas: list[float] | None = None, epochs: int = EPOCHS
) -> None:
    """Train what one of two tables lacks of all channels, betas and seeds, and the classifier without a channel for each seed.

    A point that is in one table only is trained and measured anew. The classifier without a channel is trained again where a
    seed lacks others: what attacks it is tried on them.

    Args:
        points: The CSV file of all `BottleneckPoint`s.
        robustness: That of all `RobustnessPoint`s, in the same folder.
        dataset: A labelled data set.
        seeds: Number of seeds.
        betas: Weights of the rate, finite and `>= 0`; `None` for `BETAS`.
        epochs: Length of the training. A table has points of one length only.

    Raises:
        ConfigError: the backend of Keras is neither TensorFlow nor JAX.
        DataError: the data set has no labels, or labels in its test set that the training set lacks.
        CellError: another process works in the folder.
        ResultError: a file is damaged.
    """
    betas = list(dict.fromkeys(betas or BETAS))
    if dataset.train_labels is None or dataset.test_labels is None:
        remedy = "Use fashion_mnist or digits, or add them to your own .npz file."
        raise DataError(f"{dataset.name} has no labels for train and test. {remedy}")
    if unknown := set(np.unique(dataset.test_labels)) - set(np.unique(dataset.train_labels)):
        raise DataError(f"The test set of {dataset.name} has labels that its training set lacks, such as {min(unknown)}.")
    with locked(points.parent):
        first, second = PointTable(points, BottleneckPoint, KEY), PointTable(robustness, RobustnessPoint, KEY)
        for seed in range(seeds):
            wanted = [(NO_CHANNEL, 0.0, seed), *((channel, beta, seed) for beta in betas for channel in CHANNELS)]
            if missing := [key for key in wanted if key not in first or key not in second]:
                for point, rows in _measured(dataset, seed, epochs, missing):
                    second.put(rows)
                    first.put([point])


def _measured(
    dataset: Dataset, seed: int, epochs: int, keys: list[tuple[str, float, int]]
) -> Iterator[tuple[BottleneckPoint, list[RobustnessPoint]]]:
    """Points of some channels and betas, one after the other."""
    logger.info("training: no channel, seed %d", seed)
    plain = train_classifier(dataset, NO_CHANNEL, 0.0, seed, epochs)
    images, answers = (some_examples(values, ATTACKED_IMAGES) for values in (dataset.test, _answers(dataset)[1]))
    found = attacks(plain, images, answers, 1, _batch_size(dataset), seed)
    transferred = {attack.size: attacked for attack, attacked in found if attack.name == "pgd"}
    for channel, beta, _ in keys:
        settings = {"dataset": dataset.name, "channel": channel, "beta": beta, "seed": seed}
        if channel == NO_CHANNEL:
            yield measure_classifier(plain, dataset, settings, epochs, {})
            continue
        logger.info("training: %s channel, beta %g, seed %d", channel, beta, seed)
        model = train_classifier(dataset, channel, beta, seed, epochs)
        yield measure_classifier(model, dataset, settings, epochs, transferred)
