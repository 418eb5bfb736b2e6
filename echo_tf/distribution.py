"""One training on several devices: each batch is split among replicas of the model."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from echo_tf.errors import ConfigError

logger = logging.getLogger(__name__)

# Between the seeds of two replicas: more than those of a model are apart.
SEED_STRIDE = 2**32


@contextmanager
def split_among(replicas: int) -> Iterator[None]:
    """Build and train models within this block so that each batch is split among so many devices, GPUs if there are any.

    On TensorFlow by `tf.distribute.MirroredStrategy`: a replica makes its noise, moments and reservoir from its own share of
    the batch, with random numbers of its own. On JAX by `keras.distribution.DataParallel`, one program on a batch that is
    spread over the devices: echoes come from the whole of it.

    Args:
        replicas: Integer >= 1; 1 changes nothing.

    Raises:
        ConfigError: fewer devices, or another backend.
    """
    if replicas == 1:
        yield
        return
    devices = keras.distribution.list_devices()
    devices = [device for device in devices if not device.startswith("cpu")] or devices
    if len(devices) < replicas:
        raise ConfigError(
            f"Invalid value for `training.replicas`. Expected at most {len(devices)}, the number of devices here "
            f"({', '.join(devices)}). Received: {replicas}"
        )
    devices = devices[:replicas]
    logger.info("Each batch is split among %s.", ", ".join(devices))
    if keras.backend.backend() == "tensorflow":
        with _mirrored_strategy(tuple(devices)).scope():
            yield
    elif keras.backend.backend() == "jax":
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)
    else:
        raise ConfigError(
            f"Invalid value for `training.replicas`. Expected 1 on the backend {keras.backend.backend()}. Received: {replicas}"
        )


@functools.cache
def _mirrored_strategy(devices: tuple[str, ...]):
    """One strategy for a process: a second would number its collective operations like the first, whose shapes are in force."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)


def replica_count() -> int:
    """Number of programs that share a batch, each of which sees only its own part: 1 but within `MirroredStrategy`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


@keras.saving.register_keras_serializable(package="echo_tf")
class SeedGenerator(keras.random.SeedGenerator):
    """Keras' seed generator, but with other numbers on each replica of `MirroredStrategy`; the first has those of Keras'."""

    def next(self, ordered=True):
        seed = super().next(ordered)
        if replica_count() == 1:
            return seed
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None:
            return seed
        shift = ops.cast(context.replica_id_in_sync_group, seed.dtype) * SEED_STRIDE
        return seed + ops.stack([shift, ops.zeros_like(shift)])
