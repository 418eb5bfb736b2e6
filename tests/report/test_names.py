import dataclasses

import pytest

from echo_tf.report.names import data_name, departures, labels, method_name, spelled, stem, title

# One change of each thing that can tell two models apart, and the word of it in a label.
CHANGES = [
    ({"training": {"epochs": 10}}, "10 epochs"),
    ({"training": {"dtype_policy": "mixed_bfloat16"}}, "bfloat16"),
    ({"training": {"batch_size": 200}}, "batch_size=200"),
    ({"channel": {"d_max": 49}}, "d_max=49"),
    ({"channel": {"multiplicative": True}}, "multiplicative=True"),
    ({"network": {"kind": "mlp"}}, "network=mlp"),
    ({"distortion": {"kind": "gaussian", "sd": 0.5}}, "distortion=gaussian, sd=0.5"),
    ({"protocol": "released"}, "released"),
    ({"beta": 0.5}, "β = 0.5"),
    ({"constraint": {"quantity": "rate", "target_nats": 20}}, "rate 20"),
    ({"split": "validation"}, "validation"),
    ({"holdout": 10_000}, "held out 10000"),
    ({"source": "reconstruction"}, "reconstruction"),
]


@pytest.mark.parametrize(("change", "word"), CHANGES)
def test_whatever_tells_two_results_apart_is_in_the_labels(result, change, word):
    usual, changed = result(), result(**change)
    first, second = labels([usual, changed])
    assert first != second
    assert word in second
    assert word not in first
    assert labels([usual, usual]) == ["Echo", "Echo"]


@pytest.mark.parametrize(("change", "word"), CHANGES)
def test_what_all_have_in_common_is_in_the_title(result, change, word):
    results = [result(**change), result(**change, seed=1)]
    assert word in title(results)
    assert title(results).startswith("Binary MNIST, ")
    assert word not in title([result(), result(**change)])


def test_seeds_are_named_where_they_are_asked_for(result):
    results = [result(seed=seed) for seed in (0, 1)]
    assert labels(results) == ["Echo", "Echo"]
    assert labels(results, without=()) == ["Echo, seed 0", "Echo, seed 1"]
    assert title(results[:1], without=()) == "Binary MNIST, Echo, β = 1, 200 epochs, float32, seed 0"


def test_methods_stand_in_front(result):
    assert labels([result(), result("vae")]) == ["Echo", "VAE"]
    assert labels([result("vae", protocol="released"), result("vae", protocol="released", training={"epochs": 3})]) == [
        "VAE (released), 200 epochs",
        "VAE (released), 3 epochs",
    ]


def test_settings_of_an_unknown_method_are_its_own(result):
    made = result("vae", training={"batch_size": 7})
    assert departures(made) == ("batch_size=7",)
    mine = dataclasses.replace(made.cell, config=dataclasses.replace(made.config, method="mine"))
    assert method_name(dataclasses.replace(made, cell=mine)) == "mine"


def test_defaults_of_a_data_set_are_no_departures(result):
    assert departures(result("vae_vamp", "omniglot")) == ()
    assert departures(result("vae_vamp", "mine")) == ()
    assert departures(result("vae_vamp", "omniglot", prior={"components": 250})) == ("components=250",)


def test_names_of_data_in_tables(result):
    assert data_name(result(dataset="mine", source="own")) == "mine"
    assert data_name(result(dataset="omniglot", source="reconstruction")) == "omniglot*"
    assert data_name(result(split="validation", holdout=1_345)) == "binary_mnist (valid.) -1345"


def test_sources_channels_and_noises_are_spelled_as_people_write_them():
    assert [spelled(name) for name in ("echo", "gaussian_independent", "mine")] == ["Echo", "Gaussian, independent", "mine"]
    assert spelled("gaussian_16") == "Gaussian, 16 dimensions"


def test_stems_leave_out_what_is_usual():
    assert stem("training", "digits", protocol="paper") == "training_digits"
    assert stem("training", "digits", protocol="released") == "training_digits_released"
    assert stem("samples", "digits", split="test") == "samples_digits"
    assert stem("samples", "digits", split="validation") == "samples_digits_validation"
    assert stem("samples", "test") == "samples_test"  # a data set of that name
