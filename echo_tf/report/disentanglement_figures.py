"""Table and figures of the experiment `disentanglement`. Reads its CSV files and pictures only."""

from pathlib import Path

from echo_tf.experiments.scores import pictures_name
from echo_tf.report.names import beta_or_target, dataset_title, point_title, told_apart, without_seed
from echo_tf.report.pictures import mosaic, panels, read_pictures
from echo_tf.report.rows import first_seeds, grouped, over_seeds
from echo_tf.report.style import FILLS, headed, method_look, pyplot, save
from echo_tf.report.table import Column, Table, measured, plain_columns
from echo_tf.report.tables import BETA_OF_POINT, DATA_OF_POINT, EPOCHS
from echo_tf.report.words import told_table

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
    columns = (
        DATA_OF_POINT,
        Column("method", point_title, "method cell"),
        *(EPOCHS, BETA_OF_POINT, *plain_columns("seeds", "codes")),
        *(measured(title, key) for key, title in {"rate_nats": "rate", "active": "active dimensions", **SCORES}.items()),
    )
    return told_table("disentanglement", columns, over_seeds(rows, _SETTING, ("rate_nats", "active", *SCORES)))


def plot_scores(rows: list[dict], path: Path) -> Path:
    """Scores of the codes without noise against the rate, for one data set: a point a seed."""
    shown = [row for row in rows if row["codes"] == "mean"]
    figure, axes = pyplot().subplots(2, 3, figsize=(9.0, 6.0), sharex=True)
    methods = list(dict.fromkeys(row["method"] for row in shown))

    def label(row):
        return f"{point_title(row)}, {beta_or_target(row)}{told_apart(row, shown)}"

    settings = {method: list(dict.fromkeys(label(row) for row in shown if row["method"] == method)) for method in methods}
    for axis, (key, name) in zip(axes.ravel(), SCORES.items(), strict=True):
        for (method, setting), members in grouped(shown, lambda row: (row["method"], label(row))).items():
            filled = FILLS[settings[method].index(setting) % len(FILLS)]
            look = method_look(method, *methods) | {"fillstyle": filled, "markerfacecoloralt": "white"}
            points = [[row["rate_nats"] for row in members], [row[key] for row in members]]
            axis.plot(*points, linestyle="none", label=setting, **look)
        axis.set(ylabel=name + (" (nats)" if key.endswith("nats") else ""))
        axis.axhline(0.0, color="0.6", linewidth=0.8)  # so that small differences look small
    for axis in axes[1]:
        axis.set(xlabel="rate (nats)")
    heading = f"{dataset_title(shown[0]['dataset'])}: scores, of which 1 is best, and total correlation, against the rate"
    return save(headed(figure, heading), path)


def _pictures(folder: Path, row: dict) -> Path:
    """The traversals of the model of a row."""
    path = folder / pictures_name(row["method"], row["cell"])
    return path if path.exists() else folder / "{method}-{epochs}-{beta}-{seed}.npz".format(**row)  # as of earlier versions


def plot_traversals(folder: Path, rows: list[dict], path: Path) -> Path | None:
    """What the decoders make of single dimensions of `z`, a block for each setting, of its first seed.

    Models without pictures are left out; `None` if none has any.

    Raises:
        ResultError: pictures are damaged.
    """
    pictured = [row for row in rows if _pictures(folder, row).exists()]
    if not pictured:
        return None
    settings = first_seeds(pictured, lambda row: (row["method"], without_seed(row["cell"])))
    which = "Each row moves one dimension of z, and the others stay: those of highest rate (at the left, nats)"
    figure, axes = panels(len(settings), 3.0, 2.4, f"{dataset_title(rows[0]['dataset'])}\n{which}")
    for axis, row in zip(axes, settings, strict=False):
        images, rates = read_pictures(_pictures(folder, row), "images", "rates")
        axis.imshow(mosaic(images), cmap="gray", vmin=0, vmax=255)
        for place, rate in enumerate(rates):
            axis.text(-4, (place + 0.5) * images.shape[2], f"{rate:.1f}", ha="right", va="center", fontsize=7)
        axis.set_title(f"{point_title(row)}, {beta_or_target(row)}{told_apart(row, settings)}", fontsize=9)
    return save(figure, path)
