"""What `adapt` is worth in the README's model: test -ELBO before and after it, the rows of `adapt.csv`.

From the root of the repository, `PYTHONPATH=. python results/parametrisation/scripts/adapt.py`, a minute.
"""

from pathlib import Path

import keras
import numpy as np

import echo_tf
from echo_tf.files import write_rows

EPOCHS = (5, 40)
SEEDS = range(3)
PASSES = 20


def trained(epochs: int, seed: int, images: np.ndarray) -> tuple[keras.Model, keras.Sequential]:
    """The README's model after so many epochs, and its encoder."""
    keras.utils.set_random_seed(seed)
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(256, activation="relu")])
    decoder = keras.Sequential(
        [keras.layers.Dense(256, activation="relu"), keras.layers.Dense(784), keras.layers.Reshape((28, 28, 1))]
    )
    inputs = keras.Input((28, 28, 1))
    model = keras.Model(inputs, decoder(echo_tf.EchoDense(16, rate_weight=1.0, name="echo")(encoder(inputs))))
    model.compile("adam", loss=echo_tf.bernoulli_distortion)
    model.fit(images, images, batch_size=128, epochs=epochs, verbose=0)
    return model, encoder


def neg_elbo(model: keras.Model, images: np.ndarray) -> tuple[float, float]:
    """Mean over draws of the noise, and its standard error, nats."""
    found = [model.evaluate(images, images, batch_size=360, verbose=0, return_dict=True)["loss"] for _ in range(PASSES)]
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(PASSES))


def main() -> None:
    """Measure all."""
    data, rows = echo_tf.load_dataset("digits"), []
    train, test = data.images("train"), data.images("test")
    for epochs in EPOCHS:
        for seed in SEEDS:
            model, encoder = trained(epochs, seed, train)
            before = neg_elbo(model, test)
            model.get_layer("echo").adapt(encoder.predict(train, verbose=0))
            after = neg_elbo(model, test)
            names = ("before_nats", "before_nats_se", "after_nats", "after_nats_se")
            rows.append({"epochs": epochs, "seed": seed, **dict(zip(names, (*before, *after), strict=True))})
    write_rows(Path(__file__).parent / "adapt.csv", rows)


if __name__ == "__main__":
    main()
