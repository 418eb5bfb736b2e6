from pathlib import Path

import pytest

from echo_tf.errors import ResultError
from echo_tf.experiments.records import read_results
from echo_tf.report.rows import compare
from echo_tf.report.section import SECTION_BEGIN, SECTION_END, section, write_section

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rows(result):
    return compare(
        [
            result(neg_elbo=90.0),
            result(neg_elbo=91.0, seed=1),
            result("vae", neg_elbo=89.0),
            result("vae", neg_elbo=60.0, split="validation"),
            result("vae", neg_elbo=61.0, beta=0.5),
        ]
    )


def test_shows_the_test_set_best_first(rows):
    lines = section(rows).splitlines()
    assert lines[2].startswith("| binary_mnist | vae | 200 | float32 | 1 | 26.00 ± 0.03 | 63.00 ± 0.03 | 89.00 ± 0.03 | 93.6 |")
    assert lines[3].startswith(
        "| binary_mnist | echo | 200 | float32 | 2 | 26.00 ± 0.00 | 64.50 ± 0.50 | 90.50 ± 0.50 | 88.7 |"
    )
    assert lines[4] == ""
    assert "epochs: 2 of the 27 cells" in lines[-1]


def test_counts_the_cells_of_the_papers_length(result):
    assert "epochs: 0 of the 27 cells" in section(compare([result(training={"epochs": 300})]))
    assert "cells of its table" not in section(compare([result(dataset="mine")]))


def test_replaces_only_what_it_made(rows, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{SECTION_BEGIN}\nold\n{SECTION_END}\nafter\n")
    for _ in range(2):
        write_section(rows, path)
        assert path.read_text() == f"before\n{SECTION_BEGIN}\n{section(rows)}{SECTION_END}\nafter\n"


def test_without_results_on_the_test_set_nothing_is_replaced(result, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"{SECTION_BEGIN}\nold\n{SECTION_END}\n")
    with pytest.raises(ResultError, match="No results on the test set"):
        write_section(compare([result(split="validation")]), path)
    assert "old" in path.read_text()


def test_a_file_without_a_place_for_it_is_left_alone(rows, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"text\n{SECTION_BEGIN}\n")
    with pytest.raises(ResultError, match="Add them"):
        write_section(rows, path)
    assert path.read_text() == f"text\n{SECTION_BEGIN}\n"


def test_the_readme_has_the_results_on_file(tmp_path):
    rows = compare(read_results(ROOT / "results" / "record" / "cells"))
    assert rows
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    write_section(rows, copy)
    assert copy.read_text() == (ROOT / "README.md").read_text()
