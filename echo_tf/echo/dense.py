"""The Echo channel with its heads, ready to replace the sampling block of a VAE."""

import keras
from keras import ops

from echo_tf.echo.checks import Tensor, check_choice, check_features, positive
from echo_tf.echo.freezing import freeze_parts
from echo_tf.echo.heads import EchoWithHeads, scale_head
from echo_tf.echo.laws import NOISE_LAWS
from echo_tf.echo.layer import EchoLayer
from echo_tf.echo.signed import SignedEchoLayer
from echo_tf.echo.source import EchoSource
from echo_tf.echo.standardise import Standardiser

PARAMETRISATIONS = ("standardised", "literal", "centred")


@keras.saving.register_keras_serializable(package="echo_tf")
class EchoDense(EchoWithHeads):
    """Echo channel with its two heads: replaces the sampling block of a VAE in one line.

    `f = tanh((W h + b) / mean_scale)`, `log s = log_sigmoid(W' h + b')`, `z = f + r s e` with Echo noise `e` (see `EchoLayer`,
    also for the reservoir), and the output is `(z - E z) / sd(z)` in every dimension, with the moments in closed form. The map
    is affine, so channel, noise and rate are exact whatever it is. The rate is `-sum_j log( r s_j(x) )` nats.

    The moments are those of the batch in training and stored ones at inference, which `adapt` makes precise: call it at the end
    of training with the features of some 10,000 examples. (`RateDistortionModel.fit` does.) In training the gradient of
    `CENTRING * sum_j (E f_j)^2` is added to that of `f`, though not to the loss. docs/guides/parametrisation.md says why.

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
        signed: Boolean. `True` lets `s_j(x)` have either sign: `s = tanh(W' h + b')`, and the rate is `-sum_j log |r s_j(x)|`.
        constant_scale: Boolean. `True` makes `s` a trained vector, the same for every `x`, and so is the rate.
        noise: `"echo"`; or `"gaussian"` or `"independent"`, for comparisons: with these the rate is not exact, but an upper
            bound (`echo_tf.echo.laws.redrawn` says of what).

    Call arguments:
        inputs: Features. Shape `(batch, ..., features)`; of feature maps the heads are 1x1 convolutions, and moments and echoes
            are those of each place. Sequences pass as `(batch, time, features)`; `TimeDistributed` would mix times.
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
        signed: bool = False,
        constant_scale: bool = False,
        reservoir_size: int | None = None,
        echoes: str = "batch",
        seed: int | None = None,
        noise: str = "echo",
        **kwargs,
    ):
        super().__init__(rate_weight, **kwargs)
        check_choice("parametrisation", parametrisation, PARAMETRISATIONS)
        self.units, self.parametrisation, self.mean_scale = units, parametrisation, positive("mean_scale", mean_scale)
        self.multiplicative, self.signed, self.constant_scale = multiplicative, signed, constant_scale
        options = {"reservoir_size": reservoir_size, "echoes": echoes, "seed": seed}
        layer = SignedEchoLayer if signed else EchoLayer
        self.echo = layer(d_max, max_mean, sampler, replace, name="echo", **options)  # type: ignore[arg-type]
        check_choice("noise", noise, NOISE_LAWS)
        self.noise = self.source.law = noise
        self.source.owner = self.name
        self.mean_head = keras.layers.Dense(units, dtype="float32", name="mean")
        self.log_scale_head = scale_head(units, signed, constant_scale)
        moments = self.echo.moments
        self.standardiser = Standardiser(moments, name="standardiser") if parametrisation == "standardised" else None
        self.warn_of_loss_scaling()

    @property
    def source(self) -> EchoSource:  # type: ignore[override]
        return self.echo.source

    @property
    def gather(self):
        return self.echo.gather

    def build(self, input_shape):
        check_features(input_shape)
        freeze_parts(self)
        self.mean_head.build(input_shape)
        self.log_scale_head.build(input_shape)
        shape = (None, *input_shape[1:-1], self.units)
        self.echo.build([shape] * 2)
        self.echo.built = True  # it is not called, only its methods are
        if self.standardiser is not None:
            self.standardiser.build(shape)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`f(x)`; `log s(x)` with `log r`, signed `r s(x)`; the rate; each of shape `(batch, ..., units)`."""
        self.build_for(inputs)
        mean = ops.tanh(self.mean_head(inputs) / self.mean_scale)
        if self.parametrisation == "centred":
            mean = mean - ops.mean(mean, axis=0)
        return mean, *self.echo.scale_and_rates(self.log_scale_head(inputs))

    def attenuate(self, scale: Tensor, noise: Tensor) -> Tensor:
        return self.echo.attenuate(scale, noise)

    def finished(self, z: Tensor) -> Tensor:
        return ops.exp(z) if self.multiplicative else z

    @property
    def rate_floor(self) -> float:  # type: ignore[override]
        return self.echo.rate_floor(self.units * self.places)

    def mean_and_scale(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.statistics(inputs)
        return mean, self.attenuate(scale, ops.ones_like(mean))

    def get_config(self):
        echo = ("d_max", "max_mean", "sampler", "replace", "reservoir_size", "echoes", "seed")
        own = ("units", "multiplicative", "parametrisation", "mean_scale", "signed", "constant_scale", "noise")
        of_echo = {name: getattr(self.echo, name) for name in echo}
        return {**super().get_config(), **of_echo, **{name: getattr(self, name) for name in own}}
