#!/usr/bin/env python3
"""What does Echo noise cost, by sampler and batch?

    python -m benchmarks.noise --json results/benchmarks/noise.json

The noise of a batch of B examples in 32 dimensions with d = B - 1 echoes each, by `ring`, by `gather`, and by the literal loop
over the echoes of the definition: time of the value and of value and gradient relative to `ring`, and peak memory beyond that
of the loaded libraries (a process of its own for each; Linux only). Where a sampler would need more than `MEMORY_LIMIT`, it is
left out.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.timing import ROUNDS, ratio, show, take_turns, write

BATCHES = (100, 300, 1_000, 2_000, 10_000)
DIM = 32
MEMORY_LIMIT = 8 * 2**30  # bytes

# The gradient of gather keeps about eight arrays of batch x d x dim float32 numbers.
GATHER_BYTES = 8 * 4 * DIM


def samplers(batch: int) -> list[str]:
    """Those that fit into memory."""
    return ["ring", "gather", "loop"] if batch * batch * GATHER_BYTES < MEMORY_LIMIT else ["ring"]


def make_calls(batch: int, names: list[str]) -> dict:
    """Compiled functions of no argument, `NAME, value` and `NAME, gradient`."""
    import keras
    import numpy as np
    import tensorflow as tf

    import echo_tf

    rng = np.random.default_rng(0)
    mean = tf.constant(rng.uniform(-1, 1, (batch, DIM)), tf.float32)
    log_scale = tf.constant(rng.uniform(-2, -0.02, (batch, DIM)), tf.float32)
    seed = keras.random.SeedGenerator(0)

    def loop(mean, log_scale):
        """The definition, echo by echo; each example has a random order of its own, drawn as `gather` does."""
        keys = tf.random.uniform((batch, batch)) + 2.0 * tf.eye(batch)
        orders = tf.transpose(tf.argsort(keys, axis=1))[: batch - 1]

        def step(state, rows):
            noise, weight = state
            return noise + weight * tf.gather(mean, rows), weight * tf.exp(tf.gather(log_scale, rows))

        noise, weight = tf.zeros_like(mean), tf.ones_like(mean)
        for k in tf.range(batch - 1):
            noise, weight = step((noise, weight), orders[k])
        return noise

    def noise_of(name):
        if name == "loop":
            return loop
        return lambda mean, log_scale: echo_tf.echo_noise(mean, log_scale, sampler=name, seed=seed)

    calls = {}
    for name in names:
        noise = noise_of(name)

        def value(noise=noise):
            return tf.reduce_sum(noise(mean, log_scale))

        def gradient(noise=noise):
            with tf.GradientTape() as tape:
                tape.watch([mean, log_scale])
                total = tf.reduce_sum(noise(mean, log_scale))
            return [tf.reduce_sum(g) for g in tape.gradient(total, [mean, log_scale])]

        for kind, function in (("value", value), ("gradient", gradient)):
            compiled = tf.function(function)
            calls[f"{name}, {kind}"] = lambda compiled=compiled: [part.numpy() for part in tf.nest.flatten(compiled())]
    return calls


def peak_memory(batch: int, name: str) -> float:
    """MiB that value and gradient add to the peak of a process that has loaded the libraries."""
    command = [sys.executable, "-m", "benchmarks.noise", "--memory", str(batch), name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_memory(batch: int, name: str) -> None:
    """The work of the process that `peak_memory` starts."""
    make_calls(8, [name])[f"{name}, gradient"]()
    before = peak_of_this_process()
    make_calls(batch, [name])[f"{name}, gradient"]()
    print(peak_of_this_process() - before)


def peak_of_this_process() -> float:
    """Largest resident memory so far, MiB. (`getrusage` would hand on that of the process that started this one.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main():
    """Measure, print a table and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--memory", nargs=2, metavar=("BATCH", "SAMPLER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_memory(int(options.memory[0]), options.memory[1])
        return

    rows = []
    print(f"{'batch':>6}  {'sampler':8} {'value / ring':>24} {'gradient / ring':>24} {'ring, ms':>9} {'peak MiB':>9}")
    for batch in options.batches:
        names = samplers(batch)
        seconds = take_turns(make_calls(batch, names))
        for name in names:
            row = {
                "batch": batch,
                "sampler": name,
                "value": ratio(seconds, f"{name}, value", "ring, value"),
                "gradient": ratio(seconds, f"{name}, gradient", "ring, gradient"),
                "gradient_seconds": seconds[f"{name}, gradient"],
                "peak_mib": peak_memory(batch, name),
            }
            rows.append(row)
            milliseconds = 1e3 * min(seconds["ring, gradient"])
            print(
                f"{batch:6d}  {name:8} {show(row['value']):>24} {show(row['gradient']):>24} {milliseconds:9.2f} "
                f"{row['peak_mib']:9.0f}",
                flush=True,
            )
    write(options.json, {"dim": DIM, "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
