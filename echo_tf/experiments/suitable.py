"""Which data sets and models an experiment can do something with. Needs no Keras, so that a dry run asks too."""

from collections.abc import Iterable, Mapping

from echo_tf.data.dataset import Dataset
from echo_tf.data.sprites import DEPENDENT, SIZES
from echo_tf.errors import ConfigError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.inputs import Input
from echo_tf.experiments.sharing import backend
from echo_tf.models.config import Config


def check_factors(inputs: Iterable[str], cells: list[Cell]) -> None:
    """Raise `ConfigError` for a data set without known factors, for the experiment `disentanglement`."""
    for name in inputs:
        if name.removesuffix(DEPENDENT) not in SIZES:
            names = ", ".join(name + end for name in SIZES for end in ("", DEPENDENT))
            raise ConfigError(f"{name} has no known factors. With --experiment disentanglement name one of {names}.")


def check_pixels(inputs: Mapping[str, Input | Dataset], cells: list[Cell]) -> None:
    """Raise `ConfigError` for images that are not grey ones of 0 and 1, or pixels of another law, for `freeriding`."""
    for name, data in inputs.items():
        if len(data.shape) != 3 or data.shape[2] != 1 or not data.is_binary:
            raise ConfigError(
                f"{name} has other values than 0 and 1, or no images with one channel. Of such p(x|z) is no likelihood, and a "
                "PixelCNN draws none. With --experiment freeriding name binary_digits, binary_mnist, or a file of your own."
            )
    for cell in cells:
        if cell.config.distortion.kind != "bernoulli":
            raise ConfigError(f"{cell.config.method} has Gaussian pixels. --experiment freeriding takes Bernoulli ones alone.")


def has_echo_noise(config: Config) -> bool:
    """Whether such a model has Echo noise at the end of its training."""
    return config.channel.noise == "echo" and config.rate_floor > 0


def is_fittable(config: Config) -> bool:
    """Whether the rate of such a model refers to a marginal without parameters, and `z` has a density or can be given one."""
    channel = config.channel
    if config.prior.kind != "own":
        return False
    keeps_moments = channel.noise != "independent" and channel.parametrisation == "standardised" and not channel.multiplicative
    return not channel.is_echo or channel.gaussian_at < 1 or keeps_moments


def check_noise(inputs: Iterable[str], cells: list[Cell]) -> None:
    """Raise `ConfigError` for a cell of which the experiment `noise` measures nothing."""
    if others := [cell.config.method for cell in cells if not (cell.config.rate_floor or is_fittable(cell.config))]:
        raise ConfigError(
            f"{others[0]} has no Echo noise that could be replaced, and a learnt marginal. With --experiment noise name "
            "methods with Echo noise (echo, echo_matrix, ...) or with the marginal N(0, I) (vae, iaf, ...)."
        )


def check_likelihood(inputs: Iterable[str], cells: list[Cell]) -> None:
    """Raise `ConfigError` for a cell whose marginal is not known, or a backend that `likelihood` is not written for."""
    if backend() != "tensorflow":
        raise ConfigError(f"Annealed importance sampling needs KERAS_BACKEND=tensorflow. Received: {backend()}")
    for cell in cells:
        config = cell.config
        if config.prior.kind == "vamp" and config.prior.average == "logs":
            raise ConfigError(
                f"{config.method} has no likelihood: the average of log densities in its VampPrior is no density."
            )
        if config.network.kind == "pixelcnn":
            raise ConfigError(
                f"{config.method} has a decoder that takes the image too, which --experiment likelihood does not measure. Name "
                "methods with a decoder of z alone (echo, vae, iaf, ...)."
            )
