"""The matrix of every Hamiltonian against an independent Kronecker-product construction, and the basis order."""

from functools import reduce

import numpy as np
import pytest
import torch

from qsr.hamiltonians.base import basis_index, configurations
from qsr.hamiltonians.heisenberg import HeisenbergHamiltonian
from qsr.hamiltonians.ising import IsingHamiltonian, RydbergHamiltonian, TransverseFieldIsing
from qsr.hparams import ConfigError
from qsr.lattice import Lattice

X = np.array([[0.0, 1.0], [1.0, 0.0]])
Y = np.array([[0.0, -1.0j], [1.0j, 0.0]])
Z = np.diag([1.0, -1.0])
OCCUPATION = np.diag([0.0, 1.0])


def on_site(operators, num_sites):
    """The Kronecker product with operators[i] on site i; bit 0 of the basis index, site 0, is the rightmost factor."""
    return reduce(np.kron, [operators.get(site, np.eye(2)) for site in reversed(range(num_sites))])


def neighbours(lattice):
    """Nearest-neighbour pairs i < j from the coordinates, wrapping where periodic."""
    pairs = set()
    for x in range(lattice.Lx):
        for y in range(lattice.Ly):
            for dx, dy in ((1, 0), (0, 1)):
                u, v = x + dx, y + dy
                if lattice.boundary == "periodic":
                    u, v = u % lattice.Lx, v % lattice.Ly
                if (u, v) != (x, y) and u < lattice.Lx and v < lattice.Ly:
                    pairs.add(tuple(sorted((x * lattice.Ly + y, u * lattice.Ly + v))))
    return sorted(pairs)


def image_distance(lattice, i, j):
    """Distance to the nearest of all images, by trying them."""
    difference = np.array([i // lattice.Ly - j // lattice.Ly, i % lattice.Ly - j % lattice.Ly], dtype=float)
    if lattice.boundary == "open":
        return np.linalg.norm(difference)
    shifts = [(a * lattice.Lx, b * lattice.Ly) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    return min(np.linalg.norm(difference + shift) for shift in shifts)


def rydberg_matrix(lattice, V, Omega, delta):
    N = lattice.num_sites
    matrix = sum(-Omega / 2 * on_site({i: X}, N) - delta * on_site({i: OCCUPATION}, N) for i in range(N))
    for i in range(N):
        for j in range(i):
            matrix = matrix + V / image_distance(lattice, i, j) ** 6 * on_site({i: OCCUPATION, j: OCCUPATION}, N)
    return matrix


def tfim_matrix(lattice, J, h):
    N = lattice.num_sites
    bonds = sum(on_site({i: Z, j: Z}, N) for i, j in neighbours(lattice))
    return -J * bonds - h * sum(on_site({i: X}, N) for i in range(N))


def heisenberg_matrix(lattice, J):
    """J sum S.S, with Marshall's rotation by Z on the odd sublattice."""
    N = lattice.num_sites
    matrix = sum(J / 4 * on_site({i: P, j: P}, N) for i, j in neighbours(lattice) for P in (X, Y, Z))
    rotation = on_site({i: Z for i in range(N) if (i // lattice.Ly + i % lattice.Ly) % 2}, N)
    return (rotation @ matrix @ rotation).real


OPEN, PERIODIC = Lattice(2, 3), Lattice(2, 3, "periodic")
CASES = {
    "rydberg open": (RydbergHamiltonian(OPEN, V=7.0, Omega=1.5, delta=0.7), rydberg_matrix(OPEN, 7.0, 1.5, 0.7)),
    "rydberg periodic": (RydbergHamiltonian(PERIODIC, V=7.0, Omega=1.5, delta=0.7), rydberg_matrix(PERIODIC, 7.0, 1.5, 0.7)),
    "tfim open": (TransverseFieldIsing(OPEN, J=1.3, h=0.4), tfim_matrix(OPEN, 1.3, 0.4)),
    "tfim periodic": (TransverseFieldIsing(PERIODIC, J=1.3, h=0.4), tfim_matrix(PERIODIC, 1.3, 0.4)),
    "heisenberg open": (HeisenbergHamiltonian(OPEN, J=1.3), heisenberg_matrix(OPEN, 1.3)),
    "heisenberg ring": (
        HeisenbergHamiltonian(Lattice(6, 1, "periodic"), J=1.3),
        heisenberg_matrix(Lattice(6, 1, "periodic"), 1.3),
    ),
}


@pytest.mark.parametrize(("hamiltonian", "matrix"), CASES.values(), ids=CASES)
def test_sparse_matrix_is_the_kronecker_construction(hamiltonian, matrix):
    sparse = hamiltonian.to_sparse()
    np.testing.assert_allclose(sparse.toarray(), matrix, atol=1e-13)
    assert sparse.nnz <= np.count_nonzero(np.abs(matrix) > 1e-15) + len(matrix)  # zero coefficients are not stored


@pytest.mark.parametrize(("hamiltonian", "matrix"), CASES.values(), ids=CASES)
def test_infinite_temperature_energy_is_the_trace(hamiltonian, matrix):
    assert hamiltonian.infinite_temperature_energy() == pytest.approx(np.trace(matrix) / len(matrix), abs=1e-13)


@pytest.mark.parametrize(("hamiltonian", "matrix"), CASES.values(), ids=CASES)
def test_stoquastic_means_no_positive_off_diagonal_element(hamiltonian, matrix):
    assert hamiltonian.is_stoquastic
    assert (matrix - np.diag(np.diag(matrix))).max() <= 0


@pytest.mark.parametrize("hamiltonian", [case[0] for case in CASES.values()], ids=CASES)
def test_rows_of_chosen_configurations(hamiltonian):
    """diagonal and connected of a batch in any order give the rows of the matrix, in float64."""
    matrix = hamiltonian.to_sparse().toarray()
    configs = torch.randint(0, 2, (9, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    masks, coefficients = hamiltonian.connected(configs)
    diagonal = hamiltonian.diagonal(configs)
    assert masks.dtype == torch.bool
    assert coefficients.dtype == diagonal.dtype == torch.float64
    assert coefficients.shape == (9, len(masks))
    for row, index in enumerate(basis_index(configs).tolist()):
        expected = np.zeros(64)
        expected[index] = diagonal[row]
        flipped = basis_index(configs[row] ^ masks.to(torch.uint8)).numpy()
        np.add.at(expected, flipped, coefficients[row].numpy())
        np.testing.assert_allclose(matrix[index], expected, atol=1e-13)


def test_a_positive_flip_is_not_stoquastic():
    sites = np.ones(2)
    assert not IsingHamiltonian(Lattice(2, 1), 0.0, sites, np.zeros((2, 2)), np.array([1.0, -0.1])).is_stoquastic


def test_configurations_are_the_bits_of_the_index():
    basis = configurations(3)
    assert basis.dtype == torch.uint8
    assert basis.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert basis_index(basis).tolist() == list(range(8))


def test_basis_index_of_many_sites():
    last = torch.zeros(1, 62, dtype=torch.uint8)
    last[0, 61] = 1
    assert basis_index(last).item() == 2**61
    with pytest.raises(ValueError, match="at most 62 sites"):
        basis_index(torch.zeros(1, 63, dtype=torch.uint8))


def test_a_large_matrix_is_refused():
    with pytest.raises(ConfigError, match=r"to_sparse: at most 20 sites .* found 21"):
        RydbergHamiltonian(Lattice(3, 7)).to_sparse()
    with pytest.raises(ConfigError, match="found 21"):
        configurations(21)
