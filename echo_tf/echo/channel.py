"""What all noise channels of the package have in common."""

from typing import Any, NamedTuple

import keras
import numpy as np

from echo_tf.echo.checks import Tensor
from echo_tf.echo.weighted_rate import WeightedRateLayer


class Density(NamedTuple):
    """`q(z|x)` at a draw `z = T(base)`, where a channel has a density. `base` is Gaussian.

    Attributes:
        base: `z` before the flow `T`; `z` itself where there is none. Shape `(batch, dim)`.
        log_det: `log |det dz/dbase|`, shape `(batch,)`, 0 without a flow.
        at_draw: `log q(base|x)` at this draw; `at_draw - log_det` is `log q(z|x)`. Nats, `(batch,)`.
        expected: `E log q(base|x)` over draws where there is a formula, else `at_draw`. Nats, `(batch,)`.
    """

    base: Tensor
    log_det: Tensor
    at_draw: Tensor
    expected: Tensor


class Draw(NamedTuple):
    """A draw of `z` for each example, `(batch, ..., dim)`, its rate in nats, `(batch,)`, and its density where there is one.

    The rate is that of the channel's own marginal.
    """

    z: Tensor
    rate: Tensor
    density: Any = None  # a Density


class Channel(WeightedRateLayer):
    """A noise channel: features to `z`, with the rate that it sends. The interface of `EchoDense`, `GaussianChannel`, ...

    A subclass implements `draw`, `rate_per_dimension`, `mean_and_scale` and `sample_marginal`; with `has_components` also
    `statistics`, and with a flow `transform`. What is below is that of a channel that stores nothing about the training data.

    Attributes:
        units: Dimension of `z`.
        has_density: Boolean, whether `q(z|x)` has a density, so that a rate can refer to another marginal than the channel's.
        has_components: Boolean, whether that density is a Gaussian with independent dimensions, or a flow of one, so that
            `statistics` gives the mean and log variance of which a mixture of `q(z|x)` is made.
        has_memory: Boolean, whether the channel stores something about the training data, which `adapt` renews.
        rate_floor: Least rate in nats. Of feature maps that of one place, until the layer is built and knows their number.

    Call arguments:
        inputs: Features. Shape `(batch, features)`.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z` of shape `(batch, units)`; rate in nats per example, shape `(batch,)`. Both float32.
    """

    units: int
    has_density = True
    has_components = True
    has_memory = False
    rate_floor = 0.0

    def call(self, inputs, return_rate=False, training=None):
        draw = self.draw(inputs, training=training)
        self.add_rate_loss(draw.rate)
        if return_rate and training:
            self.warn_of_two_rates()
        return (draw.z, draw.rate) if return_rate else draw.z

    def build_for(self, inputs: Tensor) -> None:
        """Build a layer that was not called yet, for its methods."""
        if not self.built:
            self.build((None, *inputs.shape[1:]))

    def draw(self, inputs: Tensor, training: bool | None = None) -> Draw:
        """A draw of `z` for each example, with its rate."""
        raise NotImplementedError

    def rate_per_dimension(self, inputs: Tensor) -> Tensor:
        """Rate by dimension in nats, shape `(batch, units)`."""
        raise NotImplementedError

    def mean_and_scale(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What an example sends: signal and scale of the noise, each of shape `(batch, units)`. Echo's are not standardised."""
        raise NotImplementedError

    def transform(self, base: Tensor) -> Tensor:
        """`z` of a draw in front of the flow, shape `(n, units)`: without a flow the identity."""
        return base

    def scale_matrix(self, inputs: Tensor) -> Tensor | None:
        """The matrix that the noise is multiplied by, shape `(batch, units, units)`; `None` if it is a diagonal one."""
        return None

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal law that the rate refers to. Shape `(n, units)`."""
        raise NotImplementedError

    def noise_samples(self, inputs: Tensor, draws: int, batch_size: int, seed: int = 0) -> np.ndarray | None:
        """Independent draws of noise that is made from data, shape `(draws, units)`; `None` if the noise is Gaussian."""
        return None

    def adapt(self, data: Tensor, seed: int = 0) -> None:
        """Renew what is stored about the training data, from features of training examples."""

    def renormalise(self) -> None:
        """From now on let training use what is stored where that is less noisy than the batch."""

    def echoes_from_batch(self, yes: bool) -> None:
        """Let inference take the noise from the batch at hand, or from what is stored again."""

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def compute_output_spec(self, inputs, return_rate=False, training=None):
        # Tracing `call` to find the shape would try it with made-up batch sizes.
        if return_rate:
            self.warn_of_two_rates()
        z = keras.KerasTensor((*inputs.shape[:-1], self.units), "float32")
        return (z, keras.KerasTensor((inputs.shape[0],), "float32")) if return_rate else z
