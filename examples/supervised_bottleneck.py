#!/usr/bin/env python3
"""How many nats of an image does a classifier use? An Echo bottleneck in a Keras Sequential model says so exactly.

A dearer rate makes the network forget what the label does not need. Small digits (scikit-learn, no download), a minute on two
cores. Run it from the root of the repository:

    python examples/supervised_bottleneck.py
"""

import argparse
import sys
from pathlib import Path

import keras
from keras import layers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # or `pip install .`

import echo_tf

BETAS = (0.01, 0.1, 0.5)


def build_classifier(beta):
    """Images to logits, with beta times the rate of the bottleneck in the loss."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            # 4 dimensions with 239 echoes: the rate cannot be below 4 * 0.078 nats, the label is worth log 10 = 2.3.
            echo_tf.EchoDense(4, d_max=239, rate_weight=beta, seed=0, name="bottleneck"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss=loss, metrics=["accuracy"])
    return model


def main(arguments=None):
    """Train a classifier for each beta and print its test accuracy and rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=150)
    epochs = parser.parse_args(arguments).epochs
    data = echo_tf.load_dataset("digits")
    whole = len(data.train) // 240 * 240
    results = {}
    for beta in BETAS:
        keras.utils.set_random_seed(0)
        model = build_classifier(beta)
        model.fit(data.train[:whole], data.train_labels[:whole], batch_size=240, epochs=epochs, verbose=0)
        accuracy = model.evaluate(data.test, data.test_labels, batch_size=360, verbose=0, return_dict=True)["accuracy"]

        bottleneck = model.get_layer("bottleneck")
        features = keras.Model(model.inputs, bottleneck.input).predict(data.test, verbose=0)
        rate = float(keras.ops.mean(bottleneck(features, return_rate=True)[1]))
        results[beta] = {"accuracy": accuracy, "rate": rate}
        print(f"beta {beta:5.2f}:  accuracy {100 * accuracy:5.1f} %  rate {rate:5.2f} nats")
    return results


if __name__ == "__main__":
    main()
