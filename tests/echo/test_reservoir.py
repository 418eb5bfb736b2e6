"""The reservoir, and what it does for the noise of the bare layer; `EchoDense` and `MatrixEchoLayer` use the same one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy.stats import ks_2samp

from echo_tf.echo.dense import EchoDense
from echo_tf.echo.layer import EchoLayer
from echo_tf.echo.noise import echo_moments
from echo_tf.echo.reservoir import Reservoir

SAMPLERS = ("ring", "gather")


def pairs(batch, dim=3, seed=0):
    """Random (mean, log_scale), float32."""
    rng = np.random.default_rng(seed)
    mean, log_scale = rng.uniform(-1, 1, (batch, dim)), np.log(rng.uniform(0.1, 0.9, (batch, dim)))
    return mean.astype("float32"), log_scale.astype("float32")


def noise(layer, pair, training=False):
    return layer.source.noise(pair[0], layer.bounded(pair[1]), training)


def made(layer, shape=(None, 3)):
    layer.build([shape] * 2)
    return layer


class TestPairs:
    @staticmethod
    def reservoir(size=30):
        reservoir = Reservoir(size, lambda mean, scale, seed: mean, seed=None)
        reservoir.build((None, 3), (None, 3))
        return reservoir

    def test_the_latest_are_in_front_and_the_oldest_fall_out(self):
        reservoir, batches = self.reservoir(), [pairs(20, seed=seed) for seed in range(3)]
        for batch in batches:
            reservoir.store(*batch)
        for kept, (latest, before) in zip(reservoir.pairs, zip(batches[2], batches[1], strict=True), strict=True):
            np.testing.assert_array_equal(kept, np.concatenate([latest, before[:10]]))
        reservoir.store(*pairs(50, seed=4))
        np.testing.assert_array_equal(reservoir.pairs[0], pairs(50, seed=4)[0][:30])

    def test_the_first_batch_fills_it(self):
        reservoir, (mean, log_scale) = self.reservoir(), pairs(20)
        assert not reservoir.is_filled and not np.any(reservoir.draw(5))
        reservoir.store(mean, log_scale)
        assert reservoir.is_filled
        np.testing.assert_array_equal(reservoir.pairs[0], np.concatenate([mean, mean[:10]]))
        np.testing.assert_array_equal(reservoir.pairs[1], np.concatenate([log_scale, log_scale[:10]]))

    def test_counts_the_examples(self):
        reservoir, counts = self.reservoir(), []
        for batch in (pairs(1), pairs(20, seed=1), pairs(20, seed=2)):
            reservoir.store(*batch)
            counts.append(float(reservoir.filled))
        assert counts == [1, 21, 30]
        reservoir.fill(*pairs(7), seed=0)
        assert float(reservoir.filled) == 7

    def test_a_first_example_fills_it_with_the_second_batch(self):
        reservoir, first, second = self.reservoir(), pairs(1), pairs(4, seed=1)
        reservoir.store(*first)
        np.testing.assert_array_equal(reservoir.pairs[0], np.repeat(first[0], 30, 0))
        reservoir.store(*second)
        np.testing.assert_array_equal(reservoir.pairs[0], np.tile(np.concatenate([second[0], first[0]]), (6, 1)))

    def test_a_file_that_does_not_count_is_full(self):
        reservoir, loaded, stored = self.reservoir(), self.reservoir(), {}
        reservoir.store(*pairs(20))
        reservoir.filled.assign(1.0)
        reservoir.save_own_variables(stored)
        loaded.load_own_variables(stored)
        assert float(loaded.filled) == 30
        loaded.store(*pairs(4, seed=1))
        np.testing.assert_array_equal(loaded.pairs[0][4:], reservoir.pairs[0][:26])

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("which", [0, 1])
    def test_a_batch_that_is_not_finite_is_dropped(self, wrong, which):
        reservoir, bad = self.reservoir(), pairs(20, seed=1)
        bad[which][3, 1] = wrong
        reservoir.store(*bad)
        assert not reservoir.is_filled
        reservoir.store(*pairs(20))
        kept = [values.numpy() for values in reservoir.pairs]
        reservoir.store(*bad)
        assert reservoir.is_filled
        for values, before in zip(reservoir.pairs, kept, strict=True):
            np.testing.assert_array_equal(values, before)

    def test_fill_keeps_a_random_sample(self):
        reservoir, rows = self.reservoir(), np.arange(200.0)[:, None] * np.ones(3)
        reservoir.fill(rows, -rows, seed=0)
        kept = np.asarray(reservoir.mean)[:, 0]
        assert len(set(kept)) == 30 and kept.min() < 50 and kept.max() > 150 and np.any(np.diff(kept) < 0)
        np.testing.assert_array_equal(reservoir.scale, -np.asarray(reservoir.mean))
        reservoir.fill(rows[:20], rows[:20], seed=0)
        assert set(np.bincount(np.asarray(reservoir.mean)[:, 0].astype(int))) == {1, 2}

    @pytest.mark.parametrize(("rows", "message"), [(np.zeros((1, 3)), "at least two.*1"), (np.full((4, 3), np.nan), "finite")])
    def test_fill_refuses(self, rows, message):
        with pytest.raises(ValueError, match=message):
            self.reservoir().fill(np.zeros(rows.shape), rows, seed=0)

    def test_draws_repeat_behind_the_size(self):
        reservoir = self.reservoir()
        reservoir.store(*pairs(30))
        draws = np.asarray(reservoir.draw(70))
        np.testing.assert_array_equal(draws[:30], draws[30:60])
        np.testing.assert_array_equal(draws[:10], draws[60:])
        assert len(np.unique(draws[:30, 0])) == 30

    def test_a_graph_does_not_know_whether_it_is_filled(self):
        reservoir, answers = self.reservoir(), []
        tf.function(lambda: answers.append(reservoir.is_filled))()
        assert answers == [None]

    @pytest.mark.parametrize("seed", [0, 2**32 - 1])
    def test_random_numbers_are_not_those_of_the_layer(self, seed):
        layer = EchoLayer(seed=seed)
        states = layer.source.seed_generator.state, layer.source.reservoir.seed_generator.state
        assert not np.array_equal(*states)


class TestTraining:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("d_max", [2, 200])
    def test_behind_the_last_echo_stands_noise_from_the_reservoir(self, sampler, d_max):
        layer = made(EchoLayer(d_max=d_max, sampler=sampler, max_mean=2.0**-20, seed=0))  # a large r in spite of d_max
        mean, log_scale = pairs(2)
        scale = layer.max_scale * np.exp(log_scale)
        # One echo each. Behind it come examples that are all alike: a geometric series, to within d_max terms.
        layer.source.reservoir.fill(np.full((9, 3), 0.5), layer.bounded(np.full((9, 3), np.log(0.25))), 0)
        s = 0.25 * layer.max_scale
        older = 0.5 * (1 - s**d_max) / (1 - s)
        found = np.asarray(noise(layer, (mean, log_scale), training=True))
        np.testing.assert_allclose(found, (mean + scale * older)[::-1], atol=1e-5)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("static", [False, True])
    def test_it_is_left_out_behind_d_max_echoes(self, sampler, static):
        layer = made(EchoLayer(d_max=1, sampler=sampler, max_mean=2.0**-20, seed=0))
        mean, log_scale = (values.astype("float32") for values in pairs(3))
        layer.source.reservoir.fill(np.full((9, 3), 0.5), layer.bounded(np.full((9, 3), np.log(0.25))), 0)
        spec = tf.TensorSpec((3 if static else None, 3), "float32")
        found = tf.function(lambda f, s: noise(layer, (f, s), training=True), input_signature=[spec, spec])(mean, log_scale)
        for i, own in enumerate(np.asarray(found)):
            assert min(np.abs(own - mean[k]).max() for k in range(3) if k != i) < 1e-6

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_nothing_stands_there_at_first(self, sampler):
        layer = made(EchoLayer(d_max=200, sampler=sampler, seed=0))
        mean, log_scale = pairs(2)
        np.testing.assert_allclose(noise(layer, (mean, log_scale), training=True), mean[::-1], rtol=1e-6)

    @pytest.mark.parametrize(
        ("sampler", "batch", "static"),
        [
            *[("ring", 1, True), ("ring", 3, False), ("ring", 20, True), ("ring", 20, False)],
            *[("gather", 1, False), ("gather", 3, True), ("gather", 20, True), ("gather", 3, False)],
        ],
    )
    def test_noise_has_the_moments_of_z(self, sampler, batch, static):
        dims = 2_000  # every dimension is an experiment of its own
        layer = EchoLayer(d_max=9, max_mean=2.0**-16, sampler=sampler, reservoir_size=100, seed=0)
        assert layer.max_scale > 0.5
        rng = np.random.default_rng(0)
        mean = np.tanh(rng.normal(size=(batch + 100, dims)) + 0.3).astype("float32")
        log_scale = np.log(rng.uniform(0.3, 1.0, mean.shape)).astype("float32")
        layer.build([mean.shape] * 2)
        layer.source.reservoir.fill(mean[batch:], layer.bounded(log_scale[batch:]), 0)
        signature = [tf.TensorSpec((batch if static else None, dims))] * 2
        graph = tf.function(lambda *pair: noise(layer, pair, training=True), input_signature=signature)
        first = graph(mean[:batch], log_scale[:batch]).numpy()[0]
        x = np.random.default_rng(1).normal(size=(500_000, 1))
        s = np.random.default_rng(2).uniform(0.3, 1.0, x.shape)
        expected, variance = (float(np.squeeze(m)) for m in echo_moments(np.tanh(x + 0.3), np.log(s * layer.max_scale)))
        assert abs(first.mean() - expected) < 5 * first.std() / np.sqrt(dims)
        spread = (first - expected) ** 2
        assert abs(spread.mean() - variance) < 5 * spread.std() / np.sqrt(dims)

    def test_inference_makes_no_noise_of_a_batch_that_it_does_not_need(self, monkeypatch):
        """With `gather` it takes memory that grows as the square of the batch."""
        layer = made(EchoLayer(d_max=9, sampler="gather", seed=0))
        layer.adapt(pairs(50, seed=1))

        def refused(*_):
            raise AssertionError("made of the batch")

        monkeypatch.setattr(layer.source, "_from_batch", refused)
        assert noise(layer, pairs(20), training=False).shape == (20, 3)
        layer.source.batch_at_inference.assign(1.0)
        with pytest.raises(AssertionError, match="made of the batch"):
            noise(layer, pairs(20), training=False)

    def test_gradients_flow_through_the_batch_alone(self):
        layer = made(EchoLayer(d_max=200, seed=0))
        layer.adapt(pairs(50, seed=1))
        mean, log_scale = (tf.constant(values) for values in pairs(2))
        with tf.GradientTape() as tape:
            tape.watch([mean, log_scale])
            first = tf.reduce_sum(noise(layer, (mean, log_scale), training=True)[0])
        of_mean, of_scale = (np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(first, [mean, log_scale]))
        np.testing.assert_array_equal(of_mean, [[0] * 3, [1] * 3])
        assert np.all(of_scale[0] == 0) and np.all(of_scale[1] != 0)

    def test_it_is_filled(self):
        mean, log_scale = pairs(60)
        layer = EchoLayer(d_max=19, seed=0)
        layer([mean, log_scale], training=True)
        kept = layer.source.reservoir.pairs
        assert kept[0].shape == (1000, 3)
        np.testing.assert_array_equal(kept[0][:60], mean)
        np.testing.assert_allclose(kept[1][:60], log_scale + np.log(layer.max_scale), rtol=1e-6)
        assert np.std([layer([mean[:1], log_scale[:1]]) for _ in range(3)], axis=0).min() > 0


class TestInference:
    @staticmethod
    def classes(n=600, dim=2):
        """Pairs of two classes, sorted, with signals of opposite sign."""
        rng = np.random.default_rng(0)
        sign = np.repeat([-1.0, 1.0], n // 2)[:, None]
        mean = (sign * rng.uniform(0.5, 1.0, (n, dim))).astype("float32")
        return mean, np.log(rng.uniform(0.2, 0.9, (n, dim))).astype("float32")

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_noise_has_the_law_of_batch_noise(self, sampler, repeated):
        pair = self.classes(60)
        layer = EchoLayer(d_max=29, sampler=sampler, reservoir_size=60, seed=0)
        layer.adapt(pair)
        draws = []
        for from_batch in (False, True):  # one value of each call: values of one ring depend on each other
            layer.source.batch_at_inference.assign(float(from_batch))
            draws.append(repeated(lambda: noise(layer, pair)[0], 300))
        for j in range(2):
            assert ks_2samp(draws[0][:, j], draws[1][:, j]).pvalue > 1e-4

    @pytest.mark.parametrize("batch", [1, 20, 50])
    def test_noise_is_of_the_reservoir_whatever_the_batch(self, batch):
        layer = EchoLayer(d_max=19, seed=0)
        layer.adapt(pairs(50))
        loud = np.full((batch, 3), 1e3, "float32"), pairs(batch)[1]
        assert np.max(np.abs(noise(layer, loud))) < 20
        layer.source.batch_at_inference.assign(1.0)
        assert batch == 1 or np.max(np.abs(noise(layer, loud))) > 500
        layer.source.batch_at_inference.assign(0.0)
        assert np.max(np.abs(noise(layer, loud))) < 20

    def test_noise_of_an_empty_one_is_of_the_batch(self):
        layer, pair = made(EchoLayer(d_max=19, seed=0)), pairs(2)
        np.testing.assert_allclose(noise(layer, pair), pair[0][::-1], rtol=1e-6)

    @pytest.mark.parametrize("training", [False, True])
    def test_cures_batches_of_one_class(self, training):
        """The noise of a sorted batch has the sign of its class, while its rate looks right; that of the reservoir is right."""
        pair = self.classes()
        one_class = (pair[0][300:], pair[1][300:])
        truth = float(echo_moments(pair[0], EchoLayer(d_max=99).bounded(pair[1]))[0][0])
        found, rates = {}, {}
        for echoes in ("batch", "reservoir"):
            layer = made(EchoLayer(d_max=99, echoes=echoes, seed=0), (None, 2))
            layer.source.batch_at_inference.assign(float(echoes == "batch"))
            draws = []
            for _ in range(8):
                layer.adapt(pair)  # anew, as in training each batch is stored
                draws.append(noise(layer, one_class, training))
            found[echoes] = np.array([np.mean(draw, axis=0)[0] for draw in draws])  # rings average over most of the dependence
            rates[echoes] = float(np.mean(layer.rate(one_class[1])))
        assert rates["batch"] == rates["reservoir"]
        # The reservoir is a random sample of the data, 600 of them here: their own mean.
        assert abs(found["reservoir"].mean() - truth) < 5 * found["reservoir"].std() / np.sqrt(8) + 0.02
        assert found["batch"].mean() > truth + 0.5

    def test_echoes_from_the_reservoir_are_never_of_the_batch_at_hand(self):
        pair = pairs(50)
        layer = EchoLayer(d_max=19, echoes="reservoir", max_mean=1e3, seed=0)
        layer(pair, training=True)
        loud = [np.full_like(pair[0], 1e3), pair[1]]
        assert np.max(np.abs(noise(layer, loud, training=True))) < 20
        layer(loud, training=True)
        assert np.max(np.abs(noise(layer, pair, training=True))) > 100

    def test_draws_of_the_marginal_need_no_data(self):
        draws = []
        for multiplicative in (False, True):
            layer = EchoLayer(d_max=19, multiplicative=multiplicative, seed=0)
            with pytest.raises(ValueError, match="call adapt"):
                layer.sample_marginal(3)
            layer.adapt(pairs(50))
            draws.append(np.asarray(layer.sample_marginal(1500)))
        assert draws[0].shape == (1500, 3)
        assert not np.array_equal(draws[0][:500], draws[0][1000:])  # of another pass
        np.testing.assert_allclose(draws[1], np.exp(draws[0]), rtol=1e-6)


class TestAdapt:
    def test_takes_batches(self):
        mean, log_scale = pairs(50)
        layers = [EchoLayer(d_max=19) for _ in range(2)]
        layers[0].adapt((mean, log_scale))
        layers[1].adapt([(mean[:20], log_scale[:20]), (mean[20:], log_scale[20:])])
        for one, other in zip(*(layer.source.reservoir.pairs for layer in layers), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("count", [0, 1])
    def test_refuses_fewer_than_two_examples(self, count):
        mean, log_scale = pairs(1)
        with pytest.raises(ValueError, match="at least two examples"):
            EchoLayer(d_max=19).adapt([(mean, log_scale)] * count)
        with pytest.raises(ValueError, match="at least two examples"):
            EchoLayer(d_max=19).adapt((mean[:count], log_scale[:count]))

    def test_refuses_heads_without_bounds(self):
        mean, log_scale = pairs(50)
        for wrong in ((1.01 * mean / np.abs(mean).max(), log_scale), (mean, 0.01 - log_scale * 0)):
            with pytest.raises(ValueError, match="tanh"):
                EchoLayer(d_max=9).adapt(wrong)

    def test_weights_that_were_set_count_as_filled(self):
        pair = pairs(50)
        trained, fresh = EchoLayer(d_max=19), made(EchoLayer(d_max=19))
        trained.adapt(pair)
        fresh.set_weights(trained.get_weights())
        assert np.std([fresh([pair[0][:1], pair[1][:1]]) for _ in range(3)], axis=0).min() > 0


@pytest.mark.parametrize("layer", [EchoLayer, lambda **options: EchoDense(3, **options)])
def test_weights_of_a_reservoir_of_another_size(layer, tmp_path):
    def model(size):
        inputs = keras.Input((3,))
        echo = layer(d_max=9, reservoir_size=size)
        return keras.Model(inputs, echo(inputs if isinstance(echo, EchoDense) else [inputs, -ops.abs(inputs)]))

    path = tmp_path / "model.weights.h5"
    model(50).save_weights(path)
    model(50).load_weights(path)
    with pytest.raises(
        ValueError, match=r"with reservoir_size=50, and this one has 60\. Make the layer with reservoir_size=50"
    ):
        model(60).load_weights(path)


def test_training_graph_of_a_small_batch_can_be_sorted(capfd):
    """TensorFlow's optimizer once folded the number of echoes, a constant of the graph, into a graph with a cycle."""
    layer = EchoDense(8, d_max=99, seed=0)
    layer.build((None, 8))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(x, training=True)))
        return tape.gradient(loss, layer.trainable_variables)

    gradient(tf.random.normal((32, 8)))
    assert "topological order" not in capfd.readouterr().err
