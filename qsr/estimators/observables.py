"""Observables of samples: densities, order parameters, correlations and the structure factor, each with its error bar."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.estimators.statistics import ArrayEstimate, Estimate, RunningMoments
from qsr.lattice import Lattice


def sample_observables(configs: Tensor, lattice: Lattice) -> dict[str, Tensor]:
    """The observables that are diagonal in n, for each configuration (B, N); float64, on the device of `configs`.

    `densities` (B, N): n_i; `density_mean` (B,): sum_i n_i / N; `magnetisation` (B,): sum_i (1 - 2 n_i) / N;
    `staggered_abs`, `staggered_sq` (B,): |m| and m^2 of m = sum_i (-1)^(x+y) (n_i - 1/2) / N
    (where the lattice has sublattices);
    `nn_mean` (B,): n_i n_j averaged over nearest-neighbour bonds (where there are any);
    `structure_factor` (B, Lx, Ly): |sum_i n_i exp(i k r_i)|^2 / N at k = 2 pi (a/Lx, b/Ly) (not for free positions).
    """
    occupation = configs.to(torch.float64)
    density = occupation.mean(dim=1)
    values = {"densities": occupation, "density_mean": density, "magnetisation": 1 - 2 * density}
    if lattice.has_sublattices:
        signs = torch.as_tensor(lattice.sublattice_signs(), device=configs.device)
        staggered = (occupation - 0.5) @ signs / lattice.num_sites
        values |= {"staggered_abs": staggered.abs(), "staggered_sq": staggered.square()}
    first, second = torch.as_tensor(lattice.bonds(), device=configs.device).unbind(dim=1)
    if len(first):
        values["nn_mean"] = (occupation[:, first] * occupation[:, second]).mean(dim=1)
    if lattice.coordinates is None:
        waves = torch.fft.fft2(occupation.view(-1, lattice.Lx, lattice.Ly))
        values["structure_factor"] = waves.abs().square() / lattice.num_sites
    return values


class Observables:
    """Averages of observables over batches of independent samples of |psi|^2."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self._moments: dict[str, RunningMoments] = {}
        self._pairs = np.zeros((lattice.num_sites, lattice.num_sites))  # in how many samples both i and j are excited
        self._count = 0

    def update(self, configs: Tensor, flip_ratios: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            configs: (B, N) samples.
            flip_ratios: (B, N) psi(n')/psi(n), n' = n with site i flipped; needed for `sx` and `sx_mean`. Of complex ratios
                the real part counts, which is the estimator of a Hermitian operator.

        Raises:
            ValueError: for shapes that do not fit the lattice or each other.
        """
        num_sites = self.lattice.num_sites
        if configs.ndim != 2 or configs.shape[1] != num_sites:
            raise ValueError(f"configs: expected shape (B, {num_sites}), found {tuple(configs.shape)}")
        if flip_ratios is not None and flip_ratios.shape != configs.shape:
            raise ValueError(
                f"flip_ratios: expected the shape of configs {tuple(configs.shape)}, found {tuple(flip_ratios.shape)}"
            )
        values = sample_observables(configs, self.lattice)
        self._pairs += (values["densities"].T @ values["densities"]).cpu().numpy()
        self._count += len(configs)
        if flip_ratios is not None:
            # <n| X_i |psi> / <n|psi> = psi(n') / psi(n)
            values["sx"] = flip_ratios.real.to(torch.float64)
            values["sx_mean"] = values["sx"].mean(dim=1)
        for name, value in values.items():
            self._moments.setdefault(name, RunningMoments()).update(value.cpu().numpy())

    def results(self) -> dict[str, Estimate | ArrayEstimate]:
        """Every observable with its standard error: scalars as `Estimate`, the others as `ArrayEstimate`.

        The names of `sample_observables`, averaged over samples, and `correlations` (N, N): <n_i n_j> - <n_i><n_j>; with
        flip ratios also `sx` (N,) and `sx_mean`: <X_i> and its site average.

        Raises:
            ValueError: before the first sample.
        """
        if self._count == 0:
            raise ValueError("observables: no samples yet")
        results: dict[str, Estimate | ArrayEstimate] = {
            name: moments.array_estimate() if moments.mean.ndim else moments.estimate() for name, moments in self._moments.items()
        }
        results["correlations"] = connected_correlations(self._pairs, self._count)
        return results


def connected_correlations(pairs: NDArray[np.float64], count: int) -> ArrayEstimate:
    """<n_i n_j> - <n_i><n_j> of `count` samples, from the number of samples in which both sites are excited.

    The error is that of the delta method: the estimator's influence function is (n_i - <n_i>)(n_j - <n_j>) - C_ij, whose variance
    over binary n_i, n_j follows from the four joint frequencies, so no sample needs to be kept.

    Args:
        pairs: (N, N) counts of n_i n_j = 1; the diagonal counts n_i = 1.
        count: S; the errors (and the unbiased estimate itself) are nan for S = 1.
    """
    joint = pairs / count
    density = np.diag(joint)
    row, column = density[:, None], density[None, :]
    covariance = joint - row * column
    second_moment = (
        joint * ((1 - row) * (1 - column)) ** 2
        + (row - joint) * ((1 - row) * column) ** 2
        + (column - joint) * (row * (1 - column)) ** 2
        + (1 - row - column + joint) * (row * column) ** 2
    )
    if count < 2:
        return ArrayEstimate(np.full_like(joint, np.nan), np.full_like(joint, np.nan))
    # Rounding can leave a vanishing variance slightly negative.
    variance = np.maximum(second_moment - covariance**2, 0.0)
    return ArrayEstimate(covariance * count / (count - 1), np.sqrt(variance / (count - 1)))
