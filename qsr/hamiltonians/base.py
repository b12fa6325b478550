"""What a Hamiltonian is: a diagonal, and off-diagonal elements that connect a configuration to flipped ones."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.lattice import Lattice

MAX_EXACT_SITES = 20  # 2^20 amplitudes: a minute of diagonalisation and a few hundred MB of matrix
_MAX_INDEX_SITES = 62  # a basis index is an int64
_CHUNK = 1 << 14  # configurations per call when the whole basis is visited


class Hamiltonian(Protocol):
    """A lattice Hamiltonian in the basis of configurations n.

    `configs` are (B, N) uint8 tensors of zeros and ones. All matrix elements are float64 (complex128 for a Hamiltonian with
    complex elements), on the device of the configurations: energies of large lattices cancel to 1e-5 of their terms.

    Attributes:
        lattice: the sites.
        num_sites: N.
        is_stoquastic: no off-diagonal element is positive, so the ground state can be chosen with psi >= 0.
    """

    lattice: Lattice
    num_sites: int
    is_stoquastic: bool

    def diagonal(self, configs: Tensor) -> Tensor:
        """(B,) H_nn."""
        ...

    def connected(self, configs: Tensor) -> tuple[Tensor, Tensor]:
        """The off-diagonal elements: masks (M, N) bool and coefficients (B, M), H_{n n'} with n' = n XOR mask.

        The masks are the same for every configuration; an element that vanishes for one has the coefficient 0.
        """
        ...

    def to_sparse(self) -> Any:
        """The matrix as a scipy `csr_array`; see `sparse_matrix`."""
        ...

    def infinite_temperature_energy(self) -> float:
        """Tr H / 2^N."""
        ...

    def is_invariant(self, permutation: Tensor) -> bool:
        """Whether H_{nn'} = H_{gn,gn'} for all configurations, (g n)_i = n_{permutation[i]}; permutation (N,) int64."""
        ...


def check_enumerable(num_sites: int, purpose: str) -> None:
    """Refuse lattices whose 2^N basis is too large to visit.

    Raises:
        ConfigError: above `MAX_EXACT_SITES` sites.
    """
    if num_sites > MAX_EXACT_SITES:
        raise ConfigError(f"{purpose}: at most {MAX_EXACT_SITES} sites (2^{MAX_EXACT_SITES} states), found {num_sites}")


def configurations(num_sites: int) -> Tensor:
    """(2^N, N) uint8: every configuration; row s has n_i = bit i of s (bit 0 is the least significant).

    Raises:
        ConfigError: above `MAX_EXACT_SITES` sites.
    """
    check_enumerable(num_sites, "configurations")
    index = torch.arange(2**num_sites)
    return torch.stack([(index >> site & 1).to(torch.uint8) for site in range(num_sites)], dim=1)


def basis_index(configs: Tensor) -> Tensor:
    """(B,) int64 basis index sum_i n_i 2^i of configurations (or masks) (B, N).

    Raises:
        ValueError: above 62 sites, where the index would overflow.
    """
    num_sites = configs.shape[-1]
    if num_sites > _MAX_INDEX_SITES:
        raise ValueError(f"basis_index: at most {_MAX_INDEX_SITES} sites fit an int64, found {num_sites}")
    return (configs.long() << torch.arange(num_sites, device=configs.device)).sum(dim=-1)


def full_diagonal(hamiltonian: Hamiltonian) -> Tensor:
    """(2^N,) H_nn of every configuration, in basis order. Raises ConfigError above `MAX_EXACT_SITES` sites."""
    return torch.cat([hamiltonian.diagonal(chunk) for chunk in configurations(hamiltonian.num_sites).split(_CHUNK)])


def full_connected(hamiltonian: Hamiltonian) -> tuple[Tensor, Tensor]:
    """Masks as basis indices (M,) int64 and coefficients (2^N, M) of every configuration, in basis order.

    Raises:
        ConfigError: above `MAX_EXACT_SITES` sites.
    """
    chunks = [hamiltonian.connected(chunk) for chunk in configurations(hamiltonian.num_sites).split(_CHUNK)]
    return basis_index(chunks[0][0]), torch.cat([coefficients for _, coefficients in chunks])


def sparse_matrix(hamiltonian: Hamiltonian) -> Any:
    """H as a (2^N, 2^N) scipy `csr_array`, rows and columns in basis order.

    Raises:
        ConfigError: above `MAX_EXACT_SITES` sites.
    """
    check_enumerable(hamiltonian.num_sites, "to_sparse")
    flips, coefficients = full_connected(hamiltonian)
    dimension, row_length = 2**hamiltonian.num_sites, len(flips) + 1
    # Every row has its diagonal and one element per mask, so the compressed rows are written without sorting.
    elements = torch.cat([full_diagonal(hamiltonian)[:, None].to(coefficients.dtype), coefficients], dim=1).numpy()
    columns = torch.cat([torch.zeros(1, dtype=torch.int64), flips]).numpy().astype(np.int32)
    columns = np.arange(dimension, dtype=np.int32)[:, None] ^ columns
    rows = np.arange(dimension + 1, dtype=np.int64) * row_length
    matrix = scipy.sparse.csr_array((elements.ravel(), columns.ravel(), rows), shape=(dimension, dimension))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix
