"""What the experiment `noise` says of trainings and of rates: models trained under other noise, and marginals fitted later."""

from dataclasses import replace
from pathlib import Path

from echo_tf.report.names import dataset_title, spelled, title
from echo_tf.report.rows import Pair, Row, grouped
from echo_tf.report.style import headed, method_look, pyplot, save
from echo_tf.report.table import Column, Table, plain_columns
from echo_tf.report.tables import DATA, DISTORTION, EPOCHS, METHOD, NEG_ELBO, NETWORKS, OF_MODEL, RATE, SEEDS, notes_on_marks
from echo_tf.report.words import told_table


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
