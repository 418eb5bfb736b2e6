"""Copies of a report, and of the results that it comes from, in another folder."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from echo_tf.errors import ResultError
from echo_tf.experiments.cells import differences
from echo_tf.experiments.elsewhere import elsewhere_paths
from echo_tf.experiments.records import METRICS, SPLITS, Result, noise_path, read_result, result_path
from echo_tf.files import read_rows, write_atomically

logger = logging.getLogger(__name__)

# Columns that say what a row of the experiments without cells, `bottleneck` and `theory`, is about.
_SETTINGS = ("source", "channel", "beta", "seed")


def publish_report(out: Path, results: Sequence[Result], paths: Sequence[Path], folder: Path) -> list[Path]:
    """Copy the files of a report to a folder, and what they are made of to `cells` in it, which is an `--out` then.

    That is results, metrics of every epoch, the total correlation of the noise of analysed models, evaluations on other data,
    and the tables of experiments.

    Args:
        out: Folder of all cells.
        results: Those in it.
        paths: Files of the report.
        folder: Where all goes.

    Returns:
        Paths of the copies of `paths`.

    Raises:
        ResultError: a file there has the name of one of these and is not of a published report, or as `check_results` and
            `check_tables`. Nothing has been copied then.
    """
    cells = folder / "cells"
    if foreign := _foreign(paths, folder):
        raise ResultError(f"{foreign[0]} is not of a published report. Publish to another folder, or move it away.")
    check_results(results, cells)
    check_tables(out, cells)
    copy_results(results, cells)
    copy_tables(out, cells)
    return publish_files(paths, folder)


def _foreign(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Files that copies would replace and that are of no report: all of them where no results were published before."""
    targets = [folder / path.name for path in _with_pdfs(paths) if (folder / path.name).resolve() != path.resolve()]
    there = [target for target in targets if target.exists()]
    if not (folder / "cells").is_dir():
        return there
    return [target for target in there if target.name == "index.html" and b"by echo_tf" not in target.read_bytes()]


def _with_pdfs(paths: Sequence[Path]) -> list[Path]:
    return [*paths, *(pdf for path in paths if path.suffix == ".png" and (pdf := path.with_suffix(".pdf")).exists())]


def publish_files(paths: Sequence[Path], folder: Path | None) -> list[Path]:
    """Copy files to a folder, with the PDF beside each figure. Returns their paths there; without a folder those they have."""
    if folder is None:
        return list(paths)
    folder.mkdir(parents=True, exist_ok=True)
    for path in _with_pdfs(paths):
        if (copy := folder / path.name).resolve() != path.resolve():
            shutil.copy(path, copy)
    return [folder / path.name for path in paths]


def publish_measured(paths: Sequence[Path], folder: Path | None) -> list[Path]:
    """`publish_files` of an experiment without cells, whose tables are all that is kept of what was measured.

    Raises:
        ResultError: a table there is about settings that the one here lacks. Nothing has been copied then.
    """
    for path in paths if folder else ():
        if path.suffix == ".csv" and (lacking := _settings(folder / path.name) - _settings(path)):  # type: ignore[operator]
            example = ", ".join(f"{name} {value}" for name, value in min(lacking))
            raise ResultError(
                f"{folder}/{path.name} has rows that {path} lacks ({example}). Publish to another folder, or move it away."
            )
    return publish_files(paths, folder)


def _settings(path: Path) -> set[tuple]:
    return {tuple((name, row[name]) for name in _SETTINGS if name in row) for row in read_rows(path)}


def _targets(results: Sequence[Result], folder: Path) -> dict[Path, Result]:
    """Where each result goes."""
    return {result_path(folder.joinpath(*result.folder.parts[-3:]), result.split): result for result in results}


def check_results(results: Sequence[Result], folder: Path) -> None:
    """Raise `ResultError` where a folder holds the result of another model under the name of one of these."""
    for target, result in _targets(results, folder).items():
        if target.exists() and (changes := differences(read_result(target).cell, result.cell)):
            raise ResultError(f"{target} holds another model ({changes}). Publish to another folder, or move it away.")


def copy_results(results: Sequence[Result], folder: Path) -> None:
    """Copy what tables and curves are made from to `folder`.

    Where another result takes the place of one, the noise and the evaluations of the old model are deleted. Other results in
    `folder` stay; a warning counts them.
    """
    targets = _targets(results, folder)
    for target, result in targets.items():
        if target.parent.resolve() == result.folder.resolve():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source = result.folder / target.name
        if target.exists() and target.read_bytes() != source.read_bytes():  # of a model that was trained before
            for path in _beside(target.parent, result.split):
                path.unlink(missing_ok=True)
        for path in (source, result.folder / METRICS, *_beside(result.folder, result.split)):
            if path.exists():
                write_atomically(target.parent / path.name, path.read_text(encoding="utf-8"))
    if others := {path for split in SPLITS for path in folder.glob(f"*/*/*/{result_path(Path(), split)}")} - targets.keys():
        logger.warning("%s has %d more results, which these tables lack: --report --out %s.", folder, len(others), folder)


def _beside(folder: Path, split: str) -> list[Path]:
    """What a cell may have beside its result: the noise and, of the test set alone, evaluations on other data."""
    return [noise_path(folder, split), *(elsewhere_paths(folder) if split == "test" else [])]


def _tables(out: Path, folder: Path) -> dict[Path, Path]:
    """Where each table of an experiment, `EXPERIMENT/DATASET/*.csv` in `out`, goes."""
    return {folder / path.relative_to(out): path for path in sorted(out.glob("*/*/*.csv"))}


def check_tables(out: Path, folder: Path) -> None:
    """Raise `ResultError` where a table in a folder has rows that the one in `out` lacks, or one of them is damaged."""
    for target, path in _tables(out, folder).items():
        there = read_rows(target)
        rows = [{name: row.get(name) for name in there[0]} for row in read_rows(path)] if there else []
        if any(row not in rows for row in there):  # columns that it lacks are those of later versions
            raise ResultError(f"{target} has rows that {path} lacks. Publish to another folder, or move it away.")


def copy_tables(out: Path, folder: Path) -> None:
    """Copy the tables of experiments to `folder`."""
    for target, path in _tables(out, folder).items():
        if target.resolve() != path.resolve():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, path.read_text(encoding="utf-8"))
