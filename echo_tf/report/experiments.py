"""What single experiments add to a report: tables and figures of what stands in their folders."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from echo_tf.experiments import annealed, laws, scores, used
from echo_tf.experiments.points import read_points
from echo_tf.experiments.records import LatentMap, Result, map_path
from echo_tf.report.bounds import likelihood_table, pairs_table, plot_all_bounds
from echo_tf.report.disentanglement_figures import plot_scores, plot_traversals, scores_table
from echo_tf.report.elsewhere import elsewhere_table
from echo_tf.report.freeriding_figures import plot_draws, plot_used, used_table
from echo_tf.report.laws import fits_table, laws_table, plot_laws, plot_trained, tests_table, trained_groups, trained_table
from echo_tf.report.maps import plot_map
from echo_tf.report.names import stem
from echo_tf.report.overfitting import overfitting_table
from echo_tf.report.rows import Row, grouped
from echo_tf.report.table import Table


class Found(NamedTuple):
    """Tables, `None` among them where there is nothing to show, and figures."""

    tables: list[Table | None]
    figures: list[Path]


def of_experiments(
    out: Path, results: list[Result], rows: list[Row], likelihoods: list[dict], folder: Path
) -> tuple[list[Table], list[Path]]:
    """Tables and figures of all experiments but the comparison.

    Args:
        out: Folder of all cells.
        results, rows: What is in it, one by one and over seeds.
        likelihoods: Points of the experiment `likelihood`.
        folder: Where the figures go.
    """
    pairs = all_rows(read_folders(out / "likelihood", annealed.PAIRS, annealed.PairPoint))
    scored = read_folders(out / "disentanglement", scores.TABLE, scores.ScorePoint)
    listened = read_folders(out / "freeriding", used.TABLE, used.UsedPoint)
    parts = (
        Found([overfitting_table(rows), likelihood_table(likelihoods), pairs_table(pairs), elsewhere_table(results)], []),
        _maps(results, folder),
        Found([], plot_all_bounds(rows, folder)),
        _noise(out, rows, folder),
        _scored("disentanglement", scored, folder, scores_table, scores=plot_scores, traversals=plot_traversals),
        _scored("freeriding", listened, folder, used_table, used=plot_used, draws=plot_draws),
    )
    tables = [table for part in parts for table in part.tables if table is not None]
    return tables, [figure for part in parts for figure in part.figures]


def read_folders(parent: Path, name: str, kind: type) -> dict[Path, list[dict]]:
    """The rows of a table that an experiment has written, one for each data set, by folder; see `read_points`."""
    return {path.parent: found for path in sorted(parent.glob(f"*/{name}")) if (found := read_points(path, kind))}


def all_rows(found: dict[Path, list]) -> list[dict]:
    """The rows of all such folders."""
    return [row for rows in found.values() for row in rows]


def _maps(results: list[Result], folder: Path) -> Found:
    figures = []
    for result in results:
        if (path := map_path(result.folder, result.split)).exists():
            name = stem("map", result.dataset, result.method, result.folder.name, split=result.split)
            figures.append(plot_map(result, LatentMap.load(path), folder / f"{name}.png"))
    return Found([], figures)


def _noise(out: Path, rows: list[Row], folder: Path) -> Found:
    of_laws, dimensions, fits, tests = (read_folders(out / "noise", *table) for table in laws.TABLES.items())
    figures = [plot_laws(of_laws[path], rows, folder / f"noise_{path.name}.png") for path, rows in dimensions.items()]
    for name, groups in grouped(trained_groups(rows), lambda group: group[0].dataset).items():
        figures.append(plot_trained(groups, folder / f"noise_trained_{name}.png"))
    tables = [laws_table(all_rows(of_laws)), fits_table(all_rows(fits)), tests_table(all_rows(tests))]
    return Found([tables[0], trained_table(rows), *tables[1:]], figures)


def _scored(name: str, found: dict[Path, list[dict]], folder: Path, table: Callable, **plots: Callable) -> Found:
    """The table of an experiment; for each data set a figure of its rows and one of its pictures, which are not published."""
    figures = []
    (of_rows, plot_rows), (of_pictures, plot_pictures) = plots.items()
    for path, rows in found.items():
        figures.append(plot_rows(rows, folder / f"{name}_{of_rows}_{path.name}.png"))
        if (pictures := plot_pictures(path, rows, folder / f"{name}_{of_pictures}_{path.name}.png")) is not None:
            figures.append(pictures)
    return Found([table(all_rows(found))], figures)
