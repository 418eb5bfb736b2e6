"""Models made of parts. Most are of six numbers an example: what takes time in such a test is tracing, not training."""

import functools
import json
import types
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from echo_tf.echo.dense import EchoDense
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.channels import FullGaussianChannel, GaussianChannel, IAFChannel
from echo_tf.models.distortions import Gaussian
from echo_tf.models.examples import some_examples
from echo_tf.models.penalties import BetaConstraint, MMDPenalty
from echo_tf.models.priors import MAFPrior, VampPrior
from echo_tf.models.refresh import RefreshChannel

DIM = 3


def table(n, seed=0, shape=(6,)):
    return np.random.default_rng(seed).uniform(size=(n, *shape)).astype("float32")


def networks(shape=(6,)):
    encoder = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(8, "tanh")])
    decoder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(int(np.prod(shape))), keras.layers.Reshape(shape)])
    return encoder, decoder


def compiled(channel, *, shape=(6,), optimizer=None, **options):
    model = RateDistortionModel(*networks(shape), channel, **options)
    model.build((None, *shape))
    model.compile(optimizer or keras.optimizers.SGD(1e-2))
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the training step twice
    return model


def echo(**options):
    return EchoDense(DIM, d_max=9, reservoir_size=50, seed=0, rate_weight=None, **options)


# One of each channel, prior, penalty and distortion, in combinations that were never told apart.
MODELS = {
    "echo": lambda: compiled(echo(), beta=2.0, distortion=Gaussian(0.5)),
    "gaussian with penalty": lambda: compiled(GaussianChannel(DIM, seed=0), beta=2.0, penalty=MMDPenalty(999.0, seed=1)),
    "iaf with vamp": lambda: compiled(IAFChannel(DIM, 2, (8,), seed=0), beta=2.0, prior=VampPrior(5, (6,), seed=1)),
    "gaussian with maf": lambda: compiled(
        GaussianChannel(DIM, seed=0), beta=2.0, prior=MAFPrior(DIM, 2, (8,), seed=1), distortion="gaussian"
    ),
}


class Trained:
    def __init__(self, name):
        self.name, self.model, self.x = name, MODELS[name](), table(30)
        before = [weight.numpy() for weight in self.model.trainable_weights]
        validation = {"validation_data": (self.x,)} if name == "echo" else {}
        self.history = self.model.fit(self.x, batch_size=10, epochs=2, verbose=0, **validation).history
        weights = zip(self.model.trainable_weights, before, strict=True)
        self.unchanged = [weight.path for weight, old in weights if np.array_equal(weight, old)]


@pytest.fixture(scope="module")
def trained_by_name():
    return functools.cache(Trained)


@pytest.fixture(params=MODELS)
def trained(request, trained_by_name):
    return trained_by_name(request.param)


@pytest.fixture
def trained_echo(trained_by_name):
    return trained_by_name("echo")


class TestTrainedModel:
    def test_history_and_evaluation(self, trained):
        metrics = {"loss", "rate", "distortion"} | ({"mmd"} if trained.model.penalty else set())
        prefixes = ("", "val_") if trained.name == "echo" else ("",)
        assert set(trained.history) == {f"{prefix}{name}" for prefix in prefixes for name in metrics}
        values = trained.model.evaluate(trained.x, batch_size=10, return_dict=True, verbose=0)
        assert set(values) == metrics
        penalty = 999 * values.get("mmd", 0.0)
        assert values["loss"] == pytest.approx(values["distortion"] + 2 * values["rate"] + penalty, rel=1e-5)
        if trained.model.prior is None:  # no noise in the rate
            assert values["rate"] == pytest.approx(float(np.mean(trained.model(trained.x)["rate"])), rel=1e-5)

    def test_every_weight_has_changed(self, trained):
        assert trained.unchanged == []

    def test_outputs(self, trained):
        outputs = trained.model(trained.x)
        shapes = {"z": (30, DIM), "parameters": (30, 6), "rate": (30,), "distortion": (30,)}
        assert {name: tuple(value.shape) for name, value in outputs.items()} == shapes | (
            {"log_ratio": (30,)} if trained.model.channel.has_density else {}
        )
        expected = trained.model.distortion(trained.x, trained.model.decoder(outputs["z"]))
        np.testing.assert_allclose(outputs["distortion"], expected, rtol=1e-4)
        assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {"float32"}

    def test_encode_decode_reconstruct_generate(self, trained):
        model = trained.model
        assert model.encode(table(1)).shape == (1, DIM)
        z = model.encode(table(3))
        for values in (model.decode(z), model.reconstruct(table(3), samples=2), model.generate(3)):
            assert values.shape == (3, 6)
            if not isinstance(model.distortion, Gaussian):
                assert np.all((values > 0) & (values < 1))
        np.testing.assert_allclose(model.decode(z), _mean_of(model, z), rtol=1e-5)

    def test_reconstruction_is_the_mean_of_draws_of_the_same_example(self):
        model = compiled(GaussianChannel(DIM, seed=0), distortion="gaussian")
        model.channel.log_var_head.bias.assign([-20.0] * DIM)
        model.channel.log_var_head.kernel.assign(np.zeros((8, DIM)))
        x = table(5)
        np.testing.assert_allclose(model.reconstruct(x, samples=3), model.decode(model.encode(x)), atol=1e-3)
        assert np.abs(np.diff(model.decode(model.encode(x)), axis=0)).min() > 1e-3  # of others it is another

    def test_is_saved_and_goes_on_with_the_same_noise(self, trained, tmp_path):
        model = trained.model
        model.beta.assign(0.25)
        model.save(tmp_path / "model.keras")
        model.beta.assign(2.0)
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert float(loaded.beta) == 0.25
        for part in ("channel", "prior", "penalty", "distortion"):
            one, other = getattr(model, part), getattr(loaded, part)
            assert type(one) is type(other) and (one is None or one.get_config() == other.get_config())
        for one, other in zip(model.weights, loaded.weights, strict=True):
            assert one.path.endswith("beta") or np.array_equal(one, other), one.path
        assert len(model.random_states) == len(loaded.random_states) >= 1
        for one, other in zip(model.random_states, loaded.random_states, strict=True):
            np.testing.assert_array_equal(one, other)
        found, expected = loaded(trained.x[:3]), model(trained.x[:3])
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


def _mean_of(model, z):
    parameters = np.asarray(model.decoder(z))
    return parameters if isinstance(model.distortion, Gaussian) else 1 / (1 + np.exp(-parameters))


def assert_holds(reservoir, pairs):
    """Each of the pairs, and nothing else, is in the reservoir, about equally often."""
    distances = np.abs(np.asarray(reservoir)[:, None] - np.asarray(pairs)).max(axis=-1)
    assert distances.min(axis=1).max() < 1e-5
    counts = np.bincount(distances.argmin(axis=1), minlength=len(pairs))
    assert counts.max() - counts.min() <= 1


class TestReservoir:
    """What the channel stores after `fit` is that of the final parameters, whatever the data came in."""

    @staticmethod
    def means(model, x):
        return np.asarray(model.channel.statistics(model.encoder(x))[0])

    def test_is_renewed_at_the_end(self, trained_echo):
        model, x = trained_echo.model, trained_echo.x
        assert_holds(model.channel.echo.source.reservoir.mean, self.means(model, x))

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_warning_of_data_in_their_order(self, shuffle, caplog):
        for channel, times in ((echo(), 1 - shuffle), (GaussianChannel(DIM), 0)):
            model = compiled(channel, distortion="gaussian")
            caplog.clear()
            for _ in range(2):
                model.fit(table(20), batch_size=10, shuffle=shuffle, verbose=0)
            assert caplog.text.count("takes batches in the order of the data") == times

    def test_of_batches_in_lists_and_of_a_py_dataset(self):
        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                return [table(45)[15 * index :][:15]]

        np.testing.assert_array_equal(some_examples(Batches(), 30), table(45)[:30])
        model = compiled(echo())
        model.fit(Batches(), verbose=0)
        assert_holds(model.channel.source.reservoir.mean, self.means(model, table(45)))

    def test_of_batches_in_dictionaries_is_said(self):
        data = tf.data.Dataset.from_tensor_slices({"image": table(40)}).batch(20)
        with pytest.raises(ValueError, match="Received: a dict"):
            compiled(echo()).fit(data, verbose=0)

    def test_of_generators_and_data_sets(self):
        model, x = compiled(echo(), distortion="gaussian", optimizer=keras.optimizers.SGD(0.0)), table(40)
        reservoir = model.channel.echo.source.reservoir
        model.fit(((x[i : i + 10],) for i in (0, 10, 20, 30)), steps_per_epoch=4, shuffle=False, verbose=0)
        # A generator cannot be read a second time: the latest steps, the last in front.
        expected = np.concatenate([self.means(model, x[i : i + 10]) for i in (30, 20, 10, 0, 0)])
        np.testing.assert_allclose(reservoir.mean, expected, rtol=1e-5, atol=1e-6)
        assert model.generate(2).shape == (2, 6)
        model.refresh_channel(x[:20])
        assert_holds(reservoir.mean, self.means(model, x[:20]))
        callback = RefreshChannel(tf.data.Dataset.from_tensor_slices(x).batch(10))
        callback.set_model(model)
        callback.on_train_end()
        assert_holds(reservoir.mean, self.means(model, x))

    def test_a_validation_leaves_no_trace(self, trained_echo):
        model, x = trained_echo.model, trained_echo.x
        callback = RefreshChannel(table(40, seed=1))
        callback.set_model(model)
        before = [variable.numpy() for variable in model.variables]
        callback.on_test_begin()
        assert_holds(model.channel.echo.source.reservoir.mean, self.means(model, table(40, seed=1)))
        model(x)
        callback.on_test_end()
        for variable, old in zip(model.variables, before, strict=True):
            assert np.array_equal(variable, old), variable.path

    @pytest.mark.parametrize("how", ["EarlyStopping", "SwapEMAWeights"])
    def test_is_that_of_weights_which_a_callback_puts_in_place(self, how):
        average = how == "SwapEMAWeights"
        model = compiled(echo(), distortion="gaussian", optimizer=keras.optimizers.SGD(1e-1, use_ema=average))
        x, seen = table(40), []
        wanted = {
            "EarlyStopping": lambda: keras.callbacks.EarlyStopping("val_loss", 0, 2, mode="max", restore_best_weights=True),
            "SwapEMAWeights": keras.callbacks.SwapEMAWeights,
        }

        def look(*_, logs=None):
            assert_holds(model.channel.echo.source.reservoir.mean, self.means(model, x))
            seen.append(True)

        at_the_end = keras.callbacks.LambdaCallback(on_train_end=look)
        at_the_end.on_test_batch_begin = look
        model.fit(x, batch_size=20, epochs=3, validation_data=(x,), callbacks=[at_the_end, wanted[how]()], verbose=0)
        look()
        assert len(seen) >= 6

    def test_of_a_training_that_diverged_stays_with_a_warning(self, caplog):
        model = compiled(echo(), optimizer=keras.optimizers.SGD(1e38), distortion="gaussian")
        history = model.fit(table(40), batch_size=20, epochs=2, verbose=0)
        assert not np.isfinite(history.history["loss"][-1])
        assert "has diverged" in caplog.text

    def test_of_a_frozen_channel_stays(self):
        model, x = compiled(echo(), distortion="gaussian"), table(40)
        model.refresh_channel(x)
        before = [weight.numpy() for weight in model.channel.weights]
        model.channel.trainable = False
        model.fit(0.5 * x, validation_data=(x,), verbose=0)
        for weight, old in zip(model.channel.weights, before, strict=True):
            np.testing.assert_array_equal(weight, old)

    def test_is_not_of_validation_examples(self, monkeypatch):
        seen, model, x = [], compiled(echo()), table(40)
        monkeypatch.setattr(model, "refresh_channel", lambda found: seen.append(found))
        model.fit(x, batch_size=10, validation_split=0.25, verbose=0)
        assert len(seen) == 2
        for found in seen:  # for the validation and at the end
            np.testing.assert_array_equal(found, x[:30])

    def test_is_of_examples_from_all_over_an_array(self):
        data = np.arange(25_000).reshape(-1, 1)
        found = some_examples(data, 10_000).ravel()
        assert len(np.unique(found)) == 10_000 and (found[0], found[-1]) == (0, 24_999)
        assert found.mean() == pytest.approx(data.mean(), rel=1e-3)
        np.testing.assert_array_equal(some_examples(data[:7], 10_000), data[:7])
        batches = [(data[i : i + 10], None) for i in range(0, 100, 10)]
        np.testing.assert_array_equal(some_examples(batches, 25), data[:25])

    def test_evaluation_does_not_depend_on_the_order(self, trained_echo):
        """Sorted or not: rate and distortion of a trained model are those of its reservoir."""
        model, x = trained_echo.model, table(60, seed=2)
        ordered = x[np.argsort(x[:, 0])]
        draws = [np.mean([model(rows)["distortion"] for _ in range(10)], axis=1) for rows in (x, ordered)]
        se = np.sqrt(sum(values.var(ddof=1) / 10 for values in draws))
        assert abs(draws[0].mean() - draws[1].mean()) < 5 * se


class TestVampPrior:
    def test_normalisation_of_batches_knows_no_pseudo_inputs(self):
        encoder = keras.Sequential([keras.layers.Dense(8), keras.layers.BatchNormalization(momentum=0.0)])
        model = RateDistortionModel(encoder, keras.layers.Dense(6), GaussianChannel(DIM), prior=VampPrior(5, (6,), seed=1))
        model.compile(keras.optimizers.SGD(0.0))
        x = table(10)
        model.fit(x, batch_size=10, epochs=1, verbose=0)
        mean = encoder.layers[1].moving_mean
        np.testing.assert_allclose(mean, np.mean(encoder.layers[0](x), axis=0), rtol=1e-4, atol=1e-5)

    def test_starts_from_training_examples_and_stays_in_the_unit_interval(self):
        model = compiled(GaussianChannel(DIM, seed=0), prior=VampPrior(5, (6,), seed=1), optimizer=keras.optimizers.SGD(0.0))
        x = table(20)
        model.fit(x, batch_size=10, verbose=0)
        start = np.asarray(model.prior.pseudo_inputs)
        assert {tuple(row) for row in start} <= {tuple(row) for row in x} and len(np.unique(start, axis=0)) == 5
        model.optimizer.learning_rate = 30.0
        model.fit(x[::-1], batch_size=20, verbose=0)  # not a new start, but a step that leads out of the interval
        after = np.asarray(model.prior.pseudo_inputs)
        assert (after.min(), after.max()) == (0.0, 1.0) and not np.array_equal(after, start)
        assert not {tuple(row) for row in after} & {tuple(row) for row in x}

    def test_starts_in_a_model_that_is_not_built(self, tmp_path):
        model = RateDistortionModel(*networks(), GaussianChannel(DIM), prior=VampPrior(5, (6,), seed=1))
        model.compile(keras.optimizers.SGD(0.0))
        x = table(20)
        model.fit(x, batch_size=10, verbose=0)
        assert {tuple(row) for row in np.asarray(model.prior.pseudo_inputs)} <= {tuple(row) for row in x}
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.prior.pseudo_inputs, model.prior.pseudo_inputs)

    def test_generates_before_it_is_built_and_trained(self):
        for make in (lambda: VampPrior(5, (6,), seed=1), lambda: MAFPrior(DIM, 2, (8,), seed=1)):
            model = RateDistortionModel(*networks(), GaussianChannel(DIM, seed=0), prior=make())
            assert model.generate(4).shape == (4, 6)
            model.compile("sgd")
            model.fit(table(40), batch_size=20, verbose=0)

    def test_cannot_start_from_a_generator(self):
        model = compiled(GaussianChannel(DIM), prior=VampPrior(5, (6,)))
        with pytest.raises(ValueError, match="start_from"):
            model.fit(((table(10),) for _ in range(2)), steps_per_epoch=2, verbose=0)


class TestObjective:
    @staticmethod
    def objective(model, rate=1.1, distortion=7.0, training=True):
        outputs = {"rate": np.full(10, rate, "float32"), "distortion": np.full(10, distortion, "float32")}
        outputs["z"] = tf.constant(np.random.default_rng(0).normal(1.0, 1.0, (10, DIM)).astype("float32"))
        return float(model.compute_loss(table(10), y_pred=outputs, training=training))

    def test_beta_weighs_the_rate_and_may_be_changed(self):
        model = compiled(GaussianChannel(DIM), beta=3.0)
        assert self.objective(model) == pytest.approx(7.0 + 3.0 * 1.1, rel=1e-6)
        model.beta.assign(0.5)
        assert self.objective(model) == pytest.approx(7.0 + 0.5 * 1.1, rel=1e-6)

    def test_what_is_assigned_counts_in_a_training_that_is_compiled(self):
        # A number in the place of the variable would be seen by nothing but the configuration.
        model = compiled(GaussianChannel(DIM, seed=0), penalty=MMDPenalty(1.0, seed=1), optimizer=keras.optimizers.SGD(0.0))
        x = table(20)
        history = [model.fit(x, batch_size=20, verbose=0).history]
        model.beta, model.penalty.weight = 1000.0, 0.0
        history.append(model.fit(x, batch_size=20, verbose=0).history)
        for values, beta, weight in zip(history, (1.0, 1000.0), (1.0, 0.0), strict=True):
            expected = values["distortion"][0] + beta * values["rate"][0] + weight * values["mmd"][0]
            assert values["loss"][0] == pytest.approx(expected, rel=1e-5)
        for part, name in ((model, "beta"), (model.penalty, "weight")):
            with pytest.raises(ValueError, match=f"`{name}`"):
                setattr(part, name, -1.0)

    @pytest.mark.parametrize("beta", [1.0, 3.0])
    def test_penalty_is_not_scaled_by_beta(self, beta):
        model = compiled(GaussianChannel(DIM), beta=beta, penalty=MMDPenalty(999.0, seed=1))
        loss = self.objective(model)
        mmd = float(model.penalty_metric.result())
        assert mmd > 0.01
        assert loss == pytest.approx(7.0 + beta * 1.1 + 999.0 * mmd, rel=1e-5)

    def test_constraint_weighs_the_rate_by_its_damped_multiplier(self):
        model = compiled(GaussianChannel(DIM), beta=2.0, constraint=BetaConstraint("rate", 1.0, 0.05))
        assert self.objective(model, training=False) == pytest.approx(7.0 + 2.0 * 1.1, rel=1e-6)
        assert float(model.beta) == 2.0
        weight, following = BetaConstraint("rate", 1.0, 0.05)(2.0, rate=np.float32([1.1]), distortion=np.float32([7.0]))
        assert self.objective(model) == pytest.approx(7.0 + float(weight) * 1.1, rel=1e-6)
        assert float(model.beta) == pytest.approx(float(following), rel=1e-6) != pytest.approx(float(weight), rel=1e-2)

    def test_regularisers_of_the_networks_enter(self):
        encoder, _ = networks()
        decoder = keras.layers.Dense(6, kernel_regularizer=keras.regularizers.L2(1.0))
        model = RateDistortionModel(encoder, decoder, GaussianChannel(DIM))
        model(table(10))
        extra = float(np.sum(np.square(decoder.kernel)))
        assert extra > 0.1 and self.objective(model) == pytest.approx(7.0 + 1.1 + extra, rel=1e-5)

    def test_weight_of_the_channel_itself_is_not_used(self):
        model = compiled(GaussianChannel(DIM, rate_weight=100.0))
        model(table(10), training=True)
        assert self.objective(model) == pytest.approx(7.0 + 1.1, rel=1e-6)


@keras.saving.register_keras_serializable(package="tests")
def absolute_error(x, parameters):
    return keras.ops.sum(keras.ops.abs(x - parameters), axis=(1, 2, 3))


@keras.saving.register_keras_serializable(package="tests")
class OwnEncoder(keras.Model):
    """Subclassed, which knows no shape of its inputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = keras.layers.Conv2D(4, 16, strides=16, activation="relu")
        self.flatten = keras.layers.Flatten()

    def call(self, inputs):
        return self.flatten(self.convolution(inputs))


class TestPartsOfOnesOwn:
    def test_colour_images_an_encoder_and_a_distortion(self, tmp_path):
        x = table(30, shape=(64, 64, 3))
        decoder = keras.Sequential(
            [
                keras.Input((DIM,)),
                keras.layers.Dense(4 * 4 * 4),
                keras.layers.Reshape((4, 4, 4)),
                keras.layers.Conv2DTranspose(3, 16, strides=16),
            ]
        )
        model = RateDistortionModel(OwnEncoder(), decoder, GaussianChannel(DIM, seed=0), distortion=absolute_error)
        model.compile("sgd")
        for _ in range(2):
            assert np.isfinite(model.fit(x, batch_size=20, verbose=0).history["loss"][0])
        outputs = model.predict(x, batch_size=20, verbose=0)
        np.testing.assert_allclose(outputs["distortion"], np.abs(x - outputs["parameters"]).sum((1, 2, 3)), rtol=1e-4)
        assert np.isfinite(model.evaluate(x, verbose=0)[0])
        assert model.generate(2).shape == model.reconstruct(x[:2], samples=2).shape == (2, 64, 64, 3)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.distortion is absolute_error
        found, expected = loaded(x[:2]), model(x[:2])
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])

    def test_layers_will_do(self):
        model = RateDistortionModel(keras.layers.Dense(8), keras.layers.Dense(6), echo(), distortion="gaussian")
        assert model(table(4), training=True)["parameters"].shape == (4, 6)
        assert model.reconstruct(table(2), samples=3).shape == (2, 6)

    def test_float64(self):
        before = keras.config.dtype_policy(), keras.config.floatx()
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            model = compiled(echo(), distortion="gaussian")
            loss = model.fit(table(30).astype("float64"), batch_size=20, verbose=0).history["loss"]
            outputs = model(table(1).astype("float64"))
        finally:
            keras.config.set_floatx(before[1])
            keras.config.set_dtype_policy(before[0])
        assert np.all(np.isfinite(loss)) and all(np.all(np.isfinite(value)) for value in outputs.values())


class TestRefusals:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return compiled(GaussianChannel(DIM), shape=(8, 8, 1))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x[..., 0], r"shape \(8, 8, 1\).*Add a last axis"),
            (lambda x: np.moveaxis(x, -1, 1), "channels that come first"),
            (lambda x: x.reshape(20, 64), r"Received: \(64,\)"),
            (lambda x: 255 * x, "Received values from 0.* to 25"),
            (lambda x: (255 * x).astype("uint8"), "Divide images of 0 to 255"),
            (lambda x: 2 * x - 1, r"\[0, 1\].*map -1 to 1"),
            (lambda x: np.where(x > 0.9, np.nan, x), "NaN"),
            (lambda x: x[:0], "at least one example"),
            (lambda x: tf.constant(255 * x), "Divide"),
            (lambda x: tf.data.Dataset.from_tensor_slices(255 * x).batch(10), "Divide"),
            (lambda x: tf.data.Dataset.from_tensor_slices(x).take(0).batch(10), "at least one example"),
            (lambda x: [x], "in one array.*Received: a list"),
            (lambda x: x.tolist(), "in one array.*Received: a list"),
            (lambda x: {"images": x}, "in one array.*Received: a dict"),
        ],
    )
    def test_examples_that_do_not_fit(self, model, change, message):
        for call in (model.fit, model.evaluate, model.predict):
            with pytest.raises(ValueError, match=message):
                call(change(table(20, shape=(8, 8, 1))), verbose=0)
        assert int(model.optimizer.iterations) == 0

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (table(20, shape=(8, 8)), r"shape \(8, 8, 1\).*Add a last axis"),
            (table(0, shape=(8, 8, 1)), "at least one example"),
            (np.full((20, 8, 8, 1), np.nan), "finite data"),
        ],
    )
    def test_examples_that_have_no_codes(self, model, x, message):
        def distortion_of(x):
            return model.distortion_of(np.zeros((max(1, len(x)), DIM)), x)

        for call in (model.encode, model.reconstruct, model.features, distortion_of):
            with pytest.raises(ValueError, match=message):
                call(x)

    @pytest.mark.parametrize("shape", [(2, DIM + 1), (DIM,), (0, DIM)])
    def test_codes_that_cannot_be_decoded(self, model, shape):
        for call in (model.decode, lambda z: model.distortion_of(z, table(2, shape=(8, 8, 1)))):
            with pytest.raises(ValueError, match=r"`z`. Expected shape \(n, ..., 3\)"):
                call(np.zeros(shape))

    def test_validation_data_before_an_epoch_is_trained(self, model):
        seen, x = [], table(20, shape=(8, 8, 1))
        watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: seen.append(1))
        for wrong in (255.0 * x, (x, x)):
            with pytest.raises(ValueError, match=r"\[0, 1\]|targets"):
                model.fit(x, validation_data=wrong, callbacks=[watch], verbose=0)
        assert not seen

    def test_several_replicas(self, model, monkeypatch):
        strategy = types.SimpleNamespace(num_replicas_in_sync=2)
        monkeypatch.setattr(type(model), "distribute_strategy", property(lambda self: strategy))
        with pytest.raises(ValueError, match="one replica"):
            model.fit(table(20, shape=(8, 8, 1)), verbose=0)

    def test_codes_of_other_examples(self, model):
        for count in (1, 3):
            with pytest.raises(ValueError, match=f"a `z` for each example. Received: {count} for 2"):
                model.distortion_of(np.zeros((count, DIM)), table(2, shape=(8, 8, 1)))

    def test_codes_of_a_model_that_is_not_built(self):
        model = RateDistortionModel(*networks(), echo())
        assert model.encode(table(20).tolist()).shape == (20, DIM)
        model.compile("sgd")
        model.fit(table(20), batch_size=20, verbose=0)

    def test_targets_and_weights(self, model):
        x = table(20, shape=(8, 8, 1))
        for options in ({"y": x}, {"sample_weight": np.ones(20)}):
            for call in (model.fit, model.evaluate):
                with pytest.raises(ValueError, match="takes no targets.*and no sample_weight"):
                    call(x, batch_size=10, verbose=0, **options)
        with pytest.raises(ValueError, match="class_weight"):
            model.fit(x, sample_weight=None, class_weight={0: 2.0}, verbose=0)
        weighted = tf.data.Dataset.from_tensor_slices((x, np.zeros(20), np.ones(20))).batch(10)
        with pytest.raises(ValueError, match="takes no targets"):
            model.fit(weighted, shuffle=False, verbose=0)

    def test_parts_of_another_kind(self):
        encoder, decoder = networks()
        for channel, found in (
            (decoder, "Received: Sequential"),
            (EchoDense, "Received: the class EchoDense"),
            (None, "NoneType"),
        ):
            with pytest.raises(ValueError, match=f"`channel`. Expected a Channel, .* behind encoder and decoder. .*{found}"):
                RateDistortionModel(encoder, echo(), channel)
        for name, part in (("prior", MMDPenalty()), ("penalty", "mmd"), ("constraint", 20.0)):
            with pytest.raises(ValueError, match=f"`{name}`. Expected None or a .*Received: {type(part).__name__}"):
                RateDistortionModel(encoder, decoder, echo(), **{name: part})

    def test_parts_that_do_not_go_together(self):
        for prior in (MAFPrior(DIM), VampPrior(5, (6,))):
            with pytest.raises(ValueError, match="`prior`. Expected None with EchoDense, which has no density"):
                RateDistortionModel(*networks(), EchoDense(DIM), prior=prior)

        with pytest.raises(ValueError, match="Expected None or a MAFPrior with FullGaussianChannel: a VampPrior is made for"):
            RateDistortionModel(*networks(), FullGaussianChannel(DIM), prior=VampPrior(5, (6,)))
        RateDistortionModel(*networks(), FullGaussianChannel(DIM), prior=MAFPrior(DIM))
        with pytest.raises(ValueError, match=f"MAFPrior of {DIM} dimensions.*one of {DIM + 1}"):
            RateDistortionModel(*networks(), GaussianChannel(DIM), prior=MAFPrior(DIM + 1))
        with pytest.raises(ValueError, match="at least 5.37 nats, the rate floor of EchoDense"):
            RateDistortionModel(*networks(), echo(), constraint=BetaConstraint("rate", 5.0))
        RateDistortionModel(*networks(), echo(), constraint=BetaConstraint("distortion", 5.0))

    def test_penalties_on_a_ring_are_warned_of(self, caplog):
        RateDistortionModel(*networks(), echo(sampler="gather"), penalty=MMDPenalty())
        assert not caplog.text
        RateDistortionModel(*networks(), echo(), penalty=MMDPenalty())
        assert "MMDPenalty is a statistic of the batch" in caplog.text

    def test_a_weight_of_the_channel_is_warned_of(self, caplog):
        RateDistortionModel(*networks(), EchoDense(DIM))
        assert not caplog.text
        RateDistortionModel(*networks(), EchoDense(DIM, rate_weight=0.1))
        assert "EchoDense was made with rate_weight=0.1, which a RateDistortionModel does not use" in caplog.text

    @pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf"), True, "1"])
    def test_beta(self, beta):
        with pytest.raises(ValueError, match="`beta`. Expected a finite number >= 0"):
            RateDistortionModel(*networks(), EchoDense(DIM), beta=beta)

    def test_distortions(self):
        with pytest.raises(ValueError, match="`distortion`"):
            RateDistortionModel(*networks(), EchoDense(DIM), distortion="poisson")
        wrong = RateDistortionModel(*networks(), GaussianChannel(DIM), distortion=lambda x, y: x - y)
        with pytest.raises(ValueError, match=r"shape \(batch,\)"):
            wrong(table(2))

    @pytest.mark.parametrize("shape", [(4, 4), (16,), (4, 4, 3), (1, 4, 1)])
    @pytest.mark.parametrize("distortion", ["bernoulli", "gaussian"])
    def test_decoders_of_another_shape(self, shape, distortion):
        """Some could be broadcast to the shape of the examples, and would train."""
        decoder = keras.Sequential([keras.layers.Dense(int(np.prod(shape))), keras.layers.Reshape(shape)])
        encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
        model = RateDistortionModel(encoder, decoder, GaussianChannel(DIM), distortion=distortion)
        with pytest.raises(ValueError, match=r"in the shape of the examples.*4, 4, 1.*End it with a Reshape"):
            model(table(2, shape=(4, 4, 1)))

    @pytest.mark.parametrize(
        ("name", "value"),
        [("loss", "mse"), ("loss_weights", {"rate": 0.5}), ("metrics", ["mse"]), ("metrics", {"rate": "mse"})],
    )
    def test_losses_and_metrics_of_compile(self, name, value):
        model = RateDistortionModel(*networks(), GaussianChannel(DIM))
        model.compile("sgd", **{name: value})
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match=f"`{name}` of `compile`. Expected None"):
                call(table(20), verbose=0)

    def test_untrained_echo_cannot_generate(self):
        with pytest.raises(ValueError, match="Train it first"):
            compiled(echo()).generate(3)

    def test_a_file_of_version_0_1(self, trained_echo, tmp_path):
        """Which held one configuration in the place of parts."""
        trained_echo.model.save(tmp_path / "new.keras")
        with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
            for name in new.namelist():
                content = new.read(name)
                if name == "config.json":
                    config = json.loads(content) | {"config": {"config": {"method": "echo", "beta": 1.0}}}
                    content = json.dumps(config)
                old.writestr(name, content)
        with pytest.raises(ValueError, match=r"written by version 0\.1"):
            keras.saving.load_model(tmp_path / "old.keras")


@keras.saving.register_keras_serializable(package="tests")
class WithAWeight(RateDistortionModel):
    def __init__(self, *parts, **options):
        super().__init__(*parts, **options)
        self.steps_seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps_seen")


def test_weights_of_a_subclass_are_saved(tmp_path):
    model = WithAWeight(*networks(), echo())
    model.build((None, 6))
    model.steps_seen.assign(7.0)
    model.beta = 3.0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (float(loaded.steps_seen), float(loaded.beta)) == (7.0, 3.0)


class TestInsideAnotherModel:
    """Its loss is not that of the model around it, which nobody would notice."""

    def test_is_warned_of_once(self, caplog):
        inner = compiled(GaussianChannel(DIM))
        x = keras.Input((6,))
        outer = keras.Model(x, inner(x)["parameters"])
        outer.compile("sgd", "mse")
        outer.fit(table(20), table(20), batch_size=10, epochs=2, verbose=0)
        assert caplog.text.count("trained by a model around it") == 1

    def test_training_and_inference_of_its_own_are_not(self, caplog):
        model = compiled(GaussianChannel(DIM))
        model.fit(table(20), batch_size=10, verbose=0)
        model.train_on_batch(table(10))
        model.predict(table(10), verbose=0)
        model(table(10))
        assert "trained by a model around it" not in caplog.text
