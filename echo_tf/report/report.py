"""Tables of results beside the paper's, and the results section of the README."""

import math
from dataclasses import asdict, replace
from pathlib import Path

from echo_tf.errors import ResultError
from echo_tf.files import write_atomically
from echo_tf.models.config import DATASETS
from echo_tf.report.comparison import (
    PAPER_EPOCHS,
    QUANTITIES,
    Curve,
    Ranking,
    Row,
    compare,
    epochs_by_cell,
    in_one_precision,
    rankings,
)
from echo_tf.report.paper import paper_table, published
from echo_tf.report.tables import Table

SECTION_BEGIN, SECTION_END = "<!-- results -->", "<!-- end of results -->"

# Methods with one departure of the released code, and the method that they are otherwise.
ONE_DEPARTURE = {"vae_shared_noise": "vae", "vae_released_schedule": "vae", "vae_conv_5x5": "vae"}

RECONSTRUCTION = (
    "* Omniglot from a reconstruction of chardata.mat, not from the published file: the public drawings resized as its authors "
    "did, drawers of the test set inferred, 100 training images redrawn, values rounded to 1/255."
)


def comparison_table(rows: list[Row]) -> Table:
    """All results beside the paper's table 2."""
    return Table(
        "comparison", "Rate and distortion", _HEADER, [_cells(row) for row in rows], _notes(rows, _HEADER), _records(rows)
    )


_HEADER = (
    "data",
    "method",
    "epochs",
    "networks",
    "beta",
    "seeds",
    "rate",
    "distortion",
    "-ELBO",
    "IS bound",
    "paper",
    "difference",
    "verdict",
    "unused",
)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _data_of(row),
        row.name,
        str(row.epochs),
        row.precision,
        _beta(row),
        str(len(row.seeds)),
        ("≈ " if row.approximate else "") + _plus_minus(row, "rate_nats"),
        _plus_minus(row, "distortion_nats"),
        _plus_minus(row, "neg_elbo_nats"),
        "" if row.importance_bound_nats is None else f"{row.importance_bound_nats:.2f} ({row.passes})",
        "" if row.paper is None else " / ".join(f"{row.paper[quantity]:.1f}" for quantity in QUANTITIES),
        "" if row.difference_nats is None else f"{row.difference_nats:+.2f}",
        row.verdict,
        "" if row.unused_dimensions is None else f"{row.unused_dimensions:.1f} ({row.unused_nats:.2f})",
    )


def _data_of(row: Row) -> str:
    return _data(row.dataset, row.source, row.split) + (f" -{row.holdout}" if row.holdout else "")


def _data(dataset: str, source: str, split: str) -> str:
    return dataset + ("*" if source == "reconstruction" else "") + (" (valid.)" if split != "test" else "")


def _beta(row: Row) -> str:
    if row.target:
        return f"{row.final_beta:.3g} ({row.target})"
    return f"{row.beta:g}" + (" ←" if row.warm_start else "")


def _plus_minus(row: Row, quantity: str) -> str:
    return f"{row.mean[quantity]:.2f} ± {row.se[quantity]:.2f}"


def _records(rows: list[Row]) -> list[dict]:
    """Rows with one number a column."""
    records = []
    for row in rows:
        record = asdict(row)
        for group, suffix in (("mean", ""), ("se", "_se")):
            record |= {quantity + suffix: value for quantity, value in record.pop(group).items()}
        paper = record.pop("paper") or {}
        record |= {f"paper_{quantity}": paper.get(quantity) for quantity in QUANTITIES}
        record |= {name: " ".join(map(str, record[name])) for name in ("seeds", "warm_start", "departures")}
        record["verdict"] = row.verdict
        del record["folder"]  # of one machine
        records.append(record)
    return records


def _notes(rows: list[Row], header: tuple[str, ...]) -> list[str]:
    """What a reader of such rows must know, as far as these columns show it."""
    notes = ["Nats per example. ± is the standard error over seeds; of a single seed, that of its evaluation (noise only)."]
    if "difference" in header:
        notes.append(
            "paper: rate / distortion / -ELBO; difference: of -ELBO. Compared are only 200 epochs of the paper's protocol, "
            "schedule and data on the test set."
        )
    if "IS bound" in header and any(row.importance_bound_nats is not None for row in rows):
        notes.append(
            "IS bound: importance-sampled upper bound of -log p(x) (number of samples); no likelihood where images are grey. "
            "Echo has no density q(z|x)."
        )
    if "unused" in header and any(row.unused_dimensions is not None for row in rows):
        notes.append("unused: Echo dimensions at no more than twice the rate floor, and the rate that they cost.")
    return notes + _notes_on_marks(rows)


def _notes_on_marks(rows: list[Row]) -> list[str]:
    """What the columns on data, method, networks and beta of such rows mean."""
    notes = []
    if any(row.source == "reconstruction" for row in rows):
        notes.append(RECONSTRUCTION)
    if any(row.split != "test" for row in rows):
        notes.append("(valid.): measured on validation images.")
    if any(row.holdout for row in rows):
        notes.append("A number behind the data set: so many training images were held out.")
    if any(row.approximate for row in rows):
        notes.append("≈: echoes were repeated, so that the formula of the rate is approximate.")
    if any(row.target for row in rows):
        notes.append("A target behind beta: training found the beta that gives it.")
    if any(row.warm_start for row in rows):
        notes.append("←: training started from the model of the next smaller beta.")
    if any(row.departures for row in rows):
        notes.append("Behind a method: settings that are not its own.")
    protocols = sorted({row.protocol for row in rows})
    notes.append(f"Protocol: {', '.join(protocols)}. networks: precision of their layers; channel and losses are in float32.")
    return notes


def replacement_table(rows: list[Row]) -> Table | None:
    """Echo with and without replacement at beta = 1, test -ELBO, beside the paper's; `None` without a pair of equal setting."""
    lines, records, sources = [], [], set()
    rows = in_one_precision(_shown(rows))
    plain = {(row.dataset, row.setting): row for row in rows if row.method == "echo"}
    for row in rows:
        if row.method != "echo_replace" or (row.dataset, row.setting) not in plain:
            continue
        without = plain[row.dataset, row.setting]
        sources.add(row.source)
        difference, se = _difference(row, without)
        paper = published()["replacement"].get(row.dataset)
        lines.append(
            (
                _data_of(row),
                str(row.epochs),
                f"{without.precision}, {row.precision}",
                f"{len(without.seeds)}, {len(row.seeds)}",
                _plus_minus(without, "neg_elbo_nats"),
                _plus_minus(row, "neg_elbo_nats"),
                f"{difference:+.2f} ± {se:.2f}",
                "" if paper is None else f"{paper['without']:.1f} / {paper['with']:.1f}",
                "" if paper is None else f"{paper['with'] - paper['without']:+.1f}",
            )
        )
        records.append(
            {
                "dataset": row.dataset,
                "split": row.split,
                "epochs": row.epochs,
                "without_nats": without.mean["neg_elbo_nats"],
                "with_nats": row.mean["neg_elbo_nats"],
                "difference_nats": difference,
                "difference_se": se,
                "paper_without_nats": paper and paper["without"],
                "paper_with_nats": paper and paper["with"],
            }
        )
    if not lines:
        return None
    header = ("data", "epochs", "networks", "seeds", "without", "with", "difference", "paper", "paper's difference")
    notes = [
        "Test -ELBO of Echo at beta = 1 in nats, echoes drawn without and with replacement from the batch. With replacement "
        "the rate, and so the -ELBO, is approximate. ± is the standard error over seeds; of single seeds, that of their "
        "evaluation (noise only).",
        "paper: without / with, after 200 epochs.",
    ]
    if "reconstruction" in sources:
        notes.append(RECONSTRUCTION)
    return Table("replacement", "Echo with and without replacement", header, lines, notes, records)


def released_table(rows: list[Row]) -> Table | None:
    """What the departures of the released code change, test -ELBO at beta = 1; `None` without a pair of equal setting.

    A model of `--protocol released`, or of a method that has one departure, stands beside the method as the paper describes it.
    """
    lines, records, sources = [], [], set()
    rows = in_one_precision(_shown(rows))
    described = {(row.dataset, row.method, row.setting): row for row in rows if row.protocol == "paper"}
    for row in rows:
        method = row.method if row.protocol == "released" else ONE_DEPARTURE.get(row.method)
        plain = described.get((row.dataset, method, replace(row, protocol="paper").setting))
        if plain is None:
            continue
        sources.add(row.source)
        difference, se = _difference(row, plain)
        lines.append(
            (
                _data_of(row),
                row.name,
                str(row.epochs),
                f"{plain.precision}, {row.precision}",
                f"{len(plain.seeds)}, {len(row.seeds)}",
                _plus_minus(plain, "neg_elbo_nats"),
                _plus_minus(row, "neg_elbo_nats"),
                f"{difference:+.2f} ± {se:.2f}",
                "" if plain.paper is None else f"{plain.paper['neg_elbo_nats']:.1f}",
            )
        )
        records.append(
            {
                "dataset": row.dataset,
                "method": row.method,
                "protocol": row.protocol,
                "epochs": row.epochs,
                "described_nats": plain.mean["neg_elbo_nats"],
                "released_nats": row.mean["neg_elbo_nats"],
                "difference_nats": difference,
                "difference_se": se,
                "paper_nats": plain.paper and plain.paper["neg_elbo_nats"],
            }
        )
    if not lines:
        return None
    header = (
        *("data", "method", "epochs", "networks", "seeds"),
        *("as described", "as released", "difference", "paper, 200 epochs"),
    )
    notes = [
        "Test -ELBO at beta = 1 in nats, of models trained as the paper describes them, and with departures of the released "
        "code: those of the protocol `released`, or the one in the name. ± is the standard error over seeds; of single seeds, "
        "that of their evaluation (noise only).",
    ]
    if "reconstruction" in sources:
        notes.append(RECONSTRUCTION)
    return Table("released", "What the released code does otherwise", header, lines, notes, records)


def _difference(row: Row, other: Row) -> tuple[float, float]:
    """By how much the -ELBO of `row` is above that of `other`, and the standard error, as of independent means."""
    difference = row.mean["neg_elbo_nats"] - other.mean["neg_elbo_nats"]
    return difference, math.hypot(row.se["neg_elbo_nats"], other.se["neg_elbo_nats"])


def noise_table(noises: list[tuple[dict, dict]]) -> Table | None:
    """Total correlation of the noise of every analysed Echo model, its cells beside the paper's; `None` if there is none."""
    rows, lines, records = [], [], []
    for result, noise in noises:
        (row,) = compare([result])
        rows.append(row)
        value, se = noise["total_correlation_nats"]["mean"], noise["total_correlation_nats"]["se"]
        paper = published()["noise_total_correlation"].get(row.dataset) if row.is_cell else None
        lines.append(
            (
                _data_of(row),
                row.name,
                str(row.epochs),
                row.precision,
                _beta(row),
                str(row.seeds[0]),
                f"{value:.2f} ± {se:.2f}",
                "" if paper is None else f"{paper:.1f}",
                "" if paper is None else f"{value - paper:+.2f}",
            )
        )
        records.append(
            {
                "dataset": row.dataset,
                "split": row.split,
                "holdout": row.holdout,
                "method": row.method,
                "protocol": row.protocol,
                "departures": " ".join(row.departures),
                "epochs": row.epochs,
                "dtype_policy": row.dtype_policy,
                "beta": row.beta,
                "target": row.target,
                "warm_start": " ".join(map(str, row.warm_start)),
                "seed": row.seeds[0],
                "total_correlation_nats": value,
                "standard_error": se,
                "draws": noise["draws"],
                "paper_nats": paper,
            }
        )
    if not lines:
        return None
    header = ("data", "method", "epochs", "networks", "beta", "seed", "total correlation", "paper", "difference")
    notes = [
        "Total correlation of the dimensions of Echo noise in nats, to second order: -1/2 log det of the correlation matrix of "
        "independent draws, less its bias; ± is the bootstrap's standard error. The paper's models had 200 epochs.",
        *_notes_on_marks(rows),
    ]
    return Table("noise_total_correlation", "Total correlation of Echo noise", header, lines, notes, records)


def curve_table(found: list[Curve]) -> Table | None:
    """The points of all rate-distortion curves; `None` if there is none."""
    if not found:
        return None
    rows = [row for curve in found for row in curve.rows]
    header = ("data", "method", "epochs", "networks", "beta", "seeds", "rate", "distortion", "-ELBO", "unused")
    lines = []
    for curve in found:
        for row in curve.rows:
            data, _, *middle, _, _, _, _, unused = _cells(row)
            lines.append((data, curve.label, *middle, unused))
    return Table("rate_distortion", "Points of the rate-distortion curves", header, lines, _notes(rows, header), _records(rows))


def progress_table(rows: list[Row]) -> Table:
    """How far each cell of the paper's table 2 has got, on the test set with the paper's protocol (`epochs_by_cell`)."""
    epochs = epochs_by_cell(rows)

    def state(count):
        return "missing" if not count else ("complete" if count == PAPER_EPOCHS else f"{count} epochs")

    lines = [(method, *(state(epochs[dataset, method]) for dataset in paper_table())) for method in paper_table()[DATASETS[1]]]
    records = [{"dataset": dataset, "method": method, "epochs": count} for (dataset, method), count in epochs.items()]
    notes = [
        f"Cells of the paper's table 2: beta = 1, {PAPER_EPOCHS} epochs or as many as are named, test set, every setting that "
        "of the method."
    ]
    sources = {row.dataset: row.source for row in rows}
    header = ("method", *(_data(dataset, sources.get(dataset, ""), "test") for dataset in paper_table()))
    if "reconstruction" in sources.values():
        notes.append(RECONSTRUCTION)
    return Table("progress", "Progress on the paper's table", header, lines, notes, records)


def ranking_table(rows: list[Row]) -> Table | None:
    """Order of the methods here and in the paper, and by how much each is behind Echo; `None` without three methods alike."""
    lines, records = [], []
    found = rankings(rows)
    for ranking in found:
        echo = next((row for row in ranking.rows if row.method == "echo"), None)
        for place, (row, paper_rank) in enumerate(zip(ranking.rows, ranking.paper_ranks, strict=True), 1):
            behind = behind_se = paper_behind = None
            if echo is not None and row is not echo:
                behind, se = _difference(row, echo)
                behind_se = se if min(len(row.seeds), len(echo.seeds)) > 1 else None
                paper_behind = row.paper["neg_elbo_nats"] - echo.paper["neg_elbo_nats"]
            lines.append(
                (
                    _data_of(row),
                    str(row.epochs),
                    row.method,
                    row.precision,
                    str(len(row.seeds)),
                    _plus_minus(row, "neg_elbo_nats"),
                    str(place),
                    f"{row.paper['neg_elbo_nats']:.1f}",
                    str(paper_rank),
                    "" if behind is None else f"{behind:+.2f}" + ("" if behind_se is None else f" ± {behind_se:.2f}"),
                    "" if paper_behind is None else f"{paper_behind:+.1f}",
                )
            )
            records.append(
                {
                    "dataset": row.dataset,
                    "epochs": row.epochs,
                    "method": row.method,
                    "dtype_policy": row.dtype_policy,
                    "seeds": len(row.seeds),
                    "neg_elbo_nats": row.mean["neg_elbo_nats"],
                    "rank": place,
                    "paper_neg_elbo_nats": row.paper["neg_elbo_nats"],
                    "paper_rank": paper_rank,
                    "behind_echo_nats": behind,
                    "behind_echo_se": behind_se,
                    "paper_behind_echo_nats": paper_behind,
                    "kendall_tau": ranking.tau,
                }
            )
    if not lines:
        return None
    header = (
        *("data", "epochs", "method", "networks", "seeds", "-ELBO"),
        *("rank", "paper", "paper's rank", "behind Echo", "in the paper"),
    )
    ranked = [row for ranking in found for row in ranking.rows]
    notes = [
        "behind Echo: -ELBO less that of Echo, positive where Echo leads; ± where both have several seeds, as of independent "
        "means. The paper's models had 200 epochs.",
        *_tau_notes(found),
        *_notes(ranked, header),
    ]
    return Table("ranking", "Order of the methods", header, lines, notes, records)


def _tau_notes(found: list[Ranking]) -> list[str]:
    if not found:
        return []
    taus = ", ".join(
        f"{ranking.tau:.2f} ({_data_of(ranking.rows[0])}, {ranking.rows[0].epochs} epochs, {len(ranking.rows)} methods)"
        for ranking in found
    )
    return [f"Kendall's tau between the order here and in the paper, 1 for the same, -1 for the reverse: {taus}."]


def write_section(rows: list[Row], path: Path) -> None:
    """Replace what stands between the lines `SECTION_BEGIN` and `SECTION_END` of a file by the results on the test set.

    Rows have beta 1, no target and no warm start; within a data set and schedule the best comes first.

    Raises:
        ResultError: the file has no such lines, or there are no such results.
        OSError: it cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(SECTION_BEGIN + "\n")
    _, end, after = rest.partition(SECTION_END)
    if not (begin and end):
        raise ResultError(f"{path} lacks the lines {SECTION_BEGIN} and {SECTION_END}, between which results go. Add them.")
    if not _shown(rows):
        raise ResultError(
            f"No results on the test set with beta = 1, and so none for {path}. Train first, or leave out --readme."
        )
    write_atomically(path, before + begin + section(rows) + end + after)


def _shown(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.split == "test" and row.beta == 1.0 and not row.target and not row.warm_start]


def section(rows: list[Row]) -> str:
    """The Markdown that `write_section` writes."""
    shown = _shown(rows)
    order = list(dict.fromkeys((row.dataset, row.epochs) for row in shown))
    shown.sort(key=lambda row: (order.index((row.dataset, row.epochs)), row.mean["neg_elbo_nats"]))
    lines = []
    for row in shown:
        data, method, epochs, precision, _, seeds, rate, distortion, neg_elbo, *_ = _cells(row)
        paper = "" if row.paper is None else f"{row.paper['neg_elbo_nats']:.1f}"
        lines.append((data, method, epochs, precision, seeds, rate, distortion, neg_elbo, paper))
    header = ("data", "method", "epochs", "networks", "seeds", "rate", "distortion", "-ELBO", "paper, 200 epochs")
    epochs = epochs_by_cell(rows)
    complete = sum(count == PAPER_EPOCHS for count in epochs.values())
    progress = f"Complete, with the paper's {PAPER_EPOCHS} epochs: {complete} of the {len(epochs)} cells of its table."
    notes = [*_notes(shown, header), *_tau_notes(rankings(rows)), progress]
    return Table("results", "Results", header, lines, notes, []).markdown()
