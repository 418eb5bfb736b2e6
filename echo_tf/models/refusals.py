"""What a rate-distortion model refuses: parts that do not go together, and what would train for hours and mean nothing."""

from typing import Any

import keras

from echo_tf.echo.bound import invalid
from echo_tf.echo.channel import Channel
from echo_tf.models.distortions import Bernoulli, DistortionFunction
from echo_tf.models.examples import check_examples


def check_parts(channel: Channel, prior: Any, takes_example: bool, distortion: DistortionFunction) -> None:
    """Raise `ValueError` for a prior that does not fit the channel, or a distortion that does not fit the decoder."""
    name, found = type(channel).__name__, type(prior).__name__
    if prior is not None and not channel.has_density:
        reason = "no density q(z|x): its rate is exact with its own marginal"
        raise invalid("prior", f"None with {name}, which has {reason}", found)
    if prior is not None and prior.needs_components and not channel.has_components:
        reason = f"a {found} is made for Gaussians with independent dimensions"
        raise invalid("prior", f"None or a MAFPrior with {name}: {reason}", found)
    if takes_example and not isinstance(distortion, Bernoulli):
        expected = '"bernoulli" with a decoder that takes the example, since it draws pixels of 0 and 1'
        raise invalid("distortion", expected, f"distortion={distortion!r}")


def check_no_targets(y: Any, sample_weight: Any) -> None:
    """Raise `ValueError` for targets, or weights of examples."""
    if y is not None or sample_weight is not None:
        raise ValueError(
            "A RateDistortionModel takes no targets, since it reconstructs its input, and no sample_weight or "
            "class_weight: let examples occur as often as they shall weigh."
        )


def check_training(model: keras.Model, x: Any, y: Any, sample_weight: Any) -> None:
    """Raise `ValueError` for targets, weights, a loss of `compile`, or examples that encoder or distortion is not made for."""
    check_no_targets(y, sample_weight)
    if getattr(model, "loss", None) is not None:  # not in `compile`: with one of its own a model is loaded without optimizer
        expected = "None: a RateDistortionModel has a loss of its own, made of `distortion` and `beta`"
        raise invalid("loss` of `compile", expected, f"loss={model.loss!r}")
    if x is not None and not hasattr(x, "__next__"):
        check_examples(x, model.encoder, model.distortion)
