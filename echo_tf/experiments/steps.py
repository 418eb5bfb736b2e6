"""Many training steps in one compiled call, on images that stay on the device."""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from echo_tf.echo.checks import Tensor
from echo_tf.errors import ConfigError

# Most steps in a call. The progress bar moves, and an interruption comes through, between calls only: about every second.
CALL_STEPS_ON_CPU, CALL_STEPS_ON_ACCELERATOR = 10, 500


def on_cpu() -> bool:
    """Whether Keras computes on processors alone."""
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def keep_graphs_as_traced() -> None:
    """Turn off TensorFlow's optimizer of graphs, which joins sums of two to one of many, whose order chance decides.

    See `_summing_in_pairs`. Its arithmetic part does that, but with only that turned off 4 of 15 trainings of a seed differed
    still.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def keep_to_float32() -> None:
    """Turn off TensorFloat-32, in which TensorFlow multiplies float32 numbers on GPUs, with relative errors of about 1e-3."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)


class BatchOrders(keras.utils.PyDataset):
    """Rows of the images that make up the batches of an epoch, those of one call at a time: integers `(steps, batch_size)`.

    The order is a function of seed and epoch, so that a resumed training sees the same batches as an uninterrupted one.
    Incomplete batches are left out, as in the released code: Echo needs `d_max` other examples.

    Args:
        images: Integer, number of images.
        batch_size: Integer.
        seed: Integer.
        call_steps: Integer, most batches at a time.

    Raises:
        ConfigError: fewer than `batch_size` images.
    """

    def __init__(self, images: int, batch_size: int, seed: int, call_steps: int):
        super().__init__()
        if images < batch_size:
            raise ConfigError(
                f"Invalid value for `training.batch_size`. Expected at most {images}, the number of training images. "
                f"Received: {batch_size}"
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.steps = images // batch_size
        # Calls of one length where they are not much shorter for it: JAX compiles each length.
        most = min(call_steps, self.steps)
        self.call_steps = next((n for n in range(most, most // 2, -1) if self.steps % n == 0), most)
        self.start(epoch=0)

    def start(self, epoch: int) -> None:
        """Go to the beginning of an epoch, counted from 0."""
        self.epoch = epoch
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        self.order = order[: self.steps * self.batch_size].astype("int32")

    def __len__(self):
        return math.ceil(self.steps / self.call_steps)

    def __getitem__(self, index):
        return self.order.reshape(self.steps, self.batch_size)[index * self.call_steps :][: self.call_steps]

    def on_epoch_end(self):
        self.start(self.epoch + 1)


def as_input(orders: BatchOrders) -> Any:
    """`orders` as `fit` takes them: on TensorFlow a `tf.data.Dataset` that does not tune itself.

    Of any other input Keras makes a data set with a thread that tunes it. At the end of an epoch that thread is woken to stop,
    but may look for the order to stop before it is on record (`Model::OptimizeLoop` and `CancellationManager::StartCancel` in
    TensorFlow 2.21). Then it sleeps on, and `fit` waits for it: for as long as the epoch took, a minute at most.
    """
    if keras.backend.backend() != "tensorflow":
        return orders
    import tensorflow as tf

    def calls():
        orders.on_epoch_end()  # before the first epoch too, as Keras does with a `PyDataset`
        for call in range(len(orders)):
            yield (orders[call],)

    options = tf.data.Options()
    options.autotune.enabled = False
    signature = (tf.TensorSpec((None, orders.batch_size), "int32"),)
    data = tf.data.Dataset.from_generator(calls, output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(len(orders))).prefetch(1).with_options(options)


class CompiledSteps:
    """The `train_function` of a Keras model that is fitted to `BatchOrders`: all steps of a call in one compiled loop.

    Each is the step of `keras.Model`, on images that lie on the device as they are stored. To `fit` and its callbacks a call
    is a batch. A step costs the host 0.1 to 0.2 ms then (results/benchmarks/README.md).

    Args:
        model: A built and compiled Keras model.
        images: Array of shape `(n, ...)`, uint8 or float32.
        white: Stored value that stands for 1.0.
        steps_per_epoch: Integer, for progress bars.

    Attributes:
        losses: Of every step of the last call, the mean loss of the epoch up to it.
    """

    losses: Any = ()

    def __init__(self, model: keras.Model, images: np.ndarray, white: int, steps_per_epoch: int):
        self.scale, self.steps_per_epoch = np.float32(1.0 / white), steps_per_epoch
        self.images = ops.convert_to_tensor(images)

    def _batch(self, images: Tensor, rows: Tensor) -> tuple[Tensor]:
        return (ops.cast(ops.take(images, rows, axis=0), "float32") * self.scale,)


def _summing_in_pairs(model: keras.Model, x: Tensor) -> Tensor:
    """`model.train_step` in a graph of TensorFlow, with gradients that are always summed in the same order.

    Where a tensor is used three times or more, `tf.GradientTape` adds its gradients by `tf.add_n`. That begins with the one
    whose memory is free first, which the clock decides: after about a hundred steps a seed gave other last bits.

    Returns:
        The mean loss of the epoch up to here.
    """
    import tensorflow as tf

    with model.own_step():
        loss = model.compute_loss(x=x, y_pred=model(x, training=True), training=True)
    tracker = next(metric for metric in model.metrics if metric.name == "loss")
    tracker.update_state(loss)  # batches are all of one size
    weights = model.trainable_variables
    gradients = tf.gradients(
        model.optimizer.scale_loss(loss),
        [weight.value for weight in weights],
        aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
    )
    model.optimizer.apply(gradients, weights)
    return tracker.result()


class _TensorFlowSteps(CompiledSteps):
    def __init__(self, model, *data):
        import tensorflow as tf

        super().__init__(model, *data)

        @tf.autograph.experimental.do_not_convert
        def run(orders):
            steps = tf.shape(orders)[0]

            def step(i, losses):
                return i + 1, losses.write(i, _summing_in_pairs(model, *self._batch(self.images, orders[i])))

            losses = tf.TensorArray("float32", steps, element_shape=())
            _, losses = tf.while_loop(lambda i, losses: i < steps, step, (0, losses))
            return model.get_metrics_result(), losses.stack()

        self.run = tf.function(run, reduce_retracing=True, jit_compile=model.jit_compile)

    def __call__(self, iterator):
        logs, self.losses = self.run(*next(iterator))
        return logs


class _JaxSteps(CompiledSteps):
    def __init__(self, model, *data):
        import jax

        super().__init__(model, *data)

        @functools.partial(jax.jit, donate_argnums=0)
        def run(state, images, orders):
            def step(state, rows):
                logs, state = model.train_step(state, self._batch(images, rows))
                return state, logs

            state, logs = jax.lax.scan(step, state, orders)
            return {name: values[-1] for name, values in logs.items()}, logs["loss"], state

        self.run = run

    def __call__(self, state, iterator):
        logs, self.losses, state = self.run(state, self.images, *next(iterator))
        return logs, state


def compiled_steps(model: keras.Model, images: np.ndarray, white: int, steps_per_epoch: int) -> CompiledSteps:
    """`CompiledSteps` for the backend of Keras.

    Raises:
        ConfigError: a backend other than TensorFlow and JAX.
    """
    backends = {"tensorflow": _TensorFlowSteps, "jax": _JaxSteps}
    if keras.backend.backend() not in backends:
        raise ConfigError(
            f"Expected tensorflow or jax as the backend of Keras for training. Found: {keras.backend.backend()}. Set "
            "KERAS_BACKEND."
        )
    return backends[keras.backend.backend()](model, images, white, steps_per_epoch)
