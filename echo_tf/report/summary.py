"""What results say in a sentence, and in a table that a terminal has room for."""

import math
from collections.abc import Sequence

from echo_tf.report.names import data_title, method_title
from echo_tf.report.rows import Row, grouped, in_one_precision
from echo_tf.report.table import Column, Table, make_table
from echo_tf.report.tables import (
    BETA,
    DATA,
    DISTORTION,
    EPOCHS,
    METHOD,
    NEG_ELBO,
    NETWORKS,
    RATE,
    SEEDS,
    comparable,
    notes_on_marks,
)
from echo_tf.report.words import NOTES

_PAPER = Column("paper", "{neg_elbo:.1f}", "neg_elbo=paper.neg_elbo_nats")


def summary_sentence(rows: Sequence[Row]) -> str:
    """Who is ahead, a sentence for each data set and schedule with two methods or more; empty if there is none.

    `"digits, 30 epochs: Echo 290.2, VAE 295.7 nats of test -ELBO. Echo is ahead by 5.5 ± 0.3."` Only rows on the test set with
    beta = 1 are compared. Less than two standard errors over seeds are no lead. With one seed none can be told: the error is
    that of the evaluation then, and training differs by more. Nor can one where a model sends next to nothing.
    """
    alike = grouped(in_one_precision(comparable(list(rows))), lambda row: (row.dataset, row.setting[:-1])).values()
    return " ".join(_sentence(sorted(group, key=_value)) for group in alike if len(group) > 1)


def _value(row: Row) -> float:
    return row.mean["neg_elbo_nats"]


def _sentence(rows: list[Row]) -> str:
    first = rows[0]
    shown = rows if len(rows) < 5 else [row for place, row in enumerate(rows) if place < 3 or row.method == "echo"]
    values = [f"{method_title(row)} {_value(row):.1f}" for row in shown]
    listed = ("; " if any("," in value for value in values) else ", ").join(values)
    best = "" if shown is rows else f"{len(rows)} methods, among them "
    epochs = f"{first.epochs} epoch{'s'[: first.epochs != 1]}"
    idle, learnt = [row for row in rows if row.is_idle], [row for row in rows if not row.is_idle]
    told = [_lead(learnt[0], learnt[1], len(learnt) > 2)] if len(learnt) > 1 else []
    told += [_idle(idle)] if idle else []
    return f"{data_title(first)}, {epochs}: {best}{listed} nats of test -ELBO. {' '.join(told)}"


def _idle(rows: list[Row]) -> str:
    """Which models send next to nothing, and how that is seen."""
    names = " and ".join(method_title(row) for row in rows)
    floors = {row.rate_floor_nats is not None for row in rows}
    signs = {True: "all dimensions of Echo are at the floor", False: "the rate is 0"}
    seen = ", or ".join(sign for has_floor, sign in signs.items() if has_floor in floors)
    reason = "Too few epochs (--epochs), or nothing in the data is worth its rate."
    return f"{names} send{'s' if len(rows) == 1 else ''} next to nothing: {seen}. {reason}"


def _lead(first: Row, second: Row, has_more: bool) -> str:
    """How far the first row is ahead of the second, and whether that says anything."""
    seeds = min(len(first.seeds), len(second.seeds))
    error = math.hypot(first.se["neg_elbo_nats"], second.se["neg_elbo_nats"])
    lead = _value(second) - _value(first)
    name, other = method_title(first), method_title(second)
    if seeds > 1 and lead >= 2 * error:
        return f"{name} is ahead{f' of {other}' if has_more else ''} by {lead:.1f} ± {error:.1f}."
    if lead < 2 * error:
        spread, noise = (f" ± {error:.1f}", "") if seeds > 1 else ("", " of the evaluation, and of one seed")
        return f"{name} and {other} are level: {lead:.1f}{spread} apart, within 2 standard errors{noise}."
    return f"{name} is {lead:.1f} below {other}, but that is one seed: --seeds 3 would tell whether it is ahead."


def terminal_table(rows: Sequence[Row], width: int) -> Table | None:
    """The rows with the columns that differ, as many as fit into so many characters; what is the same in all stands below."""
    columns = [DATA, METHOD, EPOCHS, BETA, SEEDS, NETWORKS, RATE, DISTORTION, NEG_ELBO, _PAPER]
    always = {METHOD, RATE, DISTORTION, NEG_ELBO}
    same = [c for c in columns if c not in {*always, _PAPER} and len({c.text(row) for row in rows}) == 1]
    shown = [c for c in columns if c not in same]
    common = ", ".join(f"{column.title} {column.text(rows[0])}" for column in same)
    notes = [*([f"All: {common}."] if common else []), NOTES["units"], *notes_on_marks(rows)[:-1]]
    for dropped in (None, NETWORKS, SEEDS, _PAPER, BETA, EPOCHS):
        shown = [column for column in shown if column is not dropped]
        table = make_table("terminal", "Rate and distortion", shown, rows, notes)
        if table is None or table.width <= width:
            break
    return table
