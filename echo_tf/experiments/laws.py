"""What the experiment `noise` writes. Needs no Keras."""

from dataclasses import dataclass

from echo_tf.experiments.points import MODEL, ModelPoint

# Echo's own noise; Gaussian noise of its mean and covariance; the same without the correlations; draws of every dimension from
# its own marginal, independent of the others.
LAWS = ("echo", "gaussian", "gaussian_independent", "marginals_independent")


# What the law of the noise is tested against: that of z, with which it should agree (lemma 2.2 of the paper), and Gaussian
# noise of its moments, which tells how small a difference the test finds.
TESTED = ("z", "gaussian")


@dataclass(frozen=True)
class NoisePoint(ModelPoint):
    """A trained model, and the images that it was measured with."""

    split: str


KEY = (*MODEL, "split")


@dataclass(frozen=True)
class LawPoint(NoisePoint):
    """Distortion of a trained model under a law of the noise, in nats; the standard error is over passes with new noise."""

    law: str
    rate_nats: float
    distortion_nats: float
    distortion_se: float


@dataclass(frozen=True)
class DimensionPoint(NoisePoint):
    """What a dimension of `z` is worth: its rate, and the distortion that it saves, in nats.

    The latter is the distortion with the dimension set to its mean less that with it, for the same noise; the standard error is
    over images. `rank` counts dimensions from the one of the highest rate on.
    """

    rank: int
    rate_nats: float
    worth_nats: float
    worth_se: float


@dataclass(frozen=True)
class FitPoint(NoisePoint):
    """Rate of a trained model, and with a MAF fitted afterwards as the marginal, in nats; standard errors over images.

    `noise` is `"own"`, or `"gaussian"` where Echo noise was made Gaussian, so that there is a density.
    """

    noise: str
    rate_nats: float
    fitted_rate_nats: float
    lowered_nats: float
    lowered_se: float


@dataclass(frozen=True)
class LawTestPoint(NoisePoint):
    """Energy distance of independent draws of the noise `e` of a trained model from draws of another law, and its p-value.

    `other` is one of `TESTED`. Both laws are measured in standard deviations of the noise, dimension by dimension.
    """

    other: str
    draws: int
    distance: float
    p_value: float


TABLES = {"laws.csv": LawPoint, "dimensions.csv": DimensionPoint, "fits.csv": FitPoint, "tests.csv": LawTestPoint}
