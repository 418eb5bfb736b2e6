"""The Echo channel with a triangular matrix S(x) and its heads, ready to replace the sampling block of a VAE."""

import logging
import math
from typing import Any

import keras
from keras import ops

from echo_tf.echo.bound import max_scale
from echo_tf.echo.checks import Tensor, check_features, check_seed
from echo_tf.echo.freezing import freeze_parts
from echo_tf.echo.heads import ConstantHead, EchoWithHeads, scale_head
from echo_tf.echo.matrix import below_head, lower_triangular, matrix_gather_noise, matrix_noise, product
from echo_tf.echo.signed import bounded_scale, log_magnitude
from echo_tf.echo.source import EchoSource
from echo_tf.echo.standardise import RunningStandardiser

logger = logging.getLogger(__name__)

# Share of the standard deviation of the noise that may be cut from it unnoticed.
LARGEST_TRUNCATION = 1e-3


@keras.saving.register_keras_serializable(package="echo_tf")
class MatrixEchoDense(EchoWithHeads):
    """Echo channel with a triangular matrix `S(x)` and its heads: used as `EchoDense`, whose channel it starts as.

    `f = tanh(W h + b)` and `z = f + S e` with Echo noise `e`, where `S(x)` is lower-triangular. Its diagonal is `r s(x)` with
    `log s = log_sigmoid(W' h + b')` as in `EchoDense`; the `m (m - 1) / 2` entries below are a third, linear head of `h`, whose
    kernel and bias start at 0, divided by `sqrt(m)`. The output is `(z - E z) / sd(z)` in every dimension. The rate is exact:
    `-log det S(x) = -sum_j log( r s_j(x) )` nats, whatever stands below the diagonal.

    Of a row of `m` entries that all grow at the pace of an optimizer's step the length grows `sqrt(m)` times as fast. Without
    the divisor the variance of the last dimensions reached 1e14 on digits in the epochs in which all dimensions are at the
    floor of the rate, and the model was lost.

    The noise needs no bound of the norm of `S`: products of triangular matrices go to 0 as soon as `E log s_jj < 0` for every
    j, which `r < 1` ensures. What is cut after `d_max` of them is no longer bounded by `r`, but measured: see `truncation`,
    which `adapt` looks at.

    Moments in training are those of the `z` of the batch (`RunningStandardiser`, also for the reason). `adapt` stores them in
    closed form; call it at the end of training with the features of some 10,000 examples. The pull of the means to 0 is that of
    `EchoDense`, as are reservoir, inference and the behaviour under `trainable = False`.

    Args:
        units: Integer, dimension `m` of `z`.
        rate_weight: Float or `None`, see `WeightedRateLayer`.
        d_max, reservoir_size, echoes, seed: see `EchoLayer`. The reservoir holds matrices, `4 m^2` bytes an example.
        signed: Boolean. `True` lets the entries of the diagonal have either sign: `r tanh(W' h + b')`, and the rate is
            `-sum_j log |s_jj(x)|`.
        constant_scale: Boolean. `True` makes `S` a trained matrix, the same for every `x`, and so is the rate.
        noise: `"echo"`; or `"gaussian"` or `"independent"`, for comparisons: with these the rate is not exact. It is an upper
            bound for Gaussian noise, and a formula only for independent noise (`echo_tf.echo.laws.redrawn`).

    Call arguments:
        inputs: Features. Shape `(batch, ..., features)`, as for `EchoDense`.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z` of shape `(batch, ..., units)`; rate in nats per example, shape `(batch,)`. Both float32.

    Raises:
        ValueError: invalid arguments; an empty batch; a batch of one example before all others, outside of a graph.

    Source: paper, equation 1 and Theorem 2.3, where a matrix `S(x)` is left to future work; Bougerol and Picard 1992 (the
        products converge). Differs from `MatrixEchoLayer`, which bounds a norm of `S`, and whose floor of the rate is higher.

    Example:
        >>> layer = MatrixEchoDense(8)
        >>> z, rate = layer(keras.ops.ones((100, 16)), return_rate=True)
        >>> tuple(z.shape), round(layer.rate_floor, 4)
        ((100, 8), 1.4343)
    """

    gather = staticmethod(matrix_gather_noise)

    def __init__(
        self,
        units: int,
        *,
        rate_weight: float | None = 1.0,
        d_max: int = 99,
        reservoir_size: int | None = None,
        echoes: str = "batch",
        seed: int | None = None,
        noise: str = "echo",
        signed: bool = False,
        constant_scale: bool = False,
        **kwargs,
    ):
        super().__init__(rate_weight, **kwargs)
        self.units, self.d_max, self.reservoir_size, self.noise = units, d_max, reservoir_size, noise
        self.echoes, self.seed = echoes, check_seed(seed)
        self.signed, self.constant_scale = signed, constant_scale
        self.log_max_scale = math.log(max_scale(d_max))
        options = {"law": noise, "name": "source"}
        self.source = EchoSource(matrix_noise, d_max, "ring", False, reservoir_size, echoes, seed, **options)
        self.source.owner = self.name
        self.mean_head = keras.layers.Dense(units, activation="tanh", dtype="float32", name="mean")
        self.log_scale_head = scale_head(units, signed, constant_scale)
        is_constant = constant_scale and units > 1
        self.below_head = ConstantHead(units * (units - 1) // 2, name="below") if is_constant else below_head(units)
        self.standardiser = RunningStandardiser(name="standardiser")
        self.warn_of_loss_scaling()

    def build(self, input_shape):
        check_features(input_shape)
        freeze_parts(self)
        for head in (self.mean_head, self.log_scale_head, self.below_head):
            head.build(input_shape)
        shape = (None, *input_shape[1:-1], self.units)
        self.source.build(shape, (*shape, self.units))
        self.standardiser.build(shape)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`f(x)`, `S(x)`, and `-log |s_jj(x)|`. Shapes `(batch, ..., m)`, `(batch, ..., m, m)`, `(batch, ..., m)`."""
        self.build_for(inputs)
        diagonal = self.log_scale_head(inputs)  # without `r`, which comes in nowhere else
        if self.signed:
            diagonal = bounded_scale(diagonal, math.exp(self.log_max_scale))
            log_scale = log_magnitude(diagonal)
        else:
            log_scale = diagonal + self.log_max_scale
            diagonal = ops.exp(log_scale)
        below = self.below_head(inputs) / math.sqrt(self.units)
        return self.mean_head(inputs), lower_triangular(diagonal, below), -log_scale

    def attenuate(self, scale: Tensor, noise: Tensor) -> Tensor:
        return product(scale, noise)

    def as_matrix(self, scale: Tensor) -> Tensor:
        return scale

    @property
    def rate_floor(self) -> float:  # type: ignore[override]
        return -self.units * self.places * self.log_max_scale

    def mean_and_scale(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`f(x)`, and the length of every row of `S(x)`; each of shape `(batch, ..., units)`."""
        mean, scale = self.statistics(inputs)
        return mean, ops.norm(scale, axis=-1)

    def scale_matrix(self, inputs: Tensor) -> Tensor:
        return self.statistics(inputs)[1]

    def truncation(self) -> float:
        """What `d_max` echoes cut from the noise, in standard deviations of the noise.

        The root mean square of (product of `d_max` matrices) times (noise that would follow), of the dimension where it is
        largest, for the pairs of the reservoir. As long as it is small, `z` and `e` have one law and the rate is exact.
        """
        return self.source.truncation()

    def adapt(self, data: Any, seed: int = 0) -> None:
        super().adapt(data, seed)
        truncation = self.truncation()
        if not truncation <= LARGEST_TRUNCATION:
            logger.warning(
                "%s: what d_max = %d echoes cut from the noise is %.2g of its standard deviation, so that the rate is only "
                "approximate. Train it with a larger d_max, in batches of more examples than that.",
                self.path or self.name,
                self.d_max,
                truncation,
            )

    def get_config(self):
        names = ("units", "d_max", "reservoir_size", "echoes", "seed", "noise", "signed", "constant_scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
