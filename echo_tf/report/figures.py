"""Figures of trained models from result files. Reads files only, no models."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import norm

from echo_tf.experiments.records import Analysis, Result, pictures_path, read_metrics
from echo_tf.report.names import labels, stem, target, title
from echo_tf.report.rows import Row, grouped
from echo_tf.report.style import legend, method_look, pyplot, save

Analyses = list[tuple[Result, Analysis]]

# Rates at which reconstructions are matched, as quantiles of the range that all methods reach.
MATCHED_QUANTILES = (0.15, 0.5, 0.85)
# Points of a line in the pointwise figures; each is the mean of so many neighbours.
WINDOWS = 40
# Of the markers of one method under several settings.
FILLS = ("full", "left", "bottom", "right", "top", "none")
# Parts of names that the points of a curve have, not the curve.
_OF_POINTS = ("beta", "seed")


def looks(results: Sequence[Result], without: Sequence[str] = ("seed",)) -> list[dict]:
    """Label, colour, marker and its filling for results that are drawn together, one a setting; `without` as in `labels`."""
    names = labels(results, without)
    settings = [name.removeprefix(result.config.method) for name, result in zip(names, results, strict=True)]
    fills = {setting: FILLS[place % len(FILLS)] for place, setting in enumerate(dict.fromkeys(settings))}
    found = zip(names, settings, results, strict=True)
    return [{"label": name, "fillstyle": fills[setting], **method_look(r.config.method)} for name, setting, r in found]


def plot_comparison(rows: list[Row], path: Path) -> Path:
    """Rate against distortion of every row, with the paper's points (hollow) and lines of equal -ELBO, per data set.

    Source: paper, table 2.
    """
    groups = grouped(rows, lambda row: row.dataset).values()
    figure, axes = pyplot().subplots(1, len(groups), figsize=(5.5 * len(groups), 4.2), squeeze=False)
    for axis, members in zip(axes[0], groups, strict=True):
        firsts = [row.first for row in members]
        for row, look in zip(members, looks(firsts), strict=True):
            (rate, distortion), errors = ([of[key] for key in ("rate_nats", "distortion_nats")] for of in (row.mean, row.se))
            axis.errorbar(rate, distortion, xerr=errors[0], yerr=errors[1], linestyle="none", **look)
            if row.paper is not None:
                hollow = {**method_look(row.method), "markerfacecolor": "none", "label": f"{row.method}, paper"}
                axis.plot(row.paper["rate_nats"], row.paper["distortion_nats"], linestyle="none", **hollow)
        _lines_of_equal_elbo(axis)
        axis.set(title=f"{title(firsts)} (grey: -ELBO)", xlabel="rate (nats)", ylabel="distortion (nats)")
        legend(axis, beside=True)
    return save(figure, path)


def _lines_of_equal_elbo(axis) -> None:
    """Grey lines of slope -1 through the range of the axis, each with its -ELBO at beta = 1."""
    axis.margins(0.3)
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    left = max(left, 0.0)
    for total in np.linspace(left + bottom, right + top, 6)[1:-1]:
        axis.axline((left, total - left), slope=-1, color="0.8", linewidth=0.8, zorder=0)
        x = min(right, total - bottom)
        axis.annotate(f"{total:.1f}", (x, total - x), fontsize=6, color="0.5", ha="right", va="bottom")
    axis.set(xlim=(left, right), ylim=(bottom, top))


def plot_training(results: Sequence[Result], path: Path) -> Path:
    """Rate, distortion and objective over the epochs of training. Models that differ in their seed look the same."""
    figure, axes = pyplot().subplots(1, 3, figsize=(11, 3.4))
    quantities = {"loss_nats": "objective, with penalty", "rate_nats": "rate", "distortion_nats": "distortion"}
    trained = list({result.folder: replace(result, split="test") for result in results}.values())  # one may have two results
    metrics = [read_metrics(result.folder) for result in trained]
    lengths = [result.config.training.epochs for result in trained]
    for axis, (key, name) in zip(axes, quantities.items(), strict=True):
        for lines, look in zip(metrics, looks(trained), strict=True):
            _plot_epochs(axis, lines, key, {"markevery": 0.1, **look})
            _plot_epochs(axis, lines, f"validation_{key}", {**look, "marker": "", "linestyle": "--"}, ", validation")
        axis.set(title=name, xlabel="epoch", ylabel="nats per example")
        if max(lengths) >= 5 * min(lengths):  # else the short schedules would be a line at the margin
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
        else:
            axis.xaxis.get_major_locator().set_params(integer=True)
        if values := [value for line in axis.get_lines() for value in line.get_ydata()]:
            low, high = np.min(values), np.quantile(values, 0.9)  # the first epochs would flatten all that follows
            axis.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low) + 1e-3)
    figure.suptitle(title(trained))
    legend(axes[-1], beside=True)
    return save(figure, path)


def _plot_epochs(axis, metrics: list[dict], key: str, look: dict, suffix: str = "") -> None:
    """A quantity over the epochs that have it."""
    points = [(line["epoch"], line[key]) for line in metrics if key in line]
    if points or not suffix:  # a model without any is in the legend
        axis.plot(*np.reshape(points, (-1, 2)).T, linewidth=1.2, markersize=4, **{**look, "label": look["label"] + suffix})


def plot_pictures(results: Sequence[Result], folder: Path, ending: str) -> list[Path]:
    """Reconstructions and samples of the first seed of every setting that has pictures, in two files."""
    shown: dict[str, dict[str, np.ndarray]] = {"reconstructions": {}, "samples": {}}
    for result, name in zip(results, labels(results), strict=True):
        pictures = load_pictures(result)
        shown["reconstructions"].setdefault(f"{result.split}\nimages", pictures["originals"])
        for kind, strips in shown.items():
            strips.setdefault(name.replace(", ", "\n", 1), pictures[kind])
    what = {"reconstructions": "means of 10 reconstructions", "samples": "samples from the marginal"}
    heading = title(results)
    return [_plot_strips(shown[kind], f"{heading}: {what[kind]}", folder / f"{kind}_{ending}.png") for kind in shown]


def load_pictures(result: Result) -> dict[str, np.ndarray]:
    """Pictures of a model, `(n, h, w)` or in colours `(n, h, w, 3)`; empty where there are none.

    Published results have no file, and models of data that are no images have other arrays in it.
    """
    path = pictures_path(result.folder, result.split)
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        pictures = dict(arrays)
    shape = pictures["originals"].shape
    return pictures if len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3) else {}


def _plot_strips(strips: dict[str, np.ndarray], heading: str, path: Path) -> Path:
    figure, axes = pyplot().subplots(len(strips), 1, figsize=(7.5, 0.75 * len(strips) + 0.5), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(np.concatenate(list(images), axis=1), cmap="gray_r", vmin=0, vmax=255)  # the map is for one channel only
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(heading)
    return save(figure, path)


def plot_rate_distortion(curves: list[list[Row]], path: Path) -> Path:
    """Curves of rate against distortion.

    Dashed: the rate floors of Echo. Grey: the line of equal -ELBO, of slope -1, through each point of beta = 1.

    Source: paper, figures 3 to 5.
    """
    figure, axis = pyplot().subplots(figsize=(6.0, 4.2))
    floors: dict[float, str] = {}
    firsts = [curve[0].first for curve in curves]
    for curve, look in zip(curves, looks(firsts, _OF_POINTS), strict=True):
        points = [(row.mean["rate_nats"], row.mean["distortion_nats"]) for row in curve]
        look["label"] += f", β = {curve[0].config.beta:g} ... {curve[-1].config.beta:g}"
        line = "-" if len(curve) > 2 else "none"  # a straight line would say more than two points do
        axis.plot(*zip(*points, strict=True), markersize=4, linewidth=1.2, linestyle=line, **look)
        for row, point in zip(curve, points, strict=True):
            if row.config.beta == 1:
                axis.axline(point, slope=-1, color="0.8", linewidth=0.8, zorder=0)
        if (floor := curve[0].first.rate_floor_nats) is not None:
            floors.setdefault(round(floor, 2), look["color"])
    (left, right), limits = axis.get_xlim(), axis.get_ylim()
    for floor, colour in floors.items():
        axis.axvline(floor, linestyle="--", color=colour, linewidth=0.9, label=f"floor {floor:.2f}")
    axis.set(xlim=(min(left, 0.0), right), ylim=limits, xlabel="rate (nats)", ylabel="distortion (nats)")
    axis.set(title=f"{title(firsts, _OF_POINTS)} (grey: equal -ELBO through β = 1)")
    legend(axis)
    return save(figure, path)


def plot_matched(curves: list[list[Row]], path: Path) -> Path | None:
    """Mean reconstructions of models with nearly the same rate, whatever their beta; `None` if no rate is in all curves.

    The rates are quantiles of the range that all curves reach; each method shows its model with the nearest one.

    Source: paper, figures 3 to 5 (means over 10 draws; models matched by rate).
    """
    ranges = [[row.mean["rate_nats"] for row in curve] for curve in curves]
    low, high = max(map(min, ranges)), min(map(max, ranges))
    strips: dict[str, np.ndarray] = {}
    firsts = [curve[0].first for curve in curves]
    for rate in low + np.array(MATCHED_QUANTILES) * (high - low):
        for curve, name in zip(curves, labels(firsts, _OF_POINTS), strict=True):
            row = min(curve, key=lambda row: abs(row.mean["rate_nats"] - rate))
            pictures = load_pictures(row.first)
            strips.setdefault("images", pictures["originals"])
            reached = f"R = {row.mean['rate_nats']:.1f}, D = {row.mean['distortion_nats']:.1f}"
            strips[f"{name}, β = {row.config.beta:g}\n{reached}"] = pictures["reconstructions"]
    heading = f"{title(firsts, _OF_POINTS)}: means of 10 reconstructions, matched by rate"
    return _plot_strips(strips, heading, path) if low < high else None


def plot_marginals(result: Result, analysis: Analysis, path: Path) -> Path:
    """Marginal density of the nine dimensions with the largest rates, with N(0, 1) dashed.

    Source: paper, figure 6 (Gaussian kernel, Scott's rule, 500 draws for every test image).
    """
    figure, axes = pyplot().subplots(3, 3, figsize=(7.0, 5.6))
    for axis in axes.flat[len(analysis.shown) :]:
        axis.set_visible(False)
    for axis, dimension, grid, density in zip(axes.flat, analysis.shown, analysis.grid, analysis.density, strict=False):
        axis.plot(grid, density, color=method_look(result.config.method)["color"])
        axis.plot(grid, norm.pdf(grid), color="0.6", linestyle="--", linewidth=0.9)
        axis.set_title(f"dimension {dimension}: {analysis.rate_by_dimension_nats[dimension]:.2f} nats")
        axis.set_ylim(bottom=0)
    figure.supxlabel("z (as the decoder sees it)")
    figure.supylabel("density")
    figure.suptitle(f"{title([result], without=())}: marginals; dashed: N(0, 1)")
    return save(figure, path)


def plot_pointwise(analyses: Analyses, path: Path) -> Path:
    """Rate of single images and the norms of mean and scale, images sorted by conditional likelihood.

    Means over `WINDOWS` windows; the band holds four fifths of each.

    Source: paper, figures 7 and 8.
    """
    figure, axes = pyplot().subplots(2, 2, figsize=(9.0, 6.0), sharex=True)
    names = ("log p(x|z) (nats)", "pointwise rate (nats)", "norm of the mean", "norm of the scale")
    results = [result for result, _ in analyses]
    for (_, found), look in zip(analyses, looks(results, without=()), strict=True):
        others = (found.pointwise_rate_nats, found.mean_norm, found.scale_norm)
        distortion, *sorted_others = by_likelihood(found.pointwise_distortion_nats, *others)
        for axis, values in zip(axes.flat, (-distortion, *sorted_others), strict=True):
            _plot_windows(axis, values, look["label"], look["color"])
    for axis, name in zip(axes.flat, names, strict=True):
        axis.set(ylabel=name)
    for axis in axes[1]:
        axis.set(xlabel="images by log p(x|z), best first")
    legend(axes[0, 0])
    figure.suptitle(f"{title(results, without=())}: images of the {results[0].split} set, one by one")
    return save(figure, path)


def by_likelihood(distortion: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Arrays of shape `(n,)` sorted so that the image with the largest conditional likelihood, `-distortion`, comes first."""
    order = np.argsort(distortion, kind="stable")
    return [array[order] for array in (distortion, *values)]


def _plot_windows(axis, values: np.ndarray, label: str, colour: str) -> None:
    windows = np.array_split(values, min(WINDOWS, len(values)))
    places = np.cumsum([len(window) for window in windows]) - 0.5 * len(windows[0])
    axis.plot(places, [window.mean() for window in windows], color=colour, label=label, linewidth=1.2)
    low, high = zip(*(np.quantile(window, (0.1, 0.9)) for window in windows), strict=True)
    axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def plot_rates_by_dimension(analyses: Analyses, path: Path) -> Path:
    """Rate of every latent dimension in falling order; dashed: the floor of a dimension of Echo."""
    figure, axis = pyplot().subplots(figsize=(6.0, 3.4))
    results = [result for result, _ in analyses]
    for (result, analysis), look in zip(analyses, looks(results, without=()), strict=True):
        rates = np.sort(analysis.rate_by_dimension_nats)[::-1]
        axis.plot(np.arange(1, len(rates) + 1), rates, markersize=3, linewidth=1.0, **look)
        if result.rate_floor_nats is not None:
            axis.axhline(result.rate_floor_nats / len(rates), color=look["color"], linestyle="--", linewidth=0.8)
    axis.set(xlabel="dimension, by rate", ylabel="rate (nats)", title=f"{title(results, without=())}: rate by dimension")
    axis.set_ylim(bottom=0)
    legend(axis)
    return save(figure, path)


def plot_all(results: list[Result], rows: list[Row], curves: list[list[Row]], analyses: Analyses, folder: Path) -> list[Path]:
    """All figures, one for each data set, split or protocol where that cannot be in one; returns their paths."""

    def path(*names, **others):
        return folder / f"{stem(*names, **others)}.png"

    # Models of the released code may be so far off that nothing else could be seen beside them.
    at_one = grouped((row for row in rows if row.config.beta == 1 or row.target), lambda row: row.config.protocol)
    paths = [plot_comparison(members, path("comparison", protocol=protocol)) for protocol, members in at_one.items()]
    by_data = grouped(curves, lambda curve: curve[0].dataset)
    paths += [plot_rate_distortion(members, path("rate_distortion", dataset)) for dataset, members in by_data.items()]
    pictured = (curve for curve in curves if all(load_pictures(row.first) for row in curve))
    by_data = grouped(pictured, lambda curve: curve[0].dataset)
    paths += filter(None, (plot_matched(members, path("matched", dataset)) for dataset, members in by_data.items()))
    plain = [result for result in results if result.config.beta == 1 and not target(result.config)]
    for (dataset, protocol), trained in grouped(plain, lambda result: (result.cell.dataset, result.config.protocol)).items():
        paths.append(plot_training(trained, path("training", dataset, protocol=protocol)))
    for (dataset, split), members in grouped(filter(load_pictures, plain), _data_and_split).items():
        paths += plot_pictures(members, folder, stem(dataset, split=split))
    for (dataset, split), pairs in grouped(analyses, lambda pair: _data_and_split(pair[0])).items():
        paths.append(plot_rates_by_dimension(pairs, path("dimensions", dataset, split=split)))
        for result, analysis in pairs:
            name = ("marginals", dataset, result.config.method, result.folder.name)
            paths.append(plot_marginals(result, analysis, path(*name, split=split)))
        paths.append(plot_pointwise(pairs, path("pointwise", dataset, split=split)))
    return paths


def _data_and_split(result: Result) -> tuple[str, str]:
    return result.cell.dataset, result.split
