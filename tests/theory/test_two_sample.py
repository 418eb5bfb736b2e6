import numpy as np
import pytest

from echo_tf.theory import energy_test


def normal(n, dim=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim))


class TestEnergyTest:
    def test_is_the_definition(self):
        x, y = normal(7, 2), 1.0 + normal(5, 2, seed=1)

        def mean(a, b):
            return np.mean([[np.linalg.norm(p - q) for q in b] for p in a])

        expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
        assert energy_test(x, y, 9)[0] == pytest.approx(expected)

    def test_p_values_of_equal_laws_are_uniform(self):
        found = [energy_test(normal(40, seed=2 * k), normal(30, seed=2 * k + 1), 99)[1] for k in range(200)]
        assert abs(np.mean(found) - 0.5) < 5 * np.sqrt(1 / 12 / 200)
        assert np.mean(np.array(found) <= 0.05) < 0.05 + 5 * np.sqrt(0.05 * 0.95 / 200)

    @pytest.mark.parametrize("change", [lambda x: x + 0.3, lambda x: 1.5 * x, lambda x: x + 0.9 * x[:, ::-1], np.abs])
    def test_tells_laws_apart(self, change):
        distance, p_value = energy_test(normal(300), change(normal(300, seed=1)), 199)
        assert distance > 0 and p_value == 1 / 200

    @pytest.mark.parametrize("unit", [2.0**1020, 2.0**532, 2.0**-600, 2.0**-1074])
    def test_units_do_not_matter(self, unit):
        """Squares of values beyond 1e154 or below 1e-162 are no floats."""
        x, y = np.rint(4.0 * normal(30)), 1.0 + np.rint(4.0 * normal(20, seed=1))
        distance, p_value = energy_test(x, y, 99)
        assert energy_test(unit * x, unit * y, 99) == (pytest.approx(unit * distance, rel=1e-9), p_value)
        assert energy_test(0.0 * x, 0.0 * y, 99) == (0.0, 1.0)

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (normal(5, 2), normal(5, 3), r"\(n, dim\) and \(m, dim\)"),
            (normal(1), normal(5), "at least 2"),
            (normal(5), normal(5) * np.nan, "finite"),
        ],
    )
    def test_invalid(self, x, y, message):
        with pytest.raises(ValueError, match=message):
            energy_test(x, y)
        with pytest.raises(ValueError, match="permutations"):
            energy_test(normal(5), normal(5), 0)
