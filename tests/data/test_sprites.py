import numpy as np
import pytest

from echo_tf.data import prepare
from echo_tf.data.load import load_dataset
from echo_tf.data.sprites import SIZES, factor_sizes, factors_of, images_of_split, kept_when_dependent, render
from echo_tf.errors import DataError
from echo_tf.experiments.inputs import read_inputs

SMALL = (3, 2, 2, 2, 2)


def entropy(p):
    return float(-np.sum(p[p > 0] * np.log(p[p > 0])))


class TestRender:
    @pytest.mark.parametrize("shape", range(3))
    def test_place_and_scale(self, shape):
        sizes = (3, 2, 1, 3, 3)
        images = render(np.array([[shape, 0, 0, 1, 1], [shape, 1, 0, 1, 1], [shape, 1, 0, 2, 0]]), sizes)[..., 0]
        assert set(np.unique(images)) == {0, 1}
        areas = images.sum(axis=(1, 2), dtype=float)
        assert areas[1] / areas[0] == pytest.approx(4.0, rel=0.2)  # twice the scale, in whole pixels
        rows, columns = np.array([np.argwhere(image).mean(axis=0) for image in images]).T
        # A quarter of the image to the right and up, of 64 pixels.
        assert columns[2] - columns[1] == pytest.approx(16, abs=0.5) and rows[2] - rows[1] == pytest.approx(-16, abs=0.5)

    def test_area_and_turn(self):
        ellipse = render(np.array([[1, 0, 0, 0, 0]]), (3, 1, 1, 1, 1)).sum()  # of half axes 0.45 and 0.225, times 0.75
        assert ellipse == pytest.approx(np.pi * 0.45 * 0.225 * 0.75**2 * 32**2, rel=0.05)
        quarter = render(np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]), (3, 1, 4, 1, 1))[..., 0]
        np.testing.assert_array_equal(quarter[0].T, quarter[1])

    def test_nothing_is_cut(self):
        sizes = SIZES["sprites"]  # whose places are whole pixels apart
        areas = render(factors_of(np.arange(np.prod(sizes)), sizes)).sum(axis=(1, 2, 3), dtype=int).reshape(*sizes[:3], -1)
        np.testing.assert_array_equal(areas, areas[..., :1].repeat(areas.shape[-1], axis=-1))

    @pytest.mark.parametrize(
        ("factors", "sizes"), [([[3, 0, 0, 0, 0]], SMALL), ([[0, 0]], SMALL), ([[0] * 5], (4, 1, 1, 1, 1))]
    )
    def test_refused(self, factors, sizes):
        with pytest.raises(ValueError, match="Invalid value received for argument"):
            render(np.array(factors), sizes)


@pytest.mark.parametrize(
    ("blocks", "removed", "kept", "total_correlation"), [(4, 0.15, 124_800, 1.440), (8, 0.2, 41_040, 2.183)]
)
def test_dependent_dsprites_are_those_of_the_released_code(blocks, removed, kept, total_correlation):
    left = kept_when_dependent(SIZES["dsprites"], blocks, removed)
    assert left.sum() == kept
    p = left.reshape(SIZES["dsprites"]) / left.sum()
    marginals = [p.sum(axis=tuple(a for a in range(5) if a != i)) for i in range(5)]
    assert sum(map(entropy, marginals)) - entropy(p) == pytest.approx(total_correlation, abs=5e-4)


FIRST = {"sprites": [3418, 6540, 1734, 5509, 5505], "sprites_dependent": [3072, 555, 1856, 763, 4643]}


@pytest.mark.parametrize("name", FIRST)
def test_data_set(name):
    data = load_dataset(name)
    assert {split: len(images) for split, images in data.splits.items()} == images_of_split(name)
    assert data.shape == (64, 64, 1) and data.white == 1
    numbers = np.concatenate([data.labels["train"], data.labels["test"]])
    assert len(set(numbers)) == len(numbers)
    kept = kept_when_dependent(SIZES["sprites"])
    assert name == "sprites" or kept[numbers].all()
    assert len(numbers) == (kept.sum() if name == "sprites_dependent" else kept.size)
    some = data.labels["test"][:5]
    assert some.tolist() == FIRST[name]  # another split would make all results on record those of other images
    in_test = factors_of(data.labels["test"], factor_sizes(name))
    assert [len(set(values)) for values in in_test.T] == list(factor_sizes(name))
    np.testing.assert_array_equal(data.raw("test")[:5], render(factors_of(some, factor_sizes(name))))


def batches(images, factors, size=10):
    keys = ("label_shape", "label_scale", "label_orientation", "label_x_position", "label_y_position")
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield {"image": images[part], **dict(zip(keys, factors[part].T, strict=True))}


class TestDSprites:
    FACTORS = factors_of(np.arange(48), SMALL)

    def test_from_a_builder(self, tmp_path, monkeypatch):
        """In any order; written to the cache, and read from there by both data sets."""
        monkeypatch.setitem(SIZES, "dsprites", SMALL)
        images, order = render(self.FACTORS, SMALL), np.random.default_rng(0).permutation(48)

        class Builder:
            data_path, url_infos = tmp_path, {}

            def download_and_prepare(self, download_config):
                pass

            def as_dataset(self, split, batch_size):
                assert split == "train"
                return batches(images[order], self_factors[order])

        self_factors = self.FACTORS
        tfds = pytest.importorskip("tensorflow_datasets")
        monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder() if name == "dsprites" else None)
        monkeypatch.setattr(tfds, "as_numpy", lambda dataset: dataset)
        data = load_dataset("dsprites", tmp_path)
        for split in ("train", "test"):
            np.testing.assert_array_equal(data.raw(split), images[data.labels[split]])
        monkeypatch.setattr(tfds, "builder", None)  # the cache serves
        dependent = load_dataset("dsprites_dependent", tmp_path)
        assert len(dependent.raw("train")) < len(data.raw("train"))
        np.savez(tmp_path / "dsprites.npz", bits=np.zeros((3, 512), np.uint8))
        with pytest.raises(DataError, match=r"array `bits` must be uint8 of shape \(48, 512\), found uint8 of shape"):
            load_dataset("dsprites", tmp_path)

    def test_what_is_not_all_combinations(self):
        images = render(self.FACTORS, SMALL)
        with pytest.raises(DataError, match="1 combinations of factors too few"):
            prepare.bits_by_combination(batches(images[1:], self.FACTORS[1:]), SMALL)
        with pytest.raises(DataError, match="pixel of value 255"):
            prepare.bits_by_combination(batches(images * 255, self.FACTORS), SMALL)

    def test_no_network(self, tmp_path, monkeypatch):
        pytest.importorskip("tensorflow_datasets")

        def refuse(*arguments):
            raise OSError("no network")

        monkeypatch.setattr("socket.getaddrinfo", refuse)
        with pytest.raises(DataError, match=r"dsprites is not in .*--data-dir"):
            load_dataset("dsprites", tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    def test_plan_needs_no_download(self):
        found = read_inputs(["dsprites", "dsprites_dependent"])
        assert [one.images for one in found.values()] == [663_552, 112_320]
        assert {one.shape for one in found.values()} == {(64, 64, 1)}
