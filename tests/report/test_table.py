import csv

import pytest

from echo_tf.report.table import Column, Table, make_table, measured

TABLE = Table(
    "my_table",
    "A <title>",
    ("data_set", "value"),
    [("a_b", "1.0 ± 0.1"), ("c & d", "≈ 2")],
    ["50 % of it"],
    [{"name": "a_b", "value": 1.0123456}, {"name": "c & d", "value": None}],
)


def test_text_is_aligned():
    lines = TABLE.text().splitlines()
    assert lines[0] == "data_set  value"
    assert lines[2].index("1.0") == lines[3].index("≈") == lines[0].index("value")
    assert lines[-1] == "50 % of it"


def test_markdown():
    assert TABLE.markdown().splitlines() == [
        "| data_set | value |",
        "| --- | --- |",
        "| a_b | 1.0 ± 0.1 |",
        "| c & d | ≈ 2 |",
        "",
        "- 50 % of it",
    ]


def test_latex_is_escaped():
    text = TABLE.latex()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body == [
        r"\begin{tabular}{ll}",
        r"\hline",
        r"data\_set & value \\",
        r"\hline",
        r"a\_b & 1.0 $\pm$ 0.1 \\",
        r"c \& d & $\approx$ 2 \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_files_hold_the_full_precision(tmp_path):
    paths = TABLE.write(tmp_path)
    assert [path.name for path in paths] == ["my_table.md", "my_table.tex", "my_table.csv"]
    with paths[2].open() as file:
        assert list(csv.DictReader(file)) == [{"name": "a_b", "value": "1.0123456"}, {"name": "c & d", "value": ""}]


def test_latex_has_no_characters_that_it_cannot_set():
    assert Table("name", "title", ("a",), [("1 ± ≈ β",)], [], []).latex().isascii()


class Model:
    """An item of a table."""

    def __init__(self, name, rate, others=()):
        self.name, self.rate, self.others = name, rate, others


NAME = Column("model", lambda item: item.name, "name others", note="a model")
RATE = Column("rate", "{nats:.1f}", "nats=rate.mean", note="a rate")


class TestColumns:
    def test_text_and_values(self):
        table = make_table("t", "T", (NAME, RATE), [Model("a", {"mean": 1.25}, (1, 2)), Model("b", None)], ["first"], ["last"])
        assert table.header == ("model", "rate")
        assert table.lines == [("a", "1.2"), ("b", "")]
        assert table.records == [{"name": "a", "others": "1 2", "nats": 1.25}, {"name": "b", "others": "", "nats": None}]
        assert table.notes == ["first", "a model", "a rate", "last"]

    def test_that_are_empty_in_every_line_are_left_out_with_their_notes(self):
        table = make_table("t", "T", (NAME, RATE), [Model("b", None)], [])
        assert table.header == ("model",)
        assert table.notes == ["a model"]
        assert table.records == [{"name": "b", "others": "", "nats": None}]  # the file has the same columns always

    def test_only_in_the_file(self):
        hidden = Column("rate", "", "nats=rate.mean", note="a rate")
        table = make_table("t", "T", (NAME, hidden), [Model("a", {"mean": 1.25})], [])
        assert table.header == ("model",)
        assert table.notes == ["a model"]
        assert table.records[0]["nats"] == 1.25

    def test_a_value_that_is_not_there_is_no_silence(self):
        with pytest.raises(AttributeError, match="misspelt"):
            make_table("t", "T", (Column("x", "{misspelt}", "misspelt"),), [Model("a", None)], [])

    def test_without_items_there_is_no_table(self):
        assert make_table("t", "T", (NAME,), [], []) is None


def test_missing_error_is_left_out_but_no_missing_mean():
    column = measured("rate", "rate", digits=1)
    assert column.text({"rate": 1.25, "rate_se": 0.5}) == "1.2 ± 0.5"
    assert column.text({"rate": 1.25, "rate_se": None}) == "1.2"
    assert column.text({"rate": None, "rate_se": None}) == ""
