"""Lets `keras.saving.load_model` find our classes after a plain `import echo_tf`, which does not import Keras itself."""

import importlib
import importlib.abc
import importlib.util
import sys

# What is imported without Keras; everything else in the rooms `echo` and `models` needs it.
LIGHT = ("echo_tf.echo.bound", "echo_tf.models.combinations", "echo_tf.models.config")

# Modules with classes and functions that `.keras` files name.
MODULES = (
    "echo_tf.echo.layer",
    "echo_tf.echo.dense",
    "echo_tf.echo.matrix",
    "echo_tf.echo.matrix_dense",
    "echo_tf.models.channels",
    "echo_tf.models.gaussian_echo",
    "echo_tf.models.flows",
    "echo_tf.models.losses",
    "echo_tf.models.distortions",
    "echo_tf.models.penalties",
    "echo_tf.models.pixel_cnn",
    "echo_tf.models.priors",
    "echo_tf.models.schedules",
    "echo_tf.models.autoencoder",
)


def register() -> None:
    """Import `MODULES`, which register their classes with Keras: now if Keras is there, else as soon as it is."""
    if "keras" in sys.modules:
        import_all()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def import_all() -> None:
    """Import Keras and `MODULES`."""
    for module in ("keras", *MODULES):
        importlib.import_module(module)


def needs_keras(module: str) -> bool:
    """Whether a module of ours imports Keras and is, or is imported by, one of `MODULES`."""
    return module.startswith(("echo_tf.echo.", "echo_tf.models.")) and module not in LIGHT


class _AfterKeras(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds Keras as Python does, and imports `MODULES` after it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self.loader  # as if we had not been here
        self.loader.exec_module(module)
        if not any(map(needs_keras, sys.modules)):  # else one of them is importing Keras, and others may need that one
            import_all()
