from html.parser import HTMLParser

from echo_tf.report.page import write_page
from echo_tf.report.table import Table


def test_page_needs_no_other_file(tmp_path):
    picture = tmp_path / "some_figure.png"
    picture.write_bytes(b"\x89PNG")
    table = Table("name", "A <title>", ("data_set", "value"), [("a_b", "1.0 ± 0.1"), ("c & d", "≈ 2")], ["50 % of it"], [])
    path = write_page([table], [picture], tmp_path / "index.html")

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
