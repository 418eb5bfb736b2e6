"""What a person at the terminal sees before and after the trainings: one line about the machine, and what came out."""

import argparse
import contextlib
import importlib.metadata
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import echo_tf
from echo_tf.experiments import sharing

if TYPE_CHECKING:  # it imports SciPy's statistics, which takes seconds
    from echo_tf.report.rows import Row

_WIDTH = 100
_FILES = 5
_FIRST = (".html", ".png", ".csv")

# What TensorFlow writes when it is imported and first used, whatever TF_CPP_MIN_LOG_LEVEL says: information, that there is no
# GPU, and that log messages come before there is a log. Anything else may be a reason why something failed.
_KNOWN = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl::InitializeLog|To enable the following instructions: |"
    rb"[WE]\d{4} .*(failed call to cuInit: .*(UNKNOWN ERROR|NO_DEVICE)|Could not find cuda drivers|"
    rb"Unable to register cu\w+ (factory|plugin)|computation placer already registered)"
)


def filter_errors() -> None:
    """Leave what we know out of all that libraries write to the standard error of this process from now on.

    A child process passes the rest on, so that nothing is lost if this process crashes. What Python writes there does not pass
    through it. Call it before libraries start threads; where there is no `os.fork`, it does nothing.
    """
    if not hasattr(os, "fork"):
        return
    terminal = os.dup(2)
    read, write = os.pipe()
    if os.fork() == 0:
        _pass_on(read, terminal, write)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")


def leave(status: int) -> NoReturn:
    """End this process with an exit status; at once if that is none of success.

    While Python shuts down it waits for threads of TensorFlow, as those that `steps.as_input` is about: a run that was stopped
    hung for a minute behind its message. All files are closed by now.
    """
    if status:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit()


def width() -> int:
    """Characters of a line: those of the terminal, `_WIDTH` at most."""
    return min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)


def _pass_on(read: int, terminal: int, write: int) -> None:
    """Copy lines from `read` to `terminal` until all other processes have closed theirs, and end this one."""
    try:
        os.setsid()  # Ctrl-C is for the others
        for unused in (0, 1, 2, write):
            os.close(unused)
        clear = b"\r\x1b[K" if os.isatty(terminal) else b""  # of a progress line, which is drawn anew below
        with os.fdopen(read, "rb") as lines:
            for line in lines:
                if not _KNOWN.match(line):
                    os.write(terminal, clear + line)
    finally:
        os._exit(0)


def tell_machine(options: argparse.Namespace, models: int | None = None) -> None:
    """One line: versions, where models are computed, and how many there are to train, where that is known before."""
    backend = sharing.backend()
    packages = ("keras", backend) if backend in ("tensorflow", "jax") else ("keras",)
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    threads = sharing.count_threads()
    gpus = sharing.gpus() if models != 0 and options.executor != "ray" else ()
    here = ", ".join(f"{gpus.count(gpu)} {gpu}" for gpu in dict.fromkeys(gpus)) or f"{threads} CPU thread{'s'[: threads > 1]}"
    count = "" if models is None else f": {models} model{'s' if models != 1 else ''} to train"
    at_once = f", {options.jobs} at once" if (options.jobs or 1) > 1 and (models or 1) > 1 else ""
    where = f"Ray with {options.gpus:g} GPUs for a model" if options.executor == "ray" else here
    print(f"echo_tf {echo_tf.__version__}, {versions}, {where}{count}{at_once}.", file=sys.stderr)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def tell_results(rows: "list[Row]") -> None:
    """A sentence that says who is ahead, and a table, which fit into `width` characters."""
    from echo_tf.report.summary import summary_sentence, terminal_table

    sentence, table = summary_sentence(rows), terminal_table(rows, width())
    if sentence:
        print(f"\n{textwrap.fill(sentence, width())}")
    if table:
        print("", table.text(notes=False), "", *(textwrap.fill(note, width()) for note in table.notes), sep="\n")


def tell_files(paths: list[Path], own: str = "") -> None:
    """The page first, then figures and tables, in few lines.

    Args:
        paths: All files.
        own: How the names of those begin of which the table and a figure come before all others.
    """
    ordered = sorted(paths, key=lambda path: _FIRST.index(path.suffix) if path.suffix in _FIRST else len(_FIRST))
    begun = [path for path in ordered if own and path.stem.startswith(own)]
    first = [path for suffix in (".csv", ".png") for path in [one for one in begun if one.suffix == suffix][:1]]
    pages = [path for path in ordered if path.suffix == ".html"]
    ordered = list(dict.fromkeys([*pages, *first, *ordered]))
    shown = ordered if len(ordered) <= _FILES - 1 else ordered[: _FILES - 2]
    rest = len(ordered) - len(shown)
    more = [f"and {rest} more files in {ordered[-1].parent}"] if rest else []
    print("\nLook at:", *(f"    {line}" for line in (*shown, *more)), sep="\n")
