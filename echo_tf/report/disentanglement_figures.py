"""Table and figures of the experiment `disentanglement`. Reads its CSV files and pictures only."""

from pathlib import Path

from echo_tf.report.names import dataset_title, plain_title
from echo_tf.report.pictures import mosaic, panels, read_pictures
from echo_tf.report.rows import grouped, over_seeds
from echo_tf.report.style import headed, method_look, pyplot, save
from echo_tf.report.table import Column, Table, measured, plain_columns
from echo_tf.report.words import told_table

SCORES = {
    "factor_vae": "FactorVAE",
    "mig": "MIG",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "total_correlation_nats": "total correlation",
}
_SETTING = ("dataset", "method", "epochs", "beta", "codes")


def scores_table(rows: list[dict]) -> Table | None:
    """Scores of every setting; `None` without any."""
    columns = (
        Column("data", lambda row: dataset_title(row["dataset"]), "dataset"),
        Column("method", lambda row: plain_title(row["method"]), "method"),
        *plain_columns("epochs"),
        Column("beta", "{beta:g}", "beta"),
        *plain_columns("seeds", "codes"),
        *(measured(title, key) for key, title in {"rate_nats": "rate", "active": "active", **SCORES}.items()),
    )
    return told_table("disentanglement", columns, over_seeds(rows, _SETTING, ("rate_nats", "active", *SCORES)))


def plot_scores(rows: list[dict], path: Path) -> Path:
    """Scores of the codes without noise against the rate, for one data set: a point a seed."""
    shown = [row for row in rows if row["codes"] == "mean"]
    figure, axes = pyplot().subplots(2, 3, figsize=(9.0, 6.0), sharex=True)
    methods = list(dict.fromkeys(row["method"] for row in shown))
    for axis, (key, name) in zip(axes.ravel(), SCORES.items(), strict=True):
        for (method, beta), members in grouped(shown, lambda row: (row["method"], row["beta"])).items():
            look = method_look(method, *methods) | {"alpha": 1.0 / (1.0 + 0.15 * max(beta - 1.0, 0.0))}
            points = [[row["rate_nats"] for row in members], [row[key] for row in members]]
            axis.plot(*points, linestyle="none", label=f"{plain_title(method)}, β = {beta:g}", **look)
        axis.set(ylabel=name + (" (nats)" if key.endswith("nats") else ""))
    for axis in axes[1]:
        axis.set(xlabel="rate (nats)")
    return save(headed(figure, f"{dataset_title(shown[0]['dataset'])}: scores against rate"), path)


def plot_traversals(folder: Path, rows: list[dict], path: Path) -> Path:
    """What the decoders make of single dimensions of `z`, a block for each setting of the first seed.

    Raises:
        ResultError: pictures are missing or damaged.
    """
    first = min(row["seed"] for row in rows)
    settings = list(dict.fromkeys((r["method"], r["epochs"], r["beta"], r["seed"]) for r in rows if r["seed"] == first))
    heading = f"{dataset_title(rows[0]['dataset'])}: along the dimensions of highest rate (nats, at the left)"
    figure, axes = panels(len(settings), 3.0, 2.4, heading)
    for axis, setting in zip(axes, settings, strict=False):
        images, rates = read_pictures(folder / f"{'-'.join(map(str, setting))}.npz", "images", "rates")
        axis.imshow(mosaic(images), cmap="gray", vmin=0, vmax=255)
        for place, rate in enumerate(rates):
            axis.text(-4, (place + 0.5) * images.shape[2], f"{rate:.1f}", ha="right", va="center", fontsize=7)
        axis.set_title(f"{plain_title(setting[0])}, β = {setting[2]:g}", fontsize=9)
    return save(figure, path)
