"""Best energies of product states: what a wave function without correlations between patches can reach."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.hamiltonians.base import configurations
from qsr.hamiltonians.ising import IsingHamiltonian
from qsr.hparams import ConfigError
from qsr.hparams.types import check_patch, normalise_patch

logger = logging.getLogger(__name__)

MAX_CLUSTER_SITES = 9  # dense diagonalisation of 2^9 x 2^9 matrices
_MIXING = 0.5  # the full response overshoots and alternates
_TOLERANCE = 1e-6  # of <n_i>; the energy is stationary, so this leaves an error of 1e-12 in it
_MAX_STEPS = 2000
# Equal densities flow to a state with all symmetries of the lattice, which is often a saddle point. A perturbation that is fixed
# (and far above the tolerance) leaves it the same way on every machine; rounding errors would not.
_PERTURBATION = 1e-4


@dataclass(frozen=True)
class ProductStateEnergy:
    """Energies of self-consistent product states, in the Hamiltonian's unit. Each is the expectation of H in a state.

    Attributes:
        uniform: reached from equal densities with a small perturbation; on large lattices, often a state with domain walls.
        staggered: reached from a checkerboard.
    """

    uniform: float
    staggered: float

    @property
    def energy(self) -> float:
        """The lower of the two: a variational upper bound on the ground-state energy."""
        return min(self.uniform, self.staggered)


def site_product_energy(hamiltonian: IsingHamiltonian) -> ProductStateEnergy:
    """Best energies over products of single-site states.

    Raises:
        TypeError: for a Hamiltonian that is not Ising-like.
    """
    return cluster_product_energy(hamiltonian, "1")


def cluster_product_energy(hamiltonian: IsingHamiltonian, patch: str) -> ProductStateEnergy:
    """Best energies over products of arbitrary states of patches ('2x2', '4', ...): cluster mean field.

    Each patch is in the ground state of its own Hamiltonian in the mean field h_i + sum_j J_ij <n_j> of the others, iterated to
    self-consistency.

    Raises:
        TypeError: for a Hamiltonian that is not Ising-like.
        ConfigError: for a patch that does not tile the lattice or has more than 9 sites.
    """
    if not isinstance(hamiltonian, IsingHamiltonian):
        raise TypeError(
            f"product-state energies: {type(hamiltonian).__name__} is not an IsingHamiltonian; a density mean field is exact "
            "between patches only if they are coupled through n_i n_j alone"
        )
    clusters = _Clusters(hamiltonian, patch)
    noise = np.random.default_rng(0).uniform(-1.0, 1.0, size=hamiltonian.num_sites)
    return ProductStateEnergy(
        uniform=clusters.self_consistent_energy(0.3 + _PERTURBATION * noise),
        staggered=clusters.self_consistent_energy(0.5 + 0.4 * hamiltonian.lattice.sublattice_signs()),
    )


class _Clusters:
    """H split into patches (c of them with p sites each) and the couplings between them."""

    def __init__(self, hamiltonian: IsingHamiltonian, patch: str) -> None:
        patch = _checked_patch(hamiltonian, patch)
        self.sites = hamiltonian.lattice.patches(patch)  # (c, p)
        num_clusters, size = self.sites.shape
        self.constant = hamiltonian.constant
        self.occupation = configurations(size).numpy().astype(float)  # (2^p, p)

        inside = hamiltonian.couplings[self.sites[:, :, None], self.sites[:, None, :]]  # (c, p, p)
        pairs = np.einsum("si,cij,sj->cs", self.occupation, inside, self.occupation, optimize=True) / 2
        self.diagonal = hamiltonian.fields[self.sites] @ self.occupation.T + pairs  # (c, 2^p)
        self.flips = np.zeros((num_clusters, 2**size, 2**size))
        index = np.arange(2**size)
        for bit in range(size):
            self.flips[:, index, index ^ (1 << bit)] = -hamiltonian.transverse[self.sites[:, bit], None]

        self.between = hamiltonian.couplings.copy()  # (N, N): J_ij of sites in different patches
        self.between[self.sites[:, :, None], self.sites[:, None, :]] = 0.0

    def self_consistent_energy(self, densities: NDArray[np.float64]) -> float:
        """The lowest energy met on the way to self-consistency, from the given (N,) densities."""
        lowest = np.inf
        for _ in range(_MAX_STEPS):
            energy, updated = self._respond(densities)
            lowest = min(lowest, energy)
            change = np.abs(updated - densities).max()
            if change < _TOLERANCE:
                return lowest
            densities = (1 - _MIXING) * densities + _MIXING * updated
        logger.info(
            "product state: densities still change by %.1e after %d steps; the energy is a bound all the same", change, _MAX_STEPS
        )
        return lowest

    def _respond(self, densities: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """<H> of the product of patch ground states in the mean field of `densities`, and the densities (N,) of that product."""
        field = (self.between @ densities)[self.sites]  # (c, p)
        potential = self.diagonal + field @ self.occupation.T
        matrices = self.flips + potential[:, :, None] * np.eye(potential.shape[1])
        states = np.linalg.eigh(matrices)[1][:, :, 0]  # (c, 2^p)
        born = states**2
        updated = np.empty_like(densities)
        updated[self.sites] = born @ self.occupation
        # The expectation of H itself: every patch alone, and each pair of patches once with the product's own densities.
        alone = np.sum(born * self.diagonal) + np.einsum("cs,cst,ct->", states, self.flips, states, optimize=True)
        return float(self.constant + alone + updated @ self.between @ updated / 2), updated


def _checked_patch(hamiltonian: IsingHamiltonian, patch: Any) -> str:
    try:
        patch = normalise_patch(patch)
    except ValueError as error:
        raise ConfigError(f"product_state.patch={patch}: {error}") from None
    num_clusters = check_patch("product_state", patch, hamiltonian.lattice.shape)
    size = hamiltonian.num_sites // num_clusters
    if size > MAX_CLUSTER_SITES:
        raise ConfigError(f"product_state.patch={patch}: at most {MAX_CLUSTER_SITES} sites (dense diagonalisation), found {size}")
    return patch
