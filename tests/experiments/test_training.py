import dataclasses
import json

import keras
import numpy as np
import pytest

from echo_tf import training
from echo_tf.data.load import DataError, load_dataset
from echo_tf.experiments.training import CHECKPOINT, ImageBatches, read_metrics, train
from echo_tf.files import write_atomically
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.config import ConfigError, ConstraintConfig, TrainingConfig, load_config
from echo_tf.models.schedules import ConstantThenLinear, ReleasedSchedule, make_optimizer


@pytest.fixture(scope="module")
def digits():
    dataset = load_dataset("digits")
    splits = {"train": dataset.raw("train")[:60], "test": dataset.raw("test")[:20]}
    return type(dataset)("digits", splits, 255, {})


def config(epochs=3, method="echo", seed=0):
    channel = {"d_max": 9}
    return load_config(method, seed=seed, channel=channel, training={"epochs": epochs, "batch_size": 20})


class TestSchedule:
    def test_constant_then_linear_to_zero(self):
        schedule = ConstantThenLinear(3e-4, total_steps=200, decay_start=0.5)
        rates = [float(schedule(step)) for step in (0, 99, 100, 150, 199, 200, 250)]
        np.testing.assert_allclose(rates, [3e-4, 3e-4, 3e-4, 1.5e-4, 3e-6, 0, 0], rtol=1e-4, atol=1e-12)

    def test_without_decay(self):
        schedule = ConstantThenLinear(1e-3, total_steps=10, decay_start=1.0)
        assert float(schedule(9)) == pytest.approx(1e-3)

    def test_survives_its_config(self):
        schedule = ConstantThenLinear(1e-3, 10, 0.25)
        assert ConstantThenLinear.from_config(schedule.get_config()).get_config() == schedule.get_config()

    def test_optimizer_follows_the_configuration(self):
        optimizer = make_optimizer(TrainingConfig(epochs=10, learning_rate=1e-3), steps_per_epoch=7)
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert optimizer.get_config()["learning_rate"]["config"]["total_steps"] == 70
        assert float(make_optimizer(TrainingConfig()).learning_rate) == pytest.approx(3e-4)

    def test_released_schedule_drops_and_climbs(self):
        schedule = make_optimizer(TrainingConfig(schedule="released"), steps_per_epoch=500).get_config()["learning_rate"]
        schedule = ReleasedSchedule(**schedule["config"])
        epochs = {0: 3e-4, 99: 3e-4, 100: 3e-4, 101: 3e-6, 110: 3e-5, 150: 1.5e-4, 199: 2.97e-4}
        for epoch, rate in epochs.items():
            for step in (0, 250, 499):
                assert float(schedule(500 * epoch + step)) == pytest.approx(rate, rel=1e-4)


class TestImageBatches:
    images = np.arange(25, dtype=np.uint8)[:, None, None, None] * np.ones((1, 28, 28, 1), np.uint8)

    def epoch(self, batches):
        values = [np.rint(batches[i][:, 0, 0, 0] * 255).astype(int).tolist() for i in range(len(batches))]
        batches.on_epoch_end()
        return values

    def test_epochs_are_different_orders_without_the_remainder(self):
        batches = ImageBatches(self.images, 255, batch_size=10, seed=0)
        first, second = self.epoch(batches), self.epoch(batches)
        assert [len(batch) for batch in first] == [10, 10]
        assert len(set(first[0] + first[1])) == 20
        assert first != second

    def test_order_is_a_function_of_seed_and_epoch(self):
        batches, resumed = (ImageBatches(self.images, 255, batch_size=10, seed=3) for _ in range(2))
        self.epoch(batches)
        resumed.start(epoch=1)
        assert self.epoch(batches) == self.epoch(resumed)
        assert self.epoch(ImageBatches(self.images, 255, 10, seed=4)) != self.epoch(ImageBatches(self.images, 255, 10, seed=3))

    def test_images_are_scaled_to_one(self):
        batch = ImageBatches(self.images, 24, batch_size=25, seed=0)[0]
        assert batch.dtype == np.float32
        assert batch.max() == 1

    def test_pool_holds_other_images_that_change_with_the_step(self):
        batches = ImageBatches(self.images, 255, batch_size=5, seed=0, pool=10)
        first, second = (np.rint(batches[i][:, 0, 0, 0] * 255).astype(int) for i in range(2))
        assert len(first) == len(set(first)) == len(set(second)) == 15
        alone = ImageBatches(self.images, 255, batch_size=5, seed=0)
        np.testing.assert_array_equal(first[:5], np.rint(alone[0][:, 0, 0, 0] * 255))
        assert not np.array_equal(first[5:], second[5:])
        np.testing.assert_array_equal(batches[1], ImageBatches(self.images, 255, batch_size=5, seed=0, pool=10)[1])
        with pytest.raises(ConfigError, match=r"Received: 5 \+ 21"):
            ImageBatches(self.images, 255, batch_size=5, seed=0, pool=21)

    def test_too_few_images(self):
        with pytest.raises(ConfigError, match="at most 25"):
            ImageBatches(self.images, 255, batch_size=26, seed=0)


class _Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def state(model):
    """All that a training goes on from: weights, state of the optimizer, states of the noise."""
    generators = [generator.state for generator in model._named_generators.values()]
    return [keras.ops.convert_to_numpy(v) for v in [*model.weights, *model.optimizer.variables, *generators]]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("echo", {}),
        pytest.param("echo", {"constraint": ConstraintConfig("rate", 60.0)}, marks=pytest.mark.slow),
        pytest.param(
            "vae",
            {"training": TrainingConfig(epochs=3, batch_size=20, beta_warmup=1.0, dtype_policy="mixed_bfloat16")},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_interrupted_training_ends_with_the_very_same_numbers(tmp_path, digits, method, changes):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    settings = dataclasses.replace(config(method=method), **changes)
    expected = train(settings, digits, whole)
    with pytest.raises(KeyboardInterrupt):
        train(settings, digits, parts, callbacks=[_Interrupt()])
    assert len(read_metrics(parts)) == 2
    resumed = train(settings, digits, parts)
    assert int(resumed.optimizer.iterations) == 9
    assert [line | {"seconds": 0} for line in read_metrics(whole)] == [line | {"seconds": 0} for line in read_metrics(parts)]
    for before, after in zip(state(expected), state(resumed), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_seed_decides_all_numbers(tmp_path, digits):
    def trained(name, seed):
        (tmp_path / name).mkdir()
        return state(train(config(epochs=1, seed=seed), digits, tmp_path / name))

    first, again, other = trained("first", 1), trained("again", 1), trained("other", 2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_metrics_are_per_epoch_and_in_nats(tmp_path, digits):
    train(config(epochs=2), digits.holdout(20), tmp_path, validate=True)
    lines = read_metrics(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"loss_nats", "rate_nats", "distortion_nats", "validation_rate_nats", "learning_rate", "seconds"} <= set(lines[0])
    assert (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("policy", "devices", "lacks", "warns"),
    [
        ("mixed_bfloat16", ["cpu:0"], True, True),
        ("mixed_bfloat16", ["cpu:0"], False, False),
        ("mixed_bfloat16", ["cpu:0", "gpu:0"], True, False),
        ("float32", ["cpu:0"], True, False),
    ],
)
def test_precision_that_the_processor_lacks_is_named(tmp_path, digits, monkeypatch, caplog, policy, devices, lacks, warns):
    monkeypatch.setattr(training, "lacks_bfloat16", lambda: lacks)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    settings = load_config("vae", training={"dtype_policy": policy, "batch_size": 100})
    with pytest.raises(ConfigError, match="batch_size"):  # more than there are images, so that nothing is trained
        train(settings, digits, tmp_path)
    assert ("--dtype-policy float32" in caplog.text) is warns


@pytest.mark.parametrize(("renormalise_at", "renormalising"), [(0.5, True), (1.0, False)])
def test_channel_renormalises_on_time(tmp_path, digits, renormalise_at, renormalising):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.channel.renormalising))

    channel = dataclasses.replace(config().channel, renormalise_at=renormalise_at)
    train(dataclasses.replace(config(epochs=2), channel=channel), digits, tmp_path, callbacks=[Watch()])
    assert seen == [0.0] * 3 + [float(renormalising)] * 3


def test_beta_warms_up_epoch_by_epoch(tmp_path, digits):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.beta))

    settings = config(epochs=4, method="vae")
    training = dataclasses.replace(settings.training, beta_warmup=0.5)
    train(dataclasses.replace(settings, beta=3.0, training=training), digits, tmp_path, callbacks=[Watch()])
    np.testing.assert_allclose(seen, [1.5] * 3 + [3.0] * 9)


@pytest.mark.slow
def test_a_pool_is_not_decoded_and_lowers_the_floor(tmp_path, digits, monkeypatch):
    settings = config(epochs=1)
    settings = dataclasses.replace(settings, channel=dataclasses.replace(settings.channel, d_max=39, pool=20))
    shapes, counts = [], []
    refresh = RateDistortionModel.refresh_channel
    monkeypatch.setattr(
        RateDistortionModel, "refresh_channel", lambda model, images: (counts.append(len(images)), refresh(model, images))
    )

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            shapes.append(self.model(digits.train[:40], training=True)["logits"].shape[0])

    model = train(settings, digits, tmp_path, callbacks=[Watch()])
    assert shapes == [20] * 3
    assert counts == [60]  # each image once, though pools repeat them
    assert model.predict(digits.train[:40], verbose=0)["logits"].shape[0] == 40
    (line,) = read_metrics(tmp_path)
    assert line["rate_nats"] > model.channel.echo.rate_floor(32)
    assert np.isfinite(line["distortion_nats"])


@pytest.mark.parametrize(
    ("quantity", "target", "rises"), [("rate", 60.0, True), ("rate", 200.0, False), ("distortion", 1.0, False)]
)
def test_constraint_moves_beta_in_training_only(tmp_path, digits, quantity, target, rises):
    settings = dataclasses.replace(config(epochs=1), constraint=ConstraintConfig(quantity, target))
    model = train(settings, digits, tmp_path)
    beta = float(model.beta)
    assert (beta > 1) == rises
    model.evaluate(digits.train, batch_size=20, verbose=0)
    assert float(model.beta) == beta


@pytest.mark.slow
def test_start_from_a_trained_model(tmp_path, digits):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    trained = train(config(epochs=1), digits, first)
    still = dataclasses.replace(config(epochs=1), training=dataclasses.replace(config(epochs=1).training, learning_rate=1e-12))
    model = train(still, digits, second, start=trained)
    for before, after in zip(trained.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(before, after, atol=1e-9)


def test_penalty_warms_up_from_nothing(tmp_path, digits):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.penalty_weight))

    settings = config(epochs=4, method="vae")
    penalty = dataclasses.replace(settings.mmd, weight=10.0, warmup=0.5)
    settings = dataclasses.replace(settings, mmd=penalty)
    train(settings, digits, tmp_path, callbacks=[Watch()])
    np.testing.assert_allclose(seen, [0.0] * 3 + [5.0] * 3 + [10.0] * 6)


def test_penalty_warms_up_for_an_epoch_at_least(tmp_path, digits):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(float(self.model.penalty_weight))

    settings = config(epochs=2, method="info_vae")
    assert settings.mmd.warmup == 0.1
    train(settings, digits, tmp_path, callbacks=[Watch()])
    assert seen == [0.0, settings.mmd.weight]


@pytest.mark.parametrize("method", ["echo", "info_vae"])
def test_validation_leaves_no_trace(method, tmp_path, digits):
    """Renormalised from the second epoch on, when Echo's moments are those of its reservoir."""
    settings = config(epochs=3, method=method)
    settings = dataclasses.replace(settings, channel=dataclasses.replace(settings.channel, renormalise_at=0.1))
    models = []
    for validate in (False, True):
        folder = tmp_path / str(validate)
        folder.mkdir()
        models.append(train(settings, digits.holdout(20), folder, validate=validate))
    for watched, unwatched in zip(models[1].weights, models[0].weights, strict=True):
        np.testing.assert_array_equal(watched, unwatched, err_msg=watched.path)


def test_validation_needs_a_split(tmp_path, digits):
    with pytest.raises(DataError, match="no validation split"):
        train(config(), digits, tmp_path, validate=True)


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
