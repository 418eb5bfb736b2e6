import pytest

from echo_tf.experiments.cells import Cell
from echo_tf.models.config import load_config


@pytest.fixture(scope="session")
def tiny():
    """A function that gives the configuration of a small model of `vectors`, three steps an epoch."""

    def config(method="vae", epochs=3, **groups):
        defaults = {"network": {"latent_dim": 2}, "channel": {"d_max": 9}, "training": {"epochs": epochs, "batch_size": 20}}
        names = defaults.keys() | groups.keys()
        values = {n: defaults[n] | groups.get(n, {}) if n in defaults else groups[n] for n in names}
        return load_config(method, **values)

    return config


@pytest.fixture(scope="session")
def cell(vectors, tiny):
    return Cell("vectors", tiny(), data=vectors.fingerprint)
