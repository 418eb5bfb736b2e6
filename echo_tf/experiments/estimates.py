"""How long cells will train, from the epochs of models on disk. Needs no Keras."""

import heapq
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from echo_tf.data.dataset import KNOWN
from echo_tf.data.prepare import SPECS
from echo_tf.data.sprites import DEPENDENT, SIZE, SIZES
from echo_tf.experiments.cells import Cell
from echo_tf.experiments.order import epoch_steps, weight
from echo_tf.experiments.records import CELL, MISFITS, read_cell, read_metrics

Speeds = list[tuple[Cell, float]]  # cells and seconds for a step


def recorded_speeds(out: Path, images: Mapping[str, int]) -> Speeds:
    """Seconds for a step of every model below `out` that has trained an epoch.

    The median over its epochs, without the first where there are others: that one includes compiling.

    Args:
        out: Folder of all cells.
        images: Training images by data set, for those that are not downloaded.
    """
    images = {**{name: spec.sizes["train"] for name, spec in SPECS.items()}, **images}
    speeds = []
    for path in sorted(out.glob(f"*/*/*/{CELL}")):
        try:
            cell = read_cell(path)
            steps = epoch_steps(cell, images)
            seconds = [float(line["seconds"]) for line in read_metrics(path.parent)]
        except MISFITS:  # of another version, or damaged: no guide
            continue
        if seconds and steps > 0:
            speeds.append((cell, statistics.median(seconds[1:] or seconds) / steps))
    return speeds


def _size(dataset: str) -> int:
    """Pixels of a side of a known data set, 0 of one's own."""
    others = {"binary_digits": 8, **dict.fromkeys(SIZES, SIZE)}
    return others.get(dataset.removesuffix(DEPENDENT), 28) if dataset in KNOWN else 0


def seconds_per_step(cell: Cell, speeds: Speeds) -> float | None:
    """Expected seconds for a step of a cell, from those of its method, else of any, by the weights of the methods.

    Only models of the same precision, batch and networks are a guide, on images of the same size. `None` if there is none.
    """

    def is_guide(other: Cell) -> bool:
        alike = other.dataset == cell.dataset or _size(other.dataset) == _size(cell.dataset) != 0
        ours, theirs = cell.config, other.config
        same_steps = all(getattr(ours.training, n) == getattr(theirs.training, n) for n in ("dtype_policy", "batch_size"))
        return alike and same_steps and ours.network == theirs.network

    guides = [(other, seconds) for other, seconds in speeds if is_guide(other)]
    same = [(other, seconds) for other, seconds in guides if other.config.method == cell.config.method]
    scaled = [seconds * weight(cell.config) / weight(other.config) for other, seconds in same or guides]
    return statistics.median(scaled) if scaled else None


def time_at_once(seconds: Sequence[float], at_once: int) -> float:
    """Time until all end that start in their order, so many at the same time, if none slows another."""
    ends = [0.0] * at_once
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def in_words(seconds: float) -> str:
    """`"40 s"`, `"12 min"` or `"3.4 h"`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def total_in_words(seconds: Sequence[float], at_once: int) -> str:
    """What all cells take, in a sentence that promises no more than is known: how much models slow each other is not."""
    alone, at_once = sum(seconds), min(at_once, len(seconds))
    if at_once <= 1:
        return f"About {in_words(alone)} in all."
    least = in_words(time_at_once(seconds, at_once))
    return (
        f"About {in_words(alone)} one after the other; {at_once} at once take between that and {least}, if none slows another."
    )
