import numpy as np
import pytest

import echo_tf
from echo_tf.experiments.evaluation import Evaluation, evaluate


class _Recorder:
    """Stands for a model and its channel: the rate is the example's first value, the distortion twice that."""

    def __init__(self):
        self.batches, self.laws, self.from_batch, self.channel = [], set(), False, self

    def echoes_from_batch(self, yes):
        self.from_batch = yes

    def predict_on_batch(self, images):
        self.laws.add(self.from_batch)
        self.batches.append(len(images))
        rate = images.reshape(len(images), -1)[:, 0]
        return {"rate": rate, "distortion": 2 * rate, "z": images}


@pytest.mark.parametrize("shape", [(28, 28, 1), (3,)])
def test_every_example_once_a_pass_in_batches_that_are_large_enough(shape):
    values = np.linspace(0, 1, 270, dtype="float32")
    model = _Recorder()
    result = evaluate(model, values.reshape(-1, *[1] * len(shape)) * np.ones(shape, "float32"), batch_size=100, passes=2)
    assert model.batches == [135, 135] * 2
    np.testing.assert_allclose(result.rate, np.tile(values, (2, 1)))
    np.testing.assert_allclose(result.distortion, 2 * result.rate)
    assert result.log_ratio is None


@pytest.mark.parametrize(("options", "from_batch"), [({}, False), ({"echoes": "batch"}, True)])
def test_echoes_are_those_of_inference_unless_asked_for(options, from_batch):
    model = _Recorder()
    evaluate(model, np.zeros((100, 3), "float32"), passes=2, **options)
    assert model.laws == {from_batch}
    assert not model.from_batch  # an inference of somebody else does not look at its batch


def test_summary():
    rate = np.array([[1.0, 3.0], [2.0, 4.0]])  # passes have means 2 and 3, images 1.5 and 3.5
    summary = Evaluation(rate, 10 * rate).summary()
    assert summary["rate_nats"] == pytest.approx({"mean": 2.5, "se": 0.5, "se_images": 1.0})
    assert summary["neg_elbo_nats"] == pytest.approx({"mean": 27.5, "se": 5.5, "se_images": 11.0})


def test_a_single_example_has_no_standard_error():
    summary = Evaluation(np.ones((2, 1)), np.ones((2, 1))).summary()  # and no warning
    assert summary["rate_nats"]["se"] == 0
    assert np.isnan(summary["rate_nats"]["se_images"])


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
    config = echo_tf.load_config(method, network={"latent_dim": 8}, flow={"hidden_units": 16}, prior={"components": 5})
    model = echo_tf.build_model(config, (12,))
    rng = np.random.default_rng(0)
    # Encoders far from the marginal, so that the bound is loose.
    for weight in model.channel.trainable_weights:
        weight.assign(weight + rng.normal(0, 0.2, weight.shape))
    result = evaluate(model, rng.uniform(size=(100, 12)).astype("float32"), passes=32)
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
    model = echo_tf.build_model(echo_tf.load_config("echo", channel={"d_max": 9}), (12,))
    examples = np.random.default_rng(0).uniform(size=(25, 12)).astype("float32")
    result = evaluate(model, examples, batch_size=10, passes=2)
    np.testing.assert_allclose(result.rate[0], result.rate[1], rtol=1e-5)  # no noise in the rate
    assert not np.allclose(result.distortion[0], result.distortion[1])
