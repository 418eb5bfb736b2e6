#!/usr/bin/env python3
"""A VAE with Keras layers, before and after: the block that samples z is replaced by one line, and the rate becomes exact.

Small digits (scikit-learn, no download), under two minutes on two cores. Run it from the root of the repository:

    python examples/vae_before_and_after.py
"""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # or `pip install .`

import echo_tf

LATENT_DIM = 8


class Sampling(layers.Layer):
    """Before: two heads, a Gaussian draw, and the Kullback-Leibler divergence from N(0, I) as a bound of the rate."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.log_var = layers.Dense(units), layers.Dense(units)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, h):
        mean, log_var = self.mean(h), self.log_var(h)
        divergence = 0.5 * ops.sum(ops.exp(log_var) + ops.square(mean) - 1.0 - log_var, axis=-1)
        z = mean + ops.exp(0.5 * log_var) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return z, divergence


def sample_before(h):
    """z and the bound of the rate."""
    return Sampling(LATENT_DIM)(h)


def sample_after(h):
    """After: z and its exact rate."""
    return echo_tf.EchoDense(LATENT_DIM, rate_weight=None, seed=0)(h, return_rate=True)


def build_autoencoder(sample):
    """Images to pixel logits and rate; `sample` is all that differs between the two models."""
    images = keras.Input((28, 28, 1))
    h = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(images)
    h = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(h)
    h = layers.Dense(64, activation="relu")(layers.Flatten()(h))

    z, rate = sample(h)

    h = layers.Dense(7 * 7 * 32, activation="relu")(z)
    h = layers.Reshape((7, 7, 32))(h)
    h = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(h)
    h = layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu")(h)
    logits = layers.Conv2D(1, 3, padding="same")(h)

    model = keras.Model(images, {"logits": logits, "rate": rate})
    # Summed over pixels and dimensions both are in nats for each image, and their sum is the negative ELBO.
    model.compile(keras.optimizers.Adam(1e-3), loss={"logits": distortion, "rate": echo_tf.mean_rate})
    return model


def distortion(images, logits):
    """`-log p(x|z)` of Bernoulli pixels, summed over each image."""
    return ops.sum(ops.softplus(logits) - images * logits, axis=(1, 2, 3))


def main(arguments=None):
    """Train both models and print rate, distortion and their sum on the test images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    epochs = parser.parse_args(arguments).epochs
    data = echo_tf.load_dataset("digits")
    results = {}
    for name, sample in (("before: Gaussian", sample_before), ("after: Echo", sample_after)):
        keras.utils.set_random_seed(0)
        model = build_autoencoder(sample)
        images = data.train[: len(data.train) // 120 * 120]  # batches of more than d_max = 99
        model.fit(images, {"logits": images, "rate": np.zeros(len(images))}, batch_size=120, epochs=epochs, verbose=0)
        test = data.test
        measured = model.evaluate(
            test, {"logits": test, "rate": np.zeros(len(test))}, batch_size=120, return_dict=True, verbose=0
        )
        results[name] = {"rate": measured["rate_loss"], "distortion": measured["logits_loss"], "-ELBO": measured["loss"]}
        print(f"{name:18s}" + "".join(f"  {key} {value:7.2f}" for key, value in results[name].items()), "nats")
    return results


if __name__ == "__main__":
    main()
