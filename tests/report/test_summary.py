from dataclasses import replace

import pytest

from echo_tf.report.rows import compare
from echo_tf.report.summary import summary_sentence, terminal_table


def test_who_is_ahead(result):
    rows = compare([result("vae", neg_elbo=295.66), result("echo", neg_elbo=290.21)])
    told = "Binary MNIST, 200 epochs: Echo 290.2, VAE 295.7 nats of test -ELBO. Echo is 5.5 below VAE, but that is one seed"
    assert summary_sentence(rows).startswith(told)
    level = compare([result("vae", neg_elbo=90.06), result("echo", neg_elbo=90.0)])
    told = "Echo and VAE are level: 0.1 apart, within 2 standard errors of the evaluation, and of one seed."
    assert summary_sentence(level).endswith(told)


def test_models_that_send_nothing_are_not_compared(result):
    rates = {"rate_by_dimension_nats": (0.21,) * 32}
    idle = replace(result("echo", rate=6.7, neg_elbo=200.0, training={"epochs": 1}), **rates)
    vae = result("vae", rate=0.02, neg_elbo=207.0, training={"epochs": 1})
    assert summary_sentence(compare([idle, vae])) == (
        "Binary MNIST, 1 epoch: Echo 200.0, VAE 207.0 nats of test -ELBO. Echo and VAE send next to nothing: all dimensions of "
        "Echo are at the floor, or the rate is 0. Too few epochs (--epochs), or nothing in the data is worth its rate."
    )
    rows = compare([idle, result("vae", neg_elbo=150.0, training={"epochs": 1})])
    assert "Echo sends next to nothing: all dimensions of Echo are at the floor. Too few epochs" in summary_sentence(rows)
    rows = compare([result("iaf", neg_elbo=90.0), result("vae_maf", neg_elbo=91.0), result("vae", rate=0.0, neg_elbo=207.0)])
    assert "IAF is 1.0 below VAE + MAF, but that is one seed: --seeds 3 would tell whether it is ahead. VAE sends" in (
        summary_sentence(rows)
    )


def test_of_several_the_first_two_are_told_apart(result):
    rows = compare([result(name, neg_elbo=value) for name, value in (("vae_maf", 86.0), ("echo", 90.0), ("iaf", 87.5))])
    assert "VAE + MAF 86.0, IAF 87.5, Echo 90.0 nats" in summary_sentence(rows)
    assert "VAE + MAF is 1.5 below IAF" in summary_sentence(rows)


def test_of_many_the_first_three_and_echo_are_listed(result):
    names = ("echo_maf", "vae_maf", "iaf", "vae", "iaf_mmd", "echo")
    rows = compare([result(name, neg_elbo=85.0 + place) for place, name in enumerate(names)])
    told = (
        "6 methods, among them Echo, then MAF 85.0; VAE + MAF 86.0; IAF 87.0; Echo 90.0 nats of test -ELBO. Echo, then MAF is"
    )
    assert told in summary_sentence(rows)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (90.6, "Echo is ahead by 1.0 ± 0.2."),
        (90.0, "Echo and VAE are level: 0.4 ± 0.2 apart, within 2 standard errors."),
    ],
)
def test_seeds_say_whether_a_lead_is_one(result, second, told):
    rows = compare(
        [result("echo", seed=seed, neg_elbo=value) for seed, value in enumerate((89.4, 89.8))]
        + [result("vae", seed=seed, neg_elbo=value) for seed, value in enumerate((second - 0.1, second + 0.1))]
    )
    assert summary_sentence(rows).endswith(told)


def test_only_what_is_alike_is_compared(result):
    assert summary_sentence(compare([result("echo"), result("vae", training={"epochs": 20})])) == ""
    assert summary_sentence(compare([result("echo"), result("vae", beta=2.0)])) == ""
    both = [result(name, data, neg_elbo=90.0 + i) for data in ("omniglot", "mine") for i, name in enumerate(("echo", "vae"))]
    assert summary_sentence(compare(both)).count("Echo is 1.0 below VAE") == 2


def test_a_table_has_the_columns_that_differ(result):
    table = terminal_table(compare([result("echo"), result("vae", neg_elbo=93.0)]), 100)
    assert table.header == ("method", "rate", "distortion", "-ELBO", "paper")
    assert table.notes[0] == "All: data binary_mnist, epochs 200, beta 1, seeds 1, networks float32."


def test_a_table_fits(result):
    names = ("echo", "vae_released_schedule", "vae")
    rows = [result(name, beta=1.0 + i, training={"epochs": 10 * i + 10}, neg_elbo=90.0) for i, name in enumerate(names)]
    rows += [result("echo", "a_long_name_of_my_data", source="own", data="abc", seed=3)]
    table = terminal_table(compare(rows), 100)
    assert table.width <= 100 and max(map(len, table.text(notes=False).splitlines())) <= 100
    assert {"method", "rate", "distortion", "-ELBO"} <= set(table.header)
