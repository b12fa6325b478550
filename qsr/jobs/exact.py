"""`qsr exact`: the exact ground state of a small lattice, and product-state energies as baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qsr.hamiltonians import IsingHamiltonian, cluster_product_energy, exact_observables, ground_state, site_product_energy
from qsr.hparams import ConfigError
from qsr.hparams.run import sized_hamiltonian
from qsr.jobs.run import Section

CLUSTER = "2x2"
EXACT = "exact"
EXACT_SITES = 16  # seconds of diagonalisation


@dataclass(frozen=True)
class ExactReport:
    """Exact energies of a lattice, in the units of the Hamiltonian's parameters.

    Attributes:
        energy, gap: of the ground state, and to the first excited one.
        observables: names as in `qsr.estimators.Observables` (densities as a list).
        baselines: energies of the best product states, where the Hamiltonian has them.
        num_sites: N.
        problem: the Hamiltonian in one line, with the unit of the energies.
    """

    energy: float
    gap: float
    observables: dict[str, Any]
    baselines: dict[str, float]
    num_sites: int
    problem: str

    def lines(self) -> list[str]:
        """The report as text, one quantity a line."""
        rows = [
            ("energy", self.energy),
            ("energy per site", self.energy / self.num_sites),
            ("gap", self.gap),
            *((name, value) for name, value in self.observables.items() if isinstance(value, float)),
            *((f"E/N, {name}", value / self.num_sites) for name, value in self.baselines.items()),
        ]
        return [self.problem, *(f"{name:<28}{value: .10f}" for name, value in rows)]


def exact(hamiltonian: Section = None) -> ExactReport:
    """Diagonalise a lattice of at most 20 sites without building its matrix.

    Args:
        hamiltonian: an `Hparams` object or a mapping with its `type`; default: the 4x4 Rydberg array.

    Raises:
        ConfigError: for a lattice that is too large or settings that are not one.
    """
    section = sized_hamiltonian({"type": "rydberg", "Lx": 4, "Ly": 4} if hamiltonian is None else hamiltonian)
    problem = section.build()
    result = ground_state(problem)
    return ExactReport(
        energy=result.energy,
        gap=result.gap,
        observables=exact_observables(result, problem.lattice),
        baselines=product_baselines(problem),
        num_sites=problem.num_sites,
        problem=section.describe(),
    )


def product_baselines(problem: Any) -> dict[str, float]:
    """Best energies of products of site states and of 2x2-cluster states; empty where the Hamiltonian has none."""
    if not isinstance(problem, IsingHamiltonian):
        return {}
    baselines = {"product of sites": site_product_energy(problem).energy}
    if problem.lattice.coordinates is None and not (problem.lattice.Lx % 2 or problem.lattice.Ly % 2):
        baselines[f"product of {CLUSTER}"] = cluster_product_energy(problem, CLUSTER).energy
    return baselines


def references(problem: Any) -> dict[str, float]:
    """Energies per site to compare a state with: of the best products, and the exact one (`EXACT`) of at most 16 sites."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = {name: energy / problem.num_sites for name, energy in product_baselines(problem).items()}
            if problem.num_sites <= EXACT_SITES:
                found[EXACT] = ground_state(problem, num_levels=1).energy / problem.num_sites
    except np.linalg.LinAlgError as error:
        raise ConfigError(f"hamiltonian: cannot be diagonalised ({error}); are its numbers far too large?") from None
    return found
