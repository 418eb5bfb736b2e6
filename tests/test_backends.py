"""Models and layers on other backends of Keras. Processes of their own: the backend is chosen when Keras is imported."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import echo_tf


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


SCRIPT = """
import json, sys
import keras, numpy as np
import echo_tf

with np.load(sys.argv[1] + "/arrays.npz") as arrays:
    images, z = arrays["images"], arrays["z"]
answers = {"backend": keras.backend.backend()}
for method in sys.argv[2:]:
    model = keras.saving.load_model(f"{sys.argv[1]}/{method}.keras")
    if model.prior is None:
        density = model.channel.statistics(model.encoder(images))[0]
    elif method.endswith("vamp"):
        density = model.prior.log_prob(z, *model._components())
    else:
        density = model.prior.log_prob(z)
    before = [np.asarray(weight) for weight in model.trainable_weights]
    history = model.fit(images, batch_size=10, epochs=1, verbose=0).history
    answers[method] = {
        "density": np.asarray(density).tolist(),
        "unchanged": [w.path for w, b in zip(model.trainable_weights, before) if np.array_equal(np.asarray(w), b)],
        "loss": float(history["loss"][-1]),
        "generated": list(model.generate(3).shape),
        "predicted": sorted(model.predict(images, batch_size=10, verbose=0)),
    }
print(json.dumps(answers))
"""

METHODS = ("echo", "iaf_maf", "vae_vamp", "info_vae")


@pytest.mark.jax
@needs("jax")
def test_models_go_on_from_the_same_files(tmp_path):
    rng = np.random.default_rng(0)
    images, z = rng.uniform(size=(20, 28, 28, 1)).astype("float32"), rng.normal(size=(5, 32)).astype("float32")
    np.savez(tmp_path / "arrays.npz", images=images, z=z)
    expected = {}
    for method in METHODS:
        config = echo_tf.load_config(
            method, channel={"d_max": 9}, prior={"components": 5}, flow={"hidden_units": 32}, training={"batch_size": 10}
        )
        model = echo_tf.build_model(config)
        model.fit(images, batch_size=10, verbose=0)
        model.save(tmp_path / f"{method}.keras")
        if model.prior is None:
            expected[method] = model.channel.statistics(model.encoder(images))[0]
        elif method == "vae_vamp":
            expected[method] = model.prior.log_prob(z, *model._components())
        else:
            expected[method] = model.prior.log_prob(z)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *METHODS],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.splitlines()[-1])
    assert answers.pop("backend") == "jax"
    for method, answer in answers.items():
        np.testing.assert_allclose(answer["density"], expected[method], rtol=1e-4, atol=1e-4)
        assert answer["unchanged"] == []
        assert np.isfinite(answer["loss"])
        assert answer["generated"] == [3, 28, 28, 1]
        assert {"z", "parameters", "rate", "distortion"} <= set(answer["predicted"])


DROP_IN = """
import json, sys
import keras, numpy as np
from keras import layers
import echo_tf

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(120, 6)).astype("float32")
answers = {"backend": keras.backend.backend()}
for name in ("echo", "maps", "matrix"):
    inputs = keras.Input((6,))
    if name == "echo":
        z = echo_tf.EchoDense(3, d_max=19, rate_weight=0.5, seed=0)(layers.Dense(8, activation="relu")(inputs))
    elif name == "maps":
        maps = layers.Conv2D(4, 2, padding="same", activation="tanh")(layers.Reshape((2, 3, 1))(inputs))
        log_scale = layers.Conv2D(4, 1, activation="log_sigmoid")(maps)
        z = layers.Flatten()(echo_tf.EchoLayer(d_max=19, rate_weight=0.5, seed=0)([maps, log_scale]))
    else:
        mean, raw = layers.Dense(3, activation="tanh")(inputs), layers.Dense(6)(inputs)
        z = echo_tf.MatrixEchoLayer(d_max=19, rate_weight=0.5, seed=0)([mean, raw])
    model = keras.Model(inputs, layers.Dense(1)(z))
    model.compile("adam", loss="mse")
    rows = x if name == "matrix" else np.concatenate([x, x[:1]])  # a last batch of one, where there is a reservoir
    logs = model.fit(rows, rows[:, :1], batch_size=40, epochs=2, verbose=0).history
    model(x[:40], training=True)
    answers[name] = {
        "loss": float(logs["loss"][-1]),
        "added": [float(loss) for loss in model.losses],
        "alone": [] if name == "matrix" else [float(model.predict(x[:1], verbose=0)[0, 0]) for _ in range(3)],
    }
print(json.dumps(answers))
"""


@pytest.mark.parametrize(
    "backend", [pytest.param("jax", marks=[pytest.mark.jax, needs("jax")]), pytest.param("torch", marks=needs("torch"))]
)
def test_layers_in_models_of_others(backend):
    run = subprocess.run(
        [sys.executable, "-c", DROP_IN],
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.splitlines()[-1])
    assert answers.pop("backend") == backend
    for answer in answers.values():
        (added,) = answer["added"]  # once
        assert answer["loss"] > added > 0
        assert len(set(answer["alone"])) == len(answer["alone"])  # fresh noise for one example alone
