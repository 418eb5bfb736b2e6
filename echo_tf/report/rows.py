"""Results grouped over their seeds, and what they say beside the paper: verdicts, curves, rankings."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from scipy.stats import kendalltau, rankdata, sem

from echo_tf.echo.bound import max_scale
from echo_tf.errors import ResultError
from echo_tf.experiments.records import QUANTITIES, Result
from echo_tf.models.config import DATASETS
from echo_tf.report.names import departures, parts, without_seed
from echo_tf.report.paper import paper_table, published

TOLERANCE_NATS = 1.0
IDLE_NATS = 0.1
PAPER_EPOCHS = 200

Item = TypeVar("Item")


def grouped(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items by key, in the order in which the keys first occur."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def first_seeds(rows: Iterable[dict], setting: Callable[[dict], Any]) -> list[dict]:
    """The row of the first seed of each setting, in the order in which the settings first occur."""
    return [min(members, key=lambda row: row["seed"]) for members in grouped(rows, setting).values()]


def over_seeds(rows: Iterable[dict], setting: Sequence[str], numbers: Sequence[str]) -> list[dict]:
    """One row a setting: the mean of every number over seeds, and its standard error as `NAME_se`.

    Of a single seed that is the one of its row, of an evaluation, or `None` where it has none.

    Args:
        rows: A row for each seed, about a model in the folder `cell`.
        setting: Keys that tell settings apart; so does `cell`, whose seed is left out.
        numbers: Keys of what is averaged.
    """
    found, setting = [], (*setting, "cell")
    rows = [row | {"cell": without_seed(row["cell"])} for row in rows]
    for values, members in grouped(rows, lambda row: tuple(row[key] for key in setting)).items():
        row = {**dict(zip(setting, values, strict=True)), "seeds": len(members)}
        for key in numbers:
            measured = np.array([member[key] for member in members], float)
            row[key] = float(measured.mean())
            row[f"{key}_se"] = float(sem(measured)) if len(measured) > 1 else members[0].get(f"{key}_se")
        found.append(row)
    return found


@dataclass(frozen=True)
class Row(Result):
    """Results of one setting over its seeds, as one result, beside the paper's. All quantities are in nats.

    Means are over seeds, and so are standard errors; those of a single seed are of its evaluation (noise only). A mean is
    `None` where a seed has no value, or has a bound from another number of samples. All else is that of the first seed.

    Attributes:
        results: Those that differ in their seed only, by seed.
        seeds: Their seeds.
        precision: That of the layers of the networks, `"bfloat16"` for `mixed_bfloat16`.
        departures: See `names.departures`.
        annealed: `neg_log_likelihood_nats` and `lowered_nats` of the experiment `likelihood`, and the `images` that it saw.
        beside: What stands beside it in a table of its own.
    """

    results: tuple[Result, ...] = ()
    seeds: tuple[int, ...] = ()
    precision: str = ""
    departures: tuple[str, ...] = ()
    annealed: dict | None = None
    beside: Any = None

    @classmethod
    def of(cls, results: Iterable[Result]) -> "Row":
        """The row of results that differ in their seed only."""
        results = tuple(sorted(results, key=lambda result: result.config.seed))
        first = results[0]
        values = {quantity: [result.mean[quantity] for result in results] for quantity in QUANTITIES}
        bounds = [result.importance_bound_nats if result.passes == first.passes else None for result in results]
        summary = {
            "results": results,
            "seeds": tuple(result.config.seed for result in results),
            "precision": parts(first)["precision"],
            "departures": departures(first),
            "mean": {quantity: _mean(found) for quantity, found in values.items()},
            "se": {quantity: float(sem(found)) for quantity, found in values.items()} if len(results) > 1 else first.se,
            "importance_bound_nats": _mean(bounds),
            "final_beta": _mean([result.final_beta for result in results]),
        }
        return cls(**{**vars(first), **summary})

    @property
    def paper(self) -> dict[str, float] | None:
        """Means by quantity in the paper's table 2; `None` where it has no such row. A model with a target ends at any beta."""
        return paper_table().get(self.dataset, {}).get(self.method) if self.config.beta == 1 and not self.target else None

    @property
    def difference_nats(self) -> float | None:
        """-ELBO less the paper's."""
        return self.mean["neg_elbo_nats"] - self.paper["neg_elbo_nats"] if self.paper else None

    @property
    def approximate(self) -> bool:
        """Whether the formula of the rate is: Echo that draws with replacement from fewer than `20 / (1 - r)` examples."""
        channel = self.config.channel
        least = 20 / (1 - max_scale(channel.d_max, channel.max_mean))
        return channel.kind == "echo" and channel.replace and self.config.training.batch_size < least

    @property
    def has_exact_rate(self) -> bool:
        """Whether the rate is `I(X; Z)` and no bound of it: with Echo noise that is drawn as it should be."""
        return self.config.rate_floor > 0 and self.config.channel.noise == "echo" and not self.approximate

    @property
    def is_bound(self) -> bool:
        """Whether the rate is `I(X; Z)` or above. With independent noise behind a matrix it is a formula only."""
        return not (
            self.approximate or (self.config.channel.kind == "echo_matrix" and self.config.channel.noise == "independent")
        )

    @property
    def near_floor(self) -> dict[str, float] | None:
        """Number of dimensions at no more than twice the rate floor and their rate in nats, on average over seeds."""
        rates, floor = np.array([result.rate_by_dimension_nats for result in self.results]), self.rate_floor_nats
        if floor is None or not rates.size:  # (seeds, dim)
            return None
        low = rates <= 2 * floor / rates.shape[1]
        return {"dimensions": float(low.sum(1).mean()), "nats": float((rates * low).sum(1).mean())}

    @property
    def is_idle(self) -> bool:
        """Whether `z` says next to nothing: every dimension of Echo near its floor, or a rate of less than `IDLE_NATS`."""
        if near := self.near_floor:
            return near["dimensions"] == len(self.rate_by_dimension_nats)
        return self.mean["rate_nats"] < (self.rate_floor_nats or 0.0) + IDLE_NATS

    @property
    def setting(self) -> tuple:
        """What tells rows of one method on one data set apart, but for precision and beta; the protocol first."""
        place = (self.split, self.source, self.cell.holdout, self.cell.data)
        return (self.config.protocol, self.epochs, *place, self.target, self.departures)

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell of the paper's table 2 but for the length of its schedule and the precision of its networks."""
        plain = self.split == "test" and not (self.cell.holdout or self.departures)
        return plain and self.config.protocol == "paper" and self.paper is not None

    @property
    def verdict(self) -> Literal["agrees", "differs", "not comparable"]:
        """Whether -ELBO is the paper's, to within `max(1 nat, 2 se)`: only with its schedule and its data."""
        compared = self.is_cell and self.epochs == PAPER_EPOCHS and self.source == "original"
        if not compared or self.difference_nats is None:
            return "not comparable"
        return "agrees" if abs(self.difference_nats) <= max(TOLERANCE_NATS, 2 * self.se["neg_elbo_nats"]) else "differs"


def _mean(values: Sequence) -> float | None:
    return None if None in values else float(np.mean(values))


def compare(results: Iterable[Result]) -> list[Row]:
    """Group results that differ in their seed only. Data sets that are not ours come last.

    Raises:
        ResultError: one model stands in two folders.
    """

    def all_but_seed(one):
        return replace(one.cell, config=replace(one.config, seed=0)), one.split, one.source, one.from_batch

    rows = list(map(Row.of, grouped(results, all_but_seed).values()))
    for one, other in (pair for row in rows for pair in itertools.pairwise(row.results)):
        if one.cell == other.cell:
            raise ResultError(f"{one.folder} and {other.folder} hold the same model, which would count twice. Move one away.")

    def place(row):
        known = [*DATASETS, row.dataset].index(row.dataset)
        return known, row.dataset, row.split, row.epochs, row.target, row.config.beta, row.method

    return sorted(rows, key=place)


def curves(rows: list[Row]) -> list[list[Row]]:
    """The rate-distortion curves that rows make: those of at least two betas, all else being equal, by rising beta."""

    def all_but_beta(row):  # methods that are not in `configs/` have no `departures`
        return row.dataset, replace(row.config, seed=0, beta=1.0), row.setting

    groups = grouped((row for row in rows if not row.target), all_but_beta)
    return [sorted(curve, key=lambda row: row.config.beta) for curve in groups.values() if len(curve) > 1]


def in_one_precision(rows: list[Row]) -> list[Row]:
    """Of rows that differ only in the precision of their networks, the one with more seeds; if as many, the float32 one."""
    rising = sorted(rows, key=lambda row: (len(row.seeds), row.precision == "float32"))
    best = {(row.dataset, row.method, row.config.beta, row.setting): row for row in rising}  # the last counts
    return [row for row in rows if row in best.values()]


def longest_schedules(rows: list[Row]) -> list[Row]:
    """Of every method on a data set of the paper the row of the paper's schedule, else of the longest; all else as there."""
    plain = [row for row in in_one_precision(rows) if row.split == "test" and row.config.protocol == "paper"]
    plain = [row for row in plain if row.config.beta == 1 and not (row.target or row.cell.holdout or row.departures)]
    rising = sorted(plain, key=lambda row: (row.epochs == PAPER_EPOCHS, row.epochs))
    best = {(row.dataset, row.method): row for row in rising if row.dataset in paper_table()}  # the last counts
    return list(best.values())


@dataclass(frozen=True)
class Pair(Row):
    """A row beside another one of the same setting; differences are `None` without another.

    Attributes:
        other: The other one.
    """

    other: Row | None = None

    @classmethod
    def of_row(cls, row: Row, other: Row | None, beside: Any = None) -> "Pair":
        """A row beside another one."""
        return cls(**{**vars(row), "other": other, "beside": beside})

    @property
    def excess(self) -> float | None:
        """By how much -ELBO is above that of the other, in nats."""
        return self.mean["neg_elbo_nats"] - self.other.mean["neg_elbo_nats"] if self.other else None

    @property
    def excess_se(self) -> float | None:
        """Standard error of the difference, as of independent means."""
        return math.hypot(self.se["neg_elbo_nats"], self.other.se["neg_elbo_nats"]) if self.other else None

    @property
    def excess_se_over_seeds(self) -> float | None:
        """The same; `None` where one of them has one seed, which says nothing of others."""
        return self.excess_se if self.other and min(len(self.seeds), len(self.other.seeds)) > 1 else None

    @property
    def paper_excess(self) -> float | None:
        """The difference in the paper's table 2."""
        others = self.other and self.other.paper
        return self.paper["neg_elbo_nats"] - others["neg_elbo_nats"] if self.paper and others else None

    @property
    def replacement(self) -> dict[str, float] | None:
        """-ELBO of Echo `without` and `with` replacement in the paper, and the `difference`."""
        found = published()["replacement"].get(self.dataset)
        return found and {**found, "difference": found["with"] - found["without"]}


def rankings(rows: list[Row]) -> list[list[Pair]]:
    """Three or more methods that were trained alike, as the paper's table 2 says but for the epochs, best first.

    Each stands beside Echo if it is another one. `beside` has its `rank` by -ELBO, its `paper_rank` among the same methods, of
    which equal values share the best, and `tau`: Kendall's tau-b between the two orders of all, 1 if they are the same, -1 if
    one is the reverse of the other.

    Networks in float32 and in mixed bfloat16 are ranked together, see `in_one_precision`.
    """
    cells = [row for row in in_one_precision(rows) if row.is_cell]
    alike = grouped(cells, lambda row: (row.dataset, row.setting)).values()
    return [_ranked(members) for members in alike if len(members) > 2]


def _ranked(rows: list[Row]) -> list[Pair]:
    rows = sorted(rows, key=lambda row: row.mean["neg_elbo_nats"])
    paper = [row.paper["neg_elbo_nats"] for row in rows if row.paper]
    tau = float(kendalltau([row.mean["neg_elbo_nats"] for row in rows], paper).statistic)
    echo = next((row for row in rows if row.method == "echo"), None)
    ranks = zip(itertools.count(1), rankdata(paper, method="min").astype(int).tolist(), strict=False)
    places = [{"rank": rank, "paper_rank": paper_rank, "tau": tau} for rank, paper_rank in ranks]
    return [Pair.of_row(row, None if row is echo else echo, place) for row, place in zip(rows, places, strict=True)]


def epochs_by_cell(rows: list[Row]) -> dict[tuple[str, str], int]:
    """Epochs of each cell of the paper's table 2, by data set and method: the paper's, else the longest; 0: missing."""
    epochs = {(dataset, method): 0 for dataset, methods in paper_table().items() for method in methods}
    cells = sorted((row for row in rows if row.is_cell), key=lambda row: (row.epochs == PAPER_EPOCHS, row.epochs))
    return epochs | {(row.dataset, row.method): row.epochs for row in cells}  # the last counts
