import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from echo_tf.data.dataset import Dataset
from echo_tf.data.load import load_dataset
from echo_tf.errors import ConfigError, DataError, TrainingError
from echo_tf.experiments import training
from echo_tf.experiments.records import CHECKPOINT, read_metrics
from echo_tf.experiments.training import load_saved, train
from echo_tf.files import write_atomically
from echo_tf.models.config import load_config


@pytest.fixture(scope="module")
def digits():
    dataset = load_dataset("digits")
    return Dataset("digits", {"train": dataset.raw("train")[:60], "test": dataset.raw("test")[:20]}, 255, {})


class Watch(keras.callbacks.Callback):
    """Notes numbers of the model in every call, which here is an epoch."""

    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([float(number) for number in self.look(self.model)])


class _Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def state(model):
    """All that a training goes on from: weights, state of the optimizer, states of the noise."""
    return [keras.ops.convert_to_numpy(v) for v in [*model.weights, *model.optimizer.variables, *model.random_states]]


def assert_resumed_training_is_the_same(settings, dataset, folder):
    whole, parts = folder / "whole", folder / "parts"
    whole.mkdir(), parts.mkdir()
    expected = train(settings, dataset, whole)
    with pytest.raises(KeyboardInterrupt):
        train(settings, dataset, parts, callbacks=[_Interrupt()])
    assert len(read_metrics(parts)) == 2
    resumed = train(settings, dataset, parts)
    assert int(resumed.optimizer.iterations) == 9
    assert [line | {"seconds": 0} for line in read_metrics(whole)] == [line | {"seconds": 0} for line in read_metrics(parts)]
    for before, after in zip(state(expected), state(resumed), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("echo", {"constraint": {"quantity": "rate", "target_nats": 60.0}}),
        ("info_vae", {"training": {"beta_warmup": 1.0}}),
        ("iaf_maf", {"flow": {"hidden_units": 8, "hidden_layers": 1, "trainable": False}}),  # as in the protocol released
        ("echo_maf", {"flow": {"hidden_units": 8, "hidden_layers": 1}}),  # interrupted where the second phase begins
    ],
)
def test_interrupted_training_ends_with_the_very_same_numbers(tmp_path, vectors, tiny, method, changes):
    assert_resumed_training_is_the_same(tiny(method, **changes), vectors, tmp_path)


def test_checkpoint_without_the_state_of_its_optimizer_is_refused(tmp_path, vectors, tiny):
    """Keras loads such a file with a warning, and the training would begin anew on trained weights."""
    settings = tiny("vae")
    with pytest.raises(KeyboardInterrupt):
        train(settings, vectors, tmp_path, callbacks=[_Interrupt()])
    model = keras.saving.load_model(tmp_path / "checkpoint.keras")
    model.compile("sgd")
    model.save(tmp_path / "checkpoint.keras")
    lines = read_metrics(tmp_path)
    with pytest.raises(TrainingError, match=r"no state of its optimizer.*Move the folder away"):
        train(settings, vectors, tmp_path)
    assert read_metrics(tmp_path) == lines


@pytest.mark.parametrize("method", ["echo", "echo_maf"])
def test_checkpoint_of_the_last_epoch_gives_the_finished_model(tmp_path, vectors, tiny, method):
    settings = tiny(method, flow={"hidden_units": 8, "hidden_layers": 1})
    first, again = (train(settings, vectors, tmp_path) for _ in range(2))
    for before, after in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(before, after, err_msg=before.path)


@pytest.mark.parametrize(("losses", "batch"), [([3.0, np.nan, np.nan], 5), ([np.inf, np.inf], 4)])
def test_loss_that_is_not_finite_names_its_batch_in_the_call(losses, batch):
    calls = SimpleNamespace(losses=np.ones(3))
    stop = training._StopAtNonFinite(calls)
    stop.on_epoch_begin(2)
    stop.on_train_batch_end(0, {"loss": 1.0})
    calls.losses = np.array(losses)
    with pytest.raises(TrainingError, match=rf"in batch {batch} of epoch 3\..*The checkpoint of epoch 2 is kept"):
        stop.on_train_batch_end(1, {"loss": losses[-1]})


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_interrupted_training_of_the_convolutions(tmp_path, digits, policy):
    settings = {"epochs": 3, "batch_size": 20, "dtype_policy": policy}
    assert_resumed_training_is_the_same(load_config("echo", channel={"d_max": 9}, training=settings), digits, tmp_path)


def test_float32_is_not_tensorfloat(tmp_path):
    """In which TensorFlow multiplies on GPUs. All that is done with a model begins here."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reproduce.py sets it for JAX")
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(True)
    assert load_saved(tmp_path / "none.keras") is None
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_another_seed_gives_other_numbers(tmp_path, vectors, tiny):
    models = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        models.append(train(tiny(epochs=1, seed=seed), vectors, tmp_path / str(seed)))
    for first, other in zip(*(model.trainable_variables for model in models), strict=True):
        assert not np.array_equal(first, other)


def test_metrics_are_per_epoch_and_in_nats(tmp_path, vectors, tiny):
    train(tiny(epochs=2), vectors.holdout(20), tmp_path, validate=True)
    lines = read_metrics(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"loss_nats", "rate_nats", "distortion_nats", "validation_rate_nats", "learning_rate", "seconds"} <= set(lines[0])
    assert (tmp_path / CHECKPOINT).exists()


def test_learning_rate_follows_the_schedule(tmp_path, vectors, tiny):
    config = tiny(epochs=4)
    train(config, vectors, tmp_path)
    rates = [line["learning_rate"] / config.training.learning_rate for line in read_metrics(tmp_path)]
    np.testing.assert_allclose(rates, [1.0, 1.0, 0.5, 0.0], atol=1e-6)  # at the end of each epoch


@pytest.mark.parametrize(
    ("policy", "devices", "lacks", "warns"),
    [
        ("mixed_bfloat16", ["cpu:0"], True, True),
        ("mixed_bfloat16", ["cpu:0"], False, False),
        ("mixed_bfloat16", ["cpu:0", "gpu:0"], True, False),
        ("float32", ["cpu:0"], True, False),
    ],
)
def test_precision_that_the_processor_lacks_is_named(tmp_path, vectors, monkeypatch, caplog, policy, devices, lacks, warns):
    monkeypatch.setattr(training, "lacks_bfloat16", lambda: lacks)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    settings = load_config("vae", training={"dtype_policy": policy, "batch_size": 100})
    with pytest.raises(ConfigError, match="batch_size"):  # more than there are examples, so that nothing is trained
        train(settings, vectors, tmp_path)
    assert ("--dtype-policy float32" in caplog.text) is warns


def test_channel_renormalises_on_time(tmp_path, vectors, tiny):
    watch = Watch(lambda model: [model.channel.standardiser.renormalising])
    train(tiny("echo", epochs=2, channel={"renormalise_at": 0.5}), vectors, tmp_path, callbacks=[watch])
    np.testing.assert_array_equal(watch.seen, [[0.0], [1.0]])


def test_gaussian_phase_renormalises_where_echo_did(tmp_path, vectors, tiny):
    watch = Watch(lambda model: [model.channel.standardiser.renormalising, model.channel.has_density])
    options = {"channel": {"renormalise_at": 0.3, "gaussian_at": 0.5}, "flow": {"hidden_units": 8}}
    train(tiny("echo_maf", epochs=4, **options), vectors, tmp_path, callbacks=[watch])
    np.testing.assert_array_equal(watch.seen, [[0, 0], [1, 0], [1, 1], [1, 1]])


def test_beta_warms_up_epoch_by_epoch_and_a_channel_need_not_renormalise(tmp_path, vectors, tiny):
    watch = Watch(lambda model: [model.beta, model.channel.standardiser.renormalising])
    options = {"channel": {"renormalise_at": 1.0}, "training": {"beta_warmup": 0.5}}
    train(tiny("echo", epochs=4, beta=3.0, **options), vectors, tmp_path, callbacks=[watch])
    np.testing.assert_allclose(watch.seen, [[1.5, 0.0]] * 1 + [[3.0, 0.0]] * 3)


def test_constraint_moves_beta_in_training_only(tmp_path, vectors, tiny):
    model = train(tiny("echo", epochs=1, constraint={"quantity": "rate", "target_nats": 4.0}), vectors, tmp_path)
    beta = float(model.beta)
    assert beta > 1
    model.evaluate(vectors.train, batch_size=20, verbose=0)
    assert float(model.beta) == beta


@pytest.mark.parametrize(
    ("epochs", "warmup", "shares"),
    [(4, 0.5, [0.0, 0.5, 1.0, 1.0]), (2, 0.1, [0.0, 1.0])],  # for an epoch at least
)
def test_penalty_warms_up_from_nothing(tmp_path, vectors, tiny, epochs, warmup, shares):
    watch = Watch(lambda model: [model.penalty.weight])
    train(tiny(epochs=epochs, mmd={"weight": 10.0, "warmup": warmup}), vectors, tmp_path, callbacks=[watch])
    np.testing.assert_allclose(np.ravel(watch.seen), np.array(shares) * 10.0)


@pytest.mark.parametrize("method", ["echo", pytest.param("info_vae", marks=pytest.mark.slow)])
def test_validation_leaves_no_trace(method, tmp_path, vectors, tiny):
    """Renormalised from the second epoch on, when Echo's moments are those of its reservoir."""
    models = []
    for validate in (False, True):
        folder = tmp_path / str(validate)
        folder.mkdir()
        models.append(train(tiny(method, channel={"renormalise_at": 0.1}), vectors.holdout(20), folder, validate=validate))
    for watched, unwatched in zip(models[1].weights, models[0].weights, strict=True):
        np.testing.assert_array_equal(watched, unwatched, err_msg=watched.path)


def test_validation_needs_a_split(tmp_path, vectors, tiny):
    with pytest.raises(DataError, match="no validation split"):
        train(tiny(), vectors, tmp_path, validate=True)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, json.dumps([1]))

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, json.dumps([2]))
    assert path.read_text() == "[1]"
    assert list(tmp_path.iterdir()) == [path]
