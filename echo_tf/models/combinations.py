"""Values of a configuration that do not go together, each with the sentence that refuses it."""

import dataclasses
import math
import operator
from typing import Any

from echo_tf.errors import ConfigError

# Options by kind of channel. Those of other kinds would be ignored without a word.
_BOTH_ECHOES = ("d_max", "echoes", "noise", "signed", "constant_scale")
CHANNEL_OPTIONS: dict[str, tuple[str, ...]] = {
    "echo": (*_BOTH_ECHOES, "max_mean", "sampler", "replace", "multiplicative", "parametrisation", "mean_scale"),
    "echo_matrix": _BOTH_ECHOES,
    "gaussian": ("shared_noise",),
    "gaussian_full": (),
    "iaf": ("shared_noise",),
}
_ANYWHERE = ("kind", "d_max", "renormalise_at", "gaussian_at")  # what files set for all methods on a data set

_EXACT = "Its rate is exact with the law of its noise as the marginal, which any other would raise"
_COMPONENTS = "A VampPrior is made for Gaussians with independent dimensions"
_FLOOR = "the rate floor of this Echo channel (raise channel.d_max to lower it)"
_OF_BATCH = "The penalty is a statistic of the batch, where the noise of one example is the output of another"


def check_combinations(config: Any) -> None:
    """Raise `ConfigError` for the first value of a `Config` that does not go with the others."""
    for sentence, is_refused in {**_foreign_options(config.channel), **_refusals(config)}.items():
        if is_refused:
            received = operator.attrgetter(sentence.split("`")[1])(config)
            raise ConfigError(f"Invalid value for {sentence}. Received: {received!r}")


def _foreign_options(channel: Any) -> dict[str, bool]:
    """The same as `_refusals`, for options that the kind of channel has not."""
    own = (*_ANYWHERE, *CHANNEL_OPTIONS[channel.kind])
    usual = {field.name: field.default for field in dataclasses.fields(channel) if field.name not in own}
    reason = f"with the channel {channel.kind}, which has no such option. Expected"
    return {f"`channel.{name}` {reason} {value!r}": getattr(channel, name) != value for name, value in usual.items()}


def _refusals(config: Any) -> dict[str, bool]:
    """Sentences, each from the key on whose value it refuses, and whether it is refused."""
    channel, prior, constraint = config.channel, config.prior.kind, config.constraint
    mmd, tc, target = config.mmd.weight, config.tc.weight, constraint.target_nats
    floor = config.rate_floor if constraint.quantity == "rate" else -math.inf
    is_gaussian, warmup, is_full = (
        config.distortion.kind == "gaussian",
        config.training.beta_warmup,
        channel.kind == "gaussian_full",
    )
    is_late, is_held, is_pixelcnn = channel.gaussian_at < 1, constraint.quantity != "none", config.network.kind == "pixelcnn"
    is_plain = channel.parametrisation == "standardised" and not channel.multiplicative
    is_ring, is_matrix = channel.kind == "echo" and channel.sampler == "ring", channel.kind == "echo_matrix"
    is_foreign = channel.is_echo and (prior == "vamp" or (prior == "maf" and not is_late))
    return {
        "`channel.gaussian_at` with a z that is not standardised. Expected 1": is_late and not is_plain,
        "`channel.gaussian_at` with an MMD or TC penalty. Expected 1": is_late and mmd + tc > 0,
        "`channel.gaussian_at` with other noise than Echo's until then. Expected 1": is_late and channel.noise != "echo",
        "`channel.gaussian_at` with the networks pixelcnn, which take no other z later. Expected 1": is_late and is_pixelcnn,
        "`distortion.kind` with the networks pixelcnn, which draw 0 and 1. Expected 'bernoulli'": is_pixelcnn and is_gaussian,
        f"`prior.kind` with an Echo channel. {_EXACT}. Expected 'own', or 'maf' and channel.gaussian_at below 1": is_foreign,
        f"`prior.kind` with the channel {channel.kind}. {_COMPONENTS}. Expected 'own' or 'maf'": is_full and prior == "vamp",
        "`beta` with a constraint. Expected more than 0": is_held and config.beta <= 0,
        "`constraint.target_nats` with a constraint. Expected more than 0": is_held and target <= 0,
        "`training.beta_warmup` with a constraint, which sets beta itself. Expected 0": is_held and warmup > 0,
        f"`constraint.target_nats`. Expected at least {_FLOOR}, {floor:.2f} nats": target < floor,
        f"`channel.sampler` with an MMD penalty. {_OF_BATCH}. Expected 'gather'": is_ring and mmd > 0,
        f"`channel.sampler` with a TC penalty. {_OF_BATCH}. Expected 'gather'": is_ring and tc > 0,
        f"`mmd.weight` with the channel echo_matrix. {_OF_BATCH}. Expected 0": is_matrix and mmd > 0,
        f"`tc.weight` with the channel echo_matrix. {_OF_BATCH}. Expected 0": is_matrix and tc > 0,
        "`mmd.weight` with a learned marginal: the penalty draws towards N(0, I). Expected 0": mmd > 0 and prior != "own",
        "`tc.weight` with an MMD penalty. Expected 0": mmd > 0 and tc > 0,
        "`tc.weight` with one latent. Expected 0": tc > 0 and config.network.latent_dim < 2,
    }
