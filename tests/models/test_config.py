import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from echo_tf.models import names, networks
from echo_tf.models.config import Config, ConfigError, available_methods, config_from_dict, load_config

ROOT = Path(__file__).resolve().parent.parent


def test_paper_defaults():
    config = load_config("echo")
    training = config.training
    assert (training.epochs, training.batch_size, training.learning_rate, config.channel.d_max) == (200, 100, 3e-4, 99)
    assert (config.method, config.protocol, config.beta, config.network.latent_dim) == ("echo", "paper", 1.0, 32)


@pytest.mark.parametrize("method", available_methods())
def test_every_method_loads_and_survives_a_dictionary(method):
    config = load_config(method)
    assert config.method == method
    assert config_from_dict(dataclasses.asdict(config)) == config


def test_names_are_those_of_the_networks():
    assert tuple(networks.ENCODERS) == names.ENCODERS
    assert tuple(networks.DECODERS) == names.DECODERS


def test_the_program_checks_configurations_without_keras():
    script = "import sys, reproduce; reproduce.load_config('echo'); reproduce.parse_arguments([])"
    subprocess.run([sys.executable, "-c", script + "; assert 'keras' not in sys.modules"], check=True, cwd=ROOT)


def test_everybody_else_can_load_models_once_the_package_is_imported():
    script = """
import echo_tf, keras
for name in ("EchoDense", "EchoLayer", "MatrixEchoLayer", "RateDistortionModel"):
    assert keras.saving.get_registered_object(f"echo_tf>{name}") is getattr(echo_tf, name)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


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
        ("beta: much", "`beta`. Expected float"),
        ("beta: yes", "`beta`. Expected float"),
        ("beta: -1", "`beta`. Expected at least 0"),
        ("beta: .nan", "`beta`. Expected at least 0"),
        ("seed: 1.5", "`seed`. Expected int"),
        ("channel:\n  kind: gauss", "Expected one of"),
        ("channel:\n  sampler: loop", "Expected one of"),
        ("training:\n  batch_size: 1", "`training.batch_size`. Expected at least 2"),
        ("training:\n  learning_rate: 0", "positive finite"),
        ("training:\n  decay_start: 1.5", "fraction from 0 to 1"),
        ("prior:\n  kind: vamp", "with an Echo channel"),
        ("channel:\n  kind: iaf\n  context_units: 8\nprior:\n  kind: vamp", "different for every image"),
        ("channel:\n  kind: gaussian\n  context_units: 8", "has no flow"),
        ("channel:\n  kind: gaussian\nprior:\n  kind: maf\nmmd:\n  weight: 1", "towards N\\(0, I\\)"),
        ("mmd:\n  weight: 1", "Use gather"),
        ("mmd:\n  weight: -1", "`mmd.weight`. Expected at least 0"),
        ("mmd:\n  fixed_bandwidth: 0", "positive finite"),
        ("channel:\n  kind: gaussian\n  pool: 100", "`channel.pool`. Expected 0"),
        ("channel:\n  parametrisation: centred\n  pool: 100", "`channel.pool`. Expected 0"),
        ("constraint:\n  quantity: loss", "Expected one of"),
        ("constraint:\n  quantity: rate", "`constraint.target_nats`. Expected a positive"),
        ("constraint:\n  quantity: rate\n  target_nats: 5.7", "at least the rate floor of this Echo channel, 5.74"),
        ("beta: 0\nconstraint:\n  quantity: rate\n  target_nats: 9", "`beta`. Expected a positive"),
        ("constraint:\n  quantity: distortion\n  target_nats: 9\ntraining:\n  beta_warmup: 0.5", "sets beta itself"),
        ("by_dataset: 3", "`by_dataset` must hold keys"),
        ("by_dataset:\n  omniglott:\n    beta: 2", r"unknown name `omniglott` in `by_dataset`.*`omniglot`"),
        ("by_dataset:\n  omniglot:\n    betta: 2", "unknown key `betta`"),
        ("by_protocol:\n  released:\n    betta: 2", "unknown key `betta`"),
        ("protocol: other", "Expected one of"),
        ("method: ../x", "`method` is not allowed"),
        ("[1, 2]", "keys and values"),
        ("a: [", "not a valid YAML file"),
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
