"""Echo noise channels and rate-distortion autoencoders for Keras 3."""

import importlib

from echo_tf.version import __version__

# Public names by module. Imported at first use: configurations and theory need no Keras, which takes seconds.
_MODULES = {
    "channels": ("GaussianChannel",),
    "config": ("Config", "load_config"),
    "data": ("Dataset", "load_dataset"),
    "errors": ("CellError", "ConfigError", "DataError", "ResultError", "TrainingError"),
    "echo": ("EchoDense", "EchoLayer", "echo_noise", "echo_rate", "echo_sample"),
    "losses": ("mean_rate",),
    "matrix": ("MatrixEchoLayer",),
    "model": ("RateDistortionModel", "build_model"),
    "theory": (),
    "truncation": ("max_scale",),
}
_ORIGIN = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_ORIGIN)]


def __getattr__(name: str):
    if name in _ORIGIN:
        return getattr(importlib.import_module(f"echo_tf.{_ORIGIN[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"echo_tf.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_ORIGIN])
