"""Figures of the experiments `theory` and `bottleneck`. Reads their CSV files only."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import sem

from echo_tf.errors import ResultError
from echo_tf.files import read_rows
from echo_tf.report.rows import grouped
from echo_tf.report.style import COLOURS, MARKERS, legend, pyplot, save
from echo_tf.theory import bernoulli_hamming_rd
from echo_tf.theory.sources import BINARY_SOURCE


def plot_theory(folder: Path) -> list[Path]:
    """Figures of the experiment `theory` from its CSV files, beside them. Raises `ResultError` for a damaged one."""
    return [
        _plotted(_plot_binary_source, folder / "binary_source.csv"),
        _plotted(_plot_learned, folder / "learned.csv", folder / "exact_curves.csv"),
        _plotted(_plot_exactness, folder / "exactness.csv", folder / "saturation.csv"),
        _plotted(_plot_noise, folder / "noise.csv"),
    ]


def _plotted(plot: Callable[..., Path], *tables: Path) -> Path:
    """The figure of some tables; where one lacks rows or columns, or has text for a number, they are named."""
    try:
        return plot(*tables)
    except (KeyError, IndexError, ValueError) as error:
        names = " or ".join(map(str, tables))
        raise ResultError(f"{names} is damaged ({error!r}). Move it away; what it held is then made anew.") from None


def _plot_noise(table: Path) -> Path:
    """A source in the plane through an Echo channel and a Gaussian one of equal moments: signal, noise, output, marginals.

    Source: paper, figure 1.
    """
    values = _columns(read_rows(table))
    figure, axes = pyplot().subplots(2, 4, figsize=(11.0, 5.4))
    points = {"s": 2, "linewidths": 0, "alpha": 0.5}
    for row, (channel, colour) in zip(axes, (("echo", COLOURS[0]), ("gaussian", COLOURS[1])), strict=True):
        clouds = (("signal", "f(x)"), (f"{channel}_noise", "noise e"), (f"{channel}_output", "output z = f + S e"))
        for axis, (name, title) in zip(row, clouds, strict=False):
            axis.scatter(values[f"{name}_1"], values[f"{name}_2"], color="0.4" if name == "signal" else colour, **points)
            axis.set(title=f"{channel}: {title}", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
        bins = np.linspace(-2.2, 2.2, 60)
        look = {"bins": bins, "density": True, "histtype": "step"}
        row[3].hist(values[f"{channel}_noise_1"], color="0.4", label="noise e", **look)
        row[3].hist(values[f"{channel}_output_1"], color=colour, label="output z", **look)
        row[3].set(title="first coordinate", xlabel="value", ylabel="density")
        legend(row[3])
    return save(figure, table.with_suffix(".png"))


def plot_bottleneck(table: Path) -> Path:
    """Accuracy and cross-entropy of the label over the rate, means over seeds; grey: no channel of that rate can be below.

    The bound is `H(Y) - I(Z; Y) >= H(Y) - R`. Raises `ResultError` for a damaged table.
    """
    return _plotted(_plot_bottleneck, table)


def _plot_bottleneck(table: Path) -> Path:
    rows = read_rows(table)
    figure, axes = pyplot().subplots(1, 2, figsize=(9.0, 3.6))
    for i, (channel, members) in enumerate(grouped(rows, lambda row: row["channel"]).items()):
        points = [_columns(group) for group in grouped(members, lambda row: float(row["beta"])).values()]
        rate = [point["rate_nats"].mean() for point in points]
        for axis, quantity in zip(axes, ("accuracy", "cross_entropy"), strict=True):
            key = quantity if quantity == "accuracy" else f"{quantity}_nats"
            errors = [sem(p[key]) if len(p[key]) > 1 else p[f"{quantity}_se"][0] for p in points]
            look = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4, "label": channel}
            axis.errorbar(rate, [point[key].mean() for point in points], errors, **look)
    entropy = float(rows[0]["label_entropy_nats"])
    bound = np.geomspace(0.1, entropy, 100)
    axes[1].plot(bound, entropy - bound, color="0.6", label="H(Y) - R")
    axes[1].set(ylim=(0, None))
    for axis, name in zip(axes, ("accuracy", "-log p(y|z) (nats)"), strict=True):
        axis.set(xlabel="rate (nats)", ylabel=name, xscale="log")
        axis.xaxis.set_major_formatter("{x:g}")
    legend(axes[1])
    figure.suptitle(f"{rows[0]['dataset']}: information bottleneck")
    return save(figure, table.with_suffix(".png"))


def _plot_binary_source(table: Path) -> Path:
    """R(D) of a binary source: the points of 30 slopes on the closed form."""
    points = _columns(read_rows(table))
    figure, axis = pyplot().subplots(figsize=(4.5, 3.4))
    distortion = np.linspace(0.0, 0.25, 400)
    p = BINARY_SOURCE[1]
    axis.plot(distortion, bernoulli_hamming_rd(p, distortion), color="0.6", label=f"h({p}) - h(D)")
    axis.plot(points["distortion"], points["rate_nats"], "o", color=COLOURS[0], markersize=4, label="Blahut-Arimoto")
    axis.set(xlabel="distortion (probability of error)", ylabel="rate (nats)", title=f"binary source, p = {p}")
    axis.legend()
    return save(figure, table.with_suffix(".png"))


def _plot_learned(table: Path, curves: Path) -> Path:
    """Learned points and the exact curve (above), and their distance in nats (below), one column a source."""
    points, exact = (grouped(read_rows(path), lambda row: row["source"]) for path in (table, curves))
    size = {"figsize": (3.0 * len(exact), 5.2), "height_ratios": (2, 1)}
    figure, axes = pyplot().subplots(2, len(exact), sharex="col", squeeze=False, **size)
    for (upper, lower), (source, curve) in zip(axes.T, exact.items(), strict=True):
        values = _columns(curve)
        upper.plot(values["distortion"], values["rate_nats"], color="0.6", label="exact R(D)")
        for i, (channel, members) in enumerate(grouped(points.get(source, []), lambda row: row["channel"]).items()):
            learned = _columns(members)
            look = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "none", "markersize": 4, "label": channel}
            upper.errorbar(learned["distortion"], learned["rate_nats"], learned["rate_se"], learned["distortion_se"], **look)
            lower.errorbar(learned["distortion"], learned["excess_nats"], learned["excess_se"], **look)
        lower.axhline(0.0, color="0.6")
        upper.set(title=source, xscale="log")
        lower.set(xlabel="distortion")
    axes[0, 0].set(ylabel="rate (nats)")
    axes[1, 0].set(ylabel="rate - R(D) (nats)")
    axes[0, 0].legend()
    return save(figure, table.with_suffix(".png"))


def _plot_exactness(estimates: Path, saturation: Path) -> Path:
    """Left: estimates of I(X; Z) over the formula, with two standard errors. Right: information of finitely many values."""
    rows = read_rows(estimates)
    values = _columns(rows)
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 0.24 * len(rows) + 1.2))
    ratios, errors = (values[name] / values["formula_nats"] for name in ("estimate_nats", "estimate_se"))
    places = np.arange(len(rows))[::-1]
    for row, ratio, error, place in zip(rows, ratios, errors, places, strict=True):
        colour = COLOURS[1] if row["replace"] == "True" else COLOURS[0]
        left.errorbar(ratio, place, xerr=2 * error, fmt="o", color=colour, markersize=4)
    left.axvline(1.0, color="0.6")
    names = [
        f"{r['case']}; {r['estimator'].replace('_', ' ')}; {r['sampler']}, d = {r['d_max']}, B = {r['batch']}" for r in rows
    ]
    left.set_yticks(places, names, fontsize=7)
    left.set(xlabel="estimate of I(X; Z) / (-E log s)", title="without (blue) and with replacement (red)")
    left.grid(axis="y", visible=False)
    for i, (points, members) in enumerate(grouped(read_rows(saturation), lambda row: int(row["points"])).items()):
        learned = _columns(members)
        right.plot(learned["formula_nats"], learned["information_nats"], MARKERS[i], color=COLOURS[i], label=f"N = {points}")
        right.axhline(np.log(points), color=COLOURS[i], linestyle=":", linewidth=1)
    right.axline((0, 0), slope=1, color="0.6", label="-log s")
    right.set(xlabel="-log s (nats)", ylabel="I(X; Z) (nats)", title="x takes N values; dotted: log N", ylim=(0, None))
    right.legend()
    return save(figure, estimates.with_suffix(".png"))


def _columns(rows: list[dict]) -> dict[str, np.ndarray]:
    """Numerical columns of the rows of a CSV file, by name."""
    columns = {}
    for name in rows[0]:
        try:
            columns[name] = np.array([float(row[name]) for row in rows])
        except ValueError:
            continue
    return columns
