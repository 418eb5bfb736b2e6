"""Probabilities whose products underflow, in every function of theory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import entr
from scipy.stats import poisson

from echo_tf import theory
from echo_tf.theory.finite import log_product

SETTINGS = settings(max_examples=100, deadline=None)

# 1 to 1e-300, and now and then 0.
WEIGHTS = st.one_of(st.floats(-300.0, 0.0), st.just(-math.inf)).map(lambda exponent: 10.0**exponent)


def laws(shape):
    return arrays(np.float64, shape, elements=WEIGHTS).filter(np.any).map(lambda weights: weights / weights.sum())


def entropy(law):
    return float(entr(law).sum())


@st.composite
def finite_sources(draw):
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    costs = st.one_of(st.floats(0.0, 10.0), st.just(math.inf))
    distortion = draw(arrays(np.float64, (n, m), elements=costs))
    distortion[np.isinf(distortion).all(axis=1), 0] = 1.0
    return draw(laws(n)), distortion


@SETTINGS
@given(
    source=finite_sources(),
    slope=st.sampled_from([0.0, 0.1, 1.0, 20.0, 1e3, math.inf]),
    start=st.one_of(st.none(), laws(5)),
    other=arrays(np.float64, (5, 3), elements=st.floats(0.01, 1.0)),
)
def test_blahut_arimoto_and_its_channel(source, slope, start, other):
    p, distortion = source
    size = distortion.shape[1]
    if start is not None:
        start = start[:size] / start[:size].sum() if start[:size].sum() > 1e-300 else None
    point = theory.blahut_arimoto(p, distortion, slope, initial_output=start, max_iterations=500)
    assert np.all(np.isfinite([point.rate, point.distortion, point.gap]))
    assert 0.0 <= point.rate <= entropy(p) + 1e-12
    assert point.gap >= 0.0
    assert point.output.sum() == pytest.approx(1.0, abs=1e-12)

    np.testing.assert_allclose(point.channel.sum(axis=1), 1.0, atol=1e-12)
    joint = p[:, None] * point.channel
    information = theory.mutual_information(joint)
    assert information == pytest.approx(point.rate, abs=1e-9)
    assert theory.mutual_information(joint.T) == pytest.approx(information, abs=1e-12)
    assert np.sum(joint, where=joint > 0, initial=0.0) == pytest.approx(1.0, abs=1e-12)
    costs = np.where(joint > 0, distortion, 0.0)
    assert np.sum(joint * costs) == pytest.approx(point.distortion, abs=1e-9)
    # What is made of Y tells no more about X than Y does.
    other = other[:size] / other[:size].sum(axis=1, keepdims=True)
    assert theory.mutual_information(joint @ other) <= information + 1e-12


@SETTINGS
@given(source=finite_sources())
def test_the_certificate_holds(source):
    p, distortion = source
    rough = theory.blahut_arimoto(p, distortion, 3.0, tolerance=1e-2)
    fine = theory.blahut_arimoto(p, distortion, 3.0, initial_output=0.5 * rough.output + 0.5 / len(rough.output))
    values = [point.rate + 3.0 * point.distortion for point in (rough, fine)]
    assert values[0] - rough.gap <= values[1] + 1e-12
    assert values[1] - fine.gap <= values[0] + 1e-12


@SETTINGS
@given(joint=laws((3, 4)), beta=st.sampled_from([0.0, 0.5, 2.0, 50.0, 1e6, 1e300]))
def test_information_bottleneck(joint, beta):
    information = theory.mutual_information(joint)
    assert 0.0 <= information <= min(entropy(joint.sum(axis=0)), entropy(joint.sum(axis=1))) + 1e-12
    assert theory.mutual_information(joint.T) == pytest.approx(information, abs=1e-12)
    point = theory.information_bottleneck(joint, beta, max_iterations=200)
    occurs = joint.sum(axis=1) > 0
    np.testing.assert_allclose(point.encoder[occurs].sum(axis=1), 1.0, atol=1e-12)
    assert 0.0 <= point.relevance <= min(information, point.rate) + 1e-12
    assert point.rate <= entropy(joint.sum(axis=1)) + 1e-12
    t_and_y = point.encoder[occurs].T @ joint[occurs]
    assert theory.mutual_information(t_and_y) == pytest.approx(point.relevance, abs=1e-9)
    assert np.all(np.diff(point.lagrangians) <= 1e-12 * max(1.0, beta))


@SETTINGS
@given(p=WEIGHTS, share=st.floats(0.0, 1.0), large=WEIGHTS.filter(bool))
def test_closed_forms(p, share, large):
    distortion = share * p
    assert 0.0 <= theory.binary_entropy(p) <= math.log(2.0)
    assert 0.0 <= theory.bernoulli_hamming_rd(p, distortion) <= theory.binary_entropy(p)
    if distortion > 0:
        ratio = math.log(large) - math.log(distortion)
        assert theory.gaussian_rd(large, distortion) == pytest.approx(max(0.0, 0.5 * ratio), rel=1e-12)
        assert theory.laplacian_rd(large, distortion) == pytest.approx(max(0.0, ratio), rel=1e-12)
        vector = theory.gaussian_vector_rd([large, large], distortion)
        assert vector == pytest.approx(2 * theory.gaussian_rd(large, 0.5 * distortion), rel=1e-9, abs=1e-12)
        assert math.isfinite(theory.shannon_lower_bound(0.0, distortion))


@SETTINGS
@given(x=WEIGHTS, y=WEIGHTS, log_var=st.floats(-1e3, 700.0), mean=WEIGHTS)
def test_vae(x, y, log_var, mean):
    terms = theory.vae_rate_distortion([[x]], [[y]], [[mean]], [[log_var]], distortion="bernoulli")
    assert terms.rate[0] >= 0.0
    assert terms.distortion[0] >= 0.0
    assert not np.any(np.isnan(terms))
    assert math.isfinite(terms.distortion[0]) or (x > 0 and y == 0) or (x < 1 and y == 1)


def test_rare_symbols():
    # The product of two marginals, 1e-318 each, is 0 in floats.
    n = np.arange(250)
    p = poisson.pmf(n, 5.0)
    p /= p.sum()
    point = theory.blahut_arimoto(p, abs(n[:, None] - n), 2.0)
    assert theory.mutual_information(p[:, None] * point.channel) == pytest.approx(point.rate, abs=1e-12)
    assert theory.mutual_information(np.diag(p)) == pytest.approx(entropy(p), abs=1e-12)
    assert theory.mutual_information(np.diag([1.0, 1e-300])) == pytest.approx(1e-300 * math.log(1e300), rel=1e-12, abs=0)


def test_small_values_keep_their_digits():
    assert theory.binary_entropy(1e-300) == pytest.approx(1e-300 * (1.0 - math.log(1e-300)), rel=1e-14, abs=0)
    white = theory.vae_rate_distortion([[0.0]], [[1e-300]], [[0.0]], [[1e-9]], distortion="bernoulli")
    assert white.distortion[0] == pytest.approx(1e-300, rel=1e-14, abs=0)


def test_inputs_and_outputs_that_only_the_rare_need():
    # The common input may use the first output only, the rare ones two others each.
    inf = math.inf
    distortion = [[0.0, inf, inf, inf], [inf, 0.0, 1.0, inf], [inf, inf, 0.0, 1.0]]
    point = theory.blahut_arimoto([1.0, 1e-200, 1e-300], distortion, 2.0)
    assert point.converged
    np.testing.assert_allclose(point.channel.sum(axis=1), 1.0)
    assert point.channel[1, 1] > 0.8
    # A probability of 0, or too small for a normal float, has a channel too if any output is allowed.
    for rarest in (0.0, 5e-324):
        point = theory.blahut_arimoto([0.5, 0.5, rarest], [[0.0, 1.0, inf], [1.0, 0.0, inf], [inf, inf, 0.0]], 9.0)
        np.testing.assert_array_equal(point.channel[2], [0.0, 0.0, 1.0])
        assert theory.mutual_information(np.array([[0.5], [0.5], [rarest]]) * point.channel) == pytest.approx(point.rate)


def test_steps_that_leave_the_range_of_floats_are_not_taken():
    # An extrapolation deserts the outputs of the rarest input; its sums underflow in the step after the next.
    p = [4.27809204e-245, 1.0, 3.46471453e-77, 5.08340130e-270, 1.17257401e-136, 8.94379527e-110]
    distortion = [
        [22.5964439, 82.6250867, 55.1885070, 0.0288444832, 38.1159041],
        [0.00702826313, 411.666031, 1.56287706, 0.00103602503, 110.616594],
        [0.00759266937, 0.365682612, 0.0335823278, 0.157265203, 40.9874596],
        [703.761611, 0.427609507, 16.7270557, 258.887274, 0.0150670308],
        [0.0105678213, 6.13862314, 223.338803, 0.207668133, 35.8502478],
        [0.0197231090, 6.50090523, 0.0781484007, 53.9065498, 0.234060434],
    ]
    start = [5.70853366e-169, 2.48735409e-128, 3.28056051e-104, 1.0, 6.52321446e-87]
    point = theory.blahut_arimoto(p, distortion, 20.36058226170441, initial_output=start)
    assert np.all(np.isfinite([point.rate, point.distortion, point.gap, *point.lagrangians]))
    np.testing.assert_allclose(point.channel.sum(axis=1), 1.0)


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_product_of_logarithms(shape):
    rng = np.random.default_rng(0)
    log_factor, log_other = rng.uniform(-2_000.0, 0.0, (5, 4)), rng.uniform(-2_000.0, 2_000.0, shape)
    expected = np.logaddexp.reduce(log_factor[(..., *[None] * (len(shape) - 1))] + log_other, axis=1)
    np.testing.assert_allclose(log_product(np.exp(log_factor), log_factor, log_other), expected, rtol=1e-12)
