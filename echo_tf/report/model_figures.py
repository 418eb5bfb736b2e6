"""Figures of what models do with images: their pictures, and what an analysis says of each. Reads files only, no models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

from echo_tf.experiments.records import Analysis, Result, pictures_path
from echo_tf.report.looks import OF_POINTS, looks
from echo_tf.report.names import labels, title
from echo_tf.report.rows import Row
from echo_tf.report.style import headed, legend, method_look, pyplot, save

Analyses = list[tuple[Result, Analysis]]

# Pictures of a model, by the name of their array, and what they are.
PICTURES = {"reconstructions": "means of 10 reconstructions", "samples": "samples from the marginal"}
# Rates at which reconstructions are matched, as quantiles of the range that all methods reach.
MATCHED_QUANTILES = (0.15, 0.5, 0.85)
# Points of a line in the pointwise figures; each is the mean of so many neighbours.
WINDOWS = 40


def plot_pictures(kind: str, results: Sequence[Result], path: Path) -> Path:
    """Pictures of a kind in `PICTURES` by the first seed of every setting; all results have pictures, of the same split."""
    strips = {f"{results[0].split}\nimages": load_pictures(results[0])["originals"]} if kind == "reconstructions" else {}
    for result, name in zip(results, labels(results), strict=True):
        strips.setdefault(name.replace(", ", "\n", 1), load_pictures(result)[kind])
    return _plot_strips(strips, f"{title(results)}: {PICTURES[kind]}", path)


def load_pictures(result: Result) -> dict[str, np.ndarray]:
    """Pictures of a model, `(n, h, w)` or in colours `(n, h, w, 3)`; empty where there are none.

    Published results have no file, and models of data that are no images have other arrays in it.
    """
    path = pictures_path(result.folder, result.split)
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as pictures:
        shape = pictures["originals"].shape
        return dict(pictures) if len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3) else {}


def _plot_strips(strips: dict[str, np.ndarray], heading: str, path: Path) -> Path:
    figure, axes = pyplot().subplots(len(strips), 1, figsize=(7.5, 0.75 * len(strips) + 0.5), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(np.concatenate(list(images), axis=1), cmap="gray_r", vmin=0, vmax=255)  # the map is for one channel only
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(heading)
    return save(figure, path)


def plot_matched(curves: list[list[Row]], path: Path) -> Path | None:
    """Mean reconstructions of models with nearly the same rate, whatever their beta; `None` if no rate is in all curves.

    The rates are quantiles of the range that all curves reach; each method shows its model with the nearest one.

    Source: paper, figures 3 to 5 (means over 10 draws; models matched by rate).
    """
    ranges = [[row.mean["rate_nats"] for row in curve] for curve in curves]
    low, high = max(map(min, ranges)), min(map(max, ranges))
    firsts = [curve[0] for curve in curves]
    strips = {"images": load_pictures(firsts[0])["originals"]}
    for rate in low + np.array(MATCHED_QUANTILES) * (high - low):
        for curve, name in zip(curves, labels(firsts, OF_POINTS), strict=True):
            row = min(curve, key=lambda row: abs(row.mean["rate_nats"] - rate))
            reached = f"R = {row.mean['rate_nats']:.1f}, D = {row.mean['distortion_nats']:.1f}"
            strips[f"{name}, β = {row.config.beta:g}\n{reached}"] = load_pictures(row)["reconstructions"]
    heading = f"{title(firsts, OF_POINTS)}: means of 10 reconstructions, matched by rate"
    return _plot_strips(strips, heading, path) if low < high else None


def plot_marginals(analyses: Analyses, path: Path) -> Path:
    """Marginal density of the dimensions of highest and of lowest rate of a single model, with N(0, 1) dashed.

    A `z` that is standardised has a second axis, at the top, of what it was before.

    Source: paper, figure 6 (Gaussian kernel, Scott's rule, 500 draws for every test image).
    """
    ((result, analysis),) = analyses
    figure, axes = pyplot().subplots(3, 3, figsize=(7.0, 5.6))
    for axis in axes.flat[len(analysis.shown) :]:
        axis.set_visible(False)
    for axis, dimension, grid, density in zip(axes.flat, analysis.shown, analysis.grid, analysis.density, strict=False):
        axis.plot(grid, density, color=method_look(result.method)["color"])
        axis.plot(grid, norm.pdf(grid), color="0.6", linestyle="--", linewidth=0.9)
        axis.set(title=f"dimension {dimension}: {analysis.rate_by_dimension_nats[dimension]:.2f} nats", ylim=(0, None))
    moments = analysis.moments if analysis.moments.size else np.empty((2, 0))
    for axis, mean, sd in zip(axes.flat, *moments, strict=False):
        before, after = (lambda z, m=mean, s=sd: m + s * z), (lambda y, m=mean, s=sd: (y - m) / s)
        axis.secondary_xaxis("top", functions=(before, after)).tick_params(labelsize="x-small", pad=1)
    above = "; above each: before it was standardised" if moments.size else ""
    figure.supxlabel(f"z (as the decoder sees it{above})")
    figure.supylabel("density")
    figure.suptitle(f"{title([result], without=())}: marginals; dashed: N(0, 1)")
    return save(figure, path)


def plot_pointwise(analyses: Analyses, path: Path) -> Path:
    """Rate of single images and the norms of mean and scale, images sorted by conditional likelihood.

    Means over `WINDOWS` windows; the band holds four fifths of each.

    Source: paper, figures 7 and 8.
    """
    figure, axes = pyplot().subplots(2, 2, figsize=(8.0, 6.2), sharex=True)
    names = ("log p(x|z) (nats)", "pointwise rate (nats)", "norm of the mean", "norm of the scale")
    results = [result for result, _ in analyses]
    for (_, found), look in zip(analyses, looks(results, without=()), strict=True):
        best_first = np.argsort(found.pointwise_distortion_nats, kind="stable")
        shown = (-found.pointwise_distortion_nats, found.pointwise_rate_nats, found.mean_norm, found.scale_norm)
        for axis, name, values in zip(axes.flat, names, shown, strict=True):
            windows = np.array_split(values[best_first], min(WINDOWS, len(values)))
            places = np.cumsum([len(window) for window in windows]) - 0.5 * len(windows[0])
            axis.plot(places, [window.mean() for window in windows], color=look["color"], label=look["label"], linewidth=1.2)
            low, high = np.transpose([np.quantile(window, (0.1, 0.9)) for window in windows])
            axis.fill_between(places, low, high, color=look["color"], alpha=0.15, linewidth=0)
            axis.set(ylabel=name)
    for axis in axes[1]:
        axis.set(xlabel="images by log p(x|z), best first")
    explained = "lines: means of neighbouring images; bands: the middle four fifths of them"
    heading = f"{title(results, without=())}: images of the {results[0].split} set, one by one\n{explained}"
    return save(headed(figure, heading, 2), path)


def plot_rates_by_dimension(analyses: Analyses, path: Path) -> Path:
    """Rate of every latent dimension in falling order; dashed: the floor of a dimension of Echo."""
    figure, axis = pyplot().subplots(figsize=(6.0, 3.4))
    results = [result for result, _ in analyses]
    for (result, analysis), look in zip(analyses, looks(results, without=()), strict=True):
        rates = np.sort(analysis.rate_by_dimension_nats)[::-1]
        axis.plot(np.arange(1, len(rates) + 1), rates, markersize=3, linewidth=1.0, clip_on=False, **look)
        if result.rate_floor_nats is not None:
            floor = result.rate_floor_nats / len(rates)
            axis.axhline(floor, color=look["color"], linestyle="--", linewidth=0.8, label=f"floor of Echo, {floor:.2f} nats")
    axis.set(xlabel="dimension, by rate", ylabel="rate (nats)", title=f"{title(results, without=())}: rate by dimension")
    axis.set_ylim(bottom=0)
    legend(axis)
    return save(figure, path)
