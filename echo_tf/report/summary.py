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
    UNITS,
    comparable,
    notes_on_marks,
)

_PAPER = Column("paper", "{neg_elbo:.1f}", "neg_elbo=paper.neg_elbo_nats")


def summary_sentence(rows: Sequence[Row]) -> str:
    """Who is ahead, a sentence for each data set and schedule with two methods or more; empty if there is none.

    `"digits, 30 epochs: Echo 290.2, VAE 295.7 nats of test -ELBO. Echo is ahead by 5.5 (one seed,
    which says nothing of the spread)."` Only rows on the test set with beta = 1 are compared. A lead of less than two standard
    errors is called none: they are over seeds, or with a single seed over the noise of the evaluation.
    """
    alike = grouped(in_one_precision(comparable(list(rows))), lambda row: (row.dataset, row.setting[:-1])).values()
    return " ".join(_sentence(sorted(group, key=_value)) for group in alike if len(group) > 1)


def _value(row: Row) -> float:
    return row.mean["neg_elbo_nats"]


def _sentence(rows: list[Row]) -> str:
    first, second = rows[:2]
    several = min(len(first.seeds), len(second.seeds)) > 1
    error = math.hypot(first.se["neg_elbo_nats"], second.se["neg_elbo_nats"])
    lead = _value(second) - _value(first)
    shown = rows if len(rows) < 5 else [row for place, row in enumerate(rows) if place < 3 or row.method == "echo"]
    values = [f"{method_title(row)} {_value(row):.1f}" for row in shown]
    listed = ("; " if any("," in value for value in values) else ", ").join(values)
    best = "" if shown is rows else f"{len(rows)} methods, among them "
    spread = f" ± {error:.1f}" if several else ""
    name, other = method_title(first), "" if len(rows) == 2 else f" of {method_title(second)}"
    if lead < 2 * error:
        told = f"{name} and {method_title(second)} are level, {lead:.1f}{spread} apart"
    else:
        told = f"{name} is ahead{other} by {lead:.1f}{spread}"
    seeds = "" if several else " (one seed, which says nothing of the spread)"
    return f"{data_title(first)}, {first.epochs} epochs: {best}{listed} nats of test -ELBO. {told}{seeds}."


def terminal_table(rows: Sequence[Row], width: int) -> Table | None:
    """The rows with the columns that differ, as many as fit into so many characters; what is the same in all stands below."""
    columns = [DATA, METHOD, EPOCHS, BETA, SEEDS, NETWORKS, RATE, DISTORTION, NEG_ELBO, _PAPER]
    always = {METHOD, RATE, DISTORTION, NEG_ELBO}
    same = [c for c in columns if c not in {*always, _PAPER} and len({c.text(row) for row in rows}) == 1]
    shown = [c for c in columns if c not in same]
    common = ", ".join(f"{column.title} {column.text(rows[0])}" for column in same)
    notes = [*([f"All: {common}."] if common else []), UNITS, *notes_on_marks(rows)[:-1]]
    for dropped in (None, NETWORKS, SEEDS, _PAPER, BETA, EPOCHS):
        shown = [column for column in shown if column is not dropped]
        table = make_table("terminal", "Rate and distortion", shown, rows, notes)
        if table is None or table.width <= width:
            break
    return table
