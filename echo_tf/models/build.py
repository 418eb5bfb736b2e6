"""From a configuration to a model: assembles the parts, nothing more."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from echo_tf.echo.channel import Channel
from echo_tf.echo.checks import SEEDS
from echo_tf.echo.dense import EchoDense
from echo_tf.echo.matrix_dense import MatrixEchoDense
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.channels import FullGaussianChannel, GaussianChannel, IAFChannel
from echo_tf.models.combinations import CHANNEL_OPTIONS
from echo_tf.models.config import Config, config_from_dict, load_config
from echo_tf.models.distortions import Bernoulli, Gaussian
from echo_tf.models.gaussian_echo import with_gaussian_noise
from echo_tf.models.networks import IMAGE_SHAPE, NETWORKS, network_for
from echo_tf.models.penalties import BetaConstraint, MMDPenalty, TotalCorrelationPenalty
from echo_tf.models.priors import MAFPrior, VampPrior
from echo_tf.models.schedules import make_optimizer

# Added to the seed of a configuration, so that prior and penalty do not draw the very numbers of the channel's noise.
PRIOR_SEED, PENALTY_SEED = 1_000_000, 2_000_000

_CHANNELS: dict[str, Callable[..., Channel]] = {
    "echo": EchoDense,
    "echo_matrix": MatrixEchoDense,
    "gaussian": GaussianChannel,
    "gaussian_full": FullGaussianChannel,
}


def build_model(
    config: Config | dict | str, shape: tuple[int, ...] = IMAGE_SHAPE, steps_per_epoch: int | None = None
) -> RateDistortionModel:
    """Build and compile a model.

    Args:
        config: A `Config`, its dictionary, or the name of a method (`"echo"`, `"vae"`).
        shape: Shape of one example: `(28, 28, 1)`, `(64, 64, channels)`, `(features,)`, ...
        steps_per_epoch: Integer; with it Adam follows the schedule of the configuration, without it the learning rate is
            constant.

    Returns:
        A compiled `RateDistortionModel` with its weights built. What the configuration says of the course of a training,
        `channel.renormalise_at`, `mmd.warmup` and `training.beta_warmup`, is the work of `training.train`: under `fit` alone
        the weights of rate and penalty are at their full value from the first step.

    Raises:
        ConfigError: as `load_config`; networks that are not made for this shape.
    """
    if not isinstance(config, Config):
        config = load_config(config) if isinstance(config, str) else config_from_dict(config)
    network, constraint = config.network, config.constraint
    networks = NETWORKS[network_for(network.kind, shape)]
    encoder, decoder = networks(shape, network.latent_dim, dtype=config.training.dtype_policy)
    target = (constraint.quantity, constraint.target_nats, constraint.gain)
    model = RateDistortionModel(
        encoder,
        decoder,
        _channel(config),
        prior=None if config.channel.is_echo else _prior(config, shape),
        beta=config.beta,
        distortion=Gaussian(config.distortion.sd) if config.distortion.kind == "gaussian" else Bernoulli(),
        penalty=_penalty(config),
        constraint=None if constraint.quantity == "none" else BetaConstraint(*target),
    )
    model.build((None, *shape))
    model.compile(optimizer=make_optimizer(config.training, steps_per_epoch))
    return model


def build_gaussian_phase(
    model: RateDistortionModel, config: Config, x: np.ndarray, steps_per_epoch: int
) -> RateDistortionModel:
    """The model from `channel.gaussian_at` on, made of one that was trained with Echo noise until then. Its step goes on.

    Args:
        model: The trained model.
        config: Its configuration.
        x: Some 10,000 training examples.
        steps_per_epoch: Integer.
    """
    twin = with_gaussian_noise(model, x, _prior(config, x.shape[1:]), config.seed)
    if twin.prior is not None:
        twin.prior.flow.start_at_identity()  # a random start would cost hundreds of nats, and the encoder
    twin.compile(optimizer=make_optimizer(config.training, steps_per_epoch))
    twin.optimizer.build(twin.trainable_variables)
    # With the moments of Adam too: without them its first steps are long ones, whatever the gradient.
    known = {_own_path(variable): variable for variable in model.optimizer.variables}
    for variable in twin.optimizer.variables:
        if (before := known.get(_own_path(variable))) is not None:
            variable.assign(before)
    return twin


def _own_path(variable: keras.Variable) -> str:
    """Path of a variable of an optimizer without the name of that one."""
    return variable.path.partition("/")[2]


def _seed(config: Config, shift: int) -> int:
    return (config.seed + shift) % SEEDS


def _channel(config: Config) -> Channel:
    kind, units, seed = config.channel.kind, config.network.latent_dim, config.seed
    options = {name: getattr(config.channel, name) for name in CHANNEL_OPTIONS[kind]}
    if kind == "iaf":
        return _with_flow(IAFChannel, config, seed, **options)
    return _CHANNELS[kind](units, rate_weight=None, seed=seed, **options)  # the rate enters the objective in the model's loss


def _with_flow(made: Callable[..., Any], config: Config, seed: int, **options: Any) -> Any:
    """A channel or marginal that is made of a flow."""
    hidden = (config.flow.hidden_units,) * config.flow.hidden_layers
    return made(config.network.latent_dim, config.flow.steps, hidden, train_flow=config.flow.trainable, seed=seed, **options)


def _prior(config: Config, shape: tuple[int, ...]) -> MAFPrior | VampPrior | None:
    prior, seed = config.prior, _seed(config, PRIOR_SEED)
    if prior.kind == "own":
        return None
    if prior.kind == "vamp":
        options = {name: getattr(prior, name) for name in ("average", "start", "start_noise")}
        return VampPrior(prior.components, shape, seed=seed, **options)
    return _with_flow(MAFPrior, config, seed)


def _penalty(config: Config) -> MMDPenalty | TotalCorrelationPenalty | None:
    mmd, tc, seed = config.mmd, config.tc, _seed(config, PENALTY_SEED)
    if tc.weight:
        return TotalCorrelationPenalty(tc.weight, (tc.hidden_units,) * tc.hidden_layers, seed)
    return MMDPenalty(mmd.weight, mmd.bandwidth, mmd.fixed_bandwidth, seed) if mmd.weight else None
