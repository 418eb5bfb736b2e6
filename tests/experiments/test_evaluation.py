import numpy as np
import pytest

import echo_tf
from echo_tf.experiments.evaluation import Evaluation, evaluate


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


def test_importance_bound():
    rate, distortion, log_ratio = np.random.default_rng(0).normal(100.0, 3.0, (3, 4, 5))
    result = Evaluation(rate, distortion, log_ratio)
    weights = np.exp(300.0 - distortion - log_ratio)  # of the model, times exp(300)
    np.testing.assert_allclose(result.importance_bound, 300.0 - np.log(weights.mean(axis=0)))
    summary = result.summary()["importance_bound_nats"]
    assert summary["mean"] == pytest.approx(result.importance_bound.mean())
    assert "importance_bound_nats" not in Evaluation(rate, distortion).summary()


@pytest.mark.parametrize("method", ["vae_vamp", "iaf_maf"])
def test_importance_bound_of_a_model_falls_with_the_number_of_samples(method):
    model = echo_tf.build_model(
        echo_tf.load_config(method, network={"latent_dim": 8}, flow={"hidden_units": 16}, prior={"components": 5})
    )
    rng = np.random.default_rng(0)
    # Encoders far from the marginal, so that the bound is loose.
    for weight in model.channel.trainable_weights:
        weight.assign(weight + rng.normal(0, 0.2, weight.shape))
    images = rng.uniform(size=(100, 28, 28, 1)).astype("float32")
    result = evaluate(model, images, passes=32)
    # -ELBO is the bound of one sample in expectation.
    bounds = [(result.rate + result.distortion).mean()]
    for k in (1, 2, 8, 32):
        parts = [
            Evaluation(*(v[i : i + k] for v in (result.rate, result.distortion, result.log_ratio))) for i in range(0, 32, k)
        ]
        bounds.append(np.mean([part.importance_bound.mean() for part in parts]))
    error = (result.rate + result.distortion + result.log_ratio).mean(axis=1).std(ddof=1) / np.sqrt(32)
    assert abs(bounds[1] - bounds[0]) < 5 * error
    assert bounds[1] > bounds[2] > bounds[3] > bounds[4]


def test_of_a_model():
    model = echo_tf.build_model(echo_tf.load_config("echo", channel={"d_max": 9}))
    images = np.random.default_rng(0).uniform(size=(25, 28, 28, 1)).astype("float32")
    result = evaluate(model, images, batch_size=10, passes=2)
    np.testing.assert_allclose(result.rate[0], result.rate[1], rtol=1e-5)  # no noise in the rate
    assert not np.allclose(result.distortion[0], result.distortion[1])
