import json

import pytest

from echo_tf.experiments.cells import Cell
from echo_tf.experiments.estimates import in_words, recorded_speeds, seconds_per_step, time_at_once, total_in_words
from echo_tf.experiments.records import CELL, METRICS
from echo_tf.models.config import load_config


def cell(method="vae", dataset="binary_mnist", **training):
    return Cell(dataset, load_config(method, dataset=dataset, training=training))


def record(out, cell, *seconds):
    folder = cell.folder(out)
    folder.mkdir(parents=True)
    (folder / CELL).write_text(json.dumps(cell.to_dict()))
    (folder / METRICS).write_text("".join(json.dumps({"epoch": i, "seconds": s}) + "\n" for i, s in enumerate(seconds, 1)))
    return folder


def test_speeds_are_read_without_the_epoch_that_compiles(tmp_path):
    record(tmp_path, cell(), 90.0, 5.0, 6.0, 7.0)
    record(tmp_path, cell("iaf"), 10.0)
    record(tmp_path, cell("echo"))
    record(tmp_path, Cell("mine", load_config("vae")), 1.0)  # of how many images is not known
    (record(tmp_path, cell("vae_maf"), 1.0) / CELL).write_text("{")
    speeds = {c.config.method: seconds for c, seconds in recorded_speeds(tmp_path, {})}
    assert speeds == {"vae": 6.0 / 500, "iaf": 10.0 / 500}
    assert len(recorded_speeds(tmp_path, {"mine": 1_000})) == 3


def test_the_same_method_is_the_best_guide():
    speeds = [(cell("vae"), 0.02), (cell("iaf"), 0.03), (cell("iaf", "omniglot"), 0.05)]
    assert seconds_per_step(cell("iaf", "fashion_mnist"), speeds) == pytest.approx(0.04)
    assert seconds_per_step(cell("vae"), speeds) == pytest.approx(0.02)


def test_another_method_is_scaled():
    assert seconds_per_step(cell("vae_maf"), [(cell("vae"), 0.02)]) == pytest.approx(0.023)
    assert seconds_per_step(cell("vae"), [(cell("vae_maf"), 0.023)]) == pytest.approx(0.02)


@pytest.mark.parametrize(
    "other",
    [
        cell(dtype_policy="mixed_bfloat16"),
        cell(batch_size=50),
        Cell("mine", load_config("vae")),
        Cell("binary_digits", load_config("vae")),  # 8x8 pixels
        None,
    ],
)
def test_what_is_no_guide(other):
    assert seconds_per_step(cell(), [(other, 0.02)] if other else []) is None


@pytest.mark.parametrize(("at_once", "expected"), [(1, 10), (2, 5), (3, 4), (9, 4)])
def test_time_of_several_at_once(at_once, expected):
    assert time_at_once([4, 3, 2, 1], at_once) == expected


def test_times_in_words():
    assert [in_words(seconds) for seconds in (3, 720, 86_400)] == ["3 s", "12 min", "24.0 h"]
    assert total_in_words([3_600, 7_200], 1) == "About 3.0 h in all."
    total = total_in_words([7_200, 3_600, 3_600], 9)
    assert "4.0 h one after the other" in total and "3 at once" in total and "2.0 h, if none slows another" in total
