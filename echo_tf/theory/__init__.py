"""Exact rate-distortion theory in NumPy and SciPy: finite sources, the information bottleneck, closed forms, estimators."""

from echo_tf.theory.bottleneck import IBPoint, information_bottleneck, mutual_information
from echo_tf.theory.closed_forms import (
    bernoulli_hamming_rd,
    binary_entropy,
    gaussian_rd,
    gaussian_vector_rd,
    laplacian_rd,
    shannon_lower_bound,
    to_bits,
    uniform_hamming_rd,
)
from echo_tf.theory.estimators import (
    correlation_information,
    histogram_information,
    nearest_neighbour_information,
    regression_bound,
)
from echo_tf.theory.finite import RDPoint, blahut_arimoto, rd_curve
from echo_tf.theory.vae import VAERateDistortion, vae_rate_distortion

__all__ = [
    "IBPoint",
    "RDPoint",
    "VAERateDistortion",
    "bernoulli_hamming_rd",
    "binary_entropy",
    "blahut_arimoto",
    "correlation_information",
    "gaussian_rd",
    "gaussian_vector_rd",
    "histogram_information",
    "information_bottleneck",
    "laplacian_rd",
    "mutual_information",
    "nearest_neighbour_information",
    "rd_curve",
    "regression_bound",
    "shannon_lower_bound",
    "to_bits",
    "uniform_hamming_rd",
    "vae_rate_distortion",
]
