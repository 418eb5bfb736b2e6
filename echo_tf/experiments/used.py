"""What the experiment `freeriding` writes. Needs no Keras."""

from dataclasses import dataclass

TABLE = "used.csv"


@dataclass(frozen=True)
class UsedPoint:
    """What the decoder of a trained model takes from `z`, in nats an image; standard errors are over images.

    `cell` is the folder of the model, `beta` its last one, `target` what training was held to, if anything; `fingerprint` is
    that of its cell. `used_nats` is how
    much likelier an image is with its own `z` than with those of others, `certain_nats` a lower bound of `I(X; Z)` from the
    same numbers, and `shuffled_nats` what the distortion rises by with the `z` of another image; see `freeriding.measure`.
    """

    dataset: str
    method: str
    cell: str
    split: str
    epochs: int
    beta: float
    target: str
    fingerprint: str
    seed: int
    rate_floor_nats: float
    rate_nats: float
    distortion_nats: float
    neg_elbo_nats: float
    used_nats: float
    used_nats_se: float
    certain_nats: float
    certain_nats_se: float
    shuffled_nats: float
    shuffled_nats_se: float


def pictures_name(row: dict) -> str:
    """File of the draws with `z` fixed that belongs to a row."""
    return f"{row['method']}-{row['cell']}-{row['split']}.npz"
