"""Configurations: frozen dataclasses that hold the defaults, and a strict loader for the YAML files in `configs/`.

Needs no Keras: a mistake is found before anything slow begins.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from echo_tf.echo.bound import max_scale
from echo_tf.errors import ConfigError
from echo_tf.models import names

# In an installed package the files lie inside it, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent.parent
CONFIG_DIR = next((d for d in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if d.is_dir()), _PACKAGE / "configs")


# paper: what the paper says, implemented correctly; released: what the authors' code does.
PROTOCOLS = ("paper", "released")
DATASETS = ("digits", "binary_mnist", "omniglot", "fashion_mnist")

# Defaults that a data set changes. The paper's 200 epochs are for 24,000 images and more; digits has 1,437.
_BY_DATASET = {"digits": {"training": {"epochs": 30}}}


@dataclass(frozen=True)
class NetworkConfig:
    """Encoder and decoder by name (see `networks.py`)."""

    encoder: str = "conv"
    decoder: str = "conv"
    latent_dim: int = 32  # paper, section 5


@dataclass(frozen=True)
class ChannelConfig:
    """Noise channel. See `EchoDense`, `GaussianChannel` and `IAFChannel`."""

    kind: str = "echo"  # echo, gaussian, or iaf: a flow of the Gaussian one
    context_units: int = 0  # iaf: features of the image that the flow sees; 0: none, as in the paper
    shared_noise: bool = False  # gaussian and iaf: one noise vector for the whole batch
    # Echo only
    d_max: int = 99  # paper, section 5: batch - 1, which makes r = 0.8359
    sampler: str = "ring"  # ring or gather
    replace: bool = False
    parametrisation: str = "standardised"
    mean_scale: float = 1.0
    renormalise_at: float = 0.8  # fraction of the epochs after which EchoDense renormalises; 1: never
    pool: int = 0  # images encoded in each step beside the batch, for more echoes than it has; see EchoDense


@dataclass(frozen=True)
class PriorConfig:
    """Marginal that the rate refers to."""

    kind: str = "own"  # own: that of the channel, N(0, I) or for Echo the law of its noise; vamp or maf: learned
    # vamp only
    components: int = 250  # paper, section 5
    average: str = "densities"
    start: str = "images"  # pseudo-inputs start at training images, or at their mean
    start_noise: float = 0.1  # standard deviation around the mean


@dataclass(frozen=True)
class FlowConfig:
    """Networks of every flow, that of an IAF channel and that of a MAF marginal; see `AutoregressiveFlow`."""

    steps: int = 4  # paper, appendix; so are the next three
    hidden_layers: int = 3
    hidden_units: int = 640
    scale: bool = False
    trainable: bool = True


@dataclass(frozen=True)
class MMDConfig:
    """Penalty on the distance of the encodings from N(0, I), outside the rate; see `losses.mmd`."""

    weight: float = 0.0  # not multiplied by beta; 0: no penalty; paper, section 5: 999
    # Fraction of the epochs, one at least, over which the weight rises from 0: at once it can kill all ReLUs of an encoder.
    warmup: float = 0.1
    bandwidth: str = "median"  # rule for h: median, dimension, or fixed
    fixed_bandwidth: float = 1.0  # h of the rule fixed
    unbiased: bool = False


@dataclass(frozen=True)
class ConstraintConfig:
    """Rate or distortion that training holds by changing beta, the Lagrange multiplier; see `losses.constrained_beta`."""

    quantity: str = "none"  # none: beta is constant; rate or distortion
    target_nats: float = 0.0
    gain: float = 0.05  # relative change of beta a step for a relative deviation of 1


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation with Adam."""

    epochs: int = 200  # paper, section 5
    batch_size: int = 100  # paper, section 5
    learning_rate: float = 3e-4  # paper, section 5
    schedule: str = "linear"  # or released, which drops and climbs where it should fall
    decay_start: float = 0.5  # fraction of the steps; paper: linear to 0 over the last 100 of 200 epochs
    beta_warmup: float = 0.0  # fraction of the epochs over which beta rises to its value, epoch by epoch
    dtype_policy: str = "float32"  # or mixed_bfloat16: convolutions in bfloat16, channel and losses in float32
    replicas: int = 1  # devices among which each batch is split, see `distribution.split_among`


@dataclass(frozen=True)
class Config:
    """Everything that determines a trained model, but for the data.

    Raises:
        ConfigError: a value out of its range.
    """

    method: str
    protocol: str = "paper"
    beta: float = 1.0  # multiplies the rate
    seed: int = 0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    channel: ChannelConfig = field(default_factory=ChannelConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    mmd: MMDConfig = field(default_factory=MMDConfig)
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self):
        choices = {
            "protocol": PROTOCOLS,
            "network.encoder": names.ENCODERS,
            "network.decoder": names.DECODERS,
            "channel.kind": names.CHANNELS,
            "channel.sampler": names.SAMPLERS,
            "channel.parametrisation": names.PARAMETRISATIONS,
            "prior.kind": names.PRIORS,
            "prior.average": names.AVERAGES,
            "prior.start": ("images", "mean"),
            "training.schedule": names.SCHEDULES,
            "mmd.bandwidth": names.BANDWIDTHS,
            "training.dtype_policy": names.DTYPE_POLICIES,
            "constraint.quantity": ("none", *names.CONSTRAINED),
        }
        at_least = {
            "beta": 0,
            "seed": 0,
            "network.latent_dim": 1,
            "channel.d_max": 1,
            "channel.context_units": 0,
            "channel.pool": 0,
            "prior.components": 1,
            "flow.steps": 1,
            "flow.hidden_layers": 1,
            "flow.hidden_units": 1,
            "prior.start_noise": 0,
            "mmd.weight": 0,
            "training.epochs": 1,
            "training.batch_size": 2,
            "training.replicas": 1,
        }
        values = flatten(self)
        for key, allowed in choices.items():
            if values[key] not in allowed:
                raise ConfigError(f"Invalid value for `{key}`. Expected one of {allowed}. Received: {values[key]!r}")
        for key, minimum in at_least.items():
            if not (math.isfinite(values[key]) and values[key] >= minimum):
                raise ConfigError(f"Invalid value for `{key}`. Expected at least {minimum}. Received: {values[key]}")
        positive = ["training.learning_rate", "channel.mean_scale", "mmd.fixed_bandwidth", "constraint.gain"]
        if self.constraint.quantity != "none":
            positive += ["constraint.target_nats", "beta"]
        for key in positive:
            if not 0 < values[key] < math.inf:
                raise ConfigError(f"Invalid value for `{key}`. Expected a positive finite number. Received: {values[key]}")
        for key in ("training.decay_start", "training.beta_warmup", "channel.renormalise_at", "mmd.warmup"):
            if not 0 <= values[key] <= 1:
                raise ConfigError(f"Invalid value for `{key}`. Expected a fraction from 0 to 1. Received: {values[key]}")
        if self.channel.kind == "echo" and self.prior.kind != "own":
            raise ConfigError(
                f"Invalid value for `prior.kind` with an Echo channel: {self.prior.kind!r}. Its rate is exact with the law of "
                "its noise as the marginal, and any other would raise it. Use own."
            )
        self._check_replicas()
        if self.channel.pool and (self.channel.kind != "echo" or self.channel.parametrisation == "centred"):
            raise ConfigError(
                f"Invalid value for `channel.pool`. Expected 0 but for an Echo channel that is not centred. Received: "
                f"{self.channel.pool}"
            )
        if self.constraint.quantity != "none" and self.training.beta_warmup:
            raise ConfigError(
                "Invalid value for `training.beta_warmup` with a constraint, which sets beta itself. Expected 0. Received: "
                f"{self.training.beta_warmup}"
            )
        if self.channel.kind == "echo" and self.constraint.quantity == "rate":
            floor = -self.network.latent_dim * math.log(max_scale(self.channel.d_max))
            if self.constraint.target_nats < floor:
                raise ConfigError(
                    f"Invalid value for `constraint.target_nats`. Expected at least the rate floor of this Echo channel, "
                    f"{floor:.2f} nats (raise channel.d_max to lower it). Received: {self.constraint.target_nats}"
                )
        if self.channel.kind != "iaf" and self.channel.context_units:
            raise ConfigError(
                f"Invalid value for `channel.context_units`. Expected 0, because {self.channel.kind!r} has no flow. "
                f"Received: {self.channel.context_units}"
            )
        if self.mmd.weight and self.prior.kind != "own":
            raise ConfigError(
                f"Invalid value for `mmd.weight` with the marginal {self.prior.kind!r}: {self.mmd.weight}. The penalty draws "
                "the encodings towards N(0, I), the rate towards the learned marginal. Use 0, or prior.kind own."
            )
        if self.mmd.weight and self.channel.kind == "echo" and self.channel.sampler == "ring":
            raise ConfigError(
                "Invalid value for `channel.sampler` with an MMD penalty: 'ring'. The penalty is a statistic of the batch, and "
                "on a ring the noise of one example is the output of the next. Use gather."
            )
        if self.channel.context_units and self.prior.kind == "vamp":
            raise ConfigError(
                "Invalid value for `prior.kind` with `channel.context_units` > 0: 'vamp'. Its components pass through a flow "
                "that is different for every image then, and their density at a given z is unknown. Use own or maf, or "
                "context_units 0."
            )

    def _check_replicas(self) -> None:
        replicas, batch = self.training.replicas, self.training.batch_size
        if replicas == 1:
            return
        if batch % replicas or self.channel.pool:
            raise ConfigError(
                f"Invalid value for `training.replicas`. Expected a divisor of training.batch_size = {batch}, and no "
                f"channel.pool. Received: {replicas}"
            )
        if self.channel.kind == "echo" and not self.channel.replace and self.channel.d_max >= batch // replicas:
            raise ConfigError(
                f"Invalid value for `channel.d_max`. Expected at most {batch // replicas - 1}, the other examples that each of "
                f"training.replicas = {replicas} has of a batch of {batch}. Received: {self.channel.d_max}"
            )


def flatten(config: Config) -> dict[str, Any]:
    """Values of a configuration by dotted key, `{"beta": 1.0, "training.epochs": 200, ...}`."""
    flat = {}
    for key, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def available_methods() -> list[str]:
    """Names that `load_config` finds: the files of `configs/` but for the paper's results."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if path.stem != "paper")


def load_config(name_or_path: str | Path, *, dataset: str | None = None, **overrides: Any) -> Config:
    """Load a configuration by method name or from a YAML file.

    Args:
        name_or_path: A method (`"echo"`, see `available_methods`), or the path of a `.yaml` file.
        dataset: Name of the data set. Values that the file has for it, under `by_dataset: {NAME: ...}`, replace the others.
            So do those for the protocol, under `by_protocol: {NAME: ...}`. For digits 30 epochs are the default.
        **overrides: Values that replace those of the file, groups as dictionaries:
            `load_config("echo", beta=0.5, training={"epochs": 10})`.

    Returns:
        The resolved `Config`. `method` is the name of the file.

    Raises:
        ConfigError: no such method or file, unknown key (the message names the nearest one), value of a wrong type or out
            of its range.

    Example:
        >>> load_config("echo", training={"epochs": 10}).training.epochs
        10
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIG_DIR / f"{name_or_path}.yaml"
        if str(name_or_path) not in available_methods():
            raise ConfigError(
                f"Unknown method {str(name_or_path)!r}{_nearest(str(name_or_path), available_methods())}. "
                f"Known methods: {', '.join(available_methods())}; or give the path of a .yaml file."
            )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"No configuration file {path}. Give a method name or an existing .yaml file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a valid YAML file: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values. Received: {type(values).__name__}")
    if "method" in values:
        raise ConfigError(f"{path}: key `method` is not allowed, the method is named by the file")
    protocol = overrides.get("protocol", values.get("protocol", PROTOCOLS[0]))
    try:
        by_dataset = _sections(values, "by_dataset", DATASETS)
        by_protocol = _sections(values, "by_protocol", PROTOCOLS)
        values = _merge(_BY_DATASET.get(dataset, {}), values)
        from_file = dataclasses.asdict(config_from_dict({"method": path.stem, **values}))
        for section in (*by_dataset.values(), *by_protocol.values()):
            config_from_dict(_merge(from_file, section))  # so that a mistake shows whatever is asked for
        if protocol != from_file["protocol"] and protocol not in by_protocol:
            raise ConfigError(
                f"no values for the protocol {protocol!r}. It has: {', '.join([from_file['protocol'], *by_protocol])}"
            )
        for section in (by_dataset.get(dataset, {}), by_protocol.get(protocol, {}), overrides):
            from_file = _merge(from_file, section)
        return config_from_dict(from_file)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _sections(values: dict, key: str, names: tuple[str, ...]) -> dict[str, dict]:
    """Take `{NAME: {...}}` under `key` out of the values of a file."""
    sections = values.pop(key, {})
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ConfigError(f"`{key}` must hold keys and values under each name")
    for name in sections:
        if name not in names:
            raise ConfigError(f"unknown name `{name}` in `{key}`{_nearest(str(name), list(names))}. Names: {', '.join(names)}")
    return sections


def config_from_dict(values: dict[str, Any]) -> Config:
    """Build a `Config` from nested dictionaries (the inverse of `dataclasses.asdict`).

    Raises:
        ConfigError: as `load_config`.
    """
    return _from_dict(Config, values, "")


def _merge(values: dict, overrides: dict) -> dict:
    merged = dict(values)
    for key, value in overrides.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _from_dict(cls: type, values: dict[str, Any], prefix: str):
    types = get_type_hints(cls)
    for key in values:
        if key not in types:
            raise ConfigError(f"unknown key `{prefix}{key}`{_nearest(str(key), list(types))}. Keys: {', '.join(types)}")
    if "method" in types and "method" not in values:
        raise ConfigError("key `method` is missing")
    return cls(**{key: _convert(value, types[key], prefix + key) for key, value in values.items()})


def _convert(value: Any, expected: type, key: str):
    """Check by the type of the field: YAML reads `3e-4` as a string, and `no` as a boolean."""
    if dataclasses.is_dataclass(expected):
        if isinstance(value, dict):
            return _from_dict(expected, value, key + ".")
    elif expected is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is expected:
        return value
    wanted = "keys and values" if dataclasses.is_dataclass(expected) else expected.__name__
    raise ConfigError(f"Invalid value for `{key}`. Expected {wanted}. Received: {value!r}")


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""
