import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from echo_tf import plots
from echo_tf.errors import ResultError
from echo_tf.experiments.analysis import Analysis
from echo_tf.experiments.cells import Cell, analyse_cell
from echo_tf.files import checksum
from echo_tf.models.config import available_methods, load_config
from echo_tf.report.comparison import (
    AGREES,
    DIFFERS,
    NOT_COMPARABLE,
    compare,
    copy_results,
    curves,
    rankings,
    read_noises,
    read_results,
)
from echo_tf.report.figures import METHODS, method_look
from echo_tf.report.paper import paper_table
from echo_tf.report.plots import plot_training
from echo_tf.report.report import (
    SECTION_BEGIN,
    SECTION_END,
    comparison_table,
    curve_table,
    noise_table,
    progress_table,
    ranking_table,
    released_table,
    replacement_table,
    section,
    write_section,
)

ROOT = Path(__file__).resolve().parent.parent


def result(method="echo", dataset="binary_mnist", neg_elbo=90.0, seed=0, split="test", source="original", **overrides):
    values = {"rate_nats": 26.0, "distortion_nats": neg_elbo - 26.0, "neg_elbo_nats": neg_elbo}
    made = {
        "dataset": dataset,
        "config": dataclasses.asdict(load_config(method, seed=seed, **overrides)),
        "holdout": 0,
        "split": split,
        "source": source,
        **{key: {"mean": value, "se": 0.03, "se_images": 0.2} for key, value in values.items()},
        "folder": f"runs/{dataset}/{method}/{seed}",
    }
    if method == "echo":
        made |= {"rate_floor_nats": 32 * 0.2, "rate_by_dimension_nats": [0.25, 0.4] + [1.0] * 30}
    return made


def test_paper_has_all_methods_and_adds_up():
    for dataset, methods in paper_table().items():
        assert len(methods) == 9
        for method, row in methods.items():
            total = row["rate_nats"] + row["distortion_nats"]
            misprint = (dataset, method) == ("binary_mnist", "vae_vamp")
            assert (abs(total - row["neg_elbo_nats"]) < 0.11) != misprint


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([88.9], AGREES),
        ([89.71], DIFFERS),  # more than 1 nat from 88.7
        ([87.0], DIFFERS),
        ([88.0, 92.0], AGREES),  # 1.3 nats off, but the standard error is 2
    ],
)
def test_verdict(values, verdict):
    (row,) = compare([result(neg_elbo=value, seed=seed) for seed, value in enumerate(values)])
    assert row.verdict == verdict
    assert row.difference_nats == pytest.approx(np.mean(values) - 88.7)
    assert row.seeds == tuple(range(len(values)))


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 10}},
        {"training": {"learning_rate": 1e-3}},
        {"channel": {"d_max": 50}},
        {"split": "validation"},
        {"source": "reconstruction"},
        {"dataset": "digits"},
        {"beta": 0.5},
    ],
)
def test_other_settings_are_not_compared(changes):
    (row,) = compare([result(neg_elbo=88.7, **changes)])
    assert row.verdict == NOT_COMPARABLE


def test_comparison_knows_the_values_of_a_data_set():
    changes = {"prior": {"components": 500}}
    (row,) = compare([result("vae_vamp", "omniglot", neg_elbo=120.6, **changes)])
    assert row.verdict == AGREES
    for method, changes in (
        ("vae_vamp", {}),
        ("vae_maf", {"flow": {"steps": 2}}),
        ("info_vae", {"mmd": {"weight": 10}}),
    ):
        paper = paper_table()["omniglot"][method]["neg_elbo_nats"]
        (row,) = compare([result(method, "omniglot", neg_elbo=paper, **changes)])
        assert row.verdict == NOT_COMPARABLE


def test_precision_of_the_networks_does_not_hinder_comparison():
    (row,) = compare([result(neg_elbo=88.7, training={"dtype_policy": "mixed_bfloat16"})])
    assert row.verdict == AGREES


BFLOAT16 = {"training": {"dtype_policy": "mixed_bfloat16"}}


@pytest.mark.parametrize(
    ("in_bfloat16", "in_float32", "expected"), [(2, 1, "bfloat16"), (1, 2, "float32"), (1, 1, "float32"), (1, 0, "bfloat16")]
)
def test_methods_of_both_precisions_are_ranked_together(in_bfloat16, in_float32, expected):
    results = [
        *(result(neg_elbo=90.0, seed=seed, **BFLOAT16) for seed in range(in_bfloat16)),
        *(result(neg_elbo=90.0, seed=seed) for seed in range(in_float32)),
        result("vae", neg_elbo=92.0, **BFLOAT16),
        result("iaf", neg_elbo=91.0),
    ]
    for rows in (compare(results), compare(results[::-1])):
        (ranking,) = rankings(rows)
        assert [row.method for row in ranking.rows] == ["echo", "iaf", "vae"]
        table = ranking_table(rows)
        assert [line[table.header.index("networks")] for line in table.lines] == [expected, "float32", "bfloat16"]


def test_pairs_of_both_precisions_are_compared():
    rows = compare([result(neg_elbo=90.0, **BFLOAT16), result("echo_replace", neg_elbo=91.0), result(protocol="released")])
    for table in (replacement_table(rows), released_table(rows)):
        (line,) = table.lines
        assert line[table.header.index("networks")] == "bfloat16, float32"


def test_curves_are_of_one_precision():
    assert not curves(compare([result(beta=1.0, **BFLOAT16), result(beta=2.0)]))
    assert len(curves(compare([result(beta=1.0), result(beta=2.0)]))) == 1


def test_means_and_standard_errors_over_seeds():
    rows = compare([result(neg_elbo=90.0), result(neg_elbo=92.0, seed=1), result("vae", neg_elbo=91.0)])
    echo, vae = rows
    assert (echo.mean["neg_elbo_nats"], echo.se["neg_elbo_nats"]) == (91.0, pytest.approx(1.0))
    assert (vae.mean["neg_elbo_nats"], vae.se["neg_elbo_nats"]) == (91.0, 0.03)


def test_unused_dimensions():
    (row,) = compare([result()])
    assert (row.unused_dimensions, row.unused_nats) == (2, pytest.approx(0.65))  # at no more than twice 0.2
    (row,) = compare([result("vae")])
    assert row.unused_dimensions is None


def test_settings_are_kept_apart():
    rows = compare([result(), result(training={"epochs": 3}), result(beta=2.0), result(split="validation")])
    assert len(rows) == 4


def test_comparison_tells_all():
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
    ):
        assert part in text


@pytest.mark.parametrize(
    ("channel", "batch_size", "approximate"),
    [
        ({}, 100, False),
        ({}, 99, False),
        ({"replace": True}, 100, True),
        ({"replace": True}, 122, False),
        ({"d_max": 999}, 100, False),
    ],
)
def test_repeated_echoes_are_labelled(channel, batch_size, approximate):
    (row,) = compare([result(channel=channel, training={"batch_size": batch_size})])
    assert row.approximate == approximate
    assert ("≈" in comparison_table([row]).text()) == approximate


def test_replicas_draw_from_their_share():
    for replicas, approximate in ((1, False), (2, True)):
        (row,) = compare([result("echo_replace", training={"batch_size": 200, "replicas": replicas})])
        assert row.approximate == approximate


def test_unusual_settings_are_named_and_make_no_curve():
    results = [result(), result(channel={"d_max": 49}, training={"replicas": 2}), result(training={"batch_size": 200})]
    rows = compare(results)
    assert [row.name for row in rows] == ["echo", "echo (d_max=49, replicas=2)", "echo (batch_size=200)"]
    assert curves(rows) == []
    assert "not its own" in comparison_table(rows).text()
    (row,) = compare([result("vae", training={"replicas": 2}) | {"config": mine(replicas=2)}])
    assert row.name == "mine (replicas=2)"


def mine(**training):
    """The configuration of somebody's own method."""
    return dataclasses.asdict(dataclasses.replace(load_config("vae", training=training), method="mine"))


def test_held_out_images_are_named():
    rows = compare([result("vae"), result("vae") | {"holdout": 10_000}])
    assert "binary_mnist -10000" in comparison_table(rows).text()


def test_a_target_stands_in_the_place_of_beta():
    constraint = {"quantity": "rate", "target_nats": 20}
    (row,) = compare([result(neg_elbo=88.7, constraint=constraint) | {"final_beta": 1.234}])
    assert row.verdict == NOT_COMPARABLE
    assert (row.target, row.final_beta) == ("rate 20", 1.234)
    assert "1.23 (rate 20)" in comparison_table([row]).text()


def at_beta(beta, warm_start=(), seed=0, method="echo", **overrides):
    made = result(method, beta=beta, seed=seed, **overrides) | {"warm_start": list(warm_start)}
    made["rate_nats"] = {"mean": 20.0 / beta, "se": 0.1, "se_images": 0.1}
    return made


def test_curves_join_betas_and_nothing_else():
    results = [at_beta(beta, seed=seed) for beta in (2.0, 1.0) for seed in range(2)]
    results += [at_beta(1.0, training={"epochs": 10}), at_beta(1.0, method="vae")]
    results += [at_beta(1.5, constraint={"quantity": "rate", "target_nats": 20}) | {"final_beta": 3.0}]
    (curve,) = curves(compare(results))
    assert [row.beta for row in curve.rows] == [1.0, 2.0]
    assert [row.mean["rate_nats"] for row in curve.rows] == [20.0, 10.0]
    table = curve_table([curve])
    assert [record["seeds"] for record in table.records] == ["0 1", "0 1"]
    assert curve_table([]) is None


def test_curves_with_a_warm_start_begin_at_the_model_without():
    results = [at_beta(1.0), at_beta(2.0), at_beta(2.0, [1.0]), at_beta(4.0, [1.0, 2.0])]
    cold, warm = curves(compare(results))
    assert [row.beta for row in cold.rows] == [1.0, 2.0]
    assert [row.beta for row in warm.rows] == [1.0, 2.0, 4.0]
    assert (cold.label, warm.label) == ("echo", "echo, warm")
    # The chain 1, 4 is another: its end is no point of the first.
    _, *chains = curves(compare([*results, at_beta(4.0, [1.0])]))
    assert sorted([row.warm_start for row in chain.rows] for chain in chains) == [
        [(), (1.0,)],
        [(), (1.0,), (1.0, 2.0)],
    ]
    assert "←" in curve_table([warm]).text()
    (row,) = compare([result(neg_elbo=88.7) | {"warm_start": [0.5]}])
    assert row.verdict == NOT_COMPARABLE


def test_replacement_needs_a_pair_of_equal_schedule():
    plain, replaced = result(neg_elbo=89.0), result("echo_replace", neg_elbo=89.5)
    table = replacement_table(compare([plain, replaced]))
    (record,) = table.records
    assert record["difference_nats"] == pytest.approx(0.5)
    assert (record["paper_without_nats"], record["paper_with_nats"]) == (88.7, 88.6)
    assert "+0.50" in table.text() and "-0.1" in table.text()
    assert replacement_table(compare([plain, result("echo_replace", training={"epochs": 10})])) is None
    pair = [result(method, split="validation") for method in ("echo", "echo_replace")]
    assert replacement_table(compare(pair)) is None


def test_a_table_speaks_of_the_data_in_its_own_rows():
    pair = [result(), result("echo_replace"), result(protocol="released")]
    elsewhere = [result(dataset="omniglot", source="reconstruction")]
    of_it = [value | {"dataset": "omniglot", "source": "reconstruction"} for value in pair]
    for make in (replacement_table, released_table):
        assert "reconstruction" not in make(compare([*pair, *elsewhere])).text()
        assert "reconstruction" in make(compare([*pair, *of_it])).text()


def test_departures_stand_beside_the_method_as_described():
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
    assert found["vae", "released"]["paper_nats"] == 93.6
    assert "vae (released)" in table.text() and "+6.00 ± 1.00" in table.text()
    assert released_table(compare(results[:2])) is None


NOISE = {"total_correlation_nats": {"mean": 8.0, "se": 0.1}, "draws": 20_000}


def test_total_correlation_beside_the_paper():
    table = noise_table([(result(), NOISE), (result(beta=2.0), NOISE)])
    assert [record["paper_nats"] for record in table.records] == [7.3, None]
    assert "8.00 ± 0.10" in table.text() and "+0.70" in table.text()
    (record,) = noise_table([(result(constraint={"quantity": "rate", "target_nats": 20}) | {"final_beta": 2.0}, NOISE)]).records
    assert record["paper_nats"] is None
    assert "(valid.)" in noise_table([(result(split="validation"), NOISE)]).text()
    others = [{"method": "echo_pool"}, {"protocol": "released"}, {"channel": {"d_max": 49}}, BFLOAT16]
    table = noise_table([(result(**other), NOISE) for other in others])
    assert [record["paper_nats"] for record in table.records] == [None, None, None, 7.3]
    assert [line[1:4] for line in table.lines] == [
        ("echo_pool", "200", "float32"),
        ("echo (released)", "200", "float32"),
        ("echo (d_max=49)", "200", "float32"),
        ("echo", "200", "bfloat16"),
    ]
    assert noise_table([]) is None


@pytest.mark.parametrize(("correlation", "written"), [([8.0, 0.1], True), ([], False)])
def test_total_correlation_is_written_beside_the_analysis(tmp_path, correlation, written):
    cell = Cell("digits", load_config("echo"))
    folder = cell.folder(tmp_path)
    folder.mkdir(parents=True)
    zeros = dict.fromkeys((field.name for field in dataclasses.fields(Analysis)), np.zeros(1))
    zeros |= {"total_correlation_nats": np.array(correlation), "noise_draws": np.array(20_000)}
    Analysis(**zeros).save(folder / "analysis.npz")
    analyse_cell(cell, None, tmp_path)
    found = read_noises([{"folder": str(folder), "split": "test"}])
    assert [noise | {"checksum": None} for _, noise in found] == ([NOISE | {"checksum": None}] if written else [])


def test_total_correlation_is_published_with_its_model(tmp_path):
    folder = tmp_path / "runs" / "binary_mnist" / "echo" / "cell"
    write_result(folder, result())
    (folder / "result_validation.json").write_text(json.dumps(result(split="validation")))
    noise = NOISE | {"checksum": checksum(NOISE)}
    (folder / "noise_validation.json").write_text(json.dumps(noise))
    copy_results(read_results(tmp_path / "runs"), tmp_path / "published")
    ((found, value),) = read_noises(read_results(tmp_path / "published"))
    assert (found["split"], value) == ("validation", noise)
    for name, neg_elbo, stays in (("same", 90.0, 1), ("trained_again", 91.0, 0)):  # neither was analysed
        again = tmp_path / name / "binary_mnist" / "echo" / "cell"
        again.mkdir(parents=True)
        (again / "result_validation.json").write_text(json.dumps(result(neg_elbo=neg_elbo, split="validation")))
        copy_results(read_results(tmp_path / name), tmp_path / "published")
        assert len(read_noises(read_results(tmp_path / "published"))) == stays
    for damaged in (json.dumps(noise).replace("8.0", "9.0"), json.dumps(NOISE), "[]", "{"):
        (folder / "noise_validation.json").write_text(damaged)
        with pytest.raises(ResultError, match=r"noise_validation\.json is damaged .* Run --experiment analysis again"):
            read_noises(read_results(tmp_path / "runs"))


def test_progress_of_the_cells():
    others = [{"split": "validation"}, {"beta": 2}, {"protocol": "released"}, {"training": {"learning_rate": 1e-2}}]
    results = [result(training={"epochs": 10}), result("vae"), *(result("iaf", **other) for other in others)]
    rows = compare(results)
    table = progress_table(rows)
    states = {line[0]: line[1:] for line in table.lines}
    assert table.header == ("method", "binary_mnist", "omniglot", "fashion_mnist")
    assert len(states) == 9
    assert states["echo"] == ("10 epochs", "missing", "missing")
    assert states["vae"] == ("complete", "missing", "missing")
    assert states["iaf"] == ("missing",) * 3
    assert len(table.records) == 27
    longer = {
        epochs: progress_table(compare([result(training={"epochs": n}) for n in epochs])) for epochs in ((300,), (200, 300))
    }
    assert [{line[0]: line[1] for line in table.lines}["echo"] for table in longer.values()] == ["300 epochs", "complete"]
    assert "epochs: 0 of the 27 cells" in section(compare([result(training={"epochs": 300})]))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": {"method": "echo"}}'])
def test_damaged_result_is_named(tmp_path, text):
    folder = tmp_path / "binary_mnist" / "echo" / "cell"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    with pytest.raises(ResultError, match=r"result\.json is not a result"):
        read_results(tmp_path)


def test_reads_results_from_folders(tmp_path):
    folder = tmp_path / "binary_mnist" / "echo" / "cell"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result()))
    (folder / "result_validation.json").write_text(json.dumps(result(split="validation")))
    (tmp_path / "binary_mnist" / "vae" / "unfinished").mkdir(parents=True)
    results = read_results(tmp_path)
    assert [found["split"] for found in results] == ["test", "validation"]
    assert {found["folder"] for found in results} == {str(folder)}


def test_published_results_make_the_same_tables(tmp_path):
    folder = tmp_path / "runs" / "binary_mnist" / "echo" / "cell"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result()))
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n')
    (folder / "model.keras").write_text("weights")
    results = read_results(tmp_path / "runs")
    for out in (tmp_path / "published", tmp_path / "runs"):  # the second over itself
        copy_results(results, out)
        assert compare(read_results(out)) == compare(results)
    (published,) = (tmp_path / "published").glob("*/*/*")
    assert {path.name for path in published.iterdir()} == {"result.json", "metrics.jsonl"}
    assert (folder / "model.keras").exists()


def write_result(folder, made):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(made))


def test_publishing_keeps_what_other_models_left(tmp_path, caplog):
    names = ("a", "b")
    write_result(tmp_path / "one" / "binary_mnist" / "echo" / "a", result(neg_elbo=90.0))
    for name, seed in zip(names, (0, 1), strict=True):
        write_result(tmp_path / "two" / "binary_mnist" / "echo" / name, result(seed=seed, training={"epochs": 10}))
    published = tmp_path / "published"
    copy_results(read_results(tmp_path / "one"), published)
    with pytest.raises(ResultError, match=r"training\.epochs: 200 there, 10 wanted"):
        copy_results(read_results(tmp_path / "two"), published)
    assert [path.name for path in published.glob("*/*/*")] == ["a"]
    copy_results([read_results(tmp_path / "two")[1]], published)
    assert "1 more results" in caplog.text
    assert {found["neg_elbo_nats"]["mean"] for found in read_results(published)} == {90.0}
    assert sorted(path.name for path in published.glob("*/*/*")) == ["a", "b"]


def test_a_model_counts_once(tmp_path):
    for name in ("a", "b"):
        write_result(tmp_path / "binary_mnist" / "echo" / name, result())
    with pytest.raises(ResultError, match="count twice"):
        compare(read_results(tmp_path))


def test_training_curves_are_of_a_constant_beta_of_one(tmp_path):
    target = {"quantity": "rate", "target_nats": 20}
    others = [result(beta=2), result(constraint=target), result() | {"warm_start": [0.5]}]
    assert plot_training([other | {"folder": str(tmp_path)} for other in others], tmp_path) == []
    assert plot_training([result() | {"folder": str(tmp_path)}], tmp_path) == [tmp_path / "training_binary_mnist.png"]
    both = [result(protocol=name) | {"folder": str(tmp_path / name)} for name in ("paper", "released")]
    assert [path.name for path in plot_training(both, tmp_path)][1] == "training_binary_mnist_released.png"


@pytest.mark.parametrize(("epochs", "scale"), [(20, "log"), (100, "linear")])
def test_training_curves_of_short_and_long_schedules_can_both_be_read(tmp_path, monkeypatch, epochs, scale):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: (figures.append(figure), path)[1])
    results = [result(), result("vae", training={"epochs": epochs})]
    plot_training([one | {"folder": str(tmp_path / one["config"]["method"])} for one in results], tmp_path)
    assert {axis.get_xscale() for axis in figures[0].axes} == {scale}


@pytest.mark.parametrize(("mixed", "labels"), [(True, ["echo, bfloat16", "vae, float32"]), (False, ["echo", "vae"])])
def test_figures_tell_precisions_apart(tmp_path, monkeypatch, mixed, labels):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: (figures.append(figure), path)[1])
    results = [result(**(BFLOAT16 if mixed else {})), result("vae")]
    results = [one | {"folder": str(tmp_path / one["config"]["method"])} for one in results]
    plot_training(results, tmp_path)
    plots.plot_comparison(compare(results), tmp_path / "comparison.png")
    training, comparison = (figure.axes[0].get_legend_handles_labels()[1] for figure in figures)
    assert training == labels
    assert [label.replace(", 200 epochs", "") for label in comparison if "paper" not in label] == labels


def test_pictures_tell_precisions_apart(tmp_path, monkeypatch):
    strips = []
    monkeypatch.setattr(plots, "_plot_strips", lambda images, *_: strips.append(list(images)))
    results = []
    for name, setting in (("a", {}), ("b", BFLOAT16)):
        (tmp_path / name).mkdir()
        pictures = dict.fromkeys(("originals", "reconstructions", "samples"), np.zeros((2, 28, 28), np.uint8))
        np.savez(tmp_path / name / "pictures.npz", **pictures)
        results.append(result(**setting) | {"folder": str(tmp_path / name)})
    plots.plot_pictures(results, tmp_path)
    assert strips[1] == ["echo\n200 epochs, float32", "echo\n200 epochs, bfloat16"]


def test_matched_reconstructions_tell_images_and_precision_apart(tmp_path, monkeypatch):
    strips = []
    monkeypatch.setattr(plots, "_plot_strips", lambda images, *_: strips.append(list(images)))
    results = []
    for setting in ({}, {"split": "validation"}, BFLOAT16):
        for beta in (1.0, 2.0):
            made = result(beta=beta, **setting)
            folder = tmp_path / str(len(results))
            folder.mkdir()
            pictures = dict.fromkeys(("originals", "reconstructions", "samples"), np.zeros((2, 28, 28), np.uint8))
            np.savez(plots.pictures_path(folder, made["split"]), **pictures)
            results.append(made | {"folder": str(folder), "rate_nats": {"mean": 26.0 / beta, "se": 0.03}})
    plots.plot_matched(curves(compare(results)), tmp_path)
    labels = {name.splitlines()[0] for name in strips[0][1:]}
    assert {label.partition("β = 1")[2] for label in labels if "β = 1" in label} == {
        ", float32",
        ", validation, float32",
        ", bfloat16",
    }


def test_curves_tell_images_and_precision_apart(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: (figures.append(figure), path)[1])
    settings = [{}, {"split": "validation"}, BFLOAT16]
    plots.plot_rate_distortion(
        curves(compare([result(beta=beta, **setting) for setting in settings for beta in (1.0, 2.0, 4.0)])), tmp_path
    )
    (axis,) = figures[0].axes
    lines = [line for line in axis.get_lines() if line.get_label().startswith("echo")]
    labels = {line.get_label().replace("echo, β = 1 ... 4, 200 epochs", "") for line in lines}
    assert labels == {", float32", ", validation, float32", ", bfloat16"}
    assert len({line.get_fillstyle() for line in lines}) == 3


def test_every_method_has_a_look_of_its_own():
    assert set(METHODS) == set(available_methods())
    looks = [tuple(method_look(method).values()) for method in (*METHODS, "another")]
    assert len(set(looks)) == len(looks)
    colours = {method: method_look(method)["color"] for method in METHODS}
    assert len({colours[method] for method in paper_table()["binary_mnist"]}) == 9
    variants = [(name, of) for name in METHODS for of in ("echo", "vae", "iaf") if name.startswith(f"{of}_")]
    assert not [name for name, of in variants if colours[name] == colours[of]]


@pytest.mark.parametrize("cells", sorted((ROOT / "results").glob("*/cells")), ids=lambda path: path.parent.name)
class TestResultsOnFile:
    def test_make_the_tables_on_file(self, cells, tmp_path):
        results = read_results(cells)
        rows = compare(results)
        made = (comparison_table, ranking_table, progress_table, replacement_table, released_table)
        tables = (*(make(rows) for make in made), curve_table(curves(rows)), noise_table(read_noises(results)))
        for table in filter(None, tables):
            table.write(tmp_path)
        kept = {path.name for suffix in ("md", "csv") for path in cells.parent.glob(f"*.{suffix}")} - {"README.md"}
        assert {"comparison.md", "comparison.csv"} <= kept
        assert {Path(name).stem + suffix for name in kept for suffix in (".md", ".csv")} == kept
        for name in kept:
            assert (cells.parent / name).read_text() == (tmp_path / name).read_text(), name

    def test_are_of_the_commits_that_the_readme_names(self, cells):
        text = (cells.parent / "README.md").read_text()
        for found in read_results(cells):
            assert found["environment"]["git_commit"][:7] in text


class TestRanking:
    results = (
        *(result(neg_elbo=value, seed=seed) for seed, value in enumerate((90.0, 92.0))),
        *(result("vae", neg_elbo=value, seed=seed) for seed, value in enumerate((93.0, 93.0))),
        result("iaf", neg_elbo=89.0),
        result("iaf_maf", neg_elbo=95.0),
        result("iaf_mmd", neg_elbo=96.0),
    )

    def test_order_here_and_in_the_paper(self):
        (ranking,) = rankings(compare(list(self.results)))
        assert [row.method for row in ranking.rows] == ["iaf", "echo", "vae", "iaf_maf", "iaf_mmd"]
        assert ranking.paper_ranks == [4, 1, 5, 2, 2]  # 90.5, 88.7, 93.6, 90.1 twice
        # Of ten pairs one is tied in the paper, four have the same order and five the other.
        assert ranking.tau == pytest.approx(-1 / np.sqrt(10 * 9))

    def test_lead_of_echo(self):
        table = ranking_table(compare(list(self.results)))
        behind = {record["method"]: (record["behind_echo_nats"], record["behind_echo_se"]) for record in table.records}
        assert behind["echo"] == (None, None)
        assert behind["vae"] == (pytest.approx(2.0), pytest.approx(1.0))
        assert behind["iaf"] == (pytest.approx(-2.0), None)  # one seed says nothing of others
        text = table.text()
        assert "+2.00 ± 1.00" in text and "-2.00 " in text and "+4.9" in text and "-0.11 (binary_mnist, 200 epochs" in text

    def test_groups_of_one_setting_only(self):
        others = [result("vae_maf", training={"epochs": 10}), result("vae_vamp", protocol="released"), result("iaf", beta=2)]
        (ranking,) = rankings(compare([*self.results, *others]))
        assert len(ranking.rows) == 5
        assert ranking_table(compare([result(), result("vae")])) is None

    def test_without_echo_nobody_is_behind(self):
        rows = compare([result(method) for method in ("vae", "iaf", "vae_maf")])
        assert all(record["behind_echo_nats"] is None for record in ranking_table(rows).records)


def test_the_reconstruction_is_named_beside_every_number_of_it():
    omniglot = {"dataset": "omniglot", "source": "reconstruction"}
    methods = ("echo", "vae", "iaf", "echo_replace", "vae_shared_noise")
    results = [result(method, **omniglot, beta=beta) for method in methods for beta in (1.0, 2.0)]
    rows = compare(results)
    made = (
        comparison_table(rows),
        curve_table(curves(rows)),
        noise_table([(results[0], NOISE)]),
        replacement_table(rows),
        released_table(rows),
        ranking_table(rows),
        progress_table(rows),
    )
    for text in (*(table.text() for table in made), section(rows)):
        assert "omniglot*" in text and "from a reconstruction" in text


class TestSection:
    results = (
        result(neg_elbo=90.0),
        result(neg_elbo=91.0, seed=1),
        result("vae", neg_elbo=89.0),
        result("vae", neg_elbo=60.0, split="validation"),
        result("vae", neg_elbo=61.0, beta=0.5),
    )

    def test_shows_the_test_set_best_first(self):
        lines = section(compare(list(self.results))).splitlines()
        assert lines[2].startswith(
            "| binary_mnist | vae | 200 | float32 | 1 | 26.00 ± 0.03 | 63.00 ± 0.03 | 89.00 ± 0.03 | 93.6 |"
        )
        assert lines[3].startswith(
            "| binary_mnist | echo | 200 | float32 | 2 | 26.00 ± 0.00 | 64.50 ± 0.50 | 90.50 ± 0.50 | 88.7 |"
        )
        assert lines[4] == ""

    def test_replaces_only_what_it_made(self, tmp_path):
        path = tmp_path / "README.md"
        path.write_text(f"before\n{SECTION_BEGIN}\nold\n{SECTION_END}\nafter\n")
        rows = compare(list(self.results))
        for _ in range(2):
            write_section(rows, path)
            assert path.read_text() == f"before\n{SECTION_BEGIN}\n{section(rows)}{SECTION_END}\nafter\n"

    def test_without_results_on_the_test_set_nothing_is_replaced(self, tmp_path):
        path = tmp_path / "README.md"
        path.write_text(f"{SECTION_BEGIN}\nold\n{SECTION_END}\n")
        with pytest.raises(ResultError, match="No results on the test set"):
            write_section(compare([result(split="validation")]), path)
        assert "old" in path.read_text()

    def test_a_file_without_a_place_for_it_is_left_alone(self, tmp_path):
        path = tmp_path / "README.md"
        path.write_text(f"text\n{SECTION_BEGIN}\n")
        with pytest.raises(ResultError, match="Add them"):
            write_section(compare(list(self.results)), path)
        assert path.read_text() == f"text\n{SECTION_BEGIN}\n"

    def test_the_readme_has_the_results_on_file(self, tmp_path):
        rows = compare(read_results(ROOT / "results" / "record" / "cells"))
        assert rows
        copy = tmp_path / "README.md"
        copy.write_text((ROOT / "README.md").read_text())
        write_section(rows, copy)
        assert copy.read_text() == (ROOT / "README.md").read_text()
