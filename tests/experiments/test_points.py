import dataclasses

import pytest

from echo_tf.errors import ResultError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.points import MODEL, ModelPoint, PointTable, model_key
from echo_tf.models.config import load_config


@dataclasses.dataclass(frozen=True)
class Point(ModelPoint):
    law: str
    rate_nats: float


KEY, OTHER = ("digits", "echo", 30, 1.0, 0), ("digits", "echo", 30, 1.0, 1)


def test_a_cell_is_found_again_by_its_key(tmp_path):
    key = model_key(Cell("digits", load_config("echo", dataset="digits")))
    assert (key, MODEL) == (KEY, ("dataset", "method", "epochs", "beta", "seed"))
    PointTable(tmp_path / "t.csv", Point).put([Point(*key, "echo", 0.1)])
    again = PointTable(tmp_path / "t.csv", Point)
    assert key in again and OTHER not in again
    assert again.rows == [dataclasses.asdict(Point(*key, "echo", 0.1))]  # numbers are numbers again


def test_what_an_interruption_left_is_replaced_and_nothing_else(tmp_path):
    table = PointTable(tmp_path / "t.csv", Point)
    table.put([Point(*OTHER, "echo", 1.0)])
    table.put([Point(*KEY, "echo", 2.0)])
    table.put([Point(*KEY, "echo", 3.0), Point(*KEY, "gaussian", 4.0)])
    assert [row["rate_nats"] for row in PointTable(tmp_path / "t.csv", Point).rows] == [1.0, 3.0, 4.0]


def test_other_columns_may_be_the_key(tmp_path):
    table = PointTable(tmp_path / "t.csv", Point, ("law",))
    table.put([Point(*KEY, "echo", 2.0)])
    assert ("echo",) in table and KEY not in table


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("dataset,method\n")
    with pytest.raises(ResultError, match="t.csv is damaged"):
        PointTable(tmp_path / "t.csv", Point)
