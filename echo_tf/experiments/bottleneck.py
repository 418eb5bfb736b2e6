"""The experiment `bottleneck`: labels instead of images as what must be kept, the cross-entropy of the label as distortion.

`min E[-log p(y|z)] + beta I(X; Z)`, the information bottleneck (Tishby et al. 1999) in its variational form (Alemi et al.
2017), with an Echo channel, whose rate is exact, and with a Gaussian one, whose rate is an upper bound (deep VIB).
"""

import itertools
import logging
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import keras
import numpy as np
from keras import ops
from scipy import stats

from echo_tf.data.load import Dataset
from echo_tf.echo.layers_old import EchoDense
from echo_tf.errors import ConfigError, DataError
from echo_tf.files import locked, read_rows, write_rows
from echo_tf.models.channels import GaussianChannel
from echo_tf.models.losses import mean_rate
from echo_tf.statistics import standard_error

logger = logging.getLogger(__name__)

CHANNELS = ("echo", "gaussian")
BETAS = (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.7)

# A label is worth log 10 = 2.3 nats: with 999 echoes the floor of Echo is 0.16 nats, with 99 it would be 1.4.
BATCH_SIZE = 1_000
D_MAX = BATCH_SIZE - 1
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


def build_classifier(channel: str, beta: float, classes: int, seed: int, steps: int) -> keras.Model:
    """A functional Keras model from images to logits, its rate in its loss.

    Args:
        channel: `"echo"` or `"gaussian"`.
        beta: Weight of the rate.
        classes: Number of labels.
        seed: Integer, for the noise.
        steps: Length of the training, over which the learning rate falls along a cosine.

    Returns:
        A compiled model with the outputs `logits` and `rate`.
    """
    images = keras.Input((28, 28, 1))
    h = keras.layers.Flatten()(images)
    for units in HIDDEN:
        h = keras.layers.Dense(units, activation="relu")(h)
    if channel == "echo":
        layer = EchoDense(LATENT_DIM, rate_weight=None, d_max=D_MAX, seed=seed, name="channel")
    else:
        layer = GaussianChannel(LATENT_DIM, seed=seed, name="channel")
    z, rate = layer(h, return_rate=True)
    logits = keras.layers.Dense(classes, name="logits")(z)
    model = keras.Model(images, {"logits": logits, "rate": rate})
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        loss={
            "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "rate": mean_rate,
        },
        loss_weights={"logits": 1.0, "rate": beta},
    )
    return model


def train_point(dataset: Dataset, channel: str, beta: float, seed: int) -> BottleneckPoint:
    """Train one classifier and measure it on the test set."""
    keras.utils.set_random_seed(seed)
    images, labels = dataset.train, dataset.train_labels
    count = len(images) // BATCH_SIZE * BATCH_SIZE
    model = build_classifier(channel, beta, int(labels.max()) + 1, seed, EPOCHS * count // BATCH_SIZE)
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))[:count]  # whole batches only: Echo needs its echoes
        targets = {"logits": labels[order], "rate": np.zeros(count)}
        model.fit(images[order], targets, batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    layer = model.get_layer("channel")
    if channel == "echo":
        features = keras.Model(model.input, layer.input).predict(images[:REFRESH_IMAGES], batch_size=BATCH_SIZE, verbose=0)
        layer.adapt(features)

    tests, answers = dataset.test, dataset.test_labels
    rate, cross_entropy, right = (np.empty((PASSES, len(tests))) for _ in range(3))
    for p in range(PASSES):
        order = rng.permutation(len(tests))
        outputs = model.predict(tests[order], batch_size=BATCH_SIZE, verbose=0)
        log_probability = ops.convert_to_numpy(ops.log_softmax(outputs["logits"]))
        rate[p, order] = outputs["rate"]
        cross_entropy[p, order] = -np.take_along_axis(log_probability, answers[order, None].astype(int), 1)[:, 0]
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


def run(folder: Path, dataset: Dataset, seeds: int, betas: list[float] | None = None) -> Path:
    """Train what is missing of all channels, betas and seeds; returns the CSV file of all points.

    Raises:
        ConfigError: a beta that is negative or not finite.
        DataError: the data set has no labels, or fewer training images than a batch needs.
        CellError: another process works in `folder`.
        ResultError: the file is damaged.
    """
    betas = list(dict.fromkeys(betas or BETAS))
    if wrong := [beta for beta in betas if not 0 <= beta < math.inf]:
        raise ConfigError(f"Invalid value for `beta`. Expected a finite number of at least 0. Received: {wrong[0]}")
    if dataset.train_labels is None:
        raise DataError(f"{dataset.name} has no labels. Use fashion_mnist.")
    if len(dataset.raw("train")) < BATCH_SIZE:
        raise DataError(f"{dataset.name} has fewer than {BATCH_SIZE} training images. Use fashion_mnist.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset.name}.csv"
    with locked(folder):
        rows = read_rows(path, {field.name: field.type for field in fields(BottleneckPoint)})
        finished = {(row["channel"], row["beta"], row["seed"]) for row in rows}
        for seed, channel, beta in itertools.product(range(seeds), CHANNELS, betas):
            if (channel, beta, seed) not in finished:
                logger.info("training: %s channel, beta %g, seed %d", channel, beta, seed)
                rows.append(asdict(train_point(dataset, channel, beta, seed)))
                write_rows(path, rows)
    return path
