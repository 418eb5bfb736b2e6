"""What the experiment `likelihood` writes. Needs no Keras."""

from dataclasses import dataclass

from echo_tf.experiments.points import MODEL, ModelPoint

TABLE, PAIRS = "likelihood.csv", "pairs.csv"


@dataclass(frozen=True)
class AnnealedPoint(ModelPoint):
    """`-log p(x)` of a decoder with a marginal in nats, by annealed importance sampling; standard errors are over images.

    Attributes:
        marginal: `own`, that of the model; or `fitted`, a MAF fitted to `q(z)` afterwards.
        split, images: Split, and number of images drawn at random from it, the same for all models.
        temperatures, chains: Of the estimate.
        neg_log_likelihood_nats: In expectation an upper bound of `-log p(x)`.
        simulated: Number of examples drawn from decoder and marginal, for which there is a lower bound too.
        gap_nats: Upper less lower bound, on average over those: how loose the estimate is.
        acceptance: Share of proposals that were accepted, on average over temperatures.
        neg_elbo_nats: Rate plus distortion of the model for the same images, the rate with its own marginal.
        lowered_nats: By how much the estimate is below that: where the marginal is the model's own, at most the divergence of
            the encoder from the posterior.
    """

    marginal: str
    split: str
    images: int
    temperatures: int
    chains: int
    neg_log_likelihood_nats: float
    neg_log_likelihood_se: float
    simulated: int
    gap_nats: float
    gap_se: float
    acceptance: float
    neg_elbo_nats: float
    lowered_nats: float
    lowered_se: float


EFFORT = ("split", "images", "temperatures", "chains")
KEY = (*MODEL, "marginal", *EFFORT)


@dataclass(frozen=True)
class PairPoint:
    """Two rows of the table that were measured with the same images, and trained alike but for the method.

    `difference_nats` is `-log p(x)` of the first less that of the other, image by image, and the standard error that of such
    differences: it lacks the spread of `-log p(x)` over images, which both have in common.
    """

    dataset: str
    cell: str
    split: str
    images: int
    temperatures: int
    chains: int
    method: str
    marginal: str
    other_method: str
    other_marginal: str
    difference_nats: float
    difference_se: float


def images_name(row: dict) -> str:
    """File beside the table with the estimate of `log p(x)` of every image of a row, a NumPy array."""
    return "-".join(str(row[name]) for name in ("method", "cell", "marginal", *EFFORT)) + ".npy"
