"""Straight lines through points with errors in both coordinates, for energies against variances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsr.estimators.statistics import Estimate

_ROUNDS = 200  # the slope has settled after ten, or never does
_SETTLED = 1e-9  # of the slope's own error


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x.

    Attributes:
        chi_squared: sum of squared distances in units of their errors, to be compared with the number of points minus 2.
    """

    intercept: Estimate
    slope: Estimate
    chi_squared: float


def fit_line(x: ArrayLike, y: ArrayLike, covariance: ArrayLike) -> Line:
    """The most likely line through points (S,) with normal errors, of which `covariance` (S, 2, 2) are the matrices for (x, y).

    D. York et al., Am. J. Phys. 72, 367 (2004). Errors are those that follow from the covariances; with two points there is
    nothing to check them by.

    Raises:
        ValueError: for fewer than two different x, and where no slope is found.
    """
    px, py, errors = (np.asarray(values, dtype=np.float64) for values in (x, y, covariance))
    xx, xy, yy = errors[:, 0, 0], errors[:, 0, 1], errors[:, 1, 1]
    if len(px) < 2 or np.ptp(px) == 0:
        raise ValueError("a line needs points at two different x")
    origin = float(py.mean())  # energies have a thousand times the digits of the differences that make the slope
    py = py - origin
    slope = float(np.polyfit(px, py, 1)[0])
    for _ in range(_ROUNDS):
        weight, adjusted, mean_x, mean_y = _york(px, py, xx, xy, yy, slope)
        previous, slope = slope, float((weight * adjusted) @ (py - mean_y) / ((weight * adjusted) @ (px - mean_x)))
        spread = float(weight @ (adjusted - weight @ adjusted / weight.sum()) ** 2)
        if abs(slope - previous) <= _SETTLED / math.sqrt(spread):
            break
    else:
        raise ValueError("no line fits: the points are too close for their errors")
    weight, adjusted, mean_x, mean_y = _york(px, py, xx, xy, yy, slope)
    intercept = mean_y - slope * mean_x
    # Positions on the line, which the errors refer to.
    on_line = mean_x + adjusted
    centre = float(weight @ on_line / weight.sum())
    slope_variance = float(1 / (weight @ (on_line - centre) ** 2))
    return Line(
        Estimate(intercept + origin, math.sqrt(1 / float(weight.sum()) + centre**2 * slope_variance)),
        Estimate(slope, math.sqrt(slope_variance)),
        float(weight @ (py - intercept - slope * px) ** 2),
    )


def _york(
    px: NDArray[np.float64],
    py: NDArray[np.float64],
    xx: NDArray[np.float64],
    xy: NDArray[np.float64],
    yy: NDArray[np.float64],
    slope: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Weights of the points, their positions along x relative to the mean as the line adjusts them, and the weighted means."""
    weight = 1 / (yy - 2 * slope * xy + slope**2 * xx)
    mean_x, mean_y = float(weight @ px / weight.sum()), float(weight @ py / weight.sum())
    u, v = px - mean_x, py - mean_y
    return weight, weight * (u * yy + slope * v * xx - (slope * u + v) * xy), mean_x, mean_y
