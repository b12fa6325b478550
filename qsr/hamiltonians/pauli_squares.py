"""Squares of many operators over the same Pauli strings: sum_k A_k^2 as one sum of strings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qsr.hamiltonians.pauli import PauliBasis

MAX_PAIRS = 2**24  # of strings whose products are tabulated: 400 MiB while the table is made


class PauliSquares:
    """Products of the strings of a basis with at most w letters; they have at most 2w.

    Anticommuting pairs cancel in a square, so all its coefficients are real.

    Attributes:
        strings: the distinct products, those of the basis among them.
        places: (P,) int64, where the strings of the basis are among them.

    Raises:
        ValueError: for more strings than can be multiplied with each other.
    """

    def __init__(self, basis: PauliBasis) -> None:
        if len(basis) ** 2 > MAX_PAIRS:
            found = f"{len(basis)} Pauli strings have {len(basis) ** 2} products"
            raise ValueError(f"{found}, at most {MAX_PAIRS} are tabulated; use fewer letters")
        x = basis.masks[basis.flip_index].numpy()
        z = basis.z_sites.numpy()
        # sigma_P sigma_Q = i^(y_P + y_Q - y_PQ) (-1)^(z_P . x_Q) sigma_PQ, with y the number of letters Y.
        crossing = z.astype(np.float32) @ x.T.astype(np.float32)
        first, second = np.nonzero((crossing + crossing.T) % 2 == 0)  # pairs that commute
        new_x, new_z = x[first] ^ x[second], z[first] ^ z[second]
        ys = (x & z).sum(axis=1)
        powers = ys[first] + ys[second] - (new_x & new_z).sum(axis=1) + 2 * crossing[first, second].astype(np.int64)
        packed = np.packbits(np.concatenate([np.concatenate([x, z], axis=1), np.concatenate([new_x, new_z], axis=1)]), axis=1)
        _, index, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        letters = np.concatenate([x + 2 * z, new_x + 2 * new_z])[index]
        self.strings = ["".join("IXZY"[letter] for letter in row) for row in letters]
        inverse = inverse.reshape(-1)
        self.places = torch.from_numpy(inverse[: len(basis)].copy())
        self._pairs = torch.from_numpy(np.stack([first, second]))
        self._products = torch.from_numpy(inverse[len(basis) :].copy())
        self._signs = torch.from_numpy(1.0 - (powers % 4))  # the power is 0 or 2 for pairs that commute

    def sum_of_squares(self, coefficients: Tensor) -> Tensor:
        """(R,) coefficients of sum_k A_k^2 over `strings`, for A_k = sum_s c_ks sigma_s with real (K, P); differentiable."""
        device = coefficients.device
        first, second = self._pairs.to(device)
        gram = coefficients.T @ coefficients
        values = gram[first, second] * self._signs.to(device, coefficients.dtype)
        return coefficients.new_zeros(len(self.strings)).index_add(0, self._products.to(device), values)


def joined(lists: Sequence[Sequence[str]]) -> tuple[list[str], list[Tensor]]:
    """Several lists of strings as one without repetitions, and where the strings of each list are in it."""
    numbers: dict[str, int] = {}
    places = [torch.tensor([numbers.setdefault(string, len(numbers)) for string in strings]) for strings in lists]
    return list(numbers), places
