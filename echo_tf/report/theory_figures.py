"""Figures of the experiment `theory`, and what figures of CSV files share. Reads those only."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from echo_tf.errors import ResultError
from echo_tf.files import read_rows
from echo_tf.report.names import spelled
from echo_tf.report.rows import grouped
from echo_tf.report.style import COLOURS, MARKERS, headed, legend, pyplot, save
from echo_tf.theory import bernoulli_hamming_rd
from echo_tf.theory.sources import BINARY_SOURCE


def plot_theory(folder: Path) -> list[Path]:
    """Figures of the experiment `theory` from its CSV files, beside them. Raises `ResultError` for a damaged one."""
    return [
        plotted(_plot_binary_source, folder / "binary_source.csv"),
        plotted(_plot_learned, folder / "learned.csv", folder / "exact_curves.csv"),
        plotted(_plot_exactness, folder / "exactness.csv", folder / "saturation.csv"),
        plotted(_plot_noise, folder / "noise.csv"),
    ]


def plotted(plot: Callable, *tables: Path, figure: Path | None = None) -> Path:
    """Save the figure of some tables, by default beside the first and of its name.

    Raises:
        ResultError: a table lacks rows or columns, or has text for a number.
    """
    try:
        return save(plot(*map(read_rows, tables)), (figure or tables[0]).with_suffix(".png"))
    except (KeyError, IndexError, ValueError) as error:
        names = " or ".join(map(str, tables))
        raise ResultError(f"{names} is damaged ({error!r}). Move it away; what it held is then made anew.") from None


def column(rows: list[dict], name: str) -> np.ndarray:
    """A column of a CSV file, as numbers. Raises `KeyError` where there is none, and where there are no rows."""
    return np.array([float(row[name]) for row in rows or [{}]])


def by(rows: list[dict], name: str) -> Iterator[tuple[list[dict], dict]]:
    """The rows of each value of a column, and how its points look; a channel is named as one, not as a source.

    No channel comes last, so that the others look as they do without it.
    """
    kind = " channel" if name == "channel" else ""
    groups = grouped(rows, lambda row: row[name])
    for i, value in enumerate(sorted(groups, key="none".__eq__)):
        label = "no channel" if value == "none" else spelled(value) + kind
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        yield groups[value], {**look, "markersize": 4, "label": label}


def _plot_noise(rows: list[dict]):
    """A source in the plane through an Echo channel and a Gaussian one of equal moments: signal, noise, output, marginals.

    Source: paper, figure 1.
    """
    figure, axes = pyplot().subplots(2, 4, figsize=(9.6, 4.9))
    points = {"s": 2, "linewidths": 0, "alpha": 0.5}
    look = {"bins": np.linspace(-2.2, 2.2, 60), "density": True, "histtype": "step"}
    for (*planes, last), channel, colour in zip(axes, ("echo", "gaussian"), COLOURS, strict=False):
        clouds = (("signal", "signal f(x)"), (f"{channel}_noise", "noise e"), (f"{channel}_output", "z = f + S e"))
        for axis, (name, title) in zip(planes, clouds, strict=True):
            x, y = column(rows, f"{name}_1"), column(rows, f"{name}_2")
            axis.scatter(x, y, color="0.4" if name == "signal" else colour, **points)
            axis.set(title=f"{spelled(channel)}: {title}", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
        last.hist(column(rows, f"{channel}_noise_1"), color="0.4", label="noise e", **look)
        last.hist(column(rows, f"{channel}_output_1"), color=colour, label="output z", **look)
        last.set(title="first coordinate", ylabel="density", ylim=(0, 1.3 * last.get_ylim()[1]))  # the legend above
        legend(last)
    return figure


def _plot_binary_source(rows: list[dict]):
    """R(D) of a binary source: the points of 30 slopes on the closed form."""
    figure, axis = pyplot().subplots(figsize=(4.5, 3.4))
    distortion, p = np.linspace(0.0, 0.25, 400), BINARY_SOURCE[1]
    axis.plot(distortion, bernoulli_hamming_rd(p, distortion), color="0.6", label=f"h({p}) - h(D)")
    found = column(rows, "distortion"), column(rows, "rate_nats")
    axis.plot(*found, "o", color=COLOURS[0], markersize=4, label="Blahut-Arimoto")
    axis.set(xlabel="distortion (probability of error)", ylabel="rate (nats)", title=f"binary source, p = {p}")
    axis.legend()
    return figure


def _plot_learned(learned: list[dict], curves: list[dict]):
    """Learned points and the exact curve (above), and their distance in nats (below), for each source."""
    points, exact = (grouped(rows, lambda row: row["source"]) for rows in (learned, curves))
    height = -(-len(exact) // 3)
    figure, axes = pyplot().subplots(2 * height, 3, figsize=(8.4, 4.4 * height), height_ratios=height * (2, 1))
    pairs = axes.reshape(height, 2, 3).swapaxes(1, 2).reshape(-1, 2)
    for axis in pairs[len(exact) :].flat:
        axis.set_visible(False)
    for (upper, lower), (source, curve) in zip(pairs, exact.items(), strict=False):
        upper.sharex(lower)
        upper.tick_params(labelbottom=False)
        upper.plot(column(curve, "distortion"), column(curve, "rate_nats"), color="0.6", label="exact R(D)")
        for members, look in by(points.get(source, []), "channel"):
            names = ("distortion", "rate_nats", "rate_se", "distortion_se", "excess_nats", "excess_se")
            x, rate, rate_se, x_se, excess, excess_se = (column(members, name) for name in names)
            upper.errorbar(x, rate, rate_se, x_se, linestyle="none", **look)
            lower.errorbar(x, excess, excess_se, linestyle="none", **look)
        lower.axhline(0.0, color="0.6")
        upper.set(title=spelled(source), xscale="log")
        lower.set(xlabel="distortion")
    for upper, lower in pairs[::3]:
        upper.set(ylabel="rate (nats)")
        lower.set(ylabel="rate - R(D) (nats)")
    return headed(figure)


def _plot_exactness(estimates: list[dict], saturation: list[dict]):
    """Above: estimates of I(X; Z) over the formula, with two standard errors. Below: information of finitely many values."""
    heights = 0.22 * len(estimates) + 0.7, 2.9
    figure = pyplot().figure(figsize=(8.0, sum(heights)))
    above, below = (part.subplots() for part in figure.subfigures(2, 1, height_ratios=heights))
    formula = column(estimates, "formula_nats")
    ratios, errors = (column(estimates, name) / formula for name in ("estimate_nats", "estimate_se"))
    places = np.arange(len(estimates))[::-1]
    for row, ratio, error, place in zip(estimates, ratios, errors, places, strict=True):
        kind = "with replacement" if row["replace"] == "True" else "echoes drawn without replacement"
        colour = COLOURS[kind == "with replacement"]
        above.errorbar(ratio, place, xerr=2 * error, fmt="o", color=colour, markersize=4, label=kind)
    above.axvline(1.0, color="0.6", label="the formula")
    name = "{case}; {estimator}; {sampler}, d = {d_max}, B = {batch}"
    above.set_yticks(places, [name.format(**row).replace("_", " ") for row in estimates], fontsize=7.5)
    above.set(xlabel="estimate of I(X; Z), over the formula -E log s", title="Echo noise: estimates and the formula")
    above.set_ylim(-1, len(estimates) + 3)  # the legend above
    above.grid(axis="y", visible=False)
    legend(above, loc="upper right")
    for members, look in by(saturation, "points"):
        points = int(members[0]["points"])
        found = column(members, "formula_nats"), column(members, "information_nats")
        below.plot(*found, look["marker"], color=look["color"])
        below.axhline(np.log(points), color=look["color"], linestyle=":", linewidth=1)
        below.annotate(f" log {points}", (1.0, np.log(points)), xycoords=("axes fraction", "data"), va="center")
    below.axline((0, 0), slope=1, color="0.6", label="the formula -log s")
    below.set(xlabel="-log s (nats)", ylabel="I(X; Z) (nats)", title="x takes 2, 4 or 16 values", ylim=(0, None))
    legend(below)
    return figure
