"""The symmetries of lattices and Hamiltonians: orders of groups from crystallography, and what makes a group a group."""

import itertools
import math

import numpy as np
import pytest
import torch

from qsr.hamiltonians import TFIM, Heisenberg, LatticeHparams, Pauli, Rydberg
from qsr.hamiltonians.base import basis_index, configurations
from qsr.hamiltonians.symmetry import hamiltonian_symmetries
from qsr.hparams import ConfigError
from qsr.lattice import Lattice
from qsr.symmetries import SYMMETRIES, site_permutations

HEXAGON = [[math.cos(k * math.pi / 3), math.sin(k * math.pi / 3)] for k in range(6)]
TRIANGLE = [[0.0, 0.0], [1.0, 0.0], [0.5, 0.866]]  # rounded as in a file
SPIRAL = [[0.5 * k * math.cos(k), 0.5 * k * math.sin(k)] for k in range(8)]

# Lattice, and the orders for reflections, point, translations, all.
LATTICES = {
    "4x4": (Lattice(4, 4), (4, 8, 1, 8)),
    "3x4": (Lattice(3, 4), (4, 4, 1, 4)),
    "3x3 periodic": (Lattice(3, 3, "periodic"), (4, 8, 9, 72)),
    "4x4 periodic": (Lattice(4, 4, "periodic"), (4, 8, 16, 128)),
    "3x4 periodic": (Lattice(3, 4, "periodic"), (4, 4, 12, 48)),
    "2x2 periodic": (Lattice(2, 2, "periodic"), (4, 8, 4, 8)),  # a step in x is the mirror of x: no more than C4v
    "3x4 cylinder": (Lattice(3, 4, "cylinder"), (4, 4, 4, 16)),
    "chain": (Lattice(6, 1), (2, 2, 1, 2)),
    "ring": (Lattice(6, 1, "periodic"), (2, 2, 6, 12)),
    "ring in y": (Lattice(1, 5, "cylinder"), (2, 2, 5, 10)),
    "one site": (Lattice(1, 1), (1, 1, 1, 1)),
    "triangular": (Lattice.named("triangular", 3, 3), (4, 4, 1, 4)),  # a rhombus
    "triangular 3x4": (Lattice.named("triangular", 3, 4), (1, 2, 1, 2)),  # a parallelogram
    "triangular periodic": (Lattice.named("triangular", 3, 3, "periodic"), (4, 12, 9, 108)),
    "triangular cylinder": (Lattice.named("triangular", 4, 4, "cylinder"), (2, 2, 4, 16)),  # with glide reflections
    "honeycomb periodic": (Lattice.named("honeycomb", 3, 3, "periodic"), (4, 12, 9, 108)),
    "kagome": (Lattice.named("kagome", 2, 2), (2, 2, 1, 2)),
    "kagome periodic": (Lattice.named("kagome", 2, 2, "periodic"), (4, 12, 4, 48)),
    "hexagon": (Lattice.from_positions(HEXAGON), (4, 12, 1, 12)),
    "hexagon and centre": (Lattice.from_positions([*HEXAGON, [0.0, 0.0]]), (4, 12, 1, 12)),
    "triangle": (Lattice.from_positions(TRIANGLE), (2, 6, 1, 6)),
    "spiral": (Lattice.from_positions(SPIRAL), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", LATTICES)
def test_groups(name: str) -> None:
    lattice, orders = LATTICES[name]
    distance = lattice.distances()
    for which, order in zip(SYMMETRIES[1:], orders, strict=True):
        group = site_permutations(lattice, which)
        assert group.shape == (order, lattice.num_sites), which
        assert group[0].tolist() == list(range(lattice.num_sites))
        members = {tuple(row) for row in group.tolist()}
        assert len(members) == order, "each element once"
        for row in group:
            assert {tuple(product) for product in row[group].tolist()} == members, f"{which} is not closed"
            assert np.abs(distance[np.ix_(row, row)] - distance).max() < 1e-3
    # Finite and closed under products, a group has the inverses, too.
    assert site_permutations(lattice, "none").tolist() == [list(range(lattice.num_sites))]


def test_every_symmetry_of_distances_is_found() -> None:
    """By trying all permutations of six sites."""
    for lattice in (LATTICES["hexagon"][0], Lattice(3, 2), LATTICES["triangle"][0]):
        distance = lattice.distances()
        wanted = {
            order
            for order in itertools.permutations(range(lattice.num_sites))
            if np.abs(distance[np.ix_(order, order)] - distance).max() < 1e-3
        }
        assert {tuple(row) for row in site_permutations(lattice, "point").tolist()} == wanted


def test_reflections_of_a_square() -> None:
    """The mirrors of x and of y, and the half turn: not the diagonals."""
    sites = np.arange(16).reshape(4, 4)
    wanted = {tuple(image.flatten()) for image in (sites, sites[::-1], sites[:, ::-1], sites[::-1, ::-1])}
    assert {tuple(row) for row in site_permutations(Lattice(4, 4), "reflections").tolist()} == wanted


def test_translations_of_a_cylinder() -> None:
    sites = np.arange(6).reshape(2, 3)
    wanted = {tuple(np.roll(sites, step, axis=1).flatten()) for step in range(3)}
    assert {tuple(row) for row in site_permutations(Lattice(2, 3, "cylinder"), "translations").tolist()} == wanted


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="symmetry=rotations: must be one of none, reflections, point"):
        site_permutations(Lattice(2, 2), "rotations")


# A field of C2v on a square of C4v; J1-J2 bonds of a ring as Pauli strings; a ring with one site of another field.
FIELD = [1.0, 0.5, 1.0, 0.5, 0.3, 0.5, 1.0, 0.5, 1.0]
STRIPES = [1.0, 0.5, 1.0, 0.8, 0.3, 0.8, 1.0, 0.5, 1.0]
RING = " + ".join(f"0.5 X{i} X{(i + 1) % 4} + 0.2 Z{i} + 0.1 Y{i} Z{(i + 1) % 4} Y{(i + 2) % 4}" for i in range(4))
PROBLEMS: dict[str, tuple[LatticeHparams, str, int]] = {
    "rydberg": (Rydberg(Lx=3, Ly=3), "point", 8),
    "rydberg periodic": (Rydberg(Lx=3, Ly=3, boundary="periodic"), "all", 72),
    "rydberg with a symmetric field": (Rydberg(Lx=3, Ly=3, delta=FIELD, Omega=FIELD), "point", 8),
    "rydberg with stripes": (Rydberg(Lx=3, Ly=3, delta=STRIPES), "point", 4),
    "rydberg with Rabi frequencies": (Rydberg(Lx=3, Ly=3, Omega=STRIPES), "point", 4),
    "rydberg without": (Rydberg(Lx=2, Ly=2, delta=[0.1, 0.2, 0.3, 0.4]), "all", 1),
    "rydberg of positions": (Rydberg(positions=HEXAGON), "point", 12),
    "rydberg of rounded positions": (Rydberg(positions=TRIANGLE), "point", 6),
    "rydberg ring with a defect": (Rydberg(Lx=5, Ly=1, boundary="periodic", delta=[1, 1, 2, 1, 1]), "all", 2),
    "tfim": (TFIM(Lx=2, Ly=3, geometry="triangular", boundary="periodic"), "all", 12),
    "heisenberg": (Heisenberg(Lx=2, Ly=4), "point", 4),
    "xxz kagome": (Heisenberg(Lx=2, Ly=1, geometry="kagome", boundary="cylinder", sign_rule=False, Delta=0.5), "all", 2),
    "pauli ring": (Pauli(terms=RING, Lx=4, Ly=1, boundary="periodic"), "all", 8),
    "pauli chain": (Pauli(terms="X0 X1 + X1 X2 + 0.3 Z0 + 0.3 Z2"), "point", 2),
    "pauli with a field": (Pauli(terms="X0 X1 + X1 X2 + 0.3 Z0 + 0.4 Z2"), "point", 1),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_hamiltonian_commutes_with_its_symmetries(name: str) -> None:
    problem, which, order = PROBLEMS[name]
    hamiltonian = problem.build()
    matrix = hamiltonian.to_sparse().toarray()
    group = hamiltonian_symmetries(hamiltonian, which)
    assert len(group) == order
    configs = configurations(problem.num_sites)
    tolerance = 0.02 if "rounded" in name else 1e-12  # of the rounded triangle's couplings, some 7
    for permutation in site_permutations(problem.lattice(), which):
        image = basis_index(configs[:, permutation]).numpy()
        kept = np.abs(matrix[np.ix_(image, image)] - matrix).max() < tolerance
        assert kept == bool((group == permutation).all(dim=1).any()), "exactly those that commute are kept"


def test_a_caller_may_change_what_it_got() -> None:
    first = site_permutations(Lattice(2, 2), "point")
    first.zero_()
    assert torch.equal(site_permutations(Lattice(2, 2), "point")[0], torch.arange(4))
