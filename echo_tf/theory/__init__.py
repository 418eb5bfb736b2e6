"""Exact rate-distortion theory in NumPy and SciPy: finite sources, the information bottleneck, closed forms, estimators."""

from echo_tf.theory.finite import (
    IBPoint,
    RDPoint,
    VAERateDistortion,
    bernoulli_hamming_rd,
    binary_entropy,
    blahut_arimoto,
    gaussian_rd,
    gaussian_vector_rd,
    information_bottleneck,
    laplacian_rd,
    mutual_information,
    rd_curve,
    shannon_lower_bound,
    to_bits,
    uniform_hamming_rd,
    vae_rate_distortion,
)

__all__ = [
    "IBPoint",
    "RDPoint",
    "VAERateDistortion",
    "bernoulli_hamming_rd",
    "binary_entropy",
    "blahut_arimoto",
    "gaussian_rd",
    "gaussian_vector_rd",
    "information_bottleneck",
    "laplacian_rd",
    "mutual_information",
    "rd_curve",
    "shannon_lower_bound",
    "to_bits",
    "uniform_hamming_rd",
    "vae_rate_distortion",
]
