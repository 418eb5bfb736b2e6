"""Table and figures of the experiment `freeriding`. Reads its CSV files and pictures only."""

from pathlib import Path

import numpy as np

from echo_tf.experiments.used import pictures_name
from echo_tf.report.names import beta_or_target, dataset_title, point_title, told_apart, without_seed
from echo_tf.report.pictures import mosaic, panels, read_pictures
from echo_tf.report.rows import first_seeds, grouped, over_seeds
from echo_tf.report.style import FILLS, headed, method_look, pyplot, save
from echo_tf.report.table import Column, Table, measured, plain_columns
from echo_tf.report.tables import DATA_OF_POINT, EPOCHS, SPLIT_OF_POINT
from echo_tf.report.words import told_table

_SETTING = ("dataset", "method", "split", "epochs", "target")
_NUMBERS = ("rate_nats", "distortion_nats", "neg_elbo_nats", "used_nats", "certain_nats", "shuffled_nats")
_PANELS = (("beta", "rate_nats"), ("rate_nats", "neg_elbo_nats"), ("rate_nats", "used_nats"))
_NAMES = {"beta": "β", "rate_nats": "rate", "neg_elbo_nats": "-ELBO", "used_nats": "nats that the decoder takes from z"}
_ENDING = "_pixelcnn"
_TOLD_APART = float(np.log(257))  # nats: what an image and 256 others can say for certain


def _name(row: dict) -> str:
    return point_title(row) + ("" if row["method"].endswith(_ENDING) else ", decoder of z alone")


def _pictures(folder: Path, row: dict) -> Path:
    """The draws of the decoder of the model of a row."""
    return folder / pictures_name(row)


def settings(rows: list[dict]) -> list[dict]:
    """One row a setting, means over its seeds; models that were held to a target have betas of their own."""
    fixed, held = ([row for row in rows if bool(row["target"]) == is_held] for is_held in (False, True))
    return [*over_seeds(fixed, (*_SETTING, "beta"), _NUMBERS), *over_seeds(held, _SETTING, (*_NUMBERS, "beta"))]


def used_table(rows: list[dict]) -> Table | None:
    """What each decoder takes from `z`; `None` without any."""
    text = measured("used", "used_nats").text
    columns = (
        DATA_OF_POINT,
        Column("method", _name, "method cell"),
        *(SPLIT_OF_POINT, EPOCHS),
        Column("held to", "{target}", "target"),
        Column("beta", "{beta:.3g}", "beta"),
        *plain_columns("seeds"),
        *(measured(title, key) for key, title in zip(_NUMBERS[:3], ("rate", "distortion", "-ELBO"), strict=True)),
        Column("used", lambda row: f"({text(row)})" if row["used_nats"] > _TOLD_APART else text(row), "used_nats used_nats_se"),
        measured("used for certain", "certain_nats"),
        measured("a wrong z costs", "shuffled_nats"),
    )
    return told_table("freeriding", columns, settings(rows))


def plot_used(rows: list[dict], path: Path) -> Path:
    """Rate over beta, -ELBO over rate, and what the decoder takes from `z` over rate, for one data set."""
    shown = settings(rows)
    figure, axes = pyplot().subplots(1, 3, figsize=(9.6, 3.9))
    floor = max(row["rate_floor_nats"] for row in rows)
    most = max([floor, *(row["rate_nats"] for row in shown)])

    def label(row):
        return _name(row) + (f", held to {row['target']}" if row["target"] else "") + told_apart(row, shown)

    fills: dict[str, list[str]] = {}  # of the settings of one colour, so that no two are alike
    for name, members in grouped(shown, label).items():
        members = sorted(members, key=lambda row: row["beta"])
        method, target = members[0]["method"], members[0]["target"]
        usual = "none" if not method.endswith(_ENDING) else "left" if target else "full"
        taken = fills.setdefault(method.removesuffix(_ENDING), [])
        filled = next((fill for fill in (usual, *FILLS) if fill not in taken), usual)
        taken.append(filled)
        look = method_look(method.removesuffix(_ENDING)) | {"fillstyle": filled, "markerfacecoloralt": "white"}
        for axis, keys in zip(axes, _PANELS, strict=True):
            points = ([row[key] for row in members] for key in keys)
            errors = [row[f"{keys[1]}_se"] or 0.0 for row in members]
            axis.errorbar(*points, yerr=errors, linestyle="-" if usual == "full" else "none", label=name, **look)
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
    return save(headed(figure, f"{dataset_title(shown[0]['dataset'])}: what is sent, and what of it the decoder takes"), path)


def plot_draws(folder: Path, rows: list[dict], path: Path) -> Path | None:
    """Images at the left, and draws of the decoder with their `z` fixed, a block for each setting, of its first seed.

    Models without draws are left out; `None` if none has any.

    Raises:
        ResultError: pictures are damaged.
    """
    drawn = [row for row in rows if _pictures(folder, row).exists()]
    if not drawn:
        return None
    shown = first_seeds(drawn, lambda row: (row["method"], without_seed(row["cell"]), row["split"]))
    heading = f"{dataset_title(rows[0]['dataset'])}: an image, and draws with its z fixed (right of the line)"
    figure, axes = panels(len(shown), 2.6, 1.75, heading)
    for axis, row in zip(axes, shown, strict=False):
        originals, draws = read_pictures(_pictures(folder, row), "originals", "draws")
        framed = np.pad(np.concatenate([originals[:, None], draws], axis=1).astype(float), [(0, 0)] * 2 + [(1, 0)] * 2)
        framed[:, :, 0, :] = framed[:, :, :, 0] = 0.35
        axis.imshow(mosaic(framed), cmap="gray", vmin=0, vmax=1)
        axis.axvline(framed.shape[3] - 0.5, color="#D55E00", linewidth=2.0)
        taken = f"rate {row['rate_nats']:.1f}, used {row['used_nats']:.1f}"
        axis.set_title(f"{_name(row)}, {beta_or_target(row)}{told_apart(row, shown)}\n{taken}", fontsize=8)
    return save(figure, path)
