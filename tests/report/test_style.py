import pytest

from echo_tf.models.config import available_methods
from echo_tf.report.paper import paper_table
from echo_tf.report.style import BESIDE_PAPER, METHODS, method_look, pyplot, save


def test_every_method_has_a_look_of_its_own():
    assert set(METHODS) == set(available_methods())
    mine = [f"mine_{i}" for i in range(15)]  # there are 60 looks
    looks = [tuple(method_look(method, *mine, "echo").values()) for method in (*METHODS, *mine)]
    assert len(set(looks)) == len(looks)
    colours = {method: method_look(method)["color"] for method in METHODS}
    assert {*paper_table()["binary_mnist"]} < {*BESIDE_PAPER}
    assert len({colours[method] for method in BESIDE_PAPER}) == len(BESIDE_PAPER)
    variants = [(name, of) for name in METHODS for of in ("echo", "vae", "iaf") if name.startswith(f"{of}_")]
    assert not [name for name, of in variants if colours[name] == colours[of]]


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        figure, axis = pyplot().subplots(figsize=(1, 1))
        axis.plot([1, 2])
        assert save(figure, tmp_path / name / "figure.png") == tmp_path / name / "figure.png"
        assert not pyplot().fignum_exists(figure.number)
    first, second = ((tmp_path / name / f"figure{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_long_heading_is_not_cut_off(tmp_path):
    figure, axis = pyplot().subplots()
    axis.set_title(", ".join(["Binary MNIST, network=mlp, β = 1, 20 epochs, float32"] * 3))
    picture = pyplot().imread(save(figure, tmp_path / "figure.png"))
    assert (picture[:, [0, -1], :3] == 1.0).all()  # nothing touches the edges
