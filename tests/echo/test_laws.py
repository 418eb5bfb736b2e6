"""Noise of other laws than Echo's: what they keep, what they change, and that layers use them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from echo_tf.echo.dense import EchoDense
from echo_tf.echo.laws import redrawn
from echo_tf.echo.matrix_dense import MatrixEchoDense

LAYERS = (EchoDense, MatrixEchoDense)
COUNT = 20_000
# Of two values each, and correlated: the noise made of them has two peaks.
SIGNS = np.random.default_rng(0).normal(size=(400, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
SIGNS = np.sign(SIGNS).astype("float32")


def within(found, expected, se):
    """Whether estimates are within five standard errors."""
    return np.all(np.abs(found - expected) < 5 * se)


def correlation(values):
    return np.corrcoef(values, rowvar=False)[0, 1]


def kurtosis(values):
    centred = values - values.mean(axis=0)
    return np.mean(centred**4, axis=0) / np.mean(centred**2, axis=0) ** 2  # 3 of a Gaussian, 1 of two values


@pytest.mark.parametrize(("law", "correlated", "gaussian"), [("gaussian", True, True), ("independent", False, False)])
def test_redrawn_keeps_what_it_says(law, correlated, gaussian):
    drawn = np.asarray(redrawn(ops.convert_to_tensor(SIGNS), COUNT, law, seed=1))
    assert drawn.shape == (COUNT, 2)
    se = 1.0 / np.sqrt(COUNT)
    assert within(drawn.mean(axis=0), SIGNS.mean(axis=0), se)
    assert within(drawn.var(axis=0), SIGNS.var(axis=0), np.sqrt(2.0) * se)
    assert within(correlation(drawn), correlation(SIGNS) if correlated else 0.0, se)
    assert within(kurtosis(drawn), 3.0 if gaussian else kurtosis(SIGNS), np.sqrt(24.0) * se)


@pytest.mark.parametrize("law", ["gaussian", "independent"])
def test_gradient_goes_through_the_noise(law):
    noise = tf.Variable(SIGNS[:100])
    with tf.GradientTape() as tape:
        second = tf.reduce_mean(tf.square(redrawn(noise, 100, law, seed=1)))
    gradient = tape.gradient(second, noise)
    assert np.all(np.isfinite(gradient)) and np.mean(np.abs(gradient) > 0) > 0.5  # of columns drawn alone some rows are not


@pytest.mark.parametrize("law", ["gaussian", "independent"])
def test_maps_of_features_keep_their_shape(law):
    assert tuple(redrawn(ops.ones((7, 2, 3)), 5, law, seed=0).shape) == (5, 2, 3)


class TestLayers:
    """The noise of a layer with `f` of two correlated values and constant `S`, in training and from its reservoir."""

    LAWS = ("echo", "gaussian", "independent")

    @staticmethod
    def pairs(layer, rows):
        scale = np.full_like(rows, np.log(0.3)) if isinstance(layer, EchoDense) else np.tile(0.3 * np.eye(2), (len(rows), 1, 1))
        return ops.convert_to_tensor(rows), ops.convert_to_tensor(scale.astype("float32"))

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("layer", LAYERS)
    def test_noise_has_the_law(self, layer, law, training, repeated):
        layer = layer(2, d_max=49, noise=law, seed=0, reservoir_size=400)
        layer.build((None, 2))
        layer.source.reservoir.fill(*self.pairs(layer, SIGNS), seed=0)
        batch = self.pairs(layer, SIGNS[:100])
        values = SIGNS[:100] if training else SIGNS
        noise = repeated(lambda: layer.source.noise(*batch, training=training), 200)
        # Those of one call depend on each other: the standard error is that over calls.
        calls = [np.cov(one, rowvar=False)[0, 1] for one in noise]
        expected = np.cov(values, rowvar=False, bias=True)[0, 1] / (1 - 0.3**2)
        expected = 0.0 if law == "independent" else expected
        assert within(np.mean(calls), expected, np.std(calls) / 14 + 0.01)  # 1/n of the pairs that an example has no part in
        found = kurtosis(noise.reshape(-1, 2))
        assert np.all(found < 2.0) if law != "gaussian" else np.all(np.abs(found - 3.0) < 0.3)
        np.testing.assert_allclose(noise.reshape(-1, 2).var(axis=0), values.var(axis=0) / (1 - 0.3**2), rtol=0.1)

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("layer", LAYERS)
    def test_inference_does_not_depend_on_the_other_rows(self, layer, law, replaying):
        layer = layer(2, d_max=9, noise=law, seed=0)
        x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        layer(x, training=True)
        first = replaying(layer, lambda: np.asarray(layer(x[:5])))
        second = replaying(layer, lambda: np.asarray(layer(np.concatenate([x[:1], x[20:24]]))))
        np.testing.assert_allclose(first[0], second[0], rtol=1e-5)
        single = np.concatenate([np.asarray(layer(x[:1])) for _ in range(20)])
        assert np.all(single.std(axis=0) > 0.01)

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("layer", LAYERS)
    def test_standardised_by_the_moments_of_its_law(self, layer, law):
        layer = layer(3, d_max=99, noise=law, seed=0, reservoir_size=4_000)
        x = np.random.default_rng(0).normal(size=(4_000, 5)).astype("float32")
        layer.build((None, 5))
        layer.log_scale_head.bias.assign([0.0, 1.0, 2.0])
        if isinstance(layer, MatrixEchoDense):
            layer.below_head.bias.assign([0.9, 0.9, 0.9])
        layer.adapt(x)
        z = np.concatenate([np.asarray(layer(x)) for _ in range(4)])
        np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.1)
        np.testing.assert_allclose(z.var(axis=0), 1.0, atol=0.12)

    @pytest.mark.parametrize("layer", LAYERS)
    def test_save_and_load(self, layer, tmp_path):
        model = keras.Sequential([keras.Input((4,)), layer(2, d_max=9, noise="independent", seed=0)])
        model(np.ones((20, 4), "float32"), training=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras").layers[-1]
        assert loaded.noise == loaded.source.law == "independent"

    @pytest.mark.parametrize("layer", LAYERS)
    def test_no_such_law(self, layer):
        with pytest.raises(ValueError, match="`noise`"):
            layer(2, noise="uniform")
