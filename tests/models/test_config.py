import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_tf.models import networks
from echo_tf.models.config import (
    Config,
    ConfigError,
    NetworkConfig,
    available_methods,
    config_from_dict,
    config_from_record,
    flatten,
    load_config,
    to_dict,
)


def test_paper_defaults():
    config = load_config("echo")
    training = config.training
    assert (training.epochs, training.batch_size, training.learning_rate, config.channel.d_max) == (200, 100, 3e-4, 99)
    assert (config.method, config.protocol, config.beta, config.network.latent_dim) == ("echo", "paper", 1.0, 32)


@pytest.mark.parametrize("method", available_methods())
def test_every_method_loads_and_survives_a_dictionary(method):
    config = load_config(method)
    assert config.method == method
    assert config_from_dict(to_dict(config)) == config


def test_kinds_are_those_of_the_networks():
    for kind in ("auto", *networks.NETWORKS):
        assert NetworkConfig(kind=kind).kind == kind
    with pytest.raises(ConfigError, match="Expected 'auto'"):
        NetworkConfig(kind="resnet")


def test_overrides_merge_into_groups():
    config = load_config("vae", beta=2, training={"epochs": 3})
    assert config == dataclasses.replace(
        load_config("vae"), beta=2.0, training=dataclasses.replace(load_config("vae").training, epochs=3)
    )


def test_file_with_a_number_that_yaml_reads_as_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training:\n  learning_rate: 1e-3\n")
    config = load_config(path)
    assert config == Config(method="mine", training=dataclasses.replace(Config(method="").training, learning_rate=1e-3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("betta: 1", r"unknown key `betta` \(did you mean `beta`\?\)"),
        ("training:\n  epoch: 3", r"unknown key `training.epoch` \(did you mean `epochs`\?\)"),
        ("training: 3", "Expected keys and values"),
        ("beta: much", "`beta`. Expected a number"),
        ("beta: yes", "`beta`. Expected a number"),
        ("beta: -1", "`beta`. Expected greater than or equal to 0"),
        ("beta: .nan", "`beta`. Expected a finite number"),
        ("beta: 1e999", "`beta`. Expected a finite number"),
        ("seed: 4294967296", "`seed`. Expected less than 4294967296"),
        ("seed: -1", "`seed`. Expected greater than or equal to 0"),
        ("training:\n  epochs: 99999999999999999999", "`training.epochs`. Expected less than 2147483648"),
        ("seed: 1.5", "`seed`. Expected a valid integer"),
        ("channel:\n  kind: gauss", "`channel.kind`. Expected 'echo', 'echo_matrix', 'gaussian', 'gaussian_full' or 'iaf'"),
        ("channel:\n  sampler: loop", "Expected 'ring' or 'gather'"),
        ("training:\n  batch_size: 1", "`training.batch_size`. Expected greater than or equal to 2"),
        ("training:\n  learning_rate: 0", "Expected greater than 0"),
        ("training:\n  decay_start: 1.5", "Expected less than or equal to 1"),
        ("prior:\n  kind: vamp", "with an Echo channel"),
        ("channel:\n  kind: gaussian\nprior:\n  kind: maf\nmmd:\n  weight: 1", "towards N\\(0, I\\)"),
        ("mmd:\n  weight: 1", "Expected 'gather'"),
        ("channel:\n  kind: echo_matrix\nmmd:\n  weight: 1", "`mmd.weight` with the channel echo_matrix"),
        ("channel:\n  kind: echo_matrix\n  replace: true", "`channel.replace` with the channel echo_matrix.*no such option"),
        ("channel:\n  kind: echo_matrix\nprior:\n  kind: maf", "with an Echo channel"),
        ("channel:\n  kind: echo\n  gaussian_at: 0.5\nprior:\n  kind: vamp", "with an Echo channel"),
        ("channel:\n  kind: echo\n  gaussian_at: 0.5\n  parametrisation: literal", "`channel.gaussian_at` with"),
        ("channel:\n  noise: uniform", "`channel.noise`. Expected 'echo', 'gaussian' or 'independent'"),
        ("channel:\n  kind: iaf\n  noise: gaussian", "`channel.noise` with the channel iaf.*no such option"),
        ("channel:\n  kind: gaussian\n  sampler: gather", "`channel.sampler` with the channel gaussian.*no such option"),
        ("channel:\n  shared_noise: true", "`channel.shared_noise` with the channel echo, which has no such option"),
        ("channel:\n  gaussian_at: 0.5\n  noise: gaussian", "`channel.gaussian_at` with other noise"),
        ("channel:\n  kind: gaussian_full\n  shared_noise: true", "`channel.shared_noise` with the channel gaussian_full"),
        ("channel:\n  kind: gaussian_full\nprior:\n  kind: vamp", "made for Gaussians with independent dimensions"),
        ("mmd:\n  weight: -1", "`mmd.weight`. Expected greater than or equal to 0"),
        ("mmd:\n  fixed_bandwidth: 0", "Expected greater than 0"),
        ("channel:\n  pool: 100", "unknown key `channel.pool`"),
        ("channel:\n  max_mean: 0.5", "Expected greater than or equal to 1"),
        ("channel:\n  replace: 1", "Expected a valid boolean"),
        ("distortion:\n  sd: 0", "Expected greater than 0"),
        ("1: 2", "unknown key `1`"),
        ('{"\\uD800": 1}', "no text that can be written"),
        ("constraint:\n  quantity: loss", "Expected 'none', 'rate' or 'distortion'"),
        ("constraint:\n  quantity: rate", "`constraint.target_nats` with a constraint. Expected more than 0"),
        ("constraint:\n  quantity: rate\n  target_nats: 5.7", "at least the rate floor of this Echo channel .*, 5.74"),
        ("beta: 0\nconstraint:\n  quantity: rate\n  target_nats: 9", "`beta` with a constraint. Expected more than 0"),
        ("constraint:\n  quantity: distortion\n  target_nats: 9\ntraining:\n  beta_warmup: 0.5", "sets beta itself"),
        ("by_dataset: 3", "`by_dataset` must hold keys"),
        ("by_dataset:\n  omniglott:\n    beta: 2", r"unknown name `omniglott` in `by_dataset`.*`omniglot`"),
        ("by_dataset:\n  omniglot:\n    betta: 2", "unknown key `betta`"),
        ("by_protocol:\n  released:\n    betta: 2", "unknown key `betta`"),
        ("protocol: other", "Expected 'paper' or 'released'"),
        ("method: ../x", "`method` is not allowed"),
        ("[1, 2]", "keys and values"),
        ("a: [", "not a valid YAML file"),
        ("training: {epochs: 5}\nseed: 1\ntraining: {batch_size: 50}", "key `training` stands there twice"),
        ("!!map [a]", "not a valid YAML file"),
    ],
)
def test_invalid_file_names_itself_and_the_place(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path, training={"epochs": 3})  # an override of a group hides no error in it
    assert "bad.yaml" in str(error.value)


def test_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown method 'ecko' \(did you mean `echo`\?\)"):
        load_config("ecko")
    with pytest.raises(ConfigError, match="No configuration file"):
        load_config("missing.yaml")


def test_values_for_a_protocol(tmp_path):
    assert load_config("vae", protocol="released").channel.shared_noise
    assert not load_config("vae", protocol="paper").channel.shared_noise
    combined = load_config("iaf_vamp", dataset="omniglot", protocol="released")
    assert (combined.prior.components, combined.prior.average) == (500, "logs")
    path = tmp_path / "mine.yaml"
    path.write_text("beta: 2")
    with pytest.raises(ConfigError, match="no values for the protocol 'released'"):
        load_config(path, protocol="released")


def test_values_for_a_data_set():
    assert load_config("vae_vamp").prior.components == 250
    assert load_config("vae_vamp", dataset="fashion_mnist").prior.components == 250
    assert load_config("iaf_vamp", dataset="omniglot").prior.components == 500
    assert load_config("iaf_vamp", dataset="omniglot", prior={"components": 7}).prior.components == 7


def test_digits_has_fewer_epochs_unless_somebody_says_otherwise(tmp_path):
    (tmp_path / "mine.yaml").write_text("training: {epochs: 200}")
    assert load_config("echo", dataset="digits").training.epochs == 30
    assert load_config("echo", dataset="digits", training={"epochs": 200}).training.epochs == 200
    assert load_config(tmp_path / "mine.yaml", dataset="digits").training.epochs == 200
    assert load_config("echo", dataset="omniglot").training.epochs == 200


def test_python_values_are_checked_as_those_of_a_file():
    config = load_config("echo")
    with pytest.raises(ConfigError, match="Expected 'paper' or 'released'"):
        load_config("vae", protocol=[])
    for change in ({"beta": 10**400}, {"seed": 10**400}, {"seed": 2**32}, {"beta": math.nan}, {"seed": True}):
        with pytest.raises(ConfigError, match=f"Invalid value for `{next(iter(change))}`"):
            dataclasses.replace(config, **change)


@pytest.mark.parametrize(("method", "is_echo"), [("echo", True), ("echo_matrix", True), ("vae_full", False), ("iaf", False)])
def test_both_kinds_of_echo_have_a_floor(method, is_echo):
    config = load_config(method)
    assert config.channel.is_echo == is_echo
    assert config.rate_floor == pytest.approx(5.7372 if is_echo else 0.0, abs=1e-4)


def test_records_of_version_0_1_load():
    old = to_dict(load_config("vae"))
    old["network"] = {"encoder": "conv", "decoder": "conv_5x5", "latent_dim": 32}
    old["channel"] |= {"pool": 0, "context_units": 0}
    old["training"]["replicas"] = 1
    assert config_from_record(old) == load_config("vae", network={"kind": "conv_5x5"})
    old["network"]["decoder"] = "conv"
    assert config_from_record(old) == load_config("vae")
    with pytest.raises(ConfigError, match=r"`channel\.pool: 900` was removed"):
        config_from_record(old | {"channel": old["channel"] | {"pool": 900}})
    assert old["channel"]["pool"] == 0  # what was read is as it was


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["echo", "gaussian", "iaf", "vamp", "maf", "gather", "rate", "released", 10**400, -(10**400), 2**32]),
)


@given(st.dictionaries(st.sampled_from(sorted(flatten(load_config("echo")))), VALUES, min_size=1, max_size=3))
def test_any_value_of_any_setting_is_taken_or_refused_by_name(values):
    overrides: dict = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        (overrides.setdefault(group, {}) if group else overrides)[name] = value
    try:
        config = config_from_dict({"method": "mine"} | overrides)
    except ConfigError as error:
        assert "Invalid value for `" in str(error) or "unknown key `" in str(error)
    else:
        assert config_from_dict(to_dict(config)) == config
