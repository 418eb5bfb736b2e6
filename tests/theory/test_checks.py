"""What every function of theory takes and refuses, and the tolerances of types."""

import importlib.metadata
import math
import subprocess
import sys

import numpy as np
import pytest

from echo_tf import theory
from echo_tf.theory.sources import all_sources

HAMMING = [[0.0, 1.0], [1.0, 0.0]]
PAIRS = dict(zip("xz", np.random.default_rng(0).normal(size=(2, 8, 1)), strict=True))
VALID = {
    theory.blahut_arimoto: {
        **{"p_x": [0.5, 0.5], "distortion": HAMMING, "slope": 1.0},
        **{"tolerance": 1e-9, "max_iterations": 9, "initial_output": [0.5, 0.5]},
    },
    theory.rd_curve: {"p_x": [0.5, 0.5], "distortion": HAMMING, "slopes": [1.0]},
    theory.information_bottleneck: {"p_xy": [[0.5, 0.5]], "beta": 1.0, "tolerance": 1e-9, "max_iterations": 9},
    theory.mutual_information: {"joint": [[0.5, 0.5]]},
    theory.to_bits: {"nats": 1.0},
    theory.gaussian_rd: {"variance": 1.0, "distortion": 0.5},
    theory.gaussian_vector_rd: {"covariance_or_variances": [1.0], "distortion": 0.5},
    theory.bernoulli_hamming_rd: {"p": 0.5, "distortion": 0.5},
    theory.uniform_hamming_rd: {"m": 2, "distortion": 0.5},
    theory.laplacian_rd: {"scale": 1.0, "distortion": 0.5},
    theory.shannon_lower_bound: {"entropy": 1.0, "distortion": 0.5},
    theory.binary_entropy: {"p": 0.5},
    theory.vae_rate_distortion: {"x": [[1.0]], "x_recon": [[1.0]], "mean": [[1.0]], "log_var": [[1.0]], "beta": 1.0},
    theory.nearest_neighbour_information: {**PAIRS, "k": 1},
    theory.histogram_information: {**PAIRS, "bins": 2},
    theory.regression_bound: {**PAIRS, "degree": 1},
    theory.correlation_information: PAIRS,
    theory.energy_test: {"x": [[0.0], [1.0]], "y": [[0.0], [1.0]], "permutations": 9, "seed": 0},
    theory.rate_at_distortion: {"p_x": [0.5, 0.5], "distortion": HAMMING, "target": 0.1},
}
BAD = {
    "text": "abc",
    "text of a number": "0.5",
    "NaN": math.nan,
    "list with NaN": [math.nan],
    "huge integer": 10**400,
    "list with a huge integer": [10**400],
    "negative infinity": -math.inf,
    "complex": 1j,
    "empty list": [],
    "empty matrix": np.zeros((0, 2)),
    "ragged": [[1.0], [1.0, 2.0]],
    "object": object(),
    "date": np.datetime64("2020-01-01"),
}


def test_every_function_is_here():
    assert {function.__name__ for function in VALID} | {"IBPoint", "RDPoint", "VAERateDistortion"} == set(theory.__all__)


@pytest.mark.parametrize(
    ("function", "argument"),
    [pytest.param(f, name, id=f"{f.__name__}-{name}") for f, arguments in VALID.items() for name in arguments],
)
def test_what_is_no_number_is_refused(function, argument):
    function(**VALID[function])
    for kind, value in BAD.items():
        if (argument, kind) == ("nats", "negative infinity"):
            continue
        with pytest.raises(
            ValueError, match=f"Invalid value received for argument `{argument}`. Expected .*Received: "
        ) as error:
            function(**VALID[function] | {argument: value})
        assert len(str(error.value)) < 300, kind


@pytest.mark.parametrize("source", all_sources(), ids=lambda source: source.name)
@pytest.mark.parametrize("distortion", [-1.0, math.nan, [], 10**400])
def test_rates_of_the_sources_refuse_what_is_no_distortion(source, distortion):
    with pytest.raises(ValueError, match="`distortion`"):
        source.rate(distortion)


@pytest.mark.parametrize("function", [theory.gaussian_rd, theory.laplacian_rd, theory.bernoulli_hamming_rd])
def test_shapes_that_do_not_broadcast(function):
    with pytest.raises(ValueError, match=r"`, `distortion`. Expected shapes that broadcast. Received: .* \(2,\), .* \(3,\)"):
        function(np.full(2, 0.5), np.full(3, 0.5))


def test_scalars_and_lists_are_arrays():
    assert theory.gaussian_vector_rd(4.0, 1.0) == pytest.approx(math.log(2.0))
    assert theory.gaussian_vector_rd([[4.0]], [1.0]) == pytest.approx([math.log(2.0)])
    for slopes in (1.0, np.array(1.0), (1.0,), iter([1.0]), {1.0}):
        assert [point.slope for point in theory.rd_curve([0.5, 0.5], HAMMING, slopes)] == [1.0]


def asymmetric_covariance(dtype, variances):
    """A covariance as products of matrices leave it: symmetric up to the rounding of its type."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(dtype)
    covariance = ((rotation * np.asarray(variances, dtype)) @ rotation.T).astype(dtype)
    covariance[0, 1] = np.nextafter(covariance[0, 1], dtype(9.0))
    assert not np.array_equal(covariance, covariance.T)
    return covariance


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-4), (np.float16, 1e-1)])
def test_covariances_have_the_tolerance_of_their_type(dtype, rtol):
    variances = [4.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]  # rounding makes the zeros negative
    covariance = asymmetric_covariance(dtype, variances)
    rate = theory.gaussian_vector_rd(covariance, 3.0)
    assert rate == pytest.approx(float(theory.gaussian_vector_rd(variances, 3.0)), rel=rtol)
    assert theory.gaussian_vector_rd(list(covariance), 3.0) == rate


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-6), (np.float32, 1e-3), (np.float16, 0.1), (np.int16, 1)])
def test_covariances_are_refused_beyond_it(dtype, error):
    covariance = (1 if dtype != np.int16 else 1_000) * np.eye(2, dtype=dtype)
    with pytest.raises(ValueError, match="symmetric"):
        theory.gaussian_vector_rd(covariance + np.array([[0, error], [0, 0]], dtype), 0.1)
    with pytest.raises(ValueError, match="semidefinite"):
        theory.gaussian_vector_rd(covariance * np.array([[1, 0], [0, -error]], dtype), 0.1)


def rounded_law(dtype):
    """A law of 100 values that misses 1 by the rounding of its type."""
    law = np.full(100, 0.01).astype(dtype)
    assert dtype == np.float64 or abs(law.astype(np.float64).sum() - 1.0) > 1e-9
    return law


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("convert", [np.asarray, list])
def test_laws_have_the_tolerance_of_their_type(dtype, convert):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    law = convert(rounded_law(np.dtype(dtype)))
    square = convert(rounded_law(np.dtype(dtype)).reshape(10, 10))
    point = theory.blahut_arimoto(law, 1.0 - np.eye(100), 9.0, initial_output=law)
    assert point.rate == pytest.approx(float(theory.uniform_hamming_rd(100, point.distortion)), abs=1e-9)
    assert theory.rd_curve(law, 1.0 - np.eye(100), [0.0])[0].distortion == pytest.approx(0.99)
    assert theory.mutual_information(square) == pytest.approx(0.0, abs=1e-12)
    assert theory.information_bottleneck(square, 2.0).rate == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-6), ("float32", 1e-3), ("float16", 0.1), ("int64", 1)])
def test_laws_are_refused_beyond_it(dtype, error):
    with pytest.raises(ValueError, match=r"`p_x`.*sum to 1"):
        theory.blahut_arimoto(np.array([1, error], dtype), HAMMING, 1.0)
    with pytest.raises(ValueError, match=r"`joint`.*sum to 1"):
        theory.mutual_information(np.array([[1, error]], dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_probabilities_may_exceed_1_by_rounding(dtype):
    p = np.nextafter(dtype(1), dtype(2))
    assert theory.binary_entropy(p) == theory.bernoulli_hamming_rd(p, 0.0) == 0.0
    terms = theory.vae_rate_distortion([[p]], [[p]], [[0.0]], [[0.0]], distortion="bernoulli")
    assert terms.distortion[0] == 0.0


def test_values_at_the_ends_of_the_range_of_floats():
    assert theory.gaussian_vector_rd([1e308, 1e308], 1e308) == pytest.approx(math.log(2.0))
    assert theory.shannon_lower_bound(0.0, 1e308) == 0.0
    assert theory.laplacian_rd(1e308, 1e-308) == pytest.approx(616 * math.log(10.0))
    assert theory.vae_rate_distortion([[1e200]], [[0.0]], [[1e200]], [[800.0]], beta=0.0) == (math.inf, math.inf, math.inf)
    assert theory.vae_rate_distortion([[0.0]], [[0.0]], [[0.0]], [[800.0]], beta=0.0).loss == 0.0


def test_the_import_is_light():
    code = "import sys; from echo_tf import theory; from echo_tf.theory import sources; print(*sys.modules, sep='\\n')"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"scipy.stats", "scipy.spatial"} & set(modules)
    installed = {name.partition(".")[0] for name in modules} & set(importlib.metadata.packages_distributions())
    at_start = {"_distutils_hack", "coverage", "pytest_cov"}  # what the environment imports by itself
    assert {"numpy", "scipy"} <= installed <= {"echo_tf", "numpy", "scipy"} | at_start
