"""The Echo channel with its heads, ready to replace the sampling block of a VAE."""

import logging
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.channel import Channel, Draw
from echo_tf.echo.checks import Tensor, check_choice, check_positive, concatenated
from echo_tf.echo.layer import EchoLayer
from echo_tf.echo.noise import echo_rate, independent_noise
from echo_tf.echo.standardise import Standardiser

logger = logging.getLogger(__name__)

PARAMETRISATIONS = ("standardised", "literal", "centred")

# Weight of the pull of E f towards 0. With s(x) constant the objective does not depend on E f at all.
CENTRING = 3.0


@keras.saving.register_keras_serializable(package="echo_tf")
class EchoDense(Channel):
    """Echo channel with its two heads: replaces the sampling block of a VAE in one line.

    `f = tanh((W h + b) / mean_scale)`, `log s = log_sigmoid(W' h + b')`, `z = f + r s e` with Echo noise `e` (see `EchoLayer`,
    also for the reservoir), and the output is `(z - E z) / sd(z)` in every dimension, with the moments in closed form. The map
    is affine, so channel, noise and rate are exact whatever it is. The rate is `-sum_j log( r s_j(x) )` nats.

    The moments are those of the batch in training and stored ones at inference, which `adapt` makes precise: call it at the end
    of training with the features of some 10,000 examples. (`RateDistortionModel.fit` does.) In training the gradient of
    `CENTRING * sum_j (E f_j)^2` is added to that of `f`, though not to the loss. docs/parametrisation.md says why.

    Args:
        units: Integer, dimension of `z`.
        rate_weight: Float or `None`, see `WeightedRateLayer`. This is beta, if the rest of the loss is a negative log
            likelihood *summed* over pixels, in nats.
        d_max, max_mean, sampler, replace, multiplicative, reservoir_size, echoes, seed: see `EchoLayer`. tanh keeps `|f|` below
            1; `max_mean = 2` gives centred means the `r` that they need.
        parametrisation: `"standardised"`; `"literal"`, which returns `z` itself as the paper describes it; or `"centred"`, as
            the code of its submission did: `z` itself, of `f` less its mean over the batch, at inference too, so that the
            output for an example depends on its batch.
        mean_scale: Float > 0, by which the input of tanh is divided. The authors' code had 64, later 16.

    Call arguments:
        inputs: Features. Shape `(batch, ..., features)`; of feature maps the heads are 1x1 convolutions, and moments and echoes
            are those of each place.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z` of shape `(batch, ..., units)`; rate in nats per example, shape `(batch,)`. Both float32.

    Raises:
        ValueError: invalid arguments; an empty batch; a batch of one example before all others, outside of a graph.

    Source: paper, section 2 and appendix (heads). Differs: the standardisation is ours (the paper's parametrisation
        collapses; the code of its submission centred `f` over the batch), as is the reservoir.

    Example:
        >>> h = keras.Input((256,))
        >>> z = EchoDense(32)(h)  # and the rate is in the loss of any model made with it
        >>> z.shape
        (None, 32)
    """

    has_density = False
    has_memory = True

    def __init__(
        self,
        units: int,
        *,
        rate_weight: float | None = 1.0,
        d_max: int = 99,
        max_mean: float = 1.0,
        sampler: str = "ring",
        replace: bool = False,
        multiplicative: bool = False,
        parametrisation: str = "standardised",
        mean_scale: float = 1.0,
        reservoir_size: int | None = None,
        echoes: str = "batch",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(rate_weight, **kwargs)
        check_choice("parametrisation", parametrisation, PARAMETRISATIONS)
        check_positive("mean_scale", mean_scale)
        self.units, self.parametrisation, self.mean_scale = units, parametrisation, mean_scale
        self.multiplicative = multiplicative
        options = {"reservoir_size": reservoir_size, "echoes": echoes, "seed": seed}
        self.echo = EchoLayer(d_max, max_mean, sampler, replace, name="echo", **options)  # type: ignore[arg-type]
        self.mean_head = keras.layers.Dense(units, dtype="float32", name="mean")
        self.log_scale_head = keras.layers.Dense(units, activation="log_sigmoid", dtype="float32", name="log_scale")
        self.standardiser = Standardiser(name="standardiser") if parametrisation == "standardised" else None
        if self.standardiser is not None and keras.config.dtype_policy().name == "mixed_float16":
            logger.warning(
                "%s: where the loss is scaled, as Keras does under the policy mixed_float16, the pull of the means to the "
                "centre is lost, and they may drift until they saturate. Use mixed_bfloat16.",
                self.name,
            )

    def build(self, input_shape):
        self.mean_head.build(input_shape)
        self.log_scale_head.build(input_shape)
        shape = (None, *input_shape[1:-1], self.units)
        self.echo.build([shape] * 2)
        self.echo.built = True  # it is not called, only its methods are
        if self.standardiser is not None:
            self.standardiser.build(shape)

    def statistics(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`f(x)` and `log s(x)`, `log r` included, each of shape `(batch, ..., units)`."""
        mean = ops.tanh(self.mean_head(inputs) / self.mean_scale)
        if self.parametrisation == "centred":
            mean = mean - ops.mean(mean, axis=0)
        return mean, self.echo.bounded(self.log_scale_head(inputs))

    def draw(self, inputs: Tensor, training: bool | None = None) -> Draw:
        training = bool(training) and self.trainable  # a frozen layer is in inference mode, as in Keras
        mean, log_scale = self.statistics(inputs)
        if self.standardiser is not None and training:
            mean = _pull_to_centre(mean)
        z = self.echo.send(mean, log_scale, training)
        if self.standardiser is not None:
            source = self.echo.source
            options = {"training": training, "always_renormalise": source.echoes == "reservoir"}
            z = self.standardiser.transform(z, mean, log_scale, source.reservoir, **options)
        return Draw(ops.exp(z) if self.multiplicative else z, echo_rate(log_scale))

    def rate_per_dimension(self, inputs: Tensor) -> Tensor:
        return -self.statistics(inputs)[1]

    @property
    def rate_floor(self) -> float:  # type: ignore[override]
        return self.echo.rate_floor(self.units)

    def mean_and_scale(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.statistics(inputs)
        return mean, ops.exp(log_scale)

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal law of the output: those of `EchoLayer.sample_marginal`, standardised like `z`."""
        z = self.echo.sample_marginal(n)
        z = z if self.standardiser is None else self.standardiser.by_stored(z)
        return ops.exp(z) if self.multiplicative else z

    def noise_samples(self, inputs: Tensor, draws: int, batch_size: int, seed: int = 0) -> np.ndarray:
        """Independent draws of the noise `e`, before any standardisation; see `independent_noise`."""
        pairs = self.statistics(ops.convert_to_tensor(inputs))
        return independent_noise(*pairs, self.echo.d_max, draws, batch_size, replace=self.echo.replace, seed=seed)

    def adapt(self, data: Any, seed: int = 0) -> None:
        """Renew reservoir and moments with the pairs of given examples under the present parameters, in one pass.

        Args:
            data: Features of training examples, shape `(n, ..., features)`, or an iterable of batches of them; some 10,000 make
                the moments precise, which are those of all. Of the reservoir see `EchoLayer.adapt`.
            seed: Integer, for the sample that the reservoir keeps.

        Raises:
            ValueError: fewer than two examples, or features that are not finite.
        """
        features = concatenated(data)
        if not self.built:
            self.build((None, *features.shape[1:]))
        mean, log_scale = self.statistics(features)
        self.echo.source.reservoir.fill(mean, log_scale, seed)
        if self.standardiser is not None:
            self.standardiser.set_moments(mean, log_scale)

    def renormalise(self) -> None:
        """From now on, standardise in training by the stored moments, with the gradient of those of the batch.

        Moments of 100 examples jitter, which costs distortion as channel noise does. While the heads move fast the stored ones
        lag too far behind: call this when the learning rate is small, as `train` does after four fifths of the epochs.
        """
        if self.standardiser is not None:
            self.standardiser.renormalising.assign(1.0)

    def echoes_from_batch(self, yes: bool) -> None:
        self.echo.source.batch_at_inference.assign(float(yes))

    def get_config(self):
        echo = ("d_max", "max_mean", "sampler", "replace", "reservoir_size", "echoes", "seed")
        own = ("units", "multiplicative", "parametrisation", "mean_scale")
        of_echo = {name: getattr(self.echo, name) for name in echo}
        return {**super().get_config(), **of_echo, **{name: getattr(self, name) for name in own}}


@ops.custom_gradient
def _pull_to_centre(mean: Tensor):
    """The identity, whose gradient adds that of `CENTRING * sum_j (batch mean of f_j)^2`, a penalty left out of the loss."""
    pull = 2.0 * CENTRING * ops.mean(mean, axis=0) / ops.cast(ops.shape(mean)[0], mean.dtype)

    def gradient(*arguments, upstream=None):
        return (arguments[0] if upstream is None else upstream) + pull

    return mean, gradient
