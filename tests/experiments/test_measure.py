import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

from echo_tf.experiments import measure
from echo_tf.experiments.training import CALL_STEPS_ON_CPU
from echo_tf.models.autoencoder import RateDistortionModel


def test_a_slow_step_is_measured_without_compiling(tiny, monkeypatch, tmp_path):
    """On a clock of its own each call of several steps takes a second; tracing, which is not to count, takes longer."""
    calls, compute_loss, now = [], RateDistortionModel.compute_loss, [0.0]
    make = measure.train

    def traced_slowly(self, *args, **kwargs):
        now[0] += 60.0
        return compute_loss(self, *args, **kwargs)

    class Slow(measure._Clock):
        def on_train_batch_begin(self, batch, logs=None):
            super().on_train_batch_begin(batch, logs)
            now[0] += 1.0

    def train(config, dataset, folder, **options):
        calls.append((config, len(dataset.raw("train")), folder))
        return make(config, dataset, folder, **options)

    monkeypatch.setattr(RateDistortionModel, "compute_loss", traced_slowly)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(measure, "_Clock", Slow)
    monkeypatch.setattr(measure, "train", train)
    seconds = measure.measure_step(tiny(epochs=50), (6,))
    assert seconds == pytest.approx(1.0 / CALL_STEPS_ON_CPU)
    assert now[0] > 60.0
    ((config, images, folder),) = calls
    assert config == replace(tiny(epochs=50), training=replace(tiny().training, epochs=2))
    assert images == measure.STEPS_ON_CPU * 20
    assert not folder.exists()


def test_both_phases_of_a_method_count(monkeypatch, tiny, caplog):
    """The mean of their second epochs. Nothing that a channel says of the model comes through."""
    config = tiny("echo_maf", 20)

    def train(config, dataset, folder, callbacks):
        assert (config.echo_epochs, config.training.epochs) == (2, 4)
        logging.getLogger("echo_tf.echo.matrix").warning("loud")
        (clock,) = callbacks
        clock.calls = [(0, 9.0, 10), (1, 0.1, 10), (1, 0.3, 10), (2, 9.0, 10), (3, 1.2, 20)]

    monkeypatch.setattr(measure, "train", train)
    assert measure.measure_step(config, (6,)) == pytest.approx(0.04)
    assert not caplog.records
