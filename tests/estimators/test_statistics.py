"""Printing of estimates, running moments, error bars that cover, and the V-score."""

import math

import numpy as np
import pytest
import torch

from qsr.estimators.statistics import Estimate, RunningCovariance, RunningMoments, mean_and_error, v_score


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (-0.453412, 0.000123, "-0.45341(12)"),
        (-0.453412, 0.000996, "-0.4534(10)"),  # 9.96e-4 has the two digits 10, one place up
        (0.5, 0.05, "0.500(50)"),
        (12.34, 0.45, "12.34(45)"),
        (12.34, 1.53, "12.3(1.5)"),
        (12.34, 0.996, "12.3(1.0)"),
        (1234.4, 57.2, "1234(57)"),
        (12345.0, 574.0, "12340(570)"),
        (1e-12, 2.34e-14, "0.000000000001000(23)"),
        (-0.5, 0.0, "-0.5(0)"),
        (-0.5, math.nan, "-0.5(nan)"),
        (math.nan, 0.1, "nan(0.1)"),
        (math.inf, math.inf, "inf(inf)"),
    ],
)
def test_an_estimate_prints_its_error_in_the_last_digits(mean, error, text):
    assert str(Estimate(mean, error)) == text


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_moments_of_batches_are_those_of_all_samples(shape):
    values = np.random.default_rng(0).normal(size=(50, *shape))
    moments = RunningMoments()
    for batch in np.split(values, [1, 2, 2, 20, 49]):  # sizes 1, 1, 0, 18, 29, 1
        moments.update(batch)
    assert moments.count == 50
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, values.var(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(moments.error, values.std(axis=0, ddof=1) / math.sqrt(50), rtol=1e-12)
    found = mean_and_error(values)
    np.testing.assert_allclose(found.mean, moments.mean, rtol=1e-12)
    np.testing.assert_allclose(found.error, moments.error, rtol=1e-12)


def test_merged_moments_are_those_of_all_samples():
    values = np.random.default_rng(1).normal(size=(30, 2))
    parts = [RunningMoments() for _ in range(3)]  # the last one stays empty
    parts[0].update(values[:7])
    parts[1].update(values[7:])
    total = RunningMoments()
    for part in parts:
        total.merge(part)
    assert total.count == 30
    np.testing.assert_allclose(total.variance, values.var(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(parts[0].mean, values[:7].mean(axis=0), rtol=1e-12)  # merging leaves the parts alone


def test_a_small_variance_beside_a_large_mean_keeps_its_digits():
    noise = np.random.default_rng(2).normal(scale=1e-4, size=1000)
    moments = RunningMoments()
    for batch in np.split(noise + 1e6, 10):
        moments.update(batch)
    # The sum of squares, 1e15, has no digits left for a variance of 1e-8.
    assert float(moments.variance) == pytest.approx(noise.var(ddof=1), rel=1e-4)


def test_too_few_samples_have_no_error():
    moments = RunningMoments()
    assert math.isnan(moments.estimate().mean)
    moments.update([3.0])
    assert moments.estimate().mean == 3.0
    assert math.isnan(moments.estimate().error)


def test_different_shapes_are_refused():
    moments = RunningMoments()
    moments.update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"samples of shape \(2,\)"):
        moments.update(np.zeros((4, 2)))


def test_error_bars_cover_the_truth():
    """Of 2000 means of 50 skewed samples, 68.3 % lie within one error: to 4 binomial sigma, 0.042.

    The error is itself estimated from 50 samples, which lowers the share by less than that.
    """
    samples = np.random.default_rng(3).exponential(size=(50, 2000))
    found = mean_and_error(samples)
    inside = np.abs(found.mean - 1.0) < found.error
    assert inside.mean() == pytest.approx(0.683, abs=0.042)


def test_an_element_of_an_array_estimate():
    found = mean_and_error(np.arange(12.0).reshape(4, 3))[1]
    assert found == Estimate(5.5, pytest.approx(np.std([1, 4, 7, 10], ddof=1) / 2))


def test_v_score():
    assert v_score(energy=-3.0, variance=0.5, num_sites=4, infinite_temperature_energy=-1.0) == 0.5
    # Neither the unit of energy nor its zero matters.
    assert v_score(2 * -3.0 + 7, 4 * 0.5, 4, 2 * -1.0 + 7) == pytest.approx(0.5)


def test_covariances_do_not_depend_on_batches():
    values = np.random.default_rng(0).normal(size=(50, 3)) + np.array([1e3, 0.0, -5.0])
    running = RunningCovariance(3)
    for batch in np.split(values, [1, 1, 20, 43]):
        running.update(batch)
    assert running.count == 50
    np.testing.assert_allclose(running.mean, values.mean(axis=0), atol=1e-11)
    np.testing.assert_allclose(running.covariance, np.cov(values.T), atol=1e-11)
    with pytest.raises(ValueError, match=r"expected shape \(B, 3\), found \(4, 2\)"):
        running.update(np.zeros((4, 2)))
    assert np.isnan(RunningCovariance(2).mean).all() and np.isnan(RunningCovariance(2).covariance).all()


def test_errors_of_functions_of_means():
    """x y and x / y in closed form."""
    values = np.random.default_rng(1).normal(size=(200, 2)) + np.array([2.0, 3.0])
    running = RunningCovariance(2)
    running.update(values)
    found = running.estimate(lambda m: torch.stack([m[0] * m[1], m[0] / m[1]]))
    (x, y), ((xx, xy), (_, yy)) = values.mean(axis=0), np.cov(values.T) / 200
    np.testing.assert_allclose(found.mean, [x * y, x / y])
    variances = [y**2 * xx + x**2 * yy + 2 * x * y * xy, xx / y**2 + x**2 * yy / y**4 - 2 * x * xy / y**3]
    np.testing.assert_allclose(found.error, np.sqrt(variances))
