"""Checks of arguments that every layer shares."""

import keras
import pytest

import echo_tf


@pytest.mark.parametrize(
    ("make", "option", "meant"),
    [
        (lambda **options: echo_tf.EchoDense(2, **options), "dmax", "d_max"),
        (lambda **options: echo_tf.MatrixEchoDense(2, **options), "resevoir_size", "reservoir_size"),
        (echo_tf.EchoLayer, "max_means", "max_mean"),
        (echo_tf.MatrixEchoLayer, "rate_weigth", "rate_weight"),
        (lambda **options: echo_tf.GaussianChannel(2, **options), "sed", "seed"),
        (lambda **options: echo_tf.EchoDense(2, **options), "trainabel", "trainable"),
        (lambda **options: echo_tf.MAFPrior(2, **options), "hiden", "hidden"),
        (echo_tf.MMDPenalty, "bandwith", "bandwidth"),
    ],
)
def test_mistyped_arguments_get_a_suggestion(make, option, meant):
    with pytest.raises(ValueError, match=rf"has no argument `{option}` \(did you mean `{meant}`\?\)"):
        make(**{option: 1})


def test_mistyped_argument_of_a_model():
    parts = (keras.layers.Dense(4), keras.layers.Dense(4), echo_tf.EchoDense(2))
    with pytest.raises(ValueError, match=r"RateDistortionModel has no argument `distorsion` \(did you mean `distortion`\?\)"):
        echo_tf.RateDistortionModel(*parts, distorsion="gaussian")


def test_what_resembles_nothing_is_refused_without_a_guess():
    with pytest.raises(ValueError, match=r"EchoDense has no argument `xyz`\. Arguments: units, rate_weight, d_max"):
        echo_tf.EchoDense(2, xyz=1)
