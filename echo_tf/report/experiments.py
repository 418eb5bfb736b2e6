"""What single experiments add to a report: tables and figures of what stands in their folders."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from echo_tf.experiments.annealed import read_pairs
from echo_tf.experiments.laws import read_tables
from echo_tf.experiments.records import LatentMap, Result, map_path
from echo_tf.experiments.scores import read_scores
from echo_tf.experiments.used import read_used
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
    pairs = all_rows(read_folders(out / "likelihood", read_pairs))
    parts = (
        Found([overfitting_table(rows), likelihood_table(likelihoods), pairs_table(pairs), elsewhere_table(results)], []),
        _maps(results, folder),
        Found([], plot_all_bounds(rows, folder)),
        _noise(out, rows, folder),
        _scored(out, folder, "disentanglement", read_scores, scores_table, scores=plot_scores, traversals=plot_traversals),
        _scored(out, folder, "freeriding", read_used, used_table, used=plot_used, draws=plot_draws),
    )
    tables = [table for part in parts for table in part.tables if table is not None]
    return tables, [figure for part in parts for figure in part.figures]


def read_folders(parent: Path, read: Callable[[Path], list]) -> dict[Path, list]:
    """What an experiment has left in its folders, one for each data set, by folder; without those that hold nothing."""
    return {path: found for path in sorted(parent.glob("*")) if path.is_dir() and any(found := read(path))}


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
    found = read_folders(out / "noise", read_tables)
    laws, _, fits, tests = ([row for tables in found.values() for row in tables[i]] for i in range(4))
    figures = [
        plot_laws(laws, dimensions, folder / f"noise_{path.name}.png")
        for path, (laws, dimensions, *_) in found.items()
        if dimensions
    ]
    for name, groups in grouped(trained_groups(rows), lambda group: group[0].dataset).items():
        figures.append(plot_trained(groups, folder / f"noise_trained_{name}.png"))
    return Found([laws_table(laws), trained_table(rows), fits_table(fits), tests_table(tests)], figures)


def _scored(out: Path, folder: Path, name: str, read: Callable, table: Callable, **plots: Callable) -> Found:
    """The table of an experiment; for each data set a figure of its rows and one of its pictures, which are not published."""
    found, figures = read_folders(out / name, read), []
    (of_rows, plot_rows), (of_pictures, plot_pictures) = plots.items()
    for path, rows in found.items():
        figures.append(plot_rows(rows, folder / f"{name}_{of_rows}_{path.name}.png"))
        if (pictures := plot_pictures(path, rows, folder / f"{name}_{of_pictures}_{path.name}.png")) is not None:
            figures.append(pictures)
    return Found([table(all_rows(found))], figures)
