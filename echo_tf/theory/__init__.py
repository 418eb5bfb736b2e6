"""Exact rate-distortion theory in NumPy and SciPy: finite sources, the information bottleneck, closed forms, estimators."""
# ruff: noqa: F403  (what is public stands in `__all__` of each module)

from echo_tf.theory import bottleneck, closed_forms, estimators, finite, inversion, vae
from echo_tf.theory.bottleneck import *
from echo_tf.theory.closed_forms import *
from echo_tf.theory.estimators import *
from echo_tf.theory.finite import *
from echo_tf.theory.inversion import *
from echo_tf.theory.vae import *

__all__ = [*bottleneck.__all__, *closed_forms.__all__, *estimators.__all__, *finite.__all__, *inversion.__all__, *vae.__all__]
