"""Tables and figures of experiments, whose rows are about single models."""

import numpy as np
import pytest

from echo_tf.errors import ResultError
from echo_tf.experiments.laws import LAWS
from echo_tf.report.disentanglement_figures import SCORES, plot_traversals, scores_table
from echo_tf.report.freeriding_figures import plot_draws, plot_used, settings
from echo_tf.report.laws import laws_table, plot_laws

SUFFIXES = ("", "-holdout=700")
LAW_ROWS = [{"law": law, "rate_nats": 1.0, "distortion_nats": 2.0 + i, "distortion_se": 0.1} for i, law in enumerate(LAWS)]


def row(suffix="", seed=0, **values):
    """What the tables of all experiments have of a model."""
    of_model = {"dataset": "digits", "method": "echo", "epochs": 8, "beta": 1.0, "seed": seed, "target": "", "fingerprint": ""}
    return {**of_model, "cell": f"paper-epochs=8-beta=1-seed={seed}{suffix}", "split": "test"} | values


def scores(suffix="", seed=0, **values):
    return row(suffix, seed, codes="mean", rate_nats=9.0, active=4) | dict.fromkeys(SCORES, 0.5) | values


def used(suffix="", seed=0, **values):
    names = ("rate_nats", "distortion_nats", "neg_elbo_nats", "used_nats", "certain_nats", "shuffled_nats", "rate_floor_nats")
    return row(suffix, seed, **dict.fromkeys(names, 3.0)) | values


class TestModelsThatAreNoSeeds:
    """Such as those of other training images: they were averaged."""

    def test_scores(self):
        table = scores_table(
            [scores(suffix, seed, mig=mig) for suffix, mig in zip(SUFFIXES, (0.1, 0.3), strict=True) for seed in (0, 1)]
        )
        assert [line[table.header.index("method")] for line in table.lines] == ["Echo", "Echo (held out 700)"]
        assert [line[table.header.index("MIG")] for line in table.lines] == ["0.10 ± 0.00", "0.30 ± 0.00"]
        released = scores(cell="released-epochs=8-beta=1-seed=0")
        assert "Echo (released)" in scores_table([scores(), released]).text()

    def test_what_is_used(self, tmp_path, monkeypatch):
        rows = [used(), used(SUFFIXES[1]), used(split="validation"), used(epochs=9, cell="paper-epochs=9-beta=1-seed=0")]
        assert [found["seeds"] for found in settings(rows)] == [1] * 4
        drawn = []
        monkeypatch.setattr("echo_tf.report.freeriding_figures.save", lambda figure, path: drawn.append(figure))
        plot_used(rows, tmp_path / "used.png")
        labels = drawn[0].axes[0].get_legend_handles_labels()[1]
        assert [label.removesuffix(", 8 epochs") for label in labels if "decoder of z alone" in label] == [
            "Echo, decoder of z alone",
            "Echo (held out 700), decoder of z alone",
            "Echo, decoder of z alone, 8 epochs, validation",
            "Echo, decoder of z alone, 9 epochs",
        ]

    def test_laws(self):
        rows = [law | row(suffix) for suffix in SUFFIXES for law in LAW_ROWS]
        assert len(laws_table(rows).lines) == 2
        assert "echo (held out 700)" in laws_table(rows).text()

    def test_laws_have_the_number_of_their_own(self, tmp_path, monkeypatch):
        rows = [law | row() for law in LAW_ROWS]
        (line,) = laws_table(rows).lines
        assert [cell.split(" ")[0] for cell in line[-len(LAWS) :]] == [f"{2 + i}.00" for i in range(len(LAWS))]
        drawn = []
        monkeypatch.setattr("echo_tf.report.laws.save", lambda figure, path: drawn.append(figure))
        plot_laws(rows, [row(rate_nats=1.0, worth_nats=0.5)], tmp_path / "laws.png")
        np.testing.assert_allclose(drawn[0].axes[0].get_lines()[-1].get_xdata(), range(len(LAWS)))


def test_more_models_than_colours(tmp_path):
    beta = [0.1 * k for k in range(1, 18)]
    rows = [row(beta=b, law="echo", rate_nats=1.0, distortion_nats=2.0, distortion_se=0.1, worth_nats=0.5) for b in beta]
    assert plot_laws(rows, rows, tmp_path / "laws.png").exists()


@pytest.mark.parametrize(("plot", "found"), [(plot_traversals, scores()), (plot_draws, used())])
def test_pictures_that_are_not_there_are_left_out_and_damaged_ones_named(plot, found, tmp_path):
    assert plot(tmp_path, [found], tmp_path / "figure.png") is None
    name = f"echo-{found['cell']}" + ("" if plot is plot_traversals else "-test")
    (tmp_path / f"{name}.npz").write_text("damaged")
    with pytest.raises(ResultError, match=r"seed=0.*\.npz cannot be read .* Delete it"):
        plot(tmp_path, [scores(seed=1), used(seed=1), found], tmp_path / "figure.png")
