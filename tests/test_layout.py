"""The rooms of the package know each other one way only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import echo_tf

PACKAGE = Path(echo_tf.__file__).parent
# Rooms and modules that a room may import.
KNOWS = {
    "theory": {"theory"},
    "echo": {"echo"},
    "models": {"models", "echo", "errors"},
    "data": {"data", "errors", "files"},
    "experiments": {"experiments", "models", "echo", "data", "theory", "errors", "files"},
    "command": {"command", "report", "experiments", "models", "data", "errors"},
    "report": {"report", "experiments", "models", "echo", "theory", "errors", "files"},
}


def imported(path: Path) -> set[str]:
    """Rooms and modules of the package that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("echo_tf.")}


@pytest.mark.parametrize("room", KNOWS)
def test_arrows_go_one_way(room):
    for path in (PACKAGE / room).rglob("*.py"):
        assert imported(path) <= KNOWS[room], path


def test_every_public_name_is_found_and_documented():
    for name in echo_tf.__all__:
        found = getattr(echo_tf, name)
        assert name == "__version__" or found.__doc__, name
        assert len((found.__doc__ or "").splitlines()) <= 62, name
    with pytest.raises(AttributeError, match="no attribute 'EchoDence'"):
        echo_tf.EchoDence  # noqa: B018
    assert set(echo_tf.__all__) <= set(dir(echo_tf))


def test_light_start_and_loading(tmp_path):
    """In one process: no Keras with the package, the theory, configurations and data; our classes once Keras is there."""
    script = f"""
import sys
import echo_tf
import echo_tf.theory, echo_tf.data.load, echo_tf.report.write
echo_tf.load_config("echo"), echo_tf.max_scale(99), echo_tf.ConfigError
assert not {{"keras", "tensorflow"}} & set(sys.modules)
import keras
for name in ("EchoDense", "EchoLayer", "MatrixEchoLayer", "GaussianChannel", "VampPrior", "RateDistortionModel"):
    assert f"echo_tf>{{name}}" in keras.saving.get_custom_objects(), name
model = keras.Sequential([keras.Input((4,)), echo_tf.EchoDense(2)])
model.save({str(tmp_path / "model.keras")!r})
keras.saving.load_model({str(tmp_path / "model.keras")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_deep_import_comes_first_all_the_same():
    """A module of ours that imports Keras before the package has met it finds its names, and the package the others."""
    script = (
        "from echo_tf.models.channels import GaussianChannel; import echo_tf; echo_tf.EchoDense, echo_tf.RateDistortionModel"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
