"""Echo noise channels and rate-distortion autoencoders for Keras 3."""

import importlib

from echo_tf import registration

__version__ = "0.2.0"

# Public names and their modules, imported when they are first used: `import echo_tf.theory` needs NumPy and SciPy alone.
_HOMES = {
    "BetaConstraint": "models.penalties",
    "CellError": "errors",
    "Channel": "echo.channel",
    "Config": "models.config",
    "ConfigError": "errors",
    "DataError": "errors",
    "Dataset": "data.dataset",
    "EchoDense": "echo.dense",
    "EchoLayer": "echo.layer",
    "Gaussian": "models.distortions",
    "GaussianChannel": "models.channels",
    "IAFChannel": "models.channels",
    "MAFPrior": "models.priors",
    "MMDPenalty": "models.penalties",
    "MatrixEchoLayer": "echo.matrix",
    "RateDistortionModel": "models.autoencoder",
    "ResultError": "errors",
    "TrainingError": "errors",
    "VampPrior": "models.priors",
    "bernoulli_distortion": "models.losses",
    "build_model": "models.build",
    "echo_moments": "echo.noise",
    "echo_noise": "echo.noise",
    "echo_rate": "echo.noise",
    "echo_sample": "echo.noise",
    "gaussian_kl": "models.losses",
    "load_config": "models.config",
    "load_dataset": "data.load",
    "max_scale": "echo.bound",
    "mean_rate": "models.losses",
    "mmd": "models.losses",
}

__all__ = ["__version__", "theory", *_HOMES]

registration.register()


def __getattr__(name: str):
    if name == "theory":
        return importlib.import_module("echo_tf.theory")
    if name not in _HOMES:
        raise AttributeError(f"module 'echo_tf' has no attribute {name!r}")
    home = f"echo_tf.{_HOMES[name]}"
    if registration.needs_keras(home):
        registration.import_all()
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
