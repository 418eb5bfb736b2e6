"""The tables of a report. Each column is declared once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from echo_tf.experiments.records import QUANTITIES, Result
from echo_tf.models.config import DATASETS
from echo_tf.report.names import data_name, data_title, dataset_title, method_name, point_name, starred
from echo_tf.report.paper import paper_table, published
from echo_tf.report.rows import (
    PAPER_EPOCHS,
    Pair,
    Row,
    epochs_by_cell,
    grouped,
    in_one_precision,
    longest_schedules,
    rankings,
)
from echo_tf.report.table import Column, Table, measured, plain_columns
from echo_tf.report.words import NOTES, WORDS, told_table

# Methods with one departure of the released code, and the method that they are otherwise.
ONE_DEPARTURE = {"vae_shared_noise": "vae", "vae_released_schedule": "vae", "vae_conv_5x5": "vae"}
RECONSTRUCTION = NOTES["reconstruction"]


def _neg_elbo(title: str, key: str, of: str = "") -> Column:
    """-ELBO of a row, or of its attribute `of`, in the CSV file under `key`."""
    return measured(title, key, f"{of}mean.neg_elbo_nats", f"{of}se.neg_elbo_nats")


def _rate(row: Row) -> str:
    return ("≈ " if row.approximate else "") + f"{row.mean['rate_nats']:.2f} ± {row.se['rate_nats']:.2f}"


def _distortion(row: Row) -> str:
    return f"{row.mean['distortion_nats']:.2f} ± {row.se['distortion_nats']:.2f}" + ("†" if row.from_batch else "")


def _beta(row: Row) -> str:
    return f"{row.final_beta:.3g} ({row.target})" if row.target else f"{row.config.beta:g}"


_BOUND = "importance_bound_nats passes"
_ANNEALED = "annealed_nats=annealed.neg_log_likelihood_nats annealed_images=annealed.images"
_PAPER = " ".join(f"paper_{quantity}=paper.{quantity}" for quantity in QUANTITIES)
_NEAR_FLOOR = "near_floor_dimensions=near_floor.dimensions near_floor_nats=near_floor.nats rate_floor_nats"

# Columns for rows: heading, text, what of it the CSV file has, note.
DATA = Column("data", data_name, "dataset split source holdout=cell.holdout")
METHOD = Column("method", method_name, "method protocol=config.protocol departures")
EPOCHS = Column("epochs", "{epochs}", "epochs")
NETWORKS = Column("networks", lambda row: row.precision, "dtype_policy=config.training.dtype_policy")
BETA = Column("beta", _beta, "beta=config.beta target final_beta")
SEED = Column("seed", "{seed}", "seed=config.seed")
SEEDS = Column("seeds", lambda row: str(len(row.seeds)), "seeds")
RATE = Column("rate", _rate, "rate_nats=mean.rate_nats rate_nats_se=se.rate_nats approximate")
_DISTORTION = "distortion_nats=mean.distortion_nats distortion_nats_se=se.distortion_nats echoes"
DISTORTION = Column("distortion", _distortion, _DISTORTION)
SQUARED_ERROR = Column("squared error", "{squared_error:.5f}", "squared_error", NOTES["squared error"])
NEG_ELBO = _neg_elbo("-ELBO", "neg_elbo_nats")
BOUND = Column("IS bound", "{importance_bound_nats:.2f} ({passes})", _BOUND, NOTES["IS bound"])
ANNEALED = Column("AIS bound", "{annealed_nats:.2f} ({annealed_images})", _ANNEALED, NOTES["AIS bound"])
PAPER = Column("paper", " / ".join(f"{{paper_{quantity}:.1f}}" for quantity in QUANTITIES), _PAPER, NOTES["paper"])
PAPER_NEG_ELBO = Column("paper, 200 epochs", "{paper_neg_elbo_nats:.1f}", "paper_neg_elbo_nats=paper.neg_elbo_nats")
DIFFERENCE = Column("difference", "{difference_nats:+.2f}", "difference_nats")
VERDICT = Column("verdict", lambda row: row.verdict if row.dataset in paper_table() else "", "verdict")
NEAR_FLOOR = Column("near floor", "{near_floor_dimensions:.1f} ({near_floor_nats:.2f})", _NEAR_FLOOR, NOTES["near floor"])

# Of rows of the tables of experiments, such as a `ModelPoint`, and together of a `NoisePoint`.
DATA_OF_POINT = Column("data", lambda row: dataset_title(row["dataset"]), "dataset")
BETA_OF_POINT = Column("beta", lambda row: row["target"] or f"{row['beta']:g}", "beta target")
SPLIT_OF_POINT = Column("images", lambda row: "" if row["split"] == "test" else row["split"], "split")
METHOD_OF_POINT = Column("method", point_name, "method cell")
OF_MODEL = (*plain_columns("dataset"), METHOD_OF_POINT, EPOCHS, BETA_OF_POINT, *plain_columns("seed"), SPLIT_OF_POINT)

MEASURED = (DATA, METHOD, EPOCHS, NETWORKS, BETA, SEEDS, RATE, DISTORTION, NEG_ELBO)

# What columns on data, method, rate and beta can have, and what it means.
_MARKS = (
    (lambda row: row.source == "reconstruction", RECONSTRUCTION),
    (lambda row: row.split != "test", "(valid.): measured on validation images."),
    (lambda row: row.cell.holdout, "A number behind the data set: so many training images were held out."),
    (lambda row: row.approximate, "≈: echoes were repeated, so that the formula of the rate is approximate."),
    (lambda row: row.from_batch, "†: Echo noise from the test batch; elsewhere from training examples."),
    (lambda row: row.target, "A target behind beta: training found the beta that gives it."),
    (lambda row: row.departures, "Behind a method: settings that are not its own."),
)


def notes_on_marks(rows: Sequence[Row]) -> list[str]:
    """What the marks in such rows mean, and how all were trained."""
    protocols = ", ".join(sorted({row.config.protocol for row in rows}))
    trained = f"Protocol: {protocols}. networks: precision of their layers; channel and losses are in float32."
    return [*(note for is_there, note in _MARKS if any(map(is_there, rows))), trained]


def _notes_on_sources(rows: Iterable[Row]) -> list[str]:
    return [RECONSTRUCTION] if any(row.source == "reconstruction" for row in rows) else []


def _found(rows: Iterable[Row], column: Column) -> list[Column]:
    """The column, where a row has something in it: what few results have adds nothing to the files of all others."""
    return [column] if any(map(column.text, rows)) else []


def comparison_table(rows: list[Row]) -> Table | None:
    """All results beside the paper's table 2."""
    columns = (*MEASURED, *_found(rows, SQUARED_ERROR), BOUND, *_found(rows, ANNEALED), PAPER, DIFFERENCE, VERDICT, NEAR_FLOOR)
    return told_table("comparison", columns, rows, notes_on_marks(rows))


def curve_table(curves: list[list[Row]]) -> Table | None:
    """The points of all rate-distortion curves; `None` if there is none."""
    rows = [row for curve in curves for row in curve]
    only_in_file = Column("only in the file", "", f"{_BOUND} {_PAPER} difference_nats verdict")
    columns = (*MEASURED, *_found(rows, SQUARED_ERROR), NEAR_FLOOR, only_in_file)
    return told_table("rate_distortion", columns, rows, notes_on_marks(rows))


_PAIR_NETWORKS = Column("networks", lambda pair: f"{pair.other.precision}, {pair.precision}")
_PAIR_SEEDS = Column("seeds", lambda pair: f"{len(pair.other.seeds)}, {len(pair.seeds)}")
_EXCESS = Column("difference", "{difference_nats:+.2f} ± {difference_se:.2f}", "difference_nats=excess difference_se=excess_se")


def comparable(rows: list[Row]) -> list[Row]:
    """Those on the test set with beta = 1 and no target."""
    return [row for row in rows if row.split == "test" and row.config.beta == 1 and not row.target]


def _pairs(rows: list[Row], described: Callable[[Row], tuple[str, str]]) -> list[Pair]:
    """Comparable rows, beside each that of the method and protocol of `described`, if that is another, all else being equal."""
    rows = in_one_precision(comparable(rows))
    by_setting = {(row.dataset, row.method, *row.setting): row for row in rows}
    beside = ((row, by_setting.get((row.dataset, *described(row), *row.setting[1:]))) for row in rows)
    return [Pair.of_row(row, other) for row, other in beside if other and other is not row]


def replacement_table(rows: list[Row]) -> Table | None:
    """Echo with and without replacement at beta = 1, test -ELBO, beside the paper's; `None` without a pair of equal setting."""
    echo = {"echo_replace": "echo"}
    pairs = _pairs(rows, lambda row: (echo.get(row.method, row.method), row.config.protocol))
    of_paper = "paper_without_nats=replacement.without paper_with_nats=replacement.with"
    columns = (
        *(DATA, EPOCHS, _PAIR_NETWORKS, _PAIR_SEEDS),
        *(_neg_elbo("without", "without_nats", "other."), _neg_elbo("with", "with_nats"), _EXCESS),
        Column("paper", "{paper_without_nats:.1f} / {paper_with_nats:.1f}", of_paper),
        Column("paper's difference", "{paper_difference_nats:+.1f}", "paper_difference_nats=replacement.difference"),
    )
    return told_table("replacement", columns, pairs, _notes_on_sources(pairs))


def released_table(rows: list[Row]) -> Table | None:
    """What the departures of the released code change, test -ELBO at beta = 1; `None` without a pair of equal setting.

    A model of `--protocol released`, or of a method that has one departure, stands beside the method as the paper describes it.
    """
    pairs = _pairs(rows, lambda row: (ONE_DEPARTURE.get(row.method, row.method), "paper"))
    columns = (
        *(DATA, METHOD, EPOCHS, _PAIR_NETWORKS, _PAIR_SEEDS),
        *(_neg_elbo("as described", "described_nats", "other."), _neg_elbo("as released", "released_nats"), _EXCESS),
        Column("paper, 200 epochs", "{paper_neg_elbo_nats:.1f}", "paper_neg_elbo_nats=other.paper.neg_elbo_nats"),
    )
    return told_table("released", columns, pairs, _notes_on_sources(pairs))


def _beside_paper(result: Result, noise: dict) -> Row:
    row, found = Row.of([result]), noise["total_correlation_nats"]["mean"]
    paper = published()["noise_total_correlation"].get(row.dataset) if row.is_cell else None
    return replace(row, beside={**noise, "paper": paper, "difference": None if paper is None else found - paper})


def noise_table(noises: list[tuple[Result, dict]]) -> Table | None:
    """Total correlation of the noise of every analysed Echo model, its cells beside the paper's; `None` if there is none."""
    rows = [_beside_paper(result, noise) for result, noise in noises]
    estimate = "beside.total_correlation_nats"
    correlation = f"total_correlation_nats={estimate}.mean standard_error={estimate}.se draws=beside.draws"
    columns = (
        *(DATA, METHOD, EPOCHS, NETWORKS, BETA, SEED),
        Column("total correlation", "{total_correlation_nats:.2f} ± {standard_error:.2f}", correlation),
        Column("paper", "{paper_nats:.1f}", "paper_nats=beside.paper"),
        Column("difference", "{difference_nats:+.2f}", "difference_nats=beside.difference"),
    )
    return told_table("noise_total_correlation", columns, rows, notes_on_marks(rows))


def ranking_table(rows: list[Row]) -> Table | None:
    """Order of the methods here and in the paper, and by how much each is behind Echo; `None` without three methods alike."""
    found = rankings(rows)
    items = [item for ranking in found for item in ranking]
    behind_echo = "behind_echo_nats=excess behind_echo_se=excess_se_over_seeds"
    columns = (
        *(DATA, EPOCHS, METHOD, NETWORKS, SEEDS, NEG_ELBO),
        Column("rank", "{rank}", "rank=beside.rank"),
        Column("paper", "{paper_neg_elbo_nats:.1f}", "paper_neg_elbo_nats=paper.neg_elbo_nats"),
        Column("paper's rank", "{paper_rank}", "paper_rank=beside.paper_rank"),
        Column("behind Echo", "{behind_echo_nats:+.2f} ± {behind_echo_se:.2f}", behind_echo),
        Column("in the paper", "{paper_behind_echo_nats:+.1f}", "paper_behind_echo_nats=paper_excess kendall_tau=beside.tau"),
    )
    return told_table("ranking", columns, items, [*notes_on_tau(found), NOTES["units"], *notes_on_marks(items)])


def notes_on_tau(found: list[list[Pair]]) -> list[str]:
    """How alike the orders of the methods are here and in the paper."""
    taus = [
        f"{row.beside['tau']:.2f} ({data_name(row)}, {row.epochs} epochs, {1 + len(others)} methods)" for row, *others in found
    ]
    note = "Kendall's tau between the order here and in the paper, 1 for the same, -1 for the reverse"
    return [f"{note}: {', '.join(taus)}."] if taus else []


def progress_table(rows: list[Row]) -> Table | None:
    """How far each cell of the paper's table 2 has got, of the data sets that there are; `None` if none is the paper's."""
    found = {row.dataset: row for row in rows}
    firsts = {dataset: found[dataset] for dataset in paper_table() if dataset in found}
    epochs = {cell: count for cell, count in epochs_by_cell(rows).items() if cell[0] in firsts}
    states = {cell: {0: "missing", PAPER_EPOCHS: "complete"}.get(count, f"{count} epochs") for cell, count in epochs.items()}
    lines = [(method, *(states[dataset, method] for dataset in firsts)) for method in next(iter(paper_table().values()))]
    records = [{"dataset": dataset, "method": method, "epochs": count} for (dataset, method), count in epochs.items()]
    header = ("method", *map(starred, firsts.values()))
    words = WORDS["tables"]["progress"]
    notes = [*words["notes"], *_notes_on_sources(firsts.values())]
    return Table("progress", words["title"], header, lines, notes, records) if firsts else None


def readme_table(rows: list[Row]) -> Table | None:
    """One row a method, of the paper's schedule where there is such a model, else of the longest; `None` without any.

    The longest schedules come first, and of each the best. Of the data sets of the paper the first that there is; without any,
    all results on the test set with beta = 1.
    """
    found = longest_schedules(rows)
    first = min((DATASETS.index(row.dataset) for row in found), default=None)
    shown = comparable(rows) if first is None else [row for row in found if row.dataset == DATASETS[first]]
    shown = sorted(shown, key=lambda row: (-row.config.training.epochs, row.mean["neg_elbo_nats"]))
    several = len({row.config.training.epochs for row in shown}) > 1
    columns = (*(() if found else (DATA,)), METHOD, EPOCHS, SEEDS, RATE, DISTORTION, NEG_ELBO, PAPER_NEG_ELBO)
    counts = grouped(epochs_by_cell(rows).items(), lambda item: dataset_title(item[0][0]))
    complete = [f"{name} {sum(n == PAPER_EPOCHS for _, n in cells)} of {len(cells)}" for name, cells in counts.items()]
    paper = f"Methods of the paper's table with its {PAPER_EPOCHS} epochs so far: {', '.join(complete)}."
    ranked = " Best first within equal epochs: compare only those." if several else ""
    where = [f"{data_title(shown[0])}, test set.{ranked} {paper}"] if found else []
    return told_table("results", columns, shown, notes_on_marks(shown), first_notes=where)


def all_tables(rows: list[Row], curves: list[list[Row]], noises: list[tuple[Result, dict]]) -> list[Table]:
    """Those that these results make, the comparison first."""
    others = (make(rows) for make in (replacement_table, released_table, ranking_table, progress_table))
    return [table for table in (comparison_table(rows), curve_table(curves), noise_table(noises), *others) if table is not None]
