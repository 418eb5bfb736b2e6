"""What a rate-distortion model refuses: parts that do not go together, and what would train for hours and mean nothing."""

import logging
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.bound import invalid
from echo_tf.echo.channel import Channel
from echo_tf.models.distortions import Bernoulli, DistortionFunction
from echo_tf.models.examples import check_examples
from echo_tf.models.penalties import BetaConstraint, MMDPenalty, TotalCorrelationPenalty
from echo_tf.models.priors import MAFPrior, VampPrior

logger = logging.getLogger(__name__)


def check_kinds(channel: Any, prior: Any, penalty: Any, constraint: Any) -> None:
    """Raise `ValueError` for a part of another kind, such as a decoder in the place of the channel."""
    if not isinstance(channel, Channel):
        expected = "a Channel, such as EchoDense(8), as the third argument, behind encoder and decoder"
        raise invalid("channel", expected, _kind_of(channel))
    for name, part, kinds in (
        ("prior", prior, (MAFPrior, VampPrior)),
        ("penalty", penalty, (MMDPenalty, TotalCorrelationPenalty)),
        ("constraint", constraint, (BetaConstraint,)),
    ):
        if part is not None and not isinstance(part, kinds):
            raise invalid(name, " or ".join(["None", *(f"a {kind.__name__}" for kind in kinds)]), _kind_of(part))


def _kind_of(part: Any) -> str:
    return f"the class {part.__name__}" if isinstance(part, type) else f"{type(part).__name__}"


def check_parts(
    channel: Channel, prior: Any, takes_example: bool, distortion: DistortionFunction, penalty: Any, constraint: Any
) -> None:
    """Raise `ValueError` for a prior or constraint that does not fit the channel, or a distortion not made for the decoder.

    Warn of a penalty on a batch whose outputs are each other's noise, and of a weight of the channel that does nothing.
    """
    name, found = type(channel).__name__, type(prior).__name__
    if prior is not None and not channel.has_density:
        reason = "no density q(z|x): its rate is exact with its own marginal"
        raise invalid("prior", f"None with {name}, which has {reason}", found)
    if prior is not None and prior.needs_components and not channel.has_components:
        reason = f"a {found} is made for Gaussians with independent dimensions"
        raise invalid("prior", f"None or a MAFPrior with {name}: {reason}", found)
    dim = getattr(prior, "dim", channel.units)
    if dim != channel.units:
        raise invalid("prior", f"a {found} of {channel.units} dimensions, as {name} has", f"one of {dim}")
    if takes_example and not isinstance(distortion, Bernoulli):
        expected = '"bernoulli" with a decoder that takes the example, since it draws pixels of 0 and 1'
        raise invalid("distortion", expected, f"distortion={distortion!r}")
    if constraint is not None and constraint.quantity == "rate" and constraint.target_nats < channel.rate_floor:
        expected = f"a target of at least {channel.rate_floor:.2f} nats, the rate floor of {name} (a larger d_max lowers it)"
        raise invalid("constraint", expected, f"target_nats={constraint.target_nats:g}")
    if penalty is not None and getattr(getattr(channel, "source", None), "sampler", None) == "ring":
        logger.warning(
            "%s is a statistic of the batch, in which %s makes the noise of one example from the output of another. Its value "
            "is not that of independent noise: use EchoDense(..., sampler='gather').",
            type(penalty).__name__,
            name,
        )
    if channel.rate_weight is not None and (weight := float(ops.convert_to_numpy(channel.rate_weight))) != 1.0:
        logger.warning(
            "%s was made with rate_weight=%g, which a RateDistortionModel does not use: the model's beta multiplies the rate.",
            name,
            weight,
        )


def check_codes(z: np.ndarray, channel: Channel) -> None:
    """Raise `ValueError` for what is not `z` of at least one example."""
    if z.ndim < 2 or not len(z) or z.shape[-1] != channel.units:
        raise invalid("z", f"shape (n, ..., {channel.units}), n >= 1, as {channel.name!r} gives it", f"shape {z.shape}")


def check_no_targets(y: Any, sample_weight: Any) -> None:
    """Raise `ValueError` for targets, or weights of examples."""
    if y is not None or sample_weight is not None:
        raise ValueError(
            "A RateDistortionModel takes no targets, since it reconstructs its input, and no sample_weight or "
            "class_weight: let examples occur as often as they shall weigh."
        )


def check_training(model: keras.Model, x: Any, y: Any, sample_weight: Any) -> None:
    """Raise `ValueError` for targets, weights, what `compile` may not have, or examples that encoder or distortion refuses."""
    check_no_targets(y, sample_weight)
    if (replicas := getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1)) > 1:
        raise ValueError(
            f"Expected one replica: each would have a reservoir and a beta of its own. Found: {replicas}. Train one model on "
            "each device."
        )
    compiled = getattr(getattr(model, "_compile_config", None), "config", {})
    for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        if compiled.get(name):  # not in `compile`: a model that was saved with one is loaded without optimizer
            expected = "None: a RateDistortionModel has a loss and metrics of its own, and no targets"
            raise invalid(f"{name}` of `compile", expected, f"{name}={compiled[name]!r}")
    if x is not None and not hasattr(x, "__next__"):
        check_examples(x, model.encoder, model.distortion)
