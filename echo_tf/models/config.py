"""Configurations: frozen dataclasses that hold the defaults, and a strict loader for the YAML files in `configs/`.

Needs no Keras: a mistake is found before anything slow begins.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_type_hints

import pydantic.dataclasses
import yaml
from pydantic import BeforeValidator, Field, StrictBool, ValidationError, model_validator

from echo_tf.echo.bound import max_scale, nearest
from echo_tf.errors import ConfigError
from echo_tf.models.combinations import check_combinations

# In an installed package the files lie inside it, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parents[1]
CONFIG_DIR = next((d for d in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if d.is_dir()), _PACKAGE / "configs")

# paper: what the paper says, implemented correctly; released: what the authors' code does.
PROTOCOLS = ("paper", "released")
_OF_FACTORS = ("sprites", "sprites_dependent", "dsprites", "dsprites_dependent")
DATASETS = ("digits", "binary_mnist", "omniglot", "fashion_mnist", "binary_digits", "mnist", *_OF_FACTORS)


# Defaults that a data set changes. The paper's 200 epochs are for 24,000 images and more; digits has 1,437.
# For images of known factors: 10 latents, batches of 64 and 63 echoes, as in the released code. Their dependent sets have a
# sixth or seventh of the images, and as many times the epochs.
def _of_factors(epochs: int, learning_rate: float) -> dict:
    training = {"epochs": epochs, "batch_size": 64, "learning_rate": learning_rate}
    return {"network": {"latent_dim": 10}, "channel": {"d_max": 63}, "training": training}


_BY_DATASET: dict[str, dict] = {
    "digits": {"training": {"epochs": 30}},
    "binary_digits": {"training": {"epochs": 30, "learning_rate": 1e-3}},  # 64 pixels: fast, and soon learnt by heart
    "sprites": _of_factors(8, 1e-3),
    "sprites_dependent": _of_factors(52, 1e-3),
    "dsprites": _of_factors(26, 1e-4),  # both the released code's
    "dsprites_dependent": _of_factors(130, 1e-4),
}

# Settings that earlier versions wrote into results and this one no longer has, with the only value that means today's model.
_RETIRED = {
    "channel.pool": 0,
    "channel.context_units": 0,
    "flow.scale": False,
    "mmd.unbiased": False,
    "training.replicas": 1,
    "network.encoder": "conv",
}

T = TypeVar("T")


def _number(value: Any) -> float:
    """YAML reads `3e-4` as a string, and `no` as a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("Expected a number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("Expected a number of the size that floats can hold") from None


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]


@dataclass_transform(frozen_default=True)
def _settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose values pydantic checks, with our error in the place of its own."""
    checked: Any = pydantic.dataclasses.dataclass(frozen=True, config={"extra": "forbid"})(cls)
    check = checked.__init__

    def __init__(self, *args, **kwargs):
        try:
            check(self, *args, **kwargs)
        except ValidationError as error:
            raise ConfigError(_sentence(checked, error)) from None

    checked.__init__ = __init__
    return checked


def _sentence(cls: type, error: ValidationError) -> str:
    """The first mistake that pydantic found, as a sentence of ours."""
    first = error.errors()[0]
    if isinstance(raised := first.get("ctx", {}).get("error"), ConfigError):
        return str(raised)
    if not first["loc"]:
        return f"a key is no text that can be written ({first['msg']})"
    *groups, name = (str(place) for place in first["loc"] if place != "function-before[_number(), float]")
    key = ".".join([*groups, name])
    if first["type"] == "unexpected_keyword_argument":
        for group in groups:
            cls = get_type_hints(cls)[group]
        names = list(get_type_hints(cls))
        return f"unknown key `{key}`{nearest(name, names)}. Keys: {', '.join(names)}"
    if first["type"] == "missing":
        return f"key `{key}` is missing"
    expected = first["msg"].removeprefix("Value error, ").replace("Input should be", "Expected")
    if first["type"].startswith("dataclass"):
        expected = "Expected keys and values"
    return f"Invalid value for `{key}`. {expected}. Received: {repr(first['input'])[:100]}"


@_settings
class NetworkConfig:
    """Encoder and decoder, see `networks.py`."""

    kind: Literal["auto", "conv", "conv_5x5", "conv64", "mlp", "pixelcnn"] = "auto"  # auto: by the shape of the examples
    latent_dim: Count = 32  # paper, section 5


@_settings
class ChannelConfig:
    """Noise channel. See `EchoDense`, `MatrixEchoDense`, `GaussianChannel`, `FullGaussianChannel` and `IAFChannel`."""

    # iaf: a flow of the Gaussian one
    kind: Literal["echo", "echo_matrix", "gaussian", "gaussian_full", "iaf"] = "echo"
    shared_noise: StrictBool = False  # gaussian and iaf: one noise vector for the whole batch
    # Both kinds of Echo
    d_max: Count = 99  # paper, section 5: batch - 1, which makes r = 0.8359
    renormalise_at: Fraction = 0.8  # fraction of the epochs after which the channel renormalises; 1: never
    # Fraction of the epochs after which the noise becomes Gaussian, so that a marginal can be learnt (`GaussianEcho`); 1: never
    gaussian_at: Fraction = 1.0
    echoes: Literal["batch", "detached", "reservoir"] = "batch"  # the last two without gradient through the noise
    # Law of the noise: Echo's own, or for comparisons one made of it, with which the rate is not exact (`echo.laws`)
    noise: Literal["echo", "gaussian", "independent"] = "echo"
    signed: StrictBool = False  # entries of the diagonal of S(x) have either sign
    constant_scale: StrictBool = False  # S is trained, and the same for every x
    # Echo with a diagonal S(x) only
    max_mean: Annotated[Number, Field(ge=1)] = 1.0  # bound of |f| that r is made for; 2 is that of centred means
    sampler: Literal["ring", "gather"] = "ring"
    replace: StrictBool = False
    multiplicative: StrictBool = False  # paper, footnote 1
    parametrisation: Literal["standardised", "literal", "centred"] = "standardised"
    mean_scale: Positive = 1.0

    @property
    def is_echo(self) -> bool:
        """Whether the channel is Echo's, with a diagonal or a triangular `S(x)`; the noise may have another law."""
        return self.kind in ("echo", "echo_matrix")


@_settings
class PriorConfig:
    """Marginal that the rate refers to."""

    kind: Literal["own", "vamp", "maf"] = "own"  # own: that of the channel, N(0, I) or for Echo the law of its noise
    # vamp only
    components: Count = 250  # paper, section 5
    average: Literal["densities", "logs"] = "densities"
    start: Literal["images", "mean"] = "images"  # pseudo-inputs start at training images, or at their mean
    start_noise: NotNegative = 0.1  # standard deviation around the mean


@_settings
class FlowConfig:
    """Networks of every flow, that of an IAF channel and that of a MAF marginal; see `AutoregressiveFlow`."""

    steps: Count = 4  # paper, appendix; so are the next two
    hidden_layers: Count = 3
    hidden_units: Count = 640
    trainable: StrictBool = True


@_settings
class MMDConfig:
    """Penalty on the distance of the encodings from N(0, I), outside the rate; see `losses.mmd`."""

    weight: NotNegative = 0.0  # not multiplied by beta; 0: no penalty; paper, section 5: 999
    # Fraction of the epochs, one at least, over which the weight rises from 0: at once it can kill all ReLUs of an encoder.
    warmup: Fraction = 0.1
    bandwidth: Literal["median", "fixed"] = "median"  # rule for h
    fixed_bandwidth: Positive = 1.0  # h of the rule fixed


@_settings
class TCConfig:
    """Penalty on the total correlation of the encodings, outside the rate; see `TotalCorrelationPenalty`."""

    weight: NotNegative = 0.0  # not multiplied by beta; 0: no penalty
    hidden_layers: Count = 3  # of the discriminator; the released code has 6 layers of 1,000 units
    hidden_units: Count = 256


@_settings
class ConstraintConfig:
    """Rate or distortion that training holds by changing beta, the Lagrange multiplier; see `BetaConstraint`."""

    quantity: Literal["none", "rate", "distortion"] = "none"  # none: beta is constant
    target_nats: Number = 0.0
    gain: Positive = 0.05  # relative change of beta a step for a relative deviation of 1


@_settings
class DistortionConfig:
    """Decoder's law, whose negative log likelihood is the distortion: `Bernoulli` or `Gaussian` of `distortions.py`."""

    kind: Literal["bernoulli", "gaussian"] = "bernoulli"  # paper, section 5: bernoulli
    sd: Positive = 1.0  # gaussian only


@_settings
class TrainingConfig:
    """Optimisation with Adam."""

    epochs: Count = 200  # paper, section 5
    batch_size: Annotated[Count, Field(ge=2)] = 100  # paper, section 5
    learning_rate: Positive = 3e-4  # paper, section 5
    schedule: Literal["linear", "released"] = "linear"  # released: drops and climbs where it should fall
    decay_start: Fraction = 0.5  # fraction of the steps; paper: linear to 0 over the last 100 of 200 epochs
    beta_warmup: Fraction = 0.0  # fraction of the epochs over which beta rises to its value, epoch by epoch
    # mixed_bfloat16: layers of encoder and decoder in bfloat16, channel and losses in float32
    dtype_policy: Literal["float32", "mixed_bfloat16"] = "float32"


@_settings
class Config:
    """Everything that determines a trained model, but for the data.

    Raises:
        ConfigError: a value out of its range, or values that do not go together.
    """

    method: str
    protocol: Literal["paper", "released"] = "paper"
    beta: NotNegative = 1.0  # multiplies the rate
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    network: NetworkConfig = NetworkConfig()
    channel: ChannelConfig = ChannelConfig()
    prior: PriorConfig = PriorConfig()
    flow: FlowConfig = FlowConfig()
    mmd: MMDConfig = MMDConfig()
    tc: TCConfig = TCConfig()
    constraint: ConstraintConfig = ConstraintConfig()
    distortion: DistortionConfig = DistortionConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def echo_epochs(self) -> int:
        """Epochs with Echo noise."""
        return round(self.channel.gaussian_at * self.training.epochs) if self.channel.is_echo else 0

    @property
    def rate_floor(self) -> float:
        """Least rate of the channel in nats: `-m log r` for Echo, as long as its noise is its own; else 0."""
        channel = self.channel
        if not channel.is_echo or channel.gaussian_at < 1:
            return 0.0
        return -self.network.latent_dim * math.log(max_scale(channel.d_max, channel.max_mean))

    @model_validator(mode="after")
    def _check_combinations(self):
        check_combinations(self)
        return self


def to_dict(config: Config) -> dict[str, Any]:
    """A configuration as nested dictionaries; the inverse of `config_from_dict`."""
    return dataclasses.asdict(config)


def flatten(config: Config) -> dict[str, Any]:
    """Values of a configuration by dotted key, `{"beta": 1.0, "training.epochs": 200, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in to_dict(config).items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from nested dictionaries (the inverse of `to_dict`).

    Raises:
        ConfigError: as `load_config`.
    """
    if unknown := [key for key in values if not isinstance(key, str)]:
        raise ConfigError(f"unknown key `{unknown[0]}`. Keys: {', '.join(get_type_hints(Config))}")
    return Config(**values)


def config_from_record(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from what a result on disk holds, that of an earlier version included.

    Raises:
        ConfigError: as `load_config`; or the model had a setting that this version does not have.
    """
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key, usual in _RETIRED.items():
        group, _, name = key.partition(".")
        found = values.get(group, {}).pop(name, usual)
        if found != usual:
            raise ConfigError(f"The setting `{key}: {found}` was removed after version 0.1. Move the folder away.")
    network = values.get("network", {})
    if "decoder" in network:
        decoder = network.pop("decoder")
        network["kind"] = "auto" if decoder == "conv" else decoder
    return config_from_dict(values)


def available_methods() -> list[str]:
    """Names that `load_config` finds: the files of `configs/` but for the paper's results."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if path.stem != "paper")


class _EachKeyOnce(yaml.SafeLoader):
    """YAML drops the first of two blocks of one name, and with it settings that somebody wrote."""

    def construct_mapping(self, node, deep=False):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"key `{twice[0]}` stands there twice. Make one of the two")
        return super().construct_mapping(node, deep)


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
                f"Unknown method {str(name_or_path)!r}{nearest(str(name_or_path), available_methods())}. "
                f"Known methods: {', '.join(available_methods())}; or give the path of a .yaml file."
            )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce) or {}
    except FileNotFoundError:
        raise ConfigError(f"No configuration file {path}. Give a method name or an existing .yaml file.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not a valid YAML file: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values. Received: {type(values).__name__}")
    if "method" in values:
        raise ConfigError(f"{path}: key `method` is not allowed, the method is named by the file")
    try:
        return _resolve(path.stem, values, dataset, overrides)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _resolve(method: str, values: dict, dataset: str | None, overrides: dict) -> Config:
    """The configuration of a file's values, with those for the data set and the protocol, and then the overrides."""
    by_dataset = _sections(values, "by_dataset", DATASETS)
    by_protocol = _sections(values, "by_protocol", PROTOCOLS)
    from_file = to_dict(config_from_dict({"method": method, **_merge(_BY_DATASET.get(dataset or "", {}), values)}))
    for section in (*by_dataset.values(), *by_protocol.values()):
        config_from_dict(_merge(from_file, section))  # so that a mistake shows whatever is asked for
    protocol = str(overrides.get("protocol", from_file["protocol"]))
    if protocol in PROTOCOLS and protocol != from_file["protocol"] and protocol not in by_protocol:
        raise ConfigError(
            f"no values for the protocol {protocol!r}. It has: {', '.join([from_file['protocol'], *by_protocol])}"
        )
    for section in (by_dataset.get(dataset or "", {}), by_protocol.get(protocol, {}), overrides):
        from_file = _merge(from_file, section)
    return config_from_dict(from_file)


def _sections(values: dict, key: str, names: tuple[str, ...]) -> dict[str, dict]:
    """Take `{NAME: {...}}` under `key` out of the values of a file."""
    sections = values.pop(key, {})
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ConfigError(f"`{key}` must hold keys and values under each name")
    for name in sections:
        if name not in names:
            raise ConfigError(f"unknown name `{name}` in `{key}`{nearest(str(name), list(names))}. Names: {', '.join(names)}")
    return sections


def _merge(values: dict, overrides: dict) -> dict:
    merged = dict(values)
    for key, value in overrides.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged
