import numpy as np
import pytest

from echo_tf.experiments.records import LatentMap
from echo_tf.report import maps


def a_map(labels, shape=(4, 4, 1)):
    decoded = np.zeros((3, 3, *shape), np.uint8)
    decoded[0, :] = 100  # low values of the second dimension
    z = np.random.default_rng(0).normal(size=(30, 2))
    ticks = np.array([[-1.0, 0.0, 1.0], [0.0, 2.0, 4.0]])
    return LatentMap(np.array([5, 2]), np.array([3.0, 2.0]), z, np.asarray(labels), ticks, decoded)


@pytest.fixture
def figures(monkeypatch):
    found = []
    monkeypatch.setattr(maps, "save", lambda figure, path: found.append(figure) or path)
    return found


def test_classes_in_colours_and_pictures_at_their_values(result, figures, tmp_path):
    maps.plot_map(result(), a_map(np.arange(30) % 3), tmp_path / "map.png")
    codes, pictures = figures[0].axes
    assert [group.get_label() for group in codes.collections] == ["0", "1", "2"]
    assert sum(len(group.get_offsets()) for group in codes.collections) == 30
    assert codes.get_xlabel() == "z, dimension 5 (3.00 nats)" and codes.get_ylabel() == "z, dimension 2 (2.00 nats)"
    (image,) = pictures.images
    assert image.get_extent() == [-1.5, 1.5, -1.0, 5.0]
    assert image.get_array().shape == (12, 12)
    assert np.all(image.get_array()[8:] == 100) and np.all(image.get_array()[:8] == 0)  # low values below


@pytest.mark.parametrize("labels", [[], np.arange(30)])
def test_without_classes_one_colour(result, figures, tmp_path, labels):
    maps.plot_map(result(), a_map(labels, (4, 4, 3)), tmp_path / "map.png")
    codes, pictures = figures[0].axes
    assert len(codes.collections) == 1 and not figures[0].legends
    assert pictures.images[0].get_array().shape == (12, 12, 3)


def test_vectors_have_no_pictures(result, figures, tmp_path):
    maps.plot_map(result(), a_map([], (6,)), tmp_path / "map.png")
    assert len(figures[0].axes) == 1
