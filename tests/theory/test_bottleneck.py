import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from echo_tf.theory import binary_entropy, information_bottleneck, mutual_information


class TestInformationBottleneck:
    def test_binary_symmetric_channel(self):
        # Mrs. Gerber's lemma: T is X through another symmetric channel.
        p_xy = 0.5 * np.array([[0.9, 0.1], [0.1, 0.9]])
        entropy = binary_entropy

        def objective(a, beta):
            mixed = a * 0.9 + (1 - a) * 0.1
            return (math.log(2) - entropy(a)) - beta * (math.log(2) - entropy(mixed))

        for beta in (1.2, 2.0, 5.0, 20.0):
            best = minimize_scalar(objective, bounds=(1e-12, 0.5), args=(beta,), method="bounded", options={"xatol": 1e-12})
            point = information_bottleneck(p_xy, beta)
            assert point.converged
            assert point.rate - beta * point.relevance == pytest.approx(min(best.fun, 0.0), abs=1e-6)

    def test_limits_and_descent(self):
        p_xy = np.random.default_rng(0).dirichlet(np.ones(24)).reshape(6, 4)
        p_xy = np.vstack([p_xy, np.zeros(4)])  # an x that never occurs
        independent = p_xy.sum(1, keepdims=True) * p_xy.sum(0, keepdims=True)
        information = np.sum(p_xy[:6] * np.log(p_xy[:6] / independent[:6]))
        blunt, sharp = information_bottleneck(p_xy, 0.9), information_bottleneck(p_xy, 1e4)
        assert blunt.rate == pytest.approx(0.0, abs=1e-6)
        assert sharp.relevance == pytest.approx(information, abs=1e-4)
        assert information_bottleneck(p_xy, 1e300).relevance == pytest.approx(information, abs=1e-12)
        assert np.all(np.isnan(sharp.encoder[6]))
        p_xy[6, 0] = 5e-324  # below what normal floats hold
        assert np.all(np.isnan(information_bottleneck(p_xy, 1e4).encoder[6]))
        for beta in (0.9, 3.0, 30.0, 1e4):
            point = information_bottleneck(p_xy, beta)
            assert np.all(np.diff(point.lagrangians) <= 1e-12 * beta)
            assert point.relevance <= information + 1e-12
            assert point.relevance <= point.rate + 1e-12

    def test_clusters_that_died_do_not_come_back(self):
        # The logarithm of their probability is of the size of beta, and the differences of two such have lost all digits.
        joint = np.random.default_rng(1).dirichlet(np.ones(12)).reshape(4, 3)
        point = information_bottleneck(joint, 1e20)
        assert np.all(np.diff(point.lagrangians) <= 1e-12 * 1e20)
        assert point.relevance > mutual_information(joint) - 0.01  # two clusters merge in the first step

    @pytest.mark.parametrize(
        "arguments",
        [([0.5, 0.5], 1.0), ([[0.5, 0.6]], 1.0), ([[0.5, 0.5]], -1.0), ([[0.5, 0.5]], math.inf), ([[np.nan, 1.0]], 1.0)],
    )
    def test_bad_input(self, arguments):
        with pytest.raises(ValueError, match="Invalid value"):
            information_bottleneck(*arguments)


class TestMutualInformation:
    def test_of_a_copy_and_of_independent_variables(self):
        assert mutual_information(np.diag([0.25, 0.75])) == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))
        assert mutual_information(np.outer([0.2, 0.8], [0.5, 0.1, 0.4])) == pytest.approx(0.0, abs=1e-15)

    @pytest.mark.parametrize("joint", [[0.5, 0.5], [[0.5, 0.6]], [[1.5, -0.5]]])
    def test_refuses_what_is_no_law(self, joint):
        with pytest.raises(ValueError, match="`joint`"):
            mutual_information(joint)
