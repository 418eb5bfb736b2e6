"""What is trained, in which order, how many at once, and how long it will take."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from echo_tf.command import training
from echo_tf.experiments import measure, order, run, sharing

OUTCOME = {name: {"mean": 1.0} for name in ("rate_nats", "distortion_nats", "neg_elbo_nats")} | {"training_seconds": 1.0}
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")


@pytest.fixture(autouse=True)
def same_environment(monkeypatch):
    """What the command sets for its processes is put back."""
    for name in (*THREADS, "TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def planned(reproduce, tmp_path, capsys):
    """A function from arguments to folders of data set and method, in the order in which they are trained."""

    def run(*arguments):
        assert reproduce.main([*arguments, "--dry-run", "--out", str(tmp_path)]) == 0
        return [Path(line).relative_to(tmp_path).parts[:2] for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture
def trained(reproduce, monkeypatch, without_figures):
    """The list of tasks that would be trained side by side, and a list of what happens to the service and to them."""
    tasks, events = [], []

    def run_elsewhere(some, executor, at_once):
        tasks.extend(some)
        try:
            for task in some:
                events.append("model")
                yield task, OUTCOME
        finally:
            events.append("ended")

    monkeypatch.setattr(reproduce.progress, "run_elsewhere", run_elsewhere)
    monkeypatch.setattr(training, "load_dataset", lambda *arguments: None)
    monkeypatch.setattr("echo_tf.report.write.write_report", lambda *arguments, **options: pytest.fail("no results"))
    return tasks, events


def test_the_whole_table_begins_with_what_matters_most(planned):
    cells = planned("--dataset", "all", "--method", "all", "echo_matrix")
    assert len(cells) == len(set(cells)) == 30
    assert [dataset for dataset, _ in cells[::10]] == ["binary_mnist", "omniglot", "fashion_mnist"]
    assert [method for _, method in cells[:5]] == ["echo", "echo_matrix", "vae_maf", "iaf", "vae"]


def test_data_sets_are_planned_in_the_order_given(planned):
    cells = planned("--dataset", "omniglot", "binary_mnist", "omniglot", "--method", "vae", "echo")
    assert cells == [(name, method) for name in ("omniglot", "binary_mnist") for method in ("echo", "vae")]


def test_a_curve_may_have_several_data_sets(planned):
    cells = planned("--dataset", "all", "--experiment", "rd", "--beta", "0.5", "2", "--method", "vae")
    assert cells == [(name, "vae") for name in order.DATASETS for _ in range(2)]


def test_each_data_set_has_its_own_values(reproduce):
    options = reproduce.parse_arguments(["--dataset", "all", "--method", "vae_vamp", "--validate"])
    cells = reproduce.plan_cells(options)
    assert [(cell.config.prior.components, cell.holdout) for cell in cells] == [(250, 0), (500, 1_345), (250, 10_000)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "freeriding", "--dataset", "digits"], "digits has other values than 0 and 1"),
        (["--experiment", "freeriding", "--dataset", "omniglot"], "omniglot has other values than 0 and 1"),
        (["--experiment", "disentanglement", "--dataset", "binary_mnist"], "binary_mnist has no known factors"),
        (["--experiment", "noise", "--method", "vae_maf"], "vae_maf has no Echo noise that could be replaced"),
        (["--experiment", "likelihood", "--method", "echo_pixelcnn"], "echo_pixelcnn has a decoder that takes the image too"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_data_that_an_experiment_refuses(reproduce, tmp_path, capsys, arguments, message, dry):
    assert reproduce.main([*arguments, "--out", str(tmp_path), *["--dry-run"][:dry]]) == 2
    assert message in capsys.readouterr().err


def test_data_that_an_experiment_takes(planned):
    assert planned("--experiment", "freeriding", "--dataset", "binary_mnist", "--method", "vae") == [("binary_mnist", "vae")]
    assert planned("--experiment", "disentanglement", "--method", "echo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "bottleneck", "--dataset", "all"], "--dataset: bottleneck takes one data set"),
        (["--experiment", "bottleneck", "--dataset", "digits", "omniglot"], "--dataset: bottleneck takes one data set"),
        (["--measure"], "--measure: only with --dry-run"),
        (["--jobs", "many"], "--jobs: expected a whole number of at least 1"),
        (["--jobs", "0"], "--jobs: expected a whole number of at least 1"),
    ],
)
def test_what_is_refused(reproduce, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        reproduce.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_several_data_sets_in_one_command_and_again(reproduce, small_command, vectors, tmp_path, without_figures, capsys):
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", train=vectors.train, test=vectors.test)
    _, _, *method = small_command("vae")
    data = ["--dataset", str(tmp_path / "two.npz"), str(tmp_path / "one.npz")]
    arguments = [*data, *method, "--rate-samples", "2", "--out", str(tmp_path / "runs")]
    assert reproduce.main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^\[(\d)/2\] \S+/(one|two)/", printed, re.M) == [("1", "two"), ("2", "one")]
    table = (tmp_path / "runs" / "report" / "comparison.csv").read_text()
    assert "\none," in table and "\ntwo," in table
    assert reproduce.main(arguments) == 0
    assert capsys.readouterr().out.count("finished before") == 2


def test_each_model_is_analysed_on_its_own_data(reproduce, small_command, vectors, tmp_path, monkeypatch):
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", train=vectors.train, test=vectors.test)
    analysed = []
    monkeypatch.setattr(run, "analyse_cell", lambda cell, data, *rest, **options: analysed.append((cell.dataset, data.name)))
    monkeypatch.setattr(training, "train_cells", lambda *arguments: None)
    monkeypatch.setattr("echo_tf.report.write.write_report", lambda *arguments, **options: pytest.fail("no results"))
    _, _, *method = small_command("vae")
    data = ["--dataset", str(tmp_path / "two.npz"), str(tmp_path / "one.npz")]
    with pytest.raises(pytest.fail.Exception, match="no results"):
        reproduce.main(["--experiment", "analysis", *data, *method, "--out", str(tmp_path / "runs")])
    assert analysed == [("two", "two"), ("one", "one")]


class TestJobs:
    def run(self, reproduce, tmp_path, *arguments):
        """Status of a command whose models end without results, which the report would miss."""
        with pytest.raises(pytest.fail.Exception, match="no results"):
            reproduce.main([*arguments, "--out", str(tmp_path)])

    def test_the_longest_begins(self, reproduce, trained, tmp_path):
        tasks, _ = trained
        self.run(reproduce, tmp_path, "--method", "vae", "vae_maf", "iaf_vamp", "echo", "--jobs", "2")
        assert [task.cell.config.method for task in tasks] == ["iaf_vamp", "vae_maf", "vae", "echo"]

    def test_importance_comes_before_length(self, reproduce, trained, tmp_path):
        tasks, _ = trained
        self.run(reproduce, tmp_path, "--dataset", "all", "--method", "vae_vamp", "echo", "--jobs", "2")
        assert [task.cell.config.method for task in tasks] == 3 * ["echo", "vae_vamp"]
        assert [task.dataset for task in tasks[::2]] == list(order.DATASETS)

    @pytest.mark.parametrize(
        ("gpu", "options", "threads", "told"),
        [
            (False, [], "2", "2 models at once with 2 threads each (5 cores, no NVIDIA GPU)"),
            (False, ["--threads", "3"], "3", "2 models at once"),
            (True, [], None, "2 models at once (5 cores, 1 NVIDIA GPU)"),
        ],
    )
    def test_auto(self, reproduce, trained, tmp_path, monkeypatch, capsys, gpu, options, threads, told):
        monkeypatch.setattr(sharing, "count_cores", lambda: 5)
        monkeypatch.setattr(sharing, "gpus", lambda: gpu * ("NVIDIA H200",))
        monkeypatch.setattr(sharing.shutil, "which", lambda name: None)
        self.run(reproduce, tmp_path, "--method", "vae", "echo", "iaf", "--jobs", "auto", *options)
        assert capsys.readouterr().err.count(told) == 1
        assert [os.environ.get(name) for name in THREADS] == 3 * [threads]
        assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"

    def test_one_model_may_have_the_whole_gpu(self, reproduce, tmp_path, monkeypatch):
        monkeypatch.setattr(reproduce.progress, "run_here", lambda tasks: pytest.fail("no results"))
        self.run(reproduce, tmp_path)
        assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ

    def test_ray_knows_its_machines(self, reproduce):
        assert reproduce.parse_arguments(["--jobs", "auto", "--executor", "ray"]).jobs is None


class TestService:
    """The service of the GPU is there before the models, and goes after their processes, whatever ends them."""

    @pytest.fixture
    def events(self, trained, monkeypatch):
        _, events = trained
        monkeypatch.setattr(sharing, "gpus", lambda: ("NVIDIA H200",))
        monkeypatch.setattr(sharing, "_ask_backend", sharing.gpus)
        monkeypatch.setattr(sharing.shutil, "which", lambda name: name)
        monkeypatch.setattr(sharing, "_runs", lambda: False)
        monkeypatch.setattr(sharing, "_starts", lambda: not events.append("start"))
        monkeypatch.setattr(sharing, "_stop", lambda: events.append("stop"))
        return events

    def test_models_end_by_themselves(self, reproduce, events, tmp_path):
        with pytest.raises(pytest.fail.Exception):
            reproduce.main(["--jobs", "2", "--out", str(tmp_path)])
        assert events == ["start", "model", "model", "ended", "stop"]

    def test_ctrl_c(self, reproduce, events, tmp_path, monkeypatch):
        def interrupt(*arguments, **options):
            if str(arguments[0]).startswith("[1/2]"):
                raise KeyboardInterrupt

        monkeypatch.setattr(training, "print", interrupt, raising=False)
        assert reproduce.main(["--jobs", "2", "--out", str(tmp_path)]) == 130
        assert events == ["start", "model", "ended", "stop"]

    def test_a_single_model(self, reproduce, events, tmp_path):
        with pytest.raises(pytest.fail.Exception):
            reproduce.main(["--method", "vae", "--jobs", "2", "--out", str(tmp_path)])
        assert events == ["model", "ended"]


class TestEstimates:
    def test_nothing_is_known_at_first(self, reproduce, tmp_path, capsys):
        assert reproduce.main(["--dry-run", "--out", str(tmp_path)]) == 0
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == 2 and "  " not in captured.out
        assert "2 to train, 0 finished." in captured.err and "--measure" in captured.err

    def test_steps_are_measured_once_for_all_that_differ_in_nothing_that_matters(
        self, reproduce, tmp_path, monkeypatch, capsys
    ):
        measured = []

        def measure_step(config, shape):
            measured.append((config.method, shape))
            return {"echo": 0.036, "vae": 0.018}[config.method]

        monkeypatch.setattr(measure, "measure_step", measure_step)
        arguments = [
            "--dataset",
            "binary_mnist",
            "fashion_mnist",
            "--method",
            "vae",
            "echo",
            "--seeds",
            "2",
            "--beta",
            "1",
            "2",
        ]
        assert reproduce.main([*arguments, "--dry-run", "--measure", "--jobs", "16", "--out", str(tmp_path)]) == 0
        assert measured == [("echo", (28, 28, 1)), ("vae", (28, 28, 1))]
        captured = capsys.readouterr()
        hours = {tuple(Path(line).parts[-3:-1]): line.split("  ")[1] for line in captured.out.splitlines()}
        assert hours == {
            ("binary_mnist", "echo"): "60 min",  # 0.036 s, 500 steps, 200 epochs
            ("binary_mnist", "vae"): "30 min",
            ("fashion_mnist", "echo"): "72 min",
            ("fashion_mnist", "vae"): "36 min",
        }
        assert "16 to train, 0 finished." in captured.err
        assert "13.2 h one after the other; 16 at once take between that and 72 min" in captured.err
        assert "echo: 36 ms a step" in captured.err and "steps measured now" in captured.err

    def test_one_measurement_for_real(self, reproduce, small_command, tmp_path, capsys):
        arguments = [*small_command("vae"), "--dry-run", "--measure", "--out", str(tmp_path / "runs")]
        assert reproduce.main([*arguments, "--epochs", "100000"]) == 0
        assert re.fullmatch(r"\S+  [\d.]+ (min|h)\n", capsys.readouterr().out)
        assert not (tmp_path / "runs").exists()
