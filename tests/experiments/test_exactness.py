import dataclasses
import math

import numpy as np
import pytest

from echo_tf.echo.bound import max_scale
from echo_tf.experiments import exactness
from echo_tf.experiments.exactness import CASES, independent_pairs, order_bounds, saturation


def test_pairs_follow_the_channel():
    # f(x) = x, s = 1/2: var z = 1 / (1 - s^2), correlation^2 = 1 - s^2.
    x, z, rate = independent_pairs(CASES[0], 20, 21, "ring", seed=0)
    assert x.shape == z.shape == (CASES[0].pairs, 1)
    assert rate == pytest.approx(math.log(2.0))
    z_variance = np.mean(np.square(z))
    assert abs(z_variance - 4 / 3) < 5 * math.sqrt(2 / len(x)) * 4 / 3
    assert abs(np.corrcoef(x[:, 0], z[:, 0])[0, 1] - math.sqrt(0.75)) < 5 * 0.25 / math.sqrt(len(x))


def test_order_bounds():
    for sampler in ("ring", "gather"):
        lower, upper = order_bounds(99, 100, sampler, replace=False, seed=0)
        assert lower == pytest.approx(-math.log(max_scale(99)), rel=1e-5)
        assert upper == pytest.approx(lower, rel=1e-9)
    lower, upper = order_bounds(99, 20, "ring", replace=True, seed=0)
    assert -math.log(max_scale(99)) * 1.01 < lower < upper


def test_study(monkeypatch):
    """The estimates of one channel, and the bounds of one setting with replacement and without."""
    for name, value in (("REPEATS", 3), ("SETTINGS", ((9, 30),)), ("REPLACEMENT_SETTINGS", ((9, 30),))):
        monkeypatch.setattr(exactness, name, value)
    monkeypatch.setattr(exactness, "CASES", (dataclasses.replace(CASES[0], samplers=("ring",), pairs=2_000),))
    *estimates, lower, upper, replaced, _ = exactness.study()
    for estimate in estimates:  # s = 1/2 has a rate of log 2
        assert estimate.formula_nats == pytest.approx(math.log(2.0), rel=1e-5)
        assert abs(estimate.estimate_nats - math.log(2.0)) < 5 * estimate.estimate_se + 0.02
    assert [bound.estimator for bound in (lower, upper)] == ["lower bound", "upper bound"]
    assert lower.formula_nats == pytest.approx(-math.log(max_scale(9)))
    assert lower.estimate_nats <= upper.estimate_nats + 1e-9
    assert not lower.replace and replaced.replace
    assert replaced.estimate_nats > lower.estimate_nats  # an example may be its own echo: the formula is too low


def test_saturation():
    # s = 1/N fills an interval with noise of constant density: the last scale at which the formula holds.
    for points in (2, 4):
        at_limit = saturation(points, 1 / points)
        assert at_limit.formula_nats == pytest.approx(math.log(points))
        assert at_limit.information_nats == pytest.approx(math.log(points), abs=1e-3)
        beyond = saturation(points, 0.5 / points)
        assert beyond.information_nats == pytest.approx(math.log(points), abs=1e-9)
        assert beyond.formula_nats > math.log(points) + 0.5
    # Bins lose 0.003 nats of it (measured).
    assert saturation(4, 0.7).information_nats == pytest.approx(-math.log(0.7), abs=0.006)
