"""Learned marginals p(z) that a rate may refer to. Channels have marginals of their own: N(0, I), Echo the law of its noise.

A model asks them for `log_marginal` of a draw and for `latent` draws of z. One with `needs_components` gets the means and log
variances that the encoder gives its `pseudo_inputs`; one with `needs_start` is shown training examples first.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import invalid
from echo_tf.echo.channel import Channel, Draw
from echo_tf.echo.checks import Tensor, check_choice, check_count, check_options, check_seed, not_negative
from echo_tf.echo.freezing import freeze_parts
from echo_tf.models.flows import AutoregressiveFlow
from echo_tf.models.losses import gaussian_log_density

Components = tuple[Tensor, Tensor]


@keras.saving.register_keras_serializable(package="echo_tf")
class UnitInterval(keras.constraints.Constraint):
    """Clips a weight to [0, 1] after every step."""

    def __call__(self, w):
        return ops.clip(w, 0.0, 1.0)


@keras.saving.register_keras_serializable(package="echo_tf")
class MAFPrior(keras.layers.Layer):
    """Masked autoregressive flow of a standard normal: `log p(z) = log N(T^-1(z); 0, I) + log |det dT^-1/dz|`.

    Density in one parallel pass, sampling in `dim` sequential ones.

    Args:
        dim: Integer, dimension of `z`.
        steps, hidden: see `AutoregressiveFlow`.
        train_flow: Boolean. `False` leaves the flow as it starts.
        seed: Integer or `None`, seeds the layer's own generator.

    Raises:
        ValueError: invalid arguments.

    Source: Papamakarios et al. 2017; sizes in the paper's appendix (four shift-only steps). Differs from the released code,
        which never trains the flow.

    Example:
        >>> prior = MAFPrior(4, hidden=(16,), seed=0)
        >>> prior.build()
        >>> tuple(prior.log_prob(prior.sample(3)).shape)
        (3,)
    """

    needs_components = needs_start = False

    def __init__(
        self,
        dim: int,
        steps: int = 4,
        hidden: tuple[int, ...] = (640, 640, 640),
        *,
        train_flow: bool = True,
        seed: int | None = None,
        **kwargs,
    ):
        check_options(type(self), kwargs)
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.dim, self.seed = dim, check_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.flow = AutoregressiveFlow(dim, steps, hidden, trainable=train_flow, name="flow")

    def build(self, input_shape=None):
        freeze_parts(self)
        if not self.flow.built:
            self.flow.build()

    def log_prob(self, z: Tensor) -> Tensor:
        """`log p(z)` in nats. Shape `(batch,)`."""
        u, log_det = self.flow(z)
        return gaussian_log_density(u, 0.0, 0.0) + log_det

    def sample(self, n: int) -> Tensor:
        """Draws. Shape `(n, dim)`."""
        return self.flow.forward(keras.random.normal((n, self.flow.dim), dtype="float32", seed=self.seed_generator))

    def log_marginal(self, draw: Draw, components: Any = None) -> Tensor:
        """Log density of `draw.density.base` if `z` has this law, nats. Shape `(batch,)`."""
        return self.log_prob(draw.z) + draw.density.log_det

    def latent(self, n: int, channel: Channel, components: Any = None) -> Tensor:
        """Draws of `z`. Shape `(n, dim)`."""
        return self.sample(n)

    def get_config(self):
        flow = {"dim": self.flow.dim, "steps": self.flow.steps, "hidden": list(self.flow.hidden)}
        return {**super().get_config(), **flow, "train_flow": self.flow.trainable, "seed": self.seed}


@keras.saving.register_keras_serializable(package="echo_tf")
class VampPrior(keras.layers.Layer):
    """Mixture of the encoder's own Gaussians at trained pseudo-inputs `u_k`: `p(z) = 1/K sum_k q(z|u_k)`.

    The layer owns the pseudo-inputs alone. Their means and variances come from the model's one encoder, and are arguments of
    the methods.

    Args:
        components: Integer K >= 1.
        image_shape: Shape of one pseudo-input.
        average: `"densities"`; or `"logs"`, `1/K sum_k log q(z|u_k)`, as in the authors' code: a lower bound of the former, and
            no mixture, but one product of all components.
        start: Where `start_from` puts the pseudo-inputs: at `"images"` drawn at random, or at their `"mean"`.
        start_noise: Float >= 0, standard deviation of the noise around the mean; 0 makes all equal for ever, as in the
            authors' code.
        seed: Integer or `None`, seeds the draws and the start of the pseudo-inputs, uniform in [0, 1] until `start_from`.

    Raises:
        ValueError: invalid arguments.

    Source: Tomczak and Welling 2018; K in section 5 of the paper. Differs from the released code, which averages the logarithms
        of the densities and starts all pseudo-inputs at the same image; and from Tomczak and Welling, who clip in the forward
        pass: here an optimizer's step is clipped, so that the gradient at 0 and 1 is not lost.

    Example:
        >>> prior = VampPrior(5, (8,), seed=0)
        >>> prior.build()
        >>> prior.start_from(np.random.default_rng(0).random((20, 8)))
        >>> tuple(prior.pseudo_inputs.shape)
        (5, 8)
    """

    needs_components = needs_start = True

    def __init__(
        self,
        components: int,
        image_shape: tuple[int, ...] = (28, 28, 1),
        *,
        average: str = "densities",
        start: str = "images",
        start_noise: float = 0.1,
        seed: int | None = None,
        **kwargs,
    ):
        check_options(type(self), kwargs)
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_choice("average", average, ("densities", "logs"))
        check_choice("start", start, ("images", "mean"))
        check_count(components, "components")
        self.components, self.image_shape, self.average, self.seed = components, tuple(image_shape), average, check_seed(seed)
        self.start, self.start_noise = start, not_negative("start_noise", start_noise)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape=None):
        self.pseudo_inputs = self.add_weight(
            shape=(self.components, *self.image_shape),
            initializer=keras.initializers.RandomUniform(0.0, 1.0, seed=self.seed),
            constraint=UnitInterval(),
            name="pseudo_inputs",
        )
        # Saved with the layer, so that no later training begins anew.
        self.started = self.add_weight(shape=(), initializer="zeros", trainable=False, name="started")

    def start_from(self, inputs: np.ndarray) -> None:
        """Set the pseudo-inputs to examples drawn at random, each once if there are enough; or around their mean.

        Args:
            inputs: Shape `(n, *image_shape)`, n >= 1, values in [0, 1].

        Raises:
            ValueError: inputs of another shape or range.
        """
        if not self.built:
            self.build()
        inputs = np.asarray(inputs)
        if inputs.shape[1:] != self.image_shape or not len(inputs):
            raise invalid("inputs", f"at least one example of shape {self.image_shape}", f"shape {inputs.shape}")
        low, high = float(inputs.min()), float(inputs.max())
        if not (low >= 0.0 and high <= 1.0):
            raise invalid("inputs", "values in [0, 1], where training keeps pseudo-inputs", f"values from {low:g} to {high:g}")
        rng = np.random.default_rng(self.seed)
        if self.start == "mean":
            shifts = self.start_noise * rng.standard_normal((self.components, *self.image_shape))
            values = np.clip(inputs.mean(axis=0) + shifts, 0.0, 1.0)
        else:
            rows = [rng.permutation(len(inputs)) for _ in range(-(-self.components // len(inputs)))]
            values = inputs[np.concatenate(rows)[: self.components]]
        self.pseudo_inputs.assign(values)
        self.started.assign(1.0)

    def log_prob(self, z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """`log 1/K sum_k N(z; mean_k, exp(log_var_k))` in nats.

        `z` of shape `(batch, dim)`, means and log variances of the components of shape `(K, dim)`. Returns shape `(batch,)`.
        """
        densities = gaussian_log_density(ops.expand_dims(z, 1), mean, log_var)  # (batch, K)
        if self.average == "logs":
            return ops.mean(densities, axis=1)
        return ops.logsumexp(densities, axis=1) - math.log(self.components)

    def sample(self, n: int, mean: Tensor, log_var: Tensor) -> Tensor:
        """Draws from the mixture with the given components. Shape `(n, dim)`."""
        chosen = keras.random.randint((n,), 0, self.components, seed=self.seed_generator)
        mean, log_var = ops.take(mean, chosen, axis=0), ops.take(log_var, chosen, axis=0)
        noise = keras.random.normal(ops.shape(mean), dtype="float32", seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * noise

    def log_marginal(self, draw: Draw, components: Components) -> Tensor:
        """Log density of `draw.density.base` if it has this law, nats, shape `(batch,)`.

        The components pass through the same flow as the draw: their densities are those before it.
        """
        return self.log_prob(draw.density.base, *components)

    def latent(self, n: int, channel: Channel, components: Components) -> Tensor:
        """Draws of `z`. Shape `(n, dim)`."""
        return channel.transform(self.sample(n, *components))

    def get_config(self):
        own = {name: getattr(self, name) for name in ("components", "average", "start", "start_noise", "seed")}
        return {**super().get_config(), **own, "image_shape": list(self.image_shape)}
