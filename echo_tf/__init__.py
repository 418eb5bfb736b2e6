"""Echo noise channels and rate-distortion autoencoders for Keras 3."""

import importlib

from echo_tf import registration

__version__ = "0.2.0"

# Public names by module, imported when they are first used: `import echo_tf.theory` needs NumPy and SciPy alone.
_NAMES = {
    "data.dataset": "Dataset",
    "data.load": "load_dataset",
    "echo.bound": "max_scale",
    "echo.channel": "Channel",
    "echo.dense": "EchoDense",
    "echo.layer": "EchoLayer",
    "echo.matrix": "MatrixEchoLayer",
    "echo.matrix_dense": "MatrixEchoDense",
    "echo.noise": "echo_moments echo_noise echo_rate echo_sample",
    "errors": "CellError ConfigError DataError ResultError TrainingError",
    "experiments.pretrained": "load_pretrained",
    "models.autoencoder": "RateDistortionModel",
    "models.build": "build_model",
    "models.channels": "FullGaussianChannel GaussianChannel IAFChannel",
    "models.gaussian_echo": "GaussianEcho",
    "models.config": "Config load_config",
    "models.distortions": "Bernoulli Gaussian",
    "models.losses": "bernoulli_distortion gaussian_kl mean_rate mmd",
    "models.penalties": "BetaConstraint MMDPenalty TotalCorrelationPenalty",
    "models.pixel_cnn": "PixelCNN",
    "models.priors": "MAFPrior VampPrior",
}
_HOMES = {name: f"echo_tf.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", "theory", *_HOMES]

registration.register()


def __getattr__(name: str):
    if name == "theory":
        return importlib.import_module("echo_tf.theory")
    if name not in _HOMES:
        raise AttributeError(f"module 'echo_tf' has no attribute {name!r}")
    if registration.needs_keras(_HOMES[name]):
        registration.import_all()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
