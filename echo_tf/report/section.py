"""The results section of the README."""

from pathlib import Path

from echo_tf.errors import ResultError
from echo_tf.files import write_atomically
from echo_tf.report.paper import paper_table
from echo_tf.report.rows import PAPER_EPOCHS, Row, epochs_by_cell, rankings
from echo_tf.report.table import make_table
from echo_tf.report.tables import MEASURED, PAPER_NEG_ELBO, UNITS, comparable, notes_on_marks, notes_on_tau

SECTION_BEGIN, SECTION_END = "<!-- results -->", "<!-- end of results -->"


def write_section(rows: list[Row], path: Path) -> None:
    """Replace what stands between the lines `SECTION_BEGIN` and `SECTION_END` of a file by `section`.

    Raises:
        ResultError: the file has no such lines, or there are no such results.
        OSError: it cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(SECTION_BEGIN + "\n")
    _, end, after = rest.partition(SECTION_END)
    if not (begin and end):
        raise ResultError(f"{path} lacks the lines {SECTION_BEGIN} and {SECTION_END}, between which results go. Add them.")
    write_atomically(path, before + begin + section(rows) + end + after)


def section(rows: list[Row]) -> str:
    """Results on the test set with beta = 1 and no target, as Markdown; within a data set and schedule the best comes first.

    Raises:
        ResultError: there are none.
    """
    shown = comparable(rows)
    order = list(dict.fromkeys((row.dataset, row.epochs) for row in shown))
    shown.sort(key=lambda row: (order.index((row.dataset, row.epochs)), row.mean["neg_elbo_nats"]))
    columns = [column for column in (*MEASURED, PAPER_NEG_ELBO) if column.title != "beta"]
    epochs = epochs_by_cell(rows)
    complete = sum(count == PAPER_EPOCHS for count in epochs.values())
    progress = f"Complete, with the paper's {PAPER_EPOCHS} epochs: {complete} of the {len(epochs)} cells of its table."
    of_paper = [progress] if any(row.dataset in paper_table() for row in shown) else []
    last = [*notes_on_marks(shown), *notes_on_tau(rankings(rows)), *of_paper]
    table = make_table("results", "Results", columns, shown, [UNITS], last)
    if table is None:
        raise ResultError("No results on the test set with beta = 1. Train first, or leave out --readme.")
    return table.markdown()
