"""Small autoencoders for synthetic sources: learned rate-distortion points beside the exact curve."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from echo_tf.echo.channel import Channel
from echo_tf.echo.dense import EchoDense
from echo_tf.experiments.evaluation import standard_error
from echo_tf.experiments.steps import keep_to_float32
from echo_tf.models.channels import GaussianChannel
from echo_tf.theory.sources import Source

CHANNELS = ("echo", "gaussian")

# Echo's floor is 0.02 nats a dimension here: batches are cheap where examples are numbers.
BATCH_SIZE = 1_000
HIDDEN = 64

# The learning rate falls along a cosine in every cycle.
CYCLE_STEPS = 700
CYCLES = 2
LEARNING_RATE = 2e-3

REFRESH_EXAMPLES = 10_000
EVALUATION_BATCHES = 200


@dataclass(frozen=True)
class LearnedPoint:
    """A learned model's place in the rate-distortion plane.

    `rate_nats` is the channel's own rate: for Echo the exact formula, for the Gaussian channel the KL divergence from its
    N(0, I) marginal, an upper bound of I(X; Z). `excess_nats` is its distance from the exact `R(D)` at the measured
    distortion, with the standard error of `rate + slope * distortion`. Standard errors are over fresh evaluation batches.
    """

    source: str
    channel: str
    seed: int
    slope: float
    rate_nats: float
    rate_se: float
    distortion: float
    distortion_se: float
    exact_rate_nats: float
    excess_nats: float
    excess_se: float


def make_channel(kind: str, units: int, echoes: int, seed: int) -> Channel:
    """`EchoDense` with so many echoes, or `GaussianChannel`. Its rate is not in its loss: the model puts it there."""
    if kind == "echo":
        return EchoDense(units, rate_weight=None, d_max=echoes, seed=seed, name="channel")
    return GaussianChannel(units, seed=seed, name="channel")


class SourceAutoencoder(keras.Model):
    """Two-layer encoder and decoder around a channel with as many dimensions as the source; objective rate + slope * D.

    Echo has all other examples of a batch as echoes.

    Args:
        source: The `Source`.
        channel: One of `CHANNELS`.
        seed: Integer, for the noise.
    """

    def __init__(self, source: Source, channel: str, seed: int):
        super().__init__()
        self.measure = source.measure
        self.encoder = _perceptron(source.dim)
        self.channel = make_channel(channel, source.dim, BATCH_SIZE - 1, seed)
        self.decoder = _perceptron(source.dim, source.dim)
        self.slope = self.add_weight(shape=(), initializer="ones", trainable=False, name="slope")
        self.channel.build(self.encoder.output_shape)

    def call(self, x, training=None):
        z, rate = self.channel(self.encoder(x), return_rate=True, training=training)
        error = x - self.decoder(z)
        per_coordinate = ops.square(error) if self.measure == "squared" else ops.abs(error)
        return {"rate": rate, "distortion": ops.sum(per_coordinate, axis=-1)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(y_pred["rate"] + self.slope * y_pred["distortion"])


def _perceptron(inputs: int, outputs: int | None = None) -> keras.Model:
    """Two hidden layers beside the input itself, which they leave alone at first, and a linear map if `outputs` is given.

    A code that starts as a linear one is monotone. From random hidden layers it may fold a number onto itself, and training
    does not undo that.
    """
    x = keras.Input((inputs,))
    hidden = keras.layers.Dense(HIDDEN, "gelu")(keras.layers.Dense(HIDDEN, "gelu")(x))
    features = keras.layers.Concatenate()([x, keras.layers.Dense(HIDDEN, kernel_initializer="zeros")(hidden)])
    return keras.Model(x, features if outputs is None else keras.layers.Dense(outputs)(features))


def learn_curve(source: Source, channel: str, seed: int) -> list[LearnedPoint]:
    """Train one model through the slopes of a source in their order, and measure it at each.

    From the flattest on, the model learns the coarse structure of the source first; the other way it keeps a code of many
    fine steps for good. Training examples are never used twice; evaluation is on fresh ones.

    Args:
        source: The `Source`.
        channel: One of `CHANNELS`.
        seed: Integer, for weights, data and noise.

    Returns:
        One `LearnedPoint` per slope.
    """
    keep_to_float32()
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = SourceAutoencoder(source, channel, seed)
    schedule = keras.optimizers.schedules.CosineDecayRestarts(LEARNING_RATE, CYCLE_STEPS, t_mul=1.0, alpha=0.01)
    model.compile(optimizer=keras.optimizers.Adam(schedule), steps_per_execution=CYCLE_STEPS // 7)
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the steps a second time, for its variables
    points = []
    for slope in source.slopes:
        model.slope.assign(slope)
        for _ in range(CYCLES):
            model.fit(source.sample(rng, CYCLE_STEPS * BATCH_SIZE), batch_size=BATCH_SIZE, shuffle=False, verbose=0)
        if model.channel.has_memory:
            model.channel.adapt(model.encoder(source.sample(rng, REFRESH_EXAMPLES)))
        points.append(LearnedPoint(source.name, channel, seed, slope, **_measure(model, source, slope, rng)))
    return points


def _measure(model: SourceAutoencoder, source: Source, slope: float, rng: np.random.Generator) -> dict[str, float]:
    # Echoes from the batch, one ring within each: examples of a batch depend on each other, batches do not. (`predict` would
    # build a graph of `steps_per_execution` steps, which takes longer than the whole training.)
    model.channel.echoes_from_batch(True)
    batches = [model.predict_on_batch(source.sample(rng, BATCH_SIZE)) for _ in range(EVALUATION_BATCHES)]
    rates, distortions = (np.array([batch[name].mean() for batch in batches]) for name in ("rate", "distortion"))
    rate, distortion = float(rates.mean()), float(distortions.mean())
    exact = float(source.rate(distortion))
    return {
        "rate_nats": rate,
        "rate_se": standard_error(rates),
        "distortion": distortion,
        "distortion_se": standard_error(distortions),
        "exact_rate_nats": exact,
        "excess_nats": rate - exact,
        "excess_se": standard_error(rates + slope * distortions),
    }
