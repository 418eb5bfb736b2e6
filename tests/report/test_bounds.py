import pytest

from echo_tf.report.bounds import entropy_bound, likelihood_table, pairs_table, plot_all_bounds, plot_bounds, with_likelihoods
from echo_tf.report.rows import compare


def point(method="echo", seed=0, **values):
    cell = f"paper-epochs=200-beta=1-seed={seed}"
    of_model = {
        "dataset": "binary_mnist",
        "method": method,
        "epochs": 200,
        "beta": 1.0,
        "seed": seed,
        "cell": cell,
        "target": "",
        "fingerprint": "",
    }
    effort = {"marginal": "own", "split": "test", "images": 100, "temperatures": 500, "chains": 1}
    found = {"neg_log_likelihood_nats": 84.0, "neg_log_likelihood_se": 1.0, "simulated": 100, "gap_nats": 0.5, "gap_se": 0.1}
    return {
        **of_model,
        **effort,
        **found,
        "acceptance": 0.8,
        "neg_elbo_nats": 87.0,
        "lowered_nats": 3.0,
        "lowered_se": 0.2,
    } | values


def test_rows_find_their_points(result):
    rows = compare([result(seed=0), result(seed=1), result("vae"), result("iaf")])
    points = [point(seed=0), point(seed=1, lowered_nats=5.0), point("vae", split="validation")]
    echo, iaf, vae = with_likelihoods(rows, points)
    assert echo.annealed == {"neg_log_likelihood_nats": 84.0, "lowered_nats": 4.0, "images": 100}
    assert vae.annealed is iaf.annealed is None
    assert with_likelihoods(rows, points[:1])[0].annealed is None  # not for every seed
    both = [point("vae", marginal=marginal, lowered_nats=nats) for marginal, nats in (("own", 1.0), ("fitted", 5.0))]
    assert with_likelihoods(rows, both)[2].annealed["lowered_nats"] == 1.0  # with its own marginal
    assert with_likelihoods(rows, [points[0], point(seed=1, images=50)])[0].annealed is None


def test_points_of_a_model_that_was_there_before_are_left_out(result):
    one = result("vae")
    old, new = point("vae", fingerprint="0" * 16), point("vae", fingerprint=one.cell.fingerprint, lowered_nats=5.0)
    assert with_likelihoods(compare([one]), [old])[0].annealed is None
    assert with_likelihoods(compare([one]), [new, old])[0].annealed["lowered_nats"] == 5.0


def test_entropy_bound_is_the_least(result):
    rows = compare([result("echo", neg_elbo=90.0), result("vae", neg_elbo=92.0, importance_bound_nats=89.0, passes=5)])
    assert entropy_bound(rows) == (89.0, "importance sampling, VAE")
    assert entropy_bound(rows[:1]) == (90.0, "-ELBO of Echo")
    assert entropy_bound(with_likelihoods(rows, [point()])) == (87.0, "annealing, Echo")


@pytest.mark.parametrize(
    "config", [{"channel": {"replace": True}}, {"channel": {"kind": "echo_matrix", "noise": "independent"}}]
)
def test_a_rate_that_may_be_too_low_bounds_no_entropy(result, drawn, config, tmp_path, monkeypatch):
    monkeypatch.setattr("echo_tf.report.bounds.save", lambda figure, path: drawn.append(figure) or path)
    low, vae = result("echo", neg_elbo=80.0, **config), result("vae", neg_elbo=92.0)
    assert entropy_bound(compare([low, vae])) == (92.0, "-ELBO of VAE")
    assert plot_all_bounds(compare([low, result("echo", beta=2.0, **config)]), tmp_path) == []
    plot_bounds(compare([low, vae]), tmp_path / "b.png")
    assert "hollow: an upper bound, or approximate" in drawn[0].get_suptitle()


def test_pairs_table():
    effort = {"dataset": "binary_mnist", "cell": "c", "split": "test", "images": 100, "temperatures": 500, "chains": 1}
    models = {"method": "echo", "marginal": "fitted", "other_method": "vae", "other_marginal": "own"}
    text = pairs_table([{**effort, **models, "difference_nats": -4.4, "difference_se": 0.3}]).markdown()
    assert "| Echo, fitted | VAE, own | -4.40 ± 0.30 |" in text
    assert pairs_table([]) is None


def test_table_and_figure(result, tmp_path):
    table = likelihood_table([point(), point("vae")])
    assert "84.00 ± 1.00" in table.markdown() and "500 x 1" in table.markdown()
    assert likelihood_table([]) is None
    rows = compare([result("echo"), result("vae", rate=20.0, neg_elbo=95.0)])
    assert plot_bounds(rows, tmp_path / "bounds.png").stat().st_size > 10_000


def test_interval_ends_at_the_rate_and_is_filled_where_that_is_exact(result, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("echo_tf.report.bounds.save", lambda figure, path: drawn.append(figure) or path)
    plot_bounds(
        compare([result("echo", rate=30.0, neg_elbo=90.0), result("vae", rate=20.0, neg_elbo=100.0)]), tmp_path / "b.png"
    )
    lines = drawn[0].axes[1].lines
    assert [tuple(line.get_xdata()) for line in lines[::3]] == [(10.0, 20.0), (30.0, 30.0)]  # H = 90: VAE, then Echo
    assert [line.get_markerfacecolor() == "white" for line in lines[2::3]] == [True, False]


@pytest.mark.parametrize(("method", "exact"), [("echo", True), ("echo_maf", False), ("vae", False), ("echo_gaussian", False)])
def test_which_rates_are_exact(result, method, exact):
    if method == "echo_gaussian":
        row = compare([result("echo", channel={"noise": "gaussian"})])[0]
    else:
        row = compare([result(method)])[0]
    assert row.has_exact_rate is exact
