import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import echo_tf.data.load
import echo_tf.experiments.analysis
import echo_tf.experiments.cells
from echo_tf.experiments.cells import Cell, CellError, load_model, run_cell
from echo_tf.files import checksum
from echo_tf.models.config import load_config
from echo_tf.report.paper import paper_table

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def out(reproduce, tmp_path_factory):
    """Folder of a finished run of one epoch."""
    out = tmp_path_factory.mktemp("runs")
    assert reproduce.main(["--epochs", "1", "--out", str(out)]) == 0
    return out


ECHO = Path("digits", "echo", "paper-epochs=1-beta=1-seed=0")


def test_leaves_all_files(out):
    files = {path.name for path in (out / ECHO).iterdir()}
    assert files == {".lock", "cell.json", "metrics.jsonl", "model.keras", "pictures.npz", "result.json"}
    report = {path.name for path in (out / "report").iterdir()}
    tables = {f"{name}{suffix}" for name in ("comparison", "progress") for suffix in (".md", ".tex", ".csv")}
    figures = ("comparison", "training_digits", "reconstructions_digits", "samples_digits")
    figures = {f"{name}{suffix}" for name in figures for suffix in (".png", ".pdf")}
    assert report == tables | figures | {"index.html"}
    result = json.loads((out / ECHO / "result.json").read_text())
    total = result["rate_nats"]["mean"] + result["distortion_nats"]["mean"]
    assert result["neg_elbo_nats"]["mean"] == pytest.approx(total)
    assert result["rate_nats"]["mean"] >= result["rate_floor_nats"] == pytest.approx(5.7372, abs=1e-4)
    assert result["evaluated_images"] == 360
    assert {"python", "versions", "backend", "devices", "git_commit"} <= set(result["environment"])
    with np.load(out / ECHO / "pictures.npz") as pictures:
        shown = np.rint(255 * echo_tf.data.load_dataset("digits").test[::36, :, :, 0])
        np.testing.assert_array_equal(pictures["originals"], shown)


def test_a_result_names_its_commit_and_changes_of_what_makes_it(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        done = subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    for folder in ("echo_tf", "configs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".keep").touch()
    module = tmp_path / "echo_tf" / "experiments.py"
    module.touch()
    monkeypatch.setattr(echo_tf.experiments, "__file__", str(module))

    def named():
        return echo_tf.experiments.environment()["git_commit"]

    assert named() is None  # no checkout
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "launch.py").touch()
    assert named() == commit
    for path in (module, tmp_path / "configs" / "mine.yaml", tmp_path / "reproduce.py"):
        path.write_text("changed")
        assert named() == f"{commit}+changes"
        git("stash", "--include-untracked")
        assert named() == commit


def test_finished_cells_are_skipped(reproduce, out, capsys):
    before = (out / ECHO / "result.json").stat().st_mtime_ns
    assert reproduce.main(["--epochs", "1", "--out", str(out)]) == 0
    assert (out / ECHO / "result.json").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert printed.count("finished before") == 2
    assert "comparison.png" in printed


def test_more_samples_measure_anew_and_fewer_do_not(reproduce, out, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(out, copy)
    cell = copy / "digits" / "vae" / ECHO.name
    before = json.loads((cell / "result.json").read_text())
    trained = (cell / "model.keras").stat().st_mtime_ns
    arguments = ["--method", "vae", "--epochs", "1", "--out", str(copy), "--rate-samples"]
    assert reproduce.main([*arguments, "2"]) == 0
    assert json.loads((cell / "result.json").read_text()) == before
    assert reproduce.main([*arguments, "6"]) == 0
    after = json.loads((cell / "result.json").read_text())
    assert (before["passes"], after["passes"]) == (5, 6)
    # Both bounds are below -ELBO, and more samples do not raise them but for noise.
    for result in (before, after):
        assert result["importance_bound_nats"]["mean"] <= result["neg_elbo_nats"]["mean"]
    assert (cell / "model.keras").stat().st_mtime_ns == trained
    assert "(6)" in (copy / "report" / "comparison.md").read_text()


def test_report_and_publish(reproduce, out, tmp_path, capsys):
    assert reproduce.main(["--report", "--out", str(out), "--publish", str(tmp_path / "results")]) == 0
    assert "not comparable" in capsys.readouterr().out
    published = [path for path in (tmp_path / "results").iterdir() if path.is_file()]
    assert len(published) == 11  # PDFs stay behind
    again = ["--report", "--out", str(tmp_path / "results" / "cells")]
    assert reproduce.main([*again, "--publish", str(tmp_path / "results")]) == 0
    assert reproduce.main(["--report", "--out", str(out), "--publish", str(out / "report")]) == 0
    table = out / "report" / "comparison.md"
    assert (tmp_path / "results" / table.name).read_text() == table.read_text()


@pytest.mark.slow
def test_rate_distortion_sweep_with_warm_starts(reproduce, tmp_path, capsys, monkeypatch):
    starts, train = [], echo_tf.experiments.train

    def spy(*arguments, start, **options):
        starts.append(start and [np.asarray(weight) for weight in start.trainable_weights])
        return train(*arguments, start=start, **options)

    monkeypatch.setattr("echo_tf.experiments.train", spy)
    arguments = ["--experiment", "rd", "--method", "vae", "--epochs", "1", "--out", str(tmp_path)]
    assert reproduce.main([*arguments, "--beta", "1", "3", "--warm-start"]) == 0
    cold, warm = sorted(tmp_path.glob("digits/vae/*/result.json"), key=lambda path: len(str(path)))
    assert warm.parent.name == "paper-epochs=1-beta=3-seed=0-after=1"
    assert json.loads(warm.read_text())["warm_start"] == [1.0]
    first = load_model(cold.parent)
    assert starts[0] is None
    for given, trained in zip(starts[1], first.trainable_weights, strict=True):
        np.testing.assert_array_equal(given, trained)
    report = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"rate_distortion.csv", "rate_distortion_digits.png", "matched_digits.png"} <= report
    # The last of a chain alone does not know where to begin.
    shutil.rmtree(warm.parent)
    (cold.parent / "model.keras").unlink()
    config = load_config("vae", beta=3.0, training={"epochs": 1})
    with pytest.raises(CellError, match="not trained"):
        run_cell(Cell("digits", config, warm_start=(1.0,)), echo_tf.data.load_dataset("digits"), tmp_path)


@pytest.mark.slow
def test_analysis_draws_its_figures(reproduce, out, tmp_path, monkeypatch):
    monkeypatch.setattr(echo_tf.analysis, "MARGINAL_SAMPLES", 3)
    monkeypatch.setattr(echo_tf.analysis, "NOISE_DRAWS", 600)
    copy = tmp_path / "runs"
    shutil.copytree(out, copy)
    arguments = ["--epochs", "1", "--out", str(copy)]
    assert reproduce.main(["--experiment", "analysis", *arguments]) == 0
    report = {path.name for path in (copy / "report").iterdir()}
    names = ("dimensions_digits", "pointwise_digits", f"marginals_digits_echo_{ECHO.name}", f"marginals_digits_vae_{ECHO.name}")
    assert {f"{name}.png" for name in names} | {"noise_total_correlation.csv"} <= report
    page = (copy / "report" / "index.html").read_text()
    assert page.count("data:image/png") == 8
    (copy / ECHO / "analysis.npz").write_bytes(b"PK")
    assert reproduce.main(["--report", *arguments]) == 2


@pytest.mark.slow
def test_another_split_uses_the_trained_model(reproduce, tmp_path, capsys):
    arguments = ["--epochs", "1", "--method", "vae", "--validate", "--out", str(tmp_path)]
    assert reproduce.main([*arguments, "--split", "validation"]) == 0
    (model,) = tmp_path.glob("*/*/*/model.keras")
    trained = model.stat().st_mtime_ns
    assert not list(tmp_path.glob("*/*/*/result.json"))
    assert reproduce.main(arguments) == 0
    assert model.stat().st_mtime_ns == trained
    assert len(list(tmp_path.glob("*/*/*/result*.json"))) == 2


def test_dry_run_lists_the_cells(reproduce, tmp_path, capsys):
    arguments = ["--dataset", "binary_mnist", "--method", "echo", "vae", "--beta", "0.5", "2", "--seeds", "2", "--dry-run"]
    assert reproduce.main([*arguments, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0] == str(tmp_path / "binary_mnist" / "echo" / "paper-epochs=200-beta=0.5-seed=0")
    assert not list(tmp_path.iterdir())


def test_a_cell_is_planned_once(reproduce, capsys):
    assert reproduce.main(["--method", "echo", "echo", "--beta", "1", "2", "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_pools_count_for_the_evaluation(reproduce):
    (cell,) = reproduce.plan_cells(reproduce.parse_arguments(["--method", "echo_pool"]))
    assert cell.evaluation_batch == 1_000


def test_what_cannot_be_analysed_is_not_trained(reproduce, tmp_path, capsys):
    assert reproduce.main(["--experiment", "analysis", "--method", "echo_pool", "--out", str(tmp_path)]) == 2
    assert "1,000 images, and the test split of digits has 360" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "--dry-run"], "--dry-run: not with --report"),
        (["--experiment", "bottleneck", "--dry-run"], "--dry-run: not with --experiment bottleneck"),
        (["--experiment", "theory", "--beta", "2"], "--beta: not with --experiment theory"),
        (["--tensorboard"], "TensorBoard is not installed. Run: pip install"),
    ],
)
def test_options_that_do_not_fit_are_refused(reproduce, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        reproduce.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_rd_plans_a_grid_of_betas(reproduce, capsys):
    assert reproduce.main(["--experiment", "rd", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * len(reproduce.RD_BETAS) >= 24
    assert reproduce.main(["--experiment", "rd", "--method", "vae", "--beta", "2", "1", "--warm-start", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in lines] == ["paper-epochs=30-beta=1-seed=0", "paper-epochs=30-beta=2-seed=0-after=1"]


def test_target_takes_the_place_of_beta(reproduce, capsys):
    assert reproduce.main(["--target-rate", "20", "--method", "vae", "--dry-run"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "paper-epochs=30-rate=20-seed=0"
    for arguments in (
        ["--target-rate", "20", "--target-distortion", "70"],
        ["--target-rate", "20", "--beta", "1", "2"],
        ["--target-rate", "20", "--experiment", "rd"],
        ["--warm-start"],
    ):
        with pytest.raises(SystemExit):
            reproduce.main([*arguments, "--dry-run"])


def test_all_means_the_methods_of_the_paper(reproduce, capsys):
    assert reproduce.main(["--method", "all", "--dry-run"]) == 0
    methods = [Path(line).parent.name for line in capsys.readouterr().out.splitlines()]
    assert methods == sorted(paper_table()["binary_mnist"])
    assert len(methods) == 9


def test_values_for_a_data_set_and_a_protocol_reach_the_plan(reproduce):
    for arguments, components, average in (
        (["--dataset", "omniglot"], 500, "densities"),
        (["--dataset", "binary_mnist", "--protocol", "released"], 250, "logs"),
    ):
        (cell,) = reproduce.plan_cells(reproduce.parse_arguments([*arguments, "--method", "vae_vamp"]))
        assert (cell.config.prior.components, cell.config.prior.average) == (components, average)


def test_values_of_a_file_are_kept(reproduce, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("seed: 7\ntraining: {epochs: 5}")
    assert reproduce.main(["--method", str(tmp_path / "mine.yaml"), "echo", "--seeds", "2", "--dry-run"]) == 0
    cells = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    expected = [(5, 7), (30, 0), (5, 8), (30, 1)]
    assert cells == [f"paper-epochs={epochs}-beta=1-seed={seed}" for epochs, seed in expected]


def test_strict_fails_where_the_paper_is_missed(reproduce, out, tmp_path):
    cell = tmp_path / "binary_mnist" / "echo" / "made-up"
    shutil.copytree(out / ECHO, cell)
    result = json.loads((cell / "result.json").read_text())
    result["dataset"] = "binary_mnist"
    result["config"]["training"]["epochs"] = 200
    result["checksum"] = checksum(result)
    (cell / "result.json").write_text(json.dumps(result))
    assert reproduce.main(["--report", "--out", str(tmp_path)]) == 0
    assert reproduce.main(["--report", "--out", str(tmp_path), "--strict"]) == 1


class TestErrors:
    """Status 2, one message on standard error that says what to do, no traceback, nothing changed on disk."""

    @pytest.fixture
    def fails(self, reproduce, capsys):
        def run(*arguments):
            assert reproduce.main(list(arguments)) == 2
            _, found, message = capsys.readouterr().err.rpartition("reproduce.py: ")
            assert found
            return message.strip()

        return run

    def test_missing_data(self, fails, tmp_path, monkeypatch):
        def no_network(*arguments):
            raise OSError("Name or service not known")

        monkeypatch.setattr("socket.getaddrinfo", no_network)
        message = fails("--dataset", "binary_mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "runs"))
        assert "binary_mnist.npz" in message
        assert "--raw-dir" in message
        assert not (tmp_path / "runs").exists()

    def test_damaged_data(self, fails, tmp_path):
        path = tmp_path / "omniglot.npz"
        path.write_bytes(b"PK damaged")
        assert "omniglot.npz cannot be read" in fails("--dataset", "omniglot", "--data-dir", str(tmp_path))
        assert path.read_bytes() == b"PK damaged"

    def test_wrong_shape(self, fails, tmp_path):
        np.savez(tmp_path / "omniglot.npz", train=np.zeros((3, 28, 28), np.uint8))
        assert "`train` must be uint8 of shape (24345, 28, 28)" in fails("--dataset", "omniglot", "--data-dir", str(tmp_path))

    def test_unknown_method(self, fails):
        assert "did you mean `echo`?" in fails("--method", "ecko")

    def test_bad_configuration(self, fails, tmp_path):
        (tmp_path / "mine.yaml").write_text("chanel: {}")
        assert "did you mean `channel`?" in fails("--method", str(tmp_path / "mine.yaml"))

    def test_batch_larger_than_the_data(self, fails, tmp_path):
        (tmp_path / "mine.yaml").write_text("training: {batch_size: 5000}")
        assert "at most 1437" in fails("--method", str(tmp_path / "mine.yaml"), "--out", str(tmp_path))

    @pytest.mark.parametrize("arguments", [("--beta", "-1"), ("--epochs", "0")])
    def test_bad_value(self, fails, arguments):
        assert "Expected at least" in fails(*arguments)

    @pytest.mark.parametrize(
        "arguments", [("--dataset", "mnist"), ("--seeds", "0"), ("--rate-samples", "1"), ("--beta", "x"), ("--nothing",)]
    )
    def test_bad_command_line(self, reproduce, arguments):
        with pytest.raises(SystemExit) as error:
            reproduce.main(list(arguments))
        assert error.value.code == 2

    def test_output_folder_is_a_file(self, fails, tmp_path):
        path = tmp_path / "file"
        path.write_text("precious")
        first, *messages = fails("--epochs", "1", "--out", str(path)).splitlines()
        assert first == "2 of 2 models failed."
        assert len(messages) == 2 and all(str(path) in message for message in messages)
        assert path.read_text() == "precious"

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
    def test_unwritable_output_folder(self, fails, tmp_path):
        tmp_path.chmod(0o500)
        assert str(tmp_path) in fails("--epochs", "1", "--out", str(tmp_path / "runs"))

    def test_folder_of_another_configuration(self, fails, out, tmp_path):
        shutil.copytree(out, tmp_path / "runs")
        path = tmp_path / "mine" / "echo.yaml"
        path.parent.mkdir()
        path.write_text("channel: {d_max: 50}")
        before = (tmp_path / "runs" / ECHO / "result.json").read_bytes()
        message = fails("--epochs", "1", "--method", str(path), "--out", str(tmp_path / "runs"))
        assert "channel.d_max: 99 there, 50 wanted" in message
        assert (tmp_path / "runs" / ECHO / "result.json").read_bytes() == before

    def test_damaged_result(self, fails, out, tmp_path):
        shutil.copytree(out / ECHO, tmp_path / ECHO)
        (tmp_path / ECHO / "result.json").write_text("{")
        assert f"{tmp_path / ECHO / 'result.json'} is not a result" in fails("--report", "--out", str(tmp_path))
        assert (tmp_path / ECHO / "result.json").read_text() == "{"

    def test_nothing_to_report(self, fails, tmp_path):
        assert "No results" in fails("--report", "--out", str(tmp_path))

    def test_tables_of_the_theory_that_are_not_there(self, fails, tmp_path):
        (tmp_path / "theory").mkdir()
        (tmp_path / "theory" / "saturation.csv").write_text("points\n2\n")
        message = fails("--experiment", "theory", "--report", "--out", str(tmp_path))
        assert "learned.csv" in message
        assert "saturation.csv" not in message


@pytest.mark.slow
@pytest.mark.data
def test_real_data_reach_the_command(reproduce, real_data_dir, tmp_path, monkeypatch):
    """Binary MNIST through the whole command, cut to a few hundred images after loading."""
    load = echo_tf.data.load_dataset

    def first_images(*arguments):
        dataset = load(*arguments)
        splits = {split: images[:300] for split, images in dataset.splits.items()}
        return type(dataset)(dataset.name, splits, dataset.white, {})

    monkeypatch.setattr("echo_tf.data.load_dataset", first_images)
    monkeypatch.setenv("ECHO_TF_DATA", str(real_data_dir))
    assert reproduce.main(["--dataset", "binary_mnist", "--epochs", "2", "--method", "echo", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("binary_mnist/echo/*/result.json")
    assert json.loads(path.read_text())["distortion_nats"]["mean"] < 784 * np.log(2)
