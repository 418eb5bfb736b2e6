"""Tables that experiments fill point by point, so that they go on where they stopped. Needs no Keras."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from echo_tf.errors import CellError
from echo_tf.experiments.cells import Cell
from echo_tf.files import read_rows, write_rows

logger = logging.getLogger(__name__)

# Experiments whose tables are about trained models.
OF_MODELS = ("noise", "likelihood", "disentanglement", "freeriding")

ModelKey = tuple[str, str, int, float, int, str, str, str]


@dataclass(frozen=True)
class ModelPoint:
    """What a row about a trained model begins with.

    Attributes:
        dataset, method, epochs, beta, seed: Of its training. `beta` is where it began if there is a `target`.
        cell: Name of its folder, which tells it from all others of the method.
        target: What training held, `rate 20`, or nothing.
        fingerprint: `Cell.fingerprint`; empty in rows of earlier versions.
    """

    dataset: str
    method: str
    epochs: int
    beta: float
    seed: int
    cell: str
    target: str
    fingerprint: str


MODEL = tuple(get_type_hints(ModelPoint))


def model_key(cell: Cell) -> ModelKey:
    """The values of the columns `MODEL` for a cell."""
    config = cell.config
    name = cell.folder(Path()).name
    training = config.training.epochs, config.beta, config.seed
    return cell.dataset, config.method, *training, name, cell.target, cell.fingerprint


def check_points(folder: Path, cells: Sequence[Cell]) -> None:
    """Raise `CellError` if a table in a folder has rows about another model that was in the folder of one of these cells."""
    wanted = {(cell.config.method, cell.folder(Path()).name): cell.fingerprint for cell in cells}
    for path in sorted(folder.glob("*.csv")):
        for row in read_rows(path):
            found = row.get("fingerprint")
            if found and found != wanted.get(key := (row["method"], row["cell"]), found):
                raise CellError(
                    f"{path} has rows about another model that was called {'/'.join(key)}, with another configuration or other "
                    f"data. Move {folder} away (its models are measured anew then) or use another --out."
                )


def warn_of_other_models(out: Path, cells: Sequence[Cell]) -> None:
    """Warn of the tables in `out` that have rows about other models than those which are called so now."""
    for folder in (path for name in OF_MODELS for path in sorted((out / name).glob("*")) if path.is_dir()):
        try:
            check_points(folder, [cell for cell in cells if cell.dataset == folder.name])
        except CellError as error:
            logger.warning("%s", error)


def read_points(path: Path, kind: type) -> list[dict]:
    """The rows of a file of a `PointTable`, none if there is no such file. Raises `ResultError` for a damaged one."""
    return read_rows(path, get_type_hints(kind), earlier=_completed)


def _completed(row: dict) -> dict:
    """A row as earlier versions wrote it, with its later columns. The first did not tell apart what was held to targets."""
    if not {"method", "epochs", "beta", "seed"} <= row.keys():
        return row  # about no trained model, or the columns that are missing are no later ones
    cell = f"paper-epochs={row['epochs']}-beta={float(row['beta']):g}-seed={row['seed']}"
    return {"cell": cell, "target": "", "split": "test", "fingerprint": "", **row}


class PointTable:
    """A CSV file of instances of one dataclass, written anew with each `put`.

    Args:
        path: The file, which may not exist yet.
        kind: The dataclass.
        key: Names of the columns that tell what was measured. Several rows may share a key.

    Raises:
        ResultError: the file is damaged.

    Example:
        >>> import tempfile
        >>> table = PointTable(Path(tempfile.mkdtemp()) / "points.csv", ModelPoint)
        >>> key = ("digits", "echo", 30, 1.0, 0, "paper-epochs=30-beta=1-seed=0", "", "e321780ab75336d7")
        >>> if key not in table:
        ...     table.put([ModelPoint(*key)])
        >>> key in table
        True
    """

    def __init__(self, path: Path, kind: type, key: Sequence[str] = MODEL):
        self.path, self._key = path, tuple(key)
        self.rows = read_points(path, kind)

    def __contains__(self, key: tuple) -> bool:
        return any(self._is_about(row, key) for row in self.rows)

    def put(self, points: Sequence[Any]) -> None:
        """Write points of one key, in the place of those that an interruption may have left of it."""
        new = [asdict(point) for point in points]
        key = tuple(new[0][name] for name in self._key)
        self.rows = [row for row in self.rows if not self._is_about(row, key)] + new
        write_rows(self.path, self.rows)

    def _is_about(self, row: dict, key: tuple) -> bool:
        """Whether a row has this key. An empty fingerprint goes with any."""
        pairs = zip(self._key, key, strict=True)
        return all(row[name] == value or (name == "fingerprint" and not row[name]) for name, value in pairs)
