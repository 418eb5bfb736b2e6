"""Total correlation of the noise of trained Echo models in several ways: the rows of `total_correlation.csv`.

From the root of the repository, with folders that `reproduce.py --out` has filled:
`PYTHONPATH=. python results/total_correlation/scripts/measure.py FOLDER [FOLDER ...]`. It goes on where it was stopped.
"""

import sys
from pathlib import Path

import numpy as np
from keras import ops

import echo_tf
from echo_tf.experiments.analysis import rate_by_dimension, total_correlation
from echo_tf.experiments.records import Result, read_results
from echo_tf.experiments.run import load_model
from echo_tf.files import locked, read_rows, write_rows

FOLDER = Path(__file__).parent
DRAWS, BATCH = 5_000, 100
KEY = {"method": str, "epochs": int, "seed": int}
MEASURED = (
    "rate_nats",
    "near_floor",  # dimensions at no more than twice the floor of the rate
    "noise_nats",  # total correlation of the noise, as in the table of the record
    "noise_se_nats",
    "z_before_nats",  # that of z before it is standardised
    "z_after_nats",  # and as the decoder reads it
    "above_floor_nats",  # that of the noise of the dimensions above twice the floor
    "batches_nats",  # mean over batches of 100 draws each, with no bias taken off
)


def measured(found: Result, images: np.ndarray) -> dict[str, float]:
    """The columns of a model, nats."""
    model = load_model(found.folder)
    channel, features = model.channel, model.features(images)
    rates = rate_by_dimension(channel, features)
    above = rates > 2 * channel.rate_floor / len(rates)
    noise = channel.noise_samples(features, DRAWS, BATCH, found.config.seed)
    rows = features[np.random.default_rng(found.config.seed).integers(0, len(features), DRAWS)]
    mean, scale = channel.statistics(rows)
    before = ops.convert_to_numpy(mean + channel.attenuate(scale, ops.convert_to_tensor(noise)))
    after = ops.convert_to_numpy(channel.with_noise(rows, noise))
    batches = noise[: DRAWS // BATCH * BATCH].reshape(-1, BATCH, len(rates))
    uncorrected = [-0.5 * np.linalg.slogdet(np.corrcoef(batch, rowvar=False))[1] for batch in batches]
    total, error = total_correlation(noise)
    return {
        "rate_nats": rates.sum(),
        "near_floor": int((~above).sum()),
        "noise_nats": total,
        "noise_se_nats": error,
        "z_before_nats": total_correlation(before)[0],
        "z_after_nats": total_correlation(after)[0],
        "above_floor_nats": total_correlation(noise[:, above])[0] if above.sum() > 1 else 0.0,
        "batches_nats": float(np.mean(uncorrected)),
    }


def main(folders: list[str]) -> None:
    """Measure what is missing."""
    images, path = echo_tf.load_dataset("digits").test, FOLDER / "total_correlation.csv"
    with locked(FOLDER):
        rows = read_rows(path, KEY | dict.fromkeys(MEASURED, float))
        known = {tuple(row[name] for name in KEY) for row in rows}
        for found in (result for folder in folders for result in read_results(Path(folder))):
            config = found.config
            key = (config.method, config.training.epochs, config.seed)
            if key not in known and config.channel.is_echo and config.beta == 1:
                rows.append(dict(zip(KEY, key, strict=True)) | measured(found, images))
                write_rows(path, sorted(rows, key=lambda row: tuple(row[name] for name in KEY)))
                known.add(key)


if __name__ == "__main__":
    main(sys.argv[1:])
