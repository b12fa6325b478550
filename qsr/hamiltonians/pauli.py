"""Pauli strings: their order, and their matrix elements as flips, signs and powers of i.

Letter j of a string acts on site j, bit j of a basis index. With n = (1 - Z)/2 a string sigma has one element in every row,

    <n| sigma |n XOR f> = i^power (-1)^(z.n),

where f holds the sites with X or Y, z those with Z or Y, and the power is that of (-i)^(number of Ys).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
import torch
from torch import Tensor

from qsr.hamiltonians.base import basis_index, check_enumerable, configurations

CHUNK_NUMBERS = 2**22  # of a table of signs that is made at once
KEPT_NUMBERS = 2**24  # up to here the signs of the whole basis, 2^n for every string, are kept between calls


def number_of_strings(num_qubits: int, max_weight: int) -> int:
    """sum_k C(n, k) 3^k, k = 0..max_weight: the length of `pauli_strings`.

    >>> number_of_strings(5, 2), number_of_strings(5, 5)
    (106, 1024)
    """
    _check_weight(num_qubits, max_weight)
    return sum(math.comb(num_qubits, weight) * 3**weight for weight in range(max_weight + 1))


def pauli_strings(num_qubits: int, max_weight: int) -> list[str]:
    """All strings with at most `max_weight` letters other than I, by weight, then letters, then sites.

    >>> pauli_strings(2, 1)
    ['II', 'XI', 'IX', 'YI', 'IY', 'ZI', 'IZ']
    """
    _check_weight(num_qubits, max_weight)
    strings = []
    for weight in range(max_weight + 1):
        for letters in product("XYZ", repeat=weight):
            for sites in combinations(range(num_qubits), weight):
                string = ["I"] * num_qubits
                for site, letter in zip(sites, letters, strict=True):
                    string[site] = letter
                strings.append("".join(string))
    return strings


def _check_weight(num_qubits: int, max_weight: int) -> None:
    if not 0 <= max_weight <= num_qubits:
        raise ValueError(f"max_weight={max_weight}: must be between 0 and the number of qubits, {num_qubits}")


class PauliBasis:
    """Operators A_k = sum_s c_ks sigma_s over a fixed list of P Pauli strings; the tables live on the CPU and are copied once.

    The F distinct flips are in the order of their first string, so that of `pauli_strings` begins with no flip at all.

    Attributes:
        strings: as given.
        num_qubits: N.
        masks: (F, N) bool, True where a flip acts.
        flip_index: (P,) int64, the flip of each string.
        z_sites: (P, N) bool, the sites whose occupation gives a sign.
        powers: (P,) int64 powers of i, 0 to 3.

    Raises:
        ValueError: for no strings, strings of different lengths, or other letters than I, X, Y and Z.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = list(strings)
        lengths = {len(string) for string in self.strings}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"Pauli strings: one or more, all of one length above 0, found lengths {sorted(lengths)}")
        self.num_qubits = lengths.pop()
        joined = "".join(self.strings)
        if wrong := set(joined) - set("IXYZ"):
            raise ValueError(f"Pauli strings: letters are I, X, Y and Z, found {''.join(sorted(wrong))!r}")
        letters = np.frombuffer(joined.encode(), dtype=np.uint8).reshape(-1, self.num_qubits)
        x, y, z = (letters == ord(letter) for letter in "XYZ")
        _, first, inverse = np.unique(np.packbits(x | y, axis=1), axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))  # of each distinct flip by its first string
        self.masks = torch.from_numpy((x | y)[np.sort(first)])
        self.flip_index = torch.from_numpy(rank[inverse.reshape(-1)])
        self.z_sites = torch.from_numpy(z | y)
        self.powers = torch.from_numpy(3 * y.sum(axis=1) % 4)
        self._copies: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
        self._kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        return len(self.strings)

    @property
    def num_flips(self) -> int:
        """F, the identity included if a string has no X and no Y."""
        return len(self.masks)

    @property
    def flips(self) -> Tensor:
        """(F,) int64 masks: bit i is set where site i is flipped. Raises ValueError above 62 qubits."""
        return basis_index(self.masks)

    @property
    def z_masks(self) -> Tensor:
        """(P,) int64: bit i is set where the occupation of site i gives a sign. Raises ValueError above 62 qubits."""
        return basis_index(self.z_sites)

    def signs(self, configs: Tensor, strings: slice | Tensor = slice(None), dtype: torch.dtype = torch.float64) -> Tensor:
        """(P', B): the sign of i^power (-1)^(z.n), for configs (B, N) and P' of the strings; odd powers leave a factor i."""
        z_sites, powers, _ = self._on(configs.device)
        with torch.autocast(configs.device.type, enabled=False):
            counts = z_sites[strings] @ configs.T.to(z_sites.dtype)
        negative = (powers[strings] >= 2).to(counts.dtype)[:, None]
        return (1 - 2 * ((counts + negative) % 2)).to(dtype)

    def elements(self, configs: Tensor, dtype: torch.dtype = torch.complex128) -> Tensor:
        """(B, P) complex <n| sigma_s |n XOR flip_s> for configs (B, N); all are 1, -1, i or -i."""
        turned = self.powers.to(configs.device) % 2 == 1
        signs = self.signs(configs, dtype=dtype).T
        return torch.where(turned, 1j * signs, signs)

    def operators(self, coefficients: Tensor) -> Tensor:
        """(K, 2^N, 2^N) complex matrices sum_s c_ks sigma_s of real coefficients (K, P), in basis order; differentiable.

        One matrix product for each distinct flip, which fills the elements <n| . |n XOR flip>.

        Raises:
            ConfigError: above 20 qubits.
        """
        check_enumerable(self.num_qubits, "operators")
        device = coefficients.device
        order, blocks = self._order()
        order = order.to(device)
        flips = self.flips.to(device)
        dimension = 2**self.num_qubits
        index = torch.arange(dimension, device=device)
        sorted_coefficients = coefficients[:, order]
        none = coefficients.new_zeros(len(coefficients), dimension)
        columns = []
        for real, imaginary in blocks:
            parts = [none, none]
            for place, block in enumerate((real, imaginary)):
                if block.stop > block.start:
                    signs = self._basis_signs(order, block, device, coefficients.dtype)
                    parts[place] = sorted_coefficients[:, block] @ signs
            columns.append(torch.complex(*parts))
        elements = torch.cat(columns, dim=1)  # (K, F*2^N)
        places = (index * dimension + (index ^ flips[:, None])).flatten()
        matrices = elements.new_zeros(len(coefficients), dimension**2)
        # One scatter for all flips: one for each would copy the matrices as often on the way back.
        return matrices.index_copy(1, places, elements).view(-1, dimension, dimension)

    def local_values(self, coefficients: Tensor, configs: Tensor, ratios: Tensor) -> Tensor:
        """(B, K) complex sum_s c_ks <n| sigma_s |n XOR flip_s> psi(n XOR flip_s) / psi(n); differentiable.

        All operators share the flips, so psi is needed once for each of them and not for each string.

        Args:
            coefficients: (K, P) real.
            configs: (B, N).
            ratios: (B, F) psi(n XOR mask) / psi(n), real or complex, for `masks`.
        """
        device = configs.device
        _, powers, flip_index = self._on(device)
        ratios = ratios if ratios.is_complex() else torch.complex(ratios, torch.zeros_like(ratios))
        dtype = torch.promote_types(coefficients.dtype, ratios.real.dtype)
        parts = torch.view_as_real(ratios).to(dtype).permute(2, 1, 0)  # (2, F, B)
        total = [coefficients.new_zeros(len(coefficients), len(configs), dtype=dtype) for _ in range(2)]
        for chunk in self._chunks(len(configs)):
            signs = self.signs(configs, chunk, dtype)
            real, imaginary = signs * parts[:, flip_index[chunk]]
            turned = (powers[chunk] % 2 == 1)[:, None]  # a factor i
            own = coefficients[:, chunk].to(dtype)
            total[0] = total[0] + own @ torch.where(turned, -imaginary, real)
            total[1] = total[1] + own @ torch.where(turned, real, imaginary)
        return torch.complex(*total).T

    def _chunks(self, rows: int) -> Iterator[slice]:
        """Strings whose signs for so many configurations are made at once."""
        length = max(1, CHUNK_NUMBERS // max(1, rows))
        return (slice(first, min(first + length, len(self))) for first in range(0, len(self), length))

    def _order(self) -> tuple[Tensor, list[tuple[slice, slice]]]:
        """The strings sorted by flip, those with real elements before those with imaginary ones; where these are."""
        keys = 2 * self.flip_index + self.powers % 2
        ends = torch.bincount(keys, minlength=2 * self.num_flips).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        slices = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
        return keys.argsort(stable=True), list(zip(slices[::2], slices[1::2], strict=True))

    def _basis_signs(self, order: Tensor, block: slice, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(strings of the block, 2^N) signs of all configurations."""
        if len(self) << self.num_qubits > KEPT_NUMBERS:
            return self.signs(configurations(self.num_qubits).to(device), order[block], dtype)
        if (device, dtype) not in self._kept:
            self._kept[device, dtype] = self.signs(configurations(self.num_qubits).to(device), order, dtype)
        return self._kept[device, dtype][block]

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """(z_sites in float32, powers, flip_index) on `device`, copied there once."""
        if device not in self._copies:
            tables = (self.z_sites.float(), self.powers, self.flip_index)
            z_sites, powers, flip_index = (table.to(device) for table in tables)
            self._copies[device] = (z_sites, powers, flip_index)
        return self._copies[device]
