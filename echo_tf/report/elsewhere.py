"""The table of trained models on other data sets than their own."""

from collections.abc import Sequence
from dataclasses import replace

from echo_tf.experiments.elsewhere import read_elsewhere
from echo_tf.experiments.records import Result
from echo_tf.report.names import starred
from echo_tf.report.rows import Row
from echo_tf.report.table import Column, Table
from echo_tf.report.tables import BETA, DATA, EPOCHS, METHOD, RECONSTRUCTION, SEED, notes_on_marks
from echo_tf.report.words import told_table


def _quantity(title: str, key: str, mark: bool = False) -> Column:
    def show(row: Row) -> str:
        found = row.beside
        return ("≈ " if mark and row.config.rate_floor else "") + f"{found.mean[key]:.2f} ± {found.se[key]:.2f}"

    return Column(title, show, f"{key}=beside.mean.{key} {key}_se=beside.se.{key}")


def elsewhere_table(results: Sequence[Result]) -> Table | None:
    """A line for each model and each data set that it was evaluated on beside its own; `None` if there is none."""
    tested = [result for result in results if result.split == "test"]
    lines = [replace(Row.of([result]), beside=found) for result in tested for found in read_elsewhere(result.folder)]
    of_data = "evaluated_on=beside.dataset evaluated_source=beside.source images=beside.images passes=beside.passes"
    columns = (
        *(DATA, Column("evaluated on", lambda row: starred(row.beside), of_data), METHOD, EPOCHS, BETA, SEED),
        *(_quantity("rate", "rate_nats", True), _quantity("distortion", "distortion_nats")),
        _quantity("-ELBO", "neg_elbo_nats", True),
        Column("IS bound", "{importance_bound_nats:.2f}", "importance_bound_nats=beside.importance_bound_nats"),
        Column("own -ELBO", "{own_neg_elbo_nats:.2f}", "own_neg_elbo_nats=mean.neg_elbo_nats"),
    )
    marks = notes_on_marks(lines) if lines else []
    if any(line.beside.source == "reconstruction" for line in lines) and RECONSTRUCTION not in marks:
        marks = [RECONSTRUCTION, *marks]
    return told_table("other_data", columns, lines, marks)
