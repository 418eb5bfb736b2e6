"""Figures of trained models from result files. Reads files only, no models."""

from pathlib import Path

import numpy as np

from echo_tf.experiments.analysis import Analysis, by_likelihood
from echo_tf.experiments.cells import pictures_path
from echo_tf.experiments.training import read_metrics
from echo_tf.report.comparison import Curve, Row, departures, full_name, precision_of, target_name
from echo_tf.report.figures import grouped, legend, method_look, pyplot, save

# Rates at which reconstructions are matched, as quantiles of the range that all methods reach.
MATCHED_QUANTILES = (0.15, 0.5, 0.85)
# Points of a line in the pointwise figures; each is the mean of so many neighbours.
WINDOWS = 40
# Of the markers of one method under several settings.
FILLS = ("full", "left", "bottom", "right", "top", "none")


def plot_comparison(rows: list[Row], path: Path) -> Path:
    """Rate against distortion of every row, with the paper's points (hollow) and lines of equal -ELBO, per data set.

    Source: paper, table 2.
    """
    plt = pyplot()
    groups = grouped(rows, lambda row: row.dataset)
    figure, axes = plt.subplots(1, len(groups), figsize=(5.5 * len(groups), 4.2), squeeze=False)
    for axis, (dataset, members) in zip(axes[0], groups.items(), strict=True):
        settings = sorted({_setting(row) for row in members})
        several_precisions = len({row.precision for row in members}) > 1
        for row in members:
            # With several settings, filled and half filled markers tell them apart.
            fill = FILLS[settings.index(_setting(row)) % len(FILLS)]
            axis.errorbar(
                row.mean["rate_nats"],
                row.mean["distortion_nats"],
                xerr=row.se["rate_nats"],
                yerr=row.se["distortion_nats"],
                label=_label(row) + (f", {row.precision}" if several_precisions else ""),
                linestyle="none",
                fillstyle=fill,
                **method_look(row.method),
            )
            if row.paper is not None:
                published = (row.paper["rate_nats"], row.paper["distortion_nats"])
                look = method_look(row.method)
                axis.plot(*published, linestyle="none", markerfacecolor="none", label=f"{row.method}, paper", **look)
        _lines_of_equal_elbo(axis)
        title = _data(dataset, [row.source for row in members])
        axis.set(title=f"{title} (grey: -ELBO)", xlabel="rate (nats)", ylabel="distortion (nats)")
        legend(axis, beside=True)
    return save(figure, path)


def _setting(row: Row) -> tuple:
    return (row.protocol, row.split, row.holdout, row.epochs, row.beta, row.target, row.precision)


def _label(row: Row) -> str:
    label = f"{row.name}, {row.epochs} epochs"
    label += f", {row.target}" if row.target else (f", β = {row.beta:g}" if row.beta != 1 else "")
    return label + _images_of(row)


def _images_of(row: Row) -> str:
    """What a label says of the images that were measured and left out of training."""
    return (f", {row.split}" if row.split != "test" else "") + (f", held out {row.holdout}" if row.holdout else "")


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


def plot_training(results: list[dict], folder: Path) -> list[Path]:
    """Rate, distortion and objective over the epochs of training at a constant beta of 1, one figure a data set and protocol.

    Models that differ in their seed look the same.
    """
    plt = pyplot()
    paths = []
    trained = {result["folder"]: result for result in results}  # one may have a result for each split
    members = [result for result in trained.values() if _is_plain(result)]
    for (dataset, protocol), cells in grouped(members, lambda r: (r["dataset"], r["config"]["protocol"])).items():
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
        settings = list(dict.fromkeys(_training_setting(result) for result in cells))
        several_precisions = len({_precision(result) for result in cells}) > 1
        lengths = [epochs for epochs, _ in settings]
        for result in cells:
            metrics = read_metrics(Path(result["folder"]))
            epochs = [line["epoch"] for line in metrics]
            config = result["config"]
            fill = FILLS[settings.index(_training_setting(result)) % len(FILLS)]
            look = {"linewidth": 1.2, "markersize": 4, "fillstyle": fill, **method_look(config["method"])}
            name = full_name(config["method"], config["protocol"], departures(result))
            if len(set(lengths)) > 1:
                name += f", {config['training']['epochs']} epochs"
            name += f", {_precision(result)}" if several_precisions else ""
            for axis, quantity in zip(axes, ("loss_nats", "rate_nats", "distortion_nats"), strict=True):
                axis.plot(epochs, [line[quantity] for line in metrics], label=name, markevery=0.1, **look)
                validated = {line["epoch"]: line[key] for line in metrics if (key := f"validation_{quantity}") in line}
                if validated:
                    line = {**look, "marker": "", "linestyle": "--"}
                    axis.plot(*zip(*validated.items(), strict=True), label=f"{name}, validation", **line)
        data = _data(dataset, [result["source"] for result in cells])
        for axis, title in zip(axes, ("objective, with penalty", "rate", "distortion"), strict=True):
            axis.set(title=title, xlabel="epoch", ylabel="nats per example")
            if max(lengths) >= 5 * min(lengths):  # else the short schedules would be a line at the margin
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter("{x:g}")
            else:
                axis.xaxis.get_major_locator().set_params(integer=True)
            lines = [value for line in axis.get_lines() for value in line.get_ydata()]
            if lines:  # the first epochs would flatten all that follows
                low, high = np.min(lines), np.quantile(lines, 0.9)
                axis.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low) + 1e-3)
        figure.suptitle(data)
        legend(axes[-1], beside=True)
        paths.append(save(figure, folder / f"{_of_protocol(f'training_{dataset}', protocol)}.png"))
    return paths


def _is_plain(result: dict) -> bool:
    """Whether a model was trained from scratch at a constant beta of 1."""
    config = result["config"]
    return config["beta"] == 1 and not target_name(config) and not result.get("warm_start")


def _training_setting(result: dict) -> tuple:
    """Length of the schedule, and what else tells trainings of one method apart."""
    config = result["config"]
    return config["training"]["epochs"], (config["protocol"], result["holdout"], departures(result), _precision(result))


def _precision(result: dict) -> str:
    return precision_of(result["config"]["training"]["dtype_policy"])


def plot_pictures(results: list[dict], folder: Path) -> list[Path]:
    """Reconstructions and samples of the first seed of every setting at beta = 1, two figures for each data set and split."""
    paths = []
    members = [result for result in results if _is_plain(result) and _has_pictures(result["folder"], result["split"])]
    for (dataset, split), cells in grouped(members, lambda result: (result["dataset"], result["split"])).items():
        strips, samples = {}, {}
        several_precisions = len({_precision(result) for result in cells}) > 1
        for result in cells:
            pictures, config = _pictures(result["folder"], result["split"]), result["config"]
            name = full_name(config["method"], config["protocol"], departures(result))
            name += f"\n{config['training']['epochs']} epochs"
            name += f", {_precision(result)}" if several_precisions else ""
            name += f"\nheld out {result['holdout']}" if result["holdout"] else ""
            strips.setdefault(f"{split}\nimages", pictures["originals"])
            strips.setdefault(name, pictures["reconstructions"])
            samples.setdefault(name, pictures["samples"])
        data = _data(dataset, [result["source"] for result in cells])
        name = _with_split(dataset, split)
        for kind, title, images in (
            ("reconstructions", "means of 10 reconstructions", strips),
            ("samples", "samples from the marginal", samples),
        ):
            paths.append(_plot_strips(images, f"{data}: {title}", folder / f"{kind}_{name}.png"))
    return paths


def _has_pictures(folder: str, split: str) -> bool:
    """Published results have none."""
    return pictures_path(Path(folder), split).exists()


def _pictures(folder: str, split: str) -> dict[str, np.ndarray]:
    with np.load(pictures_path(Path(folder), split), allow_pickle=False) as pictures:
        return dict(pictures)


def _plot_strips(strips: dict[str, np.ndarray], title: str, path: Path) -> Path:
    plt = pyplot()
    figure, axes = plt.subplots(len(strips), 1, figsize=(7.5, 0.75 * len(strips) + 0.5), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(np.concatenate(list(images), axis=1), cmap="gray_r", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return save(figure, path)


def plot_rate_distortion(found: list[Curve], folder: Path) -> list[Path]:
    """Curves of test rate against distortion, one figure a data set.

    Dashed: the rate floors of Echo. Grey: the line of equal -ELBO, of slope -1, through each point of beta = 1.

    Source: paper, figures 3 to 5.
    """
    plt = pyplot()
    paths = []
    for dataset, members in grouped(found, lambda curve: curve.dataset).items():
        figure, axis = plt.subplots(figsize=(6.0, 4.2))
        floors = {}
        settings = list(dict.fromkeys(_curve_setting(curve) for curve in members))
        for curve in members:
            rate, distortion = (np.array([row.mean[key] for row in curve.rows]) for key in ("rate_nats", "distortion_nats"))
            fill = FILLS[settings.index(_curve_setting(curve)) % len(FILLS)]
            look = {"fillstyle": fill, **method_look(curve.method)}
            line = "-" if len(curve.rows) > 2 else "none"  # a straight line would say more than two points do
            label = f"{curve.label}, {_span(curve)}{_tell_apart(curve, members)}"
            axis.plot(rate, distortion, markersize=4, linewidth=1.2, linestyle=line, label=label, **look)
            for row in curve.rows:
                if row.beta == 1:
                    place = (row.mean["rate_nats"], row.mean["distortion_nats"])
                    axis.axline(place, slope=-1, color="0.8", linewidth=0.8, zorder=0)
            floor = curve.rows[0].rate_floor_nats
            if floor is not None:
                floors.setdefault(round(floor, 2), look["color"])
        (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        for floor, colour in floors.items():
            axis.axvline(floor, linestyle="--", color=colour, linewidth=0.9, label=f"floor {floor:.2f}")
        axis.set(xlim=(min(left, 0.0), right), ylim=(bottom, top))
        data = _data(dataset, [row.source for curve in members for row in curve.rows])
        axis.set(xlabel="rate (nats)", ylabel="distortion (nats)", title=f"{data} (grey: equal -ELBO through β = 1)")
        legend(axis)
        paths.append(save(figure, folder / f"rate_distortion_{dataset}.png"))
    return paths


def _span(curve: Curve) -> str:
    betas = [row.beta for row in curve.rows]
    return f"β = {betas[0]:g} ... {betas[-1]:g}, {curve.rows[0].epochs} epochs"


def _curve_setting(curve: Curve) -> tuple:
    """What one method can have several curves of in a figure, but for warm starts."""
    return (curve.rows[0].setting, curve.rows[0].precision)


def _tell_apart(curve: Curve, others: list[Curve]) -> str:
    """Images, and precision if it differs among the curves of a figure."""
    several_precisions = len({other.rows[0].precision for other in others}) > 1
    return _images_of(curve.rows[0]) + (f", {curve.rows[0].precision}" if several_precisions else "")


def plot_matched(found: list[Curve], folder: Path) -> list[Path]:
    """Mean reconstructions of models with nearly the same rate, whatever their beta, one figure a data set.

    The rates are quantiles of the range that all curves reach; each method shows its model with the nearest one.

    Source: paper, figures 3 to 5 (means over 10 draws; models matched by rate).
    """
    pictured = [curve for curve in found if all(_has_pictures(row.folder, row.split) for row in curve.rows)]
    paths = []
    for dataset, members in grouped(pictured, lambda curve: curve.dataset).items():
        ranges = [[row.mean["rate_nats"] for row in curve.rows] for curve in members]
        low, high = max(min(rates) for rates in ranges), min(max(rates) for rates in ranges)
        if low >= high:
            continue
        strips: dict[str, np.ndarray] = {}
        for quantile in MATCHED_QUANTILES:
            target = low + quantile * (high - low)
            for curve in members:
                row = min(curve.rows, key=lambda row: abs(row.mean["rate_nats"] - target))
                pictures = _pictures(row.folder, row.split)
                strips.setdefault("images", pictures["originals"])
                name = f"{curve.label}, β = {row.beta:g}{_tell_apart(curve, members)}\nR = {row.mean['rate_nats']:.1f}"
                strips[f"{name}, D = {row.mean['distortion_nats']:.1f}"] = pictures["reconstructions"]
        data = _data(dataset, [row.source for curve in members for row in curve.rows])
        title = f"{data}: means of 10 reconstructions, matched by rate"
        paths.append(_plot_strips(strips, title, folder / f"matched_{dataset}.png"))
    return paths


def plot_marginals(analyses: list[tuple[dict, Analysis]], folder: Path) -> list[Path]:
    """Marginal density of the nine dimensions with the largest rates, one figure a model, with N(0, 1) dashed.

    Source: paper, figure 6 (Gaussian kernel, Scott's rule, 500 draws for every test image).
    """
    plt = pyplot()
    paths = []
    for result, analysis in analyses:
        figure, axes = plt.subplots(3, 3, figsize=(7.0, 5.6))
        look = method_look(result["config"]["method"])
        for i, axis in enumerate(axes.flat):
            if i >= len(analysis.shown):
                axis.set_visible(False)
                continue
            grid, density = analysis.grid[i], analysis.density[i]
            axis.plot(grid, density, color=look["color"])
            axis.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), color="0.6", linestyle="--", linewidth=0.9)
            rate = analysis.rate_by_dimension_nats[analysis.shown[i]]
            axis.set_title(f"dimension {analysis.shown[i]}: {rate:.2f} nats")
            axis.set_ylim(bottom=0)
        figure.supxlabel("z (as the decoder sees it)")
        figure.supylabel("density")
        figure.suptitle(f"{_name(result)}: marginals; dashed: N(0, 1)")
        paths.append(save(figure, folder / f"marginals_{_stem(result)}.png"))
    return paths


def plot_pointwise(analyses: list[tuple[dict, Analysis]], folder: Path) -> list[Path]:
    """Rate of single images and the norms of mean and scale, images sorted by conditional likelihood; one figure a data set.

    Means over `WINDOWS` windows; the band holds four fifths of each.

    Source: paper, figures 7 and 8.
    """
    plt = pyplot()
    paths = []
    for (dataset, split), members in grouped(analyses, _data_and_split).items():
        figure, axes = plt.subplots(2, 2, figsize=(9.0, 6.0), sharex=True)
        for result, analysis in members:
            distortion, rate, mean_norm, scale_norm = by_likelihood(
                analysis.pointwise_distortion_nats,
                analysis.pointwise_rate_nats,
                analysis.mean_norm,
                analysis.scale_norm,
            )
            for axis, values in zip(axes.flat, (-distortion, rate, mean_norm, scale_norm), strict=True):
                _plot_windows(axis, values, _label_of(result), method_look(result["config"]["method"])["color"])
        names = ("log p(x|z) (nats)", "pointwise rate (nats)", "norm of the mean", "norm of the scale")
        for axis, name in zip(axes.flat, names, strict=True):
            axis.set(ylabel=name)
        for axis in axes[1]:
            axis.set(xlabel="images by log p(x|z), best first")
        legend(axes[0, 0])
        data = _data(dataset, [result["source"] for result, _ in members])
        figure.suptitle(f"{data}: images of the {split} set, one by one")
        paths.append(save(figure, folder / f"pointwise_{_with_split(dataset, split)}.png"))
    return paths


def _plot_windows(axis, values: np.ndarray, label: str, colour: str) -> None:
    windows = np.array_split(values, min(WINDOWS, len(values)))
    places = np.cumsum([len(window) for window in windows]) - 0.5 * len(windows[0])
    axis.plot(places, [window.mean() for window in windows], color=colour, label=label, linewidth=1.2)
    low, high = zip(*(np.quantile(window, (0.1, 0.9)) for window in windows), strict=True)
    axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def plot_rates_by_dimension(analyses: list[tuple[dict, Analysis]], folder: Path) -> list[Path]:
    """Rate of every latent dimension in falling order, one figure a data set; dashed: the floor of a dimension of Echo."""
    plt = pyplot()
    paths = []
    for (dataset, split), members in grouped(analyses, _data_and_split).items():
        figure, axis = plt.subplots(figsize=(6.0, 3.4))
        for result, analysis in members:
            rates = np.sort(analysis.rate_by_dimension_nats)[::-1]
            look = method_look(result["config"]["method"])
            axis.plot(np.arange(1, len(rates) + 1), rates, markersize=3, linewidth=1.0, label=_label_of(result), **look)
            if "rate_floor_nats" in result:
                axis.axhline(result["rate_floor_nats"] / len(rates), color=look["color"], linestyle="--", linewidth=0.8)
        data = _data(dataset, [result["source"] for result, _ in members])
        axis.set(xlabel="dimension, by rate", ylabel="rate (nats)", title=f"{data}: rate by dimension")
        axis.set_ylim(bottom=0)
        legend(axis)
        paths.append(save(figure, folder / f"dimensions_{_with_split(dataset, split)}.png"))
    return paths


def _label_of(result: dict) -> str:
    config = result["config"]
    label = f"{config['method']}, " + (target_name(config) or f"β = {config['beta']:g}")
    label += f", {config['training']['epochs']} epochs"
    label += f", seed {config['seed']}" if config["seed"] else ""
    return label + (" (released)" if config["protocol"] == "released" else "")


def _name(result: dict) -> str:
    data = _data(result["dataset"], [result["source"]])
    return f"{data}, {_label_of(result)}"


def _stem(result: dict) -> str:
    """Dataset, method and folder of a cell, with the split; no other result shares them."""
    return _with_split(f"{result['dataset']}_{result['config']['method']}_{Path(result['folder']).name}", result["split"])


def _data_and_split(pair: tuple[dict, Analysis]) -> tuple[str, str]:
    return pair[0]["dataset"], pair[0]["split"]


def _with_split(name: str, split: str) -> str:
    return name if split == "test" else f"{name}_{split}"


def _data(dataset: str, sources: list[str]) -> str:
    """A data set as titles name it, with what must be known of it."""
    return dataset + (" (reconstruction)" if "reconstruction" in sources else "")


def _of_protocol(name: str, protocol: str) -> str:
    return name if protocol == "paper" else f"{name}_{protocol}"


def plot_all(results: list[dict], rows: list[Row], found: list[Curve], analyses: list, folder: Path) -> list[Path]:
    """All figures; returns their paths."""
    at_one = [row for row in rows if row.beta == 1 or row.target]
    # Models of the released code may be so far off that nothing else could be seen beside them.
    by_protocol = grouped(at_one, lambda row: _of_protocol("comparison", row.protocol))
    return [
        *(plot_comparison(members, folder / f"{name}.png") for name, members in by_protocol.items()),
        *plot_rate_distortion(found, folder),
        *plot_matched(found, folder),
        *plot_training(results, folder),
        *plot_pictures(results, folder),
        *plot_rates_by_dimension(analyses, folder),
        *plot_marginals(analyses, folder),
        *plot_pointwise(analyses, folder),
    ]
