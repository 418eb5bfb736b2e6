"""Tables for a terminal, Markdown, LaTeX, HTML and CSV."""

import html
from dataclasses import dataclass
from pathlib import Path

from echo_tf.files import write_atomically, write_rows

_LATEX = {
    **{character: f"\\{character}" for character in "_%&#$"},
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "β": r"$\beta$",
    "←": r"$\leftarrow$",
}


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

    def text(self) -> str:
        """For a terminal."""
        lines = [self.header, *self.lines]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([body[0], "-" * len(body[0]), *body[1:], "", *self.notes])

    def markdown(self) -> str:
        """As Markdown, the notes as a list."""
        lines = [self.header, ("---",) * len(self.header), *self.lines]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return table + "\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n"

    def latex(self) -> str:
        """As a `tabular`, which needs no package; the notes as comments."""
        head, *lines = (" & ".join(_latex(cell) for cell in line) + r" \\" for line in (self.header, *self.lines))
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


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
