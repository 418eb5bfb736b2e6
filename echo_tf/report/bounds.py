"""What results say of the data: bounds of `-log p(x)`, of the entropy, and of what each model sends."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from echo_tf.experiments.records import Result
from echo_tf.report.looks import looks
from echo_tf.report.names import plain_title, stem, title
from echo_tf.report.rows import Row, grouped
from echo_tf.report.style import pyplot, save
from echo_tf.report.table import Column, Table, plain_columns
from echo_tf.report.tables import BETA_OF_POINT, EPOCHS, METHOD_OF_POINT
from echo_tf.report.words import told_table

_TEMPERATURES = Column("temperatures", "{temperatures} x {chains}", "temperatures chains")
_OF_MODEL = ("dataset", "method", "cell", "split", "fingerprint")


def with_likelihoods(rows: list[Row], points: list[dict]) -> list[Row]:
    """Rows with what annealed importance sampling found, the mean over seeds, where there is a point for every seed.

    Of several points of a model one with its own marginal counts, if there is any; of those the one with most images, and then
    with the longest chains.
    """

    def worth(point: dict) -> tuple:
        return point["marginal"] == "own", point["images"], point["temperatures"] * point["chains"]

    rising = sorted(points, key=worth)
    found = {tuple(point[name] for name in _OF_MODEL): point for point in rising}

    def of_model(one: Result) -> dict | None:
        """Its point; one of earlier versions has no fingerprint."""
        key = one.dataset, one.method, one.cell.folder(Path()).name, one.split
        return found.get((*key, one.cell.fingerprint)) or found.get((*key, ""))

    def annealed(row: Row) -> dict | None:
        own = [point for one in row.results if (point := of_model(one))]
        if len(own) < len(row.seeds) or len({point["images"] for point in own}) > 1:
            return None
        means = {key: float(np.mean([point[key] for point in own])) for key in ("neg_log_likelihood_nats", "lowered_nats")}
        return {**means, "images": own[0]["images"]}

    return [replace(row, annealed=annealed(row)) for row in rows]


def likelihood_table(points: list[dict]) -> Table | None:
    """`-log p(x)` of trained models by annealed importance sampling; `None` without any."""
    columns = (
        *plain_columns("dataset"),
        *(METHOD_OF_POINT, EPOCHS, BETA_OF_POINT),
        *plain_columns("seed", "split", "marginal", "images"),
        _TEMPERATURES,
        Column("-ELBO", "{neg_elbo_nats:.2f}", "neg_elbo_nats"),
        Column("-log p(x), AIS", "{value:.2f} ± {error:.2f}", "value=neg_log_likelihood_nats error=neg_log_likelihood_se"),
        Column("below -ELBO", "{lowered_nats:.2f} ± {lowered_se:.2f}", "lowered_nats lowered_se"),
        Column("gap", "{gap_nats:.2f} ± {gap_se:.2f}", "gap_nats gap_se simulated acceptance"),
    )
    return told_table("likelihood", columns, points)


def pairs_table(pairs: list[dict]) -> Table | None:
    """Differences of `-log p(x)` between models, image by image; `None` without any."""

    def model(title: str, which: str = "") -> Column:
        method, marginal = f"{which}method", f"{which}marginal"
        return Column(title, lambda row: f"{plain_title(row[method])}, {row[marginal]}", f"{method} {marginal}")

    columns = (
        *plain_columns("dataset", "cell", "split", "images"),
        _TEMPERATURES,
        *(model("model"), model("less", "other_")),
        Column("difference", "{difference_nats:+.2f} ± {difference_se:.2f}", "difference_nats difference_se"),
    )
    return told_table("likelihood_pairs", columns, pairs)


def entropy_bound(rows: Sequence[Row]) -> tuple[float, str]:
    """The least upper bound of the entropy of the data that rows of one data set give, in nats, and where it is from.

    `H <= -E log q(x)` for any density `q`; that of a model is bounded by -ELBO, by importance sampling, or by -ELBO less what
    annealing took off it, for as many images as it saw. A model whose rate may be too low gives none; one other is needed.
    """
    bounds = []
    for row, look in [pair for pair in zip(rows, looks(rows), strict=True) if pair[0].is_bound]:
        neg_elbo = row.mean["neg_elbo_nats"]
        bounds.append((neg_elbo, f"-ELBO of {look['label']}"))
        if row.importance_bound_nats is not None:
            bounds.append((row.importance_bound_nats, f"importance sampling, {look['label']}"))
        if row.annealed:
            bounds.append((neg_elbo - row.annealed["lowered_nats"], f"annealing, {look['label']}"))
    return min(bounds)


def plot_all_bounds(rows: list[Row], folder: Path) -> list[Path]:
    """A figure `bounds_*` for every data set, split and law of the decoder with two rows; returns their paths."""
    alike = grouped(rows, lambda row: (row.dataset, row.split, row.config.distortion.kind))
    paths = []
    for (dataset, split, law), members in alike.items():
        name = stem("bounds", dataset, *([] if law == "bernoulli" else [law]), split=split)
        if len(members) > 1 and any(row.is_bound for row in members):
            paths.append(plot_bounds(members, folder / f"{name}.png"))
    return paths


def plot_bounds(rows: list[Row], path: Path) -> Path:
    """Where the information `I(X; Z)` of every model lies, `H - D <= I <= R`, with an upper bound in the place of `H`.

    Left: rate and distortion; no model can be below the line `R + D = H`. Right: the interval of each.

    Args:
        rows: Of one data set, split and law of the decoder: a density has another entropy than pixels of 0 and 1.
        path: The PNG file.

    Source: Alemi et al. 2018, equation 4.
    """
    entropy, source = entropy_bound(rows)
    ranked = sorted(zip(rows, looks(rows), strict=True), key=lambda pair: pair[0].mean["rate_nats"])
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9.6, 0.26 * len(rows) + 3.4), width_ratios=(1, 1.1))
    for place, (row, look) in enumerate(ranked):
        rate, distortion = row.mean["rate_nats"], row.mean["distortion_nats"]
        colour, least = look["color"], max(entropy - distortion, 0.0)
        point = {"linestyle": "none", "color": colour, "marker": look["marker"]}
        point |= {} if row.has_exact_rate else {"markerfacecolor": "white"}
        left.plot(rate, distortion, clip_on=False, **point)
        right.plot([least, rate], [place, place], color=colour, linewidth=2, alpha=0.5)
        right.plot(least, place, "|", color=colour, markersize=9)
        right.plot(rate, place, **point)
    left.margins(0.15)
    (first, last), (bottom, _) = left.get_xlim(), left.get_ylim()
    rates = np.linspace(max(first, 0.0), last, 200)
    bottom = min(bottom, entropy - ranked[-1][0].mean["rate_nats"] - 1.0)  # so that the line is seen
    bottom = bottom if min(row.mean["distortion_nats"] for row in rows) < 0 else max(bottom, 0.0)  # densities exceed 1
    left.fill_between(rates, bottom, np.maximum(entropy - rates, bottom), color="0.92", linewidth=0)
    left.plot(rates, entropy - rates, color="0.4", label=f"R + D = H, with H ≤ {entropy:.1f} nats")
    left.set(xlabel="rate R (nats)", ylabel="distortion D (nats)", xlim=(rates[0], last), ylim=(bottom, None))
    left.legend(loc="upper right")
    right.set_yticks(range(len(rows)), [look["label"] for _, look in ranked])
    right.set(xlabel="I(X; Z) (nats), from H - D to R", ylim=(-0.7, len(rows) - 0.3))
    hollow = "an upper bound" if all(row.is_bound for row in rows) else "an upper bound, or approximate"
    figure.suptitle(f"{title(rows)}\nH: {source}. Filled: the rate is exact; hollow: {hollow}")
    return save(figure, path)
