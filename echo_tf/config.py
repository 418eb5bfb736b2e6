"""Configurations, under the name by which programs of version 0.1 import them; they live in `models`."""

from echo_tf.models.config import *  # noqa: F403
