import argparse
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import reproduce
from echo_tf.command import terminal
from echo_tf.command.experiments import EXPERIMENTS, Experiment
from echo_tf.command.options import parse_arguments
from echo_tf.errors import ConfigError
from echo_tf.experiments import progress, sharing

ROOT = Path(__file__).resolve().parents[2]


def run(script, **options):
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, **options)


def test_what_is_known_is_left_out_and_all_else_passes():
    script = """
import os, sys
from echo_tf.command.terminal import filter_errors
filter_errors()
lines = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795932022.765549    5927 port.cc:153] oneDNN custom operations are on.",
    "E0000 00:00:1795932031.477262    5927 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)",
    "E0000 00:00:1795932031.477262    5927 cuda_platform.cc:52] failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    "E0000 00:00:1795932031.477262    5927 device.cc:1] out of memory",
    "no newline behind this",
]
os.write(2, "\\n".join(lines).encode())
print("from Python", file=sys.stderr)
os.abort()
"""
    done = run(script)
    assert done.returncode < 0  # it crashed, and nothing was lost
    assert (
        "DRIVER_MISMATCH" in done.stderr
        and "out of memory" in done.stderr
        and "no newline behind this" in done.stderr
        and "from Python" in done.stderr
    )
    assert "oneDNN" not in done.stderr and "(303)" not in done.stderr and "absl" not in done.stderr


@pytest.mark.parametrize("status", [0, 143])
def test_a_process_that_was_stopped_waits_for_no_thread(status):
    script = f"""
import threading, time
from echo_tf.command import terminal
thread = threading.Thread(target=time.sleep, args=(2,))
thread.start()
print("done", end="")
try:
    terminal.leave({status})
finally:
    print(", left", end="")
"""
    done = run(script)
    assert (done.returncode, done.stdout) == (status, "done" if status else "done, left")


def test_keras_comes_without_a_word_of_its_own():
    done = run("from echo_tf.command.terminal import filter_errors; filter_errors(); import keras; keras.ops.ones(3)")
    assert (done.returncode, done.stderr) == (0, "")


def test_whoever_has_seen_enough_leaves_no_trace(tmp_path):
    command = f"{sys.executable} reproduce.py --dry-run --method all --seeds 200 --out {tmp_path} | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_the_machine_in_a_line(capsys, monkeypatch):
    monkeypatch.setattr(sharing, "count_threads", lambda: 3)
    terminal.tell_machine(argparse.Namespace(executor="local", jobs=2), 5)
    line = capsys.readouterr().err
    assert line.startswith("echo_tf ") and line.count("\n") == 1
    assert line.endswith("3 CPU threads: 5 models to train, 2 at once.\n")


def test_the_machine_of_an_experiment_without_cells(capsys, monkeypatch):
    monkeypatch.setattr(sharing, "gpus", lambda: ["NVIDIA H200", "NVIDIA H200"])
    monkeypatch.setattr(sharing, "backend", lambda: "jax")
    terminal.tell_machine(argparse.Namespace(executor="local", jobs=1))
    line = capsys.readouterr().err
    assert ", jax " in line and line.endswith(", 2 NVIDIA H200.\n")


def test_lines_are_as_wide_as_the_terminal_but_not_wider(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal.width() == 80
    monkeypatch.setenv("COLUMNS", "200")
    assert terminal.width() == 100


def test_a_message_clears_the_progress_line_of_a_terminal():
    """A progress line is drawn, and then a library writes."""
    script = """
import os, pty, sys, time
child, terminal = pty.fork()
if child == 0:
    from echo_tf.command.terminal import filter_errors
    filter_errors()
    print("vae epoch 1.0/2 00:10 left", end="", file=sys.stderr, flush=True)
    os.write(2, b"E0000 00:00:1795932031.477262    5927 device.cc:1] out of memory\\n")
    time.sleep(20)  # the terminal goes with this process
    os._exit(0)
seen = b""
try:
    while b"memory" not in seen and (read := os.read(terminal, 1000)):
        seen += read
except OSError:
    pass
print(repr(seen))
"""
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert r"00:10 left\r\x1b[KE0000" in done.stdout


def test_an_experiment_is_told_and_warned_of_in_whole_lines(tmp_path, monkeypatch, capsys):
    """A warning stands in a line of its own, though a progress line is drawn."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(logging.root, "handlers", [])

    def train(options, inputs, cells):
        with progress.Line(10, text="vae: compiling,"):
            logging.getLogger("echo_tf").warning("mind this")
        raise ConfigError("enough")

    monkeypatch.setitem(EXPERIMENTS, "comparison", Experiment("", train=train))
    assert reproduce.main(["--out", str(tmp_path)]) == 2
    assert "WARNING: mind this" in screen.getvalue().replace("\r", "\n").splitlines()


def test_the_page_is_the_first_of_few_files(capsys):
    terminal.tell_files([Path("report", name) for name in (*(f"{i}.csv" for i in range(8)), "figure.png", "index.html")])
    lines = [line.strip() for line in capsys.readouterr().out.strip().splitlines()]
    assert len(lines) == 5
    assert lines[1:3] == ["report/index.html", "report/figure.png"] and lines[-1] == "and 7 more files in report"


@pytest.mark.parametrize(
    ("own", "expected"), [("noise", ["noise.csv", "noise_digits.png"]), ("likelihood", ["likelihood.csv"])]
)
def test_table_and_figure_of_the_experiment_come_behind_the_page(own, expected, capsys):
    names = (
        "a.png",
        "b.png",
        "comparison.csv",
        "likelihood.csv",
        "noise.csv",
        "noise_digits.png",
        "noise_fits.csv",
        "index.html",
    )
    terminal.tell_files([Path("report", name) for name in names], own)
    lines = [line.strip() for line in capsys.readouterr().out.strip().splitlines()]
    assert len(lines) == 5 and lines[1] == "report/index.html"
    assert lines[2 : 2 + len(expected)] == [f"report/{name}" for name in expected]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--epochs", "0"], "usage: reproduce.py [--epochs N]"),
        (["--metod", "echo"], "usage: reproduce.py [--method NAME"),  # the closest
        (["--unlike-any"], "reproduce.py --help lists all options."),
    ],
)
def test_an_error_shows_one_option(capsys, arguments, told):
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(told) and len(lines) < 8
    assert lines[-1].startswith("reproduce.py: error: ") and arguments[0] in lines[-1]
