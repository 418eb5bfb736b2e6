"""Cells of an experiment: one model to train and evaluate each, in a folder of its own. Needs no Keras."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from echo_tf.errors import ConfigError
from echo_tf.files import NAME
from echo_tf.models.config import Config, config_from_record, flatten


@dataclass(frozen=True)
class Cell:
    """One model to train and evaluate.

    Attributes:
        dataset: Name of the data set; also the name of a folder.
        config: The resolved configuration.
        holdout: Number of training examples that become the validation split of a data set that has none; 0 to train on all.
        data: Fingerprint of a user's own data (`Dataset.fingerprint`); empty for the data sets that have names.

    Raises:
        ConfigError: a name of data set or method that cannot be the name of a folder.
    """

    dataset: str
    config: Config
    holdout: int = 0
    data: str = ""

    def __post_init__(self):
        for what, name in (("dataset", self.dataset), ("method", self.config.method)):
            if not NAME.fullmatch(name):
                expected = "letters, digits and any of _.+=-, no dot or sign first: it names a folder"
                raise ConfigError(f"Invalid value for `{what}`. Expected {expected}. Received: {name!r}. Rename the file.")

    def folder(self, out: Path) -> Path:
        """Folder of the cell below that of all cells."""
        config, constraint = self.config, self.config.constraint
        constrained = constraint.quantity != "none"
        setting = f"{constraint.quantity}={constraint.target_nats:g}" if constrained else f"beta={config.beta:g}"
        name = f"{config.protocol}-epochs={config.training.epochs}-{setting}-seed={config.seed}"
        return out / self.dataset / config.method / (name + (f"-holdout={self.holdout}" if self.holdout else ""))

    @property
    def target(self) -> str:
        """`rate 20` where training held the rate to that, so that beta is where it began; empty without a target."""
        constraint = self.config.constraint
        return "" if constraint.quantity == "none" else f"{constraint.quantity} {constraint.target_nats:g}"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ where `differences` finds any. Values that are the default do not count.

        So keys that a later version adds change nothing.
        """
        flat, plain = (
            {**vars(cell), **flatten(cell.config)} for cell in (self, Cell(self.dataset, Config(self.config.method)))
        )
        own = {key: value for key, value in flat.items() if key != "config" and value != plain[key]}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def evaluation_batch(self) -> int:
        """Examples of a batch in the evaluation: as many as in training, and enough for the echoes of each."""
        channel, batch = self.config.channel, self.config.training.batch_size
        return max(batch, channel.d_max + 1) if channel.is_echo and not channel.replace else batch

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Cell":
        """The inverse of `to_dict`, also for what JSON or an earlier version made of it. What is no field of a cell is ignored.

        Raises `TypeError`, `KeyError`, `AttributeError` or `ConfigError` for values that describe no cell.
        """
        if values.get("warm_start"):
            raise ConfigError("A cell whose training began from another model: this version has no warm starts.")
        found = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        return cls(**{**found, "config": config_from_record(values["config"])})


def plan(
    dataset: str, configs: list[Config], betas: list[float] | None, seeds: int, holdout: int = 0, data: str = ""
) -> list[Cell]:
    """Cells for configurations, betas (`None`: that of each configuration) and seeds, seed by seed and each cell once.

    Args:
        dataset: Name of the data set.
        configs: The configurations.
        betas: Weights of the rate.
        seeds: Number of seeds from that of each configuration on.
        holdout, data: See `Cell`.
    """
    cells = [
        Cell(dataset, dataclasses.replace(config, beta=beta, seed=config.seed + i), holdout, data)
        for i in range(seeds)
        for config in configs
        for beta in betas or [config.beta]
    ]
    return list(dict.fromkeys(cells))  # a method or beta may be named twice


def differences(there: Cell, wanted: Cell) -> str:
    """What tells two cells apart, `"training.epochs: 10 there, 20 wanted"`; empty if they are the same."""
    old, new = ({**vars(cell), **flatten(cell.config)} for cell in (there, wanted))
    keys = [key for key in new if key != "config" and old[key] != new[key]]
    return ", ".join(f"{key}: {old[key]} there, {new[key]} wanted" for key in keys)
