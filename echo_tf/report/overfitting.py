"""The table of overfitting: training and held-out objective at the last epoch, and at the one that held-out images choose."""

from dataclasses import replace

from scipy.stats import sem

from echo_tf.experiments.records import read_metrics
from echo_tf.report.rows import Row
from echo_tf.report.table import Column, Table, measured
from echo_tf.report.tables import DATA, EPOCHS, METHOD, NETWORKS, SEEDS, notes_on_marks
from echo_tf.report.words import told_table


def _objectives(row: Row) -> dict[str, float | None] | None:
    """Means over seeds and, under `NAME_se`, their standard errors, `None` of a single seed.

    `None` unless all its models were measured with held-out images after every epoch.
    """
    curves = [read_metrics(result.folder) for result in row.results]
    if not all(curves) or any("validation_rate_nats" not in line for curve in curves for line in curve):
        return None

    def objective(line: dict, prefix: str = "validation_") -> float:
        return line[f"{prefix}distortion_nats"] + row.config.beta * line[f"{prefix}rate_nats"]

    best = [min(curve, key=objective) for curve in curves]
    values = {
        "training": [objective(curve[-1], "") for curve in curves],
        "last": [objective(curve[-1]) for curve in curves],
        "best": list(map(objective, best)),
        "best_epoch": [line["epoch"] for line in best],
    }
    means = {name: sum(found) / len(found) for name, found in values.items()}
    return means | {f"{name}_se": float(sem(found)) if len(found) > 1 else None for name, found in values.items()}


def _objective(title: str, name: str, digits: int = 2) -> Column:
    return measured(title, name, f"beside.{name}", f"beside.{name}_se", digits)


def overfitting_table(rows: list[Row]) -> Table | None:
    """Training and held-out objective of the models that were trained with `--validate`; `None` without any.

    Those that were held to a target are left out: their beta changed all the time, and so did what was minimised.
    """
    columns = (
        *(DATA, METHOD, EPOCHS, NETWORKS, Column("beta", "{beta:g}", "beta=config.beta"), SEEDS),
        _objective("training, last epoch", "training"),
        _objective("held out, last epoch", "last"),
        _objective("held out, best epoch", "best"),
        _objective("best epoch", "best_epoch", digits=1),
    )
    # One row a model: that of the test set, where there is one.
    models = {row.cell: row for row in sorted(rows, key=lambda row: row.split == "test") if not row.target}.values()
    watched = [replace(row, beside=found) for row in models if (found := _objectives(row))]
    return told_table("overfitting", columns, watched, notes_on_marks(watched))
