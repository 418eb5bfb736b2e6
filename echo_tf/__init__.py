"""Echo noise channels and rate-distortion autoencoders for Keras 3."""

import os

from echo_tf import theory
from echo_tf.config import Config, load_config
from echo_tf.errors import CellError, ConfigError, DataError, ResultError, TrainingError
from echo_tf.truncation import max_scale
from echo_tf.version import __version__

__all__ = [
    "CellError",
    "Config",
    "ConfigError",
    "DataError",
    "ResultError",
    "TrainingError",
    "__version__",
    "load_config",
    "max_scale",
    "theory",
]

# Keras loads a model only if the classes in its file have been imported, so `import echo_tf` imports them all. A program that
# looks at its configuration before it waits seconds for Keras, as reproduce.py does, sets this variable while it imports us.
if "ECHO_TF_WITHOUT_KERAS" not in os.environ:
    from echo_tf.channels import GaussianChannel
    from echo_tf.data import Dataset, load_dataset
    from echo_tf.echo import EchoDense, EchoLayer, echo_noise, echo_rate, echo_sample
    from echo_tf.losses import mean_rate
    from echo_tf.matrix import MatrixEchoLayer
    from echo_tf.model import RateDistortionModel, build_model

    __all__ += [
        "Dataset",
        "EchoDense",
        "EchoLayer",
        "GaussianChannel",
        "MatrixEchoLayer",
        "RateDistortionModel",
        "build_model",
        "echo_noise",
        "echo_rate",
        "echo_sample",
        "load_dataset",
        "mean_rate",
    ]
