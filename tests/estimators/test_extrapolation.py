"""Lines through points with errors: York's published example, exact lines, and the coverage of the intercept."""

import numpy as np
import pytest

from qsr.estimators.extrapolation import fit_line


def diagonal(sx, sy):
    return np.array([np.diag([x**2, y**2]) for x, y in zip(sx, sy, strict=True)])


def test_the_published_example():
    """Pearson's data with York's weights: Am. J. Phys. 72, 367 (2004), table II."""
    x = [0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4]
    y = [5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5]
    weight_x = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1])
    weight_y = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500])
    line = fit_line(x, y, diagonal(weight_x**-0.5, weight_y**-0.5))
    assert line.intercept.mean == pytest.approx(5.479910224, abs=1e-8)
    assert line.slope.mean == pytest.approx(-0.480533407, abs=1e-8)
    assert line.intercept.error == pytest.approx(0.294970735, abs=1e-7)
    assert line.slope.error == pytest.approx(0.057985009, abs=1e-7)
    assert line.chi_squared / 8 == pytest.approx(1.483294149, abs=1e-7)


def test_points_on_a_line_and_two_points():
    x = np.array([0.1, 0.3, 0.7])
    for count in (2, 3):
        line = fit_line(x[:count], 0.25 * x[:count] - 0.4, diagonal([0.01, 0.02, 0.02], [0.01, 0.05, 0.03])[:count])
        assert line.intercept.mean == pytest.approx(-0.4) and line.slope.mean == pytest.approx(0.25)
        assert line.chi_squared == pytest.approx(0, abs=1e-20) and line.intercept.error > 0


def test_without_errors_in_x_it_is_weighted_least_squares():
    rng = np.random.default_rng(0)
    x, sigma = rng.uniform(0, 1, 6), rng.uniform(0.1, 0.3, 6)
    y = 2 - x + sigma * rng.normal(size=6)
    line = fit_line(x, y, diagonal(0 * sigma, sigma))
    (slope, intercept), covariance = np.polyfit(x, y, 1, w=1 / sigma, cov="unscaled")
    assert line.slope.mean == pytest.approx(slope) and line.intercept.mean == pytest.approx(intercept)
    np.testing.assert_allclose([line.slope.error, line.intercept.error], np.sqrt(np.diag(covariance)))


def test_correlated_errors_are_covered():
    """Energy and variance come from the same samples; the intercept's error knows."""
    rng = np.random.default_rng(4)
    x = np.array([0.1, 0.2, 0.4, 0.6])
    covariance = np.array([[[1.0, 0.8], [0.8, 1.0]]] * 4) * (0.02 * np.array([1, 1, 2, 3])[:, None, None]) ** 2
    noise = np.linalg.cholesky(covariance)
    inside = []
    for _ in range(600):
        point = np.stack([x, 0.5 * x - 1], axis=1) + np.einsum("sab,sb->sa", noise, rng.normal(size=(4, 2)))
        line = fit_line(point[:, 0], point[:, 1], covariance)
        inside.append(abs(line.intercept.mean + 1) < line.intercept.error)
    assert np.mean(inside) == pytest.approx(0.683, abs=4 * np.sqrt(0.683 * 0.317 / 600))


@pytest.mark.parametrize("x", [[0.5], [0.5, 0.5]])
def test_no_line_through_one_place(x):
    with pytest.raises(ValueError, match="two different x"):
        fit_line(x, np.zeros(len(x)), diagonal(np.ones(len(x)), np.ones(len(x))))


def test_tight_lines_settle():
    """Energies of converged runs agree to many digits; the slope is known all the same."""
    rng = np.random.default_rng(1)
    for spread in (1e-4, 1e-5, 1e-6):
        for _ in range(200):
            x = np.sort(rng.uniform(0, spread, 4))
            if np.ptp(x) < 0.2 * spread:
                continue
            errors = 0.05 * spread * rng.uniform(0.2, 1, (2, 4))
            y = -0.4534 + 0.6 * x
            line = fit_line(x + errors[0] * rng.normal(size=4), y + errors[1] * rng.normal(size=4), diagonal(*errors))
            assert abs(line.intercept.mean + 0.4534) < 6 * line.intercept.error
