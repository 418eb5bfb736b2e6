"""How many dimensions of trained models send more than a tenth of a nat: the rows of `dimensions.csv`.

From the root of the repository, with the folder of trained models:
`PYTHONPATH=. python results/lead/scripts/dimensions.py runs/lead`.
"""

import sys
from pathlib import Path

import echo_tf
from echo_tf.experiments.analysis import rate_by_dimension
from echo_tf.experiments.records import read_results
from echo_tf.experiments.run import load_model
from echo_tf.files import write_rows

METHODS = ("vae", "vae_warm", "vae_full", "vae_full_warm", "echo", "echo_matrix")
LEAST_NATS = 0.1


def main(folder: str) -> None:
    """Measure the models at beta = 1."""
    images, rows = echo_tf.load_dataset("digits").test, []
    for found in read_results(Path(folder)):
        config = found.config
        if config.method in METHODS and config.beta == 1:
            model = load_model(found.folder)
            rates = rate_by_dimension(model.channel, model.features(images))
            count = int((rates > LEAST_NATS).sum())
            rows.append({"method": config.method, "seed": config.seed, "dimensions": count, "rate_nats": float(rates.sum())})
    write_rows(Path(__file__).parent / "dimensions.csv", rows)


if __name__ == "__main__":
    main(sys.argv[1])
