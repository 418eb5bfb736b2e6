import argparse
import os
import subprocess
import sys
from pathlib import Path

from echo_tf.command import terminal

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
    "E0000 00:00:1795932031.477262    5927 device.cc:1] out of memory",
    "no newline behind this",
]
os.write(2, "\\n".join(lines).encode())
print("from Python", file=sys.stderr)
os.abort()
"""
    done = run(script)
    assert done.returncode < 0  # it crashed, and nothing was lost
    assert "out of memory" in done.stderr and "no newline behind this" in done.stderr and "from Python" in done.stderr
    assert "oneDNN" not in done.stderr and "cuInit" not in done.stderr and "absl" not in done.stderr


def test_keras_comes_without_a_word_of_its_own():
    done = run("from echo_tf.command.terminal import filter_errors; filter_errors(); import keras; keras.ops.ones(3)")
    assert (done.returncode, done.stderr) == (0, "")


def test_whoever_has_seen_enough_leaves_no_trace(tmp_path):
    command = f"{sys.executable} reproduce.py --dry-run --method all --seeds 200 --out {tmp_path} | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_the_machine_in_a_line(capsys):
    terminal.tell_machine(argparse.Namespace(threads=3, executor="local", jobs=2), 5)
    line = capsys.readouterr().err
    assert line.startswith("echo_tf ") and line.count("\n") == 1
    assert line.endswith("3 CPU threads: 5 models to train, 2 at once.\n")


def test_the_page_is_the_first_of_few_files(capsys):
    terminal.tell_files([Path("report", f"{i}.csv") for i in range(9)] + [Path("report", "index.html")])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 5
    assert lines[1].strip() == "report/index.html" and lines[-1].strip() == "and 7 more files in report"
