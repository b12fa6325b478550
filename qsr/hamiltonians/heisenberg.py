"""The spin-1/2 Heisenberg antiferromagnet and its XXZ form; on bipartite lattices in the basis where psi is positive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qsr.hamiltonians.base import sparse_matrix
from qsr.hparams import ConfigError
from qsr.lattice import Lattice


class HeisenbergHamiltonian:
    """H = J sum_<ij> (Sx_i Sx_j + Sy_i Sy_j + Delta Sz_i Sz_j), J > 0; with the sign rule, after a rotation by pi about z
    on one sublattice.

    The rotation turns the exchange J/2 (S+S- + S-S+) of each bond into -J/2 (...), which makes H stoquastic for every Delta and
    leaves the spectrum and everything diagonal in n as they are; X on the rotated sublattice changes its sign.
    (W. Marshall, Proc. R. Soc. A 232, 48 (1955).)

    Attributes:
        lattice: the sites.
        num_sites: N.
        is_stoquastic: whether the sign rule is applied.

    Raises:
        ConfigError: if J is not positive, or with the sign rule a bond joins two sites of one sublattice.
    """

    def __init__(self, lattice: Lattice, J: float = 1.0, Delta: float = 1.0, sign_rule: bool = True) -> None:
        if not J > 0:
            raise ConfigError(f"heisenberg.J={J}: must be positive; a ferromagnet would not be stoquastic in this basis")
        if sign_rule:
            check_bipartite(lattice)
        self.lattice = lattice
        self.num_sites = lattice.num_sites
        self.is_stoquastic = sign_rule
        self._exchange = -J / 2 if sign_rule else J / 2
        self._parallel = J * Delta / 4
        self._bonds = torch.from_numpy(lattice.bonds())

    def diagonal(self, configs: Tensor) -> Tensor:
        """(B,) float64 H_nn of configurations (B, N): J Delta/4 for each parallel bond, -J Delta/4 for each antiparallel one."""
        antiparallel = self._antiparallel(configs).sum(dim=-1)
        return self._parallel * (len(self._bonds) - 2 * antiparallel).to(torch.float64)

    def connected(self, configs: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (M, N) bool, both sites of each bond, and coefficients (B, M) float64: -J/2 (J/2 without the sign rule) where
        antiparallel, else 0."""
        masks = torch.zeros(len(self._bonds), self.num_sites, dtype=torch.bool, device=configs.device)
        masks.scatter_(1, self._bonds.to(configs.device), True)
        return masks, self._exchange * self._antiparallel(configs).to(torch.float64)

    def to_sparse(self) -> Any:
        """The (2^N, 2^N) matrix as a scipy `csr_array`. Raises ConfigError above 20 sites."""
        return sparse_matrix(self)

    def infinite_temperature_energy(self) -> float:
        """Tr H / 2^N = 0: spin operators have no trace."""
        return 0.0

    def is_invariant(self, permutation: Tensor) -> bool:
        """Whether permuted sites (N,) have the same bonds; all bonds are alike, also after the sign rule."""
        bonds = {tuple(sorted(bond)) for bond in self._bonds.tolist()}
        return {tuple(sorted(bond)) for bond in permutation.cpu()[self._bonds].tolist()} == bonds

    def _antiparallel(self, configs: Tensor) -> Tensor:
        """(B, M) bool: which bonds join different occupations."""
        first, second = self._bonds.to(configs.device).unbind(dim=1)
        return configs[:, first] != configs[:, second]


def check_bipartite(lattice: Lattice) -> None:
    """Whether the sign rule makes psi positive.

    Raises:
        ConfigError: if two neighbours are on one sublattice.
    """
    signs, bonds = lattice.sublattice_signs(), lattice.bonds()
    same = bonds[signs[bonds[:, 0]] == signs[bonds[:, 1]]]
    if len(same):
        raise ConfigError(
            f"heisenberg: the lattice is not bipartite; sites {same[0, 0]} and {same[0, 1]} are neighbours on one sublattice; "
            "sign_rule=False leaves H as it is, for a model with phase=True"
        )
