"""Comparison of results on disk with the paper: grouping over seeds, verdicts, tables. Reads files only, no models."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from echo_tf.config import CONFIG_DIR, DATASETS, config_from_dict, flatten, load_config
from echo_tf.echo import max_scale
from echo_tf.experiments import result_path
from echo_tf.files import write_atomically
from echo_tf.statistics import standard_error

QUANTITIES = ("rate_nats", "distortion_nats", "neg_elbo_nats")
SPLITS = ("test", "validation")
TOLERANCE_NATS = 1.0

NOT_COMPARABLE = "not comparable"
AGREES = "agrees"
DIFFERS = "differs"


@dataclass(frozen=True)
class Row:
    """Results of one setting over its seeds, beside the paper's.

    `mean` and `se` are in nats by quantity. `se` is the standard error over seeds; of a single seed it is that of its own
    evaluation (noise only). `paper` is `None` where the paper has no such row. `unused_dimensions` counts, for Echo and on
    average over seeds, the latent dimensions at no more than twice the rate floor, and `unused_nats` is their rate.
    `approximate` marks an Echo rate whose formula holds only approximately, because its echoes were repeated: with
    replacement from fewer than `20 / (1 - r)` examples, or from batches of at most `d_max`. `importance_bound_nats` is the mean
    over seeds of the bound of `-log p(x)` from `passes` samples, for channels with a density.
    """

    dataset: str
    method: str
    protocol: str
    epochs: int
    beta: float
    split: str
    seeds: tuple[int, ...]
    mean: dict[str, float]
    se: dict[str, float]
    paper: dict[str, float] | None
    difference_nats: float | None
    verdict: str
    dtype_policy: str
    source: str
    holdout: int
    approximate: bool
    unused_dimensions: float | None
    unused_nats: float | None
    importance_bound_nats: float | None
    passes: int | None


def paper_table() -> dict[str, dict[str, dict[str, float]]]:
    """The paper's table 2 by data set and method, nats at beta = 1."""
    return yaml.safe_load((CONFIG_DIR / "paper.yaml").read_text(encoding="utf-8"))["table_2"]


class ResultError(RuntimeError):
    """A result file that cannot be read; the message names it."""


def read_results(out: Path) -> list[dict]:
    """All results below `out`, in the order of their paths; each carries its folder as `folder`.

    Raises:
        ResultError: a file that is no result.
    """
    folders = sorted(path for path in out.glob("*/*/*") if path.is_dir())
    paths = [path for folder in folders for split in SPLITS if (path := result_path(folder, split)).exists()]
    return [_read_result(path) for path in paths]


def _read_result(path: Path) -> dict:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        config_from_dict(result["config"])
        complete = all(math.isfinite(result[quantity][part]) for quantity in QUANTITIES for part in ("mean", "se"))
        if not complete or not {"dataset", "split", "holdout", "source"} <= result.keys():
            raise ValueError("incomplete")
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(
            f"{path} is not a result of this program ({error!r}). Delete it; its cell is then made anew."
        ) from None
    return result | {"folder": str(path.parent)}


def compare(results: list[dict]) -> list[Row]:
    """Group results that differ in their seed only, and hold each group against the paper.

    The verdict concerns -ELBO: it agrees if `|ours - paper| <= max(1 nat, 2 se)`. Only the paper's protocol, schedule and
    data are compared, with every setting at its default but the dtype policy; all else is not comparable.
    """
    groups: dict[str, list[dict]] = {}
    for result in results:
        setting = asdict(config_from_dict(result["config"]))
        del setting["seed"]
        key = json.dumps([result["dataset"], result["split"], result["holdout"], result["source"], setting], sort_keys=True)
        groups.setdefault(key, []).append(result)
    rows = [_make_row(group) for group in groups.values()]
    order = {name: i for i, name in enumerate(DATASETS)}
    return sorted(rows, key=lambda row: (order[row.dataset], row.split, row.epochs, row.beta, row.method))


def _make_row(group: list[dict]) -> Row:
    first = group[0]
    config = first["config"]
    mean, se = {}, {}
    for quantity in QUANTITIES:
        values = [result[quantity]["mean"] for result in group]
        mean[quantity] = float(np.mean(values))
        se[quantity] = standard_error(values) if len(values) > 1 else first[quantity]["se"]

    paper = paper_table().get(first["dataset"], {}).get(config["method"]) if config["beta"] == 1 else None
    difference, verdict = None, NOT_COMPARABLE
    if paper is not None:
        difference = mean["neg_elbo_nats"] - paper["neg_elbo_nats"]
        if _is_paper_setting(first):
            agrees = abs(difference) <= max(TOLERANCE_NATS, 2 * se["neg_elbo_nats"])
            verdict = AGREES if agrees else DIFFERS

    unused_dimensions = unused_nats = None
    if "rate_by_dimension_nats" in first:
        rates = np.array([result["rate_by_dimension_nats"] for result in group])  # (seeds, dim)
        unused = rates <= 2 * first["rate_floor_nats"] / rates.shape[1]
        unused_dimensions, unused_nats = float(unused.sum(1).mean()), float((rates * unused).sum(1).mean())
    importance_bound = None
    if all("importance_bound_nats" in result and result["passes"] == first["passes"] for result in group):
        importance_bound = float(np.mean([result["importance_bound_nats"]["mean"] for result in group]))
    return Row(
        dataset=first["dataset"],
        method=config["method"],
        protocol=config["protocol"],
        epochs=config["training"]["epochs"],
        beta=config["beta"],
        split=first["split"],
        seeds=tuple(sorted(result["config"]["seed"] for result in group)),
        mean=mean,
        se=se,
        paper=paper,
        difference_nats=difference,
        verdict=verdict,
        dtype_policy=config["training"]["dtype_policy"],
        source=first["source"],
        holdout=first["holdout"],
        approximate=_is_approximate(config),
        unused_dimensions=unused_dimensions,
        unused_nats=unused_nats,
        importance_bound_nats=importance_bound,
        passes=first.get("passes"),
    )


def _is_approximate(config: dict) -> bool:
    channel, batch_size = config["channel"], config["training"]["batch_size"]
    if channel["kind"] != "echo":
        return False
    needed = 20 / (1 - max_scale(channel["d_max"])) if channel["replace"] else channel["d_max"] + 1
    return batch_size < needed


def _is_paper_setting(result: dict) -> bool:
    free = ("seed", "training.dtype_policy")
    config = config_from_dict(result["config"])
    found, default = flatten(config), flatten(load_config(config.method, dataset=result["dataset"]))
    same = all(found[key] == default[key] for key in default if key not in free)
    return same and result["split"] == "test" and result["holdout"] == 0 and result["source"] == "original"


_HEADER = (
    "data",
    "method",
    "epochs",
    "beta",
    "seeds",
    "rate",
    "distortion",
    "-ELBO",
    "IS bound",
    "paper",
    "difference",
    "verdict",
    "unused",
)


def _cells(row: Row) -> tuple[str, ...]:
    def value(quantity):
        return f"{row.mean[quantity]:.2f} ± {row.se[quantity]:.2f}"

    data = row.dataset + ("*" if row.source == "reconstruction" else "") + (" (valid.)" if row.split != "test" else "")
    data += f" -{row.holdout}" if row.holdout else ""
    return (
        data,
        row.method,
        str(row.epochs),
        f"{row.beta:g}",
        str(len(row.seeds)),
        ("≈ " if row.approximate else "") + value("rate_nats"),
        value("distortion_nats"),
        value("neg_elbo_nats"),
        "" if row.importance_bound_nats is None else f"{row.importance_bound_nats:.2f} ({row.passes})",
        "" if row.paper is None else " / ".join(f"{row.paper[quantity]:.1f}" for quantity in QUANTITIES),
        "" if row.difference_nats is None else f"{row.difference_nats:+.2f}",
        row.verdict,
        "" if row.unused_dimensions is None else f"{row.unused_dimensions:.1f} ({row.unused_nats:.2f})",
    )


def _notes(rows: list[Row]) -> list[str]:
    notes = [
        "Nats per example. ± is the standard error over seeds; of a single seed, that of its evaluation (noise only).",
        "paper: rate / distortion / -ELBO; diff.: of -ELBO. Compared are only 200 epochs of the paper's protocol, schedule and "
        "data on the test set.",
    ]
    if any(row.importance_bound_nats is not None for row in rows):
        notes.append(
            "IS bound: importance-sampled upper bound of -log p(x) (number of samples); no likelihood where images are grey. "
            "Echo has no density q(z|x)."
        )
    if any(row.unused_dimensions is not None for row in rows):
        notes.append("unused: Echo dimensions at no more than twice the rate floor, and the rate that they cost.")
    if any(row.source == "reconstruction" for row in rows):
        notes.append("* Omniglot from a reconstruction of chardata.mat, not from the published file.")
    if any(row.split != "test" for row in rows):
        notes.append("(valid.): measured on validation images; the test set was not read.")
    if any(row.holdout for row in rows):
        notes.append("A number behind the data set: so many training images were held out.")
    if any(row.approximate for row in rows):
        notes.append("≈: echoes were repeated, so that the formula of the rate is approximate.")
    policies = sorted({row.dtype_policy for row in rows})
    protocols = sorted({row.protocol for row in rows})
    notes.append(f"Protocol: {', '.join(protocols)}. Networks in {', '.join(policies)}; channel and losses in float32.")
    return notes


def text_table(rows: list[Row]) -> str:
    """The comparison for a terminal."""
    lines = [_HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([body[0], "-" * len(body[0]), *body[1:], "", *_notes(rows)])


def markdown_table(rows: list[Row]) -> str:
    """The comparison as Markdown."""
    lines = [_HEADER, ("---",) * len(_HEADER), *(_cells(row) for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {note}" for note in _notes(rows)) + "\n"


def write_tables(rows: list[Row], folder: Path) -> list[Path]:
    """Write `comparison.md` and `comparison.json`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "comparison.md", folder / "comparison.json"]
    write_atomically(paths[0], markdown_table(rows))
    write_atomically(paths[1], json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return paths
