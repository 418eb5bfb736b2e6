import json
from pathlib import Path

import pytest

from echo_tf.experiments.records import noise_path, read_noise, read_results
from echo_tf.experiments.scores import TABLE, ScorePoint
from echo_tf.report.disentanglement_figures import scores_table
from echo_tf.report.experiments import read_folders
from echo_tf.report.overfitting import overfitting_table
from echo_tf.report.rows import compare, curves
from echo_tf.report.tables import (
    all_tables,
    comparison_table,
    curve_table,
    noise_table,
    progress_table,
    ranking_table,
    readme_table,
    released_table,
    replacement_table,
)

ROOT = Path(__file__).resolve().parents[2]


def column(table, name):
    return [line[table.header.index(name)] for line in table.lines]


class TestComparison:
    def test_tells_all(self, result):
        rows = compare([result(neg_elbo=89.0), result("vae", dataset="omniglot", source="reconstruction")])
        text = comparison_table(rows).text()
        for part in (
            "26.8 / 61.9 / 88.7",
            "+0.30",
            "agrees",
            "omniglot*",
            "reconstruction",
            "not comparable",
            "Protocol: paper",
            "float32",
            "near floor: Echo dimensions",
        ):
            assert part in text

    def test_marks_what_is_unusual(self, result):
        constraint = {"quantity": "rate", "target_nats": 20}
        for change, mark, note in (
            ({"channel": {"replace": True}}, "≈", "≈: "),
            ({"holdout": 10_000}, "binary_mnist -10000", "held out"),
            ({"split": "validation"}, "(valid.)", "validation images"),
            ({"channel": {"d_max": 49}}, "echo (d_max=49)", "not its own"),
            ({"constraint": constraint, "final_beta": 1.234}, "1.23 (rate 20)", "found the beta"),
        ):
            table = comparison_table(compare([result(**change)]))
            assert any(mark in cell for cell in table.lines[0])
            assert any(note in sentence for sentence in table.notes)
            usual = comparison_table(compare([result()])).text()
            assert mark not in usual and note not in usual

    def test_file_has_one_number_a_column(self, result):
        rows = compare([result(seed=seed, channel={"d_max": 49}, training={"batch_size": 200}) for seed in (0, 1)])
        (record,) = comparison_table(rows).records
        assert record["seeds"] == "0 1"
        assert record["departures"] == "d_max=49 batch_size=200"
        assert record["rate_nats_se"] == 0
        assert record["paper_neg_elbo_nats"] == 88.7
        assert record["near_floor_dimensions"] == 2
        assert record["passes"] is None

    def test_has_no_empty_columns(self, result):
        table = comparison_table(compare([result("vae")]))
        assert not {"IS bound", "near floor"} & set(table.header)
        assert "IS bound" not in table.text()
        table = comparison_table(compare([result("vae", importance_bound_nats=88.0, passes=5)]))
        assert column(table, "IS bound") == ["88.00 (5)"]
        assert "IS bound: importance-sampled" in table.text()

    def test_of_data_without_published_numbers(self, result):
        table = comparison_table(compare([result(dataset="mine", source="own", data="abc")]))
        assert not {"paper", "difference", "verdict"} & set(table.header)
        assert "paper:" not in table.text()
        table = comparison_table(compare([result(dataset="mine", source="own"), result(neg_elbo=89.0)]))
        assert column(table, "data") == ["binary_mnist", "mine"]
        assert column(table, "verdict") == ["agrees", ""]
        assert column(table, "paper")[1] == column(table, "difference")[1] == ""


def test_curve_points(result):
    table = curve_table(curves(compare([result(beta=beta, seed=seed) for beta in (2.0, 1.0) for seed in (0, 1)])))
    assert column(table, "beta") == ["1", "2"]
    assert [record["seeds"] for record in table.records] == ["0 1", "0 1"]
    assert table.records[0]["difference_nats"] == pytest.approx(1.3)  # in the file only
    assert curve_table([]) is None


class TestReplacement:
    def test_needs_a_pair_of_equal_schedule(self, result):
        plain, replaced = result(neg_elbo=89.0), result("echo_replace", neg_elbo=89.5)
        table = replacement_table(compare([plain, replaced]))
        (record,) = table.records
        assert record["difference_nats"] == pytest.approx(0.5)
        assert (record["without_nats"], record["with_nats"]) == (89.0, 89.5)
        assert (record["paper_without_nats"], record["paper_with_nats"]) == (88.7, 88.6)
        assert column(table, "difference") == ["+0.50 ± 0.04"]
        assert column(table, "paper's difference") == ["-0.1"]
        assert replacement_table(compare([plain, result("echo_replace", training={"epochs": 10})])) is None
        pair = [result(method, split="validation") for method in ("echo", "echo_replace")]
        assert replacement_table(compare(pair)) is None

    def test_of_data_without_published_numbers(self, result):
        table = replacement_table(compare([result(method, "mine") for method in ("echo", "echo_replace")]))
        assert table.header[-1] == "difference"


class TestReleased:
    def test_departures_stand_beside_the_method_as_described(self, result):
        results = [
            *(result("vae", neg_elbo=value, seed=seed) for seed, value in enumerate((92.0, 94.0))),
            result("vae", neg_elbo=99.0, protocol="released"),
            result("vae_shared_noise", neg_elbo=95.5),
            result("iaf", neg_elbo=95.0, protocol="released"),  # nothing to stand beside
            result("vae", neg_elbo=99.0, protocol="released", training={"epochs": 10}),
            result("vae", neg_elbo=99.0, protocol="released", split="validation"),
            result("vae", neg_elbo=80.0, training={"batch_size": 50}),
        ]
        table = released_table(compare(results))
        found = {(record["method"], record["protocol"]): record for record in table.records}
        assert found.keys() == {("vae", "released"), ("vae_shared_noise", "paper")}
        assert found["vae", "released"]["difference_nats"] == pytest.approx(6.0)
        assert found["vae_shared_noise", "paper"]["difference_nats"] == pytest.approx(2.5)
        assert found["vae", "released"]["paper_neg_elbo_nats"] == 93.6
        assert "vae (released)" in table.text() and "+6.00 ± 1.00" in table.text()
        assert released_table(compare(results[:2])) is None


def test_pairs_of_both_precisions_are_compared(result, bfloat16):
    rows = compare([result(neg_elbo=90.0, **bfloat16), result("echo_replace", neg_elbo=91.0), result(protocol="released")])
    for table in (replacement_table(rows), released_table(rows)):
        assert column(table, "networks") == ["bfloat16, float32"]


def test_a_table_speaks_of_the_data_in_its_own_rows(result):
    def pair(**data):
        return [result(**data), result("echo_replace", **data), result(protocol="released", **data)]

    omniglot = {"dataset": "omniglot", "source": "reconstruction"}
    for make in (replacement_table, released_table):
        assert "reconstruction" not in make(compare([*pair(), result(**omniglot)])).text()
        assert "reconstruction" in make(compare([*pair(), *pair(**omniglot)])).text()


def test_total_correlation_beside_the_paper(result, noise, bfloat16):
    table = noise_table([(result(), noise), (result(beta=2.0), noise)])
    assert [record["paper_nats"] for record in table.records] == [7.3, None]
    assert column(table, "total correlation") == ["8.00 ± 0.10"] * 2
    assert column(table, "difference") == ["+0.70", ""]
    target = result(constraint={"quantity": "rate", "target_nats": 20}, final_beta=2.0)
    assert noise_table([(target, noise)]).records[0]["paper_nats"] is None
    assert "(valid.)" in noise_table([(result(split="validation"), noise)]).text()
    others = [result("echo_reservoir"), result(protocol="released"), result(channel={"d_max": 49}), result(**bfloat16)]
    table = noise_table([(other, noise) for other in others])
    assert [record["paper_nats"] for record in table.records] == [None, None, None, 7.3]
    assert column(table, "method") == ["echo_reservoir", "echo (released)", "echo (d_max=49)", "echo"]
    assert column(table, "networks") == ["float32", "float32", "float32", "bfloat16"]
    assert noise_table([]) is None


def test_progress_of_the_cells(result):
    others = [{"split": "validation"}, {"beta": 2}, {"protocol": "released"}, {"training": {"learning_rate": 1e-2}}]
    results = [result(training={"epochs": 10}), result("vae"), *(result("iaf", **other) for other in others)]
    results.append(result("iaf", "fashion_mnist"))  # and none of Omniglot
    table = progress_table(compare(results))
    states = {line[0]: line[1:] for line in table.lines}
    assert table.header == ("method", "binary_mnist", "fashion_mnist")
    assert len(states) == 9
    assert states["echo"] == ("10 epochs", "missing")
    assert states["vae"] == ("complete", "missing")
    assert states["iaf"] == ("missing", "complete")
    assert len(table.records) == 18
    for epochs, state in (((300,), "300 epochs"), ((200, 300), "complete"), ((10, 20), "20 epochs")):
        table = progress_table(compare([result(training={"epochs": count}) for count in epochs]))
        assert column(table, "binary_mnist")[0] == state
    assert progress_table(compare([result(dataset="mine"), result(dataset="digits")])) is None


class TestRanking:
    def test_lead_of_echo(self, result):
        results = [
            result(method, neg_elbo=value, seed=seed)
            for seed in (0, 1)
            for method, value in (("echo", 90 + 2 * seed), ("vae", 93))
        ]
        table = ranking_table(compare([*results, result("iaf", neg_elbo=89.0)]))
        assert column(table, "method") == ["iaf", "echo", "vae"]
        assert column(table, "rank") == ["1", "2", "3"]
        assert column(table, "paper's rank") == ["2", "1", "3"]
        assert column(table, "behind Echo") == ["-2.00", "", "+2.00 ± 1.00"]
        assert column(table, "in the paper") == ["+1.8", "", "+4.9"]
        behind = [(record["behind_echo_nats"], record["behind_echo_se"]) for record in table.records]
        assert behind == [(-2.0, None), (None, None), (2.0, pytest.approx(1.0))]
        assert "0.33 (binary_mnist, 200 epochs, 3 methods)" in table.text()
        assert ranking_table(compare([result(), result("vae")])) is None

    def test_without_echo_nobody_is_behind(self, result):
        table = ranking_table(compare([result(method) for method in ("vae", "iaf", "vae_maf")]))
        assert all(record["behind_echo_nats"] is None for record in table.records)
        assert "behind Echo" not in table.header


class TestReadme:
    def test_shows_the_test_set_best_first(self, result):
        results = [
            *(result(neg_elbo=90.0), result(neg_elbo=91.0, seed=1), result("vae", neg_elbo=89.0)),
            *(result("vae", neg_elbo=60.0, split="validation"), result("vae", neg_elbo=61.0, beta=0.5)),
        ]
        table = readme_table(compare(results))
        assert table.lines == [
            ("vae", "200", "1", "26.00 ± 0.03", "63.00 ± 0.03", "89.00 ± 0.03", "93.6"),
            ("echo", "200", "2", "26.00 ± 0.00", "64.50 ± 0.50†", "90.50 ± 0.50", "88.7"),
        ]
        assert table.notes[0].endswith("200 epochs so far: Binary MNIST 2 of 9, Omniglot 0 of 9, Fashion-MNIST 0 of 9.")
        assert readme_table(compare(results[3:])) is None

    def test_one_data_set_and_of_each_method_the_papers_schedule_or_the_longest(self, result):
        settings = [("omniglot", "echo", 200), *(("binary_mnist", "vae", epochs) for epochs in (10, 200, 300))]
        settings += [("binary_mnist", "echo", epochs) for epochs in (10, 20)]
        results = [result(method, data, neg_elbo=90.0, training={"epochs": epochs}) for data, method, epochs in settings]
        lines = readme_table(compare(results)).lines
        assert [line[:2] for line in lines] == [("vae", "200"), ("echo", "20")]

    def test_schedules_are_ranked_apart(self, result):
        settings = [("echo", 20, 80.0), ("vae", 200, 90.0), ("iaf", 200, 89.0), ("info_vae", 20, 79.0)]
        results = [result(method, training={"epochs": epochs}, neg_elbo=value) for method, epochs, value in settings]
        table = readme_table(compare(results))
        assert [line[0] for line in table.lines] == ["iaf", "vae", "info_vae", "echo"]
        assert any("compare only those" in note for note in table.notes)
        assert not any("compare only" in note for note in readme_table(compare(results[:1])).notes)

    def test_data_of_ones_own_have_all_rows(self, result):
        table = readme_table(compare([result("vae", "mine", neg_elbo=8.0), result("echo", "mine", neg_elbo=9.0)]))
        assert [line[:2] for line in table.lines] == [("mine", "vae"), ("mine", "echo")]
        assert "the paper" not in table.text()


def test_the_reconstruction_is_named_beside_every_number_of_it(result, noise):
    omniglot = {"dataset": "omniglot", "source": "reconstruction"}
    methods = ("echo", "vae", "iaf", "echo_replace", "vae_shared_noise")
    results = [result(method, **omniglot, beta=beta) for method in methods for beta in (1.0, 2.0)]
    rows = compare(results)
    tables = all_tables(rows, curves(rows), [(results[0], noise)])
    assert len(tables) == 7
    for text in (*(table.text() for table in tables), readme_table(rows).text()):
        assert "omniglot*" in text.lower() and "from a reconstruction" in text


def test_table_of_the_readme_is_that_of_the_record():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition("<!-- results -->")[2].partition("<!-- end of results -->")[0]
    assert readme_table(compare(read_results(ROOT / "results/record/cells"))).markdown().strip() == block.strip()


@pytest.mark.parametrize("cells", sorted((ROOT / "results").glob("*/cells")), ids=lambda path: path.parent.name)
class TestResultsOnFile:
    def test_make_the_tables_on_file(self, cells, tmp_path):
        results = read_results(cells)
        rows = compare(results)
        noises = [(found, read_noise(path)) for found in results if (path := noise_path(found.folder, found.split)).exists()]
        scores = [row for found in read_folders(cells / "disentanglement", TABLE, ScorePoint).values() for row in found]
        for table in filter(None, (*all_tables(rows, curves(rows), noises), scores_table(scores), overfitting_table(rows))):
            table.write(tmp_path)
        kept = {path.name for suffix in ("md", "csv") for path in cells.parent.glob(f"*.{suffix}")} - {"README.md"}
        assert {"comparison.md", "comparison.csv"} <= kept
        assert {Path(name).stem + suffix for name in kept for suffix in (".md", ".csv")} == kept
        for name in kept:
            assert (cells.parent / name).read_text() == (tmp_path / name).read_text(), name

    def test_are_of_the_commits_that_the_readme_names(self, cells):
        text = (cells.parent / "README.md").read_text()
        for path in cells.glob("*/*/*/result*.json"):
            assert json.loads(path.read_text())["environment"]["git_commit"][:7] in text
