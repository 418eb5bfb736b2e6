"""Models and layers on other backends of Keras. Processes of their own: the backend is chosen when Keras is imported."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import echo_tf

ROOT = Path(__file__).resolve().parent.parent


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


SCRIPT = """
import json, sys
import keras, numpy as np
import echo_tf

with np.load(sys.argv[1] + "/arrays.npz") as arrays:
    x, z = arrays["x"], arrays["z"]
answers = {"backend": keras.backend.backend()}
for method in sys.argv[2:]:
    model = keras.saving.load_model(f"{sys.argv[1]}/{method}.keras")
    if model.prior is None:
        density = model.channel.statistics(model.encoder(x))[0]
    elif method.endswith("vamp"):
        density = model.prior.log_prob(z, *model.components())
    else:
        density = model.prior.log_prob(z)
    before = [np.asarray(weight) for weight in model.trainable_weights]
    history = model.fit(x, batch_size=10, epochs=1, verbose=0).history
    answers[method] = {
        "density": np.asarray(density).tolist(),
        "unchanged": [w.path for w, b in zip(model.trainable_weights, before) if np.array_equal(np.asarray(w), b)],
        "loss": float(history["loss"][-1]),
        "generated": list(model.generate(3).shape),
        "predicted": sorted(model.predict(x, batch_size=10, verbose=0)),
    }
if "echo" in sys.argv:  # a model as it is built here, with the networks of the paper and beta under a constraint
    images = np.random.default_rng(0).uniform(size=(20, 28, 28, 1)).astype("float32")
    constraint = {"quantity": "distortion", "target_nats": 100.0}
    model = echo_tf.build_model(echo_tf.load_config("echo", channel={"d_max": 9}, constraint=constraint))
    model.fit(images, batch_size=10, verbose=0)
    answers["paper"] = [list(model.reconstruct(images[:2], samples=2).shape), float(np.asarray(model.beta))]
print(json.dumps(answers))
"""

# Every model is traced four times. These two find most of what another backend can break.
METHODS = [
    ("echo_matrix", "vae_vamp"),
    pytest.param(("echo", "iaf_maf", "info_vae"), marks=pytest.mark.slow),
]


@pytest.mark.jax
@needs("jax")
@pytest.mark.parametrize("methods", METHODS)
def test_models_go_on_from_the_same_files(tmp_path, methods):
    rng = np.random.default_rng(0)
    x, z = rng.uniform(size=(20, 6)).astype("float32"), rng.normal(size=(5, 4)).astype("float32")
    np.savez(tmp_path / "arrays.npz", x=x, z=z)
    expected = {}
    small = {
        "network": {"kind": "mlp", "latent_dim": 4},
        "channel": {"d_max": 9},
        "prior": {"components": 5},
        "flow": {"hidden_units": 32},
    }
    for method in methods:
        model = echo_tf.build_model(echo_tf.load_config(method, **small), (6,))
        model.fit(x, batch_size=10, verbose=0)
        model.save(tmp_path / f"{method}.keras")
        if model.prior is None:
            expected[method] = model.channel.statistics(model.encoder(x))[0]
        elif method == "vae_vamp":
            expected[method] = model.prior.log_prob(z, *model.components())
        else:
            expected[method] = model.prior.log_prob(z)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *methods],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.splitlines()[-1])
    assert answers.pop("backend") == "jax"
    if "echo" in methods:
        shape, beta = answers.pop("paper")
        assert shape == [2, 28, 28, 1] and beta < 1.0  # too much distortion: the rate becomes cheaper
    assert set(answers) == set(methods)
    for method, answer in answers.items():
        np.testing.assert_allclose(answer["density"], expected[method], rtol=1e-4, atol=1e-4)
        assert answer["unchanged"] == []
        assert np.isfinite(answer["loss"])
        assert answer["generated"] == [3, 6]
        assert {"z", "parameters", "rate", "distortion"} <= set(answer["predicted"])


DROP_IN = """
import json, sys
import keras, numpy as np
from keras import layers
import echo_tf

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(120, 6)).astype("float32")
answers = {"backend": keras.backend.backend()}
for name in sys.argv[2:]:
    inputs = keras.Input((6,))
    if name == "echo":
        z = echo_tf.EchoDense(3, d_max=19, rate_weight=0.5, seed=0)(layers.Dense(8, activation="relu")(inputs))
    elif name == "maps":
        maps = layers.Conv2D(4, 2, padding="same", activation="tanh")(layers.Reshape((2, 3, 1))(inputs))
        log_scale = layers.Conv2D(4, 1, activation="log_sigmoid")(maps)
        z = layers.Flatten()(echo_tf.EchoLayer(d_max=19, rate_weight=0.5, seed=0)([maps, log_scale]))
    elif name == "matrix dense":
        z = echo_tf.MatrixEchoDense(3, d_max=19, rate_weight=0.5, seed=0)(layers.Dense(8, activation="relu")(inputs))
    else:
        mean, raw = layers.Dense(3, activation="tanh")(inputs), layers.Dense(6)(inputs)
        z = echo_tf.MatrixEchoLayer(d_max=19, rate_weight=0.5, seed=0)([mean, raw])
    model = keras.Model(inputs, layers.Dense(1)(z))
    model.compile("adam", loss="mse")
    rows = np.concatenate([x, x[:1]])  # a last batch of one
    logs = model.fit(rows, rows[:, :1], batch_size=40, epochs=2, verbose=0).history
    model(x[:40], training=True)
    answers[name] = {
        "loss": float(logs["loss"][-1]),
        "added": [float(loss) for loss in model.losses],
        "alone": [float(model.predict(x[:1], verbose=0)[0, 0]) for _ in range(3)],
    }

    channel = next(layer for layer in model.layers if hasattr(layer, "rate_weight"))
    anneal = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(channel, "rate_weight", 50.0 * epoch))
    answers[name]["annealed"] = model.fit(x, x[:, :1], batch_size=40, epochs=2, callbacks=[anneal], verbose=0).history["loss"]
    model.save(sys.argv[1] + "/model.keras")
    loaded = keras.saving.load_model(sys.argv[1] + "/model.keras").get_layer(channel.name)
    answers[name]["saved"] = float(loaded.rate_weight)

    encoder = keras.Model(inputs, z)
    before = [np.array(keras.ops.convert_to_numpy(weight)) for weight in encoder.weights]
    encoder.trainable = False
    head = keras.Sequential([encoder, layers.Dense(1)])
    head.compile("sgd", loss="mse")
    head.fit(x[:40], x[:40, :1] + 1.0, batch_size=20, verbose=0)
    after = [keras.ops.convert_to_numpy(weight) for weight in encoder.weights]
    paths = [weight.path for weight in encoder.weights]
    answers[name]["moved"] = [p for p, a, b in zip(paths, after, before) if not np.array_equal(a, b)]
print(json.dumps(answers))
"""


@pytest.mark.parametrize(
    "backend", [pytest.param("jax", marks=[pytest.mark.jax, needs("jax")]), pytest.param("torch", marks=needs("torch"))]
)
@pytest.mark.parametrize("names", [("maps", "matrix dense"), pytest.param(("echo", "matrix"), marks=pytest.mark.slow)])
def test_layers_in_models_of_others(backend, names, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", DROP_IN, str(tmp_path), *names],
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.splitlines()[-1])
    assert answers.pop("backend") == backend
    assert set(answers) == set(names)
    for answer in answers.values():
        (added,) = answer["added"]  # once
        assert answer["loss"] > added > 0
        assert len(set(answer["alone"])) == 3  # fresh noise for one example alone
        assert answer["annealed"][1] > answer["annealed"][0] + 20 and answer["saved"] == 50.0
        assert answer["moved"] == []  # by training on the frozen encoder


RATE_IN_FIT = """
import json
import keras, numpy as np
import echo_tf

x, inputs = np.random.default_rng(0).normal(size=(30, 6)).astype("float32"), keras.Input((6,))
layer, second = (echo_tf.EchoDense(2, d_max=9, rate_weight=0.5, seed=0, name=name) for name in ("low", "high"))
answers = {}
for name, z in (("one", layer(inputs)), ("two", second(layer(inputs)))):
    model = keras.Model(inputs, keras.layers.Dense(6)(z))
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=name == "two")
    answers[name] = model.fit(x, x, batch_size=20, validation_data=(x[:15], x[:15]), verbose=0).history
    answers[name + " at once"] = model.train_on_batch(x, x, return_dict=True)
answers["rates"] = [float(np.mean(layer(rows, return_rate=True)[1])) for rows in (x, x[:15])]
answers["weights"] = [weight.path for weight in layer.weights]
print(json.dumps(answers))
"""


@pytest.mark.jax
@needs("jax")
def test_rate_in_fit_on_jax():
    run = subprocess.run(
        [sys.executable, "-c", RATE_IN_FIT],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "no training example" not in run.stderr  # while Keras builds the model
    answers = json.loads(run.stdout.splitlines()[-1])
    history = answers["one"]
    assert [history["rate"][0], history["val_rate"][0]] == pytest.approx(answers["rates"], rel=1e-5)
    assert {"low_rate", "high_rate", "val_low_rate", "val_high_rate"} < set(answers["two"])
    assert answers["two"]["low_rate"] == pytest.approx(history["rate"], rel=1e-5)
    assert np.isnan(answers["one at once"]["rate"])  # never an old value
    assert not [path for path in answers["weights"] if "rate_sums" in path]


@pytest.mark.jax
@needs("jax")
class TestOperations:
    """`benchmarks.operations`, on a processor and on the trace that a GPU would leave."""

    def test_on_a_processor(self, tmp_path):
        command = ["-m", "benchmarks.operations", "--networks", "none", "--methods", "vae", "--steps", "5"]
        run = subprocess.run(
            [sys.executable, *command, "--json", str(tmp_path / "operations.json")],
            env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        kinds = json.loads((tmp_path / "operations.json").read_text())["vae"]["kinds"]
        assert {"matrix product", "other"} <= set(kinds)
        assert kinds["matrix product"]["number"] >= 6  # three layers, forwards and backwards

    def test_of_a_gpu(self, tmp_path):
        """Kernels count, and neither what the host does nor the lines that name the same kernels by module."""
        from benchmarks import operations

        places = [(1, None, "/host:CPU"), (1, 5, "tf_XLAEigen/1"), (2, None, "/device:GPU:0"), (2, 1, "Stream #1(Compute)")]
        names = [
            {"ph": "M", "pid": pid, "name": "process_name" if tid is None else "thread_name", "args": {"name": name}}
            | ({} if tid is None else {"tid": tid})
            for pid, tid, name in [*places, (2, 2, "XLA Modules")]
        ]
        kernels = ["sm80_xmma_wgrad_implicit_gemm_bf16_nhwc", "cudnn::nchwToNhwcKernel", "loop_convert_fusion", "ampere_gemm"]
        spans = [(2, 1, name, 10 * i, 12) for i, name in enumerate(kernels)]
        spans += [(2, 2, "jit_run", 0, 50), (1, 5, "dot.1", 0, 7)]
        events = [{"ph": "X", "pid": p, "tid": t, "name": name, "ts": ts, "dur": dur} for p, t, name, ts, dur in spans]
        trace = tmp_path / "vm.trace.json.gz"
        trace.write_bytes(gzip.compress(json.dumps({"traceEvents": [*names, *events, {}]}).encode()))

        found = operations.operations(trace)
        assert [name for name, _, _ in found] == kernels
        kinds = ["convolution", "copy or transposition", "other", "matrix product"]
        assert [operations.kind(name) for name in kernels] == kinds
        told = operations.summary(100.0, found, steps=2)
        assert told["microseconds covered by operations"] == 21  # from 0 to 42, where they overlap
        assert told["kinds"]["convolution"] == {"microseconds": 6, "number": 0.5}
