"""Text files that are written whole or not at all, and tables as CSV."""

import csv
import io
import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file by way of a temporary one, so that no reader ever finds half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write a CSV file atomically; the keys of the first row are its header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_rows(path: Path) -> list[dict]:
    """The rows of a CSV file with values as text; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
