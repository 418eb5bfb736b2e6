"""What may stand in an objective beside distortion and rate: a penalty on the law of z, and a constraint that sets beta."""

import itertools
from typing import Any

import keras
from keras import ops

from echo_tf.echo.bound import invalid
from echo_tf.echo.checks import SEEDS, Tensor, check_choice, check_is_flat, check_options, check_seed, not_negative, positive
from echo_tf.models.distortions import Serializable
from echo_tf.models.losses import median_bandwidth, mmd

BANDWIDTHS = ("median", "fixed")
BETA_RANGE, DAMPING = (1e-4, 1e4), 5.0  # of `BetaConstraint`


class Penalty(keras.layers.Layer):
    """A term of the objective that regards the outputs of a whole batch. A subclass has a `quantity`, the name of its metric.

    Args:
        weight: Float >= 0, its weight in the objective. `penalty.weight` is a variable, which can be assigned.
        seed: Integer or `None`, seeds what it draws.
    """

    quantity: str

    def __init__(self, weight: float, seed: int | None, **kwargs):
        check_options(type(self), kwargs)
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.seed = check_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        initial = keras.initializers.Constant(not_negative("weight", weight))
        self._weight = self.add_weight(shape=(), initializer=initial, trainable=False, name="weight")

    @property
    def weight(self) -> keras.Variable:
        """Weight in the objective, a scalar variable."""
        return self._weight

    @weight.setter
    def weight(self, value: Any) -> None:
        self._weight.assign(not_negative("weight", value))

    def build(self, z_shape):
        check_is_flat(self.name, z_shape)

    def get_config(self):
        return {**super().get_config(), "weight": float(ops.convert_to_numpy(self.weight)), "seed": self.seed}


@keras.saving.register_keras_serializable(package="echo_tf")
class MMDPenalty(Penalty):
    """Maximum mean discrepancy between the outputs of a batch and fresh draws of N(0, I), see `mmd`.

    Args:
        weight: Float >= 0, its weight in the objective. `penalty.weight` is a variable, which can be assigned.
        bandwidth: Rule for `h` of the kernel: `"median"` or `"fixed"`.
        fixed_bandwidth: `h` of the rule `"fixed"`.
        seed: Integer or `None`, seeds the draws.

    Call arguments:
        z: Outputs of the channel, shape `(batch, dim)`.

    Returns:
        The discrepancy without its weight, a scalar without unit.

    Source: Gretton et al. 2012; Zhao et al. 2017 (InfoVAE).

    Example:
        >>> penalty = MMDPenalty(weight=10.0, bandwidth="fixed", fixed_bandwidth=2.0, seed=0)
        >>> bool(penalty(ops.ones((100, 4))) > penalty(keras.random.normal((100, 4), seed=1)))
        True
    """

    quantity = "mmd"

    def __init__(
        self, weight: float = 1.0, bandwidth: str = "median", fixed_bandwidth: float = 1.0, seed: int | None = None, **kwargs
    ):
        super().__init__(weight, seed, **kwargs)
        check_choice("bandwidth", bandwidth, BANDWIDTHS)
        self.bandwidth, self.fixed_bandwidth = bandwidth, positive("fixed_bandwidth", fixed_bandwidth)

    def call(self, z):
        prior = keras.random.normal(ops.shape(z), dtype="float32", seed=self.seed_generator)
        return mmd(z, prior, median_bandwidth(prior) if self.bandwidth == "median" else self.fixed_bandwidth**2)

    def get_config(self):
        return {**super().get_config(), "bandwidth": self.bandwidth, "fixed_bandwidth": self.fixed_bandwidth}


@keras.saving.register_keras_serializable(package="echo_tf")
class TotalCorrelationPenalty(Penalty):
    """Estimate of the total correlation of `z`, from a discriminator that is trained with the model.

    `TC(z) = KL(q(z) || prod_j q(z_j))`, the mean over the batch of `log D(z) / (1 - D(z))`, where `D` tells outputs of the
    batch from the same with each dimension permuted. The value is the estimate. Its gradient is that of the estimate for `z`,
    and for the parameters of `D` that of their own loss, the cross-entropy: one optimizer trains both at once.

    Args:
        weight: Float >= 0, its weight in the objective. `penalty.weight` is a variable. At 0 `D` does not learn.
        hidden: Widths of the hidden layers of `D`, leaky ReLU of slope 0.2.
        seed: Integer or `None`, seeds the permutations and the first weights.

    Call arguments:
        z: Outputs of the channel, shape `(batch, dim)`.

    Returns:
        The estimate without its weight, nats, a scalar.

    Raises:
        ValueError: invalid arguments.

    Source: Kim & Mnih 2018 (FactorVAE). Differs in that both halves see the same batch, as in the released code of Brekelmans
        et al., and in that `D` follows the optimizer of the model.

    Example:
        >>> penalty = TotalCorrelationPenalty(10.0, hidden=(16,), seed=0)
        >>> tuple(penalty(keras.random.normal((100, 4), seed=1)).shape)
        ()
    """

    quantity = "tc"
    LARGEST = 13.8  # of the log odds, those of a probability of 1e-6

    def __init__(self, weight: float = 1.0, hidden: tuple[int, ...] = (256, 256, 256), seed: int | None = None, **kwargs):
        super().__init__(weight, seed, **kwargs)
        if not hidden or any(not isinstance(units, int) or units < 1 for units in hidden):
            raise invalid("hidden", "widths of layers", str(hidden))
        self.hidden = tuple(hidden)

    def build(self, z_shape):
        super().build(z_shape)
        self.parameters = []
        widths = (z_shape[-1], *self.hidden, 1)
        for i, (units_in, units_out) in enumerate(itertools.pairwise(widths)):
            initial = keras.initializers.HeNormal(None if self.seed is None else (self.seed + i) % SEEDS)
            kernel = self.add_weight(shape=(units_in, units_out), initializer=initial, name=f"kernel_{i}")
            self.parameters.append((kernel, self.add_weight(shape=(units_out,), initializer="zeros", name=f"bias_{i}")))

    def call(self, z):
        frozen = [tuple(ops.stop_gradient(ops.convert_to_tensor(w)) for w in layer) for layer in self.parameters]
        estimate = ops.mean(self._log_odds(z, frozen))
        real = ops.stop_gradient(z)
        order = ops.argsort(keras.random.uniform(ops.shape(z), dtype="float32", seed=self.seed_generator), axis=0)
        permuted = ops.take_along_axis(real, order, axis=0)
        cross_entropy = 0.5 * ops.mean(
            ops.softplus(-self._log_odds(real, self.parameters)) + ops.softplus(self._log_odds(permuted, self.parameters))
        )
        return estimate + cross_entropy - ops.stop_gradient(cross_entropy)

    def _log_odds(self, z, parameters):
        for kernel, bias in parameters[:-1]:
            z = ops.leaky_relu(ops.matmul(z, kernel) + bias, negative_slope=0.2)
        kernel, bias = parameters[-1]
        return ops.clip((ops.matmul(z, kernel) + bias)[:, 0], -self.LARGEST, self.LARGEST)

    def get_config(self):
        return {**super().get_config(), "hidden": list(self.hidden)}


@keras.saving.register_keras_serializable(package="echo_tf")
class BetaConstraint(Serializable):
    """Lets training find the beta at which rate or distortion is at a target.

    With the relative deviation `c = sign (mean / target - 1)` of a batch, cut at -1 and 1 (a distortion may be negative), the
    weight of the rate in this step is `beta exp(DAMPING c)`, and beta becomes `beta exp(gain c)`: dual ascent in `log beta` on
    the Lagrangian of `min D` with `R = target` (sign 1), or of `min R` with `D = target` (sign -1, since there the multiplier
    is `1 / beta`). The first factor acts as the quadratic term of an augmented Lagrangian: it answers at once, so that beta
    itself does not run away while the model is still learning.

    Args:
        quantity: `"rate"` or `"distortion"`.
        target_nats: Float > 0.
        gain: Float > 0, relative change of beta a step for a relative deviation of 1.

    Raises:
        ValueError: invalid arguments.

    Source: Rezende & Viola 2018 (GECO), whose multiplier acts on the distortion; the paper's section 5 suggests constraints.
        Differs: relative deviation of the batch instead of nats of a moving average, and the damping.

    Example:
        >>> weight, following = BetaConstraint("rate", 20.0)(1.0, rate=ops.full((100,), 25.0), distortion=ops.ones((100,)))
        >>> bool(following > 1.0)  # too much rate: beta rises
        True
    """

    def __init__(self, quantity: str, target_nats: float, gain: float = 0.05):
        check_choice("quantity", quantity, ("rate", "distortion"))
        self.quantity, self.target_nats, self.gain = quantity, positive("target_nats", target_nats), positive("gain", gain)

    def __call__(self, beta: Tensor, rate: Tensor, distortion: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of the rate in this step, and beta after it, which lies in `BETA_RANGE`: scalars without gradient.

        `beta` is the multiplier so far, positive; `rate` and `distortion` are in nats, of shape `(batch,)`.
        """
        sign, values = (1.0, rate) if self.quantity == "rate" else (-1.0, distortion)
        deviation = sign * ops.stop_gradient(ops.clip(ops.mean(values) / self.target_nats - 1.0, -1.0, 1.0))
        return beta * ops.exp(DAMPING * deviation), ops.clip(beta * ops.exp(self.gain * deviation), *BETA_RANGE)
