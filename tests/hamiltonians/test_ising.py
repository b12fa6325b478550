"""Couplings of Ising-like Hamiltonians, and the Heisenberg lattices that are refused."""

import numpy as np
import pytest
import torch

from qsr.hamiltonians.heisenberg import HeisenbergHamiltonian
from qsr.hamiltonians.ising import RydbergHamiltonian, TransverseFieldIsing
from qsr.hparams import ConfigError
from qsr.lattice import Lattice


def random_configs(num_sites, seed=0):
    return torch.randint(0, 2, (16, num_sites), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_positions_on_a_grid_are_the_grid():
    grid = Lattice(3, 4)
    free = RydbergHamiltonian(Lattice.from_positions(grid.positions), delta=0.3)
    configs = random_configs(12)
    torch.testing.assert_close(free.diagonal(configs), RydbergHamiltonian(grid, delta=0.3).diagonal(configs), rtol=0, atol=1e-12)


def test_energy_of_a_pair_falls_with_the_sixth_power():
    pair = RydbergHamiltonian(Lattice.from_positions([[0.0, 0.0], [1.2, 1.6]]), V=640.0, delta=0.25)
    both = torch.ones(1, 2, dtype=torch.uint8)
    assert pair.diagonal(both).item() == pytest.approx(640.0 / 2.0**6 - 0.5)


def test_diagonal_of_a_large_lattice_keeps_double_precision():
    """The tails of 1024 sites add up to a few units; in float32 the sum would be off by 1e-4."""
    lattice = Lattice(32, 32)
    hamiltonian = RydbergHamiltonian(lattice)
    configs = random_configs(1024)
    distances = lattice.distances() + np.diag(np.full(1024, np.inf))
    for config, energy in zip(configs.numpy().astype(float), hamiltonian.diagonal(configs).tolist(), strict=True):
        assert energy == pytest.approx(3.5 * config @ distances**-6.0 @ config - config.sum(), abs=1e-9)


def test_classical_energies_of_the_ising_model():
    hamiltonian = TransverseFieldIsing(Lattice(4, 4, "periodic"), J=1.5, h=0.7)
    checkerboard = torch.tensor([(x + y) % 2 for x in range(4) for y in range(4)], dtype=torch.uint8)
    configs = torch.stack([torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8), checkerboard])
    assert hamiltonian.diagonal(configs).tolist() == pytest.approx([-48.0, -48.0, 48.0])  # 32 bonds


def test_classical_energies_of_the_antiferromagnet():
    hamiltonian = HeisenbergHamiltonian(Lattice(4, 1), J=2.0)
    configs = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]], dtype=torch.uint8)
    assert hamiltonian.diagonal(configs).tolist() == pytest.approx([1.5, -1.5, 0.5])
    masks, coefficients = hamiltonian.connected(configs)
    assert masks.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert coefficients.tolist() == [[0.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [0.0, -1.0, 0.0]]


def test_heisenberg_needs_a_bipartite_lattice_and_an_antiferromagnet():
    with pytest.raises(ConfigError, match="not bipartite"):
        HeisenbergHamiltonian(Lattice(3, 4, "periodic"))
    with pytest.raises(ConfigError, match=r"heisenberg\.J=-1"):
        HeisenbergHamiltonian(Lattice(2, 2), J=-1.0)
