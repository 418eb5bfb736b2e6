"""Results on disk: reading, grouping over seeds, and what they say beside the paper. Reads files only, no models."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import stats

from echo_tf.echo.bound import max_scale
from echo_tf.errors import ResultError
from echo_tf.experiments.analysis import Analysis
from echo_tf.experiments.cells import analysis_path, cell_of, damages, differences, load_analysis, noise_path, result_path
from echo_tf.experiments.training import METRICS
from echo_tf.files import checksum, write_atomically
from echo_tf.models.config import DATASETS, available_methods, config_from_dict, flatten, load_config
from echo_tf.report.paper import paper_table
from echo_tf.statistics import standard_error

logger = logging.getLogger(__name__)

QUANTITIES = ("rate_nats", "distortion_nats", "neg_elbo_nats")
SPLITS = ("test", "validation")
TOLERANCE_NATS = 1.0
PAPER_EPOCHS = 200

NOT_COMPARABLE = "not comparable"
AGREES = "agrees"
DIFFERS = "differs"


@dataclass(frozen=True)
class Row:
    """Results of one setting over its seeds, beside the paper's.

    `mean` and `se` are in nats by quantity. `se` is the standard error over seeds; of a single seed it is that of its own
    evaluation (noise only). `paper` is `None` where the paper has no such row. `unused_dimensions` counts, for Echo and on
    average over seeds, the latent dimensions at no more than twice the rate floor, and `unused_nats` is their rate.
    `approximate` marks an Echo rate whose formula holds only approximately, because its echoes were drawn with replacement
    from fewer than `20 / (1 - r)` examples. `importance_bound_nats` is the mean over seeds of the bound of `-log p(x)` from
    `passes` samples, for channels with a density. `target` names a constraint, under which `beta` is where training began and
    `final_beta` the mean of where it ended. `warm_start`: see `Cell`. `departures`: see `departures`. `folder` is that of the
    first seed.
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
    folder: str = field(compare=False)

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell of the paper's table 2 but for the length of its schedule and the precision of its networks."""
        plain = self.beta == 1 and not (self.target or self.warm_start or self.holdout or self.departures)
        return plain and self.split == "test" and self.protocol == "paper" and self.paper is not None

    @property
    def verdict(self) -> str:
        """Whether -ELBO is the paper's, to within `max(1 nat, 2 se)`: only with its schedule and its data."""
        if not self.is_cell or self.epochs != PAPER_EPOCHS or self.source != "original":
            return NOT_COMPARABLE
        agrees = abs(self.difference_nats) <= max(TOLERANCE_NATS, 2 * self.se["neg_elbo_nats"])
        return AGREES if agrees else DIFFERS

    @property
    def misses(self) -> bool:
        """Whether the paper's value was compared and missed."""
        return self.verdict == DIFFERS

    @property
    def setting(self) -> tuple:
        """What tells rows of one method on one data set apart, but for precision, beta and the betas before it."""
        return (self.protocol, self.epochs, self.split, self.source, self.holdout, self.target, self.departures)

    @property
    def precision(self) -> str:
        """That of the layers of the networks, `"bfloat16"` for `mixed_bfloat16`."""
        return precision_of(self.dtype_policy)

    @property
    def name(self) -> str:
        """The method with what is unusual about it."""
        return full_name(self.method, self.protocol, self.departures)


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


def read_analyses(results: list[dict]) -> list[tuple[dict, Analysis]]:
    """Results whose models were analysed on the same images, with the analyses. Raises `CellError` for a damaged file."""
    return _read_beside(results, analysis_path, load_analysis)


def read_noises(results: list[dict]) -> list[tuple[dict, dict]]:
    """Results of the Echo models that were analysed on the same images, with what their `noise.json` holds.

    Raises:
        ResultError: such a file is damaged.
    """
    return _read_beside(results, noise_path, _read_noise)


def _read_beside(results: list[dict], path_of: Callable[[Path, str], Path], read: Callable) -> list[tuple]:
    """The results beside which such a file lies, with what is read from it."""
    paths = [path_of(Path(result["folder"]), result["split"]) for result in results]
    return [(result, read(path)) for result, path in zip(results, paths, strict=True) if path.exists()]


def _read_noise(path: Path) -> dict:
    try:
        noise = json.loads(path.read_text(encoding="utf-8"))
        if noise["checksum"] != checksum(noise):
            raise ValueError("its checksum is not that of its contents")
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(f"{path} is damaged ({error!r}). Run --experiment analysis again, which makes it anew.") from None
    return noise


def copy_results(results: list[dict], folder: Path) -> None:
    """Copy what tables and curves are made from to `folder`, which is an `--out` then.

    That is results, metrics of every epoch, and the total correlation of the noise of analysed models. That of a model whose
    result is replaced goes with it.

    Results that lie there already stay; a warning counts those that are not among `results`.

    Raises:
        ResultError: there is the result of another model under the name of one of these. Nothing has been copied then.
    """
    targets = {_copy_of(result, folder): result for result in results}
    for target, result in targets.items():
        changes = differences(cell_of(_read_result(target)), cell_of(result)) if target.exists() else ""
        if changes:
            raise ResultError(f"{target} holds another model ({changes}). Publish to another folder, or move it away.")
    for target, result in targets.items():
        source = Path(result["folder"])
        if target.parent.resolve() == source.resolve():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        noise = noise_path(source, result["split"])
        if target.exists() and target.read_bytes() != (source / target.name).read_bytes() and not noise.exists():
            noise_path(target.parent, result["split"]).unlink(missing_ok=True)  # of a model that was trained before
        for path in (source / target.name, source / METRICS, noise):
            if path.exists():
                write_atomically(target.parent / path.name, path.read_text(encoding="utf-8"))
    others = {path for split in SPLITS for path in folder.glob(f"*/*/*/{result_path(Path(), split)}")} - targets.keys()
    if others:
        logger.warning("%s has %d more results, which these tables lack: --report --out %s.", folder, len(others), folder)


def _copy_of(result: dict, folder: Path) -> Path:
    return result_path(folder.joinpath(*Path(result["folder"]).parts[-3:]), result["split"])


def compare(results: list[dict]) -> list[Row]:
    """Group results that differ in their seed only, and hold each group against the paper.

    Settings of a method are compared with those of its file in `configs/`, but for the dtype policy.

    Raises:
        ResultError: one model stands in two folders.
    """
    groups: dict[str, list[dict]] = {}
    for result in results:
        setting = asdict(config_from_dict(result["config"]))
        del setting["seed"]
        origin = [result["dataset"], result["split"], result["holdout"], result["source"], result.get("warm_start", [])]
        key = json.dumps([origin, setting], sort_keys=True)
        groups.setdefault(key, []).append(result)
    for group in groups.values():
        _check_seeds(group)
    rows = [_make_row(group) for group in groups.values()]
    order = {name: i for i, name in enumerate(DATASETS)}
    return sorted(rows, key=lambda row: (order[row.dataset], row.split, row.epochs, row.target, row.beta, row.method))


def _check_seeds(group: list[dict]) -> None:
    folders: dict[int, str] = {}
    for result in group:
        other = folders.setdefault(result["config"]["seed"], result["folder"])
        if other != result["folder"]:
            raise ResultError(
                f"{other} and {result['folder']} hold the same model. Move one of them away: it would count twice."
            )


def _make_row(group: list[dict]) -> Row:
    first = group[0]
    config = first["config"]
    mean, se = {}, {}
    for quantity in QUANTITIES:
        values = [result[quantity]["mean"] for result in group]
        mean[quantity] = float(np.mean(values))
        se[quantity] = standard_error(values) if len(values) > 1 else first[quantity]["se"]

    paper = paper_table().get(first["dataset"], {}).get(config["method"]) if config["beta"] == 1 else None
    difference = None if paper is None else mean["neg_elbo_nats"] - paper["neg_elbo_nats"]

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
        folder=first["folder"],
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


def full_name(method: str, protocol: str, unusual: tuple[str, ...]) -> str:
    """`vae (released, replicas=2)` for a method with what `departures` found."""
    unusual = (*(["released"] if protocol == "released" else []), *unusual)
    return method + (f" ({', '.join(unusual)})" if unusual else "")


def precision_of(dtype_policy: str) -> str:
    """`bfloat16` for `mixed_bfloat16`: the precision of the layers that follow the policy."""
    return dtype_policy.removeprefix("mixed_")


def target_name(config: dict) -> str:
    """`rate 20` for a configuration with that constraint, empty without one."""
    constraint = config.get("constraint", {"quantity": "none"})
    return "" if constraint["quantity"] == "none" else f"{constraint['quantity']} {constraint['target_nats']:g}"


def _is_approximate(config: dict) -> bool:
    channel = config["channel"]
    if channel["kind"] != "echo" or not channel["replace"]:
        return False
    # Of a batch that is split among replicas each has its share, but on JAX.
    batch_size = (config["training"]["batch_size"] + channel.get("pool", 0)) // config["training"].get("replicas", 1)
    return batch_size < 20 / (1 - max_scale(channel["d_max"]))


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
            groups.setdefault((row.dataset, row.method, row.precision, *row.setting), []).append(row)
    found = []
    for (dataset, method, *_), members in groups.items():
        cold = [row for row in members if not row.warm_start]
        by_path = {(*row.warm_start, row.beta): row for row in members}
        chains = [path for path in by_path if not any(other[:-1][: len(path)] == path for other in by_path)]
        warm = [[by_path[path[:n]] for n in range(1, len(path) + 1) if path[:n] in by_path] for path in chains if len(path) > 1]
        found += [Curve(dataset, method, sorted(members, key=lambda row: row.beta)) for members in (cold, *warm)]
    return [curve for curve in found if len(curve.rows) > 1]


def in_one_precision(rows: list[Row]) -> list[Row]:
    """Of rows that differ in the precision of their networks only, that with more seeds; of equally many, that in float32."""
    best: dict[tuple, Row] = {}
    for row in sorted(rows, key=lambda row: (len(row.seeds), row.precision == "float32")):
        best[row.dataset, row.method, row.beta, row.warm_start, row.setting] = row
    return [row for row in rows if row in best.values()]


@dataclass(frozen=True)
class Ranking:
    """Methods of the paper on one data set after one schedule, best first, in the order that they have here and there.

    Attributes:
        rows: One row a method, by rising -ELBO.
        paper_ranks: Rank of each in the paper among the methods of `rows`; equal values share the best.
        tau: Kendall's tau-b between the two orders: 1 if they are the same, -1 if one is the reverse of the other.
    """

    rows: list[Row]
    paper_ranks: list[int]
    tau: float


def rankings(rows: list[Row]) -> list[Ranking]:
    """Rankings of three or more methods that were trained alike, as the paper's table 2 says but for the epochs.

    Networks in float32 and in mixed bfloat16 are ranked together, see `in_one_precision`.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in in_one_precision(rows):
        if row.is_cell:
            groups.setdefault((row.dataset, row.setting), []).append(row)
    found = []
    for members in groups.values():
        if len(members) < 3:
            continue
        ordered = sorted(members, key=lambda row: row.mean["neg_elbo_nats"])
        paper = [row.paper["neg_elbo_nats"] for row in ordered]
        ranks = [int(rank) for rank in stats.rankdata(paper, method="min")]
        tau = stats.kendalltau([row.mean["neg_elbo_nats"] for row in ordered], paper).statistic
        found.append(Ranking(ordered, ranks, float(tau)))
    return found


def epochs_by_cell(rows: list[Row]) -> dict[tuple[str, str], int]:
    """Epochs of each cell of the paper's table 2, by data set and method: the paper's, else the longest; 0: missing."""
    epochs = {(dataset, method): 0 for dataset, methods in paper_table().items() for method in methods}
    for row in rows:
        if row.is_cell:
            found = epochs[row.dataset, row.method], row.epochs
            epochs[row.dataset, row.method] = PAPER_EPOCHS if PAPER_EPOCHS in found else max(found)
    return epochs
