#!/usr/bin/env python3
"""Does the ring sampler make gradients noisier than independent echo orders?

    python -m benchmarks.gradient_variance runs/binary_mnist/echo/.../model.keras --dataset binary_mnist

The loss of a batch is a mean over examples whose noises depend on each other in different ways under the two samplers, so its
gradient has the same expectation but may have another variance. Printed is the trace of the gradient's covariance over all
weights of encoder and heads, and of the decoder, `gather` = 1: from the noise alone (one batch, fresh noise) and in all
(fresh batch, fresh noise).
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import echo_tf

SAMPLERS = ("ring", "gather")


def gradient_function(model: keras.Model):
    """Compiled function from a batch to the gradients of its loss: one vector for encoder and channel, one for the decoder."""
    groups = [model.encoder.trainable_weights + model.channel.trainable_weights, model.decoder.trainable_weights]

    @tf.function
    def gradient(images):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(images, y_pred=model(images, training=True))
        gradients = tape.gradient(loss, [[weight.value for weight in group] for group in groups])
        return [tf.concat([tf.reshape(g, [-1]) for g in group], 0) for group in gradients]

    return gradient


def with_sampler(model: keras.Model, sampler: str) -> keras.Model:
    """The same model whose echo orders come from another sampler."""
    config = model.get_config()
    config["channel"]["config"]["sampler"] = sampler
    twin = type(model).from_config(config)
    twin.build(model.encoder.input_shape)
    twin.set_weights(model.get_weights())
    return twin


def variance(vectors: list[np.ndarray]) -> float:
    """Trace of the covariance."""
    return float(np.stack(vectors).astype(np.float64).var(axis=0, ddof=1).sum())


def measure(model: keras.Model, images: np.ndarray, draws: int, repeats: int) -> dict:
    """Variance ratios ring / gather, `repeats` of them, by source of the randomness and part of the model."""
    rng = np.random.default_rng(0)
    gradients = {sampler: gradient_function(with_sampler(model, sampler)) for sampler in SAMPLERS}
    ratios = {f"{source}, {part}": [] for source in ("noise", "all") for part in ("encoder", "decoder")}
    for _ in range(repeats):
        batches = images[rng.integers(0, len(images), (draws, 100))]
        for source in ("noise", "all"):
            traces = {}
            for sampler in SAMPLERS:
                used = batches if source == "all" else [batches[0]] * draws
                parts = zip(*([g.numpy() for g in gradients[sampler](batch)] for batch in used), strict=True)
                traces[sampler] = [variance(part) for part in parts]
            for part, ring, gather in zip(("encoder", "decoder"), traces["ring"], traces["gather"], strict=True):
                ratios[f"{source}, {part}"].append(ring / gather)
    return ratios


def main():
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.keras of an echo cell")
    parser.add_argument("--dataset", default="binary_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--draws", type=int, default=20, help="gradients for each variance")
    parser.add_argument("--repeats", type=int, default=7, help="ratios measured")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()

    model = keras.saving.load_model(options.model)
    ratios = measure(model, echo_tf.load_dataset(options.dataset, options.data_dir).train, options.draws, options.repeats)
    print("variance of the gradient, ring / gather: median (smallest to largest of", options.repeats, "ratios)")
    for name, values in ratios.items():
        print(f"{name:16} {np.median(values):6.3f} ({min(values):.3f} to {max(values):.3f})")
    if options.json:
        options.json.write_text(json.dumps({"ring_over_gather": ratios, "draws": options.draws}, indent=2) + "\n")


if __name__ == "__main__":
    main()
