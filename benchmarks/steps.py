#!/usr/bin/env python3
"""What does a training step cost: by method, against the machine's ceiling, in a whole epoch, and beside another library?

    python -m benchmarks.steps --json results/benchmarks/steps.json

Everything in one process, taking turns: (methods) a step of each method relative to the VAE, by dtype policy; (ceiling) images
a second of the VAE and the share that its arithmetic has of the fastest matrix product and convolution of this machine; (epoch)
a whole epoch of `fit` relative to its bare steps: input pipeline, callbacks, metrics; (peer) the same architecture, batch and
loss in plain PyTorch, if it is installed (extra `dev`).
"""

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.timing import ROUNDS, ratio, show, take_turns, write
from echo_tf.config import available_methods, load_config
from echo_tf.data import Dataset
from echo_tf.model import build_model
from echo_tf.paper import paper_table
from echo_tf.training import train

BATCH = 100
POLICIES = ("float32", "mixed_bfloat16")
PARTS = ("methods", "ceiling", "epoch", "peer")
EPOCH_STEPS = 60

MATRIX = 2048
# The layer of the paper's networks with the most arithmetic but one: 5x5, 32 to 64 channels, 14x14.
CONVOLUTION = (14, 5, 32, 64)


def images(count: int = BATCH) -> np.ndarray:
    """Binary images, uint8."""
    return (np.random.default_rng(0).uniform(size=(count, 28, 28, 1)) > 0.8).astype(np.uint8)


def make_step(method: str, policy: str):
    """A function that does one training step and waits for it."""
    model = build_model(load_config(method, training={"dtype_policy": policy}), steps_per_epoch=1000)
    x = tf.constant(images(BATCH + model.config.channel.pool), tf.float32)
    if model.prior is not None and hasattr(model.prior, "start_from"):
        model.prior.start_from(images(model.config.prior.components).astype(np.float32))
    data = iter(tf.data.Dataset.from_tensors(x).repeat())
    model.make_train_function()

    def step():
        return {name: float(value) for name, value in model.train_function(data).items()}

    return step


def step_flops(model: keras.Model) -> int:
    """Floating-point operations of a training step on one image: three times those of the convolutions in one pass.

    A multiplication and an addition are two. The gradient by the weights and that by the input cost a pass each, but for the
    first layer, which has no gradient by its input. Biases, activations, heads and the loss are left out: below one per cent.
    """
    passes = 0
    layers = [layer for network in (model.encoder, model.decoder) for layer in network.layers if hasattr(layer, "kernel")]
    for layer in layers:
        kernel = int(np.prod(layer.kernel.shape))
        transposed = isinstance(layer, keras.layers.Conv2DTranspose)
        places = int(np.prod((layer.input if transposed else layer.output).shape[1:3]))
        passes += 2 * kernel * places * (2 if layer is layers[0] else 3)
    return passes


def measure_methods(rounds: int) -> dict:
    """Steps of all methods relative to the VAE in the same policy, and of the VAE between policies."""
    methods = [*(name for name in available_methods() if name in paper_table()["binary_mnist"]), "echo_pool"]
    result = {}
    for policy in POLICIES:
        seconds = take_turns({method: make_step(method, policy) for method in methods}, rounds)
        result[policy] = {method: ratio(seconds, method, "vae") for method in methods}
        print(f"\nstep / step of the VAE, {policy}")
        for method in sorted(methods, key=lambda method: result[policy][method]["median"]):
            print(f"    {method:12} {show(result[policy][method])}")
        keras.backend.clear_session()
    seconds = take_turns({policy: make_step("vae", policy) for policy in POLICIES}, rounds)
    result["policies"] = ratio(seconds, *POLICIES)
    print(f"\nVAE, {POLICIES[0]} / {POLICIES[1]}: {show(result['policies'])}")
    return result


def measure_ceiling(rounds: int) -> dict:
    """Arithmetic of a step of the VAE as a share of what this machine does at best in the same precision."""
    flops = BATCH * step_flops(build_model("vae"))
    result = {"flops_per_image": flops / BATCH}
    print(f"\n{flops / BATCH / 1e9:.3f} GFLOP an image and step")
    for policy, dtype in zip(POLICIES, (tf.float32, tf.bfloat16), strict=True):
        matrix = tf.cast(tf.random.normal((MATRIX, MATRIX)), dtype)
        product = tf.function(lambda matrix=matrix: tf.reduce_sum(tf.cast(tf.matmul(matrix, matrix), tf.float32)))
        side, kernel, channels, filters = CONVOLUTION
        x = tf.cast(tf.random.normal((10 * BATCH, side, side, channels)), dtype)
        weights = tf.cast(tf.random.normal((kernel, kernel, channels, filters)), dtype)
        convolution = tf.function(
            lambda x=x, weights=weights: tf.reduce_sum(tf.cast(tf.nn.conv2d(x, weights, 1, "SAME"), tf.float32))
        )
        work = {
            "step": flops,
            "matrix product": 2 * MATRIX**3,
            "convolution": 2 * 10 * BATCH * side**2 * kernel**2 * channels * filters,
        }
        calls = {"step": make_step("vae", policy), "matrix product": product, "convolution": convolution}
        seconds = take_turns({name: lambda call=call: _wait(call()) for name, call in calls.items()}, rounds)
        speeds = {name: work[name] / np.array(seconds[name]) for name in work}
        best = np.maximum(speeds["matrix product"], speeds["convolution"])
        share = speeds["step"] / best
        result[policy] = {
            "images_per_second": BATCH / float(np.median(seconds["step"])),
            "teraflops": {name: float(np.median(speed)) / 1e12 for name, speed in speeds.items()},
            "share_of_best": {"median": float(np.median(share)), "low": float(share.min()), "high": float(share.max())},
        }
        speeds = ", ".join(f"{name} {speed:.3f}" for name, speed in result[policy]["teraflops"].items())
        print(f"    {policy}: {result[policy]['images_per_second']:.0f} images a second; TFLOP/s: {speeds}")
        print(f"        step / best of the two: {show(result[policy]['share_of_best'])}")
    return result


def _wait(result) -> None:
    for value in tf.nest.flatten(result):
        np.asarray(value)


def measure_epoch(rounds: int) -> dict:
    """An epoch as `train` runs it (checkpoint included), over as many bare steps."""
    dataset = Dataset("random", {"train": images(EPOCH_STEPS * BATCH)}, 1, {})
    result = {}
    print()
    for policy in POLICIES:
        step = make_step("vae", policy)
        with tempfile.TemporaryDirectory() as folder:
            config = load_config("vae", training={"epochs": rounds + 2, "dtype_policy": policy})
            marks = []

            class TakeTurns(keras.callbacks.Callback):
                """Bare steps after each epoch, both timed."""

                def on_epoch_begin(self, epoch, logs=None, marks=marks):
                    if epoch:
                        marks[-1].append(time.perf_counter())  # the epoch before, with all its callbacks, ends here
                        for _ in range(EPOCH_STEPS):
                            step()  # noqa: B023
                        marks[-1].append(time.perf_counter())
                    marks.append([time.perf_counter()])

            train(config, dataset, Path(folder), callbacks=[TakeTurns()])
        values = np.array([(end - start) / (bare - end) for start, end, bare in marks[1:-1]])  # the first one traces
        result[policy] = {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}
        print(f"epoch of {EPOCH_STEPS} steps / bare steps, {policy}: {show(result[policy])}")
    return result


@contextlib.contextmanager
def torch_step(policy: str):
    """A function that does one training step in PyTorch and waits for it.

    In a process of its own, so that its threads and its memory do not meet those of TensorFlow.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images())
        command = [sys.executable, "-m", "benchmarks.peer", f"{folder}/images.npy", policy]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def step():
                process.stdin.write("\n")
                process.stdin.flush()
                return float(process.stdout.readline())

            yield step


def measure_peer(rounds: int) -> dict | None:
    """A step of the same VAE in PyTorch over ours."""
    if importlib.util.find_spec("torch") is None:
        print("\npeer: PyTorch is not installed")
        return None
    result = {}
    print()
    for policy in POLICIES:
        with torch_step(policy) as step:
            seconds = take_turns({"ours": make_step("vae", policy), "torch": step}, rounds)
        result[policy] = ratio(seconds, "torch", "ours")
        print(f"PyTorch / ours, {policy}: {show(result[policy])}")
    return result


def main():
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    measures = {"methods": measure_methods, "ceiling": measure_ceiling, "epoch": measure_epoch, "peer": measure_peer}
    result = {part: measures[part](options.rounds) for part in options.parts}
    write(options.json, {"rounds": options.rounds, **result})


if __name__ == "__main__":
    main()
