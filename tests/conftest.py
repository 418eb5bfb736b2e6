import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as reproduce.py does

import keras


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
