"""Malformed input of every kind: a documented error that says what to do, or a valid meaning; nothing else."""

import contextlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import echo_tf
from echo_tf import theory
from echo_tf.errors import CellError, ConfigError, ResultError
from echo_tf.experiments.cells import plan
from echo_tf.experiments.records import METRICS, is_finished, read_metrics, read_results
from echo_tf.models.config import Config, config_from_dict, flatten, load_config

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}

# 1,000 cases in all; files of data have theirs in tests/data.
CONFIGS, COMMANDS, CALLS, FILES = 450, 150, 250, 150

NUMBERS = st.one_of(
    *(st.integers(), st.floats()),
    st.sampled_from([0, -1, 1, 2**31, 2**32, 2**63, 10**400, 0.5, "3e-4", "1e999", "nan", "1" + 5_000 * "0"]),
)
WORDS = st.sampled_from(["echo", "vae", "gaussian", "own", "maf", "vamp", "ring", "released", "paper", "float16", "../..", ""])
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=5))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner), max_leaves=6)

# Dictionaries that are configurations but for what one to three settings hold, and some that have wrong keys.
FIELDS = sorted(flatten(Config(method="mine")))
KEYS = sorted({part for key in FIELDS for part in key.split(".")} | {"by_dataset", "by_protocol"})


def nested(settings):
    tree = {}
    for key, value in settings.items():
        *groups, name = key.split(".")
        group = tree
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = value
    return tree


WRONG_VALUES = st.dictionaries(st.sampled_from(FIELDS), LEAVES | VALUES, min_size=1, max_size=3).map(nested)
WRONG_KEYS = st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=4), st.integers()), VALUES, max_size=4)
TREES = WRONG_VALUES | WRONG_KEYS


def assert_helpful(error):
    message = str(error)
    assert len(message) > 20 and "Traceback" not in message


@settings(max_examples=CONFIGS // 3, **SETTINGS)
@given(tree=TREES)
def test_dictionaries_as_configurations(tree):
    try:
        config = config_from_dict({"method": "mine", **tree})
    except ConfigError as error:
        assert_helpful(error)
    else:
        assert isinstance(config, Config)


@settings(max_examples=CONFIGS // 3, **SETTINGS)
@given(tree=WRONG_VALUES)
def test_values_as_overrides(tree):
    tree.pop("method", None)
    try:
        config = load_config("vae", **tree)
    except ConfigError as error:
        assert_helpful(error)
    else:
        assert all(math.isfinite(value) for value in flatten(config).values() if isinstance(value, float))


@settings(max_examples=CONFIGS // 3, **SETTINGS)
@given(text=st.one_of(TREES.map(lambda tree: json.dumps(tree, default=str)), st.text(max_size=60), st.binary(max_size=60)))
def test_files_as_configurations(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        load_config(path)
    except ConfigError as error:
        assert_helpful(error)
        assert "mine.yaml" in str(error)


FLAGS = (
    *("--experiment", "--dataset", "--method", "--beta", "--target-rate", "--target-distortion", "--seeds"),
    *("--epochs", "--protocol", "--dtype-policy", "--split", "--rate-samples", "--validate", "--out", "--strict", "--threads"),
)
ARGUMENTS = st.sampled_from(
    [
        *("rd", "echo", "vae", "all", "1", "0", "-1", "1e-3", "nan", "inf", "99999999999999999999", "1" + 400 * "0"),
        *("", "x", "é\x00", "nowhere.npz", "README.md"),
    ]
)


@settings(max_examples=COMMANDS, **SETTINGS)
@given(line=st.lists(st.one_of(st.sampled_from(FLAGS), ARGUMENTS), max_size=7))
def test_command_lines(reproduce, line):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = reproduce.main([*line, "--dry-run"])
        except SystemExit as stop:
            status = stop.code
    assert status in (0, 2)
    if status == 2:
        assert "error: " in errors.getvalue() or errors.getvalue().startswith("reproduce.py: ")
    assert "Traceback" not in errors.getvalue()


TENSORS = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int64]),
    arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
    elements=st.sampled_from([-1, 0, 1]),
)


@settings(max_examples=CALLS // 2, **SETTINGS)
@given(
    mean=TENSORS,
    log_scale=TENSORS,
    options=st.fixed_dictionaries(
        {},
        optional={
            "d_max": st.one_of(st.none(), st.integers(-2, 7), st.sampled_from([1.5, "3"])),
            "sampler": st.sampled_from(["ring", "gather", "loop", None]),
            "replace": st.booleans(),
        },
    ),
)
def test_arrays_in_the_channel(mean, log_scale, options):
    try:
        noise = echo_tf.echo_noise(mean, log_scale, seed=0, **options)
    except ValueError as error:
        assert_helpful(error)
    else:
        assert noise.shape == mean.shape


@settings(max_examples=CALLS // 2, **SETTINGS)
@given(
    p=arrays.arrays(np.float64, st.integers(1, 4), elements=st.floats(allow_nan=True, allow_infinity=True)),
    distortion=arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=2, max_side=4), elements=st.floats()),
    slope=st.floats(),
)
def test_arrays_in_the_theory(p, distortion, slope):
    try:
        point = theory.blahut_arimoto(p, distortion, slope)
    except ValueError as error:
        assert_helpful(error)
    else:
        assert np.isfinite(point.rate)


JSON = st.one_of(VALUES.map(lambda value: json.dumps(value, default=str)), st.text(max_size=40)).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)
CONTENTS = st.one_of(JSON, st.binary(max_size=80))


@settings(max_examples=2 * FILES // 3, **SETTINGS)
@given(content=CONTENTS, name=st.sampled_from(["result.json", "cell.json"]))
def test_files_in_the_folder_of_a_cell(content, name, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    (cell,) = plan("digits", [load_config("vae")], None, 1)
    folder = cell.folder(out)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    for read in (lambda: is_finished(cell, out), lambda: read_results(out)):
        try:
            read()
        except (CellError, ResultError) as error:
            assert_helpful(error)
            assert name in str(error)
    assert (folder / name).read_bytes() == content  # nothing on disk is lost


@settings(max_examples=FILES // 3, **SETTINGS)
@given(content=CONTENTS)
def test_files_of_metrics(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cell")
    (folder / METRICS).write_bytes(b'{"epoch": 1}\n' + content)
    lines = read_metrics(folder)
    assert lines[0] == {"epoch": 1}
    assert all(isinstance(line, dict) and "epoch" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "--epochs 0",
        "--method nope",
        "--method nowhere.yaml",
        "--method README.md",
        "--dataset nowhere.npz",
        "--dataset binary_mnist --data-dir /nowhere --raw-dir /nowhere",
        "--method echo_replace --protocol released",
        "--target-rate 1 --method echo",
        "--report --out /nowhere",
    ],
)
def test_commands_as_processes(line, tmp_path):
    arguments = line.split() + ([] if "--out" in line else ["--out", str(tmp_path)])
    done = subprocess.run([sys.executable, ROOT / "reproduce.py", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("reproduce.py: ")
    assert_helpful(last)
    assert not list(tmp_path.rglob("*"))
