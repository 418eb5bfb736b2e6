import keras
import numpy as np
import pytest

from echo_tf.errors import ConfigError
from echo_tf.experiments.steps import BatchOrders, as_input, compiled_steps
from echo_tf.models.build import build_model


class TestBatchOrders:
    def epoch(self, orders):
        calls = [orders[i] for i in range(len(orders))]
        orders.on_epoch_end()
        return np.concatenate(calls).tolist()

    def test_epochs_are_different_orders_without_the_remainder(self):
        orders = BatchOrders(25, batch_size=10, seed=0, call_steps=1)
        first, second = self.epoch(orders), self.epoch(orders)
        assert np.shape(first) == (2, 10)
        assert len(set(np.ravel(first))) == 20
        assert first != second

    def test_order_is_a_function_of_seed_and_epoch(self):
        orders, resumed = (BatchOrders(25, batch_size=10, seed=3, call_steps=10) for _ in range(2))
        self.epoch(orders)
        resumed.start(epoch=1)
        assert self.epoch(orders) == self.epoch(resumed)
        assert self.epoch(BatchOrders(25, 10, 4, 1)) != self.epoch(BatchOrders(25, 10, 3, 1))

    @pytest.mark.parametrize(
        ("steps", "most", "lengths"),
        [(14, 10, [7, 7]), (27, 10, [9] * 3), (11, 10, [10, 1]), (3, 10, [3]), (500, 500, [500])],
    )
    def test_calls_have_one_length_where_that_costs_little(self, steps, most, lengths):
        orders = BatchOrders(2 * steps, batch_size=2, seed=0, call_steps=most)
        assert [len(orders[i]) for i in range(len(orders))] == lengths

    def test_data_sets_of_tensorflow_are_the_same_epochs_and_do_not_tune_themselves(self):
        """The thread that tunes a data set may hold up the end of an epoch for as long as the epoch took."""
        orders, expected = (BatchOrders(60, batch_size=10, seed=3, call_steps=4) for _ in range(2))
        data = as_input(orders)
        assert data.options().autotune.enabled is False
        assert data.cardinality() == len(orders) == 2
        expected.on_epoch_end()  # Keras ends an epoch before the first
        for _ in range(2):
            iter(data)  # Keras makes one that it does not use after each epoch
            assert np.concatenate([call for (call,) in data.as_numpy_iterator()]).tolist() == self.epoch(expected)

    def test_too_few_images(self):
        with pytest.raises(ConfigError, match="at most 25"):
            BatchOrders(25, batch_size=26, seed=0, call_steps=10)


def fitted(config, vectors, in_one_call, jit_compile=False):
    """Weights, optimizer, states of the noise and metrics after an epoch of three steps."""
    keras.utils.set_random_seed(0)
    model = build_model(config, vectors.shape, steps_per_epoch=3)
    model.optimizer.build(model.trainable_variables)
    model.jit_compile = jit_compile
    orders = BatchOrders(60, 20, seed=0, call_steps=10)
    if in_one_call:
        model.train_function = compiled_steps(model, vectors.raw("train"), vectors.white, 3)
        logs = keras.Model.fit(model, as_input(orders), shuffle=False, verbose=0).history
    else:
        orders.start(epoch=1)  # Keras looks at the data before the first epoch, and ends one then
        logs = keras.Model.fit(model, vectors.train[orders.order], batch_size=20, shuffle=False, verbose=0).history
    variables = [*model.weights, *model.optimizer.variables, *model.random_states]
    return [keras.ops.convert_to_numpy(variable) for variable in variables] + list(logs.values())


@pytest.mark.parametrize("method", ["echo", "iaf_mmd"])
def test_a_call_is_its_steps_one_by_one(method, vectors, tiny, caplog):
    config = tiny(method, flow={"hidden_units": 8})
    for found, expected in zip(fitted(config, vectors, True), fitted(config, vectors, False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # rounding of float32
    assert "loop of its own" not in caplog.text  # that of the call is the model's


@pytest.mark.slow
@pytest.mark.parametrize("method", ["echo_matrix", "iaf_maf", "vae_vamp"])
def test_a_call_can_be_compiled_by_xla(method, vectors, tiny):
    """As it is on a GPU, where Keras asks for it. XLA draws other random numbers."""
    config = tiny(method, flow={"hidden_units": 8})
    found, usual = fitted(config, vectors, True, jit_compile=True), fitted(config, vectors, True)
    assert all(np.all(np.isfinite(value)) for value in found)
    np.testing.assert_allclose(found[-3:], usual[-3:], atol=0.3)  # metrics of the epoch


@pytest.mark.parametrize("method", ["echo", "echo_matrix", "iaf_maf"])
def test_no_sum_of_three_whose_order_chance_decides(method, vectors, tiny):
    """TensorFlow's sum of many tensors begins with the one whose memory is free first."""
    model = build_model(tiny(method, flow={"hidden_units": 8}), vectors.shape, steps_per_epoch=3)
    model.optimizer.build(model.trainable_variables)
    steps = compiled_steps(model, vectors.raw("train"), vectors.white, 3)
    graph = steps.run.get_concrete_function(np.zeros((3, 20), "int32")).graph.as_graph_def()
    nodes = [node for function in graph.library.function for node in function.node_def]
    terms = [sum(not name.startswith("^") for name in node.input) for node in nodes if node.op == "AddN"]
    assert terms
    assert max(terms) == 2


def test_the_losses_of_a_call_are_the_means_up_to_each_step(vectors, tiny):
    model = build_model(tiny(), vectors.shape, steps_per_epoch=3)
    model.optimizer.build(model.trainable_variables)
    model.train_function = compiled_steps(model, vectors.raw("train"), vectors.white, 3)
    history = keras.Model.fit(model, as_input(BatchOrders(60, 20, seed=0, call_steps=10)), shuffle=False, verbose=0)
    losses = keras.ops.convert_to_numpy(model.train_function.losses)
    assert losses.shape == (3,)
    assert losses[-1] == pytest.approx(history.history["loss"][0], rel=1e-6)


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ConfigError, match="KERAS_BACKEND"):
        compiled_steps(None, np.zeros((2, 3)), 1, 1)
