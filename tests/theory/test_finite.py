import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from echo_tf.theory import bernoulli_hamming_rd, blahut_arimoto, gaussian_rd, rd_curve, to_bits, uniform_hamming_rd
from echo_tf.theory.finite import _better_with_single_output


def hamming(size):
    return 1.0 - np.eye(size)


def random_source(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(rows)), rng.random((rows, columns))


def lagrangian(point):
    return point.rate + point.slope * point.distortion


def grid(size, half_width):
    """Midpoints of `size` cells from -half_width to half_width, and their width."""
    width = 2.0 * half_width / size
    return (np.arange(size) + 0.5) * width - half_width, width


class TestBlahutArimoto:
    @pytest.mark.parametrize("p", [0.5, 0.2, 0.01])
    @pytest.mark.parametrize("factor", [0.5, 0.99, 1.01, 2.0, 10.0])
    def test_binary_source(self, p, factor):
        # R(D) leaves 0 at the slope log((1 - p) / p): away from it on both sides, and at any slope where it is 0.
        critical = math.log((1 - p) / p)
        slope = factor * critical if critical else factor
        point = blahut_arimoto([1 - p, p], hamming(2), slope)
        distortion = min(p, 1 / (1 + math.exp(slope)))
        assert point.converged
        assert point.gap <= 1e-9
        assert lagrangian(point) == pytest.approx(float(bernoulli_hamming_rd(p, distortion)) + slope * distortion, abs=1e-9)
        assert point.rate == pytest.approx(float(bernoulli_hamming_rd(p, point.distortion)), abs=1e-9)

    def test_number_of_the_tutorial(self):
        point = blahut_arimoto([0.8, 0.2], hamming(2), 3.85662)
        assert (round(float(to_bits(point.rate)), 4), round(point.distortion, 4)) == (0.5766, 0.0207)

    def test_critical_slope(self):
        point = blahut_arimoto([0.8, 0.2], hamming(2), math.log(4.0), tolerance=1e-7)
        assert point.gap < 1e-6
        assert lagrangian(point) == pytest.approx(0.2 * math.log(4.0), abs=1e-6)

    @pytest.mark.parametrize("m", [3, 10])
    @pytest.mark.parametrize("slope", [1.0, 3.0, 20.0])
    def test_uniform_source(self, m, slope):
        point = blahut_arimoto(np.full(m, 1 / m), hamming(m), slope)
        distortion = (m - 1) / (m - 1 + math.exp(slope))
        assert point.gap < 1e-9
        assert point.distortion == pytest.approx(distortion, abs=1e-9)
        assert point.rate == pytest.approx(float(uniform_hamming_rd(m, distortion)), abs=1e-9)

    def test_erasure_with_forbidden_pairs(self):
        # A fair bit reproduced as itself or as an erasure of cost 1, never as the other bit: R = log 2 (1 - D), of one slope.
        # Off that slope the solution is an end of the line.
        distortion = [[0.0, np.inf, 1.0], [np.inf, 0.0, 1.0]]
        below, above = (blahut_arimoto([0.5, 0.5], distortion, math.log(2.0) * f) for f in (0.9, 1.1))
        assert (below.rate, below.distortion) == (pytest.approx(0.0, abs=1e-8), pytest.approx(1.0, abs=1e-8))
        assert (above.rate, above.distortion) == (pytest.approx(math.log(2.0), abs=1e-8), pytest.approx(0.0, abs=1e-8))
        assert np.all(above.channel[[0, 1], [1, 0]] == 0)

    @pytest.mark.parametrize(("rows", "columns", "slope"), [(3, 3, 4.0), (4, 6, 3.0), (6, 4, 8.0)])
    def test_general_convex_optimisation_agrees(self, rows, columns, slope):
        p, distortion = random_source(rows, columns, seed=rows)

        def objective(flat):  # and its gradient
            channel = flat.reshape(rows, columns)
            costs = np.log(channel / (p @ channel)) + slope * distortion
            return p @ (channel * costs).sum(axis=1), (p[:, None] * costs).ravel()

        found = minimize(
            objective,
            np.full(rows * columns, 1 / columns),
            method="SLSQP",
            bounds=[(1e-12, 1.0)] * (rows * columns),
            jac=True,
            constraints={
                "type": "eq",
                "fun": lambda flat: flat.reshape(rows, columns).sum(axis=1) - 1.0,
                "jac": lambda flat: np.repeat(np.eye(rows), columns, axis=1),
            },
            options={"ftol": 1e-12, "maxiter": 1000},
        )
        point = blahut_arimoto(p, distortion, slope)
        assert point.gap < 1e-9
        assert lagrangian(point) == pytest.approx(found.fun, abs=1e-6)
        assert lagrangian(point) <= found.fun + 1e-9

    @pytest.mark.parametrize(("rows", "columns"), [(5, 5), (10, 30), (50, 50), (30, 200)])
    @pytest.mark.parametrize("slope", [0.7, 5.0, 20.0])
    def test_certificate_and_descent(self, rows, columns, slope):
        p, distortion = random_source(rows, columns)
        point = blahut_arimoto(p, distortion, slope, max_iterations=20_000)
        assert point.converged
        assert point.gap < 1e-9
        # The Karush-Kuhn-Tucker conditions, from the channel alone.
        channel = point.channel
        np.testing.assert_allclose(channel.sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_allclose(p @ channel, point.output, rtol=1e-9, atol=1e-300)
        kernel = np.exp(-slope * distortion)
        assert (p / (kernel @ point.output) @ kernel).max() < 1 + 1e-7
        assert np.all(np.diff(point.lagrangians) <= 1e-13)
        coarse = blahut_arimoto(p, distortion, slope, tolerance=1e-2)
        assert lagrangian(coarse) - coarse.gap <= lagrangian(point) + 1e-12 <= lagrangian(coarse) + 2e-12

    @pytest.mark.parametrize("tolerance", [1e-2, 1e-9])
    @pytest.mark.parametrize(("rows", "columns", "slope"), [(10, 30, 5.0), (30, 200, 20.0), (30, 200, 0.2)])
    def test_gap_is_that_of_the_dual_bound_over_all_outputs(self, rows, columns, slope, tolerance):
        p, distortion = random_source(rows, columns)
        point = blahut_arimoto(p, distortion, slope, tolerance=tolerance)
        exponents = point._log_prior - slope * distortion
        log_z = np.array([np.logaddexp.reduce(row) for row in exponents])
        log_c = np.array([np.logaddexp.reduce(np.log(p) - log_z - slope * column) for column in distortion.T])
        lower_bound = -p @ log_z - log_c.max()
        # The least distortion of each row is a constant of both sides.
        assert lagrangian(point) - point.gap == pytest.approx(lower_bound, abs=1e-12)
        assert point.lagrangians[-1] == pytest.approx(lagrangian(point), abs=1e-12)

    @pytest.mark.parametrize(("rarity", "slope"), [(3e-10, 18.0), (2e-10, 18.5), (1e-10, 19.0)])
    def test_certificate_holds_for_rare_inputs(self, rarity, slope):
        # Extrapolation drives an output that only the rare input needs below the range of floats.
        p = [rarity, 1 - rarity]
        distortion = [[0.05, 1.08, 2.03, 3.08], [3.08, 0.08, 0.07, 4.08]]
        point = blahut_arimoto(p, distortion, slope)
        other = blahut_arimoto(p, distortion, slope, initial_output=0.5 * point.output + 0.125, tolerance=1e-13)
        assert point.converged
        assert lagrangian(point) - point.gap <= lagrangian(other) + 1e-15
        assert lagrangian(point) <= lagrangian(other) + 1e-9

    @pytest.mark.parametrize("offset", [1e6, 1e9])
    def test_distortion_that_no_output_avoids_only_adds_up(self, offset):
        point = blahut_arimoto([0.3, 0.7], hamming(2), 3.0)
        moved = blahut_arimoto([0.3, 0.7], hamming(2) + offset, 3.0)
        assert moved.rate == pytest.approx(point.rate, abs=1e-12)
        assert moved.distortion - offset == pytest.approx(point.distortion, abs=4 * np.spacing(offset))
        np.testing.assert_allclose(moved.channel, point.channel, atol=1e-12)

    def test_extreme_numbers(self):
        huge = blahut_arimoto([0.5, 0.5], [[1e200, 1e201], [1e201, 1e200]], 1e150)
        assert huge.rate == pytest.approx(math.log(2.0))
        rare = [[0, 1, 0.2, *[np.inf] * 3], [1, 0, 0.5, *[np.inf] * 3], [*[np.inf] * 3, 0, 0, 0]]
        for smallest in (5e-324, 1e-300, 1e-12):
            assert blahut_arimoto([0.3, 0.7, smallest], rare, 1.0).converged
        assert blahut_arimoto(np.full(3, 1 / 3, "float32"), hamming(3), 2.0).converged
        assert blahut_arimoto([1], [[2.0]], 1.0).distortion == 2.0

    @pytest.mark.parametrize("slope", [1e-12, 1e-3, 1.3])
    def test_below_the_critical_slope_the_rate_is_exactly_zero(self, slope):
        point = blahut_arimoto([0.8, 0.2], hamming(2), slope)
        assert (point.rate, point.distortion, point.gap) == (0.0, 0.2, pytest.approx(0.0, abs=1e-9))
        np.testing.assert_array_equal(point.output, [1.0, 0.0])
        np.testing.assert_array_equal(point.channel, [[1.0, 0.0], [1.0, 0.0]])

    @pytest.mark.parametrize(
        ("lower", "offset", "keeps"),
        [
            (4e-17, 0.0, False),  # rounding
            (-1e-6, 0.0, False),
            (1e-6, 0.0, True),
            (2e-9, 1e7, True),  # rounding of the offset that all outputs share, but more than the tolerance
        ],
    )
    def test_the_exact_point_gives_way_only_to_more_than_rounding(self, lower, offset, keeps):
        single = blahut_arimoto([0.8, 0.2], hamming(2), 0.0)
        single = dataclasses.replace(single, distortion=single.distortion + offset)
        found = dataclasses.replace(single, slope=1.0, distortion=single.distortion - lower, gap=1e-12)
        point = _better_with_single_output(found, single, tolerance=1e-9)
        assert (point is found) is keeps
        assert keeps or point.distortion == single.distortion

    def test_point_keeps_nothing_of_the_caller(self):
        distortion = hamming(2)
        point = blahut_arimoto([0.8, 0.2], distortion, 3.0)
        before = point.channel
        distortion[0, 1] = 0.0
        np.testing.assert_array_equal(point.channel, before)

    def test_unused_outputs_come_back(self):
        # A start that gives nothing to the outputs that are needed.
        p, distortion = random_source(10, 30)
        best = blahut_arimoto(p, distortion, 5.0)
        start = np.where(best.output > 0, 0.0, 1.0)
        point = blahut_arimoto(p, distortion, 5.0, initial_output=start / start.sum())
        assert point.gap < 1e-9
        assert lagrangian(point) == pytest.approx(lagrangian(best), abs=2e-9)

    def test_stopping_early_is_said(self):
        p, distortion = random_source(30, 200)
        point = blahut_arimoto(p, distortion, 5.0, max_iterations=40)
        assert not point.converged
        assert point.gap > 1e-9
        exact = blahut_arimoto(p, distortion, 5.0)
        assert lagrangian(point) - point.gap <= lagrangian(exact) <= lagrangian(point)

    def test_inputs_that_never_occur(self):
        p, distortion = random_source(5, 5)
        point = blahut_arimoto(p, distortion, 5.0)
        padded = blahut_arimoto(np.append(p, 0.0), np.vstack([distortion, np.full(5, np.inf)]), 5.0)
        assert (padded.rate, padded.distortion) == (pytest.approx(point.rate), pytest.approx(point.distortion))
        assert np.all(np.isnan(padded.channel[5]))

    def test_discretised_gaussian(self):
        x, _ = grid(500, 8.0)
        p = np.exp(-0.5 * x**2)
        point = blahut_arimoto(p / p.sum(), np.square(x[:, None] - x), 2.0, tolerance=1e-3, max_iterations=500)
        assert point.gap < 1e-3
        assert point.rate == pytest.approx(float(gaussian_rd(1.0, point.distortion)), abs=1e-6)
        assert lagrangian(point) == pytest.approx(0.5 * math.log(4.0) + 2.0 * 0.25, abs=1e-6)

    def test_discretised_laplacian_converges_as_the_square_of_the_step(self):
        # The masses of the cells, so that the error comes from replacing a cell by its midpoint.
        errors = []
        for size in (101, 201, 301):
            x, width = grid(size, 20.0)
            edges = np.append(x - 0.5 * width, x[-1] + 0.5 * width)
            cdf = np.where(edges < 0, 0.5 * np.exp(edges), 1.0 - 0.5 * np.exp(-edges))
            mass = np.diff(cdf) / (cdf[-1] - cdf[0])
            point = blahut_arimoto(mass, np.abs(x[:, None] - x), 2.0, tolerance=1e-7)
            errors.append(abs(lagrangian(point) - (math.log(2.0) + 1.0)))  # R + s D at D = 1 / s = 1/2
        orders = np.log(np.array(errors[:-1]) / errors[1:]) / np.log(np.array([201, 301]) / [101, 201])
        np.testing.assert_allclose(orders, 2.0, atol=0.1)

    def test_dit_agrees(self):
        dit = pytest.importorskip("dit")
        from dit.rate_distortion.blahut_arimoto import blahut_arimoto as dit_blahut_arimoto

        p, distortion = random_source(4, 4)
        point = blahut_arimoto(p, distortion, 4.0)
        result, _ = dit_blahut_arimoto(
            p_x=np.array(p), beta=4.0 / math.log(2.0), distortion=lambda p_x, p_y_x: distortion, max_iters=2000
        )
        assert dit
        assert result.rate * math.log(2.0) == pytest.approx(point.rate, abs=1e-4)
        assert result.distortion == pytest.approx(point.distortion, abs=1e-4)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"p_x": [0.7, 0.2]}, "sum to 1"),
            ({"p_x": [1.2, -0.2]}, r"p_x\[0\]=1.2"),
            ({"p_x": [np.nan, 1.0]}, r"p_x\[0\]=nan"),
            ({"p_x": [[0.5, 0.5]]}, "shape"),
            ({"p_x": [0.5, 0.3, 0.2]}, "shape"),
            ({"distortion": [0.0, 1.0]}, "shape"),
            ({"distortion": [[0.0, -1.0], [1.0, 0.0]]}, r"distortion\[0, 1\]=-1"),
            ({"distortion": [[0.0, np.nan], [1.0, 0.0]]}, r"distortion\[0, 1\]=nan"),
            ({"distortion": [[np.inf, np.inf], [1.0, 0.0]]}, "only inf in row 0"),
            ({"slope": -1.0}, "slope"),
            ({"slope": math.nan}, "slope"),
            ({"tolerance": 0.0}, "tolerance"),
            ({"max_iterations": 0}, "max_iterations"),
            ({"initial_output": [1.0]}, "initial_output"),
            ({"initial_output": [-1.0, 2.0], "slope": 0.0}, "initial_output"),
            ({"p_x": [], "distortion": np.zeros((0, 2))}, "shape"),
        ],
    )
    def test_bad_input(self, changes, message):
        arguments = {"p_x": [0.5, 0.5], "distortion": hamming(2), "slope": 1.0} | changes
        with pytest.raises(ValueError, match=message):
            blahut_arimoto(**arguments)


class TestCurve:
    def test_ends_are_exact(self):
        p, distortion = random_source(10, 30)
        flat, steep = rd_curve(p, distortion, [0.0, math.inf])
        assert (flat.rate, flat.gap) == (0.0, 0.0)
        assert flat.distortion == pytest.approx((p @ distortion).min(), rel=1e-15)
        assert steep.distortion == pytest.approx(p @ distortion.min(axis=1), rel=1e-15)
        identity = rd_curve(p[:4] / p[:4].sum(), hamming(4), [math.inf])[0]
        assert identity.rate == pytest.approx(-np.sum(p[:4] / p[:4].sum() * np.log(p[:4] / p[:4].sum())), abs=1e-12)

    def test_slope_zero_with_an_output_forbidden_to_each_input(self):
        # Each of three inputs may use two of three outputs: uniform, I = log 3 - log 2.
        distortion = np.where(np.eye(3) > 0, np.inf, 0.5)
        point = blahut_arimoto(np.full(3, 1 / 3), distortion, 0.0)
        assert point.rate == pytest.approx(math.log(1.5), abs=1e-9)

    def test_convex_decreasing_and_as_if_started_afresh(self):
        p, distortion = random_source(20, 30)
        slopes = [0.0, 0.1, 1.0, 2.0, 5.0, 10.0, 50.0, math.inf]
        points = rd_curve(p, distortion, slopes)
        assert [point.slope for point in points] == slopes
        rates, distortions = (np.array([getattr(point, name) for point in points]) for name in ("rate", "distortion"))
        assert np.all(np.diff(rates) >= -1e-9)
        assert np.all(np.diff(distortions) <= 1e-9)
        for point in points[:-1]:  # every point lies above every supporting line
            others = rates + point.slope * distortions
            assert np.all(others >= lagrangian(point) - point.gap - 1e-12)
            assert lagrangian(point) == pytest.approx(lagrangian(blahut_arimoto(p, distortion, point.slope)), abs=2e-9)

    def test_rate_zero_never_has_more_than_the_largest_distortion(self):
        # An iteration that stops early can print R = 0 with D > D_max = 0.2 at small slopes.
        for point in rd_curve([0.8, 0.2], hamming(2), np.geomspace(0.05, 20.0, 30)):
            assert point.distortion <= 0.2 + 1e-9
            assert point.converged
            assert point.rate == pytest.approx(float(bernoulli_hamming_rd(0.2, min(point.distortion, 0.2))), abs=1e-9)
