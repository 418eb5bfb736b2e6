"""What reports say in words, `words.yaml`: titles, captions of figures, and notes below tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from echo_tf.report.table import Column, Table, make_table

WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CAPTIONS: dict[str, str] = WORDS["captions"]
NOTES: dict[str, str] = WORDS["notes"]


def told_table(
    name: str, columns: Sequence[Column], items: Sequence, last_notes: Sequence[str] = (), first_notes: Sequence[str] = ()
) -> Table | None:
    """`make_table` with the title and the notes that are written down for a table; other notes come before and after them."""
    words = WORDS["tables"][name]
    return make_table(name, words["title"], columns, items, [*first_notes, *words["notes"]], last_notes)
