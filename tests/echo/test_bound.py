import math

import pytest

from echo_tf.echo.bound import max_scale


@pytest.mark.parametrize(("d_max", "expected"), [(99, 0.8358656), (999, 0.980307), (100, 0.837292), (49, 0.704522)])
def test_known_values(d_max, expected):
    assert max_scale(d_max) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("d_max", [1, 2, 99, 4000, 10**7])
@pytest.mark.parametrize("max_mean", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("precision", [2**-53, 2**-23, 2**-7])
def test_solves_its_equation(d_max, max_mean, precision):
    r = max_scale(d_max, max_mean, precision)
    assert 0 < r < 1
    # Compared in logarithms; near r = 1 the spacing of floats in 1 - r limits what r itself can satisfy.
    error = math.log(max_mean) + d_max * math.log(r) - math.log1p(-r) - math.log(precision)
    rounding = 2**-52 * (d_max / r + 1 / (1 - r))
    assert abs(error) < 10 * rounding + 1e-9


@pytest.mark.parametrize(
    "arguments", [(0,), (-1,), (1.5,), (5.0,), (math.inf,), (99, 0.0), (99, -1.0), (99, math.inf), (99, 1.0, 0.0)]
)
def test_invalid(arguments):
    with pytest.raises(ValueError, match="Invalid value received for argument"):
        max_scale(*arguments)
