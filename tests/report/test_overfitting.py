import csv
import json

import pytest

from echo_tf.report.overfitting import overfitting_table
from echo_tf.report.rows import compare


def curve(folder, held_out):
    folder.mkdir(parents=True)
    lines = [
        {
            "epoch": k,
            "rate_nats": 5.0,
            "distortion_nats": 90.0 - k,
            "validation_rate_nats": 6.0,
            "validation_distortion_nats": d,
        }
        for k, d in enumerate(held_out, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_held_out_images_choose_an_epoch(result, tmp_path):
    found = [
        result("vae", seed=seed, folder=curve(tmp_path / str(seed), held_out))
        for seed, held_out in enumerate([(90.0, 88.0, 89.0), (91.0, 92.0, 93.0)])
    ]
    table = overfitting_table(compare(found))
    assert table.lines[0][-4:] == ("92.00 ± 0.00", "97.00 ± 2.00", "95.50 ± 1.50", "1.5 ± 0.5")
    paths = table.write(tmp_path / "report")
    with paths[2].open() as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["best"]) == pytest.approx(95.5) and float(row["best_epoch_se"]) == pytest.approx(0.5)


def test_models_held_to_a_target_are_left_out(result, tmp_path):
    constraint = {"quantity": "rate", "target_nats": 20}
    held = result("vae", folder=curve(tmp_path / "0", (90.0,)), constraint=constraint, final_beta=1.3)
    assert overfitting_table(compare([held])) is None


def test_without_held_out_images_there_is_no_table(result, tmp_path):
    watched, unwatched = curve(tmp_path / "0", (90.0,)), tmp_path / "1"
    unwatched.mkdir()
    both = [result("vae", seed=0, folder=watched), result("vae", seed=1, folder=unwatched)]
    assert overfitting_table(compare(both)) is None
