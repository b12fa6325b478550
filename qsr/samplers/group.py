"""The group that a sampler is averaged over, and when there is none to speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from qsr.hamiltonians.symmetry import hamiltonian_symmetries
from qsr.hparams.base import ConfigError
from qsr.symmetries import site_permutations

if TYPE_CHECKING:
    from qsr.hamiltonians.settings import LatticeHparams
    from qsr.lattice import Lattice

NO_PHASE = "not with phase=True: which phase the images of a configuration share depends on how the state transforms"


def symmetry_group(setting: str, which: str, lattice: Lattice, problem: LatticeHparams | None = None) -> Tensor:
    """(G, N) int64 permutations of the sites, see `qsr.symmetries.site_permutations`; with a problem, those of its H.

    Args:
        setting: its name, for the error.

    Raises:
        ConfigError: if the identity is all there is.
    """
    group = site_permutations(lattice, which)
    if len(group) == 1:
        hint = "; translations need boundary=periodic or cylinder" if which == "translations" else ""
        raise ConfigError(f"{setting}={which}: the lattice has no such symmetry, the group has order 1{hint}; expected none")
    if problem is not None:
        group = hamiltonian_symmetries(problem.build(), which)
        if len(group) == 1:
            raise ConfigError(f"{setting}={which}: the lattice has such symmetries, the Hamiltonian has none; expected none")
    return group
