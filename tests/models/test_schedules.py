import keras
import numpy as np
import pytest

from echo_tf.models.config import TrainingConfig
from echo_tf.models.schedules import ConstantThenLinear, ReleasedSchedule, make_optimizer


def test_constant_then_linear_to_zero():
    schedule = ConstantThenLinear(3e-4, total_steps=200, decay_start=0.5)
    rates = [float(schedule(step)) for step in (0, 99, 100, 150, 199, 200, 250)]
    np.testing.assert_allclose(rates, [3e-4, 3e-4, 3e-4, 1.5e-4, 3e-6, 0, 0], rtol=1e-4, atol=1e-12)


def test_without_decay():
    schedule = ConstantThenLinear(1e-3, total_steps=10, decay_start=1.0)
    assert float(schedule(9)) == pytest.approx(1e-3)


@pytest.mark.parametrize("schedule", [ConstantThenLinear(1e-3, 10, 0.25), ReleasedSchedule(1e-3, 10, 5, 0.25)])
def test_survives_its_config(schedule):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    assert [float(again(step)) for step in range(10)] == [float(schedule(step)) for step in range(10)]


def test_optimizer_follows_the_configuration():
    for schedule, expected in (
        ("linear", ConstantThenLinear(1e-3, 70, 0.25)),
        ("released", ReleasedSchedule(1e-3, 70, 7, 0.25)),
    ):
        config = TrainingConfig(epochs=10, learning_rate=1e-3, decay_start=0.25, schedule=schedule)
        optimizer = make_optimizer(config, steps_per_epoch=7)
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert optimizer.get_config()["learning_rate"]["config"] == expected.get_config()
    assert float(make_optimizer(TrainingConfig()).learning_rate) == pytest.approx(3e-4)


def test_released_schedule_drops_and_climbs():
    schedule = make_optimizer(TrainingConfig(schedule="released"), steps_per_epoch=500).get_config()["learning_rate"]
    schedule = ReleasedSchedule(**schedule["config"])
    epochs = {0: 3e-4, 99: 3e-4, 100: 3e-4, 101: 3e-6, 110: 3e-5, 150: 1.5e-4, 199: 2.97e-4}
    for epoch, rate in epochs.items():
        for step in (0, 250, 499):
            assert float(schedule(500 * epoch + step)) == pytest.approx(rate, rel=1e-4)
