import math

import pytest

from echo_tf.report.figures import plot_squared_error
from echo_tf.report.rows import compare, curves
from echo_tf.report.tables import curve_table

SD, PIXELS = 0.3, 50
GAUSSIAN = {"distortion": {"kind": "gaussian", "sd": SD}, "example_size": PIXELS}


def distortion(squared_error):
    return PIXELS * (squared_error / (2 * SD**2) + math.log(SD) + math.log(2 * math.pi) / 2)


def test_squared_error_of_a_pixel_is_read_from_the_distortion(result):
    points = [result("vae", rate=10.0 * b, neg_elbo=10.0 * b + distortion(0.04 / b), beta=b, **GAUSSIAN) for b in (1.0, 2.0)]
    rows = compare(points)
    assert [row.squared_error for row in rows] == pytest.approx([0.04, 0.02])
    table = curve_table(curves(rows))
    assert "squared error" in table.header and "0.04000" in table.markdown()


def test_others_have_none(result):
    (bernoulli,), (early,) = (
        compare([result("vae", example_size=PIXELS)]),
        compare([result("vae", distortion=GAUSSIAN["distortion"])]),
    )
    assert bernoulli.squared_error is None and early.squared_error is None


def test_figure(result, tmp_path):
    found = [result(m, rate=10.0 * b, beta=b, seed=0, **GAUSSIAN) for m in ("echo", "vae") for b in (1.0, 2.0, 3.0)]
    assert plot_squared_error(curves(compare(found)), tmp_path / "squared_error.png").stat().st_size > 10_000
