"""A table and its columns, for a terminal, Markdown, LaTeX, HTML and CSV."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo_tf.files import write_atomically, write_rows

_ESCAPED = {character: f"\\{character}" for character in "_%&#$"}
_LATEX = str.maketrans({**_ESCAPED, "±": r"$\pm$", "≈": r"$\approx$", "β": r"$\beta$"})


class Column:
    """A column of tables whose lines are items of one type.

    Args:
        title: Its heading.
        show: How the text of an item is made: a function of the item, or a format of the values below, as in
            `"{rate:.2f} ± {se:.2f}"`. It is empty where one of them is `None`, but for the error, which is then left out.
        values: Columns of the CSV file, separated by spaces: the name of an attribute of the item, or another name and the path
            of the value, `"beta=config.beta"`. The path may lead through dictionaries; what comes after `None` is `None`.
        note: Sentence that stands below a table in which the column is not empty.
    """

    def __init__(self, title: str, show: str | Callable[[Any], str], values: str = "", note: str = ""):
        self.title, self.show, self.note = title, show, note
        self.error = "" if callable(show) else show.partition(" ± {")[2].partition(":")[0]  # key of a standard error
        self.paths = {key: path or key for key, _, path in (value.partition("=") for value in values.split())}

    def read(self, item: Any) -> dict[str, Any]:
        """The values of an item, tuples as text."""
        return {key: _follow(item, path) for key, path in self.paths.items()}

    def text(self, item: Any) -> str:
        """What stands in the line of an item."""
        if not isinstance(self.show, str):
            return self.show(item)
        show, values = self.show, self.read(item)
        if values.get(self.error, 0) is None:
            show = show.partition(" ± ")[0]
            del values[self.error]
        return "" if None in values.values() else show.format(**values)


def plain_columns(*keys: str) -> list[Column]:
    """Columns with values as they are, each called as in the items."""
    return [Column(key, f"{{{key}}}", key) for key in keys]


def measured(title: str, key: str, mean: str = "", error: str = "", digits: int = 2) -> Column:
    """A column of means and their standard errors, which are at the paths `mean` and `error`, by default `key` and `key_se`."""
    show = f"{{{key}:.{digits}f}} ± {{{key}_se:.{digits}f}}"
    return Column(title, show, f"{key}={mean or key} {key}_se={error or f'{key}_se'}")


def _follow(item: Any, path: str) -> Any:
    for name in path.split("."):
        item = item and (item[name] if isinstance(item, dict) else getattr(item, name))
    return " ".join(map(str, item)) if isinstance(item, tuple) else item


@dataclass(frozen=True)
class Table:
    """A table to read, with the numbers behind it.

    Attributes:
        name: Stem of its files.
        title: What it shows.
        header: Names of the columns.
        lines: Cells as text, one tuple a line.
        notes: Sentences that stand below it.
        records: The numbers in full precision, for the CSV file.
    """

    name: str
    title: str
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]
    notes: list[str]
    records: list[dict]

    @property
    def widths(self) -> list[int]:
        """Characters of each column."""
        return [max(len(line[i]) for line in (self.header, *self.lines)) for i in range(len(self.header))]

    @property
    def width(self) -> int:
        """Characters of a line of `text`."""
        return sum(self.widths) + 2 * (len(self.widths) - 1)

    def text(self, notes: bool = True) -> str:
        """For a terminal, with or without the notes."""
        lines = [self.header, *self.lines]
        body = ["  ".join(cell.ljust(width) for cell, width in zip(line, self.widths, strict=True)).rstrip() for line in lines]
        return "\n".join([body[0], "-" * self.width, *body[1:], *(["", *self.notes] if notes else [])])

    def markdown(self) -> str:
        """As Markdown, the notes as a list."""
        lines = [self.header, ("---",) * len(self.header), *self.lines]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return table + "\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n"

    def latex(self) -> str:
        """As a `tabular`, which needs no package; the notes as comments."""
        head, *lines = (" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in (self.header, *self.lines))
        comments = [f"% {note}" for note in (self.title, *self.notes)]
        begin, end = rf"\begin{{tabular}}{{{'l' * len(self.header)}}}", r"\end{tabular}"
        return "\n".join([*comments, begin, r"\hline", head, r"\hline", *lines, r"\hline", end]) + "\n"

    def html(self) -> str:
        """As an HTML fragment."""

        def row(tag, cells):
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "\n".join(row("td", line) for line in self.lines)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"<table>\n<thead>{row('th', self.header)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n<ul>{notes}</ul>"

    def write(self, folder: Path) -> list[Path]:
        """Write `NAME.md`, `.tex` and `.csv`; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}{suffix}" for suffix in (".md", ".tex", ".csv")]
        write_atomically(paths[0], self.markdown())
        write_atomically(paths[1], self.latex())
        write_rows(paths[2], self.records)
        return paths


def make_table(
    name: str, title: str, columns: Sequence[Column], items: Sequence, notes: Sequence[str], last_notes: Sequence[str] = ()
) -> Table | None:
    """A table with a line for each item, without columns that are empty in every line; `None` without items.

    The values of all columns are in the CSV file.

    Args:
        name, title: As in `Table`.
        columns: Its columns, in their order.
        items: Of any type that the columns take.
        notes, last_notes: Sentences before and after those of the columns.
    """
    cells = {column: [column.text(item) for item in items] for column in columns}
    shown = [column for column in columns if any(cells[column])]
    header, lines = tuple(column.title for column in shown), list(zip(*(cells[column] for column in shown), strict=True))
    notes = [*notes, *(column.note for column in shown if column.note), *last_notes]
    records = [{key: value for column in columns for key, value in column.read(item).items()} for item in items]
    return Table(name, title, header, lines, notes, records) if items else None
