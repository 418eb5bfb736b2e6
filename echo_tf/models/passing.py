"""How an example passes through a rate-distortion model: encoder, channel, decoder, and what that costs."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from echo_tf.echo.channel import Channel, Draw
from echo_tf.echo.checks import Tensor
from echo_tf.models.distortions import DistortionFunction, check_parameters
from echo_tf.models.losses import gaussian_log_density

logger = logging.getLogger(__name__)


class Passing(keras.Model):
    """A model of an encoder, a channel and a decoder, without what trains it."""

    encoder: keras.Model
    decoder: keras.Model
    channel: Channel
    prior: Any
    distortion: DistortionFunction
    takes_example: bool
    _in_own_step = _has_warned = False

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
        with self.own_step():
            return super().train_step(*args, **kwargs)

    @contextlib.contextmanager
    def own_step(self) -> Iterator[None]:
        """A training step inside it counts rate and distortion, so `call` does not warn that nobody does."""
        self._in_own_step = True
        try:
            yield
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

    def components(self) -> tuple[Tensor, Tensor] | None:
        """Means and log variances of the components of a prior, where it has some: those of its pseudo-inputs."""
        if not self.prior.needs_components:
            return None
        if not self.prior.built:
            self.prior.build()
        # As in inference, also in training: BatchNormalization would take moments of, and remember, what is no example.
        features = self.encoder(ops.convert_to_tensor(self.prior.pseudo_inputs), training=False)
        return self.channel.statistics(features)
