"""A family of Rydberg Hamiltonians: some of delta, Omega and V run over ranges, and every sample may have its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsr.hamiltonians.ising import RydbergHamiltonian
from qsr.hparams import ConfigError
from qsr.hparams.ranges import Range
from qsr.lattice import Lattice


class RydbergFamily:
    """H(lambda) = -sum_i (Omega_i/2) X_i - sum_i delta_i n_i + V sum_{i<j} n_i n_j / |r_i - r_j|^6, for all lambda in a box.

    H is linear in delta, Omega and V, so the matrix elements of any member are sums of three of fixed Hamiltonians.

    Args:
        lattice: the sites.
        values: of `delta`, `Omega` and `V` (or `C6`): numbers, (N,) numbers for delta and Omega, or a `Range`.
        per_interaction: what V or C6 is multiplied with to be the interaction at distance 1.

    Attributes:
        ranges: the ranges by name, in the order of the columns of parameters (B, P).
        num_sites: N.
        is_stoquastic: Omega is nowhere negative, so that psi >= 0 for every member.
    """

    def __init__(self, lattice: Lattice, values: Mapping[str, Any], per_interaction: float = 1.0) -> None:
        self.lattice = lattice
        self.num_sites = lattice.num_sites
        self.ranges = {name: value for name, value in values.items() if isinstance(value, Range)}
        self._fixed = {name: value for name, value in values.items() if name not in self.ranges}
        self._per_interaction = per_interaction
        omega = values["Omega"]
        self.is_stoquastic = bool((omega.low if isinstance(omega, Range) else np.min(omega)) >= 0)
        ones, zeros = np.ones(self.num_sites), np.zeros(self.num_sites)
        # H_nn of a unit interaction alone; sites enter by their own numbers.
        self._pairs = RydbergHamiltonian(lattice, V=1.0, Omega=zeros, delta=zeros)
        self._flips = RydbergHamiltonian(lattice, V=0.0, Omega=ones, delta=zeros)

    def at(self, **values: float) -> RydbergHamiltonian:
        """The member with these values of the ranges.

        Raises:
            ConfigError: for a name that is no range, a range without a value, and a value outside its range.
        """
        named = {**self._fixed, **checked_point(self.ranges, values)}
        interaction = named["C6"] if "C6" in named else named["V"]
        sites = (np.asarray(named[name], dtype=np.float64) for name in ("Omega", "delta"))
        return RydbergHamiltonian(self.lattice, interaction * self._per_interaction, *sites)

    def diagonal(self, configs: Tensor, parameters: Tensor) -> Tensor:
        """(B,) float64 H_nn of configurations (B, N), each of its own member: parameters (B, P), columns as in `ranges`."""
        delta = self._value("delta", parameters)
        interaction = self._value("C6" if "C6" in self._names else "V", parameters) * self._per_interaction
        detuned = (delta * configs.to(torch.float64)).sum(dim=-1)
        return interaction.squeeze(-1) * self._pairs.diagonal(configs) - detuned

    def connected(self, configs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (N, N) bool, the single flips in site order, and coefficients (B, N) float64, -Omega_i/2."""
        masks, coefficients = self._flips.connected(configs)
        return masks, coefficients * self._value("Omega", parameters)

    def rows(self, parameters: Tensor) -> RydbergRows:
        """A Hamiltonian for a batch: row b of configurations is of the member with parameters[b]."""
        return RydbergRows(self, parameters)

    @property
    def _names(self) -> set[str]:
        return {*self.ranges, *self._fixed}

    def _value(self, name: str, parameters: Tensor) -> Tensor:
        """(B, 1) of a range; (1,) or (N,) of what is fixed."""
        if name in self.ranges:
            column = list(self.ranges).index(name)
            return parameters[:, column : column + 1].to(torch.float64)
        fixed = torch.as_tensor(self._fixed[name], dtype=torch.float64, device=parameters.device)
        return fixed if fixed.ndim else fixed[None]


class RydbergRows:
    """The members of a family that the rows of a batch belong to, as a `Hamiltonian` of that batch.

    Attributes:
        lattice, num_sites, is_stoquastic: of the family.
        parameters: (B, P) of the rows.
    """

    def __init__(self, family: RydbergFamily, parameters: Tensor) -> None:
        self.family, self.parameters = family, parameters
        self.lattice, self.num_sites, self.is_stoquastic = family.lattice, family.num_sites, family.is_stoquastic

    def diagonal(self, configs: Tensor) -> Tensor:
        """(B,) H_nn, see `RydbergFamily.diagonal`."""
        return self.family.diagonal(configs, self.parameters)

    def connected(self, configs: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and coefficients, see `RydbergFamily.connected`."""
        return self.family.connected(configs, self.parameters)

    def to_sparse(self) -> Any:
        """No single matrix. Raises TypeError."""
        raise TypeError("a batch of several Hamiltonians has no matrix; use RydbergFamily.at")

    def infinite_temperature_energy(self) -> float:
        """No single number. Raises TypeError."""
        raise TypeError("a batch of several Hamiltonians has no energy at infinite temperature; use RydbergFamily.at")

    def is_invariant(self, permutation: Tensor) -> bool:
        """No single answer. Raises TypeError."""
        raise TypeError("a batch of several Hamiltonians has no symmetries; use RydbergFamily.at")


def checked_point(ranges: Mapping[str, Range], values: Mapping[str, Any]) -> dict[str, float]:
    """The values of a point of the box, in the order of the ranges.

    Raises:
        ConfigError: for a name that is no range, a range without a value, and a value outside its range.
    """
    box = " ".join(f"{name}={found}" for name, found in ranges.items())
    for name, value in values.items():
        if name not in ranges:
            raise ConfigError(f"{name}={value}: is no range of this model, which is for {box}")
        if not isinstance(value, (int, float)):
            raise ConfigError(f"{name}={value}: must be one number in the range {ranges[name]}")
        if value not in ranges[name]:
            raise ConfigError(f"{name}={value}: outside the range {ranges[name]} that the model is for")
    for name in ranges:
        if name not in values:
            raise ConfigError(f"{name}: choose a value in {ranges[name]}; the model is for {box}")
    return {name: float(values[name]) for name in ranges}
