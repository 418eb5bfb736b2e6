#!/usr/bin/env python3
"""What does a training step cost: by method, against the machine's ceiling, in a whole epoch, and beside another library?

    python -m benchmarks.steps --json results/benchmarks/steps.json
    KERAS_BACKEND=jax python -m benchmarks.steps --parts methods     (the other parts are about TensorFlow)

Candidates take turns. Parts: (methods) a step of each method relative to the VAE, by dtype policy; (matrices) the same of Echo
and of the channels with matrices, in time of the processor, where others use the machine too; (ceiling) images a second of the
VAE and the share that its arithmetic has of the fastest matrix product and convolution of this machine; (layers) where the time
of a step goes; (epoch) a whole epoch of `train` relative to its bare steps: input, callbacks, metrics, checkpoint; (peer) the
same architecture, batch and loss in plain PyTorch (extra `dev`), and our own on JAX (extra `jax`), if installed; (kernels) a
step of the VAE in either precision, with oneDNN's kernels and without, relative to float32 with them; (jobs) a process for each
core against one with all cores; (seeds) small models of several seeds side by side in one step against one after the other.
"""

import argparse
import contextlib
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As reproduce.py does.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.timing import ROUNDS, ratio, show, take_turns, write
from echo_tf.data.dataset import Dataset
from echo_tf.experiments.training import train
from echo_tf.models.build import build_model
from echo_tf.models.config import available_methods, load_config
from echo_tf.models.networks import IMAGE_SHAPE
from echo_tf.report.paper import paper_table

BATCH = 100
POLICIES = ("float32", "mixed_bfloat16")
PARTS = ("methods", "matrices", "ceiling", "layers", "epoch", "peer", "kernels", "jobs", "seeds")
EPOCH_STEPS = 60
SEEDS = 8

MATRIX = 2048
# The layer of the paper's networks with the most arithmetic but one: 5x5, 32 to 64 channels, 14x14.
CONVOLUTION = (14, 5, 32, 64)


def images(count: int = BATCH) -> np.ndarray:
    """Binary images, uint8."""
    return (np.random.default_rng(0).uniform(size=(count, *IMAGE_SHAPE)) > 0.8).astype(np.uint8)


def make_step(method: str, policy: str):
    """A function that does one training step and waits for it."""
    config = load_config(method, training={"dtype_policy": policy})
    model = build_model(config, steps_per_epoch=1000)
    if config.prior.kind == "vamp":
        model.prior.start_from(images(config.prior.components).astype(np.float32))
    x = images().astype(np.float32)
    return lambda: model.train_on_batch(x, return_dict=True)


def step_flops(model: keras.Model) -> int:
    """Floating-point operations of a training step on one image; heads and loss are left out: below one per cent."""
    layers = [layer for network in (model.encoder, model.decoder) for layer in network.layers if hasattr(layer, "kernel")]
    return sum(layer_flops(layer, is_first=layer is layers[0]) for layer in layers)


def layer_flops(layer: keras.layers.Layer, is_first: bool) -> int:
    """Floating-point operations of a convolution on one image, forward and backward; biases and activations are left out.

    A multiplication and an addition are two. The gradient by the weights and that by the input cost as much as the value each,
    but the first layer has no gradient by its input.
    """
    transposed = isinstance(layer, keras.layers.Conv2DTranspose)
    places = int(np.prod((layer.input if transposed else layer.output).shape[1:3]))
    return 2 * int(np.prod(layer.kernel.shape)) * places * (2 if is_first else 3)


def measure_methods(rounds: int) -> dict:
    """Steps of the paper's methods and those with matrices, relative to the VAE in the same policy; VAE between policies."""
    measured = {*paper_table()["binary_mnist"], "echo_matrix", "vae_full"}
    methods = [name for name in available_methods() if name in measured]
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


def measure_matrices(rounds: int) -> dict:
    """Steps of Echo and of the channels with matrices relative to the VAE in the same policy, in time of the processor."""
    result = {}
    for policy in POLICIES:
        calls = {method: make_step(method, policy) for method in ("vae", "vae_full", "echo", "echo_matrix")}
        seconds = take_turns(calls, rounds, time.process_time)
        result[policy] = {method: ratio(seconds, method, "vae") for method in calls}
        print(f"\nstep / step of the VAE, {policy}, time of the processor", flush=True)
        for method in calls:
            print(f"    {method:12} {show(result[policy][method])}", flush=True)
        keras.backend.clear_session()
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


def measure_layers(rounds: int) -> dict:
    """Where the time of a step goes: each layer of the VAE alone, value and gradients, and all of the rest as what remains."""
    result = {}
    for policy in POLICIES:
        model = build_model(load_config("vae", training={"dtype_policy": policy}))
        calls, flops = {"step": make_step("vae", policy)}, {}
        layers = [layer for network in (model.encoder, model.decoder) for layer in network.layers if hasattr(layer, "kernel")]
        for i, layer in enumerate(layers):
            name = f"{i + 1} {type(layer).__name__} {'x'.join(map(str, layer.kernel.shape))} to {layer.output.shape[1]}"
            x = tf.cast(tf.random.normal((BATCH, *layer.input.shape[1:])), layer.compute_dtype)
            watched = [layer.kernel.value] if i == 0 else [layer.kernel.value, x]

            @tf.function
            def value_and_gradients(layer=layer, x=x, watched=watched):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = layer(x)
                return tape.gradient(y, watched, output_gradients=tf.ones_like(y))

            calls[name] = lambda call=value_and_gradients: _wait(tf.reduce_sum(tf.cast(call()[0], tf.float32)))
            flops[name] = BATCH * layer_flops(layer, is_first=i == 0)
        seconds = {name: np.array(values) for name, values in take_turns(calls, rounds).items()}
        result[policy] = {
            name: {
                "share_of_time": float(np.median(seconds[name] / seconds["step"])),
                "share_of_flops": flops[name] / sum(flops.values()),
                "teraflops": flops[name] / float(np.median(seconds[name])) / 1e12,
            }
            for name in flops
        }
        print(f"\n{policy}: layer, share of the time of a step, of its arithmetic, TFLOP/s")
        for name, row in result[policy].items():
            print(f"    {name:40} {row['share_of_time']:6.3f} {row['share_of_flops']:6.3f} {row['teraflops']:6.3f}")
        print(f"    {'all else':40} {1 - sum(row['share_of_time'] for row in result[policy].values()):6.3f}")
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
def step_process(command: list[str], **environment: str):
    """Two functions of a process that does a training step for every line: begin a step, and wait for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def begin():
        process.stdin.write("\n")
        process.stdin.flush()

    with process:
        yield begin, lambda: float(process.stdout.readline())


def measure_peer(rounds: int) -> dict:
    """A step of the same VAE in PyTorch, and of ours on JAX, over ours on TensorFlow, as far as they are installed.

    Each in a process of its own: their threads and memory do not meet.
    """
    result = {}
    print()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images())
        for policy in POLICIES:
            processes = {
                "torch": step_process(["benchmarks.peer", f"{folder}/images.npy", policy]),
                "jax": step_process(["benchmarks.steps", "--serve", policy], KERAS_BACKEND="jax"),
            }
            peers = [name for name in processes if importlib.util.find_spec(name)]
            with contextlib.ExitStack() as stack:
                calls = {"ours": make_step("vae", policy)}
                for name in peers:
                    begin, wait = stack.enter_context(processes[name])
                    calls[name] = lambda begin=begin, wait=wait: (begin(), wait())
                seconds = take_turns(calls, rounds)
            result[policy] = {name: ratio(seconds, name, "ours") for name in peers}
            for name in peers:
                print(f"{name} / ours, {policy}: {show(result[policy][name])}")
    return result


def measure_kernels(rounds: int) -> dict:
    """A step of the VAE by dtype policy, with oneDNN's kernels and without, over one in float32 with them."""
    with contextlib.ExitStack() as stack:
        calls = {}
        for policy, switch in itertools.product(POLICIES, ("1", "0")):
            process = step_process(["benchmarks.steps", "--serve", policy], TF_ENABLE_ONEDNN_OPTS=switch)
            begin, wait = stack.enter_context(process)
            name = f"{policy}, {'oneDNN' if switch == '1' else 'without'}"
            calls[name] = lambda begin=begin, wait=wait: (begin(), wait())
        seconds = take_turns(calls, rounds)
    base, *others = calls
    result = {name: ratio(seconds, name, base) for name in others}
    print()
    for name in others:
        print(f"{name} / {base}: {show(result[name])}")
    return result


def measure_jobs(rounds: int) -> dict:
    """Images a second of one process for each core, each with one thread, over those of one process with all of them."""
    cores = len(os.sched_getaffinity(0))
    result = {"processes": cores}
    print()
    for policy in POLICIES:
        with contextlib.ExitStack() as stack:
            command = ["benchmarks.steps", "--serve", policy]
            one = stack.enter_context(step_process(command))
            many = [stack.enter_context(step_process(command, TF_NUM_INTRAOP_THREADS="1")) for _ in range(cores)]

            def run(processes):
                for begin, _ in processes:
                    begin()
                for _, wait in processes:
                    wait()

            seconds = take_turns({"one": lambda: run([one]), "many": lambda: run(many)}, rounds)  # noqa: B023
        seconds["many"] = [value / cores for value in seconds["many"]]
        result[policy] = ratio(seconds, "one", "many")
        print(f"{cores} processes of 1 thread / 1 process of {cores}, images a second, {policy}: {show(result[policy])}")
    return result


def serve(policy: str) -> None:
    """Do a training step of the VAE for every line of the input; see `step_process`."""
    step = make_step("vae", policy)
    for _ in sys.stdin:
        print(step()["loss"], flush=True)


def measure_seeds(rounds: int) -> dict:
    """So many steps of one small autoencoder (like those of the experiment theory), over one step of as many side by side."""

    def small_step(seeds: int, dim: int = 16, hidden: int = 64, batch: int = 1000):
        sizes = [(dim, hidden), (hidden, hidden), (hidden, 2 * dim), (dim, hidden), (hidden, hidden), (hidden, dim)]
        kernels = [tf.Variable(tf.random.normal((seeds, *size), stddev=size[0] ** -0.5)) for size in sizes]
        optimizer = keras.optimizers.Adam(1e-3)
        optimizer.build(kernels)
        x = tf.random.normal((seeds, batch, dim))

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                h = tf.nn.gelu(tf.nn.gelu(x @ kernels[0]) @ kernels[1])
                mean, log_var = tf.split(h @ kernels[2], 2, axis=-1)
                z = mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))
                y = tf.nn.gelu(tf.nn.gelu(z @ kernels[3]) @ kernels[4]) @ kernels[5]
                rate = 0.5 * tf.reduce_sum(tf.exp(log_var) + mean**2 - 1.0 - log_var, -1)
                loss = tf.reduce_sum(tf.reduce_mean(rate + tf.reduce_sum((x - y) ** 2, -1), -1))
            optimizer.apply(tape.gradient(loss, kernels), kernels)
            return loss

        return step

    alone, together = small_step(1), small_step(SEEDS)
    calls = {
        "alone": lambda: [_wait(alone()) for _ in range(10 * SEEDS)],
        "together": lambda: [_wait(together()) for _ in range(10)],
    }
    result = {"seeds": SEEDS, **ratio(take_turns(calls, rounds), "alone", "together")}
    print(f"\n{SEEDS} steps of a small model / one step of {SEEDS} side by side: {show(result)}")
    return result


def main():
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--serve", choices=POLICIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    measures = {
        "methods": measure_methods,
        "matrices": measure_matrices,
        "ceiling": measure_ceiling,
        "layers": measure_layers,
        "epoch": measure_epoch,
        "peer": measure_peer,
        "kernels": measure_kernels,
        "jobs": measure_jobs,
        "seeds": measure_seeds,
    }
    result = {part: measures[part](options.rounds) for part in options.parts}
    write(options.json, {"rounds": options.rounds, **result})


if __name__ == "__main__":
    main()
