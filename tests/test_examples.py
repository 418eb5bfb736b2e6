"""The examples run as they stand, here for a few epochs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name, epochs):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(["--epochs", str(epochs)])


def test_all_examples_are_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"vae_before_and_after", "supervised_bottleneck", "tabular"}


def test_vae_before_and_after():
    results = run("vae_before_and_after", 2)
    assert len(results) == 2
    for values in results.values():
        assert values["rate"] + values["distortion"] == pytest.approx(values["-ELBO"], rel=1e-4)
        assert values["-ELBO"] < 28 * 28 * np.log(2)  # that of grey noise


def test_supervised_bottleneck():
    rates = [values["rate"] for values in run("supervised_bottleneck", 20).values()]
    assert rates[0] > rates[-1] > 4 * 0.078  # a dearer rate is smaller, and none is below the floor


def test_tabular():
    results = run("tabular", 30)
    assert results["explained"] > 0.4
    assert results["correlation"] > 0.5
    assert np.all(np.isfinite(results["one_row"])) and results["one_row"].std() > 0
