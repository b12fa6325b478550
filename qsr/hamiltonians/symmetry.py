"""Which symmetries of the lattice a Hamiltonian has."""

from __future__ import annotations

from torch import Tensor

from qsr.hamiltonians.base import Hamiltonian
from qsr.symmetries import site_permutations


def hamiltonian_symmetries(hamiltonian: Hamiltonian, which: str) -> Tensor:
    """(G, N) the permutations of `qsr.symmetries.site_permutations` that leave H as it is: a group, the identity first.

    Fields of single sites, and Pauli strings, have fewer symmetries than their lattice.

    Raises:
        ConfigError: for another word than `which` may be.
    """
    group = site_permutations(hamiltonian.lattice, which)
    return group[[hamiltonian.is_invariant(permutation) for permutation in group]]
