"""Times that are fair on a noisy machine: candidates take turns, and only ratios within one round are compared."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from echo_tf.experiments.processor import CPUINFO, instructions

ROUNDS = 7


def take_turns(
    candidates: dict[str, Callable[[], object]], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round. Each is called once before, to trace and to warm up.

    `time.process_time` as the clock counts the seconds of the processor, those of all threads, where others use it too.
    """
    for call in candidates.values():
        call()
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> dict[str, float]:
    """How many times as long `name` takes as `base`: median and range over the rounds."""
    values = np.array(seconds[name]) / np.array(seconds[base])
    return {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}


def show(value: dict[str, float]) -> str:
    """`1.23 (1.20 to 1.31)`."""
    return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"


def machine() -> dict:
    """The kind of machine: processor, cores that this process may use, and instructions that matter."""
    processor = platform.processor()
    if CPUINFO.exists():
        lines = CPUINFO.read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    known = instructions()
    found = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in known]
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)), "instructions": found}


def write(path: Path | None, result: dict) -> None:
    """Write a result with the kind of machine as JSON, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n", encoding="utf-8")
