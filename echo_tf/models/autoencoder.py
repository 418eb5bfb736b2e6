"""The rate-distortion autoencoder, made of an encoder, a channel and a decoder."""

import logging
import math
from typing import Any

import keras
from keras import ops

from echo_tf.echo.channel import Channel, Draw
from echo_tf.echo.checks import Tensor, check_options, not_negative
from echo_tf.models.coding import Coding
from echo_tf.models.distortions import (
    Bernoulli,
    DistortionFunction,
    check_parameters,
    make_distortion,
)
from echo_tf.models.examples import check_examples, some_examples
from echo_tf.models.losses import gaussian_log_density
from echo_tf.models.penalties import BetaConstraint, MMDPenalty, TotalCorrelationPenalty
from echo_tf.models.priors import MAFPrior, VampPrior
from echo_tf.models.refresh import REFRESH_EXAMPLES, RefreshChannel

logger = logging.getLogger(__name__)

PARTS = ("encoder", "decoder", "channel", "prior", "distortion", "penalty", "constraint")


@keras.saving.register_keras_serializable(package="echo_tf")
class RateDistortionModel(Coding):
    """Autoencoder with a noisy channel, trained on `E[distortion + beta * rate]`, plus a penalty if there is one.

    An ordinary Keras model: `compile`, `fit(x)`, `evaluate(x)`, `predict(x)`, `save`. Metrics: `loss`, and `rate` and
    `distortion` in nats per example, without beta. A call and `predict` give a dictionary of `z`, `parameters` (those of
    `p(x|z)`, in the shape of `x`), `rate` `(n,)`, `distortion` `(n,)` and, for channels with a density, `log_ratio` `(n,)`:
    `log q(z|x) - log p(z)` at this very `z`, where the rate is exact or averaged as far as formulas go.

    Args:
        encoder: Keras model or layer, examples of any shape to features.
        decoder: Keras model or layer, `z` to the parameters of `p(x|z)`, in the shape of the examples. One with the attribute
            `takes_example`, as `PixelCNN`, is called with `[z, x]`, and draws examples itself with `sample(z)`.
        channel: `EchoDense`, `MatrixEchoDense`, `GaussianChannel`, `FullGaussianChannel`, `IAFChannel`, or another
            `Channel`. Its own `rate_weight` is not used here.
        prior: Marginal that the rate refers to: `None` for the channel's own, `VampPrior`, or `MAFPrior`.
        beta: Float >= 0, multiplies the rate. `model.beta` is a variable.
        distortion: `"bernoulli"` (the decoder gives log odds of pixels in [0, 1]); `"gaussian"` or `Gaussian(sd)` (it gives
            means); or a function `(x, parameters) -> nats`, shape `(batch,)`.
        penalty: `MMDPenalty`, `TotalCorrelationPenalty`, or `None`.
        constraint: `BetaConstraint`, or `None`. With it beta changes in training until rate or distortion is at its target.

    Raises:
        ValueError: a prior beside a channel without density, or one that does not fit it; invalid arguments; in `fit` and
            `evaluate`, examples of another shape than the encoder's, or outside the range of the distortion; targets or
            `sample_weight`; a decoder that takes the example, with another distortion than `"bernoulli"`.

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
        # The networks alone follow the dtype policy; examples, channel and losses are float32.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if prior is not None and not channel.has_density:
            raise ValueError(
                f"Invalid value received for argument `prior`. Expected None with {type(channel).__name__}, which has no "
                "density q(z|x): its rate is exact with its own marginal."
            )
        if prior is not None and prior.needs_components and not channel.has_components:
            raise ValueError(
                f"Invalid value received for argument `prior`. Expected None or a MAFPrior with {type(channel).__name__}: a "
                f"{type(prior).__name__} is made for Gaussians with independent dimensions."
            )
        self.encoder, self.decoder = (
            network if isinstance(network, keras.Model) else keras.Sequential([network]) for network in (encoder, decoder)
        )
        self.takes_example: bool = getattr(self.decoder, "takes_example", False)
        self.channel, self.penalty, self.constraint = channel, penalty, constraint
        channel.reports_rate = False  # the model does
        self.prior: Any = prior
        self.distortion = make_distortion(distortion)
        if self.takes_example and not isinstance(self.distortion, Bernoulli):
            raise ValueError(
                'Invalid value received for argument `distortion`. Expected "bernoulli" with a decoder that takes the example, '
                f"since it draws pixels of 0 and 1. Received: distortion={distortion!r}"
            )
        self.beta = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(not_negative("beta", beta)), trainable=False, name="beta"
        )
        self._in_own_step = self._has_warned = self._has_warned_of_order = False
        self.rate_metric = keras.metrics.Mean(name="rate")
        self.distortion_metric = keras.metrics.Mean(name="distortion")
        self.penalty_metric = None if penalty is None else keras.metrics.Mean(name=penalty.quantity)

    def build(self, input_shape):
        features = self.encoder(keras.KerasTensor((None, *input_shape[1:]), "float32"))
        if not self.channel.built:
            self.channel.build(tuple(features.shape))
        z_shape = self.channel.compute_output_shape(tuple(features.shape))
        self._parameters(keras.KerasTensor(z_shape, "float32"), keras.KerasTensor((None, *input_shape[1:]), "float32"))
        for part in (self.prior, self.penalty):
            if part is not None and not part.built:
                part.build(z_shape)

    def train_step(self, *args, **kwargs):
        self._in_own_step = True
        try:
            return super().train_step(*args, **kwargs)
        finally:
            self._in_own_step = False

    def call(self, inputs, training=None):
        if training and not self._in_own_step and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s is trained by a model around it or in a loop of its own. Its rate and distortion are in that loss only if "
                "you call its compute_loss, or add the outputs `rate` and `distortion`.",
                self.name,
            )
        draw = self.channel.draw(self.encoder(inputs, training=training), training=training)
        parameters = self._parameters(draw.z, inputs, training)
        check_parameters(self.distortion, inputs, parameters)
        distortion = self.distortion(inputs, parameters)
        if len(distortion.shape) != 1:
            raise ValueError(f"Expected a distortion of shape (batch,), a number an example. Received: {distortion.shape}")
        outputs = {"z": draw.z, "parameters": parameters, "rate": draw.rate, "distortion": distortion}
        if draw.density is not None:
            log_marginal = self._log_marginal(draw)
            outputs["log_ratio"] = draw.density.at_draw - log_marginal
            if self.prior is not None:
                outputs["rate"] = draw.density.expected - log_marginal
        return outputs

    def _parameters(self, z: Tensor, x: Tensor, training: bool | None = None) -> Tensor:
        """Parameters of `p(x|z)`, the shape of `x`."""
        return self.decoder([z, x] if self.takes_example else z, training=training)

    def _log_marginal(self, draw: Draw) -> Tensor:
        """`log p(z) + log |det dz/dbase|` at a draw, nats, shape `(batch,)`."""
        if self.prior is None:
            return gaussian_log_density(draw.z, 0.0, 0.0) + draw.density.log_det
        return self.prior.log_marginal(draw, self.components())

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y is not None or sample_weight is not None:
            raise ValueError(
                "A RateDistortionModel takes no targets, since it reconstructs its input, and no sample_weight or "
                "class_weight: let examples occur as often as they shall weigh."
            )
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

    def fit(self, x=None, y=None, batch_size=None, *args, callbacks=None, **kwargs):
        """`keras.Model.fit`, after which what the channel stores is that of the final parameters.

        It is also renewed for each validation, which leaves no trace in the training. From a generator, which cannot be read a
        second time, it stays that of the last training steps; `refresh_channel` renews it, and so it should in a model that
        `ModelCheckpoint` saved in the middle. A channel that is frozen stays as it is. The pseudo-inputs of a VampPrior are set
        to training examples before the first training.

        Raises:
            ValueError: see the class; a generator for a VampPrior that has not been started.
        """
        self._check(x, y, kwargs.get("sample_weight", kwargs.get("class_weight")))
        data = x
        if hasattr(x, "shape"):
            if not kwargs.get("shuffle", True):
                self._warn_of_order()
            data = x[: math.floor(len(x) * (1.0 - kwargs.get("validation_split", 0.0)))]  # as Keras splits it
        callbacks = callbacks if isinstance(callbacks, list | tuple) else [c for c in (callbacks,) if c]
        # Behind callbacks that change the weights: `SwapEMAWeights` before a validation, `EarlyStopping` at the end. But those
        # that use the model at the end find it renewed.
        refresh = self.follow(data)
        first = keras.callbacks.LambdaCallback(on_train_end=refresh.on_train_end)
        return super().fit(x, y, batch_size, *args, callbacks=[first, *callbacks, refresh], **kwargs)

    def follow(self, data: Any) -> RefreshChannel:
        """Ready the prior for a training on `data`; the callback that renews the channel, for loops other than `fit` of it."""
        if self.prior is not None and self.prior.needs_start and not ops.convert_to_numpy(self.prior.started) > 0:
            self._start_prior(data)
        return RefreshChannel(data)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate`. Raises `ValueError` as `fit`."""
        self._check(x, y, kwargs.get("sample_weight"))
        return super().evaluate(x, y, *args, **kwargs)

    def _check(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Refuse what would train for hours and mean nothing."""
        if y is not None or sample_weight is not None:
            self.compute_loss(y=y, sample_weight=sample_weight)
        if getattr(self, "loss", None) is not None:  # not in `compile`: with one of its own a model is loaded without optimizer
            raise ValueError(
                "Invalid value received for argument `loss` of `compile`. Expected None: a RateDistortionModel has a loss of "
                f"its own, made of `distortion` and `beta`. Received: loss={self.loss!r}"
            )
        if x is not None and not hasattr(x, "__next__"):
            check_examples(x, self.encoder, self.distortion)

    def _warn_of_order(self) -> None:
        if self.channel.has_memory and not self._has_warned_of_order:
            self._has_warned_of_order = True
            logger.warning(
                "fit(shuffle=False) takes batches in the order of the data. The examples of a batch are each other's noise in "
                "%r, so each must be a random sample: of data that are sorted, by label say, the rate is wrong. Leave out "
                "shuffle=False unless they are in random order.",
                self.channel.name,
            )

    def _start_prior(self, data: Any) -> None:
        if hasattr(data, "__next__"):
            raise ValueError(
                "The pseudo-inputs of a VampPrior start from training images, which a generator gives only once. Call "
                "model.prior.start_from(images) before fit, or pass an array or a dataset."
            )
        # Of an array, which may be sorted, all; a dataset is taken to be shuffled.
        self.prior.start_from(ops.convert_to_numpy(data) if hasattr(data, "shape") else some_examples(data, REFRESH_EXAMPLES))

    @property
    def random_states(self) -> list[keras.Variable]:
        """States of all generators of random numbers, in a fixed order."""
        return [variable for variable in self.variables if variable.path.endswith("seed_generator_state")]

    def save_own_variables(self, store):
        store["beta"] = ops.convert_to_numpy(self.beta)
        # Keras saves no state of seed generators; with it a training that is resumed draws the noise that it would have.
        for i, state in enumerate(self.random_states):
            store[f"random_state_{i}"] = ops.convert_to_numpy(state)

    def load_own_variables(self, store):
        self.beta.assign(store["beta"][()])
        for i, state in enumerate(self.random_states):
            state.assign(store[f"random_state_{i}"][()])

    def get_config(self):
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in PARTS}
        return {"name": self.name, "beta": float(ops.convert_to_numpy(self.beta)), **parts}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if "encoder" not in config:
            raise ValueError("This file was written by version 0.1 of echo_tf. Load it with that version, or train anew.")
        parts = {name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in PARTS}
        return cls(**{**config, **parts})
