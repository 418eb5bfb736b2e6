#!/usr/bin/env python3
"""Two-sample tests of the noise of one trained model against `z`, and against a Gaussian law, with several seeds of the draws.

PYTHONPATH=. python results/noise/scripts/repeat_tests.py FOLDER_OF_A_CELL --seeds 8 --data-dir DIR
"""

import argparse
from pathlib import Path

from echo_tf import load_dataset
from echo_tf.experiments.noise import compare_laws
from echo_tf.experiments.run import load_model


def main():
    """Print number of draws, energy distance and p-value, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    model = load_model(options.folder)
    images = load_dataset(options.folder.parts[-3], options.data_dir).images("train")
    for seed in range(options.seeds):
        print(seed, compare_laws(model, images, batch_size=100, seed=seed), flush=True)


if __name__ == "__main__":
    main()
