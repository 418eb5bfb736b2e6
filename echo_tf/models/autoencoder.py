"""The rate-distortion autoencoder, made of an encoder, a channel and a decoder."""

from typing import Any

import keras
from keras import ops

from echo_tf.echo.channel import Channel
from echo_tf.echo.checks import check_options, not_negative
from echo_tf.models.coding import Coding
from echo_tf.models.distortions import DistortionFunction, make_distortion
from echo_tf.models.fitting import Fitting
from echo_tf.models.penalties import BetaConstraint, MMDPenalty, TotalCorrelationPenalty
from echo_tf.models.priors import MAFPrior, VampPrior
from echo_tf.models.refusals import check_kinds, check_no_targets, check_parts
from echo_tf.models.saving import Saving


@keras.saving.register_keras_serializable(package="echo_tf")
class RateDistortionModel(Coding, Fitting, Saving):
    """Autoencoder with a noisy channel, trained on `E[distortion + beta * rate]`, plus a penalty if there is one.

    An ordinary Keras model: `compile`, `fit(x)`, `evaluate(x)`, `predict(x)`, `save`. Metrics: `loss`, and `rate` and
    `distortion` in nats per example, without beta. A call and `predict` give a dictionary of `z`, `parameters` (those of
    `p(x|z)`, in the shape of `x`), `rate` `(n,)`, `distortion` `(n,)` and, for channels with a density, `log_ratio` `(n,)`:
    `log q(z|x) - log p(z)` at this very `z`, where the rate is exact or averaged as far as formulas go. `train_on_batch` and
    loops of your own check no examples: begin them with `follow(data)`, end them with `refresh_channel(x)`.

    Args:
        encoder: Keras model or layer, examples of any shape to features.
        decoder: Keras model or layer, `z` to the parameters of `p(x|z)`, in the shape of the examples. One with the attribute
            `takes_example`, as `PixelCNN`, is called with `[z, x]`, and draws examples itself with `sample(z)`.
        channel: `EchoDense`, `MatrixEchoDense`, `GaussianChannel`, `FullGaussianChannel`, `IAFChannel`, or another
            `Channel`. Its own `rate_weight` is not used here.
        prior: Marginal that the rate refers to: `None` for the channel's own, `VampPrior`, or `MAFPrior`.
        beta: Float >= 0, multiplies the rate. `model.beta` is a variable, also for `model.beta = 0.5`, at any time (within an
            epoch on JAX by callbacks, as `self.model.beta`).
        distortion: `"bernoulli"` (the decoder gives log odds of pixels in [0, 1]); `"gaussian"` or `Gaussian(sd)` (it gives
            means); or a function `(x, parameters) -> nats`, shape `(batch,)`.
        penalty: `MMDPenalty`, `TotalCorrelationPenalty`, or `None`.
        constraint: `BetaConstraint`, or `None`. With it beta changes in training until rate or distortion is at its target.

    Raises:
        ValueError: parts of another kind; a prior beside a channel without density, or one that does not fit it; a constraint
            below the channel's floor; a decoder that takes the example, with another distortion than `"bernoulli"`; invalid
            arguments. In `fit` and `evaluate`, examples of another shape than the encoder's, or outside the range of the
            distortion; targets or `sample_weight`.

    Source: paper, equation 8 (objective) and section 5 (Bernoulli decoder).

    Example:
        >>> import numpy as np
        >>> from echo_tf import EchoDense
        >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu")])
        >>> model = RateDistortionModel(encoder, keras.layers.Dense(8), EchoDense(4), distortion="gaussian")
        >>> model.compile("adam")
        >>> history = model.fit(np.random.default_rng(0).normal(size=(500, 8)), batch_size=100, verbose=0)
        >>> outputs = model.predict(np.zeros((3, 8)), verbose=0)
        >>> outputs["z"].shape, outputs["rate"].shape
        ((3, 4), (3,))
    """

    def __init__(
        self,
        encoder: keras.Layer,
        decoder: keras.Layer,
        channel: Channel,
        *,
        prior: MAFPrior | VampPrior | None = None,
        beta: float = 1.0,
        distortion: str | Any | DistortionFunction = "bernoulli",
        penalty: MMDPenalty | TotalCorrelationPenalty | None = None,
        constraint: BetaConstraint | None = None,
        **kwargs,
    ):
        check_options(type(self), kwargs)
        check_kinds(channel, prior, penalty, constraint)
        # The networks alone follow the dtype policy; examples, channel and losses are float32.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.encoder, self.decoder = (
            network if isinstance(network, keras.Model) else keras.Sequential([network]) for network in (encoder, decoder)
        )
        self.takes_example: bool = getattr(self.decoder, "takes_example", False)
        self.channel, self.penalty, self.constraint = channel, penalty, constraint
        channel.reports_rate = False  # the model does
        self.prior: Any = prior
        self.distortion = make_distortion(distortion)
        check_parts(channel, prior, self.takes_example, self.distortion, penalty, constraint)
        self._beta = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(not_negative("beta", beta)), trainable=False, name="beta"
        )
        self.rate_metric = keras.metrics.Mean(name="rate")
        self.distortion_metric = keras.metrics.Mean(name="distortion")
        self.penalty_metric = None if penalty is None else keras.metrics.Mean(name=penalty.quantity)

    @property
    def beta(self) -> keras.Variable:
        """Weight of the rate in the objective, a scalar variable."""
        return self._beta

    @beta.setter
    def beta(self, value: Any) -> None:
        self._beta.assign(not_negative("beta", value))  # a number in its place would be lost on a compiled training

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        check_no_targets(y, sample_weight)
        rate, distortion = y_pred["rate"], y_pred["distortion"]
        self.rate_metric.update_state(rate)
        self.distortion_metric.update_state(distortion)
        beta = self.beta
        if training and self.constraint is not None:
            beta, following = self.constraint(self.beta, rate, distortion)
            self.beta.assign(following)
        loss = ops.mean(distortion + beta * rate)
        if self.penalty is not None:
            discrepancy = self.penalty(y_pred["z"])
            self.penalty_metric.update_state(discrepancy)
            loss = loss + self.penalty.weight * discrepancy
        return sum((ops.cast(extra, loss.dtype) for extra in self.losses), start=loss)  # of the networks: regularisers, say
