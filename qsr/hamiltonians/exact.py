"""Exact ground states of small lattices by matrix-free diagonalisation in the full Hilbert space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from qsr.hamiltonians.base import Hamiltonian, check_enumerable, configurations, full_connected, full_diagonal, sparse_matrix
from qsr.hamiltonians.ising import IsingHamiltonian
from qsr.lattice import Lattice

_DENSE_SITES = 9  # up to here, LAPACK on the 512 x 512 matrix is faster than any iteration
_BLOCK_SITES = 5  # flips of five sites in one matrix product: fewer passes over memory than one flip at a time
_FILTER_DEGREE = 20  # even, so that the filter is positive below its edge; 12 to 40 take about the same time

Amplitudes = NDArray[Any]  # float64, or complex128 for a Hamiltonian with complex elements
Action = Callable[[Amplitudes], Amplitudes]


@dataclass(frozen=True, eq=False)
class ExactResult:
    """The lowest states of a Hamiltonian. Energies in the Hamiltonian's unit.

    Attributes:
        energy: ground-state energy.
        gap: first excitation energy over the whole Hilbert space; nan if only one level was asked for.
        levels: (num_levels,) lowest energies in ascending order.
        amplitudes: (2^N,) normalised ground state in basis order (bit i of the index is n_i); psi >= 0 if H is stoquastic,
            otherwise the largest amplitude is real and positive.
        residual: norm of H psi - E psi.
    """

    energy: float
    gap: float
    levels: NDArray[np.float64]
    amplitudes: Amplitudes
    residual: float


def ground_state(hamiltonian: Hamiltonian, num_levels: int = 2) -> ExactResult:
    """The ground state and the lowest `num_levels` energies: Chebyshev-filtered Lanczos (ARPACK), dense up to 9 sites.

    Amplitudes have an absolute accuracy of about 1e-12. A degenerate level enters `levels` as often as it occurs, as far as a
    Krylov method can tell.

    Raises:
        ConfigError: above 20 sites.
        ValueError: if `num_levels` is not between 1 and 2^N.
        scipy.sparse.linalg.ArpackNoConvergence: if the iteration stagnates.
    """
    check_enumerable(hamiltonian.num_sites, "ground_state")
    dimension = 2**hamiltonian.num_sites
    if not 1 <= num_levels <= dimension:
        raise ValueError(f"num_levels={num_levels}: must be between 1 and {dimension}")
    if hamiltonian.num_sites <= _DENSE_SITES:
        matrix = sparse_matrix(hamiltonian)
        apply_h: Action = matrix.dot
        levels, vectors = np.linalg.eigh(matrix.toarray())
    else:
        diagonal = full_diagonal(hamiltonian).numpy()
        off_diagonal, norm, dtype = _off_diagonal(hamiltonian)

        def apply_h(vector: Amplitudes) -> Amplitudes:
            return off_diagonal(vector) + diagonal * vector

        levels, vectors = _lowest(apply_h, diagonal, norm, dtype, num_levels) if norm else _classical(diagonal, num_levels)
    psi = _positive(vectors[:, 0], hamiltonian.is_stoquastic)
    energy = float(levels[0])
    return ExactResult(
        energy=energy,
        gap=float(levels[1] - levels[0]) if num_levels > 1 else float("nan"),
        levels=levels[:num_levels],
        amplitudes=psi,
        residual=float(np.linalg.norm(apply_h(psi) - energy * psi)),
    )


def exact_observables(result: ExactResult, lattice: Lattice) -> dict[str, float | NDArray[np.float64]]:
    """Expectation values in the ground state, under the names of `qsr.estimators.Observables`.

    `densities` (N,) and their mean `density_mean`; `sx_mean`; `nn_mean`, <n_i n_j> averaged over nearest-neighbour bonds (if
    any); `staggered_abs` and `staggered_sq`, the mean of |m| and m^2 with m = sum_i (-1)^(x+y) (n_i - 1/2) / N.
    """
    psi, num_sites = result.amplitudes, lattice.num_sites
    born = np.abs(psi) ** 2
    occupation = configurations(num_sites).numpy()
    densities = born @ occupation
    first, second = lattice.bonds().T
    staggered = (occupation - 0.5) @ lattice.sublattice_signs() / num_sites
    index = np.arange(len(psi))
    flips = [np.vdot(psi, psi[index ^ (1 << site)]).real for site in range(num_sites)]
    values: dict[str, float | NDArray[np.float64]] = {
        "densities": densities,
        "density_mean": float(densities.mean()),
        "sx_mean": float(np.mean(flips)),
        **(
            {"staggered_abs": float(born @ np.abs(staggered)), "staggered_sq": float(born @ staggered**2)}
            if lattice.has_sublattices
            else {}
        ),
    }
    if len(first):
        values["nn_mean"] = float((born @ (occupation[:, first] & occupation[:, second])).mean())
    return values


def _lowest(
    apply_h: Action, diagonal: NDArray[np.float64], off_diagonal_norm: float, dtype: np.dtype[Any], num_levels: int
) -> tuple[NDArray[np.float64], Amplitudes]:
    """The lowest levels, ascending, and their vectors as columns.

    Lanczos alone spends its time on orthogonalisation: the repulsion stretches the spectrum to hundreds of gaps. So a rough
    run finds where the wanted levels end, and the second run sees a Chebyshev polynomial of H that stays within [-1, 1] above
    that point and grows steeply below it (Y. Saad, Numerical Methods for Large Eigenvalue Problems, section 7.4).
    """
    shape = (len(diagonal), len(diagonal))
    start = _start_vector(diagonal).astype(dtype)
    energies, rough = eigsh(LinearOperator(shape, matvec=apply_h, dtype=dtype), k=num_levels + 1, which="SA", v0=start, tol=0.1)
    top = float(diagonal.max()) + off_diagonal_norm  # Gershgorin: no level lies above
    # Ritz values lie above the levels they approximate, so this edge is never below a wanted one. The margin keeps a wanted
    # level off the edge even if it is degenerate with the next.
    edge = energies.max() + 1e-3 * (top - energies.max())
    centre, half_width = (top + edge) / 2, (top - edge) / 2

    def filtered(vector: Amplitudes) -> Amplitudes:
        previous, current = vector, (apply_h(vector) - centre * vector) / half_width
        for _ in range(_FILTER_DEGREE - 1):
            previous, current = current, 2 / half_width * (apply_h(current) - centre * current) - previous
        return current

    count = max(10, 2 * num_levels + 2)
    operator = LinearOperator(shape, matvec=filtered, dtype=dtype)
    _, vectors = eigsh(operator, k=num_levels, which="LA", v0=rough.sum(axis=1), ncv=count, tol=1e-13)
    # Rayleigh quotients, because the filter's eigenvalues are not those of H; divided by the norm, which is 1 only to 1e-13.
    levels = np.array([(np.vdot(vector, apply_h(vector)) / np.vdot(vector, vector)).real for vector in vectors.T])
    order = np.argsort(levels)
    return levels[order], vectors[:, order]


def _classical(diagonal: NDArray[np.float64], num_levels: int) -> tuple[NDArray[np.float64], Amplitudes]:
    """The lowest levels of a diagonal H, whose degeneracies a Krylov method would not see, and the first ground state."""
    order = np.argsort(diagonal, kind="stable")[:num_levels]
    vector = np.zeros((len(diagonal), 1))
    vector[order[0]] = 1.0
    return diagonal[order], vector


def _off_diagonal(hamiltonian: Hamiltonian) -> tuple[Action, float, np.dtype[Any]]:
    """The action of the off-diagonal part on a (2^N,) vector, a bound on its norm, and the type of its elements."""
    if isinstance(hamiltonian, IsingHamiltonian):
        return _single_flips(-hamiltonian.transverse), float(np.abs(hamiltonian.transverse).sum()), np.dtype(np.float64)
    flips, coefficients = (tensor.numpy() for tensor in full_connected(hamiltonian))
    columns = np.ascontiguousarray(coefficients.T)  # (M, 2^N)
    index = np.arange(2**hamiltonian.num_sites)

    def gather(vector: Amplitudes) -> Amplitudes:
        result = np.zeros(len(index), dtype=np.result_type(columns, vector))
        for flip, column in zip(flips, columns, strict=True):
            result += column * vector[index ^ flip]
        return result

    return gather, float(np.abs(columns).sum(axis=0).max()), columns.dtype


def _single_flips(weights: NDArray[np.float64]) -> Action:
    """The action of sum_i w_i X_i on at least ten sites, one product of 32 x 32 matrices for each block of five bits.

    The products stay this small on purpose: BLAS splits larger ones over threads, and on a busy machine their synchronisation
    costs more than the arithmetic.
    """
    blocks = []
    for low in range(0, len(weights), _BLOCK_SITES):
        block_weights = weights[low : low + _BLOCK_SITES]
        index = np.arange(2 ** len(block_weights))
        block = np.zeros((len(index), len(index)))
        for bit, weight in enumerate(block_weights):
            block[index ^ (1 << bit), index] = weight
        blocks.append(block)
    width = 2**_BLOCK_SITES

    def apply(vector: Amplitudes) -> Amplitudes:
        # The lowest bits are the fastest axis: a product from the right (block matrices are symmetric).
        result = (vector.reshape(-1, width, width) @ blocks[0]).reshape(-1)
        for number, block in enumerate(blocks[1:], start=1):
            shape = (-1, len(block), width ** (number - 1), width)  # higher bits, the block, lower bits in two axes
            result.reshape(shape).swapaxes(1, 2)[...] += block @ vector.reshape(shape).swapaxes(1, 2)
        return result

    return apply


def _start_vector(diagonal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight on the low configurations, with fixed noise so that every symmetry sector is reached."""
    noise = np.random.default_rng(0).uniform(0.5, 1.5, size=len(diagonal))
    return noise / (diagonal - diagonal.min() + 1.0) ** 2


def _positive(vector: Amplitudes, stoquastic: bool) -> Amplitudes:
    """Fix the sign (phase) of a ground state; for a stoquastic H, |psi| is a ground state as well (Perron and Frobenius)."""
    if stoquastic:
        return np.abs(vector) / np.linalg.norm(vector)
    largest = vector[np.argmax(np.abs(vector))]
    return vector * (abs(largest) / largest) / np.linalg.norm(vector)
