"""Scores of disentanglement: how far single dimensions of a code stand for single known factors.

Each score takes codes of shape `(n, dim)` and factors as integers from 0, of shape `(n, factors)`. The codes are given, so that
no score makes noise: a score that encoded its own batches, with a factor fixed, would give Echo echoes of the wrong law.

disentanglement_lib has these scores, but needs TensorFlow 1 and is not maintained.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import entropy

from echo_tf.experiments.points import ModelPoint
from echo_tf.theory import mutual_information

TABLE = "scores.csv"

VOTES, TEST_VOTES, VOTE_IMAGES = 10_000, 5_000, 64
BINS = 20
PRUNED_BELOW = 0.05
DCI_TREES = 10
DCI_EXAMPLES = 5_000  # at most


class DCI(NamedTuple):
    """Disentanglement and completeness in [0, 1]; informativeness as the accuracy on held-out examples."""

    disentanglement: float
    completeness: float
    informativeness: float


def active_dimensions(codes: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Which dimensions are not pruned: those whose codes have at least a share `PRUNED_BELOW` of a variance, that of `z`."""
    return codes.var(axis=0) >= PRUNED_BELOW * variance


def factor_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    rng: np.random.Generator,
    active: np.ndarray | None = None,
    votes: int = VOTES,
    test_votes: int = TEST_VOTES,
) -> float:
    """The FactorVAE score: accuracy of a majority vote for the factor that was held fixed.

    A vote: a factor is chosen, and one of its values; of `VOTE_IMAGES` examples with this value, drawn with replacement, the
    dimension whose variance is the least share of its variance over all examples. The classifier gives each dimension the
    factor with the most votes.

    Args:
        codes, factors: See the module.
        rng: The generator.
        active: Boolean, shape `(dim,)`, the dimensions that are not pruned; `None` for all that vary. Without any the score
            is 0.
        votes: Votes for the classifier.
        test_votes: Votes for the accuracy.

    Returns:
        The accuracy.

    Source: Kim & Mnih 2018, section 4; pruning as in disentanglement_lib (Locatello et al. 2019).
    """
    variance = codes.var(axis=0)
    kept = np.flatnonzero(variance > 0 if active is None else active & (variance > 0))
    if not len(kept):
        return 0.0
    scaled, count = codes[:, kept] / np.sqrt(variance[kept]), factors.shape[1]
    rows = [[np.flatnonzero(column == value) for value in np.unique(column)] for column in factors.T]

    def vote() -> tuple[int, int]:
        factor = int(rng.integers(count))
        chosen = rows[factor][rng.integers(len(rows[factor]))]
        return int(scaled[rng.choice(chosen, VOTE_IMAGES)].var(axis=0).argmin()), factor

    table = np.zeros((len(kept), count))
    np.add.at(table, tuple(np.array([vote() for _ in range(votes)]).T), 1)
    tests = np.array([vote() for _ in range(test_votes)])
    return float(np.mean(table.argmax(axis=1)[tests[:, 0]] == tests[:, 1]))


def mutual_information_gaps(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The gap of each factor, whose mean is the MIG: `(I(z_1; v) - I(z_2; v)) / H(v)`, of the two most informative dimensions.

    Args:
        codes, factors: See the module.
        bins: Bins of equal width for each dimension.

    Returns:
        Shape `(factors,)`. A factor that does not vary has 0.

    Source: Chen et al. 2018; bins as in disentanglement_lib.
    """
    binned = [np.digitize(z, np.histogram_bin_edges(z, bins)[1:-1]) for z in codes.T]
    gaps = np.zeros(factors.shape[1])
    for k, v in enumerate(factors.T):
        values, v = np.unique(v, return_inverse=True)
        if len(values) > 1:
            information = np.sort([_information(z, v) for z in binned] + [0.0])
            gaps[k] = (information[-1] - information[-2]) / entropy(np.bincount(v))
    return gaps


def _information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information of two arrays of integers from 0, in nats."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1)
    return mutual_information(joint / joint.sum())


def dci(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness, from the importances of random forests that predict each factor.

    With `R` of shape `(dim, factors)`, the importance of each dimension for each factor: the disentanglement of a dimension is
    1 less the entropy of its row, relative to that of the uniform law, and rows count by their sum; completeness is the same of
    the columns.

    Args:
        codes, factors: See the module.
        seed: Integer, of forests and of what is held out, a quarter.

    Returns:
        The `DCI`.

    Source: Eastwood & Williams 2018.
    """
    from sklearn.ensemble import RandomForestClassifier

    order = np.random.default_rng(seed).permutation(len(codes))[:DCI_EXAMPLES]
    train, test = np.split(order, [3 * len(order) // 4])
    importances, accuracies = [], []
    for v in factors.T:
        forest = RandomForestClassifier(DCI_TREES, max_features=None, random_state=seed).fit(codes[train], v[train])
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(codes[test], v[test]))
    matrix = np.array(importances).T
    return DCI(_concentration(matrix), _concentration(matrix.T), float(np.mean(accuracies)))


def _concentration(matrix: np.ndarray) -> float:
    """Mean over rows, which count by their sum, of 1 less the relative entropy of the row."""
    total = matrix.sum()
    if total == 0 or matrix.shape[1] < 2:
        return 0.0
    entropies = np.array([entropy(row) if row.sum() else 0.0 for row in matrix])
    return float(np.sum(matrix.sum(axis=1) / total * (1.0 - entropies / np.log(matrix.shape[1]))))


def gaussian_total_correlation(codes: np.ndarray, active: np.ndarray | None = None) -> float:
    """Total correlation of a Gaussian with the covariance `C` of the codes: `(sum_j log C_jj - log det C) / 2`, in nats.

    Infinite where dimensions determine each other linearly; 0 with fewer than two dimensions that vary.

    Args:
        codes: See the module.
        active: Boolean, shape `(dim,)`, the dimensions that count; `None` for all.
    """
    varies = codes.var(axis=0) > 0 if active is None else active & (codes.var(axis=0) > 0)
    if varies.sum() < 2:
        return 0.0
    sign, log_det = np.linalg.slogdet(np.corrcoef(codes[:, varies].astype(float), rowvar=False))
    return float(-0.5 * log_det) if sign > 0 else float("inf")


@dataclass(frozen=True)
class ScorePoint(ModelPoint):
    """Scores of a trained model, for one kind of codes, on images of all combinations of the factors.

    `codes` is `"mean"`, what an image sends without noise, or `"sample"`, a draw of `z`. Rate and total correlation in nats;
    `active` counts the dimensions that are not pruned, those that the FactorVAE score and the total correlation regard.
    """

    codes: str
    rate_nats: float
    active: int
    factor_vae: float
    mig: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float
    total_correlation_nats: float


def pictures_name(method: str, cell: str) -> str:
    """File of the traversals that belongs to rows about a model."""
    return f"{method}-{cell}.npz"
