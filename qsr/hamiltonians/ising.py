"""Ising-like Hamiltonians in a transverse field: Rydberg arrays and the transverse-field Ising model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hamiltonians.base import sparse_matrix
from qsr.lattice import Lattice
from qsr.symmetries import TOLERANCE


class IsingHamiltonian:
    """H = constant + sum_i h_i n_i + sum_{i<j} J_ij n_i n_j - sum_i g_i X_i.

    Attributes:
        lattice: the sites.
        constant: energy of the empty configuration.
        fields: (N,) h_i.
        couplings: (N, N) J_ij, symmetric with zero diagonal.
        transverse: (N,) g_i.
        num_sites: N.
        is_stoquastic: whether every g_i >= 0.
    """

    def __init__(
        self,
        lattice: Lattice,
        constant: float,
        fields: NDArray[np.float64],
        couplings: NDArray[np.float64],
        transverse: NDArray[np.float64],
    ) -> None:
        self.lattice = lattice
        self.num_sites = lattice.num_sites
        self.constant = constant
        self.fields = fields
        self.couplings = couplings
        self.transverse = transverse
        self.is_stoquastic = bool((transverse >= 0).all())
        self._parameters: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def diagonal(self, configs: Tensor) -> Tensor:
        """(B,) float64 H_nn of configurations (B, N)."""
        fields, pairs, _ = self._on(configs.device)
        occupation = configs.to(torch.float64)
        # n_i n_i = n_i lets the fields ride along: sum_i n_i (h_i + sum_{j>i} J_ij n_j).
        return self.constant + (torch.addmm(fields, occupation, pairs) * occupation).sum(dim=-1)

    def connected(self, configs: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (N, N) bool, the single flips in site order, and coefficients (B, N) float64, -g_i."""
        _, _, transverse = self._on(configs.device)
        masks = torch.eye(self.num_sites, dtype=torch.bool, device=configs.device)
        return masks, (-transverse).expand(len(configs), -1)

    def to_sparse(self) -> Any:
        """The (2^N, 2^N) matrix as a scipy `csr_array`. Raises ConfigError above 20 sites."""
        return sparse_matrix(self)

    def infinite_temperature_energy(self) -> float:
        """Tr H / 2^N: <n_i> = 1/2 and <n_i n_j> = 1/4."""
        return float(self.constant + self.fields.sum() / 2 + self.couplings.sum() / 8)

    def is_invariant(self, permutation: Tensor) -> bool:
        """Whether fields, transverse fields and couplings are those of the permuted sites (N,)."""
        sites = permutation.cpu().numpy()
        same = all(np.allclose(values[sites], values, rtol=1e-9, atol=0.0) for values in (self.fields, self.transverse))
        # Positions that are symmetric within `qsr.symmetries.TOLERANCE` have couplings 1/r^6 that differ by twelve times that.
        largest = np.abs(self.couplings).max(initial=0.0)
        return same and bool((np.abs(self.couplings[np.ix_(sites, sites)] - self.couplings) <= 20 * TOLERANCE * largest).all())

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """(fields, couplings of i < j as the lower triangle, transverse) on `device`, copied there once."""
        if device not in self._parameters:
            arrays = (self.fields, np.tril(self.couplings), self.transverse)
            fields, pairs, transverse = (torch.as_tensor(array, dtype=torch.float64, device=device) for array in arrays)
            self._parameters[device] = (fields, pairs, transverse)
        return self._parameters[device]


class RydbergHamiltonian(IsingHamiltonian):
    """H = -sum_i (Omega_i/2) X_i - sum_i delta_i n_i + V sum_{i<j} n_i n_j / |r_i - r_j|^6 over all pairs.

    Distances in lattice constants (to the nearest image where the boundary is periodic); V, Omega and delta in one unit.
    Omega and delta are numbers, or (N,).
    """

    def __init__(
        self,
        lattice: Lattice,
        V: float = 7.0,
        Omega: float | NDArray[np.float64] = 1.0,
        delta: float | NDArray[np.float64] = 1.0,
    ) -> None:
        distances = lattice.distances()
        np.fill_diagonal(distances, np.inf)  # no interaction of a site with itself
        sites = np.ones(lattice.num_sites)
        super().__init__(lattice, 0.0, fields=-delta * sites, couplings=V / distances**6, transverse=Omega / 2 * sites)


class TransverseFieldIsing(IsingHamiltonian):
    """H = -J sum_<ij> Z_i Z_j - h sum_i X_i with Pauli matrices on nearest-neighbour bonds; energies in the unit of J and h."""

    def __init__(self, lattice: Lattice, J: float = 1.0, h: float = 1.0) -> None:
        neighbours = np.zeros((lattice.num_sites, lattice.num_sites))
        first, second = lattice.bonds().T
        neighbours[first, second] = neighbours[second, first] = 1.0
        # Z = 1 - 2n gives -J Z_i Z_j = -J + 2J (n_i + n_j) - 4J n_i n_j.
        super().__init__(
            lattice,
            constant=-J * len(first),
            fields=2 * J * neighbours.sum(axis=1),
            couplings=-4 * J * neighbours,
            transverse=h * np.ones(lattice.num_sites),
        )
