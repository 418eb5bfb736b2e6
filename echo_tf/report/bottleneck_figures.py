"""Figures of the experiment `bottleneck`. Reads its CSV files only."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from scipy.stats import sem

from echo_tf.report.names import dataset_title
from echo_tf.report.rows import grouped
from echo_tf.report.style import COLOURS, MARKERS, headed, pyplot
from echo_tf.report.theory_figures import by, column, plotted

# What PGD with all draws of the noise is compared with.
_OTHERS = {"fgsm": "FGSM", "pgd": "PGD, one draw of noise", "transfer": "images found for no channel"}


def plot_bottleneck(points: Path, robustness: Path) -> list[Path]:
    """Figures of the experiment `bottleneck` from its CSV files, beside them.

    Args:
        points: The table of classifiers on the test set.
        robustness: The table of training images and attacks. Results of earlier versions have none, and one figure less.

    Raises:
        ResultError: a table is damaged.
    """
    if not robustness.exists():
        return [plotted(_plot_points, points)]
    checks = robustness.with_stem(f"{robustness.stem}_checks")
    return [
        plotted(_plot_points, points, robustness),
        plotted(_plot_robustness, robustness),
        plotted(_plot_checks, robustness, figure=checks),
    ]


def _plot_points(rows: list[dict], robustness: list[dict] | None = None):
    """Accuracy and cross-entropy of the label over the rate, means over seeds; grey: no channel of that rate can be below.

    The bound is `H(Y) - I(Z; Y) >= H(Y) - R`.
    """
    figure, axes = pyplot().subplots(1, 2, figsize=(8.4, 3.9))
    entropy = float(rows[0]["label_entropy_nats"])
    bound = np.geomspace(0.1, entropy, 100)
    training = _select(robustness, split="train") if robustness else []
    for axis, (key, name) in zip(axes, {"accuracy": "accuracy", "cross_entropy": "-log p(y|z) (nats)"}.items(), strict=True):
        _draw_over_rate(axis, rows, key)
        _draw_over_rate(axis, training, key, ", training", linestyle="--", markerfacecolor="white")
        axis.set(ylabel=name)
    axes[1].plot(bound, entropy - bound, color="0.6", label="bound H(Y) - R")
    axes[1].set(ylim=(0, None))
    return headed(figure, f"{dataset_title(rows[0]['dataset'])}: information bottleneck")


def _draw_over_rate(axis, rows: list[dict], key: str, suffix: str = "", **look) -> None:
    """Means over seeds of a column over the rate, and a level line where there is no channel and so no rate."""
    axis.set(xlabel="rate (nats)", xscale="log")
    axis.margins(x=0.1)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    value, se = (key, "accuracy_se") if key == "accuracy" else (f"{key}_nats", f"{key}_se")
    for members, own in by(rows, "channel"):
        label = own["label"] + suffix
        if members[0]["channel"] == "none":
            axis.axhline(column(members, value).mean(), color=own["color"], linestyle=look.get("linestyle", "-"), label=label)
            continue
        by_beta = grouped(members, lambda row: float(row["beta"]))
        points = [by_beta[beta] for beta in sorted(by_beta)]  # a later run may have added some
        rates, means = ([column(point, of).mean() for point in points] for of in ("rate_nats", value))
        errors = [sem(column(point, value)) if len(point) > 1 else column(point, se)[0] for point in points]
        axis.errorbar(rates, means, errors, **(own | look | {"label": label}))


def _select(rows: list[dict], **values: str) -> list[dict]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _strongest(rows: list[dict], attack: str) -> list[dict]:
    """Rows of an attack with as many draws of noise as there are: one where there is no channel."""
    found = grouped(_select(rows, attack=attack), lambda row: row["channel"] == "none")
    return [row for members in found.values() for row in members if column([row], "draws")[0] == max(column(members, "draws"))]


def _plot_robustness(rows: list[dict]):
    """Accuracy over the rate under attacks of each size, means over seeds: PGD solid, FGSM dashed."""
    sizes = sorted({row["size"] for row in rows if row["attack"] == "pgd"}, key=float)
    figure, axes = pyplot().subplots(1, len(sizes), figsize=(8.4, 3.6), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        members = _select(rows, size=size)
        _draw_over_rate(axis, _strongest(members, "pgd"), "accuracy", ", PGD")
        _draw_over_rate(axis, _strongest(members, "fgsm"), "accuracy", ", FGSM", linestyle="--", markerfacecolor="white")
        axis.set(title=f"size {size}", ylim=(0, None))
    axes[0, 0].set(ylabel="accuracy under attack")
    heading = f"{dataset_title(rows[0]['dataset'])}: test images under attacks that change pixels by at most the size"
    return headed(figure, heading)


def _plot_checks(rows: list[dict]):
    """Accuracy under other attacks over that under PGD, one point a classifier and size. Below the line PGD is the weaker."""
    reference = {_place(row): row for row in _strongest(rows, "pgd")}
    channels = list(by(_select(rows, attack="pgd"), "channel"))
    figure, axes = pyplot().subplots(1, len(channels), figsize=(8.4, 3.6), sharey=True, squeeze=False)
    for axis, (members, look) in zip(axes[0], channels, strict=True):
        for i, (attack, label) in enumerate(_OTHERS.items()):
            others = _select(rows, attack=attack, channel=members[0]["channel"])
            others = [row for row in others if row is not reference[_place(row)]]
            if others:
                found = column([reference[_place(row)] for row in others], "accuracy"), column(others, "accuracy")
                axis.plot(*found, MARKERS[i], color=COLOURS[i + 3], markersize=4, alpha=0.7, label=label)
        axis.axline((0, 0), slope=1, color="0.6", label="as under PGD")
        axis.set(title=look["label"], xlabel="accuracy under PGD", xlim=(0, None), ylim=(0, None))
    axes[0, 0].set(ylabel="accuracy under another attack")
    return headed(figure, f"{dataset_title(rows[0]['dataset'])}: is PGD the strongest attack?", 4)


def _place(row: dict) -> tuple[str, ...]:
    """Which classifier, and which size of attack."""
    return row["channel"], row["beta"], row["seed"], row["size"]
