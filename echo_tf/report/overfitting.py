"""The table of overfitting: training and held-out objective at the last epoch, and at the one that held-out images choose."""

from dataclasses import dataclass

from scipy.stats import sem

from echo_tf.experiments.records import read_metrics
from echo_tf.report.rows import Row
from echo_tf.report.table import Column, Table, make_table
from echo_tf.report.tables import DATA, EPOCHS, METHOD, NETWORKS, SEEDS, notes_on_marks


@dataclass(frozen=True)
class Watched(Row):
    """A row whose models were measured with held-out images after every epoch.

    Attributes:
        curves: For each seed its epochs, as `metrics.jsonl` holds them.
    """

    curves: tuple[list[dict], ...] = ()

    @classmethod
    def all_of(cls, rows: list[Row]) -> list["Watched"]:
        """Those of rows whose seeds have such a curve each."""
        curves = [(row, tuple(read_metrics(result.folder) for result in row.results)) for row in rows]
        return [cls(**vars(row), curves=found) for row, found in curves if all(map(_is_watched, found))]

    @property
    def objectives(self) -> dict[str, float | None]:
        """Means over seeds and, under `NAME_se`, their standard errors, `None` of a single seed."""
        best = [min(curve, key=lambda line: self._objective(line, "validation_")) for curve in self.curves]
        last = [curve[-1] for curve in self.curves]
        values = {
            "training": [self._objective(line, "") for line in last],
            "last": [self._objective(line, "validation_") for line in last],
            "best": [self._objective(line, "validation_") for line in best],
            "best_epoch": [line["epoch"] for line in best],
        }
        means = {name: sum(found) / len(found) for name, found in values.items()}
        return means | {f"{name}_se": float(sem(found)) if len(found) > 1 else None for name, found in values.items()}

    def _objective(self, line: dict, prefix: str) -> float:
        return line[f"{prefix}distortion_nats"] + self.config.beta * line[f"{prefix}rate_nats"]


def _is_watched(curve: list[dict]) -> bool:
    return bool(curve) and all("validation_rate_nats" in line for line in curve)


def _measured(title: str, name: str, digits: int = 2) -> Column:
    def show(row: Watched) -> str:
        mean, error = row.objectives[name], row.objectives[f"{name}_se"]
        return f"{mean:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")

    return Column(title, show, f"{name}=objectives.{name} {name}_se=objectives.{name}_se")


def overfitting_table(rows: list[Row]) -> Table | None:
    """Training and held-out objective of the models that were trained with `--validate`; `None` without any."""
    columns = (
        *(DATA, METHOD, EPOCHS, NETWORKS, Column("beta", "{beta:g}", "beta=config.beta"), SEEDS),
        _measured("training, last epoch", "training"),
        _measured("held out, last epoch", "last"),
        _measured("held out, best epoch", "best"),
        _measured("best epoch", "best_epoch", digits=1),
    )
    # One row a model: that of the test set, where there is one.
    watched = list({row.cell: row for row in Watched.all_of(sorted(rows, key=lambda row: row.split == "test"))}.values())
    notes = [
        "Distortion + beta * rate, in nats, of models trained with --validate. best epoch: the one that held-out images "
        "choose. The training objective is the mean over the steps of the epoch. ± is the standard error over seeds."
    ]
    return make_table("overfitting", "Overfitting", columns, watched, notes, notes_on_marks(watched))
