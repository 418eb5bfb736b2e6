"""Optimizer and learning-rate schedule."""

import keras
from keras import ops

from echo_tf.config import TrainingConfig


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
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.decay_start = decay_start

    def __call__(self, step):
        remaining = 1.0 - ops.cast(step, "float32") / self.total_steps
        decay = remaining / max(1.0 - self.decay_start, 1e-12)
        return self.learning_rate * ops.clip(decay, 0.0, 1.0)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "decay_start": self.decay_start,
        }


def make_optimizer(config: TrainingConfig, steps_per_epoch: int | None = None) -> keras.optimizers.Optimizer:
    """Adam of the paper (Keras' defaults otherwise); with `steps_per_epoch` it follows the schedule, else a constant rate."""
    if steps_per_epoch is None:
        return keras.optimizers.Adam(config.learning_rate)
    total_steps = config.epochs * steps_per_epoch
    return keras.optimizers.Adam(ConstantThenLinear(config.learning_rate, total_steps, config.decay_start))
