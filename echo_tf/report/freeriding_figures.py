"""Table and figures of the experiment `freeriding`. Reads its CSV files and pictures only."""

from pathlib import Path

import numpy as np

from echo_tf.errors import ResultError
from echo_tf.experiments.used import pictures_name
from echo_tf.report.names import beta_or_target, dataset_title, plain_title
from echo_tf.report.rows import grouped, over_seeds
from echo_tf.report.style import legend_below, method_look, pyplot, save
from echo_tf.report.table import Column, Table, make_table

_SETTING = ("dataset", "method", "split", "epochs", "target")
_NUMBERS = ("rate_nats", "distortion_nats", "neg_elbo_nats", "used_nats", "certain_nats", "shuffled_nats")
_PANELS = (("beta", "rate_nats"), ("rate_nats", "neg_elbo_nats"), ("rate_nats", "used_nats"))
_NAMES = {"beta": "β", "rate_nats": "rate", "neg_elbo_nats": "-ELBO", "used_nats": "nats that the decoder takes from z"}
_ENDING = "_pixelcnn"
_TOLD_APART = float(np.log(257))  # nats: what an image and 256 others can say for certain


def _name(method: str) -> str:
    return plain_title(method) + ("" if method.endswith(_ENDING) else ", decoder of z alone")


def settings(rows: list[dict]) -> list[dict]:
    """One row a setting, means over its seeds; models that were held to a target have betas of their own."""
    fixed, held = ([row for row in rows if bool(row["target"]) == is_held] for is_held in (False, True))
    return [*over_seeds(fixed, (*_SETTING, "beta"), _NUMBERS), *over_seeds(held, _SETTING, (*_NUMBERS, "beta"))]


def used_table(rows: list[dict]) -> Table | None:
    """What each decoder takes from `z`; `None` without any."""

    def measured(title: str, key: str) -> Column:
        def show(row):
            shown = f"{row[key]:.2f}" + ("" if row[f"{key}_se"] is None else f" ± {row[f'{key}_se']:.2f}")
            return f"({shown})" if key == "used_nats" and row[key] > _TOLD_APART else shown

        return Column(title, show, f"{key} {key}_se")

    columns = (
        Column("data", lambda row: dataset_title(row["dataset"]), "dataset"),
        Column("method", lambda row: _name(row["method"]), "method"),
        Column("images", lambda row: "" if row["split"] == "test" else row["split"], "split"),
        Column("epochs", "{epochs}", "epochs"),
        Column("held to", "{target}", "target"),
        Column("beta", "{beta:.3g}", "beta"),
        Column("seeds", "{seeds}", "seeds"),
        *(measured(title, key) for key, title in zip(_NUMBERS[:3], ("rate", "distortion", "-ELBO"), strict=True)),
        measured("used", "used_nats"),
        measured("used for certain", "certain_nats"),
        measured("a wrong z costs", "shuffled_nats"),
    )
    notes = [
        "Nats an image. used: what the decoder takes from z, log p(x|z) with the z of the image less the logarithm of the mean "
        "of p(x|z) with the z of 256 others. Numbers in brackets are too large by an amount that is not known, and may exceed "
        "the rate: 256 others can tell log 257 = 5.55 nats apart. used for certain: a lower bound of I(X; Z) from the same "
        "numbers, never above 5.55. a wrong z costs: by how much the distortion rises with the z of another image. A decoder "
        "that does not listen to z has 0 in all three.",
        "± is the standard error over seeds; of a single one that over images, where it is given.",
    ]
    return make_table("freeriding", "What powerful decoders take from z", columns, settings(rows), notes)


def plot_used(rows: list[dict], path: Path) -> Path:
    """Rate over beta, -ELBO over rate, and what the decoder takes from `z` over rate, for one data set."""
    shown = settings(rows)
    figure, axes = pyplot().subplots(1, 3, figsize=(9.6, 3.9))
    floor = max(row["rate_floor_nats"] for row in rows)
    most = max([floor, *(row["rate_nats"] for row in shown)])
    for (method, target), members in grouped(shown, lambda row: (row["method"], row["target"])).items():
        members = sorted(members, key=lambda row: row["beta"])
        is_powerful = method.endswith(_ENDING)
        filled = "none" if not is_powerful else "left" if target else "full"
        look = method_look(method.removesuffix(_ENDING)) | {"fillstyle": filled, "markerfacecoloralt": "white"}
        name = _name(method) + (f", held to {target}" if target else "")
        for axis, keys in zip(axes, _PANELS, strict=True):
            points = ([row[key] for row in members] for key in keys)
            line = "-" if filled == "full" else "none"
            axis.errorbar(*points, yerr=_errors(members, keys[1]), linestyle=line, label=name, **look)
    for axis, keys in zip(axes, _PANELS, strict=True):
        axis.set(xlabel=_NAMES[keys[0]] + (" (nats)" if keys[0] != "beta" else ""), ylabel=f"{_NAMES[keys[1]]} (nats)")
    betas = sorted({row["beta"] for row in shown if not row["target"]} or {float(f"{row['beta']:.2g}") for row in shown})
    axes[0].set_xscale("log")
    axes[0].set_xticks(betas, [f"{beta:g}" for beta in betas])
    axes[0].minorticks_off()
    if floor:
        axes[0].axhline(floor, color="0.5", linestyle="--", linewidth=0.9, label="Echo's floor")
        for axis in axes[1:]:
            axis.axvline(floor, color="0.5", linestyle="--", linewidth=0.9)
    axes[2].plot([0.0, most], [0.0, most], color="0.5", linestyle=":", label="all of the rate is used")
    limits = axes[2].get_ylim()
    axes[2].axhspan(_TOLD_APART, max(limits[1], _TOLD_APART), color="0.93", linewidth=0, label="too large by an unknown amount")
    axes[2].set_ylim(limits)
    legend_below(figure)
    figure.suptitle(f"{dataset_title(shown[0]['dataset'])}: what is sent, and what of it the decoder takes")
    return save(figure, path)


def _errors(rows: list[dict], key: str) -> list[float]:
    return [row[f"{key}_se"] or 0.0 for row in rows]


def plot_draws(folder: Path, rows: list[dict], path: Path) -> Path:
    """Images at the left, and draws of the decoder with their `z` fixed, a block for each setting of the first seed.

    Raises:
        ResultError: pictures are missing or damaged.
    """
    first = min(row["seed"] for row in rows)
    shown = [row for row in rows if row["seed"] == first]
    width = min(4, len(shown))
    height = -(-len(shown) // width)
    figure, axes = pyplot().subplots(height, width, figsize=(2.6 * width, 1.75 * height + 0.5), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for axis, row in zip(axes.ravel(), shown, strict=False):
        originals, draws = _pictures(folder / pictures_name(row))
        framed = np.pad(np.concatenate([originals[:, None], draws], axis=1).astype(float), [(0, 0)] * 2 + [(1, 0)] * 2)
        framed[:, :, 0, :] = framed[:, :, :, 0] = 0.35
        axis.imshow(np.concatenate([np.concatenate(list(line), axis=1) for line in framed]), cmap="gray", vmin=0, vmax=1)
        axis.axvline(framed.shape[3] - 0.5, color="#D55E00", linewidth=2.0)
        taken = f"rate {row['rate_nats']:.1f}, used {row['used_nats']:.1f}"
        axis.set_title(f"{_name(row['method'])}, {beta_or_target(row)}\n{taken}", fontsize=8)
    figure.suptitle(f"{dataset_title(rows[0]['dataset'])}: an image, and draws with its z fixed (right of the line)")
    return save(figure, path)


def _pictures(source: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(source, allow_pickle=False) as arrays:
            return arrays["originals"], arrays["draws"]
    except Exception as error:  # NumPy and zipfile fail in many ways
        raise ResultError(f"{source} cannot be read ({error!r}). Delete {source.parent}, and run the same again.") from None
