"""Means and error bars of independent samples, gathered batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error; prints as `-0.45341(12)`, the error in units of the last digits shown."""

    mean: float
    error: float

    def __str__(self) -> str:
        if not math.isfinite(self.mean) or not math.isfinite(self.error) or self.error <= 0:
            return f"{self.mean:.10g}({self.error:.2g})"
        digits, _, exponent = f"{self.error:.1e}".partition("e")  # two significant digits, rounded: 0.0996 is 1.0e-01
        decimals = 1 - int(exponent)
        mean = f"{round(self.mean, decimals):.{max(decimals, 0)}f}"
        if decimals > 1:
            return f"{mean}({digits.replace('.', '')})"
        # An error of 1.5 keeps its point, `12.3(1.5)`: digits across the point would be misread.
        return f"{mean}({float(f'{digits}e{exponent}'):.{max(decimals, 0)}f})"


@dataclass(frozen=True, eq=False)
class ArrayEstimate:
    """An array of numbers with their standard errors.

    Attributes:
        mean: the estimates.
        error: standard errors, of the same shape.
    """

    mean: NDArray[np.float64]
    error: NDArray[np.float64]

    def __getitem__(self, index: int | tuple[int, ...]) -> Estimate:
        """The estimate at a full index."""
        return Estimate(float(self.mean[index]), float(self.error[index]))


class RunningMoments:
    """Mean and variance of samples that arrive in batches, in float64, without keeping the samples.

    Deviations are always taken from a mean, never as a difference of large sums, so that a variance of 1e-8 beside a mean of 1e3
    keeps its digits (Chan, Golub, LeVeque, Am. Stat. 37, 242 (1983)).

    Attributes:
        count: number of samples S.
        mean: mean over samples, of the samples' shape; nan before the first.
        M2: sum of squared deviations from the mean.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.array(np.nan)
        self.M2: NDArray[np.float64] = np.array(0.0)

    def update(self, values: ArrayLike) -> None:
        """Add a batch of samples (B, ...), B >= 0; every batch has the same trailing shape."""
        batch = np.asarray(values, dtype=np.float64)
        if len(batch):
            mean = batch.mean(axis=0)
            self._combine(len(batch), mean, np.square(batch - mean).sum(axis=0))

    def merge(self, other: RunningMoments) -> None:
        """Add the samples that another accumulator has seen."""
        if other.count:
            self._combine(other.count, other.mean, other.M2)

    def _combine(self, count: int, mean: NDArray[np.float64], M2: NDArray[np.float64]) -> None:
        if self.count == 0:
            self.count, self.mean, self.M2 = count, mean, M2
            return
        if mean.shape != self.mean.shape:
            raise ValueError(f"samples of shape {mean.shape} cannot be averaged with samples of shape {self.mean.shape}")
        total = self.count + count
        shift = mean - self.mean
        self.M2 = self.M2 + M2 + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased variance of a sample (ddof = 1); nan below two samples."""
        return self.M2 / (self.count - 1) if self.count > 1 else np.full(self.mean.shape, np.nan)

    @property
    def error(self) -> NDArray[np.float64]:
        """Standard error of the mean of independent samples, sqrt(variance / S); nan below two samples."""
        return np.sqrt(self.variance / max(self.count, 1))

    def estimate(self) -> Estimate:
        """Mean and error of scalar samples."""
        return Estimate(float(self.mean), float(self.error))

    def array_estimate(self) -> ArrayEstimate:
        """Mean and error of samples of any shape."""
        return ArrayEstimate(np.asarray(self.mean), np.asarray(self.error))


class RunningCovariance:
    """Means and covariances of K numbers per sample, gathered batch by batch, and the errors of what is computed from the means.

    Deviations are taken from a mean, as in `RunningMoments`. Memory: K^2 numbers, however many samples there are.

    Attributes:
        count: number of samples S.
        mean: (K,) means; nan before the first sample.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.full(size, np.nan)
        self._products = np.zeros((size, size))  # sums of products of deviations from the mean

    def update(self, values: ArrayLike) -> None:
        """Add a batch of samples (B, K), B >= 0."""
        batch = np.asarray(values, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != len(self.mean):
            raise ValueError(f"values: expected shape (B, {len(self.mean)}), found {batch.shape}")
        if len(batch) == 0:
            return
        mean = batch.mean(axis=0)
        deviations = batch - mean
        self._products += deviations.T @ deviations
        total = self.count + len(batch)
        if self.count:
            shift = mean - self.mean
            self._products += np.outer(shift, shift) * (self.count * len(batch) / total)
            mean = self.mean + shift * (len(batch) / total)
        self.count, self.mean = total, mean

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(K, K) unbiased covariances of a sample (ddof = 1); nan below two samples."""
        return self._products / (self.count - 1) if self.count > 1 else np.full_like(self._products, np.nan)

    def propagate(self, values: NDArray[np.float64], jacobian: NDArray[np.float64]) -> ArrayEstimate:
        """Numbers (F,) computed from the means, with their errors sqrt(J C J^T / S), J = d values / d means (F, K).

        The delta method: right to leading order in 1/S, where the numbers are smooth functions of means of finite variance.
        """
        variance = np.einsum("fk,fk->f", jacobian @ self.covariance, jacobian)
        # Rounding can leave a vanishing variance slightly negative.
        return ArrayEstimate(values, np.sqrt(np.maximum(variance, 0.0) / max(self.count, 1)))

    def estimate(self, function: Callable[[Tensor], Tensor]) -> ArrayEstimate:
        """As `propagate`, of a differentiable function of the means, (K,) float64 -> (F,)."""
        means = torch.from_numpy(self.mean)
        jacobian: Tensor = torch.autograd.functional.jacobian(function, means)
        return self.propagate(function(means).numpy(), jacobian.numpy())


def mean_and_error(values: ArrayLike) -> ArrayEstimate:
    """Mean and standard error (ddof = 1) over independent samples (S, ...); both of the trailing shape."""
    moments = RunningMoments()
    moments.update(values)
    return moments.array_estimate()


def v_score(energy: float, variance: float, num_sites: int, infinite_temperature_energy: float) -> float:
    """N Var / (E - E_inf)^2: how far a state is from an eigenstate, comparable between models and sizes.

    D. Wu et al., arXiv 2302.04919. All of them for the whole lattice, in one unit of energy.

    Args:
        energy: <H>.
        variance: Var E_loc = <H^2> - <H>^2.
        num_sites: N.
        infinite_temperature_energy: E_inf = Tr H / 2^N, the zero of energy.
    """
    return num_sites * variance / (energy - infinite_temperature_energy) ** 2
