"""The experiment `bottleneck`: labels instead of images as what must be kept, the cross-entropy of the label as distortion.

`min E[-log p(y|z)] + beta I(X; Z)`, the information bottleneck (Tishby et al. 1999) in its variational form (Alemi et al.
2017), with an Echo channel, whose rate is exact, and with a Gaussian one, whose rate is an upper bound (deep VIB).
"""

import itertools
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_type_hints

import keras
import numpy as np
from keras import ops
from scipy import stats

from echo_tf.data.dataset import Dataset
from echo_tf.errors import DataError
from echo_tf.experiments.evaluation import standard_error
from echo_tf.experiments.source_models import CHANNELS, make_channel
from echo_tf.files import locked, read_rows, write_rows
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
PASSES = 5


@dataclass(frozen=True)
class BottleneckPoint:
    """A trained classifier on the test set.

    `rate_nats` is the channel's own rate, `cross_entropy_nats` the mean of `-log p(y|z)` and `accuracy` the share of images
    whose likeliest label is right, both for one draw of `z` an image, averaged over `PASSES` passes. Standard errors are over
    images. `label_entropy_nats` is that of the labels of the test set.
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
        channel: One of `CHANNELS`; Echo has all other examples of a batch as echoes.
        beta: Weight of the rate.
        classes: Number of labels.
        seed: Integer, for the noise.
        batch_size: Integer.
        steps: Length of the training, over which the learning rate falls along a cosine.

    Returns:
        A compiled model with the outputs `logits` and `rate`.
    """
    examples = keras.Input(shape)
    h = keras.layers.Flatten()(examples)
    for units in HIDDEN:
        h = keras.layers.Dense(units, activation="relu")(h)
    z, rate = make_channel(channel, LATENT_DIM, batch_size - 1, seed)(h, return_rate=True)
    model = keras.Model(examples, {"logits": keras.layers.Dense(classes, name="logits")(z), "rate": rate})
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        loss={"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "rate": mean_rate},
        loss_weights={"logits": 1.0, "rate": beta},
    )
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step a second time, for its variables
    return model


def train_point(dataset: Dataset, channel: str, beta: float, seed: int) -> BottleneckPoint:
    """Train one classifier and measure it on the test set. Labels are integers or strings; those of the test set are known."""
    keras.utils.set_random_seed(seed)
    images, (classes, labels) = dataset.train, np.unique(dataset.labels["train"], return_inverse=True)
    batch_size = min(BATCH_SIZE, len(images))
    count = len(images) // batch_size * batch_size
    steps = EPOCHS * count // batch_size
    model = build_classifier(dataset.shape, channel, beta, len(classes), seed, batch_size, steps)
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))[:count]  # whole batches only: Echo needs its echoes
        targets = {"logits": labels[order], "rate": np.zeros(count)}
        model.fit(images[order], targets, batch_size=batch_size, shuffle=False, verbose=0)
    layer = model.get_layer("channel")
    encoder = keras.Model(model.input, layer.input)
    layer.adapt(encoder.predict(images[:REFRESH_IMAGES], batch_size=batch_size, verbose=0))

    tests, answers = dataset.test, np.searchsorted(classes, dataset.labels["test"])
    rate, cross_entropy, right = np.empty((3, PASSES, len(tests)))
    for p in range(PASSES):
        order = rng.permutation(len(tests))
        outputs = model.predict(tests[order], batch_size=batch_size, verbose=0)
        log_probability = ops.convert_to_numpy(ops.log_softmax(outputs["logits"]))
        rate[p, order] = outputs["rate"]
        cross_entropy[p, order] = -np.take_along_axis(log_probability, answers[order, None], 1)[:, 0]
        right[p, order] = log_probability.argmax(1) == answers[order]
    return BottleneckPoint(
        dataset=dataset.name,
        channel=channel,
        beta=beta,
        seed=seed,
        rate_nats=float(rate.mean()),
        cross_entropy_nats=float(cross_entropy.mean()),
        cross_entropy_se=standard_error(cross_entropy.mean(axis=0)),
        accuracy=float(right.mean()),
        accuracy_se=standard_error(right.mean(axis=0)),
        label_entropy_nats=float(stats.entropy(np.bincount(answers))),
    )


def run(path: Path, dataset: Dataset, seeds: int, betas: list[float] | None = None) -> None:
    """Train what a table lacks of all channels, betas and seeds.

    Args:
        path: The CSV file of all points.
        dataset: A labelled data set.
        seeds: Number of seeds.
        betas: Weights of the rate, finite and `>= 0`; `None` for `BETAS`.

    Raises:
        DataError: the data set has no labels, or labels in its test set that the training set lacks.
        CellError: another process works in the folder.
        ResultError: the file is damaged.
    """
    betas = list(dict.fromkeys(betas or BETAS))
    if dataset.train_labels is None or dataset.test_labels is None:
        remedy = "Use fashion_mnist or digits, or add them to your own .npz file."
        raise DataError(f"{dataset.name} has no labels for train and test. {remedy}")
    if unknown := set(np.unique(dataset.test_labels)) - set(np.unique(dataset.train_labels)):
        raise DataError(f"The test set of {dataset.name} has labels that its training set lacks, such as {min(unknown)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        rows = read_rows(path, get_type_hints(BottleneckPoint))
        finished = {(row["channel"], row["beta"], row["seed"]) for row in rows}
        for seed, channel, beta in itertools.product(range(seeds), CHANNELS, betas):
            if (channel, beta, seed) not in finished:
                logger.info("training: %s channel, beta %g, seed %d", channel, beta, seed)
                rows.append(asdict(train_point(dataset, channel, beta, seed)))
                write_rows(path, rows)
