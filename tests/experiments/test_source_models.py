import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from echo_tf.errors import ResultError
from echo_tf.experiments import exactness, source_models, theory
from echo_tf.experiments.exactness import Estimate, Saturation
from echo_tf.experiments.source_models import LearnedPoint, learn_curve
from echo_tf.files import read_rows, write_rows
from echo_tf.report import theory_figures
from echo_tf.theory.sources import all_sources


@pytest.fixture
def short(monkeypatch):
    """A schedule of some seconds."""
    for name, value in {"CYCLE_STEPS": 140, "CYCLES": 2, "EVALUATION_BATCHES": 20, "BATCH_SIZE": 200}.items():
        monkeypatch.setattr(source_models, name, value)


def gaussian(slopes):
    return dataclasses.replace(all_sources()[0], slopes=slopes)


@pytest.mark.parametrize("channel", ["echo", "gaussian"])
def test_learned_points_come_near_the_exact_curve(short, channel):
    flat, steep = learn_curve(gaussian((1.0, 8.0)), channel, seed=0)
    assert (flat.slope, steep.slope) == (1.0, 8.0)
    assert steep.rate_nats > flat.rate_nats + 0.3
    assert steep.distortion < flat.distortion - 0.1
    for point in (steep, flat):
        assert point.excess_nats == pytest.approx(point.rate_nats - point.exact_rate_nats)
        # No code beats R(D), and these are close to it.
        assert -5 * point.excess_se < point.excess_nats < 0.25


def points_of(source, channel, seed):
    """What `learn_curve` returns, without training."""
    return [
        LearnedPoint(source.name, channel, seed, slope, 1.0 + 0.1 * slope, 0.01, 1.0 / slope, 0.01, 1.0, 0.1 * slope, 0.02)
        for slope in source.slopes
    ]


def test_run_makes_what_is_missing_and_figures_show_it(tmp_path, monkeypatch):
    estimate = Estimate("case", "ring", False, 99, 100, "lower bound", 1.0, 0.99, 0.01)
    monkeypatch.setattr(exactness, "study", lambda: [estimate, dataclasses.replace(estimate, replace=True)])
    monkeypatch.setattr(exactness, "saturation", lambda n, s: Saturation(n, -np.log(s), min(-np.log(s), np.log(n))))
    monkeypatch.setattr(theory, "all_sources", lambda: [gaussian((1.0, 4.0))])
    monkeypatch.setattr(source_models, "learn_curve", points_of)
    theory.run(tmp_path, seeds=1)
    first = {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}
    assert set(first) == {
        "binary_source.csv",
        "exact_curves.csv",
        "exactness.csv",
        "saturation.csv",
        "noise.csv",
        "learned.csv",
    }
    assert len(read_rows(tmp_path / "learned.csv")) == 4
    rows = read_rows(tmp_path / "binary_source.csv")
    assert len(rows) == 30
    assert max(float(row["distortion"]) for row in rows) <= 0.2 + 1e-9

    # The figure of an unfinished training shows what there is.
    learned = read_rows(tmp_path / "learned.csv")
    write_rows(tmp_path / "learned.csv", [row | {"source": "another"} for row in learned])
    with monkeypatch.context() as patch:
        patch.setattr(theory_figures, "save", lambda figure, path: path)
        assert len(theory_figures.plot_theory(tmp_path)) == 4
    write_rows(tmp_path / "learned.csv", learned)

    # The Gaussian channel's rows are lost, and made again; all else stays.
    echo_only = [row for row in read_rows(tmp_path / "learned.csv") if row["channel"] == "echo"]
    write_rows(tmp_path / "learned.csv", echo_only)
    theory.run(tmp_path, seeds=1)
    again = read_rows(tmp_path / "learned.csv")
    assert again[:2] == echo_only
    assert {row["channel"] for row in again} == {"echo", "gaussian"}
    assert {name: (tmp_path / name).read_bytes() for name in first if name != "learned.csv"} == {
        name: content for name, content in first.items() if name != "learned.csv"
    }
    for path in theory_figures.plot_theory(tmp_path):
        assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("noise.csv", "signal_1", "signal_x"),  # a column is missing
        ("exact_curves.csv", "2.302", "2.3o2"),  # text for a number
        ("saturation.csv", "\n2,", "\ntwo,"),
        ("binary_source.csv", None, "slope,rate_nats,distortion\n"),  # no rows
        ("exactness.csv", None, ""),
    ],
)
def test_figures_name_a_damaged_table(tmp_path, monkeypatch, name, old, new):
    monkeypatch.setattr(theory_figures, "save", lambda figure, path: path)
    shutil.copytree(Path(__file__).parents[2] / "results" / "theory", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / name).read_text()
    assert old is None or old in text
    (tmp_path / name).write_text(new if old is None else text.replace(old, new))
    with pytest.raises(ResultError, match=rf"{name}.* is damaged .*Move it away"):
        theory_figures.plot_theory(tmp_path)


def test_missing_table_is_no_rows(tmp_path):
    assert read_rows(tmp_path / "none.csv") == []
