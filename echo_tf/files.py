"""Files that are written whole or not at all, damage found by checksum, one process a folder, and tables as CSV."""

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from echo_tf.errors import CellError, ResultError

logger = logging.getLogger(__name__)

LOCK = ".lock"

# A name that may come from somebody else's file, and becomes that of a file or folder: never a path, and never hidden.
NAME = re.compile(r"\w[\w.+=-]*")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path, whose file takes the place of `path` if the block succeeds: no reader ever finds half of it.

    Raises:
        OSError: the file cannot be written. What `path` held before is intact, and the temporary file is gone.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # Keras and NumPy want the suffix
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else the new name might be on disk before the contents
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written, and is as it was ({error}). See to that and run the same again.") from error
    finally:
        with contextlib.suppress(OSError):  # of a file that is not there, in a folder that is read-only
            temporary.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file by way of a temporary one; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def zip_damage(path: Path) -> str | None:
    """What is wrong with a zip file (`.keras`, `.npz`) by its directory and the CRC-32 of each member, `None` if nothing is.

    Raises:
        OSError: it cannot be opened, which says nothing about its contents.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                member = archive.testzip()
                file.seek(-12, os.SEEK_END)
                if int.from_bytes(file.read(2), "little") != len(archive.infolist()):  # which zipfile does not look at
                    return "its directory lacks a member"
        except Exception as error:  # zipfile, zlib and struct fail in many ways on a damaged file
            return f"{type(error).__name__}: {error}"
    return f"{member} has another CRC-32 than was written" if member else None


def checksum(values: dict) -> str:
    """SHA-256 of the canonical JSON (sorted keys, no spaces) of all values but the one named `checksum`."""
    values = {key: value for key, value in values.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_text(path: Path) -> str:
    """The text in a file. Raises a `ValueError` whose message does not hold all that is in a file of something else."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(str(error)) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises `ValueError` for a file that is none."""
    return json.loads(read_text(path))


def read_checked(path: Path) -> dict:
    """What `write_checked` wrote. Raises `ValueError`, `TypeError` or `KeyError` for anything else."""
    values = read_json(path)
    if values["checksum"] != checksum(values):
        raise ValueError("its checksum is not that of its contents")
    return values


def write_checked(path: Path, values: dict) -> dict:
    """Write a JSON file with the checksum of its values, and return all that is in it."""
    values = {**values, "checksum": checksum(values)}
    write_atomically(path, json.dumps(values, indent=2))
    return values


def set_aside(path: Path, damage: str) -> None:
    """Warn of a damaged file, and give it a name that no file has yet: nothing on disk is deleted."""
    number, new = 1, path.with_name(f"{path.name}.damaged")
    while new.exists():
        number += 1
        new = path.with_name(f"{path.name}.damaged-{number}")
    path.replace(new)
    logger.warning("%s is damaged (%s). It is now called %s, and what it held is made anew.", path, damage, new.name)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder until the block or this process ends, and make it if there is none.

    Temporary files of killed processes are deleted.

    Raises:
        CellError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:  # it stays: who removes a lock file may remove that of the next
        try:
            import fcntl  # Windows has no such module

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CellError(f"{folder} is in use by another process. Wait for its end, or use another --out.") from None
        except (ImportError, OSError) as error:  # some network file systems have no locks either
            logger.warning("%s cannot be locked (%s). See to it that no second process works in it.", folder, error)
        for temporary in folder.glob(".[0-9]*.*"):  # see `replacing`
            temporary.unlink()
        yield


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write a CSV file atomically; the keys of the first row are its header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_rows(path: Path, types: dict[str, type] | None = None, earlier: Callable[[dict], dict] | None = None) -> list[dict]:
    """The rows of a CSV file, none if there is no such file.

    Args:
        path: The file.
        types: Types of its columns by name; without them every value is text.
        earlier: What completes a row of a file that lacks columns, since an earlier version wrote it.

    Raises:
        ResultError: the file is damaged: it has other columns, or values that are not of their types.
    """
    if not path.exists():
        return []
    try:
        text = read_text(path)
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows, columns = list(reader), set(reader.fieldnames or ())
        if not text.endswith("\n"):
            raise ValueError("its last line is not whole")
        if any(None in (*row.keys(), *row.values()) for row in rows):
            raise ValueError("a row is not as long as the header")
        if earlier is not None and rows and set(types or ()) - columns:
            rows = [earlier(row) for row in rows]
            columns = set(rows[0])
        if missing := set(types or ()) - columns:
            raise ValueError(f"columns are missing: {', '.join(sorted(missing))}")
        return rows if types is None else [{name: kind(row[name]) for name, kind in types.items()} for row in rows]
    except (csv.Error, ValueError) as error:
        raise ResultError(f"{path} is damaged ({error!r}). Move it away; what it held is then made anew.") from None
