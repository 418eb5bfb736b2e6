"""The paper's published numbers, `configs/paper.yaml`. Needs no Keras."""

import functools

import yaml

from echo_tf.models.config import CONFIG_DIR


@functools.cache
def published() -> dict:
    """All published numbers by table."""
    return yaml.safe_load((CONFIG_DIR / "paper.yaml").read_text(encoding="utf-8"))


def paper_table() -> dict[str, dict[str, dict[str, float]]]:
    """The paper's table 2 by data set and method, nats at beta = 1."""
    return published()["table_2"]
