import keras
import numpy as np
import pytest

from echo_tf.models.flows import MADE, AutoregressiveFlow


def randomise(layer, seed=0, size=0.2):
    """Weights far from their start."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, size, weight.shape) for weight in layer.get_weights()])


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
    randomise(layer)
    return layer


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


def test_map_is_that_of_double_precision_and_preserves_volume():
    layer = flow()
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    u, log_det = layer(x)
    np.testing.assert_allclose(u, double_precision_inverse(layer, x.astype("float64")), rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(u) - x).max() > 0.1
    np.testing.assert_array_equal(log_det, 0.0)
    numerical = jacobian(lambda v: double_precision_inverse(layer, v), x[0].astype("float64"), step=1e-6)
    assert np.linalg.slogdet(numerical)[1] == pytest.approx(0.0, abs=1e-6)


def test_inverse_of_forward_is_the_identity():
    # Every call makes a fresh bijector, whose cache knows nothing of the other.
    layer = flow()
    u = np.random.default_rng(2).normal(size=(10, 4)).astype("float32")
    x = np.asarray(layer.forward(u))
    assert np.abs(x - u).max() > 0.1
    np.testing.assert_allclose(layer(x + 0.0)[0], u, rtol=1e-3, atol=1e-3)


def test_density_integrates_to_one():
    layer = flow(dim=2)
    axis = np.linspace(-25.0, 25.0, 1001, dtype="float32")
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    u, log_det = (np.asarray(part, dtype=np.float64) for part in layer(points))
    density = np.exp(-0.5 * np.square(u).sum(axis=1) - np.log(2 * np.pi) + log_det)
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_every_input_is_used_however_narrow_the_layers():
    for width in (1, 3, 8, 9, 40):
        layer = MADE(10, (width, width))
        layer.build()
        layer.set_weights([np.ones(weight.shape) for weight in layer.get_weights()])
        matrix = jacobian(layer, np.ones(10, "float32"), step=np.float32(1e-2))
        np.testing.assert_array_equal(np.triu(matrix), 0.0)
        assert np.all(matrix[-1, :-1] != 0.0)


def test_order_is_reversed_from_step_to_step():
    layer = flow(steps=2)
    matrix = jacobian(lambda v: double_precision_inverse(layer, v), np.ones(4), step=1e-6)
    assert np.all(np.abs(matrix) > 1e-4)


def test_every_weight_is_trained_and_saved(tmp_path):
    inputs = keras.Input((4,))
    u, log_det = AutoregressiveFlow(4, hidden=(16, 16), name="flow")(inputs)
    model = keras.Model(inputs, keras.layers.Concatenate()([u, log_det[:, None]]))

    def negative_log_density(_, outputs):
        return keras.ops.mean(0.5 * keras.ops.sum(keras.ops.square(outputs[:, :-1]), axis=1) - outputs[:, -1])

    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=negative_log_density)
    assert len(model.trainable_weights) == 4 * 6
    before = model.get_weights()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model.fit(x, x, batch_size=64, epochs=2, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(weight, old), weight.path
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras", compile=False)
    np.testing.assert_array_equal(loaded(x), model(x))


def test_flow_learns_a_dependence():
    # x_2 = x_1^2 + noise of sd 1: a Gaussian cannot, two shifts can.
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    first = rng.normal(size=(2_000, 1))
    x = np.hstack([first, first**2 + rng.normal(size=(2_000, 1))]).astype("float32")
    layer = AutoregressiveFlow(2, steps=2, hidden=(16, 16))

    class Density(keras.Model):
        def __init__(self):
            super().__init__()
            self.flow = layer

        def call(self, x):
            u, log_det = self.flow(x)
            return 0.5 * keras.ops.sum(keras.ops.square(u), axis=1) + np.log(2 * np.pi) - log_det

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred)

    model = Density()
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    model.fit(x, batch_size=200, epochs=10, verbose=0)
    entropy = 2 * 0.5 * np.log(2 * np.pi * np.e)
    gaussian = 0.5 * np.linalg.slogdet(np.cov(x.T))[1] + np.log(2 * np.pi * np.e)
    reached = model.predict(x, verbose=0).mean()
    assert reached < entropy + 0.15
    assert gaussian > entropy + 0.4
