import numpy as np
import pytest

import echo_tf
from echo_tf.evaluation import Evaluation, evaluate, rate_by_dimension


class _Recorder:
    """Stands for a model: the rate is the image's own value, the logits are 0."""

    def __init__(self):
        self.batches = []

    def predict_on_batch(self, images):
        self.batches.append(len(images))
        return {"rate": images[:, 0, 0, 0], "logits": np.zeros_like(images)}


def test_every_image_once_a_pass_in_batches_that_are_large_enough():
    images = np.linspace(0, 1, 270, dtype="float32")[:, None, None, None] * np.ones((1, 28, 28, 1), "float32")
    model = _Recorder()
    result = evaluate(model, images, batch_size=100, passes=2)
    assert model.batches == [135, 135] * 2
    np.testing.assert_allclose(result.rate, np.tile(images[:, 0, 0, 0], (2, 1)))
    np.testing.assert_allclose(result.distortion, 784 * np.log(2), rtol=1e-5)


def test_summary():
    rate = np.array([[1.0, 3.0], [2.0, 4.0]])  # passes have means 2 and 3, images 1.5 and 3.5
    summary = Evaluation(rate, 10 * rate).summary()
    assert summary["rate_nats"] == pytest.approx({"mean": 2.5, "se": 0.5, "se_images": 1.0})
    assert summary["neg_elbo_nats"] == pytest.approx({"mean": 27.5, "se": 5.5, "se_images": 11.0})


def test_of_a_model():
    model = echo_tf.build_model(echo_tf.load_config("echo", channel={"d_max": 9}))
    images = np.random.default_rng(0).uniform(size=(25, 28, 28, 1)).astype("float32")
    result = evaluate(model, images, batch_size=10, passes=2)
    np.testing.assert_allclose(result.rate[0], result.rate[1], rtol=1e-5)  # no noise in the rate
    assert not np.allclose(result.distortion[0], result.distortion[1])
    by_dimension = rate_by_dimension(model, images)
    assert by_dimension.sum() == pytest.approx(result.rate.mean(), rel=1e-5)
    assert np.all(by_dimension >= model.channel.echo.rate_floor(1) - 1e-6)
