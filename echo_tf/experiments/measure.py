"""Seconds for a training step, measured on a few steps with random images."""

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from echo_tf.data.dataset import Dataset
from echo_tf.experiments.steps import on_cpu
from echo_tf.experiments.training import train
from echo_tf.models.config import Config

STEPS_ON_CPU, STEPS_ON_ACCELERATOR = 20, 200  # an accelerator takes a second for them


class _Clock(keras.callbacks.Callback):
    """Seconds of each call of compiled steps, and how many steps it had."""

    async_safe = True

    def __init__(self):
        super().__init__()
        self.calls = []  # epoch, seconds, steps

    def on_train_begin(self, logs=None):
        self.train_function = self.model.train_function  # `self.model` would fetch its state from the device in every call

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the device
        self.calls.append((self.epoch, time.perf_counter() - self.start, len(self.train_function.losses)))


@contextlib.contextmanager
def _quiet_channels() -> Iterator[None]:
    """Without warnings of a channel: what it says of a model that has learnt nothing helps nobody."""
    channels = logging.getLogger("echo_tf.echo")
    level = channels.level
    channels.setLevel(logging.ERROR)
    try:
        yield
    finally:
        channels.setLevel(level)


def measure_step(config: Config, shape: tuple[int, ...]) -> float:
    """Train a model for a few steps as `train` does, in a temporary folder, and return the seconds for a step.

    The first epoch of each phase, which compiles, is not counted; a method with two phases gets their mean.

    Args:
        config: The configuration.
        shape: Shape of an image.
    """
    steps = STEPS_ON_CPU if on_cpu() else STEPS_ON_ACCELERATOR
    phases = 2 if 0 < config.echo_epochs < config.training.epochs else 1
    short = replace(config, training=replace(config.training, epochs=2 * phases))
    if phases == 2:
        short = replace(short, channel=replace(short.channel, gaussian_at=0.5))
    images = np.random.default_rng(0).integers(0, 256, (steps * config.training.batch_size, *shape), dtype=np.uint8)
    clock = _Clock()
    with _quiet_channels(), tempfile.TemporaryDirectory() as folder:
        train(short, Dataset("random", {"train": images}, 255, {}), Path(folder), callbacks=[clock])
    keras.utils.clear_session()
    means = []
    for epoch in range(1, 2 * phases, 2):
        calls = [(seconds, count) for number, seconds, count in clock.calls if number == epoch]
        means.append(sum(seconds for seconds, _ in calls) / sum(count for _, count in calls))
    return statistics.mean(means)
