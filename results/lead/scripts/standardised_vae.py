"""VAEs whose `z` is standardised, with and without a warm-up of beta: the rows of `standardised_vae.csv`.

From the root of the repository, `PYTHONPATH=. python results/lead/scripts/standardised_vae.py`. It goes on where it was
stopped. A script and no option of the package, since nothing but this comparison needs it.
"""

import itertools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import echo_tf
from echo_tf.experiments.evaluation import evaluate, standard_error
from echo_tf.files import locked, read_rows, write_rows
from echo_tf.models.channels import FullGaussianChannel, row_squares
from echo_tf.models.networks import NETWORKS
from echo_tf.models.schedules import make_optimizer

FOLDER = Path(__file__).parent
SEEDS = range(3)
COLUMNS = {"method": str, "seed": int, "rate_nats": float, "distortion_nats": float, "neg_elbo_nats": float}
QUANTITIES = tuple(COLUMNS)[2:]


class StandardisedGaussian(FullGaussianChannel):
    """`z = (y - E y) / sd(y)` in every dimension, `y = mean(h) + L(h) n`, with the rate `KL(q(z|x) || N(0, I))`.

    The moments are those of the batch in training, in closed form and with their gradient, and at inference those of the
    training images. With these the rate is `-E log det` of `L` after standardisation, as Echo's.

    Args:
        units: Integer, dimension of `z`.
        full: Boolean; `False` leaves `L` diagonal.
        seed: Integer.
    """

    has_memory = True

    def __init__(self, units: int, full: bool, seed: int):
        super().__init__(units, seed=seed)
        self.full = full

    def build(self, input_shape):
        super().build(input_shape)
        moment = {"shape": (self.units,), "trainable": False}
        self.centre = self.add_weight(initializer="zeros", name="centre", **moment)
        self.variance = self.add_weight(initializer="ones", name="variance", **moment)

    def statistics(self, inputs, training=False):
        mean, log_sd, factor = self._before(inputs)
        moments = _moments(mean, factor) if training else (self.centre, self.variance)
        centre, variance = (ops.convert_to_tensor(moment) for moment in moments)
        sd = ops.sqrt(variance + 1e-6)
        return (mean - centre) / sd, log_sd - ops.log(sd), factor / sd[:, None]

    def _before(self, inputs):
        mean, log_sd, factor = super().statistics(inputs)
        return mean, log_sd, factor if self.full else factor * ops.eye(self.units)

    def adapt(self, data, seed=0):
        mean, _, factor = self._before(data)
        for variable, value in zip((self.centre, self.variance), _moments(mean, factor), strict=True):
            variable.assign(value)


def _moments(mean, factor):
    """Mean and variance of every dimension of a mixture of `N(mean, L L')` over the batch."""
    return ops.mean(mean, axis=0), ops.var(mean, axis=0) + ops.mean(row_squares(factor), axis=0)


def measured(images: echo_tf.Dataset, standardised: bool, full: bool, warm: bool, seed: int) -> dict[str, float]:
    """Rate, distortion and their sum of a model, nats of a test image."""
    keras.utils.set_random_seed(seed)
    config = echo_tf.load_config("vae", dataset="digits", training={"beta_warmup": 0.5 if warm else 0.0})
    training, units = config.training, config.network.latent_dim
    train = images.train
    encoder, decoder = NETWORKS["mlp"](train.shape[1:], units)
    channel = StandardisedGaussian(units, full, seed) if standardised else echo_tf.GaussianChannel(units, seed=seed)
    model = echo_tf.RateDistortionModel(encoder, decoder, channel)
    model.compile(optimizer=make_optimizer(training, len(train) // training.batch_size))

    def set_beta(epoch, logs=None):
        if warm:
            model.beta.assign(min(1.0, (epoch + 1) / (0.5 * training.epochs)))

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=set_beta)
    batches = (
        tf.data.Dataset.from_tensor_slices(train).shuffle(len(train), seed).batch(training.batch_size, drop_remainder=True)
    )
    model.fit(batches, epochs=training.epochs, callbacks=[callback], shuffle=False, verbose=0)
    model.refresh_channel(train)
    found = evaluate(model, images.test, seed=seed).summary()
    return {name: found[name]["mean"] for name in QUANTITIES}


def main() -> None:
    """Train what is missing, write the table, and print means with standard errors over seeds."""
    images, path = echo_tf.load_dataset("digits"), FOLDER / "standardised_vae.csv"
    variants = {"vae": (False, False, False)}
    for full, warm in itertools.product((False, True), (False, True)):
        variants[f"vae{'_full' * full}_standardised{'_warm' * warm}"] = (True, full, warm)
    with locked(FOLDER):
        rows = read_rows(path, COLUMNS)
        known = {(row["method"], row["seed"]) for row in rows}
        for (name, variant), seed in itertools.product(variants.items(), SEEDS):
            if (name, seed) not in known:
                rows.append({"method": name, "seed": seed, **measured(images, *variant, seed)})
                write_rows(path, rows)
    for name in variants:
        values = np.array([[row[quantity] for quantity in QUANTITIES] for row in rows if row["method"] == name])
        columns = (f"{column.mean():.2f} ± {standard_error(column):.2f}" for column in values.T)
        print(f"| `{name}` | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
