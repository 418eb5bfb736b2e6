"""What a plan must know of a data set before anything is trained on it. Needs no Keras."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from echo_tf.data.dataset import KNOWN
from echo_tf.data.load import load_dataset
from echo_tf.data.prepare import SPECS
from echo_tf.data.sprites import SIZE, images_of_split
from echo_tf.errors import ConfigError


@dataclass(frozen=True)
class Input:
    """A data set that was asked for.

    Attributes:
        given: Its name, or the path of a `.npz` file, as `load_dataset` takes it.
        name: Its name, also that of its folder of results.
        images: Number of training images, before any holdout.
        shape: Shape of an image.
        holdout: How many training images a validation split takes; 0 if the set has such a split.
        fingerprint: `Dataset.fingerprint`.
        is_binary: Boolean, whether its images consist of 0 and 1.
    """

    given: str | Path
    name: str
    images: int
    shape: tuple[int, ...]
    holdout: int
    fingerprint: str = ""
    is_binary: bool = False


def read_inputs(given: Sequence[str | Path]) -> dict[str, Input]:
    """Data sets by name, in the order in which they were given. Those that would be downloaded are described, not loaded.

    Raises:
        ConfigError: two files of the same name, whose results would have the same folder.
        DataError: a file that cannot be read.
    """
    inputs: dict[str, Input] = {}
    for one in given:
        found = _read(one)
        if found.name in inputs:
            raise ConfigError(f"Two data sets are called {found.name}: {inputs[found.name].given} and {one}. Rename one file.")
        inputs[found.name] = found
    return inputs


def _read(given: str | Path) -> Input:
    name = str(given)
    if name in SPECS:
        spec = SPECS[name]
        return Input(given, name, spec.sizes["train"], (28, 28, 1), KNOWN[name], is_binary=spec.white == 1)
    if name in ("dsprites", "dsprites_dependent"):
        return Input(given, name, images_of_split(name)["train"], (SIZE, SIZE, 1), KNOWN[name], is_binary=True)
    data = load_dataset(given)
    images = len(data.raw("train"))
    return Input(given, data.name, images, data.shape, data.default_holdout, data.fingerprint, data.is_binary)
