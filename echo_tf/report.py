"""Comparison of results on disk with the paper: grouping over seeds, verdicts, tables. Reads files only, no models."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from echo_tf.analysis import Analysis
from echo_tf.config import DATASETS, available_methods, config_from_dict, flatten, load_config
from echo_tf.errors import ResultError
from echo_tf.experiments import analysis_path, damages, load_analysis, result_path
from echo_tf.files import write_atomically
from echo_tf.paper import paper_table, published
from echo_tf.statistics import standard_error
from echo_tf.tables import Table
from echo_tf.truncation import max_scale

QUANTITIES = ("rate_nats", "distortion_nats", "neg_elbo_nats")
SPLITS = ("test", "validation")
TOLERANCE_NATS = 1.0
PAPER_EPOCHS = 200

SECTION_BEGIN, SECTION_END = "<!-- results -->", "<!-- end of results -->"

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
    over seeds of the bound of `-log p(x)` from `passes` samples, for channels with a density. `target` names a constraint,
    under which `beta` is where training began and `final_beta` the mean of where it ended. `warm_start`: see `Cell`.
    `departures`: see `departures`.
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
    rate_floor_nats: float | None
    target: str
    final_beta: float | None
    warm_start: tuple[float, ...]
    departures: tuple[str, ...]

    @property
    def misses(self) -> bool:
        """Whether the paper's value was compared and missed."""
        return self.verdict == DIFFERS

    @property
    def setting(self) -> tuple:
        """What tells rows of one method on one data set apart, but for beta and the betas before it."""
        return (
            *(self.protocol, self.epochs, self.split, self.source, self.holdout, self.dtype_policy, self.target),
            self.departures,
        )

    @property
    def name(self) -> str:
        """The method with what is unusual about it."""
        unusual = ["released"] if self.protocol == "released" else []
        unusual += self.departures
        return self.method + (f" ({', '.join(unusual)})" if unusual else "")


def read_results(out: Path) -> list[dict]:
    """All results below `out`, in the order of their paths; each carries its folder as `folder`.

    Raises:
        ResultError: a file that is no result, or a result or its pictures damaged.
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
    for damaged, damage in damages(path.parent, result["split"]).items():
        raise ResultError(f"{damaged} is damaged ({damage}). Run its cell again, which makes the file anew.")
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
        origin = [result["dataset"], result["split"], result["holdout"], result["source"], result.get("warm_start", [])]
        key = json.dumps([origin, setting], sort_keys=True)
        groups.setdefault(key, []).append(result)
    rows = [_make_row(group) for group in groups.values()]
    order = {name: i for i, name in enumerate(DATASETS)}
    return sorted(rows, key=lambda row: (order[row.dataset], row.split, row.epochs, row.target, row.beta, row.method))


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
        rate_floor_nats=first.get("rate_floor_nats"),
        target=target_name(config),
        final_beta=float(np.mean([r["final_beta"] for r in group])) if "final_beta" in first else None,
        warm_start=tuple(first.get("warm_start", ())),
        departures=departures(first),
    )


def departures(result: dict) -> tuple[str, ...]:
    """Settings of a result that are not those of its method, `("d_max=49", "replicas=2")`, but for those with a column.

    Of a method that is not in `configs/` no settings are known, but that one replica is usual.
    """
    config = config_from_dict(result["config"])
    if config.method in available_methods():
        usual = load_config(config.method, dataset=result["dataset"], protocol=config.protocol)
    else:
        usual = replace(config, training=replace(config.training, replicas=1))
    with_column = ("seed", "beta", "training.epochs", "training.dtype_policy")
    found, expected = flatten(config), flatten(usual)
    keys = [key for key in found if key not in with_column and not key.startswith("constraint.")]
    return tuple(f"{key.rpartition('.')[2]}={found[key]}" for key in keys if found[key] != expected[key])


def target_name(config: dict) -> str:
    """`rate 20` for a configuration with that constraint, empty without one."""
    constraint = config.get("constraint", {"quantity": "none"})
    return "" if constraint["quantity"] == "none" else f"{constraint['quantity']} {constraint['target_nats']:g}"


def _is_approximate(config: dict) -> bool:
    channel = config["channel"]
    if channel["kind"] != "echo":
        return False
    # Of a batch that is split among replicas each has its share, but on JAX.
    batch_size = (config["training"]["batch_size"] + channel.get("pool", 0)) // config["training"].get("replicas", 1)
    needed = 20 / (1 - max_scale(channel["d_max"])) if channel["replace"] else channel["d_max"] + 1
    return batch_size < needed


def _is_paper_setting(result: dict) -> bool:
    config = result["config"]
    schedule = config["protocol"] == "paper" and config["training"]["epochs"] == PAPER_EPOCHS
    same = not departures(result) and not target_name(config) and not result.get("warm_start")
    return schedule and same and result["split"] == "test" and result["holdout"] == 0 and result["source"] == "original"


def comparison_table(rows: list[Row]) -> Table:
    """All results beside the paper's table 2."""
    return Table(
        "comparison", "Rate and distortion", _HEADER, [_cells(row) for row in rows], _notes(rows, _HEADER), _records(rows)
    )


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
    return (
        _data(row),
        row.name,
        str(row.epochs),
        _beta(row),
        str(len(row.seeds)),
        ("≈ " if row.approximate else "") + _plus_minus(row, "rate_nats"),
        _plus_minus(row, "distortion_nats"),
        _plus_minus(row, "neg_elbo_nats"),
        "" if row.importance_bound_nats is None else f"{row.importance_bound_nats:.2f} ({row.passes})",
        "" if row.paper is None else " / ".join(f"{row.paper[quantity]:.1f}" for quantity in QUANTITIES),
        "" if row.difference_nats is None else f"{row.difference_nats:+.2f}",
        row.verdict,
        "" if row.unused_dimensions is None else f"{row.unused_dimensions:.1f} ({row.unused_nats:.2f})",
    )


def _data(row: Row) -> str:
    data = row.dataset + ("*" if row.source == "reconstruction" else "") + (" (valid.)" if row.split != "test" else "")
    return data + (f" -{row.holdout}" if row.holdout else "")


def _beta(row: Row) -> str:
    if row.target:
        return f"{row.final_beta:.3g} ({row.target})"
    return f"{row.beta:g}" + (" ←" if row.warm_start else "")


def _plus_minus(row: Row, quantity: str) -> str:
    return f"{row.mean[quantity]:.2f} ± {row.se[quantity]:.2f}"


def _records(rows: list[Row]) -> list[dict]:
    """Rows with one number a column."""
    records = []
    for row in rows:
        record = asdict(row)
        for group, suffix in (("mean", ""), ("se", "_se")):
            record |= {quantity + suffix: value for quantity, value in record.pop(group).items()}
        paper = record.pop("paper") or {}
        record |= {f"paper_{quantity}": paper.get(quantity) for quantity in QUANTITIES}
        record |= {name: " ".join(f"{value:g}" for value in record[name]) for name in ("seeds", "warm_start")}
        records.append(record)
    return records


def _notes(rows: list[Row], header: tuple[str, ...]) -> list[str]:
    """What a reader of such rows must know, as far as these columns show it."""
    notes = ["Nats per example. ± is the standard error over seeds; of a single seed, that of its evaluation (noise only)."]
    if "difference" in header:
        notes.append(
            "paper: rate / distortion / -ELBO; difference: of -ELBO. Compared are only 200 epochs of the paper's protocol, "
            "schedule and data on the test set."
        )
    if "IS bound" in header and any(row.importance_bound_nats is not None for row in rows):
        notes.append(
            "IS bound: importance-sampled upper bound of -log p(x) (number of samples); no likelihood where images are grey. "
            "Echo has no density q(z|x)."
        )
    if "unused" in header and any(row.unused_dimensions is not None for row in rows):
        notes.append("unused: Echo dimensions at no more than twice the rate floor, and the rate that they cost.")
    if any(row.source == "reconstruction" for row in rows):
        notes.append("* Omniglot from a reconstruction of chardata.mat, not from the published file.")
    if any(row.split != "test" for row in rows):
        notes.append("(valid.): measured on validation images; the test set was not read.")
    if any(row.holdout for row in rows):
        notes.append("A number behind the data set: so many training images were held out.")
    if any(row.approximate for row in rows):
        notes.append("≈: echoes were repeated, so that the formula of the rate is approximate.")
    if any(row.target for row in rows):
        notes.append("A target behind beta: training found the beta that gives it.")
    if any(row.warm_start for row in rows):
        notes.append("←: training started from the model of the next smaller beta.")
    if any(row.departures for row in rows):
        notes.append("Behind a method: settings that are not its own.")
    policies = sorted({row.dtype_policy for row in rows})
    protocols = sorted({row.protocol for row in rows})
    notes.append(f"Protocol: {', '.join(protocols)}. Networks in {', '.join(policies)}; channel and losses in float32.")
    return notes


def replacement_table(rows: list[Row]) -> Table | None:
    """Echo with and without replacement at beta = 1, test -ELBO, beside the paper's; `None` without a pair of equal setting."""
    lines, records = [], []
    rows = [row for row in rows if row.beta == 1 and row.split == "test" and not row.warm_start]
    plain = {(row.dataset, row.setting): row for row in rows if row.method == "echo"}
    for row in rows:
        if row.method != "echo_replace" or (row.dataset, row.setting) not in plain:
            continue
        without = plain[row.dataset, row.setting]
        difference = row.mean["neg_elbo_nats"] - without.mean["neg_elbo_nats"]
        se = math.hypot(row.se["neg_elbo_nats"], without.se["neg_elbo_nats"])
        paper = published()["replacement"].get(row.dataset)
        lines.append(
            (
                _data(row),
                str(row.epochs),
                f"{len(without.seeds)}, {len(row.seeds)}",
                _plus_minus(without, "neg_elbo_nats"),
                _plus_minus(row, "neg_elbo_nats"),
                f"{difference:+.2f} ± {se:.2f}",
                "" if paper is None else f"{paper['without']:.1f} / {paper['with']:.1f}",
                "" if paper is None else f"{paper['with'] - paper['without']:+.1f}",
            )
        )
        records.append(
            {
                "dataset": row.dataset,
                "split": row.split,
                "epochs": row.epochs,
                "without_nats": without.mean["neg_elbo_nats"],
                "with_nats": row.mean["neg_elbo_nats"],
                "difference_nats": difference,
                "difference_se": se,
                "paper_without_nats": paper and paper["without"],
                "paper_with_nats": paper and paper["with"],
            }
        )
    if not lines:
        return None
    header = ("data", "epochs", "seeds", "without", "with", "difference", "paper", "paper's difference")
    notes = [
        "Test -ELBO of Echo at beta = 1 in nats, echoes drawn without and with replacement from the batch. With replacement "
        "the rate, and so the -ELBO, is approximate. ± is the standard error over seeds; of single seeds, that of their "
        "evaluation (noise only).",
        "paper: without / with, after 200 epochs.",
    ]
    return Table("replacement", "Echo with and without replacement", header, lines, notes, records)


def noise_table(analyses: list[tuple[dict, Analysis]]) -> Table | None:
    """Total correlation of the noise of every analysed Echo model, beside the paper's at beta = 1; `None` if there is none."""
    lines, records = [], []
    for result, analysis in analyses:
        if not len(analysis.total_correlation_nats):
            continue
        config = result["config"]
        value, se = (float(number) for number in analysis.total_correlation_nats)
        at_one = config["beta"] == 1 and not target_name(config)
        paper = published()["noise_total_correlation"].get(result["dataset"]) if at_one else None
        lines.append(
            (
                result["dataset"] + (" (valid.)" if result["split"] != "test" else ""),
                config["method"],
                str(config["training"]["epochs"]),
                target_name(config) or f"{config['beta']:g}",
                str(config["seed"]),
                f"{value:.2f} ± {se:.2f}",
                "" if paper is None else f"{paper:.1f}",
                "" if paper is None else f"{value - paper:+.2f}",
            )
        )
        records.append(
            {
                "dataset": result["dataset"],
                "split": result["split"],
                "method": config["method"],
                "epochs": config["training"]["epochs"],
                "beta": config["beta"],
                "target": target_name(config),
                "seed": config["seed"],
                "total_correlation_nats": value,
                "standard_error": se,
                "draws": int(analysis.noise_draws),
                "paper_nats": paper,
            }
        )
    if not lines:
        return None
    header = ("data", "method", "epochs", "beta", "seed", "total correlation", "paper", "difference")
    notes = [
        "Total correlation of the dimensions of Echo noise in nats, to second order: -1/2 log det of the correlation matrix of "
        "independent draws, less its bias; ± is the bootstrap's standard error. The paper's models had 200 epochs.",
    ]
    return Table("noise_total_correlation", "Total correlation of Echo noise", header, lines, notes, records)


@dataclass(frozen=True)
class Curve:
    """Rows of one method over at least two betas, in rising order of beta, everything else being equal."""

    dataset: str
    method: str
    rows: list[Row]

    @property
    def label(self) -> str:
        row = self.rows[-1]  # the first of a warm curve was trained from scratch
        return row.name + (", warm" if row.warm_start else "")


def curves(rows: list[Row]) -> list[Curve]:
    """The rate-distortion curves that results hold: all models from scratch, and each chain of warm starts with its first."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if not row.target:
            groups.setdefault((row.dataset, row.method, *row.setting), []).append(row)
    found = []
    for (dataset, method, *_), members in groups.items():
        cold = [row for row in members if not row.warm_start]
        by_path = {(*row.warm_start, row.beta): row for row in members}
        chains = [path for path in by_path if not any(other[:-1][: len(path)] == path for other in by_path)]
        warm = [[by_path[path[:n]] for n in range(1, len(path) + 1) if path[:n] in by_path] for path in chains if len(path) > 1]
        found += [Curve(dataset, method, sorted(members, key=lambda row: row.beta)) for members in (cold, *warm)]
    return [curve for curve in found if len(curve.rows) > 1]


def curve_table(found: list[Curve]) -> Table | None:
    """The points of all rate-distortion curves; `None` if there is none."""
    if not found:
        return None
    rows = [row for curve in found for row in curve.rows]
    header = ("data", "method", "epochs", "beta", "seeds", "rate", "distortion", "-ELBO", "unused")
    lines = []
    for curve in found:
        for row in curve.rows:
            data, _, epochs, beta, seeds, rate, distortion, neg_elbo, *_, unused = _cells(row)
            lines.append((data, curve.label, epochs, beta, seeds, rate, distortion, neg_elbo, unused))
    return Table("rate_distortion", "Points of the rate-distortion curves", header, lines, _notes(rows, header), _records(rows))


def progress_table(rows: list[Row]) -> Table:
    """How far each cell of the paper's table 2 has got: its longest schedule on the test set with the paper's protocol."""
    epochs = {(dataset, method): 0 for dataset, methods in paper_table().items() for method in methods}
    for row in rows:
        cell = (row.dataset, row.method)
        plain = row.beta == 1 and not row.target and not row.warm_start and not row.holdout and not row.departures
        if cell in epochs and plain and row.split == "test" and row.protocol == "paper":
            epochs[cell] = max(epochs[cell], row.epochs)

    def state(count):
        return "missing" if not count else ("complete" if count >= PAPER_EPOCHS else f"only {count} epochs")

    lines = [(method, *(state(epochs[dataset, method]) for dataset in paper_table())) for method in paper_table()[DATASETS[1]]]
    records = [{"dataset": dataset, "method": method, "epochs": count} for (dataset, method), count in epochs.items()]
    notes = [f"Cells of the paper's table 2: beta = 1, {PAPER_EPOCHS} epochs, test set, every setting that of the method."]
    if any(row.source == "reconstruction" for row in rows):
        notes.append("Omniglot from a reconstruction of chardata.mat, not from the published file.")
    return Table("progress", "Progress on the paper's table", ("method", *paper_table()), lines, notes, records)


def write_rows_as_json(rows: list[Row], path: Path) -> Path:
    """Write the rows of the comparison with all their settings; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return path


def write_section(rows: list[Row], path: Path) -> None:
    """Replace what stands between the lines `SECTION_BEGIN` and `SECTION_END` of a file by the results on the test set.

    Rows have beta 1, no target and no warm start; within a data set and schedule the best comes first.

    Raises:
        ResultError: the file has no such lines.
        OSError: it cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(SECTION_BEGIN + "\n")
    _, end, after = rest.partition(SECTION_END)
    if not (begin and end):
        raise ResultError(f"{path} lacks the lines {SECTION_BEGIN} and {SECTION_END}, between which results go. Add them.")
    write_atomically(path, before + begin + section(rows) + end + after)


def section(rows: list[Row]) -> str:
    """The Markdown that `write_section` writes."""
    shown = [row for row in rows if row.split == "test" and row.beta == 1.0 and not row.target and not row.warm_start]
    order = list(dict.fromkeys((row.dataset, row.epochs) for row in shown))
    shown.sort(key=lambda row: (order.index((row.dataset, row.epochs)), row.mean["neg_elbo_nats"]))
    lines = []
    for row in shown:
        data, method, epochs, _, seeds, rate, distortion, neg_elbo, *_ = _cells(row)
        paper = "" if row.paper is None else f"{row.paper['neg_elbo_nats']:.1f}"
        lines.append((data, method, epochs, seeds, rate, distortion, neg_elbo, paper))
    header = ("data", "method", "epochs", "seeds", "rate", "distortion", "-ELBO", "paper, 200 epochs")
    return Table("results", "Results", header, lines, _notes(shown, header), []).markdown()


def read_analyses(results: list[dict]) -> list[tuple[dict, Analysis]]:
    """Results whose models were analysed on the same images, with the analyses. Raises `CellError` for a damaged file."""
    found = []
    for result in results:
        path = analysis_path(Path(result["folder"]), result["split"])
        if path.exists():
            found.append((result, load_analysis(path)))
    return found
