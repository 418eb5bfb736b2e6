import keras
import numpy as np
import pytest
import tensorflow as tf

from echo_tf.models.flows import MADE, AutoregressiveFlow


def randomise(layer, seed=0, size=0.3):
    """Weights far from their start, and biases that are not 0."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, size, weight.shape) for weight in layer.get_weights()])
    return layer


def jacobian(function, x, step):
    """Numerical Jacobian d output_i / d input_j at one point, by central differences."""
    columns = []
    for j in range(len(x)):
        moved = np.stack([x, x])
        moved[:, j] += [-step, step]
        low, high = np.asarray(function(moved))
        columns.append((high - low) / (moved[1, j] - moved[0, j]))
    return np.stack(columns, axis=1)


def double_precision_inverse(layer, x):
    """The layer's map in NumPy, float64, from its weights: every step `x_j - shift_j`."""
    for network in layer.networks:
        h = x
        for i, (kernel, bias, mask) in enumerate(zip(network.kernels, network.biases, network.masks, strict=True)):
            h = (h if i == 0 else np.maximum(h, 0.0)) @ (np.asarray(kernel, "float64") * mask) + np.asarray(bias, "float64")
        x = x - h
    return x


def flow(dim=4, **options):
    layer = AutoregressiveFlow(dim, hidden=(16, 16), **options)
    layer.build()
    return randomise(layer)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [(64,), (64, 32)])
def test_made_is_autoregressive(reverse, hidden):
    layer = MADE(5, hidden, reverse=reverse)
    layer.build()
    randomise(layer)
    points = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")  # at one of them some unit may be dead
    matrix = sum(np.abs(jacobian(layer, x, step=np.float32(1e-3))) for x in points)
    matrix = matrix[::-1, ::-1] if reverse else matrix
    np.testing.assert_array_equal(np.triu(matrix), 0.0)
    # Each output is free to depend on every input before it.
    assert np.all(matrix[np.tril_indices(5, -1)] != 0.0)


def test_made_of_one_dimension_is_constant():
    np.testing.assert_array_equal(MADE(1, (8,))(np.array([[1.0], [2.0]])), 0.0)


@pytest.mark.parametrize("width", [1, 3, 8, 9, 40])
def test_every_input_is_used_however_narrow_the_layers(width):
    layer = MADE(10, (width, width))
    layer.build()
    layer.set_weights([np.ones(weight.shape) for weight in layer.get_weights()])
    matrix = jacobian(layer, np.ones(10, "float32"), step=np.float32(1e-2))
    np.testing.assert_array_equal(np.triu(matrix), 0.0)
    assert np.all(matrix[-1, :-1] != 0.0)


def test_map_and_determinant_equal_double_precision():
    layer = flow()
    x = np.random.default_rng(1).normal(size=4).astype("float32").astype("float64")
    u, log_det = (np.asarray(part)[0] for part in layer(x[None].astype("float32")))
    np.testing.assert_allclose(u, double_precision_inverse(layer, x), rtol=1e-5, atol=1e-5)
    assert np.abs(u - x).max() > 0.1
    matrix = jacobian(lambda v: double_precision_inverse(layer, v), x, step=1e-6)
    assert np.linalg.slogdet(matrix)[1] == pytest.approx(0.0, abs=1e-6)  # shifts preserve volume
    assert log_det == 0.0


def test_inverse_of_forward_is_the_identity():
    # Every call makes a fresh bijector, whose cache knows nothing of the other.
    layer = flow()
    u = np.random.default_rng(2).normal(size=(10, 4)).astype("float32")
    x = np.asarray(layer.forward(u))
    assert np.abs(x - u).max() > 0.1
    np.testing.assert_allclose(layer(x + 0.0)[0], u, rtol=1e-4, atol=1e-4)


def test_order_is_reversed_from_step_to_step():
    layer = flow(steps=2)
    matrix = jacobian(lambda v: double_precision_inverse(layer, v), np.ones(4), step=1e-6)
    assert np.all(np.abs(matrix) > 1e-4)


def test_every_weight_has_a_gradient_and_is_saved(tmp_path):
    inputs = keras.Input((4,))
    layer = AutoregressiveFlow(4, hidden=(16, 16), name="flow")
    model = keras.Model(inputs, layer(inputs))
    assert len(model.trainable_weights) == 4 * 6
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x)[0]))
    for weight, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights), strict=True):
        assert np.any(np.asarray(gradient) != 0), weight.path
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded(x)[0], model(x)[0])


def test_flow_learns_a_dependence():
    # x_2 = x_1^2 + noise: a Gaussian cannot, two steps can.
    rng = np.random.default_rng(0)
    first = rng.normal(size=(2_000, 1))
    x = np.hstack([first, first**2 + rng.normal(size=(2_000, 1))]).astype("float32")
    layer, adam = AutoregressiveFlow(2, steps=2, hidden=(32, 32)), keras.optimizers.Adam(1e-2)
    layer.build()
    adam.build(layer.trainable_variables)

    @tf.function
    def step(batch):
        with tf.GradientTape() as tape:
            u, log_det = layer(batch)
            loss = tf.reduce_mean(0.5 * tf.reduce_sum(tf.square(u), axis=1) + np.log(2 * np.pi) - log_det)
        adam.apply(tape.gradient(loss, layer.trainable_variables))
        return loss

    for batch in np.array_split(np.tile(x, (12, 1)), 120):
        step(batch)
    entropy = np.log(2 * np.pi * np.e)
    gaussian = 0.5 * np.linalg.slogdet(np.cov(x.T))[1] + entropy
    assert gaussian > entropy + 0.4
    assert step(x) < entropy + 0.1
