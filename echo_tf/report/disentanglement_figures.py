"""Table and figures of the experiment `disentanglement`. Reads its CSV files and pictures only."""

from pathlib import Path

import numpy as np

from echo_tf.errors import ResultError
from echo_tf.experiments.scores import pictures_name
from echo_tf.report.names import beta_or_target, dataset_title, plain_title
from echo_tf.report.rows import grouped, over_seeds
from echo_tf.report.style import legend_below, method_look, pyplot, save
from echo_tf.report.table import Column, Table, make_table, plain_columns
from echo_tf.report.tables import BETA_OF_POINT

SCORES = {
    "factor_vae": "FactorVAE",
    "mig": "MIG",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "total_correlation_nats": "total correlation",
}
_SETTING = ("dataset", "method", "epochs", "beta", "target", "codes")


def scores_table(rows: list[dict]) -> Table | None:
    """Scores of every setting; `None` without any."""

    def measured(title: str, key: str) -> Column:
        def show(row):
            return f"{row[key]:.2f}" + ("" if row[f"{key}_se"] is None else f" ± {row[f'{key}_se']:.2f}")

        return Column(title, show, f"{key} {key}_se")

    columns = (
        Column("data", lambda row: dataset_title(row["dataset"]), "dataset"),
        Column("method", lambda row: plain_title(row["method"]), "method"),
        *plain_columns("epochs"),
        BETA_OF_POINT,
        *plain_columns("seeds", "codes"),
        *(measured(title, key) for key, title in {"rate_nats": "rate", "active": "active", **SCORES}.items()),
    )
    notes = [
        "codes: what an image sends without noise (mean), or a draw of z (sample), with echoes from training examples. All "
        "scores are on images of all combinations of the factors. 1 is best but for the rate and the total correlation, which "
        "are in nats. FactorVAE: chance is about 0.2. active: dimensions with at least a share of 0.05 of the variance of z.",
        "total correlation: of a Gaussian with the covariance of the active dimensions. ± is the standard error over seeds.",
    ]
    return make_table(
        "disentanglement", "Disentanglement", columns, over_seeds(rows, _SETTING, ("rate_nats", "active", *SCORES)), notes
    )


def plot_scores(rows: list[dict], path: Path) -> Path:
    """Scores of the codes without noise against the rate, for one data set: a point a seed."""
    shown = [row for row in rows if row["codes"] == "mean"]
    figure, axes = pyplot().subplots(2, 3, figsize=(9.0, 6.0), sharex=True)
    methods = list(dict.fromkeys(row["method"] for row in shown))
    for axis, (key, name) in zip(axes.ravel(), SCORES.items(), strict=True):
        for (method, held), members in grouped(shown, lambda row: (row["method"], beta_or_target(row))).items():
            look = method_look(method, *methods) | {"alpha": 1.0 / (1.0 + 0.15 * max(members[0]["beta"] - 1.0, 0.0))}
            points = [[row["rate_nats"] for row in members], [row[key] for row in members]]
            axis.plot(*points, linestyle="none", label=f"{plain_title(method)}, {held}", **look)
        axis.set(ylabel=name + (" (nats)" if key.endswith("nats") else ""))
    for axis in axes[1]:
        axis.set(xlabel="rate (nats)")
    legend_below(figure)
    figure.suptitle(f"{dataset_title(shown[0]['dataset'])}: scores against rate")
    return save(figure, path)


def plot_traversals(folder: Path, rows: list[dict], path: Path) -> Path:
    """What the decoders make of single dimensions of `z`, a block for each setting of the first seed.

    Raises:
        ResultError: pictures are missing or damaged.
    """
    first = min(row["seed"] for row in rows)
    settings = list({(row["method"], row["cell"]): row for row in rows if row["seed"] == first}.values())
    width = 4
    height = -(-len(settings) // width)
    figure, axes = pyplot().subplots(height, width, figsize=(3.0 * width, 2.4 * height), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for axis, row in zip(axes.ravel(), settings, strict=False):
        source = folder / pictures_name(row["method"], row["cell"])
        if not source.exists():  # as earlier versions called it
            source = folder / "{method}-{epochs}-{beta}-{seed}.npz".format(**row)
        try:
            with np.load(source, allow_pickle=False) as arrays:
                images, rates = arrays["images"], arrays["rates"]
        except Exception as error:  # NumPy and zipfile fail in many ways
            raise ResultError(f"{source} cannot be read ({error!r}). Delete {folder}, and run the same again.") from None
        axis.imshow(np.concatenate([np.concatenate(list(row), axis=1) for row in images]), cmap="gray", vmin=0, vmax=255)
        for place, rate in enumerate(rates):
            axis.text(-4, (place + 0.5) * images.shape[2], f"{rate:.1f}", ha="right", va="center", fontsize=7)
        axis.set_title(f"{plain_title(row['method'])}, {beta_or_target(row)}", fontsize=9)
    figure.suptitle(f"{dataset_title(rows[0]['dataset'])}: along the dimensions of highest rate (nats, at the left)")
    return save(figure, path)
