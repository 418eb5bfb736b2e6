"""Figures of results side by side, and all figures of a report. Reads files only, no models."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from echo_tf.experiments.records import Result, read_metrics
from echo_tf.report.looks import OF_POINTS, looks
from echo_tf.report.model_figures import (
    PICTURES,
    Analyses,
    load_pictures,
    plot_marginals,
    plot_matched,
    plot_pictures,
    plot_pointwise,
    plot_rates_by_dimension,
)
from echo_tf.report.names import plain_title, stem, title
from echo_tf.report.rows import PAPER_EPOCHS, Row, grouped, longest_schedules
from echo_tf.report.style import headed, legend, method_look, pyplot, save

# Epochs from which on a figure of training leaves room for what comes after the first of them.
LONG = 10


def plot_comparison(rows: list[Row], path: Path) -> Path:
    """Rate against distortion of every row, with the paper's points (hollow) and lines of equal -ELBO, per data set.

    Source: paper, table 2.
    """
    groups = grouped(rows, lambda row: row.dataset).values()
    figure, axes = pyplot().subplots(len(groups), 1, figsize=(8.0, 4.6 * len(groups)), squeeze=False)
    for axis, members in zip(axes[:, 0], groups, strict=True):
        for row, look in zip(members, looks(members), strict=True):
            (rate, distortion), errors = ([of[key] for key in ("rate_nats", "distortion_nats")] for of in (row.mean, row.se))
            axis.errorbar(rate, distortion, xerr=errors[0], yerr=errors[1], linestyle="none", clip_on=False, **look)
            if row.paper is not None:
                hollow = {**method_look(row.method), "markerfacecolor": "none"}
                axis.plot(row.paper["rate_nats"], row.paper["distortion_nats"], linestyle="none", **hollow)
        if any(row.paper for row in members):
            axis.errorbar([], [], fmt="o", color="0.4", markerfacecolor="none", label="hollow: the paper")  # the last entry
        axis.margins(0.3)
        _lines_of_equal_elbo(axis)
        axis.set(xlabel="rate (nats)", ylabel="distortion (nats)")
        axis.set_title(f"{title(members)}\ngrey: lines of equal -ELBO", loc="left")
        legend(axis, beside=True)
    return save(figure, path)


def plot_beside_paper(rows: list[Row], path: Path) -> Path | None:
    """-ELBO of each method here and in the paper, best first; `None` without two methods of the paper's table.

    Here: the paper's schedule where there is such a model, else the longest one, whose epochs stand beside the point.

    Source: paper, table 2.
    """
    shown = sorted(longest_schedules(rows), key=lambda row: -row.mean["neg_elbo_nats"])
    if sum(row.paper is not None for row in shown) < 2:
        return None
    alike = len({row.epochs for row in shown}) == 1  # then the title has them
    figure, axis = pyplot().subplots(figsize=(7.2, 0.34 * len(shown) + 1.3))
    for place, row in enumerate(shown):
        colour, ours = method_look(row.method)["color"], row.mean["neg_elbo_nats"]
        if row.paper is not None:
            published = row.paper["neg_elbo_nats"]
            axis.plot([published, ours], [place, place], color="0.8", linewidth=1.2, zorder=0)
            axis.plot(published, place, "o", color=colour, markerfacecolor="white", markersize=6)
        axis.plot(ours, place, "o", color=colour, markersize=7)
        epochs = "" if row.epochs == PAPER_EPOCHS or alike else f"  {row.epochs} epochs"
        side = {"ha": "left", "xytext": (7, 0)} if row.paper is None or ours > published else {"ha": "right", "xytext": (-7, 0)}
        axis.annotate(f"{ours:.1f}{epochs}", (ours, place), textcoords="offset points", va="center", fontsize=7.5, **side)
    axis.set_yticks(range(len(shown)), [plain_title(row.method) + ("" if row.paper else " (ours)") for row in shown])
    axis.set(xlabel="test -ELBO (nats), lower is better", title=f"{title(shown)}. Filled: here; hollow: the paper")
    axis.margins(x=0.22 if alike else 0.32)  # room for the numbers
    return save(figure, path)


def _lines_of_equal_elbo(axis) -> None:
    """Grey lines of slope -1 through the range of the axis, at round values of -ELBO, which stand beside them."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    left = max(left, 0.0)
    for total in MaxNLocator(14, steps=[1, 2, 5, 10]).tick_values(left + bottom, right + top):
        x = min(right, total - bottom)
        if x > left and total - x < top:
            axis.axline((left, total - left), slope=-1, color="0.8", linewidth=0.8, zorder=0)
            axis.annotate(f"{total:g}", (x, total - x), fontsize=7, color="0.4", ha="right", va="bottom")
    axis.set(xlim=(left, right), ylim=(bottom, top))


def plot_training(results: Sequence[Result], path: Path) -> Path:
    """Rate, distortion and objective over the epochs of training. Models that differ in their seed look the same.

    Of `LONG` epochs or more the first may lie above the axis, and the heading says so: they would flatten all that follows.
    """
    figure, axes = pyplot().subplots(1, 3, figsize=(9.0, 4.4))
    trained = list({result.folder: replace(result, split="test") for result in results}.values())  # one may have two results
    objective = "objective" + (", with penalty" if any(r.config.mmd.weight or r.config.tc.weight for r in trained) else "")
    quantities = {"loss_nats": objective, "rate_nats": "rate", "distortion_nats": "distortion"}
    metrics = [read_metrics(result.folder) for result in trained]
    lengths, is_cut = [result.epochs for result in trained], False
    for axis, (key, name) in zip(axes, quantities.items(), strict=True):
        for lines, look in zip(metrics, looks(trained), strict=True):
            dashed = {**look, "marker": "", "linestyle": "--", "label": ""}
            for quantity, style in ((key, {"markevery": 0.1, **look}), (f"validation_{key}", dashed)):
                points = [(line["epoch"], line[quantity]) for line in lines if quantity in line]
                if points or quantity == key:  # a model without any is in the legend
                    axis.plot(*np.reshape(points, (-1, 2)).T, linewidth=1.2, markersize=4, **style)
        if any(f"validation_{key}" in line for lines in metrics for line in lines):
            axis.plot([], [], "--", color="0.4", label="dashed: validation images")
        axis.set(title=name, xlabel="epoch")
        if max(lengths) >= 5 * min(lengths):  # else the short schedules would be a line at the margin
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
        else:
            axis.xaxis.get_major_locator().set_params(integer=True)
        values = [value for line in axis.get_lines() for value in line.get_ydata()]
        if values and max(lengths) >= LONG:
            low, high = np.min(values), np.quantile(values, 0.9)
            axis.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low) + 1e-3)
            is_cut |= np.max(values) > axis.get_ylim()[1]
    axes[0].set(ylabel="nats per example")
    return save(headed(figure, title(trained) + ("\nthe first epochs are above the axes" if is_cut else "")), path)


def plot_rate_distortion(curves: list[list[Row]], path: Path) -> Path:
    """Curves of rate against distortion.

    Dashed: the rate floors of Echo. Grey: lines of equal -ELBO, of slope -1. Ringed: beta = 1, where -ELBO is the objective.

    Source: paper, figures 3 to 5.
    """
    figure, axis = pyplot().subplots(figsize=(7.2, 5.4))
    floors: dict[float, str] = {}
    at_one = []
    firsts = [curve[0] for curve in curves]
    for curve, look in zip(curves, looks(firsts, OF_POINTS), strict=True):
        points = [(row.mean["rate_nats"], row.mean["distortion_nats"]) for row in curve]
        look["label"] += f", β = {curve[0].config.beta:g} ... {curve[-1].config.beta:g}"
        line = "-" if len(curve) > 2 else "none"  # a straight line would say more than two points do
        axis.plot(*zip(*points, strict=True), markersize=4, linewidth=1.2, linestyle=line, **look)
        at_one += [point for row, point in zip(curve, points, strict=True) if row.config.beta == 1]
        if (floor := curve[0].rate_floor_nats) is not None:
            floors.setdefault(round(floor, 2), look["color"])
    if at_one:
        axis.plot(*zip(*at_one, strict=True), "o", color="0.3", markerfacecolor="none", markersize=10, label="ringed: β = 1")
    axis.set_xlim(left=0.0)
    _lines_of_equal_elbo(axis)
    for i, (floor, colour) in enumerate(sorted(floors.items())):
        axis.axvline(floor, linestyle="--", color=colour, linewidth=0.9)
        height = 0.02 + 0.4 * (i % 2)  # so that the words of neighbours do not overlap
        place = {"xy": (floor, height), "xycoords": ("data", "axes fraction"), "xytext": (2, 0), "textcoords": "offset points"}
        axis.annotate(f"floor of Echo, {floor:.2f} nats", **place, rotation=90, va="bottom", fontsize=8, color=colour)
    axis.set(xlabel="rate (nats)", ylabel="distortion (nats)")
    axis.set(title=f"{title(firsts, OF_POINTS)}; grey: lines of equal -ELBO")
    return save(headed(figure, columns=2), path)


def plot_squared_error(curves: list[list[Row]], path: Path) -> Path:
    """Curves of rate against the mean squared error of a pixel, of models with a Gaussian decoder.

    At a standard deviation `sd` and a weight `beta` of the rate they minimise `rate + squared error / (2 sd^2 beta)`.

    Source: paper, theorem 3.1 (a Gaussian decoder makes the slope `1 / (2 sd^2)`).
    """
    figure, axis = pyplot().subplots(figsize=(7.2, 5.0))
    firsts = [curve[0] for curve in curves]
    for curve, look in zip(curves, looks(firsts, OF_POINTS), strict=True):
        points = [row.mean["rate_nats"] for row in curve], [row.squared_error for row in curve]
        axis.plot(*points, markersize=4, linewidth=1.2, **look)
    axis.set(xlabel="rate (nats)", ylabel="squared error of a pixel", yscale="log", title=title(firsts, OF_POINTS))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.set_xlim(left=0.0)
    return save(headed(figure, columns=2), path)


def plot_all(results: list[Result], rows: list[Row], curves: list[list[Row]], analyses: Analyses, folder: Path) -> list[Path]:
    """All figures, one for each data set, split or protocol where that cannot be in one; returns their paths."""

    def draw(plot: Callable, items: Iterable, name: Callable[[Any], str]) -> list[Path]:
        """A figure of all items of each name."""
        drawn = [plot(members, folder / f"{file}.png") for file, members in grouped(items, name).items()]
        return [path for path in drawn if path]

    def of_split(kind: str, result: Result, *names: str) -> str:
        return stem(kind, result.dataset, *names, split=result.split)

    # Models of the released code may be so far off that nothing else could be seen beside them.
    at_one = (row for row in rows if row.config.beta == 1 or row.target)
    gaussian = (curve for curve in curves if curve[0].squared_error is not None)
    with_pictures = (curve for curve in curves if all(map(load_pictures, curve)))
    plain = [result for result in results if result.config.beta == 1 and not result.target]
    pictured = list(filter(load_pictures, plain))
    return [
        *draw(plot_comparison, at_one, lambda row: stem("comparison", protocol=row.config.protocol)),
        *draw(plot_beside_paper, rows, lambda row: stem("beside_paper", row.dataset)),
        *draw(plot_rate_distortion, curves, lambda curve: stem("rate_distortion", curve[0].dataset)),
        *draw(plot_squared_error, gaussian, lambda curve: stem("squared_error", curve[0].dataset)),
        *draw(plot_matched, with_pictures, lambda curve: of_split("matched", curve[0])),
        *draw(plot_training, plain, lambda result: stem("training", result.dataset, protocol=result.config.protocol)),
        *(path for kind in PICTURES for path in draw(partial(plot_pictures, kind), pictured, partial(of_split, kind))),
        *draw(plot_rates_by_dimension, analyses, lambda pair: of_split("dimensions", pair[0])),
        *draw(plot_marginals, analyses, lambda pair: of_split("marginals", pair[0], pair[0].method, pair[0].folder.name)),
        *draw(plot_pointwise, analyses, lambda pair: of_split("pointwise", pair[0])),
    ]
