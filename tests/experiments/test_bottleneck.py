import csv

import numpy as np
import pytest

from echo_tf.data.dataset import Dataset
from echo_tf.echo.bound import max_scale
from echo_tf.echo.dense import EchoDense
from echo_tf.errors import CellError, DataError, ResultError
from echo_tf.experiments import bottleneck
from echo_tf.files import locked
from echo_tf.report.theory_figures import plot_bottleneck


@pytest.fixture
def blobs(monkeypatch):
    """Images whose label is the bright quarter, and a training of a second."""
    for name, value in {"BATCH_SIZE": 50, "HIDDEN": (16,), "EPOCHS": 60, "LATENT_DIM": 2}.items():
        monkeypatch.setattr(bottleneck, name, value)
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    images = rng.integers(0, 60, (400, 28, 28, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[14 * (label // 2) :, 14 * (label % 2) :][:14, :14] += 150
    splits = {"train": images[:300], "test": images[300:]}
    return Dataset("blobs", splits, 255, {"train": labels[:300], "test": labels[300:]})


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["echo", "gaussian"])
def test_rate_buys_accuracy(blobs, channel):
    dear, cheap = (bottleneck.train_point(blobs, channel, beta, 0) for beta in (5.0, 0.01))
    assert cheap.accuracy > 0.9
    assert cheap.rate_nats > dear.rate_nats + 0.5
    for point in (dear, cheap):  # H(Y|Z) >= H(Y) - I(X; Z); cross-entropy and rate are both upper bounds
        assert point.cross_entropy_nats + point.rate_nats > np.log(4) - 5 * point.cross_entropy_se


def test_run_makes_what_is_missing(blobs, tmp_path, monkeypatch):
    trained = []

    def train_point(dataset, channel, beta, seed):
        trained.append((channel, beta, seed))
        return bottleneck.BottleneckPoint(dataset.name, channel, beta, seed, 1.0 + seed, 0.5, 0.01, 0.9, 0.01, 1.4)

    monkeypatch.setattr(bottleneck, "train_point", train_point)
    path = tmp_path / "blobs.csv"
    bottleneck.run(path, blobs, 1, [0.1, 1.0])
    assert len(trained) == 4
    bottleneck.run(path, blobs, 2, [0.1, 1.0, 0.1])
    assert len(trained) == len(set(trained)) == 8
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == 8
    assert plot_bottleneck(path).exists()
    figures = []
    monkeypatch.setattr("echo_tf.report.theory_figures.save", lambda figure, path: figures.append(figure))
    plot_bottleneck(path)
    (bound,) = [line for line in figures[0].axes[1].get_lines() if line.get_label() == "bound H(Y) - R"]
    np.testing.assert_allclose(bound.get_xdata() + bound.get_ydata(), 1.4)  # `label_entropy_nats` of the table

    path.write_text(path.read_text().replace("accuracy", "precision"))
    with pytest.raises(ResultError, match=r"\.csv is damaged .*Move it away"):
        plot_bottleneck(path)


def test_noise_after_training_is_of_the_final_parameters(blobs, monkeypatch):
    adapted = []
    monkeypatch.setattr(bottleneck, "EPOCHS", 1)
    monkeypatch.setattr(EchoDense, "adapt", lambda layer, features: adapted.append(features.shape))
    point = bottleneck.train_point(blobs, "echo", 1.0, 0)
    assert adapted == [(300, 16)]
    assert point.label_entropy_nats == pytest.approx(np.log(4))  # four labels, equally frequent


@pytest.mark.parametrize("text", ["dataset,chan\nx,y\n", "dataset\nx,y\n", "", "\0"])
def test_a_damaged_table_is_named(blobs, tmp_path, text, monkeypatch):
    monkeypatch.setattr(bottleneck, "train_point", None)  # nothing is trained
    (tmp_path / "blobs.csv").write_text(text)
    with pytest.raises(ResultError, match=r"blobs\.csv is damaged .*Move it away"):
        bottleneck.run(tmp_path / "blobs.csv", blobs, 1)


def test_one_process_at_a_time(blobs, tmp_path):
    with locked(tmp_path), pytest.raises(CellError, match="in use by another process"):
        bottleneck.run(tmp_path / "blobs.csv", blobs, 1)


def test_unsuitable_data(blobs, tmp_path):
    path = tmp_path / "blobs.csv"
    for labels in ({}, {"train": blobs.train_labels}):
        with pytest.raises(DataError, match="no labels"):
            bottleneck.run(path, Dataset("blobs", blobs.splits, 255, labels), 1)
    with pytest.raises(DataError, match="labels that its training set lacks, such as 3"):
        bottleneck.run(path, Dataset("blobs", blobs.splits, 255, blobs.labels | {"train": blobs.train_labels % 3}), 1)


def test_few_vectors_with_labels_of_any_numbers(monkeypatch):
    """A batch is the whole data set then, and what a label is called changes nothing."""
    for name, value in {"HIDDEN": (16,), "EPOCHS": 2, "LATENT_DIM": 2}.items():
        monkeypatch.setattr(bottleneck, name, value)
    rng = np.random.default_rng(0)
    values, labels = rng.uniform(size=(60, 6)), np.arange(60) % 3

    def point(labels):
        options = {"train_labels": labels[:40], "test_labels": labels[40:]}
        return bottleneck.train_point(Dataset.from_arrays(values[:40], values[40:], **options), "echo", 0.1, 0)

    found = point(labels)
    assert found.label_entropy_nats == pytest.approx(np.log(3), rel=1e-2)
    assert found.rate_nats > 2 * -np.log(max_scale(39))  # the floor with 39 echoes
    assert point(np.array([-7, 5, 1000])[labels]) == found
