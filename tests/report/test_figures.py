import dataclasses

import numpy as np
import pytest

from echo_tf.experiments.records import Analysis, pictures_path
from echo_tf.report import model_figures
from echo_tf.report.figures import plot_all, plot_comparison, plot_rate_distortion, plot_training
from echo_tf.report.looks import looks
from echo_tf.report.model_figures import PICTURES, plot_matched, plot_pictures
from echo_tf.report.rows import compare, curves


def test_methods_that_are_not_ours_are_told_apart(result):
    def mine(name, beta=1.0):
        made = result(beta=beta)
        return dataclasses.replace(
            made, cell=dataclasses.replace(made.cell, config=dataclasses.replace(made.config, method=name))
        )

    one, again, another, echo = looks([mine("one"), mine("one", beta=2.0), mine("another"), result()])
    assert (one["color"], one["marker"]) == (again["color"], again["marker"])
    assert len({(look["color"], look["marker"]) for look in (one, another, echo)}) == 3
    assert looks([result()])[0]["color"] == echo["color"]


def labels_of(axis):
    return axis.get_legend_handles_labels()[1]


def files_of(results, folder, kind, analyses=()):
    """Names of the figures of a kind that such results make."""
    rows = compare(results)
    names = [path.name for path in plot_all(results, rows, curves(rows), list(analyses), folder)]
    return [name for name in names if name.startswith(kind)]


def test_released_models_are_compared_by_themselves(result, drawn, tmp_path):
    results = [result(protocol=name, folder=name) for name in ("paper", "released")]
    results += [
        result(beta=2, folder="other"),
        result("vae", constraint={"quantity": "rate", "target_nats": 20}, final_beta=2.0),
    ]
    assert files_of(results, tmp_path, "comparison") == ["comparison.png", "comparison_released.png"]
    assert [label for label in labels_of(drawn[0].axes[0]) if "paper" not in label] == ["Echo, β = 1", "VAE, rate 20"]


class TestTraining:
    def test_is_drawn_at_a_constant_beta_of_one(self, result, drawn, tmp_path):
        others = [result(beta=2), result(constraint={"quantity": "rate", "target_nats": 20})]
        assert files_of(others, tmp_path, "training") == []
        assert files_of([result()], tmp_path, "training") == ["training_binary_mnist.png"]
        both = [result(protocol=name, folder=name) for name in ("paper", "released")]
        names = ["training_binary_mnist.png", "training_binary_mnist_released.png"]
        assert files_of(both, tmp_path, "training") == names

    def test_a_model_is_drawn_once(self, result, drawn, tmp_path):
        for epoch in (1, 2):
            line = f'{{"epoch": {epoch}, "loss_nats": 9, "rate_nats": 4, "distortion_nats": 5, "validation_rate_nats": 3}}\n'
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write(line)
        plot_training([result(split=split, folder=tmp_path) for split in ("test", "validation")], tmp_path / "f.png")
        objective, rate, _ = drawn[0].axes
        assert labels_of(objective) == ["Echo"]
        assert labels_of(rate) == ["Echo", "dashed: validation images"]
        assert [list(line.get_ydata()) for line in rate.get_lines()] == [[4, 4], [3, 3], []]
        assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["Echo", "dashed: validation images"]

    @pytest.mark.parametrize(("epochs", "scale"), [(20, "log"), (100, "linear")])
    def test_of_short_and_long_schedules_can_both_be_read(self, result, drawn, tmp_path, epochs, scale):
        plot_training([result(), result("vae", training={"epochs": epochs})], tmp_path / "f.png")
        assert {axis.get_xscale() for axis in drawn[0].axes} == {scale}

    @pytest.mark.parametrize(("epochs", "cut"), [(9, False), (30, True)])
    def test_the_first_epoch_is_above_the_axis_of_long_schedules_only_which_say_so(self, result, drawn, tmp_path, epochs, cut):
        lines = [
            f'{{"epoch": {i}, "loss_nats": {100 / i}, "rate_nats": 4, "distortion_nats": 5}}\n' for i in range(1, epochs + 1)
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(lines))
        plot_training([result(folder=tmp_path, training={"epochs": epochs})], tmp_path / "f.png")
        (figure,) = drawn
        assert (figure.axes[0].get_ylim()[1] < 100) == cut
        assert ("above the axes" in figure.get_suptitle()) == cut

    @pytest.mark.parametrize(("method", "name"), [("vae", "objective"), ("info_vae", "objective, with penalty")])
    def test_a_penalty_is_named_where_there_is_one(self, result, drawn, tmp_path, method, name):
        plot_training([result(), result(method)], tmp_path / "f.png")
        assert drawn[0].axes[0].get_title() == name


@pytest.mark.parametrize("mixed", [True, False])
def test_figures_tell_precisions_apart(result, drawn, bfloat16, tmp_path, mixed):
    results = [result(**(bfloat16 if mixed else {})), result("vae")]
    plot_training(results, tmp_path / "training.png")
    plot_comparison(compare(results), tmp_path / "comparison.png")
    training, comparison = (labels_of(figure.axes[0]) for figure in drawn)
    assert training == (["Echo, bfloat16", "VAE, float32"] if mixed else ["Echo", "VAE"])
    assert [label for label in comparison if "paper" not in label] == training
    assert comparison[-1] == "hollow: the paper" and len(comparison) == 3
    assert (
        drawn[1].axes[0].get_title(loc="left")
        == f"Binary MNIST, β = 1, 200 epochs{'' if mixed else ', float32'}\ngrey: lines of equal -ELBO"
    )


def test_comparison_of_data_without_published_numbers(result, drawn, tmp_path):
    plot_comparison(compare([result(dataset="mine"), result()]), tmp_path / "comparison.png")
    known, own = drawn[0].axes
    assert (labels_of(known), labels_of(own)) == (["Echo", "hollow: the paper"], ["Echo"])


def test_curves_tell_images_and_precision_apart(result, drawn, bfloat16, tmp_path):
    settings = [{}, {"split": "validation"}, bfloat16]
    results = [result(beta=beta, **setting) for setting in settings for beta in (1.0, 2.0, 4.0)]
    plot_rate_distortion(curves(compare(results)), tmp_path / "f.png")
    (axis,) = drawn[0].axes
    lines = [line for line in axis.get_lines() if line.get_label().startswith("Echo")]
    labels = {line.get_label().replace(", β = 1 ... 4", "") for line in lines}
    assert labels == {"Echo, float32", "Echo, float32, validation", "Echo, bfloat16"}
    assert len({line.get_fillstyle() for line in lines}) == 3
    assert axis.get_title() == "Binary MNIST, Echo, 200 epochs; grey: lines of equal -ELBO"
    *totals, floor = (text.get_text().strip() for text in axis.texts)
    assert floor == "floor of Echo, 6.40 nats"
    steps = np.diff([float(total) for total in totals])
    assert len(steps) > 2 and np.all(steps == steps[0]) and steps[0] in (1, 2, 5, 10)  # round, and evenly spaced
    for text in axis.texts[:-1]:
        assert sum(text.xy) == pytest.approx(float(text.get_text()))


class TestPictures:
    @pytest.fixture
    def put(self, result, tmp_path):
        """A result with pictures, all of one value and of such a shape."""

        def write(name, shape=(28, 28), value=0, **values):
            made = result(folder=tmp_path / name, **values)
            made.folder.mkdir(exist_ok=True)
            kinds = ("originals", "reconstructions", "samples")
            np.savez(pictures_path(made.folder, made.split), **dict.fromkeys(kinds, np.full((2, *shape), value, np.uint8)))
            return made

        return write

    @pytest.fixture
    def strips(self, monkeypatch):
        found = []
        monkeypatch.setattr(model_figures, "_plot_strips", lambda images, *_: found.append(list(images)))
        return found

    def test_tell_precisions_apart(self, put, strips, bfloat16, tmp_path):
        for kind in PICTURES:
            plot_pictures(kind, [put("a"), put("b", **bfloat16), put("c", seed=1)], tmp_path / "f.png")
        reconstructions, samples = strips
        assert samples == ["Echo\nfloat32", "Echo\nbfloat16"]  # the second seed is not shown
        assert reconstructions == ["test\nimages", *samples]

    def test_matched_reconstructions_tell_precision_apart_and_are_of_one_split(self, put, strips, bfloat16, tmp_path):
        settings = ({}, {"split": "validation"}, bfloat16)
        results = [
            put(f"{place}-{beta}", beta=beta, rate=26.0 / beta, **setting)
            for place, setting in enumerate(settings)
            for beta in (1.0, 2.0)
        ]
        files_of(results, tmp_path, "matched")
        of_test, of_validation = (names[1:] for names in strips if names[0] == "images")
        assert {name.partition(",")[0] for name in of_validation} == {"Echo"}
        labels = {name.splitlines()[0] for name in of_test}
        assert {label.removesuffix(", β = 1") for label in labels if "β = 1" in label} == {
            "Echo, float32",
            "Echo, bfloat16",
        }

    @pytest.mark.parametrize(
        ("shape", "drawn_shape"), [((28, 28), (28, 56)), ((64, 64), (64, 128)), ((64, 64, 3), (64, 128, 3))]
    )
    def test_have_their_size_and_colours(self, put, drawn, tmp_path, shape, drawn_shape):
        for kind in PICTURES:
            plot_pictures(kind, [put("a", shape, value=100)], tmp_path / "f.png")
        axes = [axis for figure in drawn for axis in figure.axes]
        assert len(axes) == 3  # images, reconstructions, samples
        for axis in axes:
            (image,) = axis.get_images()
            assert image.get_array().shape == drawn_shape
            assert np.all(image.get_array() == 100)

    def test_are_drawn_by_data_set_and_split(self, put, drawn, tmp_path):
        results = [put("a"), put("b", split="validation"), put("c", beta=2.0, rate=13.0), put("d", dataset="digits")]
        kinds = ("reconstructions", "samples", "matched")
        names = [[name.partition(kind)[2] for name in files_of(results, tmp_path, kind)] for kind in kinds]
        assert names[0] == names[1] == ["_binary_mnist.png", "_binary_mnist_validation.png", "_digits.png"]
        assert names[2] == ["_binary_mnist.png"]

    def test_of_curves_that_share_no_rate_are_not_matched(self, put, strips, tmp_path):
        rates = {"echo": (30.0, 20.0), "vae": (10.0, 5.0)}
        results = [put(f"{method}{i}", method=method, beta=1.0 + i, rate=rates[method][i]) for method in rates for i in (0, 1)]
        assert plot_matched(curves(compare(results)), tmp_path / "f.png") is None

    @pytest.mark.parametrize("shape", [(30,), (28, 28, 2)])
    def test_are_skipped_where_examples_are_no_images(self, put, drawn, tmp_path, shape):
        results = [put(str(beta), shape, beta=beta, rate=26.0 / beta) for beta in (1.0, 2.0)]
        for kind in ("reconstructions", "samples", "matched"):
            assert files_of(results, tmp_path, kind) == []

    def test_are_skipped_where_there_are_none(self, result, drawn, tmp_path):
        assert files_of([result()], tmp_path, "samples") == []


def test_figures_of_analyses(result, drawn, tmp_path):
    rng = np.random.default_rng(0)
    distortion = rng.uniform(1, 2, 50)
    quantities = {"pointwise_distortion_nats": 1, "pointwise_rate_nats": 2, "mean_norm": 3, "scale_norm": 4}
    arrays = {name: factor * distortion for name, factor in quantities.items()}
    analysis = Analysis(
        rate_by_dimension_nats=np.array([1.0, 3.0, 2.0]),
        shown=np.array([1, 2]),
        grid=np.tile(np.linspace(-1, 1, 5), (2, 1)),
        density=np.ones((2, 5)),
        total_correlation_nats=np.empty(0),
        noise_draws=np.array(0),
        **arrays,
    )
    analyses = [(result(seed=seed, split="validation", folder=f"seed={seed}"), analysis) for seed in (0, 1)]
    names = files_of([], tmp_path, "", analyses)
    assert names == [
        "dimensions_binary_mnist_validation.png",
        "marginals_binary_mnist_echo_seed=0_validation.png",
        "marginals_binary_mnist_echo_seed=1_validation.png",
        "pointwise_binary_mnist_validation.png",
    ]
    dimensions, marginals, _, pointwise = drawn
    (axis,) = dimensions.axes
    assert labels_of(axis) == ["Echo, seed 0", "floor of Echo, 2.13 nats", "Echo, seed 1", "floor of Echo, 2.13 nats"]
    assert axis.get_lines()[0].get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert axis.get_lines()[1].get_ydata()[0] == pytest.approx(6.4 / 3)  # the floor
    assert [axis.get_title() for axis in marginals.axes[:2]] == ["dimension 1: 3.00 nats", "dimension 2: 2.00 nats"]
    assert [axis.get_visible() for axis in marginals.axes] == [True] * 2 + [False] * 7
    assert marginals.get_suptitle().startswith("Binary MNIST, Echo, β = 1, 200 epochs, float32, validation, seed 0: ")
    likelihood, *others = (axis.get_lines()[0].get_ydata() for axis in pointwise.axes)
    assert np.all(np.diff(likelihood) <= 0)  # the best first
    assert -likelihood.mean() == pytest.approx(distortion.mean(), abs=0.1)
    for factor, values in enumerate(others, 2):  # sorted with it
        np.testing.assert_allclose(values, -factor * likelihood)


def test_methods_beside_the_paper(result, drawn, tmp_path):
    results = [
        *(result(neg_elbo=value, training={"epochs": epochs}) for epochs, value in ((20, 92.0), (200, 90.0))),
        result("vae", neg_elbo=95.0, training={"epochs": 20}),
        result("echo_matrix", neg_elbo=87.0),
    ]
    assert files_of(results, tmp_path, "beside") == ["beside_paper_binary_mnist.png"]
    axis = drawn[1].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["VAE", "Echo", "Matrix Echo (ours)"]
    assert [text.get_text() for text in axis.texts] == ["95.0  20 epochs", "90.0", "87.0"]
    assert files_of([result(dataset="mine"), result("vae", "mine")], tmp_path, "beside") == []
