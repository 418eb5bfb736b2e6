#!/usr/bin/env python3
"""How many steps a second, batch by batch and many in a compiled call? On any device; on JAX without TensorFlow.

    python -m benchmarks.calls --networks none --clock processor --json results/benchmarks/host.json
    KERAS_BACKEND=jax python -m benchmarks.calls --networks none --clock processor --json results/benchmarks/host_jax.json
    KERAS_BACKEND=jax python -m benchmarks.calls --policy mixed_bfloat16     (the paper's networks: on a GPU)

With networks of next to no arithmetic what is left is the Python of Keras, the optimizer of a small model, and the channel,
arithmetic included: the device is the processor there. So the channel is also measured by itself, in a compiled loop; what a
step takes longer is the host's. On an accelerator, which works while the host prepares the next step, a step takes at least the
greater of its own time and that of the host.

`--clock processor` counts the time of the processor, which other programs of the machine change little. Give it one thread:
`OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false`.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As reproduce.py does.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

import keras
import numpy as np

from benchmarks.channel import compiled_draws
from benchmarks.timing import ROUNDS, write
from echo_tf.experiments.steps import BatchOrders, compiled_steps, keep_graphs_as_traced, keep_to_float32
from echo_tf.models.build import build_model
from echo_tf.models.config import load_config
from echo_tf.models.networks import IMAGE_SHAPE, NETWORKS

Clock = Callable[[], float]

BATCH, STEPS, FEATURES = 100, 500, 16  # steps of an epoch of Binary MNIST

WAYS = {"batch by batch": 0, "10 in a call": 10, "500 in a call": 500}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def no_networks(shape, latent_dim, dtype):
    """An encoder that does nothing, and a linear decoder."""
    decoder = keras.Sequential([keras.Input((latent_dim,)), keras.layers.Dense(shape[-1])])
    return keras.Sequential([keras.Input(shape), keras.layers.Activation("linear")]), decoder


def made(method: str, shape: tuple[int, ...], policy: str) -> keras.Model:
    """The model of a method."""
    config = load_config(method, training={"dtype_policy": policy}, network={"kind": "auto" if len(shape) > 1 else "mlp"})
    return build_model(config, shape, STEPS)


def milliseconds(method: str, shape: tuple[int, ...], policy: str, call_steps: int, rounds: int, clock: Clock) -> float:
    """Median time of a step over epochs, but for the first, which traces."""
    x = (np.random.default_rng(0).uniform(size=(STEPS * BATCH, *shape)) > 0.8).astype(np.uint8)
    model = made(method, shape, policy)
    model.optimizer.build(model.trainable_variables)
    marks = []
    mark = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: marks.append(clock()))
    mark.async_safe = True
    options = {"epochs": rounds + 2, "verbose": 0, "shuffle": False, "callbacks": [mark]}
    if call_steps:
        model.train_function = compiled_steps(model, x, 1, STEPS)
        keras.Model.fit(model, BatchOrders(len(x), BATCH, 0, call_steps), **options)
    else:
        keras.Model.fit(model, x.astype(np.float32), batch_size=BATCH, **options)
    return 1e3 * float(np.median(np.diff(marks)[1:])) / STEPS


def milliseconds_of_channel(model: keras.Model, rounds: int, clock: Clock) -> float:
    """Median time of a draw of the model's channel with its gradients, of many in a call; the first call compiles."""
    rows = np.random.default_rng(0).normal(size=(STEPS, BATCH, model.encoder.output_shape[-1])).astype(np.float32)
    run, marks = compiled_draws(model.channel), []
    for _ in range(rounds + 2):
        run(rows)
        marks.append(clock())
    return 1e3 * float(np.median(np.diff(marks))) / STEPS


def main():
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=("none", "paper"), default="paper")
    parser.add_argument("--methods", nargs="+", default=["vae", "echo", "echo_matrix"])
    parser.add_argument("--policy", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    # As `train` does.
    keep_graphs_as_traced()
    keep_to_float32()
    shape = (FEATURES,) if options.networks == "none" else IMAGE_SHAPE
    devices, clock = list(map(str, keras.distribution.list_devices())), CLOCKS[options.clock]
    result = {"backend": keras.backend.backend(), "devices": devices, "clock": options.clock}
    with mock.patch.dict(NETWORKS, {"mlp": no_networks}):
        for method in options.methods:
            model = made(method, shape, options.policy)
            result[method] = {"channel alone": milliseconds_of_channel(model, options.rounds, clock)}
            for way, n in WAYS.items():
                result[method][way] = milliseconds(method, shape, options.policy, n, options.rounds, clock)
            print(f"milliseconds a step, {method}: {result[method]}", flush=True)
    write(options.json, result)


if __name__ == "__main__":
    main()
