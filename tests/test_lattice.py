"""Geometry against brute force."""

import itertools

import numpy as np
import pytest

from qsr.lattice import Lattice


@pytest.mark.parametrize("boundary", ["open", "periodic"])
@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (1, 5), (5, 2)], ids=str)
def test_distances_are_those_of_the_nearest_image(shape: tuple[int, int], boundary: str) -> None:
    lattice = Lattice(*shape, boundary)  # type: ignore[arg-type]
    shifts = itertools.product((-1, 0, 1), repeat=2) if boundary == "periodic" else [(0, 0)]
    images = [np.array(shift) * shape for shift in shifts]
    for i, j in itertools.product(range(lattice.num_sites), repeat=2):
        apart = np.array(divmod(i, shape[1])) - np.array(divmod(j, shape[1]))
        assert lattice.distances()[i, j] == pytest.approx(min(np.linalg.norm(apart + image) for image in images))


@pytest.mark.parametrize(
    ("lattice", "count"),
    [
        (Lattice(4, 4), 24),
        (Lattice(3, 5), 2 * 5 + 3 * 4),
        (Lattice(4, 4, "periodic"), 32),
        (Lattice(2, 2, "periodic"), 4),
        (Lattice(6, 1, "periodic"), 6),
        (Lattice.from_positions([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]]), 3),
    ],
    ids=str,
)
def test_bonds_join_nearest_neighbours_once(lattice: Lattice, count: int) -> None:
    bonds = lattice.bonds()
    assert len(bonds) == count == len({tuple(bond) for bond in bonds}) and (bonds[:, 0] < bonds[:, 1]).all()
    distances = lattice.distances()[bonds[:, 0], bonds[:, 1]]
    assert np.allclose(distances, distances[0])


def test_sublattices_alternate_along_every_bond() -> None:
    lattice = Lattice(3, 4)
    signs = lattice.sublattice_signs()
    assert all(signs[i] == -signs[j] for i, j in lattice.bonds())


@pytest.mark.parametrize("patch", ["1", "4", "2x2", "2x3", "4x6", "1x3"])
def test_patches_hold_every_site_once_in_row_major_order(patch: str) -> None:
    lattice = Lattice(4, 6)
    patches = lattice.patches(patch)
    assert sorted(patches.flatten()) == list(range(24))
    assert np.prod(lattice.patch_grid(patch)) == len(patches)
    assert (np.diff(patches, axis=1) > 0).all() and (np.diff(patches[:, 0]) > 0).all()


def test_a_block_holds_its_rows_and_columns() -> None:
    assert Lattice(4, 6).patches("2x3")[1].tolist() == [3, 4, 5, 9, 10, 11]
    assert Lattice(4, 6).patches("4")[1].tolist() == [4, 5, 6, 7]


def test_free_positions_know_their_order_wherever_they_lie() -> None:
    """Shifted, turned, scaled and rounded, a grid has the bonds and sublattices of the grid."""
    grid = Lattice(3, 4)
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    for positions in (grid.positions - 1.5, 5.5 * grid.positions, np.round(grid.positions @ turn + 0.3, 3)):
        free = Lattice.from_positions(positions)
        assert np.array_equal(free.bonds(), grid.bonds())
        assert np.array_equal(free.sublattice_signs(), grid.sublattice_signs()) and free.has_sublattices


def test_frustrated_and_broken_arrays_have_no_sublattices() -> None:
    triangle = Lattice.from_positions([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    pairs = Lattice.from_positions([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [6.0, 0.0]])
    assert not triangle.has_sublattices and not pairs.has_sublattices
    assert set(pairs.sublattice_signs()) == {1.0, -1.0}
