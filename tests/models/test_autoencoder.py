import keras
import numpy as np
import pytest
import tensorflow as tf

import echo_tf
from echo_tf.models import losses
from echo_tf.models.autoencoder import some_examples


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, 28, 28, 1)).astype("float32")


def small(method, **overrides):
    """A configuration whose batches are quick."""
    defaults = {
        "channel": {"d_max": 9},
        "flow": {"hidden_units": 32},
        "prior": {"components": 5},
        "training": {"batch_size": 10},
    }
    return echo_tf.load_config(method, **{**defaults, **overrides})


NETWORKS, FLOW, VAMP = 1_398_849, 3_448_448, 250 * 784
PARAMETERS = {
    "echo": NETWORKS,
    "vae": NETWORKS,
    "info_vae": NETWORKS,
    "vae_vamp": NETWORKS + VAMP,
    "vae_maf": NETWORKS + FLOW,
    "iaf": NETWORKS + FLOW,
    "iaf_mmd": NETWORKS + FLOW,
    "iaf_vamp": NETWORKS + FLOW + VAMP,
    "iaf_maf": NETWORKS + 2 * FLOW,
    "echo_mmd": NETWORKS,
}
METHODS = tuple(PARAMETERS)
# One of each channel, prior and penalty, for what does not depend on how they are combined.
SOME_METHODS = ("echo", "info_vae", "iaf_vamp", "vae_maf")
FAST_METHODS = [name if name in SOME_METHODS else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]


def assert_holds(reservoir, pairs):
    """Each of the pairs, and nothing else, is in the reservoir, about equally often."""
    distances = np.abs(np.asarray(reservoir)[:, None] - np.asarray(pairs)).max(axis=-1)
    assert distances.min(axis=1).max() < 1e-5
    counts = np.bincount(distances.argmin(axis=1), minlength=len(pairs))
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_parameters_of_the_paper(method):
    model = echo_tf.build_model(method)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == PARAMETERS[method]


@pytest.mark.parametrize("method", SOME_METHODS)
def test_fit_evaluate_predict(method):
    model = echo_tf.build_model(small(method, beta=2.0))
    n = 30 if method == "info_vae" else 25  # the penalty is a statistic of the batch, and the last would count in full
    data = images(n)
    history = model.fit(data, batch_size=10, validation_data=data, epochs=2, verbose=0).history
    metrics = {"loss", "rate", "distortion"} | ({"mmd"} if model.penalty else set())
    assert set(history) == {f"{prefix}{name}" for prefix in ("", "val_") for name in metrics}
    values = model.evaluate(data, batch_size=10, return_dict=True, verbose=0)
    penalty = 999 * values.get("mmd", 0.0)
    assert values["loss"] == pytest.approx(values["distortion"] + 2 * values["rate"] + penalty, rel=1e-5)
    outputs = model.predict(data, batch_size=10, verbose=0)
    shapes = {name: value.shape for name, value in outputs.items()}
    expected = {"z": (n, 32), "parameters": (n, 28, 28, 1), "rate": (n,), "distortion": (n,)}
    assert shapes == expected | ({} if method == "echo" else {"log_ratio": (n,)})
    if method in ("echo", "info_vae"):
        assert values["rate"] == pytest.approx(outputs["rate"].mean(), rel=1e-5)  # no noise in the rate


@pytest.mark.parametrize("method", SOME_METHODS)
def test_encode_decode_reconstruct_generate(method):
    model = echo_tf.build_model(small(method))
    model.fit(images(40), batch_size=10, verbose=0)
    z = model.encode(images(3))
    assert z.shape == (3, 32)
    for pictures in (model.decode(z), model.reconstruct(images(3), samples=2), model.generate(3)):
        assert pictures.shape == (3, 28, 28, 1)
        assert np.all((pictures > 0) & (pictures < 1))
    assert model.encode(images(1)).shape == (1, 32)
    assert model.predict(images(1), verbose=0)["z"].shape == (1, 32)


def test_fit_renews_the_reservoir_with_the_final_parameters():
    model = echo_tf.build_model(small("echo"))
    data = images(40)
    model.fit(data, batch_size=10, shuffle=False, verbose=0)
    mean, _ = model.channel.statistics(model.encoder.predict(data, verbose=0))
    assert_holds(model.channel.echo.source.reservoir.mean, mean)
    assert model.channel.echo.source.reservoir.size == 1000


@pytest.mark.parametrize("method", FAST_METHODS)
def test_every_weight_changes_in_one_step_and_is_saved(method, tmp_path):
    model = echo_tf.build_model(small(method))
    before = [weight.numpy() for weight in model.trainable_weights]
    data = images(10)
    model.fit(data, batch_size=10, verbose=0)
    after = zip(model.trainable_weights, before, strict=True)
    assert not [w.path for w, value in after if np.array_equal(w.numpy(), value)]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.channel.get_config() == model.channel.get_config()
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(
        model.channel.statistics(model.encoder(data)), loaded.channel.statistics(loaded.encoder(data)), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    assert len(model.random_states) == {"echo": 2, "info_vae": 2, "echo_mmd": 3}.get(method, len(loaded.random_states))
    for state, copy in zip(model.random_states, loaded.random_states, strict=True):
        np.testing.assert_array_equal(copy, state)
    before, after = model.predict(data, verbose=0), loaded.predict(data, verbose=0)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("method", SOME_METHODS)
def test_mixed_precision_keeps_channel_and_logits_in_float32(method):
    model = echo_tf.build_model(small(method, training={"batch_size": 10, "dtype_policy": "mixed_bfloat16"}))
    outputs = model(images(10))
    assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {"float32"}
    assert keras.backend.standardize_dtype(model.encoder(images(10)).dtype) == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    assert all(weight.dtype == "float32" for weight in model.trainable_weights)


def test_rates_are_at_or_above_the_floor():
    model = echo_tf.build_model("echo")
    rate = model.predict(images(100), batch_size=100, verbose=0)["rate"]
    assert model.channel.rate_floor == pytest.approx(5.7372, abs=1e-4)
    assert np.all(rate >= model.channel.rate_floor * (1 - 1e-6))


def test_data_sets_renew_the_reservoir_too():
    import tensorflow as tf

    data = images(40)
    model = echo_tf.build_model(small("echo"))
    model.fit(tf.data.Dataset.from_tensor_slices(data).batch(10), shuffle=False, verbose=0)
    mean, _ = model.channel.statistics(model.encoder.predict(data, verbose=0))
    assert_holds(model.channel.echo.source.reservoir.mean, mean)


def test_generators_leave_the_running_reservoir():
    model = echo_tf.build_model(small("echo"))
    last = images(10, 3)
    model.optimizer.learning_rate = 0.0  # the pairs stored in training are those of the parameters at the end
    model.fit(((images(10, seed),) for seed in range(4)), steps_per_epoch=4, shuffle=False, verbose=0)
    mean, _ = model.channel.statistics(model.encoder(last))
    np.testing.assert_allclose(model.channel.echo.source.reservoir.mean[:10], mean, atol=1e-5)  # the latest in front
    model.refresh_channel(last)  # and what `fit` could not do
    assert_holds(model.channel.echo.source.reservoir.mean, mean)


def test_rate_of_a_learned_marginal_is_unbiased_and_of_the_same_z():
    """With a MAF near the identity the rate must be near the analytic KL of N(0, I), and the ratio equal to it in the mean."""
    model = echo_tf.build_model(small("vae_maf", training={"batch_size": 10}))
    for weight in model.prior.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    rng = np.random.default_rng(0)
    for weight in model.channel.trainable_weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    data = np.repeat(images(1), 4000, axis=0)
    outputs = model.predict(data, batch_size=1000, verbose=0)
    mean, log_var = model.channel.statistics(model.encoder(data[:1]))
    kl = float(losses.gaussian_kl(mean, log_var)[0])
    assert kl > 1.0
    for name in ("rate", "log_ratio"):
        assert abs(outputs[name].mean() - kl) < 5 * outputs[name].std() / np.sqrt(4000)
        assert outputs[name].std() > 0.1
    assert not np.allclose(outputs["log_ratio"], outputs["rate"], atol=0.1)  # the rate knows the entropy


def test_pseudo_inputs_start_from_training_images_and_stay_in_the_unit_interval():
    model = echo_tf.build_model(small("vae_vamp"))
    data = (images(20) > 0.5).astype("float32")
    assert len(np.unique(np.asarray(model.prior.pseudo_inputs).reshape(5, -1), axis=0)) == 5
    model.optimizer.learning_rate = 0.0
    model.fit(data, batch_size=10, verbose=0)
    start = np.asarray(model.prior.pseudo_inputs)
    assert len({int(np.flatnonzero((data == image).all((1, 2, 3)))[0]) for image in start}) == 5
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(images(20, seed=1), batch_size=10, epochs=2, verbose=0)  # not a new start
    after = np.asarray(model.prior.pseudo_inputs)
    assert after.min() == 0.0
    assert after.max() == 1.0
    assert 0 < np.abs(after - start).mean() < 0.01


@pytest.mark.parametrize("method", [method for method in METHODS if method != "echo_mmd"])
def test_released_protocol(method):
    config = echo_tf.load_config(method, protocol="released")
    model = echo_tf.build_model(config)
    assert config.protocol == "released"
    assert config.training.schedule == "released"
    # 288 more in the last convolution, 5x5 instead of 4x4. Flows count, but are not trained.
    flows = PARAMETERS[method] - VAMP * ("vamp" in method) - NETWORKS
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == PARAMETERS[method] + 288 - flows
    assert sum(int(np.prod(w.shape)) for w in model.non_trainable_weights) >= flows


def test_released_flows_stay_as_they_are():
    model = echo_tf.build_model(small("iaf_maf", protocol="released"))
    before = [np.asarray(weight) for weight in (*model.channel.flow.weights, *model.prior.flow.weights)]
    model.fit(images(20), batch_size=10, verbose=0)
    for weight, old in zip((*model.channel.flow.weights, *model.prior.flow.weights), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_released_pseudo_inputs_stay_equal():
    model = echo_tf.build_model(small("vae_vamp", protocol="released"))
    model.fit(images(20), batch_size=10, epochs=2, verbose=0)
    pseudo_inputs = np.asarray(model.prior.pseudo_inputs)
    np.testing.assert_allclose(pseudo_inputs, np.repeat(pseudo_inputs[:1], 5, axis=0), atol=1e-5)


@pytest.mark.parametrize("method", ["iaf", "iaf_maf", "vae_maf", "iaf_vamp", "vae"])
def test_importance_weights_of_the_marginal_average_to_one(method):
    """E p(z) / q(z|x) = 1 over draws of q(z|x), whatever flows there are; a missing or wrong log determinant shows."""
    config = small(method, flow={"hidden_units": 8}, network={"latent_dim": 2})
    model = echo_tf.build_model(config)
    rng = np.random.default_rng(0)
    for layer in (model.channel, model.prior):
        for weight in () if layer is None else layer.trainable_weights:
            if "pseudo" not in weight.path:
                weight.assign(rng.normal(0, 0.02 if weight.shape[0] == 256 else 0.15, weight.shape))
    model.channel.log_var_head.bias.assign([0.5, 0.5])  # broader than the marginal, so that the weights are bounded
    features = np.repeat(rng.normal(size=(1, 256)).astype("float32"), 40_000, axis=0)
    draw = model.channel.draw(features)
    weights = np.exp(np.asarray(model._log_marginal(draw) - draw.density.at_draw, dtype=np.float64))
    error = weights.std() / np.sqrt(len(weights))
    assert error < 0.05
    assert abs(weights.mean() - 1.0) < 5 * error


def test_options_reach_the_layers():
    def size(**overrides):
        weights = echo_tf.build_model(small("iaf_maf", **overrides)).trainable_weights
        return sum(int(np.prod(weight.shape)) for weight in weights)

    step = 32 * 32 + 2 * 32 * 32 + 32 * 32 + 4 * 32  # three hidden layers of 32
    assert size() == NETWORKS + 2 * 4 * step
    assert size(flow={"hidden_units": 32, "steps": 2}) == NETWORKS + 2 * 2 * step
    echo = echo_tf.build_model(small("echo", channel={"d_max": 9, "max_mean": 2.0, "multiplicative": True})).channel
    assert (echo.echo.max_scale, echo.multiplicative) == (echo_tf.max_scale(9, 2.0), True)
    gaussian = echo_tf.build_model(small("vae", distortion={"kind": "gaussian", "sd": 0.5}))
    assert gaussian.distortion.sd == 0.5
    with pytest.raises(echo_tf.ConfigError, match=r"network\.kind=conv64"):
        echo_tf.build_model(small("vae", network={"kind": "conv64"}))


def test_samples_come_from_the_learned_marginal():
    for method in ("vae_maf", "iaf_vamp"):
        model = echo_tf.build_model(small(method))
        model.decode = np.asarray
        flow = model.prior.flow if method == "vae_maf" else model.channel.flow
        for network in flow.networks:
            network.biases[-1].assign(np.full(32, 5.0 if method == "vae_maf" else -5.0))
        # Four shifts by 5 each; the flow of the encoder runs the other way.
        assert model.generate(200).mean() == pytest.approx(20.0, abs=1.0)


def test_generators_cannot_start_pseudo_inputs():
    model = echo_tf.build_model(small("vae_vamp"))
    with pytest.raises(ValueError, match="start_from"):
        model.fit(((images(10, seed),) for seed in range(2)), steps_per_epoch=2, verbose=0)


def test_vamp_uses_the_one_encoder():
    model = echo_tf.build_model(small("iaf_vamp"))
    paths = [weight.path for weight in model.trainable_weights]
    assert len(paths) == len(set(paths)) == 10 + 14 + 4 + 4 * 8 + 1  # encoder, decoder, heads, flow, pseudo-inputs
    data = images(6)
    outputs = model.predict(data, verbose=0)
    # Before the flow the marginal is the mixture of what the encoder makes of the pseudo-inputs.
    draw = model.channel.draw(model.encoder(data))
    components = model.channel.statistics(model.encoder(np.asarray(model.prior.pseudo_inputs)))
    np.testing.assert_allclose(model._log_marginal(draw), model.prior.log_prob(draw.density.base, *components), rtol=1e-5)
    assert outputs["rate"].shape == (6,)


def test_penalty_is_neither_scaled_by_beta_nor_in_rate_or_distortion():
    values = {}
    for weight in (0.0, 999.0):
        for beta in (1.0, 3.0):
            keras.utils.set_random_seed(0)
            model = echo_tf.build_model(small("vae", beta=beta, mmd={"weight": weight}))
            values[weight, beta] = model.evaluate(images(10), batch_size=10, return_dict=True, verbose=0)
    for beta in (1.0, 3.0):
        with_penalty, without = values[999.0, beta], values[0.0, beta]
        assert with_penalty["rate"] == pytest.approx(without["rate"], rel=1e-5)
        assert with_penalty["loss"] - with_penalty["distortion"] - beta * with_penalty["rate"] == pytest.approx(
            999 * with_penalty["mmd"], rel=1e-3
        )
    assert values[999.0, 1.0]["mmd"] > 0.01


@pytest.mark.parametrize("shared", [True, False])
def test_shared_noise_lets_the_released_penalty_act_at_first(shared):
    """On one noise vector all outputs begin so close together that even its kernel tells them apart, and drives them apart."""
    keras.utils.set_random_seed(0)
    config = echo_tf.load_config("info_vae", protocol="released", channel={"shared_noise": shared})
    model = echo_tf.build_model(config)
    x = images(100)
    heads = model.channel.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(x, training=True)
        penalty = model.penalty.weight * model.penalty(outputs["z"])
        objective = model.compute_loss(x, y_pred=outputs) - penalty
    of_penalty, of_objective = (float(tf.linalg.global_norm(tape.gradient(loss, heads))) for loss in (penalty, objective))
    assert of_penalty > 100 * of_objective if shared else of_penalty == 0


def test_a_constraint_weighs_the_rate_by_its_damped_multiplier():
    model = echo_tf.build_model(small("vae", beta=2.0, constraint={"quantity": "rate", "target_nats": 1.0}))
    x = images(10)
    outputs = {"rate": np.full(10, 1.1, "float32"), "distortion": np.full(10, 7.0, "float32")}
    loss = float(model.compute_loss(x, y_pred=outputs, training=True))
    weight, following = losses.constrained_beta(2.0, "rate", 1.1, 1.0, model.constraint.gain)
    assert loss == pytest.approx(7.0 + float(weight) * 1.1, rel=1e-6)
    assert float(model.beta) == pytest.approx(float(following), rel=1e-6) != pytest.approx(float(weight), rel=1e-2)


def test_constants_are_not_of_validation_images(monkeypatch):
    model = echo_tf.build_model(small("echo"))
    seen = []
    monkeypatch.setattr(model, "refresh_channel", lambda found: seen.append(found))
    x = images(40)
    model.fit(x, batch_size=10, validation_split=0.25, verbose=0)
    assert len(seen) == 2
    for found in seen:  # for the validation and at the end
        np.testing.assert_array_equal(found, x[:30])


def test_constants_are_of_images_from_all_over_an_array():
    data = np.arange(25_000).reshape(-1, 1, 1, 1)
    found = some_examples(data, 10_000).ravel()
    assert len(np.unique(found)) == 10_000 and (found[0], found[-1]) == (0, 24_999)
    assert found.mean() == pytest.approx(data.mean(), rel=1e-3)
    np.testing.assert_array_equal(some_examples(data[:7], 10_000), data[:7])


def test_targets_and_weights_are_refused():
    model = echo_tf.build_model(small("vae"))
    for options in ({"y": images(20)}, {"sample_weight": np.ones(20)}):
        with pytest.raises(ValueError, match="takes no targets"):
            model.fit(images(20), batch_size=10, verbose=0, **options)
    weighted = tf.data.Dataset.from_tensor_slices((images(20), np.zeros(20), np.ones(20))).batch(10)
    with pytest.raises(ValueError, match="takes no targets"):
        model.fit(weighted, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (lambda x: x[..., 0], "Add a last axis"),
        (lambda x: np.moveaxis(x, -1, 1), "channels that come first"),
        (lambda x: 255 * x, "Received values from 0 to 25"),
        (lambda x: (255 * x).astype("uint8"), "Divide images of 0 to 255"),
        (lambda x: 2 * x - 1, r"\[0, 1\]"),
        (lambda x: np.where(x > 0.9, np.nan, x), "NaN"),
        (lambda x: x[:0], "at least one example"),
        (lambda x: tf.data.Dataset.from_tensor_slices(255 * x).batch(10), "Divide"),
    ],
)
def test_examples_that_do_not_fit_are_refused_before_training(x, message):
    model = echo_tf.build_model(small("vae"))
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            call(x(images(20)), verbose=0)
    assert int(model.optimizer.iterations) == 0


def parts(shape, dim=3, outputs=None):
    encoder = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(8, "relu")])
    outputs = outputs or shape
    decoder = keras.Sequential([keras.Input((dim,)), keras.layers.Dense(int(np.prod(outputs))), keras.layers.Reshape(outputs)])
    return encoder, decoder


@keras.saving.register_keras_serializable(package="tests")
def absolute_error(x, parameters):
    return keras.ops.sum(keras.ops.abs(x - parameters), axis=-1)


@pytest.mark.parametrize("distortion", ["gaussian", absolute_error], ids=["gaussian", "function"])
def test_a_table_trains_saves_and_loads(distortion, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    model = echo_tf.RateDistortionModel(*parts((5,)), echo_tf.EchoDense(3, d_max=19, seed=0), beta=0.5, distortion=distortion)
    model.compile("adam")
    assert set(model.fit(x, batch_size=20, verbose=0).history) == {"loss", "rate", "distortion"}
    values = model.evaluate(x, return_dict=True, verbose=0)
    assert values["loss"] == pytest.approx(values["distortion"] + 0.5 * values["rate"], rel=1e-5)  # the rate counts once
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.beta) == 0.5
    found, expected = loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert model.generate(2).shape == (2, 5)


def test_layers_and_colour_images_will_do():
    x = np.random.default_rng(0).uniform(size=(40, 64, 64, 3)).astype("float32")
    model = echo_tf.build_model(echo_tf.load_config("echo", channel={"d_max": 9}, network={"latent_dim": 4}), x.shape[1:])
    model.fit(x, batch_size=20, verbose=0)
    assert model.reconstruct(x[:2], samples=2).shape == (2, 64, 64, 3)
    encoder, _ = parts((5,))
    mixed = echo_tf.RateDistortionModel(encoder, keras.layers.Dense(5), echo_tf.GaussianChannel(3), distortion="gaussian")
    mixed.compile("adam")
    mixed.fit(np.zeros((20, 5), "float32"), verbose=0)
    assert mixed.predict(np.zeros((2, 5)), verbose=0)["parameters"].shape == (2, 5)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="Expected None with EchoDense"):
        echo_tf.RateDistortionModel(*parts((5,)), echo_tf.EchoDense(3), prior=echo_tf.MAFPrior(3))
    for beta in (-1.0, float("nan"), True):
        with pytest.raises(ValueError, match="`beta`"):
            echo_tf.RateDistortionModel(*parts((5,)), echo_tf.EchoDense(3), beta=beta)
    wrong = echo_tf.RateDistortionModel(*parts((5,)), echo_tf.GaussianChannel(3), distortion=lambda x, y: x - y)
    with pytest.raises(ValueError, match=r"shape \(batch,\)"):
        wrong(np.zeros((2, 5), "float32"))


def test_regularisers_of_the_networks_enter_the_loss():
    encoder, _ = parts((5,))
    decoder = keras.layers.Dense(5, kernel_regularizer=keras.regularizers.L2(1.0))
    model = echo_tf.RateDistortionModel(encoder, decoder, echo_tf.GaussianChannel(3, seed=0), distortion="gaussian")
    model.compile("sgd")
    values = model.evaluate(np.zeros((4, 5), "float32"), return_dict=True, verbose=0)
    extra = float(np.sum(np.square(decoder.kernel)))
    assert values["loss"] == pytest.approx(values["distortion"] + values["rate"] + extra, rel=1e-5)


def test_a_model_of_version_0_1_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match=r"written by version 0\.1"):
        echo_tf.RateDistortionModel.from_config({"config": {"method": "echo"}})
