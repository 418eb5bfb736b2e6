import numpy as np
import pytest

from echo_tf.data.load import load_dataset
from echo_tf.errors import ConfigError
from echo_tf.experiments import inputs
from echo_tf.experiments.inputs import Input, read_inputs


def test_data_sets_that_are_downloaded_are_not_loaded(monkeypatch):
    monkeypatch.setattr(inputs, "load_dataset", None)
    assert read_inputs(["omniglot", "binary_mnist"]) == {
        "omniglot": Input("omniglot", "omniglot", 24_345, (28, 28, 1), 1_345),
        "binary_mnist": Input("binary_mnist", "binary_mnist", 50_000, (28, 28, 1), 0, is_binary=True),
    }


def test_own_data(tmp_path):
    path = tmp_path / "my data.npz"
    np.savez(path, train=np.zeros((10, 4)), test=np.zeros((5, 4)))
    (found,) = read_inputs([path]).items()
    assert found == ("my-data", Input(path, "my-data", 10, (4,), 2, load_dataset(path).fingerprint, is_binary=True))


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "mine.npz", train=np.zeros((10, 4)), test=np.zeros((5, 4)))
    with pytest.raises(ConfigError, match="Two data sets are called mine"):
        read_inputs([tmp_path / "a" / "mine.npz", tmp_path / "b" / "mine.npz"])
