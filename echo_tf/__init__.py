"""Echo noise channels and rate-distortion autoencoders for Keras 3."""

import importlib

from echo_tf import registration

__version__ = "0.1.0"

# Public names and their modules, imported when they are first used: `import echo_tf.theory` needs NumPy and SciPy alone.
_HOMES = {
    "CellError": "errors",
    "Config": "models.config",
    "ConfigError": "errors",
    "DataError": "errors",
    "Dataset": "data.load",
    "EchoDense": "echo.layers_old",
    "EchoLayer": "echo.layers_old",
    "GaussianChannel": "models.channels",
    "IAFChannel": "models.channels",
    "MAFPrior": "models.priors",
    "MatrixEchoLayer": "echo.matrix",
    "RateDistortionModel": "models.autoencoder",
    "ResultError": "errors",
    "TrainingError": "errors",
    "VampPrior": "models.priors",
    "build_model": "models.autoencoder",
    "echo_noise": "echo.layers_old",
    "echo_rate": "echo.layers_old",
    "echo_sample": "echo.layers_old",
    "load_config": "models.config",
    "load_dataset": "data.load",
    "max_scale": "echo.bound",
    "mean_rate": "models.losses",
}

__all__ = ["__version__", "theory", *_HOMES]

registration.register()


def __getattr__(name: str):
    if name == "theory":
        return importlib.import_module("echo_tf.theory")
    if name not in _HOMES:
        raise AttributeError(f"module 'echo_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"echo_tf.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
