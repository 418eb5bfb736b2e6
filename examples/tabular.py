#!/usr/bin/env python3
"""A table through an Echo bottleneck: the information kept about each row in nats, and what can be told from it again.

30 measurements of 569 tumours (scikit-learn, no download), half a minute on two cores. One row alone can be encoded, the model
is saved and loaded, and rows are generated without data. Run it from the root of the repository:

    python examples/tabular.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_breast_cancer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # or `pip install .`

import echo_tf

BETA = 0.5  # squared units of standardised columns that a nat is worth


def build_model(columns, beta):
    """Rows to rows, with beta times the rate in the loss."""
    rows = keras.Input((columns,))
    h = layers.Dense(64, activation="relu")(rows)
    z, rate = echo_tf.EchoDense(4, d_max=149, rate_weight=None, seed=0, name="bottleneck")(h, return_rate=True)
    h = layers.Dense(64, activation="relu", name="decoder_hidden")(z)
    model = keras.Model(rows, {"rows": layers.Dense(columns, name="decoder_rows")(h), "rate": rate})
    model.compile(
        keras.optimizers.Adam(3e-3),
        loss={"rows": squared_error, "rate": echo_tf.mean_rate},
        loss_weights={"rows": 1.0, "rate": beta},
    )
    return model


def squared_error(rows, decoded):
    """Summed over columns."""
    return keras.ops.sum(keras.ops.square(rows - decoded), axis=-1)


def main(arguments=None):
    """Train, save, load, and print what the bottleneck keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    epochs = parser.parse_args(arguments).epochs
    table = load_breast_cancer().data.astype("float32")
    table = np.random.default_rng(0).permutation((table - table.mean(0)) / table.std(0))
    train, test = table[:450], table[450:]

    keras.utils.set_random_seed(0)
    model = build_model(table.shape[1], BETA)
    model.fit(train, {"rows": train, "rate": np.zeros(len(train))}, batch_size=150, epochs=epochs, verbose=0)

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        model = keras.saving.load_model(Path(folder) / "model.keras", custom_objects={"squared_error": squared_error})
    outputs = model.predict(test, verbose=0)
    explained = 1.0 - np.square(outputs["rows"] - test).sum() / np.square(test - train.mean(0)).sum()
    rate = float(outputs["rate"].mean())
    print(f"{rate:.2f} nats a row explain {100 * explained:.0f} % of the variance of unseen rows")

    one = np.array([model.predict(test[:1], verbose=0)["rows"][0, 0] for _ in range(20)])
    print(f"one row alone, first column: {one.mean():+.2f} ± {one.std():.2f} over draws, in truth {test[0, 0]:+.2f}")

    z = model.get_layer("bottleneck").sample_marginal(1000)
    generated = np.asarray(model.get_layer("decoder_rows")(model.get_layer("decoder_hidden")(z)))
    correlation = np.corrcoef(np.corrcoef(generated.T).ravel(), np.corrcoef(train.T).ravel())[0, 1]
    print(f"generated rows: their correlations between columns agree with the true ones to r = {correlation:.2f}")
    return {"rate": rate, "explained": float(explained), "one_row": one, "correlation": float(correlation)}


if __name__ == "__main__":
    main()
