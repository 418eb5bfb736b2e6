import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from echo_tf.experiments.cells import Cell
from echo_tf.experiments.records import QUANTITIES, Result, result_path
from echo_tf.files import checksum
from echo_tf.models.config import load_config

BFLOAT16 = {"training": {"dtype_policy": "mixed_bfloat16"}}
NOISE = {"total_correlation_nats": {"mean": 8.0, "se": 0.1}, "draws": 20_000}


def make_result(
    method="echo",
    dataset="binary_mnist",
    neg_elbo=90.0,
    rate=26.0,
    seed=0,
    split="test",
    source="original",
    folder=None,
    **changes,
):
    """A result as it would be on disk; `changes` are of its configuration, but for fields of `Cell` and `Result`."""
    of_cell = {name: changes.pop(name) for name in ("holdout", "data") if name in changes}
    of_result = {
        name: changes.pop(name) for name in ("passes", "importance_bound_nats", "final_beta", "example_size") if name in changes
    }
    if method == "echo":
        of_result |= {"rate_floor_nats": 32 * 0.2, "rate_by_dimension_nats": (0.25, 0.4, *[1.0] * 30)}
    return Result(
        cell=Cell(dataset, load_config(method, dataset=dataset, seed=seed, **changes), **of_cell),
        split=split,
        source=source,
        folder=Path(folder or f"runs/{dataset}/{method}/{seed}"),
        mean=dict(zip(QUANTITIES, (rate, neg_elbo - rate, neg_elbo), strict=True)),
        se=dict.fromkeys(QUANTITIES, 0.03),
        **of_result,
    )


def write_result(found):
    """Write a result to its folder as a training does."""
    values = {**found.cell.to_dict(), "split": found.split, "source": found.source}
    values |= {quantity: {"mean": found.mean[quantity], "se": found.se[quantity]} for quantity in QUANTITIES}
    if found.rate_floor_nats is not None:
        values |= {"rate_floor_nats": found.rate_floor_nats, "rate_by_dimension_nats": list(found.rate_by_dimension_nats)}
    found.folder.mkdir(parents=True, exist_ok=True)
    path = result_path(found.folder, found.split)
    path.write_text(json.dumps({**values, "checksum": checksum(values)}))
    return path


@pytest.fixture(scope="session")
def result():
    return make_result


@pytest.fixture(scope="session")
def on_disk():
    return write_result


@pytest.fixture
def drawn(monkeypatch):
    """The figures that the test saves; their files are empty."""
    found = []

    def save(figure, path):
        found.append(figure)
        plt.close(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    for module in ("figures", "model_figures"):
        monkeypatch.setattr(f"echo_tf.report.{module}.save", save)
    return found


@pytest.fixture(scope="session")
def bfloat16():
    return BFLOAT16


@pytest.fixture(scope="session")
def noise():
    return NOISE
