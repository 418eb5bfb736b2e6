import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from echo_tf.errors import ResultError
from echo_tf.experiments.records import read_results
from echo_tf.files import checksum, read_rows
from echo_tf.report.rows import compare
from echo_tf.report.table import Table
from echo_tf.report.tables import readme_table
from echo_tf.report.write import SECTION_BEGIN, SECTION_END, section_text, write_page, write_report

ROOT = Path(__file__).resolve().parents[2]


def test_the_room_needs_no_keras():
    modules = [f"echo_tf.report.{path.stem}" for path in (ROOT / "echo_tf" / "report").glob("*.py") if path.stem != "__init__"]
    code = f"""
import importlib, sys
for module in {[*modules, "echo_tf.experiments.records"]}:
    importlib.import_module(module)
print([name for name in ("keras", "tensorflow", "jax", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(modules) >= 10
    assert done.stdout.strip() == "[]"


def test_nothing_is_published_where_something_is_refused(result, on_disk, drawn, tmp_path):
    out, site, readme = tmp_path / "runs", tmp_path / "site", tmp_path / "README.md"
    on_disk(result(folder=out / "binary_mnist" / "echo" / "cell"))
    site.mkdir()
    readme.write_text("no place for results")
    with pytest.raises(ResultError, match="Add them"):
        write_report(out, publish=site, readme=readme)
    assert not any(site.iterdir())
    readme.write_text(f"{SECTION_BEGIN}\n{SECTION_END}\n")
    (site / "index.html").write_text("my own")
    with pytest.raises(ResultError, match="not of a published report"):
        write_report(out, publish=site, readme=readme)
    (site / "index.html").unlink()
    for folder, value in ((site / "cells", 1), (out, 2)):
        (folder / "noise" / "digits").mkdir(parents=True)
        (folder / "noise" / "digits" / "other.csv").write_text(f"nats\n{value}\n")
    with pytest.raises(ResultError, match="has rows that"):
        write_report(out, publish=site, readme=readme)
    assert not any(site.glob("cells/*/*/*/result.json"))
    assert readme.read_text() == f"{SECTION_BEGIN}\n{SECTION_END}\n"


def test_nothing_to_report(tmp_path):
    with pytest.raises(FileNotFoundError, match="Train first"):
        write_report(tmp_path)


def test_a_whole_report(result, on_disk, noise, drawn, tmp_path):
    out, published, readme = tmp_path / "runs", tmp_path / "published", tmp_path / "README.md"
    readme.write_text(f"{SECTION_BEGIN}\n{SECTION_END}\n")
    for method, beta in (("echo", 1.0), ("echo", 2.0), ("vae", 1.0), ("vae", 2.0)):
        folder = out / "binary_mnist" / method / f"beta={beta:g}"
        on_disk(result(method, beta=beta, rate=26.0 / beta, neg_elbo=88.0, folder=folder))
        (folder / "noise.json").write_text(json.dumps({**noise, "checksum": checksum(noise)}))
    table = "experiment/digits/table.csv"
    (out / table).parent.mkdir(parents=True)
    (out / table).write_text("nats\n1\n")
    found = write_report(out, publish=published, readme=readme)
    assert (published / "cells" / table).read_text() == "nats\n1\n"
    assert "<h1>Rate and distortion, beside the paper</h1>" in (published / "index.html").read_text()
    assert [row.verdict for row in found.rows if row.config.beta == 1] == ["agrees", "differs"]  # echo, vae
    names = {path.name for path in found.paths}
    tables = {"comparison", "rate_distortion", "noise_total_correlation", "progress"}
    drawn = {
        "beside_paper_binary_mnist.png",
        "bounds_binary_mnist.png",
        "comparison.png",
        "rate_distortion_binary_mnist.png",
        "training_binary_mnist.png",
        "index.html",
    }
    assert names == {f"{name}.{suffix}" for name in tables for suffix in ("md", "tex", "csv")} | drawn
    assert all(path.parent == published and path.exists() for path in found.paths)
    assert all((out / "report" / name).exists() for name in names)
    assert "| echo | 200 |" in readme.read_text()
    assert len(list((published / "cells").glob("*/*/*/result.json"))) == 4
    assert [row.mean for row in write_report(published / "cells").rows] == [row.mean for row in found.rows]


@pytest.mark.parametrize("shape", [(30,), (64, 64, 3)])
def test_data_of_ones_own(result, on_disk, drawn, tmp_path, shape):
    for method in ("echo", "vae"):
        made = result(method, "mine", source="own", data="abc", folder=tmp_path / "mine" / method / "cell")
        on_disk(made)
        pictures = dict.fromkeys(("originals", "reconstructions", "samples"), np.zeros((2, *shape), np.uint8))
        np.savez(made.folder / "pictures.npz", **pictures)
    found = write_report(tmp_path)
    assert "<h1>Rate and distortion</h1>" in (tmp_path / "report/index.html").read_text()
    names = {path.name for path in found.paths}
    tables = {"comparison.md", "comparison.tex", "comparison.csv"}
    drawn = {"bounds_mine.png", "comparison.png", "training_mine.png", "index.html"}
    assert names - tables - drawn == ({"reconstructions_mine.png", "samples_mine.png"} if len(shape) == 3 else set())
    assert "paper" not in (tmp_path / "report" / "comparison.md").read_text().partition("Protocol")[0]
    assert [row["paper_neg_elbo_nats"] for row in read_rows(tmp_path / "report" / "comparison.csv")] == ["", ""]


def test_page_shows_all_without_another_file(result, tmp_path):
    picture = tmp_path / "some_figure.png"
    picture.write_bytes(b"\x89PNG")
    table = Table("name", "A <title>", ("data_set", "value"), [("a_b", "1.0 ± 0.1"), ("c & d", "≈ 2")], ["50 % of it"], [])
    drawn = tmp_path / "name_digits.png"  # of the table
    drawn.write_bytes(b"\x89PNG")
    rows = compare([result(), result("vae", neg_elbo=95.0)])
    path = write_page(rows, [table], [picture, drawn], tmp_path / "index.html")

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
    assert "Echo is 5.0 below VAE" in " ".join(reader.text) and "Made on" in " ".join(reader.text)
    shown, again, *links = sorted(reader.sources, key=lambda source: not source.startswith("data:"))
    assert shown == again == "data:image/png;base64,iVBORw=="
    assert links[-3:] == ["name_digits.png", "name_digits.pdf", "name.csv"]
    assert "Results:" not in " ".join(reader.text)  # they have no files that say with what they were made
    assert set(links) == {"name.csv", "name.md", "name.tex", "some_figure.png", "some_figure.pdf", *links[-3:]}


def test_page_says_what_the_results_were_made_with(result, on_disk, tmp_path):
    for seed, environment in enumerate(({"git_commit": f"{10**39}+changes", "versions": {"keras": "3.15.1"}}, {}, None)):
        path = on_disk(result(seed=seed, folder=tmp_path / str(seed)))
        values = {**json.loads(path.read_text()), "environment": environment}
        path.write_text(json.dumps(values))
    rows = compare([result(seed=seed, folder=tmp_path / str(seed)) for seed in range(3)])
    page = write_page(rows, [], [], tmp_path / "index.html").read_text()
    assert "Results: commits 1000000+changes with keras 3.15.1.</p>" in page


@pytest.fixture(scope="module")
def rows(result):
    return compare([result(), result("vae"), result("vae", split="validation")])


def test_replaces_only_what_it_made(rows, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{SECTION_BEGIN}\nold\n{SECTION_END}\nafter\n")
    for _ in range(2):
        path.write_text(section_text(rows, path))
        assert path.read_text() == f"before\n{SECTION_BEGIN}\n{readme_table(rows).markdown()}{SECTION_END}\nafter\n"


def test_without_results_on_the_test_set_nothing_is_replaced(result, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"{SECTION_BEGIN}\nold\n{SECTION_END}\n")
    with pytest.raises(ResultError, match="No results on the test set"):
        section_text(compare([result(split="validation")]), path)


def test_a_file_without_a_place_for_it_is_refused(rows, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"text\n{SECTION_BEGIN}\n")
    with pytest.raises(ResultError, match="Add them"):
        section_text(rows, path)


def test_a_file_that_is_a_link_stays_one(result, on_disk, drawn, tmp_path):
    path, link = tmp_path / "README.md", tmp_path / "index.md"
    path.write_text(f"{SECTION_BEGIN}\n{SECTION_END}\n")
    link.symlink_to(path)
    on_disk(result(folder=tmp_path / "runs" / "binary_mnist" / "echo" / "cell"))
    write_report(tmp_path / "runs", readme=link)
    assert link.is_symlink() and "| echo |" in path.read_text()


def test_a_file_that_is_no_utf_8_is_refused(rows, tmp_path):
    path = tmp_path / "README.md"
    path.write_bytes(f"Maß\n{SECTION_BEGIN}\n{SECTION_END}\n".encode("latin-1"))
    with pytest.raises(ResultError, match=r"README\.md cannot be read as UTF-8"):
        section_text(rows, path)


def test_the_readme_has_the_results_on_file():
    rows = compare(read_results(ROOT / "results" / "record" / "cells"))
    assert rows
    assert section_text(rows, ROOT / "README.md") == (ROOT / "README.md").read_text()
