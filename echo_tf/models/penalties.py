"""What may stand in an objective beside distortion and rate: a penalty on the law of z, and a constraint that sets beta."""

from typing import Any

import keras
from keras import ops

from echo_tf.echo.checks import Tensor, check_choice, check_positive, check_seed
from echo_tf.models.losses import constrained_beta, median_bandwidth, mmd

BANDWIDTHS = ("median", "fixed")


@keras.saving.register_keras_serializable(package="echo_tf")
class MMDPenalty(keras.layers.Layer):
    """Maximum mean discrepancy between the outputs of a batch and fresh draws of N(0, I), see `mmd`.

    Args:
        weight: Float >= 0, its weight in the objective. `penalty.weight` is a variable.
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

    def __init__(
        self,
        weight: float = 1.0,
        bandwidth: str = "median",
        fixed_bandwidth: float = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        check_choice("bandwidth", bandwidth, BANDWIDTHS)
        check_positive("fixed_bandwidth", fixed_bandwidth)
        check_seed(seed)
        self.bandwidth, self.fixed_bandwidth, self.seed = bandwidth, fixed_bandwidth, seed
        initial = keras.initializers.Constant(weight)
        self.weight = self.add_weight(shape=(), initializer=initial, trainable=False, name="weight")
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, z):
        prior = keras.random.normal(ops.shape(z), dtype="float32", seed=self.seed_generator)
        return mmd(z, prior, median_bandwidth(prior) if self.bandwidth == "median" else self.fixed_bandwidth**2)

    def get_config(self):
        names = ("bandwidth", "fixed_bandwidth", "seed")
        weight = float(ops.convert_to_numpy(self.weight))
        return {**super().get_config(), "weight": weight, **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="echo_tf")
class BetaConstraint:
    """Lets training find the beta at which rate or distortion is at a target; see `constrained_beta`.

    Args:
        quantity: `"rate"` or `"distortion"`.
        target_nats: Float > 0.
        gain: Float > 0, relative change of beta a step for a relative deviation of 1.

    Raises:
        ValueError: invalid arguments.

    Example:
        >>> weight, following = BetaConstraint("rate", 20.0)(1.0, rate=ops.full((100,), 25.0), distortion=ops.ones((100,)))
        >>> bool(following > 1.0)  # too much rate: beta rises
        True
    """

    def __init__(self, quantity: str, target_nats: float, gain: float = 0.05):
        check_choice("quantity", quantity, ("rate", "distortion"))
        check_positive("target_nats", target_nats)
        check_positive("gain", gain)
        self.quantity, self.target_nats, self.gain = quantity, target_nats, gain

    def __call__(self, beta: Tensor, rate: Tensor, distortion: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of the rate in this step, and beta after it; `rate` and `distortion` of shape `(batch,)`."""
        nats = ops.mean({"rate": rate, "distortion": distortion}[self.quantity])
        return constrained_beta(beta, self.quantity, nats, self.target_nats, self.gain)

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BetaConstraint":
        return cls(**config)
