"""A trained Echo channel with its noise made Gaussian, which has a density, so that its marginal can be learnt."""

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import invalid
from echo_tf.echo.checks import Tensor, check_is_flat, concatenated
from echo_tf.echo.freezing import freeze_parts
from echo_tf.echo.heads import EchoWithHeads
from echo_tf.echo.matrix import matrix_moments, product
from echo_tf.echo.standardise import RunningStandardiser
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.channels import CorrelatedGaussianChannel, row_squares
from echo_tf.models.priors import MAFPrior


@keras.saving.register_keras_serializable(package="echo_tf")
class GaussianEcho(CorrelatedGaussianChannel):
    """Signal and scale of an Echo channel, with Gaussian noise of the mean `M` and the covariance `C C'` that Echo's had.

    `y = C^-1 (f(x) + S(x) (M + C n) - M)`, `n ~ N(0, I)`, and the output `z = (y - E y) / sd(y)` in every dimension: a Gaussian
    encoder with full covariance. `M` and `C` are constants, set by `match`, which whitens: over the data `z` has mean 0 and
    covariance I at first, and its rate with the marginal N(0, I) is Echo's, `-E log det S(x)` nats. But Gaussian noise has the
    larger entropy, so this is no more than an upper bound of `I(X; Z)`, which a learnt marginal lowers. Echo's own marginal
    leaves nothing to learn.

    `f` and `S` go on learning. Nothing holds the mean and the scale of `y` but the standardisation, as nothing did in Echo: the
    moments are those of the batch in training, in closed form, and stored ones at inference, which `adapt` makes precise.

    Args:
        echo: `MatrixEchoDense`, or `EchoDense` without `multiplicative` and `centred`.
        seed: Integer or `None`, seeds the layer's own generator.

    Call arguments and returns: as `CorrelatedGaussianChannel`.

    Raises:
        ValueError: another kind of layer; in `build`, feature maps.

    Source: ours.

    Example:
        >>> from echo_tf import MatrixEchoDense
        >>> features = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
        >>> channel = GaussianEcho(MatrixEchoDense(8))
        >>> channel.match(features)
        >>> z, rate = channel(features, return_rate=True)
        >>> tuple(z.shape), tuple(rate.shape)
        ((200, 8), (200,))
    """

    has_memory = True

    def __init__(self, echo: EchoWithHeads, *, seed: int | None = None, **kwargs):
        plain = {"parametrisation": "standardised", "multiplicative": False}
        if not isinstance(echo, EchoWithHeads) or any(getattr(echo, name, value) != value for name, value in plain.items()):
            raise invalid("echo", "a MatrixEchoDense, or an EchoDense that is standardised and not multiplicative", repr(echo))
        super().__init__(echo.units, seed=seed, **kwargs)
        self.echo, self.standardiser = echo, RunningStandardiser(name="standardiser")
        echo.reports_rate = False  # it is not called, only its methods are

    def build(self, input_shape):
        check_is_flat(self.name, input_shape)
        freeze_parts(self)
        if not self.echo.built:
            self.echo.build(input_shape)
            self.echo.built = True
        self.noise_mean = self.add_weight(shape=(self.units,), initializer="zeros", trainable=False, name="noise_mean")
        factor = {"shape": (self.units, self.units), "initializer": "identity", "trainable": False}
        self.noise_factor = self.add_weight(name="noise_factor", **factor)
        self.whitening = self.add_weight(name="whitening", **factor)
        self.standardiser.build((None, self.units))

    def match(self, features: Tensor) -> None:
        """Set `M` and `C` to those of Echo's noise for the features of training examples, shape `(n, features)`."""
        if not self.built:
            self.build((None, *features.shape[1:]))
        mean, scale = self.echo.statistics(features)
        mean, covariance = matrix_moments(mean, self.echo.as_matrix(scale))
        factor = ops.cholesky(covariance)
        self.noise_mean.assign(mean)
        self.noise_factor.assign(factor)
        self.whitening.assign(ops.solve_triangular(factor, ops.eye(self.units, dtype=factor.dtype), lower=True))
        self.adapt(features)

    def statistics(self, inputs: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and `log_sd`, each of shape `(batch, m)`, and `L` of shape `(batch, m, m)`."""
        mean, log_sd, factor = self._whitened(inputs)
        stored = self.standardiser
        centre, variance = ops.convert_to_tensor(stored.mean), ops.convert_to_tensor(stored.variance)
        if training:
            batch = _moments(mean, factor)
            stored.average(*map(ops.stop_gradient, batch))
            centre, variance = (
                ops.where(stored.renormalising > 0, own + ops.stop_gradient(late - own), own)
                for own, late in zip(batch, (centre, variance), strict=True)
            )
        sd = ops.sqrt(variance)
        return (mean - centre) / sd, log_sd - ops.log(sd), factor / sd[:, None]

    def _whitened(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of `y`."""
        self.build_for(inputs)
        mean, scale, rates = self.echo.encode(inputs)
        scale, noise_mean = self.echo.as_matrix(scale), ops.convert_to_tensor(self.noise_mean)
        deviation = mean + product(scale, noise_mean) - noise_mean
        whitening = ops.convert_to_tensor(self.whitening)
        factor = ops.matmul(whitening, ops.matmul(scale, ops.convert_to_tensor(self.noise_factor)))
        return ops.matmul(deviation, ops.transpose(whitening)), -rates, factor

    def adapt(self, data: Tensor, seed: int = 0) -> None:
        mean, _, factor = self._whitened(concatenated(data))
        self.standardiser.assign(*_moments(mean, factor))

    def renormalise(self) -> None:
        self.standardiser.renormalising.assign(1.0)

    def get_config(self):
        config = super().get_config()
        del config["units"]
        return {**config, "echo": keras.saving.serialize_keras_object(self.echo)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "echo": keras.saving.deserialize_keras_object(config["echo"])})


def _moments(mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every dimension of a mixture of `N(mean, L L')` over the batch."""
    return ops.mean(mean, axis=0), ops.var(mean, axis=0) + ops.mean(row_squares(factor), axis=0)


def with_gaussian_noise(model: RateDistortionModel, x: np.ndarray, prior: MAFPrior | None, seed: int) -> RateDistortionModel:
    """The autoencoder of a trained Echo model with a `GaussianEcho` in the place of its channel, not compiled.

    In front of the decoder a linear layer undoes the whitening, so that it is given what it has been trained on.

    Args:
        model: A trained model with an Echo channel and standardised `z`.
        x: Some 10,000 training examples, whose noise is matched.
        prior: The new marginal; `None` for N(0, I).
        seed: Integer, for the noise.

    Raises:
        ValueError: a decoder that takes the example, or a channel that `GaussianEcho` refuses.
    """
    if model.takes_example:
        raise ValueError(
            f"Expected a decoder of `z` alone. Received: {type(model.decoder).__name__}, which takes the example too. Leave "
            "`channel.gaussian_at` at 1 with it."
        )
    channel, units = GaussianEcho(model.channel, seed=seed), model.channel.units
    channel.match(model.features(x))
    sd = ops.sqrt(ops.sum(ops.square(ops.convert_to_tensor(channel.noise_factor)), axis=-1))
    unwhiten = keras.layers.Dense(units, use_bias=False, dtype="float32", name="unwhiten")
    decoder = keras.Sequential([keras.Input((units,)), unwhiten, model.decoder])
    unwhiten.kernel.assign(ops.transpose(ops.convert_to_tensor(channel.noise_factor)) / sd)
    beta, law = float(ops.convert_to_numpy(model.beta)), model.distortion
    twin = RateDistortionModel(
        model.encoder, decoder, channel, prior=prior, beta=beta, distortion=law, constraint=model.constraint
    )
    twin.build((None, *x.shape[1:]))
    return twin
