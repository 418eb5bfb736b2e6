import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import echo_tf
from echo_tf.command import training
from echo_tf.command.experiments import RD_BETAS
from echo_tf.data import load
from echo_tf.experiments import analysis, bottleneck
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.robustness import Attack
from echo_tf.experiments.run import load_model
from echo_tf.models.config import load_config
from echo_tf.report.paper import paper_table

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def out(reproduce, small_command, tmp_path_factory):
    """Folder of a finished run."""
    out = tmp_path_factory.mktemp("runs")
    assert reproduce.main([*small_command("echo", "vae"), "--out", str(out)]) == 0
    return out


ECHO = Path("vectors", "echo", "paper-epochs=1-beta=1-seed=0")


def test_images_of_28_by_28(reproduce, tmp_path, capsys):
    """A known data set: training, files, report, and the model loaded again."""
    assert reproduce.main(["--method", "echo", "--epochs", "1", "--out", str(tmp_path)]) == 0
    assert re.search(r"\[1/1\] \S+\n    test: rate [\d.]+, distortion [\d.]+, -ELBO [\d.]+ nats", capsys.readouterr().out)
    folder = tmp_path / "digits" / "echo" / ECHO.name
    files = {path.name for path in folder.iterdir()}
    assert files == {".lock", "cell.json", "metrics.jsonl", "model.keras", "pictures.npz", "result.json"}
    report = {path.name for path in (tmp_path / "report").iterdir()}
    tables = {f"comparison{suffix}" for suffix in (".md", ".tex", ".csv")}
    figures = ("training_digits", "reconstructions_digits", "samples_digits")
    assert tables | {"index.html"} | {f"{name}{suffix}" for name in figures for suffix in (".png", ".pdf")} <= report
    result = json.loads((folder / "result.json").read_text())
    assert result["rate_nats"]["mean"] >= result["rate_floor_nats"] == pytest.approx(5.7372, abs=1e-4)
    assert result["evaluated_images"] == 360
    assert load_model(folder).generate(3).shape == (3, 28, 28, 1)
    with np.load(folder / "pictures.npz", allow_pickle=False) as pictures:
        shown = np.rint(255 * load.load_dataset("digits").test[::36, :, :, 0])
        np.testing.assert_array_equal(pictures["originals"], shown)


def test_finished_cells_are_skipped(reproduce, small_command, without_figures, out, capsys):
    before = (out / ECHO / "result.json").stat().st_mtime_ns
    assert reproduce.main([*small_command("echo", "vae"), "--out", str(out)]) == 0
    assert (out / ECHO / "result.json").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert printed.count("finished before") == 2
    assert "comparison.md" in printed


def test_report_and_publish(reproduce, out, tmp_path, capsys):
    assert reproduce.main(["--report", "--out", str(out), "--publish", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"-ELBO *\n-+\necho ", printed)
    assert re.search(r"vectors, 1 epoch: .* nats of test -ELBO\.", printed.replace("\n", " "))
    assert max(map(len, printed.partition("Look at")[0].splitlines())) <= 100
    published = {path.name for path in (tmp_path / "results").iterdir() if path.is_file()}
    assert {"comparison.md", "training_vectors.png", "index.html"} <= published
    page = (tmp_path / "results" / "index.html").read_text()
    assert set(re.findall(r'href="([^"]+)"', page)) <= published
    again = ["--report", "--out", str(tmp_path / "results" / "cells")]
    assert reproduce.main([*again, "--publish", str(tmp_path / "results")]) == 0
    assert reproduce.main(["--report", "--out", str(out), "--publish", str(out / "report")]) == 0
    table = out / "report" / "comparison.md"
    assert (tmp_path / "results" / table.name).read_text() == table.read_text()


def test_more_samples_measure_anew_and_fewer_do_not(reproduce, small_command, without_figures, tmp_path):
    arguments = [*small_command("vae"), "--out", str(tmp_path), "--rate-samples"]
    assert reproduce.main([*arguments, "5"]) == 0
    (cell,) = tmp_path.glob("vectors/vae/*")
    before = json.loads((cell / "result.json").read_text())
    trained = (cell / "model.keras").stat().st_mtime_ns
    assert reproduce.main([*arguments, "2"]) == 0
    assert json.loads((cell / "result.json").read_text()) == before
    assert reproduce.main([*arguments, "6"]) == 0
    after = json.loads((cell / "result.json").read_text())
    assert (before["passes"], after["passes"]) == (5, 6)
    # Both bounds are below -ELBO, and more samples do not raise them but for noise.
    for result in (before, after):
        assert result["importance_bound_nats"]["mean"] <= result["neg_elbo_nats"]["mean"]
    assert (cell / "model.keras").stat().st_mtime_ns == trained
    assert "(6)" in (tmp_path / "report" / "comparison.md").read_text()


def test_another_split_uses_the_trained_model(reproduce, small_command, without_figures, tmp_path):
    arguments = [*small_command("vae"), "--validate", "--out", str(tmp_path)]
    assert reproduce.main([*arguments, "--split", "validation"]) == 0
    (model,) = tmp_path.glob("*/*/*/model.keras")
    assert model.parent.name.endswith("-holdout=12")  # a fifth of the training examples
    trained = model.stat().st_mtime_ns
    assert not list(tmp_path.glob("*/*/*/result.json"))
    assert reproduce.main(arguments) == 0
    assert model.stat().st_mtime_ns == trained
    assert len(list(tmp_path.glob("*/*/*/result*.json"))) == 2


def test_epochs_that_were_trained_without_validation_are_named(
    reproduce, without_figures, small_command, vectors, tmp_path, caplog
):
    """They stay as they are, and the table of overfitting lacks the model."""
    np.savez(tmp_path / "mine.npz", train=vectors.train[:40], validation=vectors.train[40:], test=vectors.test)
    arguments = ["--dataset", str(tmp_path / "mine.npz"), *small_command("vae")[2:], "--out", str(tmp_path)]
    for options, warned in (([], False), (["--validate"], True)):
        assert reproduce.main([*arguments, "--rate-samples", "2", *options]) == 0
        assert ("epochs that were trained without --validate" in caplog.text) == warned
    shutil.rmtree(tmp_path / "mine")
    caplog.clear()
    assert reproduce.main([*arguments, "--rate-samples", "2", "--validate"]) == 0
    assert not caplog.text


class TestOwnData:
    """A file of one's own in every experiment; what does not apply is left out."""

    def report_of(self, out):
        return {path.name for path in (out / "report").iterdir()}

    def test_vectors(self, reproduce, small_command, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(analysis, "MARGINAL_SAMPLES", 3)
        monkeypatch.setattr(analysis, "NOISE_DRAWS", 60)
        arguments = [*small_command("echo", "vae"), "--out", str(tmp_path)]
        values = np.random.default_rng(1).uniform(size=(20, 6))
        np.savez(tmp_path / "others.npz", train=values, test=values)
        more = ["--arrays", "--evaluate-on", str(tmp_path / "others.npz")]
        assert reproduce.main([*arguments, "--experiment", "analysis", *more]) == 0
        assert "on others: measured" in capsys.readouterr().out
        cell = tmp_path / "vectors" / "echo" / "paper-epochs=1-beta=1-seed=0"
        assert json.loads((cell / "result.json").read_text())["source"] == "own"
        assert load_model(cell).generate(3).shape == (3, 6)
        report = self.report_of(tmp_path)
        with np.load(cell / "arrays.npz") as arrays:
            assert arrays["mean"].shape == arrays["z"].shape == (20, 2)
        of_model = (f"marginals_vectors_echo_{cell.name}", f"map_vectors_echo_{cell.name}")
        figures = ("pointwise_vectors", "dimensions_vectors", *of_model)
        assert {"other_data.csv", "other_data.md"} <= report
        assert {"comparison.csv", "index.html", "noise_total_correlation.csv", *(f"{name}.png" for name in figures)} <= report
        assert not [name for name in report if name.startswith(("reconstructions", "samples"))]
        analysed = (cell / "analysis.npz").stat().st_mtime_ns
        assert reproduce.main([*arguments, "--experiment", "analysis"]) == 0
        assert (cell / "analysis.npz").stat().st_mtime_ns == analysed
        (cell / "analysis.npz").write_bytes(b"PK")
        assert reproduce.main(["--report", "--out", str(tmp_path)]) == 2

    def test_rate_distortion_curve(self, reproduce, small_command, tmp_path):
        arguments = ["--experiment", "rd", *small_command("vae"), "--beta", "0.5", "2", "--out", str(tmp_path)]
        assert reproduce.main([*arguments, "--rate-samples", "2"]) == 0
        assert {"rate_distortion.csv", "rate_distortion_vectors.png"} <= self.report_of(tmp_path)

    def test_colour_images_of_64_by_64(self, reproduce, tmp_path):
        rng = np.random.default_rng(0)
        images = (rng.uniform(size=(60, 1, 1, 3)) * np.linspace(0, 255, 64)[:, None, None] * np.ones((64, 1))).astype(np.uint8)
        np.savez(tmp_path / "blinds.npz", train=images[:40], test=images[40:])
        (tmp_path / "small.yaml").write_text("channel: {d_max: 9}\ntraining: {batch_size: 20, epochs: 1}")
        arguments = ["--dataset", str(tmp_path / "blinds.npz"), "--method", str(tmp_path / "small.yaml")]
        assert reproduce.main([*arguments, "--out", str(tmp_path), "--rate-samples", "2"]) == 0
        (cell,) = tmp_path.glob("blinds/small/*")
        model = load_model(cell)
        assert model.generate(2).shape == (2, 64, 64, 3)
        assert {"Conv2D"} <= {type(layer).__name__ for layer in model.encoder.layers}
        with np.load(cell / "pictures.npz", allow_pickle=False) as pictures:
            np.testing.assert_array_equal(pictures["originals"], images[40::2])
        assert {"reconstructions_blinds.png", "samples_blinds.png"} <= self.report_of(tmp_path)

    def test_bottleneck(self, reproduce, tmp_path, monkeypatch, capsys):
        def no_change(model, images, *options):
            return [(Attack("pgd", 0.1, 1), images)]

        for name, value in {"HIDDEN": (8,), "LATENT_DIM": 2, "attacks": no_change}.items():
            monkeypatch.setattr(bottleneck, name, value)
        values, labels = np.random.default_rng(0).uniform(size=(60, 6)), np.arange(60) % 3
        path = tmp_path / "mine.npz"
        np.savez(path, train=values[:40], test=values[40:], train_labels=labels[:40], test_labels=labels[40:])
        arguments = ["--experiment", "bottleneck", "--dataset", str(path), "--epochs", "1", "--out", str(tmp_path)]
        assert reproduce.main([*arguments, "--report"]) == 2
        assert "Run the same without --report" in capsys.readouterr().err
        assert reproduce.main([*arguments, "--beta", "0.1"]) == 0
        assert reproduce.main([*arguments, "--report"]) == 0
        lengths = {path.stem[13:]: len(path.read_text().splitlines()) for path in tmp_path.glob("bottleneck/mine-*.csv")}
        assert lengths == {"-epochs=1": 1 + 3, "-epochs=1_robustness": 1 + 3 + 2 * 4}
        np.savez(path, train=values[:40], test=values[40:])  # other data under the same name
        assert reproduce.main([*arguments, "--beta", "0.1"]) == 2
        assert "no labels" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"train": np.zeros((9, 4))}, "`test`"),
            ({"train": np.full((9, 4), 300), "test": np.zeros((9, 4))}, "0 to 255"),
            ({"train": np.zeros((9, 4)), "tset": np.zeros((9, 4))}, "`tset`"),
        ],
    )
    def test_a_file_that_does_not_fit(self, reproduce, tmp_path, capsys, arrays, message):
        np.savez(tmp_path / "mine.npz", **arrays)
        assert reproduce.main(["--dataset", str(tmp_path / "mine.npz"), "--out", str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err
        assert "mine.npz" in error and message in error
        assert not (tmp_path / "runs").exists()


class TestLightStart:
    """What trains nothing imports neither Keras nor TensorFlow, which take seconds."""

    CHECK = """
import json, runpy, sys
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["reproduce.py", *arguments]
    try:
        runpy.run_path("reproduce.py", run_name="__main__")
    except SystemExit as stop:
        heavy = sorted({"keras", "tensorflow", "tensorflow_probability", "torch", "jax"} & set(sys.modules))
        if heavy or stop.code:
            sys.exit(f"{arguments}: status {stop.code}, imported {heavy}")
"""

    def check(self, *lines):
        lines = json.dumps([[str(argument) for argument in line] for line in lines])
        done = subprocess.run([sys.executable, "-c", self.CHECK, lines], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_help(self):
        assert "--dataset" in self.check(["--help"])

    def test_dry_run(self, tmp_path):
        np.savez(tmp_path / "mine.npz", train=np.zeros((9, 4)), test=np.zeros((9, 4)))
        arguments = ["--dry-run", "--validate", "--method", "all", "--out", tmp_path / "runs", "--dataset"]
        printed = self.check([*arguments, "binary_mnist"], [*arguments, tmp_path / "mine.npz"]).splitlines()
        assert len(printed) == 18
        assert printed[9] == f"{tmp_path}/runs/mine/{Path(printed[0]).parent.name}/paper-epochs=200-beta=1-seed=0-holdout=1"

    def test_dry_run_with_epochs_on_disk(self, out, small_command):
        arguments = [*small_command("echo", "vae"), "--out", out, "--jobs", "auto", "--dry-run"]
        assert self.check(arguments) == ""  # all is finished
        lines = self.check([*arguments, "--epochs", "1000"]).splitlines()
        assert len(lines) == 2 and all(re.fullmatch(r"\S+epochs=1000\S+  [\d.]+ (s|min|h)", line) for line in lines)

    def test_report(self, out, tmp_path):
        shutil.copytree(out / "vectors", tmp_path / "vectors")
        shutil.copytree(ROOT / "results" / "theory", tmp_path / "theory")
        shutil.copytree(ROOT / "results" / "bottleneck", tmp_path / "bottleneck")
        arguments = ["--report", "--out", tmp_path, "--experiment"]
        printed = self.check(*([*arguments, experiment] for experiment in ("comparison", "theory", "bottleneck")))
        assert printed.count("Look at:") == 3

    @pytest.mark.parametrize("own", ["", "default"])
    def test_what_libraries_read_when_they_are_imported(self, own):
        """Unless the user has decided: float32 that is float32, and memory of a GPU as it is needed."""
        names = ["JAX_DEFAULT_MATMUL_PRECISION", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_ENABLE_ONEDNN_OPTS"]
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment |= {names[0]: own} if own else {}
        code = f"import os, reproduce; print(*(os.environ[name] for name in {names}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.stdout.split() == [own or "highest", "true", "1"]

    def test_all_names_are_there_after_an_import_of_the_command(self):
        code = (
            "import reproduce, echo_tf; print(echo_tf.build_model.__name__, len([getattr(echo_tf, n) for n in dir(echo_tf)]))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["build_model", str(len(dir(echo_tf)))]


def test_dry_run_lists_the_cells(reproduce, tmp_path, capsys):
    arguments = ["--dataset", "binary_mnist", "--method", "echo", "vae", "--beta", "0.5", "2", "--seeds", "2", "--dry-run"]
    assert reproduce.main([*arguments, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0] == str(tmp_path / "binary_mnist" / "echo" / "paper-epochs=200-beta=0.5-seed=0")
    assert not list(tmp_path.iterdir())


def test_a_cell_is_planned_once(reproduce, tmp_path, capsys):
    arguments = ["--method", "echo", "echo", "--beta", "1", "2", "--out", str(tmp_path)]
    assert reproduce.main([*arguments, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("betas", [("1",), ("1", "1.0000001")])
def test_two_models_of_one_folder_are_refused(reproduce, tmp_path, capsys, betas):
    """Before the first is trained: two files of one name, and betas that a name of six digits does not tell apart."""
    (tmp_path / "vae.yaml").write_text("channel: {kind: gaussian}\nnetwork: {latent_dim: 3}")
    methods = ["vae", *([str(tmp_path / "vae.yaml")] if len(betas) == 1 else [])]
    arguments = ["--method", *methods, "--beta", *betas, "--dry-run", "--out", str(tmp_path / "runs")]
    assert reproduce.main(arguments) == 2
    assert "Two models would have the folder digits/vae/paper-epochs=30-beta=1-seed=0 (" in capsys.readouterr().err


def test_what_cannot_be_evaluated_on_other_data_is_not_trained(reproduce, tmp_path, capsys):
    assert reproduce.main(["--evaluate-on", "sprites", "--out", str(tmp_path)]) == 2
    assert "Models of digits take examples of shape (28, 28, 1), and those of sprites have" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_experiment_with_rows_about_another_model_trains_nothing(reproduce, tmp_path, capsys):
    table = tmp_path / "noise" / "digits" / "laws.csv"
    table.parent.mkdir(parents=True)
    table.write_text("method,cell,fingerprint\necho,paper-epochs=30-beta=1-seed=0,0123456789abcdef\n")
    assert reproduce.main(["--experiment", "noise", "--method", "echo", "--out", str(tmp_path)]) == 2
    assert f"{table} has rows about another model that was called echo/paper-epochs=30-beta=1" in capsys.readouterr().err
    assert not (tmp_path / "digits").exists()


def test_what_cannot_be_analysed_is_not_trained(reproduce, tmp_path, capsys):
    assert reproduce.main(["--experiment", "analysis", "--method", "echo_large_batch", "--out", str(tmp_path)]) == 2
    assert "1,000 images, and the test split of digits has 360" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "--dry-run"], "--dry-run: not with --report"),
        (["--report", "--method", "vae"], "--method: not with --report, which takes all results in --out"),
        (["--experiment", "bottleneck", "--dry-run"], "--dry-run: not with --experiment bottleneck"),
        (["--experiment", "theory", "--beta", "2"], "--beta: not with --experiment theory"),
        (["--arrays"], "--arrays: only with --experiment analysis"),
        (["--evaluate-on", "omniglot", "--report"], "--evaluate-on: not with --report"),
        (["--evaluate-on", "omniglot", "--split", "validation"], "--evaluate-on: it takes test images"),
        (["--evaluate-on", "omniglot", "--echoes", "batch"], "--evaluate-on: echoes are training examples"),
        (["--tensorboard"], "TensorBoard is not installed. Run: pip install"),
    ],
)
def test_options_that_do_not_fit_are_refused(reproduce, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        reproduce.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_rd_plans_a_grid_of_betas(reproduce, tmp_path, capsys):
    arguments = ["--experiment", "rd", "--dry-run", "--out", str(tmp_path)]
    assert reproduce.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * len(RD_BETAS) >= 24
    assert reproduce.main([*arguments, "--method", "vae", "--beta", "2", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in lines] == ["paper-epochs=30-beta=2-seed=0", "paper-epochs=30-beta=1-seed=0"]


def test_a_grid_of_betas_by_its_name(reproduce):
    betas = reproduce.parse_arguments(["--experiment", "rd", "--beta", "released", "10", "4"]).beta
    assert betas[:3] == [0.0, 0.01, 0.025] and betas[-3:] == [2.0, 4.0, 10.0]
    assert len(betas) == len(set(betas)) == 20


def test_target_takes_the_place_of_beta(reproduce, tmp_path, capsys):
    assert reproduce.main(["--target-rate", "20", "--method", "vae", "--dry-run", "--out", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "paper-epochs=30-rate=20-seed=0"
    for arguments in (
        ["--target-rate", "20", "--target-distortion", "70"],
        ["--target-rate", "20", "--beta", "1", "2"],
        ["--target-rate", "20", "--experiment", "rd"],
    ):
        with pytest.raises(SystemExit):
            reproduce.main([*arguments, "--dry-run"])


def test_all_means_the_methods_of_the_paper(reproduce, tmp_path, capsys):
    assert reproduce.main(["--method", "all", "--dry-run", "--out", str(tmp_path)]) == 0
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


@pytest.mark.parametrize(("dataset", "holdout"), [("digits", 237), ("omniglot", 1_345), ("binary_mnist", 0)])
def test_validation_holds_out_what_a_data_set_lacks(reproduce, dataset, holdout):
    """Without the data at hand."""
    for arguments, expected in (([], 0), (["--validate"], holdout), (["--split", "validation"], holdout)):
        (cell,) = reproduce.plan_cells(reproduce.parse_arguments(["--dataset", dataset, "--method", "vae", *arguments]))
        assert (cell.holdout, cell.data) == (expected, "")


def test_values_of_a_file_are_kept(reproduce, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("seed: 7\ntraining: {epochs: 5}")
    arguments = ["--method", str(tmp_path / "mine.yaml"), "echo", "--seeds", "2", "--dry-run"]
    assert reproduce.main([*arguments, "--out", str(tmp_path / "runs")]) == 0
    cells = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    expected = [(5, 7), (30, 0), (5, 8), (30, 1)]
    assert cells == [f"paper-epochs={epochs}-beta=1-seed={seed}" for epochs, seed in expected]


def test_strict_fails_where_the_paper_is_missed(reproduce, without_figures, tmp_path):
    cell = Cell("binary_mnist", load_config("echo", dataset="binary_mnist"))
    measured = {f"{quantity}_nats": {"mean": 150.0, "se": 0.1} for quantity in ("rate", "distortion", "neg_elbo")}
    cell.folder(tmp_path).mkdir(parents=True)
    result = {**cell.to_dict(), "split": "test", "source": "original", "passes": 5, **measured}
    (cell.folder(tmp_path) / "result.json").write_text(json.dumps(result))
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

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--beta", "-1"), "at least 0, received '-1'"),
            (("--beta", "x"), "a finite number"),
            (("--beta", "1" + 400 * "0"), "a finite number"),
            (("--target-rate", "inf"), "a finite number"),
            (("--target-distortion", "nan"), "a finite number"),
            (("--epochs", "0"), "a whole number of at least 1"),
            (("--epochs", "2.5"), "a whole number"),
            (("--epochs", "1" + 400 * "0"), "below 2,147,483,648, received '1000000000"),
            (("--epochs", "1" + 5_000 * "0"), "a whole number"),  # longer than Python converts
            (("--seeds", "0"), "at least 1"),
            (("--seeds", "99999999999999999999"), "below 10,000"),
            (("--threads", "9" + 400 * "0"), "below 10,000"),
            (("--jobs", "0"), "at least 1"),
            (("--rate-samples", "1"), "at least 2"),
            (("--executor", "ray", "--gpus", "-1"), "at least 0"),
            (("--dataset", "cifar"), "one of digits, binary_mnist, omniglot, fashion_mnist, binary_digits, mnist, sprites"),
            (("--nothing",), "unrecognized"),
        ],
    )
    def test_bad_command_line(self, reproduce, capsys, arguments, message):
        with pytest.raises(SystemExit) as error:
            reproduce.main(["--dry-run", *arguments])
        assert error.value.code == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert re.match(r"\S+: error: ", told) and message in told and len(told) < 250

    def test_odd_file(self, fails, tmp_path):
        path = tmp_path / "...yaml"  # whose stem is ..
        path.write_text("seed: 1")
        assert "Rename the file" in fails("--method", str(path), "--out", str(tmp_path / "a" / "b"))
        assert list(tmp_path.iterdir()) == [path]

    def test_output_folder_is_a_file(self, fails, tmp_path):
        path = tmp_path / "file"
        path.write_text("precious")
        first, *messages = fails("--out", str(path)).splitlines()
        assert first == "2 of 2 models failed."
        assert len(messages) == 2 and all(str(path) in message for message in messages)
        assert path.read_text() == "precious"

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
    def test_unwritable_output_folder(self, fails, tmp_path):
        tmp_path.chmod(0o500)
        assert str(tmp_path) in fails("--epochs", "1", "--out", str(tmp_path / "runs"))

    def test_folder_of_another_configuration(self, fails, small_command, out, tmp_path):
        shutil.copytree(out, tmp_path / "runs")
        path = tmp_path / "mine" / "echo.yaml"
        path.parent.mkdir()
        path.write_text("network: {latent_dim: 2}\nchannel: {d_max: 8}\ntraining: {batch_size: 20, epochs: 1}")
        before = (tmp_path / "runs" / ECHO / "result.json").read_bytes()
        *data, _, _ = small_command("echo")
        message = fails(*data, "--method", str(path), "--out", str(tmp_path / "runs"))
        assert "channel.d_max: 9 there, 8 wanted" in message
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
    load_dataset = load.load_dataset

    def first_images(*arguments):
        dataset = load_dataset(*arguments)
        splits = {split: images[:300] for split, images in dataset.splits.items()}
        return type(dataset)(dataset.name, splits, dataset.white, {})

    for module in (training, load):
        monkeypatch.setattr(module, "load_dataset", first_images)
    monkeypatch.setenv("ECHO_TF_DATA", str(real_data_dir))
    assert reproduce.main(["--dataset", "binary_mnist", "--epochs", "2", "--method", "echo", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("binary_mnist/echo/*/result.json")
    assert json.loads(path.read_text())["distortion_nats"]["mean"] < 784 * np.log(2)
