import math

import numpy as np
import pytest
from scipy.integrate import quad

from echo_tf.theory import gaussian_rd, shannon_lower_bound
from echo_tf.theory.sources import MIXTURE_MEANS, MIXTURE_SD, POINT_MASSES, POINTS, all_sources

SOURCES = {source.name: source for source in all_sources()}


def distortion_of_rate_zero(source):
    """E d(x, best constant), from samples, with its standard error."""
    x = source.sample(np.random.default_rng(1), 200_000).astype(np.float64)
    errors = np.square(x - x.mean(0)) if source.measure == "squared" else np.abs(x - np.median(x, axis=0))
    totals = errors.sum(axis=1)
    return totals.mean(), totals.std() / math.sqrt(len(totals))


@pytest.mark.parametrize("name", SOURCES)
def test_samples_and_curve_agree(name):
    source = SOURCES[name]
    x = source.sample(np.random.default_rng(0), 10)
    assert x.shape == (10, source.dim)
    assert x.dtype == np.float32
    # The curve reaches 0 at the spread of the samples, within which it falls.
    largest, error = distortion_of_rate_zero(source)
    assert float(source.rate(largest + 5 * error)) < 1e-6
    assert float(source.rate(0.97 * largest - 5 * error)) > 1e-4
    rates = source.rate(np.geomspace(*source.distortions, 50))
    assert np.all(np.diff(rates) <= 0)
    assert source.distortions[1] == pytest.approx(largest, abs=5 * error)
    assert list(source.slopes) == sorted(source.slopes)


def test_mixture_lies_between_shannon_lower_bound_and_the_gaussian():
    def log_density(x):
        parts = [math.exp(-0.5 * ((x - m) / MIXTURE_SD) ** 2) for m in MIXTURE_MEANS]
        return math.log(sum(parts) / (2 * MIXTURE_SD * math.sqrt(2 * math.pi)))

    entropy = quad(lambda x: -math.exp(log_density(x)) * log_density(x), -6, 6, limit=200)[0]
    for distortion in (0.02, 0.1, 0.5, 2.0):
        rate = float(SOURCES["mixture"].rate(distortion))
        assert shannon_lower_bound(entropy, distortion) - 1e-3 <= rate <= gaussian_rd(4.25, distortion)
    # At small distortion the bound is all but reached: the lines below the curve are not far below it.
    assert float(SOURCES["mixture"].rate(0.02)) == pytest.approx(float(shannon_lower_bound(entropy, 0.02)), abs=5e-3)


def test_points_are_known_at_their_entropy():
    entropy = -np.sum(POINT_MASSES * np.log(POINT_MASSES))
    assert entropy - 1e-3 < float(SOURCES["points"].rate(1e-6)) <= entropy
    mean = POINT_MASSES @ POINTS
    assert float(SOURCES["points"].rate(POINT_MASSES @ np.square(POINTS - mean))) == pytest.approx(0.0, abs=1e-6)
