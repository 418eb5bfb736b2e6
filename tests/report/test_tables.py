import csv
from html.parser import HTMLParser

from echo_tf.report.page import write_page
from echo_tf.report.tables import Table

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


def test_page_needs_no_other_file(tmp_path):
    picture = tmp_path / "some_figure.png"
    picture.write_bytes(b"\x89PNG")
    path = write_page([TABLE], [picture], tmp_path / "index.html")

    class Reader(HTMLParser):
        tags, sources, text = [], [], []

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            self.sources += [value for name, value in attributes if name in ("src", "href")]

        def handle_data(self, data):
            self.text.append(data)

    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.tags.count("td") == 4
    assert "title" in reader.tags  # that of the page
    assert "A <title>" in reader.text
    assert reader.sources == ["data:image/png;base64,iVBORw=="]


def test_latex_has_no_characters_that_it_cannot_set():
    assert Table("name", "title", ("a",), [("1 ← ± ≈ β",)], [], []).latex().isascii()
