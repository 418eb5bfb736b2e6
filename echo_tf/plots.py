"""Figures from result files. Reads files only, no models."""

from pathlib import Path

import numpy as np

from echo_tf.experiments import pictures_path
from echo_tf.files import read_rows
from echo_tf.report import Row
from echo_tf.sources import BINARY_SOURCE
from echo_tf.theory import bernoulli_hamming_rd
from echo_tf.training import read_metrics

# Okabe-Ito colours, which colour-blind readers can tell apart: one a method. Markers: one a setting.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#999999")
_MARKERS = "osD^vPX*<"


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
        }
    )
    return plt


def _colours(methods: list[str]) -> dict[str, str]:
    return {method: _COLOURS[i % len(_COLOURS)] for i, method in enumerate(sorted(set(methods)))}


def _save(plt, figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path


def _grouped(items, key) -> dict:
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def plot_comparison(rows: list[Row], path: Path) -> Path:
    """Rate against distortion of every row, with the paper's points (hollow) and lines of equal -ELBO, per data set."""
    plt = _pyplot()
    groups = _grouped(rows, lambda row: row.dataset)
    colours = _colours([row.method for row in rows])
    settings = sorted({_setting(row) for row in rows})
    figure, axes = plt.subplots(1, len(groups), figsize=(4.5 * len(groups), 3.8), squeeze=False)
    for axis, (dataset, members) in zip(axes[0], groups.items(), strict=True):
        for row in members:
            marker = _MARKERS[settings.index(_setting(row)) % len(_MARKERS)]
            look = {"color": colours[row.method], "marker": marker, "linestyle": "none"}
            label = f"{row.method}, {row.epochs} epochs"
            label += (f", β = {row.beta:g}" if row.beta != 1 else "") + (f", {row.split}" if row.split != "test" else "")
            label += f", held out {row.holdout}" if row.holdout else ""
            axis.errorbar(
                row.mean["rate_nats"],
                row.mean["distortion_nats"],
                xerr=row.se["rate_nats"],
                yerr=row.se["distortion_nats"],
                label=label,
                **look,
            )
            if row.paper is not None:
                published = (row.paper["rate_nats"], row.paper["distortion_nats"])
                axis.plot(*published, **(look | {"marker": "o"}), markerfacecolor="none", label=f"{row.method}, paper")
        _lines_of_equal_elbo(axis)
        axis.set(title=f"{dataset} (grey: -ELBO)", xlabel="rate (nats)", ylabel="distortion (nats)")
        _legend(axis)
    return _save(plt, figure, path)


def _setting(row: Row) -> tuple:
    return (row.split, row.holdout, row.epochs, row.beta)


def _legend(axis) -> None:
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))  # one entry a label
    axis.legend(handles.values(), handles.keys(), fontsize=7)


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


def plot_curves(results: list[dict], folder: Path) -> list[Path]:
    """Training curves of rate, distortion and objective over epochs, one figure per data set."""
    plt = _pyplot()
    paths = []
    for dataset, members in _grouped(results, lambda result: result["dataset"]).items():
        colours = _colours([result["config"]["method"] for result in members])
        figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
        for result in members:
            metrics = read_metrics(Path(result["folder"]))
            epochs = [line["epoch"] for line in metrics]
            method = result["config"]["method"]
            for axis, quantity in zip(axes, ("loss_nats", "rate_nats", "distortion_nats"), strict=True):
                look = {"color": colours[method], "linewidth": 1.2}
                axis.plot(epochs, [line[quantity] for line in metrics], label=f"{method}, training", **look)
                validated = {line["epoch"]: line[key] for line in metrics if (key := f"validation_{quantity}") in line}
                if validated:
                    axis.plot(*zip(*validated.items(), strict=True), linestyle="--", label=f"{method}, validation", **look)
        for axis, title in zip(axes, ("objective, with β and penalty", "rate", "distortion"), strict=True):
            axis.set(title=f"{dataset}: {title}", xlabel="epoch", ylabel="nats per example")
            axis.xaxis.get_major_locator().set_params(integer=True)
            lines = [value for line in axis.get_lines() for value in line.get_ydata()]
            if lines:  # the first epochs would flatten all that follows
                low, high = np.min(lines), np.quantile(lines, 0.9)
                axis.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low) + 1e-3)
        _legend(axes[0])
        paths.append(_save(plt, figure, folder / f"curves_{dataset}.png"))
    return paths


def plot_pictures(results: list[dict], folder: Path) -> list[Path]:
    """Reconstructions and samples of the first seed of every setting, two figures for each data set and split."""
    plt = _pyplot()
    paths = []
    for (dataset, split), members in _grouped(results, lambda result: (result["dataset"], result["split"])).items():
        strips, samples = {}, {}
        for result in members:
            with np.load(pictures_path(Path(result["folder"]), split), allow_pickle=False) as pictures:
                config = result["config"]
                name = f"{config['method']}\n{config['training']['epochs']} epochs\nβ = {config['beta']:g}"
                name += f"\nheld out {result['holdout']}" if result["holdout"] else ""
                strips.setdefault(f"{split}\nimages", pictures["originals"])
                strips.setdefault(name, pictures["reconstructions"])
                samples.setdefault(name, pictures["samples"])
        name = dataset if split == "test" else f"{dataset}_{split}"
        for kind, title, images in (
            ("reconstructions", "means of 10 reconstructions", strips),
            ("samples", "samples from the marginal", samples),
        ):
            paths.append(_plot_strips(plt, images, f"{dataset}: {title}", folder / f"{kind}_{name}.png"))
    return paths


def _plot_strips(plt, strips: dict[str, np.ndarray], title: str, path: Path) -> Path:
    figure, axes = plt.subplots(len(strips), 1, figsize=(7.5, 0.8 * len(strips) + 0.5), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(np.concatenate(list(images), axis=1), cmap="gray_r", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return _save(plt, figure, path)


def plot_all(results: list[dict], rows: list[Row], folder: Path) -> list[Path]:
    """All figures; returns their paths."""
    return [
        plot_comparison(rows, folder / "comparison.png"),
        *plot_curves(results, folder),
        *plot_pictures(results, folder),
    ]


def plot_theory(folder: Path) -> list[Path]:
    """Figures of the experiment `theory` from its CSV files, beside them."""
    return [
        _plot_binary_source(folder / "binary_source.csv"),
        _plot_learned(folder / "learned.csv", folder / "exact_curves.csv"),
        _plot_exactness(folder / "exactness.csv", folder / "saturation.csv"),
    ]


def _plot_binary_source(table: Path) -> Path:
    """R(D) of a binary source: the points of 30 slopes on the closed form."""
    plt = _pyplot()
    points = _columns(read_rows(table))
    figure, axis = plt.subplots(figsize=(4.5, 3.4))
    distortion = np.linspace(0.0, 0.25, 400)
    p = BINARY_SOURCE[1]
    axis.plot(distortion, bernoulli_hamming_rd(p, distortion), color="0.6", label=f"h({p}) - h(D)")
    axis.plot(points["distortion"], points["rate_nats"], "o", color=_COLOURS[0], markersize=4, label="Blahut-Arimoto")
    axis.set(xlabel="distortion (probability of error)", ylabel="rate (nats)", title=f"binary source, p = {p}")
    axis.legend()
    return _save(plt, figure, table.with_suffix(".png"))


def _plot_learned(table: Path, curves: Path) -> Path:
    """Learned points and the exact curve (above), and their distance in nats (below), one column a source."""
    plt = _pyplot()
    points, exact = (_grouped(read_rows(path), lambda row: row["source"]) for path in (table, curves))
    figure, axes = plt.subplots(
        2, len(exact), figsize=(3.0 * len(exact), 5.2), height_ratios=(2, 1), sharex="col", squeeze=False
    )
    for (upper, lower), (source, curve) in zip(axes.T, exact.items(), strict=True):
        curve = _columns(curve)
        upper.plot(curve["distortion"], curve["rate_nats"], color="0.6", label="exact R(D)")
        for i, (channel, members) in enumerate(_grouped(points.get(source, []), lambda row: row["channel"]).items()):
            learned = _columns(members)
            look = {"color": _COLOURS[i], "marker": _MARKERS[i], "linestyle": "none", "markersize": 4, "label": channel}
            upper.errorbar(learned["distortion"], learned["rate_nats"], learned["rate_se"], learned["distortion_se"], **look)
            lower.errorbar(learned["distortion"], learned["excess_nats"], learned["excess_se"], **look)
        lower.axhline(0.0, color="0.6")
        upper.set(title=source, xscale="log")
        lower.set(xlabel="distortion")
    axes[0, 0].set(ylabel="rate (nats)")
    axes[1, 0].set(ylabel="rate - R(D) (nats)")
    axes[0, 0].legend()
    return _save(plt, figure, table.with_suffix(".png"))


def _plot_exactness(estimates: Path, saturation: Path) -> Path:
    """Left: estimates of I(X; Z) over the formula, with two standard errors. Right: information of finitely many values."""
    plt = _pyplot()
    rows = read_rows(estimates)
    values = _columns(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.24 * len(rows) + 1.2), width_ratios=(1, 1))
    ratios = values["estimate_nats"] / values["formula_nats"]
    colours = [_COLOURS[1] if row["replace"] == "True" else _COLOURS[0] for row in rows]
    places = np.arange(len(rows))[::-1]
    for ratio, error, place, colour in zip(
        ratios, values["estimate_se"] / values["formula_nats"], places, colours, strict=True
    ):
        left.errorbar(ratio, place, xerr=2 * error, fmt="o", color=colour, markersize=4)
    left.axvline(1.0, color="0.6")
    left.set_yticks(places, [_exactness_label(row) for row in rows], fontsize=7)
    left.set(xlabel="estimate of I(X; Z) / (-E log s)", title="without (blue) and with replacement (red)")
    left.grid(axis="y", visible=False)
    for i, (points, members) in enumerate(_grouped(read_rows(saturation), lambda row: int(row["points"])).items()):
        learned = _columns(members)
        right.plot(learned["formula_nats"], learned["information_nats"], _MARKERS[i], color=_COLOURS[i], label=f"N = {points}")
        right.axhline(np.log(points), color=_COLOURS[i], linestyle=":", linewidth=1)
    right.axline((0, 0), slope=1, color="0.6", label="-log s")
    right.set(xlabel="-log s (nats)", ylabel="I(X; Z) (nats)", title="x takes N values; dotted: log N", ylim=(0, None))
    right.legend()
    return _save(plt, figure, estimates.with_suffix(".png"))


def _exactness_label(row: dict) -> str:
    return f"{row['case']}; {row['estimator'].replace('_', ' ')}; {row['sampler']}, d = {row['d_max']}, B = {row['batch']}"


def _columns(rows: list[dict]) -> dict[str, np.ndarray]:
    """Numerical columns of the rows of a CSV file, by name."""
    columns = {}
    for name in rows[0]:
        try:
            columns[name] = np.array([float(row[name]) for row in rows])
        except ValueError:
            continue
    return columns
