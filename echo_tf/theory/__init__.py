"""Exact rate-distortion theory in NumPy and SciPy: finite sources, the information bottleneck, closed forms, estimators."""
# ruff: noqa: F403  (what is public stands in `__all__` of each module)

from echo_tf.theory import bottleneck, closed_forms, estimators, finite, inversion, two_sample, vae
from echo_tf.theory.bottleneck import *
from echo_tf.theory.closed_forms import *
from echo_tf.theory.estimators import *
from echo_tf.theory.finite import *
from echo_tf.theory.inversion import *
from echo_tf.theory.two_sample import *
from echo_tf.theory.vae import *

__all__ = [
    name for module in (bottleneck, closed_forms, estimators, finite, inversion, two_sample, vae) for name in module.__all__
]
