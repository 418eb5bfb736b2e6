import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from echo_tf.errors import ConfigError
from echo_tf.experiments.cells import Cell, differences, plan
from echo_tf.models.config import Config, load_config

VAE = load_config("vae", training={"epochs": 7})


def test_needs_no_keras():
    code = "import sys, echo_tf.experiments.cells; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("config", "holdout", "name"),
    [
        ({"beta": 0.5, "seed": 3}, 0, "paper-epochs=200-beta=0.5-seed=3"),
        ({"protocol": "released"}, 237, "released-epochs=200-beta=1-seed=0-holdout=237"),
        ({"constraint": {"quantity": "rate", "target_nats": 20}}, 0, "paper-epochs=200-rate=20-seed=0"),
    ],
)
def test_folder_names_the_setting(tmp_path, config, holdout, name):
    cell = Cell("omniglot", load_config("vae", **config), holdout)
    assert cell.folder(tmp_path) == tmp_path / "omniglot" / "vae" / name


def test_plan_goes_seed_by_seed_and_names_each_cell_once():
    configs = [load_config("vae", seed=5), load_config("echo"), load_config("vae", seed=5)]
    cells = plan("mine", configs, [2.0, 1.0, 2.0], 2, holdout=9, data="f00d")
    assert [(c.config.seed, c.config.method, c.config.beta) for c in cells] == [
        (seed + 5 * (method == "vae"), method, beta) for seed in (0, 1) for method in ("vae", "echo") for beta in (2.0, 1.0)
    ]
    assert {(c.dataset, c.holdout, c.data) for c in cells} == {("mine", 9, "f00d")}


def test_plan_keeps_the_beta_of_a_configuration():
    assert [cell.config.beta for cell in plan("digits", [load_config("vae", beta=4.0)], None, 1)] == [4.0]


def test_a_fingerprint_differs_where_cells_do():
    cells = [Cell("digits", config) for config in (VAE, load_config("vae"), load_config("echo"), load_config("vae", beta=2.0))]
    cells += [dataclasses.replace(cells[0], holdout=5), dataclasses.replace(cells[0], data="f00d")]
    assert len({cell.fingerprint for cell in cells}) == len(cells)
    assert Cell.from_dict(json.loads(json.dumps(cells[0].to_dict()))).fingerprint == cells[0].fingerprint


def test_a_fingerprint_is_that_of_values_that_are_no_default():
    """Else all rows of a table would be of other models as soon as a version adds a key."""
    plain = Cell("digits", Config("mine"))
    assert plain.fingerprint == hashlib.sha256(b"{}").hexdigest()[:16]
    assert Cell("digits", Config("mine", beta=2.0)).fingerprint == hashlib.sha256(b'{"beta": 2.0}').hexdigest()[:16]


def test_seeds_beyond_the_generators_are_refused():
    with pytest.raises(ConfigError, match="seed"):
        plan("digits", [load_config("vae", seed=2**32 - 1)], None, 2)


@pytest.mark.parametrize(("method", "expected"), [("echo", 100), ("echo_large_batch", 1_000), ("vae", 100)])
def test_evaluation_has_enough_echoes(method, expected):
    assert Cell("digits", load_config(method)).evaluation_batch == expected


@pytest.mark.parametrize("method", ["echo", "echo_matrix"])
def test_evaluation_batch_is_that_of_the_echoes_if_the_training_has_fewer(method):
    config = load_config(method, channel={"d_max": 299}, training={"batch_size": 20})
    assert Cell("digits", config).evaluation_batch == 300


def test_survives_its_dictionary():
    cell = Cell("mine", VAE, 3, "f00d")
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


def test_cells_of_earlier_versions(tmp_path):
    """With settings that are gone: at the value that means today's model they are dropped, else refused."""
    cell = Cell("digits", load_config("vae"))
    values = json.loads(json.dumps(cell.to_dict()))
    del values["data"]
    values["config"]["channel"] |= {"pool": 0, "context_units": 0}
    values["config"]["training"]["replicas"] = 1
    assert Cell.from_dict({**values, "warm_start": []}) == cell
    with pytest.raises(ConfigError, match="warm starts"):
        Cell.from_dict({**values, "warm_start": [1.0]})
    values["config"]["channel"]["pool"] = 100
    with pytest.raises(ConfigError, match="pool"):
        Cell.from_dict(values)


def test_differences():
    there, wanted = Cell("mine", VAE, data="f00d"), Cell("mine", load_config("vae", beta=2.0), data="beef")
    expected = ("data: f00d there, beef wanted", "beta: 1.0 there, 2.0 wanted", "training.epochs: 7 there, 200 wanted")
    assert differences(there, wanted) == ", ".join(expected)
    assert differences(there, there) == ""


class TestNames:
    """A cell is always in a folder below --out."""

    WRONG = ("", ".", "..", "../..", "a/b", "a\\b", "/tmp", ".hidden", "a\n", "-rf", "a\0")

    @pytest.mark.parametrize("name", WRONG)
    def test_method_that_is_no_folder(self, name):
        with pytest.raises(ConfigError, match="Invalid value for `method`"):
            Cell("digits", Config(method=name))

    @pytest.mark.parametrize("name", WRONG)
    def test_data_set_that_is_no_folder(self, name):
        with pytest.raises(ConfigError, match="Invalid value for `dataset`"):
            Cell(name, VAE)

    @pytest.mark.parametrize("name", ["vae", "vae_2", "my.vae", "größe", "a=1"])
    def test_names_that_are_folders(self, name, tmp_path):
        folder = Cell(name, Config(method=name)).folder(tmp_path)
        assert folder.resolve().parent.parent.parent == tmp_path.resolve()
