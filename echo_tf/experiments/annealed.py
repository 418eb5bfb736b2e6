"""What the experiment `likelihood` writes. Needs no Keras."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from echo_tf.experiments.points import ModelPoint
from echo_tf.files import read_rows

TABLE = "likelihood.csv"


@dataclass(frozen=True)
class AnnealedPoint(ModelPoint):
    """`-log p(x)` of a decoder with a marginal in nats, by annealed importance sampling; standard errors are over images.

    Attributes:
        marginal: `own`, that of the model; or `fitted`, a MAF fitted to `q(z)`, as Echo's own has no density.
        images: Number of images, drawn at random from the split, the same for all models.
        temperatures, chains: Of the estimate.
        neg_log_likelihood_nats: In expectation an upper bound of `-log p(x)`.
        simulated: Number of examples drawn from decoder and marginal, for which there is a lower bound too.
        gap_nats: Upper less lower bound, on average over those: how loose the estimate is.
        acceptance: Share of proposals that were accepted, on average over temperatures.
        neg_elbo_nats: Rate plus distortion of the model for the same images.
        lowered_nats: By how much the estimate is below that: where the marginal is the model's own, at most the divergence of
            the encoder from the posterior.
    """

    split: str
    marginal: str
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


def read_table(folder: Path) -> list[dict]:
    """The rows of the table, none where there is no file. Raises `ResultError` for a damaged one."""
    return read_rows(folder / TABLE, get_type_hints(AnnealedPoint))


def images_name(row: dict) -> str:
    """File beside the table with the estimate of `log p(x)` of every image of a row, a NumPy array."""
    names = ("method", "epochs", "beta", "seed", "split", "marginal", "images", "temperatures", "chains")
    return "-".join(str(row[name]) for name in names) + ".npy"
