import json

import pytest

from echo_tf.experiments.cells import Cell, plan
from echo_tf.experiments.order import epoch_steps, epochs_left, longest_first, most_important_first, weight
from echo_tf.experiments.records import CHECKPOINT, METRICS, MODEL
from echo_tf.models.config import load_config

IMAGES = {"binary_mnist": 50_000, "omniglot": 24_345, "fashion_mnist": 60_000}


def cell(method="vae", dataset="binary_mnist", seed=0, holdout=0, **training):
    return Cell(dataset, load_config(method, dataset=dataset, seed=seed, training=training), holdout)


def train(cell, out, epochs):
    """Put on disk what a training of so many epochs leaves."""
    folder = cell.folder(out)
    folder.mkdir(parents=True)
    (folder / METRICS).write_text("".join(json.dumps({"epoch": i + 1, "seconds": 3.0}) + "\n" for i in range(epochs)))
    (folder / CHECKPOINT).touch()
    return folder


def test_what_matters_most_is_first():
    methods = ["iaf_maf", "vae_full", "vae", "echo_maf", "iaf", "vae_maf", "vae_vamp", "echo_matrix", "echo"]
    cells = [c for name in IMAGES for c in plan(name, [load_config(m, dataset=name) for m in methods], None, 2)]
    ordered = most_important_first(cells)
    assert [c.config.method for c in ordered[:9]] == [
        *("echo", "echo_matrix", "vae_maf", "iaf", "echo_maf", "vae", "vae_full", "iaf_maf", "vae_vamp")
    ]
    blocks = [(c.config.seed, c.dataset) for c in ordered[::9]]
    assert blocks == [(seed, name) for seed in (0, 1) for name in IMAGES]  # all data sets before the second seed
    assert set(ordered) == set(cells)


def test_data_sets_keep_the_order_in_which_they_are_given():
    ordered = most_important_first([cell(dataset=name) for name in ("fashion_mnist", "mine", "binary_mnist")])
    assert [c.dataset for c in ordered] == ["fashion_mnist", "mine", "binary_mnist"]


def test_the_longest_is_first(tmp_path):
    """More epochs, more images, dearer methods; equals stay as they are."""
    long, vamp, iaf_maf, maf = cell(epochs=300), cell("vae_vamp"), cell("iaf_maf"), cell("vae_maf")
    vae, small, batches = cell("vae"), cell("echo", "omniglot"), cell("echo", batch_size=1000)
    cells = [batches, small, vae, cell("echo"), maf, iaf_maf, vamp, long]
    assert longest_first(cells, IMAGES, tmp_path) == [vamp, long, iaf_maf, maf, vae, cell("echo"), small, batches]


def test_only_what_is_left_counts(tmp_path):
    begun, other = cell(), cell("iaf", epochs=100)
    assert longest_first([other, begun], IMAGES, tmp_path) == [begun, other]
    folder = train(begun, tmp_path, 150)
    assert epochs_left(begun, tmp_path) == 50
    assert longest_first([begun, other], IMAGES, tmp_path) == [other, begun]
    (folder / MODEL).touch()
    assert epochs_left(begun, tmp_path) == 0


def test_metrics_without_a_checkpoint_are_no_progress(tmp_path):
    (train(begun := cell(), tmp_path, 150) / CHECKPOINT).unlink()
    assert epochs_left(begun, tmp_path) == 200


def test_steps_of_an_epoch():
    assert epoch_steps(cell(), IMAGES) == 500
    assert epoch_steps(cell(dataset="omniglot", holdout=1_345), IMAGES) == 230


@pytest.mark.parametrize(("method", "expected"), [("vae", 1.0), ("echo", 1.0), ("vae_maf", 1.15), ("iaf_maf", 1.35)])
def test_weights(method, expected):
    assert weight(load_config(method)) == pytest.approx(expected)
