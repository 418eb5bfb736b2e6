import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as reproduce.py does
# The same numbers everywhere, and room for several processes: no GPU, unless you name one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import keras
import numpy as np

from echo_tf.data.dataset import Dataset


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whichever tests ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def reproduce():
    """The module `reproduce.py`."""
    spec = importlib.util.spec_from_file_location("reproduce", Path(__file__).resolve().parent.parent / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real_data_dir():
    """Folder with the real data sets; without it a developer's run skips, CI fails."""
    folder = os.environ.get("ECHO_TF_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    message = "set ECHO_TF_DATA to a folder with binary_mnist.npz, fashion_mnist.npz and omniglot.npz"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def vectors():
    """Data of 60 + 20 vectors: a model of them is traced and trained in a second or two, that of images in ten."""
    values = np.random.default_rng(0).uniform(size=(80, 6)).astype("float32")
    return Dataset.from_arrays(values[:60], values[60:], name="vectors")


@pytest.fixture(scope="session")
def small_command(vectors, tmp_path_factory):
    """A function from methods (echo, vae, or wild, whose loss is soon NaN) to arguments: `vectors` in a file, one epoch."""
    folder = tmp_path_factory.mktemp("small")
    np.savez(folder / "vectors.npz", train=vectors.train, test=vectors.test)
    training, gaussian = {"batch_size": 20, "epochs": 1}, {"kind": "gaussian"}
    methods = {
        "echo": {"channel": {"kind": "echo", "d_max": 9}, "training": training},
        "vae": {"channel": gaussian, "training": training},
        "wild": {"channel": gaussian, "training": training | {"learning_rate": 1e30}},
    }
    for name, config in methods.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"network": {"latent_dim": 2}, **config}))

    def arguments(*methods):
        return ["--dataset", str(folder / "vectors.npz"), "--method", *(str(folder / f"{name}.yaml") for name in methods)]

    return arguments


@pytest.fixture
def without_figures(monkeypatch):
    """Reports of tables only: drawing takes longer than a small training."""
    for name in ("write.plot_all", "experiments.plot_all_bounds"):
        monkeypatch.setattr(f"echo_tf.report.{name}", lambda *arguments: [])


@pytest.fixture(autouse=True)
def close_figures():
    """Those that a test has looked into in the place of saving them."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")
