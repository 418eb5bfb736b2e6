"""Which data sets and models an experiment can do something with. Needs no Keras, so that a dry run asks too."""

from collections.abc import Iterable, Mapping

from echo_tf.data.dataset import Dataset
from echo_tf.data.sprites import DEPENDENT, SIZES
from echo_tf.errors import ConfigError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.inputs import Input


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
