"""Hamiltonians that are sums of Pauli strings, written down or multiplied out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from qsr.hamiltonians.base import sparse_matrix
from qsr.hamiltonians.pauli import CHUNK_NUMBERS, PauliBasis
from qsr.hamiltonians.pauli_text import read_terms
from qsr.lattice import Lattice

MAX_PARITIES = 16  # independent signs of the elements of one flip whose 2^16 combinations are tried
_ROUNDING = 1e-12  # of an element, relative to the coefficients that it is summed from

_Masks = tuple[int, int]  # sites with X or Y, sites with Z or Y, as bits: the string is i^(number of Ys) X^x Z^z


class PauliSum:
    """H = sum_s c_s sigma_s with real coefficients; letter i of a string acts on site i, and n = (1 - Z)/2.

    Equal strings are added up. Elements are complex if a string has an odd number of Ys, else real.

    Args:
        strings: one or more, all of length N.
        coefficients: c_s, in the unit of all energies.
        lattice: where the sites are; default: a chain.

    Attributes:
        lattice: the sites.
        num_sites: N.
        is_stoquastic: whether all off-diagonal elements are real and none is positive. It is decided exactly as long as the
            elements of each flip depend on at most 16 independent signs; beyond, elements that may be positive as far as the
            sizes of the coefficients tell count as positive.
        basis: the strings, with their tables.
        coefficients: (P,) float64.

    Raises:
        ValueError: for what `PauliBasis` refuses, coefficients that are not as many finite numbers, or another number of sites.
    """

    def __init__(self, strings: Sequence[str], coefficients: Sequence[float], lattice: Lattice | None = None) -> None:
        if len(strings) != len(coefficients):
            raise ValueError(f"PauliSum: {len(strings)} strings and {len(coefficients)} coefficients")
        summed: dict[str, float] = {}
        for string, coefficient in zip(strings, coefficients, strict=True):
            summed[string] = summed.get(string, 0.0) + float(coefficient)
        self.basis = PauliBasis(list(summed))
        self.coefficients = torch.tensor(list(summed.values()), dtype=torch.float64)
        if not self.coefficients.isfinite().all():
            raise ValueError("PauliSum: a coefficient is not finite")
        self.num_sites = self.basis.num_qubits
        self.lattice = Lattice(self.num_sites, 1) if lattice is None else lattice
        if self.lattice.num_sites != self.num_sites:
            raise ValueError(f"PauliSum: strings of {self.num_sites} letters on a lattice of {self.lattice.num_sites} sites")
        flipping = self.basis.masks.any(dim=1)  # (F,)
        flips = self.basis.flip_index
        self._diagonal = torch.nonzero(~flipping[flips]).squeeze(1)
        connected = torch.nonzero(flipping[flips]).squeeze(1)
        # Sorted by flip, so that the strings of a few flips stand together.
        self._connected = connected[flips[connected].argsort(stable=True)]
        self._masks = self.basis.masks[flipping]
        self._column = (flipping.long().cumsum(0) - 1)[flips[self._connected]]  # of `connected`, for each of its strings
        self._turned = self.basis.powers[self._connected] % 2 == 1
        self.is_complex = bool((self._turned & (self.coefficients[self._connected] != 0)).any())
        self.is_stoquastic = not self.is_complex and all(_never_positive(*terms) for terms in self._elements())

    @classmethod
    def from_text(cls, text: str, lattice: Lattice | None = None, where: str = "pauli.terms") -> PauliSum:
        """From terms such as `0.5 X0 Z3 + 1.2 Y1 Y2`, `XIZI 0.5` in a line each, or OpenFermion's `0.5 [X0 Z3] +`.

        Args:
            lattice: its sites; without one, the strings or the largest site that is named tell how many there are.
            where: name of the setting, for errors.

        Raises:
            ConfigError: for anything else, and for sites that the lattice does not have.
        """
        strings, coefficients = read_terms(text, None if lattice is None else lattice.num_sites, where)
        return cls(strings, coefficients, lattice)

    # --- as a Hamiltonian ---------------------------------------------------------------------------------------------

    def diagonal(self, configs: Tensor) -> Tensor:
        """(B,) float64 H_nn of configurations (B, N)."""
        total = torch.zeros(len(configs), dtype=torch.float64, device=configs.device)
        for part in self._parts(self._diagonal, len(configs)):
            total += self.coefficients[part].to(configs.device) @ self.basis.signs(configs, part.to(configs.device))
        return total

    def connected(self, configs: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (M, N) bool, the distinct flips, and coefficients (B, M), float64 or complex128."""
        device = configs.device
        functions = 2 if self.is_complex else 1  # real and imaginary parts
        total = torch.zeros(functions, len(self._masks), len(configs), dtype=torch.float64, device=device)
        places = torch.arange(len(self._connected))
        for part in self._parts(places, len(configs)):
            strings = self._connected[part]
            values = self.basis.signs(configs, strings.to(device)) * self.coefficients[strings].to(device)[:, None]
            turned, column = self._turned[part].to(device), self._column[part].to(device)
            for function in range(functions):
                own = turned == (function == 1)
                total[function].index_add_(0, column[own], values[own])
        elements = torch.complex(*total) if self.is_complex else total[0]
        return self._masks.to(device), elements.T.contiguous()

    def to_sparse(self) -> Any:
        """The (2^N, 2^N) matrix as a scipy `csr_array`. Raises ConfigError above 20 sites."""
        return sparse_matrix(self)

    def is_invariant(self, permutation: Tensor) -> bool:
        """Whether permuted sites (N,) have the same terms."""
        terms = self.terms()
        sites = permutation.tolist()
        moved = {"".join(string[site] for site in sites): coefficient for string, coefficient in terms.items()}
        return moved.keys() == terms.keys() and all(math.isclose(moved[s], terms[s], rel_tol=1e-9) for s in terms)

    def infinite_temperature_energy(self) -> float:
        """Tr H / 2^N: the coefficient of the identity; all other strings have no trace."""
        return self.terms().get("I" * self.num_sites, 0.0)

    # --- as an operator -----------------------------------------------------------------------------------------------

    def terms(self) -> dict[str, float]:
        """String -> coefficient."""
        return dict(zip(self.basis.strings, self.coefficients.tolist(), strict=True))

    def product(self, other: PauliSum) -> PauliSum:
        """The operator product self other.

        Raises:
            ValueError: if it is not Hermitian, which is to say that the two do not commute, or on another lattice.
        """
        self._check_lattice(other)
        summed: dict[_Masks, complex] = {}
        right = list(other._mask_terms())
        for left, a in self._mask_terms():
            for masks, b in right:
                found, power = _product(left, masks)
                summed[found] = summed.get(found, 0.0) + a * b * 1j**power
        scale = float(self.coefficients.abs().sum() * other.coefficients.abs().sum())
        if any(abs(value.imag) > _ROUNDING * scale for value in summed.values()):
            raise ValueError("PauliSum.product: the operators do not commute, so their product is not Hermitian")
        return self._from_masks({masks: value.real for masks, value in summed.items()})

    def square(self) -> PauliSum:
        """The operator squared: anticommuting pairs of strings cancel, commuting ones count twice, so all stays real."""
        terms = list(self._mask_terms())
        summed: dict[_Masks, float] = {(0, 0): sum(value * value for _, value in terms)}
        for index, (left, a) in enumerate(terms):
            for right, b in terms[:index]:
                found, power = _product(left, right)
                if power % 2 == 0:
                    summed[found] = summed.get(found, 0.0) + (2 - 2 * power) * a * b  # power 0 or 2: +2 or -2
        return self._from_masks(summed)

    def __add__(self, other: PauliSum) -> PauliSum:
        self._check_lattice(other)
        strings = [*self.basis.strings, *other.basis.strings]
        return PauliSum(strings, torch.cat([self.coefficients, other.coefficients]).tolist(), self.lattice)

    def __sub__(self, other: PauliSum) -> PauliSum:
        return self + other * -1.0

    def __mul__(self, other: float | PauliSum) -> PauliSum:
        """Times a number, or the operator product (see `product`)."""
        if isinstance(other, PauliSum):
            return self.product(other)
        return PauliSum(self.basis.strings, (self.coefficients * other).tolist(), self.lattice)

    def __rmul__(self, other: float) -> PauliSum:
        return self * other

    def __neg__(self) -> PauliSum:
        return self * -1.0

    def _check_lattice(self, other: PauliSum) -> None:
        if other.lattice != self.lattice:
            raise ValueError(f"PauliSum: operators on different lattices, {self.lattice} and {other.lattice}")

    def _mask_terms(self) -> Iterator[tuple[_Masks, float]]:
        for string, coefficient in self.terms().items():
            x = sum(1 << site for site, letter in enumerate(string) if letter in "XY")
            z = sum(1 << site for site, letter in enumerate(string) if letter in "ZY")
            yield (x, z), coefficient

    def _from_masks(self, terms: dict[_Masks, float]) -> PauliSum:
        """Terms that have cancelled exactly are left out; those that leave rounding errors cannot be told from small ones."""
        kept = {masks: value for masks, value in terms.items() if value} or {(0, 0): 0.0}
        strings = ["".join("IXZY"[(x >> site & 1) + 2 * (z >> site & 1)] for site in range(self.num_sites)) for x, z in kept]
        return PauliSum(strings, list(kept.values()), self.lattice)

    def _parts(self, strings: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Stretches of strings whose signs for so many configurations are made at once."""
        return strings.split(max(1, CHUNK_NUMBERS // max(1, rows))) if len(strings) else ()

    def _elements(self) -> Iterator[tuple[list[int], list[float]]]:
        """For each flip, the z-masks and real coefficients of its elements sum_s c_s (-1)^(z_s.n)."""
        groups: list[tuple[list[int], list[float]]] = [([], []) for _ in range(len(self._masks))]
        terms = list(self._mask_terms())
        for string, column in zip(self._connected.tolist(), self._column.tolist(), strict=True):
            (_, z), coefficient = terms[string]
            sign = -1.0 if int(self.basis.powers[string]) >= 2 else 1.0
            groups[column][0].append(z)
            groups[column][1].append(sign * coefficient)
        return iter(groups)


def _product(left: _Masks, right: _Masks) -> tuple[_Masks, int]:
    """The product of two strings and the power of i before it; odd where they anticommute."""
    x, z = left[0] ^ right[0], left[1] ^ right[1]
    ys = (left[0] & left[1]).bit_count() + (right[0] & right[1]).bit_count() - (x & z).bit_count()
    return (x, z), (ys + 2 * (left[1] & right[0]).bit_count()) % 4


def _never_positive(z_masks: list[int], coefficients: list[float]) -> bool:
    """Whether sum_s c_s (-1)^(z_s.n) <= 0 for every n, up to rounding; False if there are too many signs to try."""
    allowed = _ROUNDING * sum(map(abs, coefficients))
    constant = sum(value for z, value in zip(z_masks, coefficients, strict=True) if z == 0)
    others = sum(abs(value) for z, value in zip(z_masks, coefficients, strict=True) if z)
    if constant > allowed:  # the mean over all n
        return False
    if constant + others <= allowed:
        return True
    # The signs are products of a few independent ones, each of which takes both values: as many as the rank of the masks.
    pivots: list[tuple[int, int]] = []  # reduced masks, and which of the independent signs they are products of
    members = []
    for z in z_masks:
        reduced, member = z, 0
        for pivot, made_of in pivots:
            if reduced ^ pivot < reduced:
                reduced, member = reduced ^ pivot, member ^ made_of
        if reduced:
            made_of = member ^ (1 << len(pivots))
            member = 1 << len(pivots)
            pivots.append((reduced, made_of))
        members.append(member)
    if len(pivots) > MAX_PARITIES:
        return False
    signs = torch.arange(2 ** len(pivots))
    total = torch.zeros(len(signs), dtype=torch.float64)
    for member, value in zip(members, coefficients, strict=True):
        total += value * (1 - 2 * _parity(signs & member))
    return bool(total.max() <= allowed)


def _parity(values: Tensor) -> Tensor:
    """Parity of the bits of integers below 2^16."""
    for shift in (8, 4, 2, 1):
        values = values ^ (values >> shift)
    return values & 1
