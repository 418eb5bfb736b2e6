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
from echo_tf.errors import ConfigError, TrainingError
from echo_tf.experiments.processor import lacks_bfloat16
from echo_tf.experiments.records import CHECKPOINT, METRICS, read_metrics
from echo_tf.files import replacing, set_aside, write_atomically, zip_damage
from echo_tf.models.build import build_model
from echo_tf.models.config import Config

logger = logging.getLogger(__name__)

Callbacks = Sequence[keras.callbacks.Callback]


class ImageBatches(keras.utils.PyDataset):
    """Shuffled batches of stored examples as float32, without the last incomplete one.

    The order is a function of seed and epoch, so that a resumed training sees the same batches as an uninterrupted one.
    Incomplete batches are left out, as in the released code: Echo needs `d_max` other examples.

    Args:
        images: Array of shape `(n, ...)`, uint8 or float32.
        white: Stored value that stands for 1.0.
        batch_size: Integer.
        seed: Integer.

    Raises:
        ConfigError: fewer than `batch_size` images.
    """

    def __init__(self, images: np.ndarray, white: int, batch_size: int, seed: int):
        super().__init__()
        if len(images) < batch_size:
            raise ConfigError(
                f"Invalid value for `training.batch_size`. Expected at most {len(images)}, the number of training images. "
                f"Received: {batch_size}"
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.scale = np.float32(1.0 / white)
        self.start(epoch=0)

    def start(self, epoch: int) -> None:
        """Go to the beginning of an epoch, counted from 0."""
        self.epoch = epoch
        self.order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.images))

    def __len__(self):
        return len(self.images) // self.batch_size

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size :][: self.batch_size]
        return self.images[rows].astype(np.float32) * self.scale

    def on_epoch_end(self):
        self.start(self.epoch + 1)


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

        if epoch == epochs(config.channel.renormalise_at):
            self.model.channel.renormalise()
        if config.training.beta_warmup:
            self.model.beta.assign(config.beta * min(1.0, (epoch + 1) / epochs(config.training.beta_warmup)))
        if config.mmd.weight and config.mmd.warmup:
            self.model.penalty.weight.assign(config.mmd.weight * min(1.0, epoch / epochs(config.mmd.warmup)))


class _StopAtNonFinite(keras.callbacks.Callback):
    """Raise `TrainingError` at the first step whose loss is NaN or infinite, before the epoch is recorded.

    The loss in the logs is the mean over the epoch so far, which stays non-finite from that step on. Keras has made it a
    Python float by then, whatever the callbacks (on TensorFlow at every step, on JAX in another thread if all callbacks are
    `async_safe`), so that looking at it costs nothing.
    """

    async_safe = True

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self._stop(f"The loss is {logs['loss']} in batch {batch + 1} of epoch {self.epoch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        weights = {
            weight.path: ops.convert_to_numpy(weight) for weight in self.model.weights
        }  # the last step may have spoilt them
        for name, value in {**logs, **weights}.items():
            if not np.all(np.isfinite(value)):
                self._stop(f"{name} is not finite after epoch {epoch + 1}, whose last batch is {self.params['steps']}")

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
    if not path.exists():
        return None
    if damage := zip_damage(path):
        set_aside(path, damage)
        return None
    try:
        return keras.saving.load_model(path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1][:300]  # Keras first prints the whole configuration
        raise TrainingError(
            f"{path} cannot be loaded, perhaps because another version wrote it ({reason}). Move the folder away to train anew."
        ) from None


def _on_tensorflow_cpu() -> bool:
    return keras.backend.backend() == "tensorflow" and all(
        device.startswith("cpu") for device in keras.distribution.list_devices()
    )


def train(config: Config, dataset: Dataset, folder: Path, *, validate: bool = False, callbacks: Callbacks = ()) -> keras.Model:
    """Train a model, or go on with a training that was interrupted.

    What was trained since the last whole epoch is lost then; all else goes on: weights, optimizer, step of the schedule, beta,
    reservoir and states of the noise are in the checkpoint, and the order of the images is a function of seed and epoch. A
    damaged checkpoint is set aside, and training begins anew.

    On the CPU a seed gives the same numbers to the last bit, resumed or not, in float32 and in mixed bfloat16, as long as
    TensorFlow has the same number of threads and the same kernels (`TF_ENABLE_ONEDNN_OPTS`): another number of threads (other
    cores, `taskset`) sums in another order, and a loss of 550 nats differed by 0.03 after 12 steps. `enable_op_determinism()`
    gives the same numbers as without it there, and is not needed.

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
        ConfigError: fewer training images than a batch needs.
        TrainingError: loss or weights became NaN or infinite, or the checkpoint cannot be loaded.
        OSError: `folder` cannot be written.
    """
    validation = dataset.images("validation") if validate else None
    if config.training.dtype_policy == "mixed_bfloat16" and _on_tensorflow_cpu() and lacks_bfloat16():
        logger.warning(
            "%s: this processor has no AVX-512, without which a step in mixed_bfloat16 takes many times as long as in float32. "
            "Train with --dtype-policy float32 here.",
            folder,
        )
    keras.utils.set_random_seed(config.seed)
    batches = ImageBatches(dataset.raw("train"), dataset.white, config.training.batch_size, config.seed)
    model, finished = load_saved(folder / CHECKPOINT), 0
    if model is None:
        model = build_model(config, dataset.shape, steps_per_epoch=len(batches))
        model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step a second time, for its variables
    else:
        finished = int(ops.convert_to_numpy(model.optimizer.iterations)) // len(batches)
        batches.start(finished)
        logger.info("%s: resumed after %d epochs", folder, finished)
    model.fit(
        batches,
        epochs=config.training.epochs,
        initial_epoch=finished,
        validation_data=validation,
        validation_batch_size=config.training.batch_size,
        callbacks=[_Schedule(config), _StopAtNonFinite(), _Recorder(folder), *callbacks],
        shuffle=False,  # ImageBatches does
        verbose=0,
    )
    return model
