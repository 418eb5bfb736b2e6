"""Models that configurations describe: the paper's, on images and on other shapes. In the fast tests only one trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import echo_tf
from echo_tf.models import losses
from echo_tf.models.autoencoder import RateDistortionModel
from echo_tf.models.config import available_methods, load_config, to_dict

NETWORKS, FLOW, VAMP = 1_398_849, 3_448_448, 250 * 784
BELOW = (256 + 1) * 32 * 31 // 2  # the head for the entries below the diagonal
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
    "echo_matrix": NETWORKS + BELOW,
    "vae_full": NETWORKS + BELOW,
}


def size(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def small(method, **overrides):
    """A configuration that is built quickly."""
    defaults = {
        "network": {"kind": "mlp", "latent_dim": 4},
        "channel": {"d_max": 9},
        "flow": {"hidden_units": 32},
        "prior": {"components": 5},
    }
    return load_config(method, **{**defaults, **overrides})


def built(method, shape=(6,), **overrides):
    return echo_tf.build_model(small(method, **overrides), shape)


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, 28, 28, 1)).astype("float32")


@pytest.mark.parametrize("method", PARAMETERS)
def test_parameters_of_the_paper(method):
    model = echo_tf.build_model(method)
    assert size(model.trainable_weights) == PARAMETERS[method]
    assert model.compiled and model.encoder.input_shape == (None, 28, 28, 1)


@pytest.mark.parametrize("law", ["gaussian", "independent"])
@pytest.mark.parametrize("method", ["echo", "echo_matrix"])
def test_other_noise_reaches_the_channel(method, law):
    model, echo = built(f"{method}_{law}"), built(method)
    assert (model.channel.noise, echo.channel.noise) == (law, "echo")
    assert size(model.trainable_weights) == size(echo.trainable_weights)


@pytest.mark.parametrize("method", ["echo", "vae", "vae_vamp", "iaf_maf", "iaf_vamp"])
def test_released_protocol(method):
    config = load_config(method, protocol="released")
    model = echo_tf.build_model(config)
    assert (config.protocol, config.training.schedule) == ("released", "released")
    # 288 more in the last convolution, 5x5 instead of 4x4. Flows count, but are not trained.
    flows = PARAMETERS[method] - VAMP * ("vamp" in method) - NETWORKS
    assert size(model.trainable_weights) == PARAMETERS[method] + 288 - flows
    assert size(model.non_trainable_weights) >= flows


def test_released_pseudo_inputs_stay_equal():
    """They start at the mean, and one gradient is that of all."""
    model = built("vae_vamp", protocol="released", network={"kind": "mlp", "latent_dim": 4})
    x = np.random.default_rng(0).uniform(size=(20, 6)).astype("float32")
    model.prior.start_from(x)
    pseudo_inputs = model.prior.pseudo_inputs
    np.testing.assert_allclose(pseudo_inputs, np.tile(x.mean(axis=0), (5, 1)), rtol=1e-5)
    with tf.GradientTape() as tape:
        rate = tf.reduce_mean(model(x)["rate"])
    gradient = np.asarray(tape.gradient(rate, pseudo_inputs.value))
    np.testing.assert_allclose(gradient, np.tile(gradient[:1], (5, 1)), rtol=1e-4, atol=1e-7)
    assert np.any(gradient != 0)


@pytest.mark.parametrize("method", ["echo", "vae_maf", "info_vae"])
def test_dictionaries_are_configurations(method):
    config = small(method)
    model = echo_tf.build_model(to_dict(config), (6,))
    assert isinstance(model, RateDistortionModel) and model.channel.units == 4
    assert (model.penalty is not None) == bool(config.mmd.weight)
    assert (model.prior is not None) == (config.prior.kind != "own")


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [((28, 28, 1), "auto", (None, 28, 28, 1)), ((64, 64, 3), "auto", (None, 64, 64, 3)), ((5, 4), "mlp", (None, 5, 4))],
)
def test_shapes(shape, kind, expected):
    model = built("vae", shape, network={"kind": kind, "latent_dim": 4})
    assert model.encoder.input_shape == model.decoder.output_shape == expected
    assert model.decoder.input_shape == (None, 4)


def test_options_reach_the_layers():
    step = 4 * 32 + 2 * 32 * 32 + 4 * 32 + 3 * 32 + 4  # kernels and biases of three hidden layers of 32
    networks = size(built("vae").trainable_weights)
    assert size(built("iaf_maf").trainable_weights) == networks + 2 * 4 * step
    assert size(built("iaf_maf", flow={"hidden_units": 32, "steps": 2}).trainable_weights) == networks + 2 * 2 * step

    options = {"d_max": 9, "max_mean": 2.0, "multiplicative": True, "sampler": "gather", "mean_scale": 3.0, "replace": True}
    channel = built("echo", channel={**options, "parametrisation": "literal"}, seed=5, mmd={"weight": 0.0}).channel
    config = channel.get_config()
    assert {name: config[name] for name in options} == options
    assert (config["parametrisation"], config["seed"], channel.rate_weight) == ("literal", 5, None)
    assert channel.rate_floor == pytest.approx(-4 * np.log(echo_tf.max_scale(9, 2.0)))
    for method in ("echo", "echo_matrix"):
        config = built(method, channel={"d_max": 9, "echoes": "reservoir", "noise": "gaussian"}).channel.get_config()
        assert (config["d_max"], config["echoes"], config["noise"]) == (9, "reservoir", "gaussian")
    assert built("vae_shared_noise").channel.shared_noise

    prior = built("vae_vamp", prior={"components": 7, "average": "logs", "start": "mean", "start_noise": 0.3}, seed=5).prior
    assert (prior.components, prior.average, prior.start, prior.start_noise) == (7, "logs", "mean", 0.3)
    assert (prior.seed, prior.image_shape) == (1_000_005, (6,))

    assert built("vae", distortion={"kind": "gaussian", "sd": 0.5}).distortion.sd == 0.5
    penalty = built("info_vae", mmd={"weight": 3.0, "bandwidth": "fixed", "fixed_bandwidth": 2.0}, seed=5).penalty
    assert (float(penalty.weight), penalty.bandwidth, penalty.fixed_bandwidth, penalty.seed) == (3.0, "fixed", 2.0, 2_000_005)
    constraint = built("vae", constraint={"quantity": "rate", "target_nats": 7.0, "gain": 0.2}).constraint
    assert constraint.get_config() == {"quantity": "rate", "target_nats": 7.0, "gain": 0.2}
    model = built("vae", beta=3.0, training={"learning_rate": 0.25})
    assert (float(model.beta), float(model.optimizer.learning_rate)) == (3.0, 0.25)


def test_seeds_at_the_limit_and_networks_that_do_not_fit():
    model = built("iaf_vamp", seed=2**32 - 1, mmd={"weight": 0.0})
    assert model.channel.seed == 2**32 - 1 and model.prior.seed == 1_000_000 - 1
    with pytest.raises(echo_tf.ConfigError, match=r"network\.kind=conv64"):
        built("vae", network={"kind": "conv64"})
    with pytest.raises(echo_tf.ConfigError, match="Unknown method 'ecko'"):
        echo_tf.build_model("ecko")


@pytest.mark.parametrize("method", ["echo", "info_vae", "iaf_vamp", "vae_maf"])
def test_mixed_precision_keeps_channel_and_parameters_in_float32(method):
    model = built(method, training={"dtype_policy": "mixed_bfloat16"})
    x = np.random.default_rng(0).uniform(size=(10, 6)).astype("float32")
    outputs = model(x)
    assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {"float32"}
    assert keras.backend.standardize_dtype(model.encoder(x).dtype) == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}


@pytest.mark.parametrize("shared", [True, False])
def test_shared_noise_lets_the_released_penalty_act_at_first(shared):
    """On one noise vector all outputs begin so close together that even its kernel tells them apart, and drives them apart."""
    model = echo_tf.build_model(load_config("info_vae", protocol="released", channel={"shared_noise": shared}))
    x = images(30)
    features = model.encoder(x)
    heads = model.channel.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        draw = model.channel.draw(features, training=True)
        penalty = model.penalty.weight * model.penalty(draw.z)
        rate = tf.reduce_mean(draw.rate)
    of_penalty, of_rate = (float(tf.linalg.global_norm(tape.gradient(loss, heads))) for loss in (penalty, rate))
    assert of_penalty > 100 * of_rate if shared else of_penalty == 0


@pytest.mark.parametrize("method", ["iaf", "iaf_maf", "vae_maf", "iaf_vamp", "vae", "vae_full", "vae_full with a flow"])
def test_importance_weights_of_the_marginal_average_to_one(method):
    """E p(z) / q(z|x) = 1 over draws of q(z|x), whatever flows there are; a wrong density shows."""
    method, _, flow = method.partition(" with ")
    options = {"prior": {"kind": "maf"}} if flow else {}
    model = built(method, flow={"hidden_units": 8}, network={"kind": "mlp", "latent_dim": 2}, **options)
    rng = np.random.default_rng(0)
    for layer in (model.channel, model.prior):
        for weight in () if layer is None else layer.trainable_weights:
            if "pseudo" not in weight.path:
                weight.assign(rng.normal(0, 0.02 if weight.shape[0] == 512 else 0.15, weight.shape))
    # Broader than the marginal, so that the weights are bounded.
    if method == "vae_full":
        model.channel.log_sd_head.bias.assign([0.25, 0.25])
    else:
        model.channel.log_var_head.bias.assign([0.5, 0.5])
    features = np.repeat(rng.normal(size=(1, 512)).astype("float32"), 20_000, axis=0)
    draw = model.channel.draw(features)
    weights = np.exp(np.asarray(model._log_marginal(draw) - draw.density.at_draw, dtype=np.float64))
    error = weights.std() / np.sqrt(len(weights))
    assert error < 0.05
    assert abs(weights.mean() - 1.0) < 5 * error


@pytest.mark.parametrize(("method", "prior"), [("echo_matrix", "own"), ("vae_full", "maf")])
def test_channels_with_matrices_learn(method, prior):
    model = built(method, prior={"kind": prior}, training={"learning_rate": 0.01})
    x = np.random.default_rng(0).uniform(size=(40, 6)).astype("float32")  # a partial batch would be traced by itself
    before = [np.asarray(weight) for weight in model.trainable_weights]
    history = model.fit(x, batch_size=20, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    moved = [not np.array_equal(*values) for values in zip(before, model.trainable_weights, strict=True)]
    assert all(moved)
    outputs = model.predict(x, batch_size=20, verbose=0)
    assert outputs["rate"].shape == (40,) and ("log_ratio" in outputs) == (method == "vae_full")
    assert model.generate(3).shape == (3, 6)


@pytest.mark.parametrize("method", ["vae_maf", "iaf_vamp"])
def test_samples_come_from_the_learned_marginal(method, monkeypatch):
    model = built(method)
    monkeypatch.setattr(model, "decode", np.asarray)
    flow = model.prior.flow if method == "vae_maf" else model.channel.flow
    for network in flow.networks:
        network.biases[-1].assign(np.full(4, 5.0 if method == "vae_maf" else -5.0))
    # Four shifts by 5 each; the flow of the encoder runs the other way.
    assert model.generate(200).mean() == pytest.approx(20.0, abs=1.0)


def test_vamp_uses_the_one_encoder():
    model = built("iaf_vamp")
    paths = [weight.path for weight in model.trainable_weights]
    assert len(paths) == len(set(paths)) == 4 + 6 + 4 + 4 * 8 + 1  # encoder, decoder, heads, flow, pseudo-inputs
    # Before the flow the marginal is the mixture of what the encoder makes of the pseudo-inputs.
    draw = model.channel.draw(model.encoder(np.random.default_rng(0).uniform(size=(6, 6)).astype("float32")))
    components = model.channel.statistics(model.encoder(np.asarray(model.prior.pseudo_inputs)))
    np.testing.assert_allclose(model._log_marginal(draw), model.prior.log_prob(draw.density.base, *components), rtol=1e-5)


def test_rate_of_a_learned_marginal_is_unbiased_and_of_the_same_z():
    """With a MAF near the identity the rate must be near the analytic KL of N(0, I), and the ratio equal to it in the mean."""
    model = built("vae_maf")
    for weight in model.prior.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    rng = np.random.default_rng(0)
    for weight in model.channel.trainable_weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    x = np.random.default_rng(0).uniform(size=(1, 6)).astype("float32")
    outputs = model(np.repeat(x, 2000, axis=0))
    kl = float(losses.gaussian_kl(*model.channel.statistics(model.encoder(x)))[0])
    assert kl > 1.0
    for name in ("rate", "log_ratio"):
        values = np.asarray(outputs[name])
        assert abs(values.mean() - kl) < 5 * values.std() / np.sqrt(2000)
        assert values.std() > 0.1
    assert not np.allclose(outputs["log_ratio"], outputs["rate"], atol=0.1)  # the rate knows the entropy


def test_images_of_the_paper_train_and_are_saved(tmp_path):
    model = echo_tf.build_model(load_config("echo", channel={"d_max": 9}))
    model.optimizer.build(model.trainable_variables)
    x = images(20)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(x, batch_size=10, verbose=0)
    assert not [w.path for w, old in zip(model.trainable_weights, before, strict=True) if np.array_equal(w, old)]
    assert np.all(np.asarray(model(x)["rate"]) >= model.channel.rate_floor * (1 - 1e-6))
    assert model.generate(2).shape == model.reconstruct(x[:2], samples=2).shape == (2, 28, 28, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found, expected = loaded(x[:3]), model(x[:3])
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("method", available_methods())
def test_every_method_trains_and_is_saved(method, tmp_path):
    model = built(method)
    model.optimizer.build(model.trainable_variables)
    x = np.random.default_rng(0).uniform(size=(20, 6)).astype("float32")
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(x, batch_size=10, verbose=0)
    assert not [w.path for w, old in zip(model.trainable_weights, before, strict=True) if np.array_equal(w, old)]
    assert np.all(np.isfinite(model.generate(3)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found, expected = loaded(x), model(x)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
