"""Training of one model: batches, metrics per epoch, checkpoint and resume."""

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from echo_tf.data.dataset import Dataset
from echo_tf.errors import TrainingError
from echo_tf.experiments.processor import lacks_bfloat16
from echo_tf.experiments.records import CHECKPOINT, METRICS, MISFITS, read_metrics
from echo_tf.experiments.steps import (
    CALL_STEPS_ON_ACCELERATOR,
    CALL_STEPS_ON_CPU,
    BatchOrders,
    CompiledSteps,
    as_input,
    compiled_steps,
    keep_graphs_as_traced,
    keep_to_float32,
    on_cpu,
)
from echo_tf.files import replacing, set_aside, write_atomically, zip_damage
from echo_tf.models.build import build_gaussian_phase, build_model
from echo_tf.models.config import Config
from echo_tf.models.refresh import REFRESH_EXAMPLES

logger = logging.getLogger(__name__)

Callbacks = Sequence[keras.callbacks.Callback]


class _Schedule(keras.callbacks.Callback):
    """What a configuration changes between epochs: weights that rise from epoch to epoch, and when Echo renormalises.

    The warm-up of beta or of the penalty takes one epoch at least. Beta has a share of its value in the first epoch already,
    without which the rate has no bound; the penalty begins with 0.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config

    def on_epoch_begin(self, epoch, logs=None):
        config = self.config

        def epochs(share):
            return max(1, round(share * config.training.epochs))

        if epoch >= epochs(config.channel.renormalise_at):  # in every epoch: the channel may be a new one since then
            self.model.channel.renormalise()
        if config.training.beta_warmup:
            self.model.beta.assign(config.beta * min(1.0, (epoch + 1) / epochs(config.training.beta_warmup)))
        if config.mmd.weight and config.mmd.warmup:
            self.model.penalty.weight.assign(config.mmd.weight * min(1.0, epoch / epochs(config.mmd.warmup)))


class _StopAtNonFinite(keras.callbacks.Callback):
    """Raise `TrainingError` at the first call with a step whose loss is NaN or infinite, before the epoch is recorded.

    The loss in the logs is the mean over the epoch so far, which stays non-finite from that step on.
    """

    async_safe = True

    def __init__(self, train_function: CompiledSteps):
        super().__init__()
        self.train_function = train_function  # `self.model` would fetch its state from the device

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.steps = epoch, 0

    def on_train_batch_end(self, batch, logs=None):
        losses = self.train_function.losses
        if not math.isfinite(logs["loss"]):
            step = self.steps + int(np.argmin(np.isfinite(ops.convert_to_numpy(losses)))) + 1
            self._stop(f"The loss is {float(logs['loss'])} in batch {step} of epoch {self.epoch + 1}")
        self.steps += len(losses)

    def on_epoch_end(self, epoch, logs=None):
        weights = {weight.path: ops.convert_to_numpy(weight) for weight in self.model.weights}  # the last step may spoil them
        for name, value in {**logs, **weights}.items():
            if not np.all(np.isfinite(value)):
                self._stop(f"{name} is not finite after epoch {epoch + 1}, whose last batch is {self.steps}")

    def _stop(self, what: str):
        kept = f"The checkpoint of epoch {self.epoch} is kept: the same training goes on from there." if self.epoch else ""
        raise TrainingError(f"{what}. Lower training.learning_rate, in another folder. {kept}".rstrip())


class _Recorder(keras.callbacks.Callback):
    """One line of metrics and a checkpoint after every epoch, each written so that an interruption cannot damage it."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        record = {"epoch": epoch + 1, **{rename_metric(name): float(value) for name, value in logs.items()}}
        record["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        record["seconds"] = round(time.perf_counter() - self.start, 3)
        # The checkpoint comes last: an interruption between the two repeats the epoch, and its line is written anew.
        lines = [*(line for line in read_metrics(self.folder) if line["epoch"] <= epoch), record]
        write_atomically(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
        save_atomically(self.model, self.folder / CHECKPOINT)


def rename_metric(name: str) -> str:
    """`val_rate` -> `validation_rate_nats`, as result files name quantities. The MMD has no unit."""
    return name.replace("val_", "validation_") + ("" if name.endswith("mmd") else "_nats")


def save_atomically(model: keras.Model, path: Path) -> None:
    """Save model, optimizer and state of the noise to a `.keras` file, so that no half of it ever bears that name."""
    with replacing(path) as temporary:
        model.save(temporary)


def load_saved(path: Path) -> keras.Model | None:
    """The model in a `.keras` file; `None` if there is none, or a damaged one, which is set aside with a warning.

    Raises:
        TrainingError: the file is whole, but no model that this version can load.
    """
    # Whatever is done with the model: training, renewal of the channel, measurement.
    keep_graphs_as_traced()
    keep_to_float32()
    if not path.exists():
        return None
    if damage := zip_damage(path):
        set_aside(path, damage)
        return None
    try:
        return keras.saving.load_model(path)
    except MISFITS as error:
        reason = str(error).strip().splitlines()[-1][:300]  # Keras first prints the whole configuration
        raise TrainingError(
            f"{path} cannot be loaded, perhaps because another version wrote it ({reason}). Move the folder away to train anew."
        ) from None


def train(config: Config, dataset: Dataset, folder: Path, *, validate: bool = False, callbacks: Callbacks = ()) -> keras.Model:
    """Train a model, or go on with a training that was interrupted.

    What was trained since the last whole epoch is lost then; all else goes on: weights, optimizer, step of the schedule, beta,
    reservoir and states of the noise are in the checkpoint, and the order of the images is a function of seed and epoch. A
    damaged checkpoint is set aside, and training begins anew.

    On the CPU a seed gives the same numbers to the last bit, resumed or not, in float32 and in mixed bfloat16, as long as
    TensorFlow has the same number of threads and the same kernels (`TF_ENABLE_ONEDNN_OPTS`, which `reproduce.py` sets). With
    another number of threads it sums in another order: a loss of 550 nats differed by 0.03 after 12 steps.

    Args:
        config: The configuration. It must be the one with which `folder` was begun.
        dataset: The data set; the training split is used, and the validation split if `validate`.
        folder: Existing folder for `metrics.jsonl` and the checkpoint of the latest epoch.
        validate: Boolean, measure the validation split after every epoch.
        callbacks: Further Keras callbacks.

    Returns:
        The trained model, with the weights of the last epoch.

    Raises:
        DataError: `validate` without a validation split.
        ConfigError: fewer training images than a batch needs, or a backend other than TensorFlow and JAX.
        TrainingError: loss or weights became NaN or infinite, or the checkpoint cannot be loaded.
        OSError: `folder` cannot be written.
    """
    validation = dataset.images("validation") if validate else None
    in_bfloat16 = config.training.dtype_policy == "mixed_bfloat16" and keras.backend.backend() == "tensorflow"
    if in_bfloat16 and on_cpu() and lacks_bfloat16():
        logger.warning(
            "%s: this processor has no AVX-512, without which a step in mixed_bfloat16 takes many times as long as in float32. "
            "Train with --dtype-policy float32 here.",
            folder,
        )
    keras.utils.set_random_seed(config.seed)
    images = dataset.raw("train")
    call_steps = CALL_STEPS_ON_CPU if on_cpu() else CALL_STEPS_ON_ACCELERATOR
    orders = BatchOrders(len(images), config.training.batch_size, config.seed, call_steps)
    sample = images[orders.order[:REFRESH_EXAMPLES]] / np.float32(dataset.white)
    epochs, echo_epochs = config.training.epochs, config.echo_epochs
    model, finished = load_saved(folder / CHECKPOINT), 0
    if model is None:
        model = build_model(config, dataset.shape, steps_per_epoch=orders.steps)
        model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step a second time, for its variables
    else:
        finished = int(ops.convert_to_numpy(model.optimizer.iterations)) // orders.steps
        if not finished:  # Keras only warns where the optimizer's variables are others than those of the file
            raise TrainingError(
                f"{folder / CHECKPOINT} has no state of its optimizer that can be loaded, perhaps because another version "
                "wrote it. Move the folder away to train anew."
            )
        logger.info("%s: resumed after %d epochs", folder, finished)
        if finished in (echo_epochs, epochs):
            model.refresh_channel(sample)  # as the end of a phase does, after its last checkpoint
    for until in sorted({echo_epochs or epochs, epochs}):
        if finished >= until:
            continue
        if finished == echo_epochs and not model.channel.has_density:
            model = build_gaussian_phase(model, config, sample, orders.steps)
        orders.start(finished)
        model.train_function = compiled_steps(model, images, dataset.white, orders.steps)
        own = [model.follow(sample), _Schedule(config), _StopAtNonFinite(model.train_function), _Recorder(folder)]
        keras.Model.fit(  # that of the model would take orders for examples
            model,
            as_input(orders),
            epochs=until,
            initial_epoch=finished,
            validation_data=validation,
            validation_batch_size=config.training.batch_size,
            callbacks=[*own, *callbacks],
            shuffle=False,  # the orders are
            verbose=0,
        )
        model.train_function, finished = None, until
    return model
