import csv
import math
from pathlib import Path

import keras
import numpy as np
import pytest

from echo_tf.data.dataset import Dataset
from echo_tf.echo.bound import max_scale
from echo_tf.echo.dense import EchoDense
from echo_tf.errors import CellError, DataError, ResultError
from echo_tf.experiments import bottleneck, robustness
from echo_tf.files import locked
from echo_tf.report.bottleneck_figures import plot_bottleneck


@pytest.fixture
def blobs(monkeypatch):
    """Images whose label is the bright quarter, and a training of a second."""
    for name, value in {"BATCH_SIZE": 50, "HIDDEN": (16,), "LATENT_DIM": 2}.items():
        monkeypatch.setattr(bottleneck, name, value)
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    images = rng.integers(0, 60, (400, 28, 28, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[14 * (label // 2) :, 14 * (label % 2) :][:14, :14] += 150
    splits = {"train": images[:300], "test": images[300:]}
    return Dataset("blobs", splits, 255, {"train": labels[:300], "test": labels[300:]})


def measured(dataset, channel, beta, epochs=1, transferred=None):
    settings = {"dataset": dataset.name, "channel": channel, "beta": beta, "seed": 0}
    model = bottleneck.train_classifier(dataset, channel, beta, 0, epochs)
    return bottleneck.measure_classifier(model, dataset, settings, epochs, transferred or {})


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["echo", "gaussian"])
def test_rate_buys_accuracy(blobs, channel):
    dear, cheap = (measured(blobs, channel, beta, 60)[0] for beta in (5.0, 0.01))
    assert cheap.accuracy > 0.9
    assert cheap.rate_nats > dear.rate_nats + 0.5
    for point in (dear, cheap):  # H(Y|Z) >= H(Y) - I(X; Z); cross-entropy and rate are both upper bounds
        assert point.cross_entropy_nats + point.rate_nats > np.log(4) - 5 * point.cross_entropy_se


def test_larger_attacks_are_stronger(blobs, monkeypatch):
    monkeypatch.setattr(robustness, "SIZES", (0.02, 0.2))
    point, rows = measured(blobs, "none", 0.0, 25, {0.02: blobs.test})
    found = {(row.split, row.attack, row.size): row.accuracy for row in rows}
    assert point.rate_nats == math.inf
    assert found["test", "clean", 0.0] == found["test", "transfer", 0.02] == point.accuracy > 0.9  # it was given clean images
    assert found["train", "clean", 0.0] > 0.9
    assert found["test", "fgsm", 0.02] > found["test", "pgd", 0.2] + 0.5
    assert found["test", "pgd", 0.2] <= found["test", "fgsm", 0.2]


class Trained:
    """A training and a measurement that take no time, and a note of each."""

    def __init__(self, monkeypatch):
        self.keys = []
        monkeypatch.setattr(bottleneck, "train_classifier", lambda dataset, *key: key)
        monkeypatch.setattr(bottleneck, "attacks", lambda *options: [])
        monkeypatch.setattr(bottleneck, "measure_classifier", self.measure)

    def measure(self, model, dataset, settings, epochs, transferred):
        channel, beta, seed, _ = model
        self.keys.append((channel, beta, seed))
        rate = math.inf if channel == "none" else 1.0 + seed
        point = bottleneck.BottleneckPoint(**settings, rate_nats=rate, **LABEL, label_entropy_nats=1.4)
        kinds = [("train", "clean", 0.0, 0), ("test", "clean", 0.0, 0), ("test", "fgsm", 0.1, 5), ("test", "pgd", 0.1, 5)]
        kinds += [] if channel == "none" else [("test", "pgd", 0.1, 1), ("test", "transfer", 0.1, 1)]
        names = ("split", "attack", "size", "draws")
        made = [dict(zip(names, kind, strict=True)) for kind in kinds]
        made = [one | LABEL | {"accuracy": ACCURACY[kind]} for one, kind in zip(made, kinds, strict=True)]
        settings = settings | {"epochs": epochs, "rate_nats": rate}
        return point, [robustness.RobustnessPoint(**settings, **one) for one in made]


LABEL = {"cross_entropy_nats": 0.5, "cross_entropy_se": 0.01, "accuracy": 0.9, "accuracy_se": 0.01}
# Another number for each split, attack, size, and number of draws.
ACCURACY = {
    ("train", "clean", 0.0, 0): 0.95,
    ("test", "clean", 0.0, 0): 0.9,
    ("test", "fgsm", 0.1, 5): 0.6,
    ("test", "pgd", 0.1, 5): 0.4,
    ("test", "pgd", 0.1, 1): 0.5,
    ("test", "transfer", 0.1, 1): 0.7,
}


@pytest.fixture
def tables(tmp_path):
    return tmp_path / "blobs.csv", tmp_path / "blobs_robustness.csv"


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_run_makes_what_is_missing(blobs, tables, monkeypatch):
    trained = Trained(monkeypatch)
    bottleneck.run(*tables, blobs, 1, [0.1, 1.0])
    assert len(trained.keys) == 5  # no channel, two channels of two betas
    bottleneck.run(*tables, blobs, 2, [0.1, 1.0, 0.1])
    assert len(trained.keys) == len(set(trained.keys)) == 10
    points, robust = map(rows_of, tables)
    assert (len(points), len(robust)) == (10, 2 * (4 + 4 * 6))
    figures = plot_bottleneck(*tables)
    assert len(figures) == 3 and all(map(Path.exists, figures))


def test_what_one_table_lacks_is_made_anew(blobs, tables, monkeypatch):
    """Results of earlier versions, and a run that was stopped between the two files."""
    trained = Trained(monkeypatch)
    bottleneck.run(*tables, blobs, 1, [0.1])
    earlier = rows_of(tables[0])
    tables[1].unlink()
    assert [path.name for path in plot_bottleneck(*tables)] == ["blobs.png"]
    bottleneck.run(*tables, blobs, 1, [0.1])
    assert len(trained.keys) == 6
    assert rows_of(tables[0]) == earlier


def test_figures_have_the_numbers_of_the_tables(blobs, tables, monkeypatch):
    Trained(monkeypatch)
    bottleneck.run(*tables, blobs, 1, [0.1])
    figures = []
    monkeypatch.setattr("echo_tf.report.theory_figures.save", lambda figure, path: figures.append(figure))
    plot_bottleneck(*tables)
    (bound,) = [line for line in figures[0].axes[1].get_lines() if line.get_label() == "bound H(Y) - R"]
    np.testing.assert_allclose(bound.get_xdata() + bound.get_ydata(), 1.4)  # `label_entropy_nats` of the table
    assert [axis.get_title() for axis in figures[1].axes] == ["size 0.1"]
    assert [axis.get_title() for axis in figures[2].axes] == ["Echo channel", "Gaussian channel", "no channel"]
    assert len(figures[2].axes[0].get_lines()) == 4 and len(figures[2].axes[2].get_lines()) == 2  # the diagonal is one

    def heights(axis):
        """Accuracies by label, of curves and of the level lines of classifiers without a channel."""
        curves = {bars.get_label(): float(bars[0].get_ydata()[0]) for bars in axis.containers}
        lines = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
        return curves | {line.get_label(): float(line.get_ydata()[0]) for line in lines}

    for channel in ("Echo channel", "Gaussian channel", "no channel"):
        points, attacked = heights(figures[0].axes[0]), heights(figures[1].axes[0])
        assert (points[channel], points[f"{channel}, training"]) == (0.9, 0.95)
        assert (attacked[f"{channel}, PGD"], attacked[f"{channel}, FGSM"]) == (0.4, 0.6)
    checks = {line.get_label(): tuple(line.get_xydata()[0]) for line in figures[2].axes[0].get_lines()[:3]}
    assert checks == {"FGSM": (0.4, 0.6), "PGD, one draw of noise": (0.4, 0.5), "images found for no channel": (0.4, 0.7)}

    for beta in (0.4, 0.02):  # what later runs add stands at the end of the table, and is drawn in its place
        bottleneck.run(*tables, blobs, 1, [beta])
    plot_bottleneck(*tables)
    curve = next(bars[0] for bars in figures[3].axes[0].containers if bars.get_label() == "Gaussian channel")
    assert len(curve.get_xdata()) == 3 and np.all(np.diff(curve.get_xdata()) <= 0)

    tables[1].write_text(tables[1].read_text().replace("accuracy", "precision"))
    with pytest.raises(ResultError, match=r"robustness\.csv is damaged .*Move it away"):
        plot_bottleneck(*tables)


def test_noise_after_training_is_of_the_final_parameters(blobs, monkeypatch):
    adapted = []
    monkeypatch.setattr(EchoDense, "adapt", lambda layer, features: adapted.append(features))
    monkeypatch.setattr(bottleneck, "attacks", lambda *options: [])
    model = bottleneck.train_classifier(blobs, "echo", 1.0, 0, 1)
    features = keras.Model(model.input, model.get_layer("features").output).predict(blobs.train, verbose=0)
    np.testing.assert_allclose(adapted[0], features, rtol=1e-4, atol=1e-5)
    point, _ = measured(blobs, "echo", 1.0)
    assert point.label_entropy_nats == pytest.approx(np.log(4))  # four labels, equally frequent


@pytest.mark.parametrize("text", ["dataset,chan\nx,y\n", "dataset\nx,y\n", "", "\0"])
@pytest.mark.parametrize("damaged", [0, 1])
def test_a_damaged_table_is_named(blobs, tables, text, damaged, monkeypatch):
    monkeypatch.setattr(bottleneck, "train_classifier", None)  # nothing is trained
    tables[damaged].write_text(text)
    with pytest.raises(ResultError, match=rf"{tables[damaged].name} is damaged .*Move it away"):
        bottleneck.run(*tables, blobs, 1)


def test_one_process_at_a_time(blobs, tables):
    with locked(tables[0].parent), pytest.raises(CellError, match="in use by another process"):
        bottleneck.run(*tables, blobs, 1)


def test_unsuitable_data(blobs, tables):
    for labels in ({}, {"train": blobs.train_labels}):
        with pytest.raises(DataError, match="no labels"):
            bottleneck.run(*tables, Dataset("blobs", blobs.splits, 255, labels), 1)
    with pytest.raises(DataError, match="labels that its training set lacks, such as 3"):
        bottleneck.run(*tables, Dataset("blobs", blobs.splits, 255, blobs.labels | {"train": blobs.train_labels % 3}), 1)


def test_few_vectors_with_labels_of_any_numbers(monkeypatch):
    """A batch is the whole data set then, and what a label is called changes nothing."""
    for name, value in {"HIDDEN": (16,), "LATENT_DIM": 2, "attacks": lambda *options: []}.items():
        monkeypatch.setattr(bottleneck, name, value)
    rng = np.random.default_rng(0)
    values, labels = rng.uniform(size=(60, 6)), np.arange(60) % 3

    def point(labels):
        options = {"train_labels": labels[:40], "test_labels": labels[40:]}
        return measured(Dataset.from_arrays(values[:40], values[40:], **options), "echo", 0.1, epochs=2)[0]

    found = point(labels)
    assert found.label_entropy_nats == pytest.approx(np.log(3), rel=1e-2)
    assert found.rate_nats > 2 * -np.log(max_scale(39))  # the floor with 39 echoes
    assert point(np.array([-7, 5, 1000])[labels]) == found
