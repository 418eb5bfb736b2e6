#!/usr/bin/env python3
"""Which operations of the device take the time of a training step? On JAX, with or without a GPU.

    KERAS_BACKEND=jax python -m benchmarks.operations --networks none --json results/benchmarks/operations.json
    KERAS_BACKEND=jax python -m benchmarks.operations --policy mixed_bfloat16 --steps 200     (the paper's networks: on a GPU)

JAX's profiler records one compiled call of many steps. This prints time and number of the operations of a step, by kind and by
name, and how much of the time of the clock they cover: the rest, on a GPU, is waiting between kernels.
A GPU that replays recorded kernels (command buffers) may show them as one: there, also run it with
`XLA_FLAGS=--xla_gpu_enable_command_buffer=`, which turns the recording off.
"""

import argparse
import collections
import gzip
import json
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # as reproduce.py does

import jax
import keras
import numpy as np

from benchmarks.calls import BATCH, FEATURES, made, no_networks
from benchmarks.timing import write
from echo_tf.experiments.steps import BatchOrders, compiled_steps
from echo_tf.models.networks import IMAGE_SHAPE, NETWORKS

KINDS = {  # the first kind of which a word is in the name of an operation, in lower case; XLA's and cuDNN's words
    "convolution": ("convol", "conv2d", "implicit", "wgrad", "dgrad", "fprop", "bprop"),
    "matrix product": ("gemm", "dot", "cutlass", "matmul"),
    "copy or transposition": ("copy", "transpose", "memcpy", "memset", "nchw", "nhwc"),
    "sort or random numbers": ("sort", "rng", "random", "threefry"),
}
NAMES = 15
# A line of the trace with one of these words holds operations; without one, a GPU's lines repeat them by module or scope.
WORK = ("stream", "xlaeigen", "xlapjrt")
# Frames of the CPU's executor, which contain the operations.
FRAMES = ("ThunkExecutor", "PjRt", "Pjit", "Wait", "while", "call", "conditional")


def kind(name: str) -> str:
    """The kind of an operation, by its name; `other` is what is fused, element by element, or a sum."""
    return next((kind for kind, words in KINDS.items() if any(word in name.lower() for word in words)), "other")


def operations(trace: Path) -> list[tuple[str, float, float]]:
    """Name, start and length in microseconds of each operation of the device in a trace of JAX's profiler."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    places = {(e["pid"], e.get("tid")): e["args"]["name"] for e in events if e.get("ph") == "M" and e["name"].endswith("_name")}
    on_gpu = any("gpu" in name.lower() for name in places.values())
    pids = {pid for (pid, tid), name in places.items() if tid is None and ("gpu" in name.lower() or not on_gpu)}
    lines = {place for place, name in places.items() if place[0] in pids and any(word in name.lower() for word in WORK)}
    found = [e for e in events if e.get("ph") == "X" and (e["pid"], e["tid"]) in lines and not e["name"].startswith(FRAMES)]
    return [(e["name"], e["ts"], e["dur"]) for e in found]


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of spans, each a start and a length."""
    total, end = 0.0, float("-inf")
    for start, length in sorted(spans):
        total += max(0.0, start + length - max(start, end))
        end = max(end, start + length)
    return total


def recorded(method: str, shape: tuple[int, ...], policy: str, steps: int) -> tuple[float, list[tuple[str, float, float]]]:
    """Microseconds of a call of so many steps while nothing records it, and the operations of another."""
    x = (np.random.default_rng(0).uniform(size=(steps * BATCH, *shape)) > 0.8).astype(np.uint8)
    model = made(method, shape, policy)
    model.optimizer.build(model.trainable_variables)
    model.train_function = compiled_steps(model, x, 1, steps)

    def run():
        keras.Model.fit(model, BatchOrders(len(x), BATCH, 0, steps), verbose=0, shuffle=False)

    run()  # compiles
    start = time.perf_counter()
    run()
    microseconds = 1e6 * (time.perf_counter() - start)
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0  # 3: the operations of a CPU too
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        return microseconds, [operation for trace in Path(folder).rglob("*.trace.json.gz") for operation in operations(trace)]


def summary(microseconds: float, found: list[tuple[str, float, float]], steps: int) -> dict:
    """Time and number of the operations of one step, by kind and by name, the longest first."""

    def by(label):
        lengths = collections.defaultdict(list)
        for name, _, length in found:
            lengths[label(name)].append(length)
        per_step = {
            name: {"microseconds": round(sum(times) / steps, 2), "number": round(len(times) / steps, 2)}
            for name, times in lengths.items()
        }
        return sorted(per_step.items(), key=lambda item: -item[1]["microseconds"])

    return {
        "microseconds a step, not recorded": round(microseconds / steps, 1),
        "microseconds covered by operations": round(covered([(start, length) for _, start, length in found]) / steps, 1),
        "kinds": dict(by(kind)),
        "names": dict(by(str)[:NAMES]),
    }


def main():
    """Record, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=("none", "paper"), default="paper")
    parser.add_argument("--methods", nargs="+", default=["vae", "echo"])
    parser.add_argument("--policy", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=20, help="steps of a call (default: %(default)s; 200 on a GPU)")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    result = {
        "jax": jax.__version__,
        "devices": list(map(str, jax.devices())),
        "networks": options.networks,
        "policy": options.policy,
    }
    shape = (FEATURES,) if options.networks == "none" else IMAGE_SHAPE
    with mock.patch.dict(NETWORKS, {"mlp": no_networks}):
        for method in options.methods:
            result[method] = summary(*recorded(method, shape, options.policy, options.steps), options.steps)
            print(f"{method}\n{json.dumps(result[method], indent=2)}", flush=True)
    write(options.json, result)


if __name__ == "__main__":
    main()
