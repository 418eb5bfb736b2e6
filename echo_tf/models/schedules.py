"""Optimizer and learning-rate schedule."""

import keras
from keras import ops

from echo_tf.models.config import TrainingConfig


@keras.saving.register_keras_serializable(package="echo_tf")
class ConstantThenLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Constant learning rate, then linear to 0, step by step.

    `rate(t) = learning_rate * min(1, (1 - t) / (1 - decay_start))` with `t = step / total_steps`.

    Args:
        learning_rate: Float, the constant.
        total_steps: Integer, the step at which 0 is reached.
        decay_start: Float in [0, 1], fraction of the steps after which the decay begins. At 1 there is none.

    Source: paper, section 5. Differs from the released code, which at the start of the second half drops to 1 % of the rate
        and then climbs back.
    """

    def __init__(self, learning_rate: float, total_steps: int, decay_start: float = 0.5):
        self.learning_rate, self.total_steps, self.decay_start = learning_rate, total_steps, decay_start

    def __call__(self, step):
        remaining = 1.0 - ops.cast(step, "float32") / self.total_steps
        decay = remaining / max(1.0 - self.decay_start, 1e-12)
        return self.learning_rate * ops.clip(decay, 0.0, 1.0)

    def get_config(self):
        return dict(vars(self))


@keras.saving.register_keras_serializable(package="echo_tf")
class ReleasedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate of the authors' code: constant, then a drop and a climb back, epoch by epoch.

    In epoch `e`, counted from 0, of `E` with `C = decay_start E`: `learning_rate` for `e <= C`, else
    `learning_rate (e - C) / (E - C)`. The paper says that it falls linearly to 0 there.

    Args:
        learning_rate: Float, the constant.
        total_steps: Integer.
        steps_per_epoch: Integer.
        decay_start: Float in [0, 1], fraction of the epochs.

    Source: the released code, with 200 epochs and 0.5.
    """

    def __init__(self, learning_rate: float, total_steps: int, steps_per_epoch: int, decay_start: float = 0.5):
        self.learning_rate, self.total_steps = learning_rate, total_steps
        self.steps_per_epoch, self.decay_start = steps_per_epoch, decay_start

    def __call__(self, step):
        epochs = self.total_steps / self.steps_per_epoch
        constant_until = self.decay_start * epochs
        epoch = ops.floor((ops.cast(step, "float32") + 0.5) / self.steps_per_epoch)  # + 0.5: no rounding at the border
        climbing = (epoch - constant_until) / max(epochs - constant_until, 1e-12)
        return self.learning_rate * ops.where(epoch <= constant_until, 1.0, climbing)

    def get_config(self):
        return dict(vars(self))


def make_optimizer(config: TrainingConfig, steps_per_epoch: int | None = None) -> keras.optimizers.Optimizer:
    """Adam of the paper, Keras' defaults otherwise.

    Args:
        config: Learning rate, schedule and number of epochs.
        steps_per_epoch: Integer; with it the learning rate follows the schedule, without it it is constant.

    Returns:
        The optimizer.

    Source: paper, section 5.
    """
    if steps_per_epoch is None:
        return keras.optimizers.Adam(config.learning_rate)
    total_steps, decay_start = config.epochs * steps_per_epoch, config.decay_start
    if config.schedule == "released":
        return keras.optimizers.Adam(ReleasedSchedule(config.learning_rate, total_steps, steps_per_epoch, decay_start))
    return keras.optimizers.Adam(ConstantThenLinear(config.learning_rate, total_steps, decay_start))
