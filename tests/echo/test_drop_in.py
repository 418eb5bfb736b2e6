"""`EchoDense` and `EchoLayer` in other people's models: every combination of the table in docs/guides/layer.md is trained."""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import echo_tf
from echo_tf import EchoDense, EchoLayer

D_MAX = 19
RATE_WEIGHT = 0.5
UNITS = 3

STYLES = ("functional", "sequential", "subclassed", "nested", "custom train_step", "feature maps")
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
JIT = (False, True)
BATCHES = (10, 40)  # fewer and more examples than d_max
# All together take minutes. Sequential and nested models are in test_dense.py too, where an encoder is frozen.
FAST = (
    ("functional", "float32", False, 10),
    ("subclassed", "mixed_float16", False, 10),
    ("custom train_step", "mixed_bfloat16", False, 40),
    ("feature maps", "float32", False, 40),
)
# Every style under every policy, so that any two values of two settings meet in one of them.
COVERING = [
    (style, policy, JIT[i % 2], BATCHES[i // 2 % 2]) for i, (style, policy) in enumerate(itertools.product(STYLES, POLICIES))
]
COMBINATIONS = [*FAST, *(pytest.param(*values, marks=pytest.mark.slow) for values in COVERING if values not in FAST)]


def test_any_two_values_meet():
    for first, second in itertools.combinations(range(4), 2):
        values = ([*STYLES], POLICIES, JIT, BATCHES)
        met = {(combination[first], combination[second]) for combination in COVERING}
        assert met == set(itertools.product(values[first], values[second]))


def data(n=80):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)).astype("float32")


class Bottleneck(keras.Model):
    """Subclassed, with the rate among its outputs."""

    def __init__(self):
        super().__init__()
        self.body = layers.Dense(8, activation="relu")
        self.echo = EchoDense(UNITS, d_max=D_MAX, rate_weight=RATE_WEIGHT, seed=0)
        self.head = layers.Dense(1, dtype="float32")

    def call(self, inputs, training=None):
        return self.head(self.echo(self.body(inputs), training=training))


class OwnTrainStep(keras.Model):
    """A training step of its own, as many tutorials have."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(y - self(x, training=True))) + sum(self.losses)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"total": loss}  # Keras reports a tracker of its own as "loss"


def build(style):
    body = [layers.Dense(8, activation="relu")]
    echo = EchoDense(UNITS, d_max=D_MAX, rate_weight=RATE_WEIGHT, seed=0)
    head = layers.Dense(1, dtype="float32")
    if style == "sequential":
        return keras.Sequential([keras.Input((6,)), *body, echo, head])
    if style == "subclassed":
        return Bottleneck()
    inputs = keras.Input((6,))
    if style == "nested":
        inner = keras.Input((8,))
        return keras.Model(inputs, head(keras.Model(inner, echo(inner))(body[0](inputs))))
    if style == "feature maps":
        maps = layers.Conv2D(4, 2, padding="same", activation="tanh")(layers.Reshape((2, 3, 1))(inputs))
        log_scale = layers.Conv2D(4, 1, activation="log_sigmoid")(maps)
        z = EchoLayer(d_max=D_MAX, rate_weight=RATE_WEIGHT, seed=0)([maps, log_scale])
        return keras.Model(inputs, head(layers.Flatten()(z)))
    model = keras.Model if style == "functional" else OwnTrainStep
    return model(inputs, head(echo(body[0](inputs))))


def echo_of(model):
    return next(layer for layer in model._flatten_layers() if isinstance(layer, EchoLayer))


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.filterwarnings("ignore:.*build_from_config")
@pytest.mark.parametrize(("style", "policy", "jit", "batch"), COMBINATIONS, indirect=["policy"])
def test_trains_predicts_and_is_saved(style, policy, jit, batch, tmp_path):
    model = build(style)
    x = data()
    y = x[:, :1]
    outputs = [model(x) for _ in range(4)]
    (added,) = model.losses
    echo = echo_of(model)
    source = echo.source
    floor = echo.rate_floor(int(np.prod(source.reservoir.mean.shape[1:])))
    assert float(added) > RATE_WEIGHT * floor

    # An epoch that changes nothing but the reservoir, and then one that trains.
    model.compile(keras.optimizers.SGD(1e-2), loss="mse", jit_compile=jit)
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the training step twice
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 1e-2 if epoch else 0.0)
    history = model.fit(x, y, batch_size=batch, epochs=2, shuffle=False, callbacks=[schedule], verbose=0).history
    loss = history["total" if style == "custom train_step" else "loss"]
    assert np.all(np.isfinite(loss))
    rows = slice(-batch, None) if style == "custom train_step" else slice(None)  # of which it reports the loss
    errors = [np.mean(np.square(np.asarray(values) - y)[rows]) for values in outputs]
    assert abs(loss[0] - float(added) - np.mean(errors)) < 0.3 * float(added)  # the rate is in the loss, once
    assert loss[-1] > RATE_WEIGHT * floor
    assert source.reservoir.mean.dtype == "float32" and source.reservoir.is_filled
    for n in (1, 7, 50):
        z = model.predict(x[:n], verbose=0)
        assert z.shape == (n, 1) and np.all(np.isfinite(z))
    if style in ("functional", "sequential", "nested", "feature maps"):
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        draws = [np.asarray(loaded(x[:1])) for _ in range(2)]
        assert np.all(np.isfinite(draws)) and np.std(draws) > 0


def test_the_guide_lists_what_is_tested():
    guide = Path(__file__).resolve().parents[2] / "docs" / "guides" / "layer.md"
    assert combinations_table() in guide.read_text(encoding="utf-8")


def combinations_table():
    rows = [
        ("model", ", ".join(STYLES)),
        ("dtype policy", ", ".join(POLICIES)),
        ("`jit_compile`", ", ".join(str(value) for value in JIT)),
        ("batch, with d_max = 19", f"{', '.join(map(str, BATCHES))} in training; 1, 7, 50 after it"),
        ("backend", "TensorFlow; JAX and PyTorch for functional models in float32"),
    ]
    return "\n".join(
        ["| any two of these are tested together | |", "| --- | --- |", *(f"| {name} | {values} |" for name, values in rows)]
    )


def test_rate_as_output_and_metric():
    inputs = keras.Input((6,))
    z, rate = EchoDense(UNITS, d_max=D_MAX, rate_weight=None, seed=0)(inputs, return_rate=True)
    model = keras.Model(inputs, {"y": layers.Dense(1)(z), "rate": rate})
    model.compile("adam", loss={"y": "mse", "rate": echo_tf.mean_rate}, loss_weights={"y": 1.0, "rate": RATE_WEIGHT})
    x = data()
    measured = model.evaluate(x, {"y": x[:, :1], "rate": np.zeros(len(x))}, batch_size=40, return_dict=True, verbose=0)
    assert measured["loss"] == pytest.approx(measured["y_loss"] + RATE_WEIGHT * measured["rate_loss"], rel=1e-5)
    assert measured["rate_loss"] == pytest.approx(np.mean(model(x)["rate"]), rel=1e-5)


def test_symbolic_call_and_output_shapes():
    mean, log_scale = keras.Input((5, 4, 2)), keras.Input((5, 4, 2))
    z, rate = EchoLayer(d_max=D_MAX)([mean, log_scale], return_rate=True)
    assert (z.shape, rate.shape) == ((None, 5, 4, 2), (None,))
    assert EchoDense(7, d_max=D_MAX).compute_output_spec(keras.KerasTensor((None, 3))).shape == (None, 7)
    assert tuple(EchoLayer(d_max=D_MAX).compute_output_shape([(8, 3), (8, 3)])) == (8, 3)
    assert tuple(EchoDense(7, d_max=D_MAX).compute_output_shape((8, 3))) == (8, 7)


@pytest.mark.slow
def test_exported_model_serves_one_example(tmp_path):
    model = build("functional")
    x = data()
    model.compile("adam", loss="mse")
    model.fit(x, x[:, :1], batch_size=40, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    draws = np.array([served.serve(x[:1]) for _ in range(200)])
    assert draws.shape == (200, 1, 1) and np.std(draws) > 0
    batched = np.array([model.predict(x[:30], verbose=0)[0] for _ in range(200)])
    se = np.hypot(draws.std(), batched.std()) / np.sqrt(200)
    assert abs(draws.mean() - batched.mean()) < 5 * se
