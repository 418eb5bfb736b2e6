import dataclasses

import pytest

from echo_tf.errors import CellError, ResultError
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.points import MODEL, ModelPoint, PointTable, check_points, model_key, warn_of_other_models
from echo_tf.models.config import load_config


@dataclasses.dataclass(frozen=True)
class Point(ModelPoint):
    law: str
    rate_nats: float


CELL = Cell("digits", load_config("echo", dataset="digits"))
HELD = Cell("digits", load_config("echo", dataset="digits", constraint={"quantity": "rate", "target_nats": 20.0}))
KEY, OTHER = model_key(CELL), model_key(HELD)


def test_a_cell_is_found_again_by_its_key(tmp_path):
    assert MODEL == ("dataset", "method", "epochs", "beta", "seed", "cell", "target", "fingerprint")
    key = ("digits", "echo", 30, 1.0, 0, "paper-epochs=30-beta=1-seed=0", "", CELL.fingerprint)
    other = ("digits", "echo", 30, 1.0, 0, "paper-epochs=30-rate=20-seed=0", "rate 20", HELD.fingerprint)
    assert (model_key(CELL), model_key(HELD)) == (key, other)
    PointTable(tmp_path / "t.csv", Point).put([Point(*key, "echo", 0.1)])
    again = PointTable(tmp_path / "t.csv", Point)
    assert key in again and other not in again
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
    assert ("echo",) in table and ("gaussian",) not in table


def test_rows_of_earlier_versions_are_found(tmp_path):
    """They did not name the cell, since none was held to a target."""
    (tmp_path / "t.csv").write_text("dataset,method,epochs,beta,seed,law,rate_nats\ndigits,echo,30,1.0,0,echo,0.5\n")
    table = PointTable(tmp_path / "t.csv", Point)
    assert KEY in table and OTHER not in table
    table.put([Point(*OTHER, "echo", 0.1)])
    assert [row["rate_nats"] for row in PointTable(tmp_path / "t.csv", Point).rows] == [0.5, 0.1]
    check_points(tmp_path, [CELL, HELD])
    table.put([Point(*KEY, "echo", 0.2)])  # in the place of the first
    assert [row["rate_nats"] for row in PointTable(tmp_path / "t.csv", Point).rows] == [0.1, 0.2]


def test_rows_about_the_model_that_was_there_before_are_refused(tmp_path):
    check_points(tmp_path / "none", [CELL])
    PointTable(tmp_path / "t.csv", Point).put([Point(*KEY, "echo", 2.0)])
    check_points(tmp_path, [CELL, HELD])
    changed = Cell("digits", load_config("echo", dataset="digits", network={"latent_dim": 8}))
    for other in (changed, dataclasses.replace(CELL, data="f00d")):
        with pytest.raises(CellError, match=r"t\.csv has rows about another model that was called echo/paper-epochs=30-beta=1"):
            check_points(tmp_path, [HELD, other])


def test_a_report_warns_of_them(tmp_path, caplog):
    (tmp_path / "noise" / "digits").mkdir(parents=True)
    PointTable(tmp_path / "noise" / "digits" / "t.csv", Point).put([Point(*KEY, "echo", 1.0)])
    warn_of_other_models(tmp_path, [CELL])
    assert not caplog.records
    changed = Cell("digits", load_config("echo", dataset="digits", channel={"d_max": 49}))
    warn_of_other_models(tmp_path, [changed])
    assert "rows about another model that was called echo/" in caplog.text


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("dataset,method\n")
    with pytest.raises(ResultError, match="t.csv is damaged"):
        PointTable(tmp_path / "t.csv", Point)


def test_a_file_cut_within_its_last_value_is_damaged(tmp_path):
    """What is left of the value is a number too."""
    table, path = PointTable(tmp_path / "t.csv", Point), tmp_path / "t.csv"
    table.put([Point(*KEY, "echo", 0.5125)])
    path.write_text(path.read_text()[:-3])
    with pytest.raises(ResultError, match="last line is not whole"):
        PointTable(path, Point)


def test_what_is_no_text_is_not_told_in_full(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(ResultError, match="can't decode byte") as error:
        PointTable(path, Point)
    assert len(str(error.value)) < 250 + len(str(path))
