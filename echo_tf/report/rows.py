"""Results grouped over their seeds, and what they say beside the paper: verdicts, curves, rankings."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.stats import kendalltau, rankdata, sem

from echo_tf.echo.bound import max_scale
from echo_tf.errors import ResultError
from echo_tf.experiments.records import QUANTITIES, Result
from echo_tf.models.config import DATASETS, Config
from echo_tf.report.names import departures, parts, target
from echo_tf.report.paper import paper_table

TOLERANCE_NATS = 1.0
PAPER_EPOCHS = 200

NOT_COMPARABLE = "not comparable"
AGREES = "agrees"
DIFFERS = "differs"

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by key, in the order in which the keys first occur."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


@dataclass(frozen=True)
class Row:
    """Results of one setting over its seeds, beside the paper's. All quantities are in nats.

    Attributes:
        results: Those that differ in their seed only, by seed.
    """

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """That of the first seed; what it says of the setting holds for all."""
        return self.results[0]

    @property
    def config(self) -> Config:
        """That of the first seed."""
        return self.first.config

    @property
    def dataset(self) -> str:
        return self.first.cell.dataset

    @property
    def method(self) -> str:
        return self.config.method

    @property
    def epochs(self) -> int:
        return self.config.training.epochs

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(result.config.seed for result in self.results)

    @cached_property
    def mean(self) -> dict[str, float]:
        """Means over seeds by quantity."""
        return {quantity: float(np.mean([result.mean[quantity] for result in self.results])) for quantity in QUANTITIES}

    @cached_property
    def se(self) -> dict[str, float]:
        """Standard errors over seeds by quantity; of a single seed those of its own evaluation (noise only)."""
        if len(self.results) == 1:
            return self.first.se
        return {quantity: float(sem([result.mean[quantity] for result in self.results])) for quantity in QUANTITIES}

    @property
    def paper(self) -> dict[str, float] | None:
        """Means by quantity in the paper's table 2; `None` where it has no such row."""
        return paper_table().get(self.dataset, {}).get(self.method) if self.config.beta == 1 else None

    @property
    def difference_nats(self) -> float | None:
        """-ELBO less the paper's."""
        return self.mean["neg_elbo_nats"] - self.paper["neg_elbo_nats"] if self.paper else None

    @property
    def precision(self) -> str:
        """That of the layers of the networks, `"bfloat16"` for `mixed_bfloat16`."""
        return parts(self.first)["precision"]

    @property
    def target(self) -> str:
        """A constraint on rate or distortion; beta is then where training began."""
        return target(self.config)

    @property
    def final_beta(self) -> float | None:
        """Mean of where the beta of a constraint ended."""
        betas = [result.final_beta for result in self.results if result.final_beta is not None]
        return float(np.mean(betas)) if betas else None

    @cached_property
    def departures(self) -> tuple[str, ...]:
        """See `names.departures`."""
        return departures(self.first)

    @property
    def approximate(self) -> bool:
        """Whether the formula of the rate is: Echo that draws with replacement from fewer than `20 / (1 - r)` examples."""
        channel = self.config.channel
        least = 20 / (1 - max_scale(channel.d_max, channel.max_mean))
        return channel.kind == "echo" and channel.replace and self.config.training.batch_size < least

    @cached_property
    def unused(self) -> dict[str, float] | None:
        """Number of dimensions at no more than twice the rate floor and their rate in nats, on average over seeds."""
        rates, floor = np.array([result.rate_by_dimension_nats for result in self.results]), self.first.rate_floor_nats
        if floor is None or not rates.size:  # (seeds, dim)
            return None
        low = rates <= 2 * floor / rates.shape[1]
        return {"dimensions": float(low.sum(1).mean()), "nats": float((rates * low).sum(1).mean())}

    @property
    def importance_bound_nats(self) -> float | None:
        """Mean over seeds of the bound of -log p(x) from `first.passes` samples, for channels with a density."""
        alike = (result.importance_bound_nats for result in self.results if result.passes == self.first.passes)
        bounds = [bound for bound in alike if bound is not None]
        return float(np.mean(bounds)) if len(bounds) == len(self.results) else None

    @property
    def setting(self) -> tuple:
        """What tells rows of one method on one data set apart, but for precision and beta; the protocol first."""
        first = self.first
        place = (first.split, first.source, first.cell.holdout, first.cell.data)
        return (self.config.protocol, self.epochs, *place, self.target, self.departures)

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell of the paper's table 2 but for the length of its schedule and the precision of its networks."""
        first = self.first
        plain = self.config.beta == 1 and not (self.target or first.cell.holdout or self.departures)
        return plain and first.split == "test" and self.config.protocol == "paper" and self.paper is not None

    @property
    def verdict(self) -> str:
        """Whether -ELBO is the paper's, to within `max(1 nat, 2 se)`: only with its schedule and its data."""
        difference = self.difference_nats
        if difference is None or not self.is_cell or self.epochs != PAPER_EPOCHS or self.first.source != "original":
            return NOT_COMPARABLE
        agrees = abs(difference) <= max(TOLERANCE_NATS, 2 * self.se["neg_elbo_nats"])
        return AGREES if agrees else DIFFERS

    @property
    def misses(self) -> bool:
        """Whether the paper's value was compared and missed."""
        return self.verdict == DIFFERS


def compare(results: Iterable[Result]) -> list[Row]:
    """Group results that differ in their seed only. Data sets that are not ours come last.

    Raises:
        ResultError: one model stands in two folders.
    """

    def setting(result):
        config = dataclasses.replace(result.config, seed=0)
        return dataclasses.replace(result.cell, config=config), result.split, result.source

    rows = []
    for group in grouped(results, setting).values():
        group.sort(key=lambda result: result.config.seed)
        for result, other in itertools.pairwise(group):
            if result.config.seed == other.config.seed:
                raise ResultError(
                    f"{result.folder} and {other.folder} hold the same model. Move one of them away: it would count twice."
                )
        rows.append(Row(tuple(group)))

    def place(row):
        known = DATASETS.index(row.dataset) if row.dataset in DATASETS else len(DATASETS)
        return known, row.dataset, row.first.split, row.epochs, row.target, row.config.beta, row.method

    return sorted(rows, key=place)


def curves(rows: list[Row]) -> list[list[Row]]:
    """The rate-distortion curves that rows make: those of at least two betas, all else being equal, by rising beta."""
    groups = grouped((row for row in rows if not row.target), lambda row: (row.dataset, row.method, row.precision, row.setting))
    return [sorted(curve, key=lambda row: row.config.beta) for curve in groups.values() if len(curve) > 1]


def in_one_precision(rows: list[Row]) -> list[Row]:
    """Of rows that differ in the precision of their networks only, that with more seeds; of equally many, that in float32."""
    best: dict[tuple, Row] = {}
    for row in sorted(rows, key=lambda row: (len(row.seeds), row.precision == "float32")):
        best[row.dataset, row.method, row.config.beta, row.setting] = row
    return [row for row in rows if row in best.values()]


class Pair(NamedTuple):
    """A row beside another one of the same setting."""

    row: Row
    other: Row

    @property
    def difference(self) -> float:
        """By how much -ELBO is above that of the other, in nats."""
        return self.row.mean["neg_elbo_nats"] - self.other.mean["neg_elbo_nats"]

    @property
    def se(self) -> float:
        """Standard error of the difference, as of independent means."""
        return math.hypot(self.row.se["neg_elbo_nats"], self.other.se["neg_elbo_nats"])

    @property
    def se_over_seeds(self) -> float | None:
        """The same; `None` where one of them has one seed, which says nothing of others."""
        return self.se if min(len(self.row.seeds), len(self.other.seeds)) > 1 else None

    @property
    def paper_difference(self) -> float | None:
        """The difference in the paper's table 2."""
        mine, others = self.row.paper, self.other.paper
        return mine["neg_elbo_nats"] - others["neg_elbo_nats"] if mine and others else None


class Ranked(NamedTuple):
    """A method in a ranking.

    `rank` is that by -ELBO, `paper_rank` that in the paper among the same methods, where equal values share the best. `tau` is
    Kendall's tau-b between the two orders of all: 1 if they are the same, -1 if one is the reverse of the other. `echo` is the
    row beside Echo's, if that is another one.
    """

    row: Row
    rank: int
    paper_rank: int
    tau: float
    echo: Pair | None


def rankings(rows: list[Row]) -> list[list[Ranked]]:
    """Three or more methods that were trained alike, as the paper's table 2 says but for the epochs, best first.

    Networks in float32 and in mixed bfloat16 are ranked together, see `in_one_precision`.
    """
    cells = [row for row in in_one_precision(rows) if row.is_cell]
    found = []
    for members in grouped(cells, lambda row: (row.dataset, row.setting)).values():
        if len(members) < 3:
            continue
        members.sort(key=lambda row: row.mean["neg_elbo_nats"])
        paper = [row.paper["neg_elbo_nats"] for row in members if row.paper]
        tau = float(kendalltau([row.mean["neg_elbo_nats"] for row in members], paper).statistic)
        echo = next((row for row in members if row.method == "echo"), None)
        beside = [Pair(row, echo) if echo and row is not echo else None for row in members]
        ranks = zip(members, rankdata(paper, method="min").astype(int).tolist(), beside, strict=True)
        found.append([Ranked(row, rank, paper_rank, tau, pair) for rank, (row, paper_rank, pair) in enumerate(ranks, 1)])
    return found


def epochs_by_cell(rows: list[Row]) -> dict[tuple[str, str], int]:
    """Epochs of each cell of the paper's table 2, by data set and method: the paper's, else the longest; 0: missing."""
    epochs = {(dataset, method): 0 for dataset, methods in paper_table().items() for method in methods}
    cells = sorted((row for row in rows if row.is_cell), key=lambda row: (row.epochs == PAPER_EPOCHS, row.epochs))
    return epochs | {(row.dataset, row.method): row.epochs for row in cells}  # the last counts
