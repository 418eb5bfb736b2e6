"""How loose is the rate of an encoder with a density? A MAF fitted afterwards to the law of its `z` says it, from below.

A rate with the marginal p is `I(X; Z) + KL(q(z) || p(z))`. Encoder, channel and decoder stay as they are; what a better
marginal takes off the rate of held-out images was in that divergence.
"""

import keras
import numpy as np
from keras import ops

from echo_tf.echo.channel import Channel
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.examples import some_examples
from echo_tf.models.flows import AutoregressiveFlow
from echo_tf.models.gaussian_echo import GaussianEcho
from echo_tf.models.losses import gaussian_log_density
from echo_tf.models.refresh import REFRESH_EXAMPLES

STEPS = 1_500
BATCH = 250
LEARNING_RATE = 1e-3
# Four shift-only steps, as in the methods with a MAF; narrower than theirs (640), so that a fit takes seconds.
HIDDEN = (256, 256, 256)
EPOCH_STEPS = 100  # between two looks at the examples that are left out of the fit
PATIENCE = 4  # such looks without a better one end it: of few images every MAF learns the means by heart
LEFT_OUT = 0.1
DRAWS = 10  # of z, for each held-out image


class FittedMarginal(keras.Model):
    """A MAF in whitened coordinates: `log p(z) = log N(T^-1(W (z - M)); 0, diag(exp(2 a))) + log det W`.

    `M` and `W` are those of given draws of `z`. It starts as the Gaussian of their mean and covariance. The flow `T` preserves
    volume, so that the variances of its base are learnt too.

    Args:
        channel: It is frozen, and draws of it are what `fit`, given features, learns from.
        z: Draws of it, shape `(n, m)`, `n > m`.

    Call arguments:
        inputs: Features. Shape `(batch, features)`.

    Returns:
        `log p(z)` of a fresh draw for every example, nats, shape `(batch,)`.
    """

    def __init__(self, channel: Channel, z: np.ndarray):
        super().__init__(dtype="float32")
        channel.trainable = False
        self.channel, self.flow = channel, AutoregressiveFlow(channel.units, hidden=HIDDEN)
        self.flow.build()
        self.flow.start_at_identity()
        self.base_log_sd = self.add_weight(shape=(channel.units,), initializer="zeros", name="base_log_sd")
        factor = np.linalg.cholesky(np.cov(z, rowvar=False, dtype=np.float64).reshape(channel.units, channel.units))
        self.centre = z.mean(axis=0)
        self.whitening = np.linalg.inv(factor).T.astype("float32")
        self.log_det = -float(np.log(np.diag(factor)).sum())

    def log_prob(self, z):
        """`log p(z)`, shape `(batch,)`."""
        u, log_det = self.flow(ops.matmul(z - self.centre, self.whitening))
        return gaussian_log_density(u, 0.0, 2.0 * self.base_log_sd) + log_det + self.log_det

    def sample(self, n: int):
        """Draws, shape `(n, m)`."""
        u = ops.exp(self.base_log_sd) * keras.random.normal((n, self.channel.units))
        return self.centre + ops.matmul(self.flow.forward(u), np.linalg.inv(self.whitening))

    def call(self, inputs):
        return self.log_prob(ops.stop_gradient(self.channel.draw(inputs).z))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return -ops.mean(y_pred)


def fit_marginal(channel: Channel, features: np.ndarray, steps: int = STEPS, seed: int = 0) -> FittedMarginal:
    """Fit a marginal to the law of `z`, with fresh draws in every step.

    Args:
        channel: A channel, which is frozen.
        features: Those of training images, shape `(n, features)`. A tenth of them tells when to stop.
        steps: Integer, most steps of Adam, whose learning rate falls to 0 as a cosine.
        seed: Integer, for networks, order and the choice of that tenth.
    """
    keras.utils.set_random_seed(seed)
    features = np.random.default_rng(seed).permutation(features)
    kept = int(len(features) * (1.0 - LEFT_OUT))
    z = np.concatenate([ops.convert_to_numpy(channel.draw(features[:kept]).z) for _ in range(-(-10_000 // kept))])
    marginal = FittedMarginal(channel, z)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    marginal.compile(keras.optimizers.Adam(schedule), jit_compile=keras.backend.backend() == "jax")
    examples, others = _repeated(features[:kept], EPOCH_STEPS * BATCH), _repeated(features[kept:], 2_000)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True)
    marginal.fit(
        examples,
        validation_data=(others,),
        batch_size=BATCH,
        epochs=max(1, round(steps * BATCH / len(examples))),
        callbacks=[stop],
        verbose=0,
    )
    return marginal


def _repeated(rows: np.ndarray, least: int) -> np.ndarray:
    """The rows, all of them as often as it takes to have at least so many."""
    return np.tile(rows, (-(-least // len(rows)), 1))


def measure_looseness(
    model: RateDistortionModel, train: np.ndarray, images: np.ndarray, *, steps: int = STEPS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """By how much a fitted marginal lowers the rate of a trained model.

    Args:
        model: A model that `is_fittable`. That of an Echo channel is measured with Gaussian noise in the place of Echo's
            (`GaussianEcho`): the same rate formula, and a density.
        train: Training images, float32, shape `(n, ...)`.
        images: Held-out images, for the estimates.
        steps, seed: See `fit_marginal`.

    Returns:
        Rate of every held-out image, and what the fitted marginal takes off it: `E log p(z) - log N(z; 0, I)`. Means over
        `DRAWS` draws, nats, each of shape `(images,)`.
    """
    channel, known = model.channel, model.features(train)
    if not channel.has_density:
        channel = GaussianEcho(channel, seed=seed)
        channel.match(some_examples(known, REFRESH_EXAMPLES))
    marginal = fit_marginal(channel, known, steps, seed)
    features, rates, gains = model.features(images), [], []
    for _ in range(DRAWS):
        draw = channel.draw(features)
        rates.append(ops.convert_to_numpy(draw.rate))
        gains.append(ops.convert_to_numpy(marginal.log_prob(draw.z) - gaussian_log_density(draw.z, 0.0, 0.0)))
    return np.mean(rates, axis=0), np.mean(gains, axis=0)
