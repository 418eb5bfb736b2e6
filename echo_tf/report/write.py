"""A whole report: tables, figures, and one page with all of them."""

from dataclasses import dataclass
from pathlib import Path

from echo_tf.experiments.records import analysis_path, load_analysis, noise_path, read_noise, read_results
from echo_tf.report.figures import plot_all
from echo_tf.report.page import write_page
from echo_tf.report.publish import copy_results, publish_files
from echo_tf.report.rows import Row, compare, curves
from echo_tf.report.section import write_section
from echo_tf.report.tables import all_tables


@dataclass(frozen=True)
class Report:
    """What a report says.

    Attributes:
        rows: One for each setting.
        text: The comparison with the paper, for a terminal.
        paths: Files to look at.
    """

    rows: list[Row]
    text: str
    paths: list[Path]


def write_report(out: Path, *, publish: Path | None = None, readme: Path | None = None) -> Report:
    """Write tables, figures and the page with all of them to the folder `report` in `out`.

    Args:
        out: Folder of all cells.
        publish: Folder for copies of tables and figures; the results that they come from are copied to `cells` in it.
        readme: File whose results section is replaced, see `section`.

    Raises:
        FileNotFoundError: no results in `out`.
        CellError, ResultError: a file is damaged, one model stands in two folders, or as `copy_results` and `write_section`.
        OSError: something cannot be written.
    """
    results = read_results(out)
    if not results:
        raise FileNotFoundError(f"No results in {out}. Train first, or point --out at a folder with results.")
    rows = compare(results)
    found = curves(rows)
    analyses = [(r, load_analysis(path)) for r in results if (path := analysis_path(r.folder, r.split)).exists()]
    noises = [(r, read_noise(path)) for r in results if (path := noise_path(r.folder, r.split)).exists()]
    tables, folder = all_tables(rows, found, noises), out / "report"
    figures = plot_all(results, rows, found, analyses, folder)
    paths = [*(path for table in tables for path in table.write(folder)), *figures]
    paths.append(write_page(tables, figures, folder / "index.html"))
    if publish:
        copy_results(results, publish / "cells")
    if readme:
        write_section(rows, readme)
    return Report(rows, tables[0].text(), publish_files(paths, publish))
