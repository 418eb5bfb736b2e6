"""The models on Keras' JAX backend. A process of its own: the backend is chosen when Keras is imported."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import echo_tf

pytestmark = [
    pytest.mark.jax,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax, see the extra `jax` in pyproject.toml"),
]

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
        assert {"z", "logits", "rate"} <= set(answer["predicted"])
