"""Tables and figures of the experiment `noise`: other noise after and in training, marginals fitted later, and its law."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from echo_tf.experiments.laws import KEY, LAWS
from echo_tf.report.names import beta_or_target, dataset_title, point_title, spelled, title
from echo_tf.report.rows import Pair, Row, grouped
from echo_tf.report.style import headed, method_look, pyplot, save
from echo_tf.report.table import Column, Table, measured, plain_columns
from echo_tf.report.tables import DATA, DISTORTION, EPOCHS, METHOD, NEG_ELBO, NETWORKS, OF_MODEL, RATE, SEEDS, notes_on_marks
from echo_tf.report.theory_figures import by, column
from echo_tf.report.words import told_table


def laws_table(laws: list[dict]) -> Table | None:
    """Distortion of trained Echo models under other noise; `None` if that was not measured."""
    models = grouped(laws, lambda row: tuple(row[key] for key in KEY)).values()
    items = [rows[0] | {row["law"]: row for row in rows} for rows in models]
    of_law = [measured(law.replace("_", ", "), law, f"{law}.distortion_nats", f"{law}.distortion_se") for law in LAWS]
    columns = (*OF_MODEL, Column("rate", "{rate_nats:.2f}", "rate_nats"), *of_law)
    return told_table("noise_laws", columns, items)


def trained_groups(rows: list[Row]) -> list[list[Pair]]:
    """Rows that differ in the law of the noise in training alone, each beside that of Echo noise, which comes first."""

    def all_but_noise(row):
        config = replace(row.config, method=row.config.channel.kind, seed=0, channel=replace(row.config.channel, noise="echo"))
        return replace(row.cell, config=config), row.split, row.source, row.from_batch

    groups = grouped([row for row in rows if row.config.channel.is_echo], all_but_noise).values()
    found = [sorted(group, key=lambda row: row.config.channel.noise != "echo") for group in groups]
    is_echo = [group[0].config.channel.noise == "echo" for group in found]
    return [[Pair.of_row(row, g[0]) for row in g] for g, yes in zip(found, is_echo, strict=True) if yes and len(g) > 1]


def trained_table(rows: list[Row]) -> Table | None:
    """Models trained under other noise than Echo's, all else being equal; `None` without any."""
    pairs = [pair for group in trained_groups(rows) for pair in group]
    columns = (
        *(DATA, METHOD, EPOCHS, NETWORKS, SEEDS),
        Column("noise in training", "{noise}", "noise=config.channel.noise"),
        *(RATE, DISTORTION, NEG_ELBO),
        Column("beyond Echo's", _beyond, "beyond_nats=excess beyond_se=excess_se"),
    )
    return told_table("noise_trained", columns, pairs, notes_on_marks(pairs))


def _beyond(pair: Pair) -> str:
    return "" if pair.config.channel.noise == "echo" else f"{pair.excess:+.2f} ± {pair.excess_se:.2f}"


def fits_table(fits: list[dict]) -> Table | None:
    """Rates before and after a marginal is fitted to the law of `z`; `None` without any."""
    columns = (
        *OF_MODEL,
        *plain_columns("noise"),
        Column("rate", "{rate_nats:.2f}", "rate_nats"),
        Column("rate after fitting a MAF to q(z)", "{fitted_rate_nats:.2f}", "fitted_rate_nats"),
        Column("lowered by", "{lowered_nats:.2f} ± {lowered_se:.2f}", "lowered_nats lowered_se"),
    )
    return told_table("noise_fits", columns, fits)


def tests_table(tests: list[dict]) -> Table | None:
    """Whether the noise of trained models has the law of `z`; `None` without any."""
    others = {"z": "z = f(x) + S(x) e", "gaussian": "Gaussian, same mean and covariance"}
    columns = (
        *OF_MODEL,
        Column("noise e against", lambda row: others[row["other"]], "other"),
        Column("draws of each", "{draws}", "draws"),
        Column("energy distance", "{distance:.4f}", "distance"),
        Column("p-value", "{p_value:.3f}", "p_value"),
    )
    return told_table("noise_tests", columns, tests)


def plot_laws(laws: list[dict], dimensions: list[dict], path: Path) -> Path:
    """What other noise costs a trained Echo model, and what each dimension is worth beside its rate."""

    def by_model(rows):
        return by([row | {"model": model(row)} for row in rows], "model")

    def model(row):
        named = f"{point_title(row)}: {row['epochs']} epochs" + ("" if row["split"] == "test" else f", {row['split']}")
        return named if row["beta"] == 1 and not row["target"] else f"{named}, {beta_or_target(row)}"

    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9.0, 4.4))
    for rows, look in by_model(laws):
        names = list(dict.fromkeys(row["law"] for row in rows))
        found = grouped(rows, lambda row: row["law"])
        means = [column(found[name], "distortion_nats").mean() for name in names]
        left.plot(np.array(means) - means[0], range(len(names)), linestyle="none", **look)
        left.set_yticks(range(len(names)), [spelled(name).replace(", ", ",\n") for name in names])
    for rows, look in by_model(dimensions):
        right.plot(column(rows, "rate_nats"), column(rows, "worth_nats"), linestyle="none", **look)
    left.set(xlabel="distortion beyond that with Echo noise (nats)", title="other noise in the trained model")
    left.invert_yaxis()
    limits = np.linspace(0.0, right.get_xlim()[1], 200)
    right.plot(limits, limits, color="0.6", linewidth=0.8, label="worth what it costs")
    right.set(xlabel="rate of a dimension (nats)", ylabel="distortion that it saves (nats)", title="what dimensions are worth")
    right.set_yscale("symlog", linthresh=0.1)
    right.yaxis.set_major_formatter("{x:g}")
    return save(headed(figure, f"{dataset_title(laws[0]['dataset'])}: what a trained model needs of its noise", 2), path)


def plot_trained(groups: list[list[Pair]], path: Path) -> Path:
    """Rate, distortion and -ELBO of models trained under other noise, less those with Echo noise, for one data set."""
    quantities = {"rate_nats": "rate", "distortion_nats": "distortion", "neg_elbo_nats": "rate + distortion"}
    figure, axes = pyplot().subplots(1, len(quantities), figsize=(8.4, 3.4), sharey=True)
    laws = list(dict.fromkeys(pair.config.channel.noise for group in groups for pair in group))
    for axis, (key, name) in zip(axes, quantities.items(), strict=True):
        axis.axvline(0.0, color="0.6", linewidth=0.8)
        for place, group in enumerate(groups):
            shift, label = 0.12 * (place - 0.5 * (len(groups) - 1)), title(group[:1], without=("seed", "data"))
            heights = [laws.index(pair.config.channel.noise) + shift for pair in group]
            differences = [pair.mean[key] - group[0].mean[key] for pair in group]
            look = method_look(group[0].method, *(g[0].method for g in groups))
            axis.errorbar(differences, heights, xerr=[pair.se[key] for pair in group], linestyle="none", label=label, **look)
        axis.set(xlabel=f"{name} (nats)")
        axis.set_yticks(range(len(laws)), map(spelled, laws))
    axes[0].invert_yaxis()
    data = dataset_title(groups[0][0].dataset)
    return save(headed(figure, f"{data}: trained under other noise, less the same with Echo noise", 2), path)
