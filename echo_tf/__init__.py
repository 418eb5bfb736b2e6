"""Echo noise channels and rate-distortion autoencoders for Keras 3."""

from echo_tf.channels import GaussianChannel
from echo_tf.config import Config, ConfigError, load_config
from echo_tf.data import DataError, Dataset, load_dataset
from echo_tf.echo import EchoDense, EchoLayer, echo_noise, echo_rate, echo_sample, max_scale
from echo_tf.losses import mean_rate
from echo_tf.model import RateDistortionModel, build_model
from echo_tf.version import __version__

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "Dataset",
    "EchoDense",
    "EchoLayer",
    "GaussianChannel",
    "RateDistortionModel",
    "__version__",
    "build_model",
    "echo_noise",
    "echo_rate",
    "echo_sample",
    "load_config",
    "load_dataset",
    "max_scale",
    "mean_rate",
]
