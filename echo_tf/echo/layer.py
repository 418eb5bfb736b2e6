"""The bare Echo channel as a Keras layer, for heads of one's own."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from echo_tf.echo.bound import invalid, max_scale
from echo_tf.echo.checks import Tensor, check_same_shape, check_seed, concatenated_pairs
from echo_tf.echo.noise import diagonal_noise, echo_moments, echo_rate, gather_noise
from echo_tf.echo.source import EchoSource
from echo_tf.echo.weighted_rate import WeightedRateLayer


class BareEchoLayer(WeightedRateLayer):
    """What the Echo layers for heads of one's own have in common: they take `[mean, parameters of the scale]`.

    A subclass has a `source`, and implements `scale_and_rate` and `attenuate`.
    """

    source: EchoSource

    def scale_and_rate(self, mean: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Scale `S(x)` with `r`, in the form that the source takes, and the rate in nats, shape `(batch,)`."""
        raise NotImplementedError

    def attenuate(self, scale: Tensor, noise: Tensor) -> Tensor:
        """`S(x) e`."""
        raise NotImplementedError

    def call(self, inputs, return_rate=False, training=None):
        mean, parameters = (ops.cast(values, "float32") for values in pair(inputs))
        scale, rate = self.scale_and_rate(mean, parameters)
        z = self.send(mean, scale, training)
        self.add_rate_loss(rate)
        if return_rate and training:
            self.warn_of_two_rates()
        return (z, rate) if return_rate else z

    def send(self, mean: Tensor, scale: Tensor, training: bool | None) -> Tensor:
        """`z = f + S e` with fresh noise. In training the pairs are stored; a frozen layer is never in training."""
        return mean + self.attenuate(scale, self.source.noise(mean, scale, bool(training) and self.trainable))

    def sample_marginal(self, n: int) -> Tensor:
        """Draws from the marginal law of the output, which is that of the noise: no data needed.

        Draws that come from one pass over the reservoir depend on each other; each has the exact law.

        Args:
            n: Integer >= 1, number of draws.

        Returns:
            Shape `(n, ..., dim)`, float32.

        Raises:
            ValueError: the reservoir is empty, outside of a graph. (In one that cannot be noticed: the draws are 0 then.)
        """
        return self.source.sample_marginal(n)

    def adapt(self, data: Any, seed: int = 0) -> None:
        """Fill the reservoir from data, with one pass over them.

        Args:
            data: What the layer is called with, a pair of arrays, or an iterable of such batches. A random sample of them all
                is kept, so they may be sorted; fewer than the reservoir holds are repeated, which makes noise drawn from it
                approximate.
            seed: Integer, for the sample.

        Raises:
            ValueError: fewer than two examples; of `EchoLayer` also pairs for which the noise need not converge.
        """
        mean, parameters = concatenated_pairs(data)
        if not self.built:
            self.build([tuple(mean.shape), tuple(parameters.shape)])
        self.source.reservoir.fill(mean, self.scale_and_rate(mean, parameters)[0], seed)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def compute_output_spec(self, inputs, return_rate=False, training=None):
        # Tracing `call` to find the shape would try it with made-up batch sizes.
        if return_rate:
            self.warn_of_two_rates()
        z = keras.KerasTensor(inputs[0].shape, "float32")
        return (z, keras.KerasTensor(inputs[0].shape[:1], "float32")) if return_rate else z


def pair(inputs: Any) -> Any:
    """What an Echo layer is called with, or its shapes. Raises `ValueError` unless these are two."""
    if not isinstance(inputs, list | tuple) or len(inputs) != 2 or isinstance(inputs[0], int | None):
        raise ValueError(
            "Invalid value received for argument `inputs`. Expected a list of two tensors, the mean and what makes the scale. "
            f"Received: {inputs}"
        )
    return inputs


@keras.saving.register_keras_serializable(package="echo_tf")
class EchoLayer(BareEchoLayer):
    """The bare Echo channel: `z = f(x) + r s(x) e`, with noise `e` made from other examples, and the exact rate.

    `rate(x) = -sum_j log( r s_j(x) )` nats. The noise is fresh at every call. The layer computes in float32 under any policy.
    It owns `r = max_scale(d_max, max_mean)`, so that noise, signal and rate cannot use different ones.

    In training the echoes of an example are the others of its batch, up to `d_max`, and gradients flow through them. Behind
    the last one stands a draw of the noise from the reservoir, without gradient: pairs `(f, log s)` of the latest training
    examples, which are saved with the model. So batches may have any size. Batches must be random samples of the data: in a
    batch of one class the noise has the law of that class, while the rate seems right.

    At inference, and where the layer is frozen (`trainable = False`), the noise comes from the reservoir alone: the output for
    an example does not depend on the others. `adapt` renews the reservoir, whose pairs lag behind the heads by some
    `reservoir_size / batch` steps. Before the first training step it is empty, and the noise comes from the batch; a warning
    says so.

    A decoder that reads this output tends to saturate `f`, where nothing is learnt. `EchoDense` contains the cure.

    Args:
        d_max: Integer >= 1, number of echoes. 99 fits batches of 100 or more.
        max_mean: Float > 0, the bound `M` of `|f(x)|`. Checked by `adapt`, and by calls outside of a graph.
        sampler: `"ring"` or `"gather"`, see `echo_noise`.
        replace: Boolean, see `echo_noise`. `True` does not use the reservoir in training.
        multiplicative: Boolean. `True` returns `exp(f + r s e)`, which has the same rate (paper, footnote 1).
        rate_weight: Float or `None`, see `WeightedRateLayer`. Leave it out where the layer is called more than once in a step:
            Keras then counts the losses differently by backend.
        reservoir_size: Integer > `d_max`, or `None` for 1,000 or `d_max + 1` if that is more.
        echoes: `"batch"`; `"reservoir"`, from which the noise comes in training too, without gradient: for batches that are no
            random samples of the data; or, to see what the gradient through the noise is worth, `"detached"`: the batch,
            without gradient.
        seed: Integer or `None`, seeds the layer's own generators.

    Call arguments:
        inputs: `[mean, log_scale]`: `f(x)` with `|f| <= max_mean` and `log s(x) <= 0`, *without* `log r`, each of shape
            `(batch, ..., dim)`. Of feature maps every place is a dimension of its own.
        return_rate: Boolean, return `(z, rate)` instead of `z`.

    Returns:
        `z`, float32, the shape of `mean`; rate in nats per example, shape `(batch,)`.

    Raises:
        ValueError: invalid arguments; shapes that are not known but for the batch; an empty batch; a batch of one example
            before all others, outside of a graph.

    Source: paper, section 2. Differs: the reservoir is ours; the paper evaluates in batches of 100.

    Example:
        >>> layer = EchoLayer(d_max=99)
        >>> z = layer([keras.ops.zeros((100, 32)), keras.ops.zeros((100, 32))], training=True)
        >>> tuple(z.shape), round(layer.rate_floor(32), 4)
        ((100, 32), 5.7372)
    """

    # What goes with the form of the scale, here its logarithm.
    make_noise: Callable[..., Tensor] = staticmethod(diagonal_noise)
    gather: Callable[..., Tensor] = staticmethod(gather_noise)
    moments: Callable[..., tuple[Tensor, Tensor]] = staticmethod(echo_moments)

    def __init__(
        self,
        d_max: int = 99,
        max_mean: float = 1.0,
        sampler: str = "ring",
        replace: bool = False,
        multiplicative: bool = False,
        rate_weight: float | None = None,
        reservoir_size: int | None = None,
        echoes: str = "batch",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(rate_weight, **kwargs)
        self.max_scale = max_scale(d_max, max_mean)
        self.d_max, self.max_mean, self.sampler, self.replace = d_max, max_mean, sampler, replace
        self.multiplicative, self.reservoir_size, self.echoes = multiplicative, reservoir_size, echoes
        self.seed = check_seed(seed)
        self.source = EchoSource(self.make_noise, d_max, sampler, replace, reservoir_size, echoes, seed, name="source")
        self.source.owner = self.name

    def build(self, input_shape):
        shape = tuple(pair(input_shape)[0])
        if len(shape) < 2:
            expected = "shapes (batch, ..., dim): of a number for each example `x[:, None]`, of a single example `x[None]`"
            raise invalid("inputs", expected, f"shape {shape}")
        if None in shape[1:]:
            raise ValueError(
                f"{self.name} keeps a reservoir of examples and must know their shape. Received: {shape}. Give the model's "
                "Input all its dimensions but the batch."
            )
        self.source.build(shape, shape)

    def scale_and_rate(self, mean: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """`log r + log s(x)` and the rate."""
        check_same_shape(mean, parameters)
        self._check_range(mean, parameters)
        log_scale = self.bounded(parameters)
        return log_scale, echo_rate(log_scale)

    def bounded(self, log_scale: Tensor) -> Tensor:
        """`log r + log s(x)`, in float32. `log r` is added nowhere else."""
        return ops.cast(log_scale, "float32") + math.log(self.max_scale)

    def scale_and_rates(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The scale with `r`, in the form that the source takes, and the rate by dimension in nats."""
        log_scale = self.bounded(parameters)
        return log_scale, -log_scale

    def send(self, mean: Tensor, scale: Tensor, training: bool | None) -> Tensor:
        z = super().send(mean, scale, training)
        return ops.exp(z) if self.multiplicative else z

    def attenuate(self, scale: Tensor, noise: Tensor) -> Tensor:
        return ops.exp(scale) * noise

    def sample_marginal(self, n: int) -> Tensor:
        z = super().sample_marginal(n)
        return ops.exp(z) if self.multiplicative else z

    def rate(self, log_scale: Tensor) -> Tensor:
        """Exact rate, `-sum_j (log r + log s_j(x))`, in nats per example, shape `(batch,)`. `log_scale` is without `log r`."""
        return echo_rate(self.bounded(log_scale))

    def rate_floor(self, dim: int) -> float:
        """Smallest rate of a `dim`-dimensional channel, `-dim log r`, in nats."""
        return -dim * math.log(self.max_scale)

    def _check_range(self, mean: Tensor, log_scale: Tensor) -> None:
        if 0 in mean.shape:
            return
        try:
            bounds = float(ops.max(ops.abs(mean))), float(ops.max(log_scale))
        except (NotImplementedError, TypeError):  # in a graph
            return
        if not (bounds[0] <= self.max_mean and bounds[1] <= 0) and not math.isnan(bounds[0] + bounds[1]):
            raise ValueError(
                f"Expected |mean| of at most max_mean = {self.max_mean:g} and log_scale of at most 0 (heads with tanh and "
                f"log_sigmoid have them). Received up to {bounds[0]:g} and {bounds[1]:g}"
            )

    def get_config(self):
        names = ("d_max", "max_mean", "sampler", "replace", "multiplicative", "reservoir_size", "echoes", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
