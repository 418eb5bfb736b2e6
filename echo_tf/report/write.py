"""A whole report: tables, figures, one page with all of them, and the results section of the README."""

import base64
import datetime
import html
import shlex
import sys
from pathlib import Path
from string import Template
from typing import NamedTuple

import echo_tf
from echo_tf.errors import ResultError
from echo_tf.experiments.annealed import TABLE, AnnealedPoint
from echo_tf.experiments.points import warn_of_other_models
from echo_tf.experiments.records import (
    Analysis,
    Result,
    analysis_path,
    noise_path,
    read_noise,
    read_results,
    result_path,
)
from echo_tf.files import read_json, read_text, write_atomically
from echo_tf.report.bounds import with_likelihoods
from echo_tf.report.experiments import all_rows, of_experiments, read_folders
from echo_tf.report.figures import plot_all
from echo_tf.report.publish import publish_report
from echo_tf.report.rows import Row, compare, curves
from echo_tf.report.summary import summary_sentence
from echo_tf.report.table import Table
from echo_tf.report.tables import all_tables, readme_table
from echo_tf.report.words import CAPTIONS

SECTION_BEGIN, SECTION_END = "<!-- results -->", "<!-- end of results -->"

PAGE = Path(__file__).with_name("page.html")


class Report(NamedTuple):
    """What a report says.

    Attributes:
        rows: One for each setting.
        paths: Files to look at.
    """

    rows: list[Row]
    paths: list[Path]


def write_report(out: Path, *, publish: Path | None = None, readme: Path | None = None) -> Report:
    """Write tables, figures and the page with all of them to the folder `report` in `out`.

    Args:
        out: Folder of all cells.
        publish: Folder for copies of tables and figures; the results that they come from, and the tables of experiments, are
            copied to `cells` in it.
        readme: File whose results section is replaced, see `section_text`.

    Raises:
        FileNotFoundError: no results in `out`.
        CellError, ResultError: a file is damaged, one model stands in two folders, or as `section_text`, before anything is
            published, and `publish_report`.
        OSError: something cannot be written.
    """
    results = read_results(out)
    if not results:
        raise FileNotFoundError(f"No results in {out}. Train first, or point --out at a folder with results.")
    warn_of_other_models(out, [result.cell for result in results])
    points = all_rows(read_folders(out / "likelihood", TABLE, AnnealedPoint))
    rows = with_likelihoods(compare(results), points)
    drawn = curves(rows)
    analyses = [(r, Analysis.load(path)) for r in results if (path := analysis_path(r.folder, r.split)).exists()]
    noises = [(r, read_noise(path)) for r in results if (path := noise_path(r.folder, r.split)).exists()]
    tables, folder = all_tables(rows, drawn, noises), out / "report"
    figures = plot_all(results, rows, drawn, analyses, folder)
    more_tables, more_figures = of_experiments(out, results, rows, points, folder)
    tables, figures = [*tables, *more_tables], [*figures, *more_figures]
    paths = [*(path for table in tables for path in table.write(folder)), *figures]
    paths.append(write_page(rows, tables, figures, folder / "index.html"))
    text = section_text(rows, readme) if readme else ""
    paths = publish_report(out, results, paths, publish) if publish else paths
    if readme:
        write_atomically(readme.resolve(), text)  # a link stays one
    return Report(rows, paths)


def section_text(rows: list[Row], path: Path) -> str:
    """The text of a file with the `readme_table` between the lines `SECTION_BEGIN` and `SECTION_END`.

    Raises:
        ResultError: the file has no such lines or is no UTF-8, or there are no such results.
        OSError: it cannot be read.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        raise ResultError(f"{path} cannot be read as UTF-8 ({error}). Save it as that.") from None
    before, begin, rest = text.partition(SECTION_BEGIN + "\n")
    _, end, after = rest.partition(SECTION_END)
    if not (begin and end):
        raise ResultError(f"{path} lacks the lines {SECTION_BEGIN} and {SECTION_END}, between which results go. Add them.")
    if (table := readme_table(rows)) is None:
        raise ResultError("No results on the test set with beta = 1. Train first, or leave out --readme.")
    return before + begin + table.markdown() + end + after


def write_page(rows: list[Row], tables: list[Table], figures: list[Path], path: Path) -> Path:
    """Write the page, from the template `page.html`.

    Args:
        rows: The results, which give the first sentence.
        tables: Tables, in the order in which they stand.
        figures: PNG files, which become part of the page. The PDF files beside them are linked.
        path: The HTML file.

    Returns:
        `path`.
    """
    page = Template(PAGE.read_text(encoding="utf-8"))
    sections = (f"<h2>{html.escape(table.title)}</h2>\n{table.html()}\n{_links(table)}" for table in tables)
    values = {"tables": "\n".join(sections), "figures": "\n".join(_figure(path, tables) for path in figures)}
    results = [result for row in rows for result in row.results]
    values["beside"] = ", beside the paper" if any(row.paper for row in rows) else ""
    values |= {"summary": html.escape(summary_sentence(rows)), "made": html.escape(f"{_made()}. {_origins(results)}")}
    write_atomically(path, page.substitute(values))
    return path


def _made() -> str:
    """The command, and the version and time of the report."""
    command = " ".join(["python", Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])])
    when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return f"Made on {when} by echo_tf {echo_tf.__version__}: {command}"


def _origins(results: list[Result]) -> str:
    """The commits and versions that made the results, as their files say; empty where none of them does."""
    files = [path for result in results if (path := result_path(result.folder, result.split)).exists()]
    found = [read_json(path).get("environment") or {} for path in files]
    commits = sorted({commit[:7] + commit[40:] for one in found if (commit := one.get("git_commit"))})  # and "+changes"
    versions = sorted({f"{name} {version}" for one in found for name, version in one.get("versions", {}).items()})
    parts = {"commits": commits, "with": versions}
    told = " ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)
    return f"Results: {told}." if told else ""


def _links(table: Table) -> str:
    return f'<p class="files">{", ".join(_link(f"{table.name}{suffix}") for suffix in (".csv", ".md", ".tex"))}</p>'


def _link(name: str) -> str:
    return f'<a href="{html.escape(name)}">{html.escape(name)}</a>'


def _figure(path: Path, tables: list[Table]) -> str:
    kind = next((kind for kind in CAPTIONS if path.stem.startswith(kind)), "")
    caption = html.escape(CAPTIONS.get(kind, path.stem.replace("_", " ")))
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    names = [path.name, f"{path.stem}.pdf", *(f"{table.name}.csv" for table in tables if path.stem.startswith(table.name))]
    files = ", ".join(map(_link, names))
    picture = f'<img alt="{html.escape(path.stem.replace("_", " "))}" src="data:image/png;base64,{data}">'
    return f'<figure>{picture}<figcaption>{caption} <span class="files">{files}</span></figcaption></figure>'
