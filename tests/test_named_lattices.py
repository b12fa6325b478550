"""Triangular, honeycomb and kagome lattices, chains and cylinders: geometry by brute force, energies by dense matrices."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qsr
from qsr.graph.snapshots import lattice_edges
from qsr.hparams import ConfigError, RunSettings
from qsr.lattice import CELLS, Lattice, reduced_periods
from qsr.snapshots import read_snapshots
from tests.hamiltonians.test_site_values import on

NAMED = ["triangular", "honeycomb", "kagome"]
COORDINATION = {"square": 4, "triangular": 6, "honeycomb": 3, "kagome": 4}


@pytest.mark.parametrize("boundary", ["open", "cylinder", "periodic"])
@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (1, 4), (1, 12), (12, 1)], ids=str)
@pytest.mark.parametrize("kind", ["square", *NAMED])
def test_distances_are_those_of_the_nearest_of_many_images(kind: Any, shape: tuple[int, int], boundary: Any) -> None:
    """Long thin cells of slanted translations have their nearest images many translations away."""
    lattice = Lattice.named(kind, *shape, boundary)
    a1, a2 = (np.array(vector) for vector in (((1, 0), (0, 1)) if kind == "square" else CELLS[kind][:2]))
    reach = {"open": (0, 0), "cylinder": (0, 8), "periodic": (8, 8)}[boundary]
    steps = itertools.product(*(range(-count, count + 1) for count in reach))
    images = np.array([x * shape[0] * a1 + y * shape[1] * a2 for x, y in steps])
    apart = lattice.positions[:, None] - lattice.positions[None]
    expected = np.linalg.norm(apart[:, :, None] + images, axis=-1).min(axis=-1)
    assert np.allclose(lattice.distances(), expected, rtol=0, atol=1e-12)
    assert (lattice.distances() == lattice.distances().T).all()


@pytest.mark.parametrize("kind", ["square", *NAMED])
def test_every_site_of_a_torus_has_its_neighbours_at_distance_one(kind: Any) -> None:
    lattice = Lattice.named(kind, 4, 3, "periodic")
    bonds = lattice.bonds()
    assert (np.bincount(bonds.ravel(), minlength=lattice.num_sites) == COORDINATION[kind]).all()
    assert np.allclose(lattice.distances()[bonds[:, 0], bonds[:, 1]], 1)


@pytest.mark.parametrize(("x", "y"), [(2, 2), (3, 4), (5, 3)])
def test_numbers_of_bonds_in_closed_form(x: int, y: int) -> None:
    """Open: bonds along a1, a2 and a1 - a2 of those cells that have the other end. A cylinder closes those along a2."""
    counts = {
        "square": (2 * x * y - x - y, 2 * x * y - y),
        "triangular": (3 * x * y - 2 * x - 2 * y + 1, 3 * x * y - 2 * y),
        "honeycomb": (3 * x * y - x - y, 3 * x * y - y),
        "kagome": (6 * x * y - 2 * x - 2 * y + 1, 6 * x * y - 2 * y),
    }
    for kind, (open_bonds, cylinder_bonds) in counts.items():
        assert len(Lattice.named(kind, x, y).bonds()) == open_bonds  # type: ignore[arg-type]
        if y > 2:
            assert len(Lattice.named(kind, x, y, "cylinder").bonds()) == cylinder_bonds  # type: ignore[arg-type]


def test_only_the_honeycomb_has_sublattices() -> None:
    for kind, boundary in itertools.product(NAMED, ("open", "periodic")):
        lattice = Lattice.named(kind, 3, 3, boundary)  # type: ignore[arg-type]
        assert lattice.has_sublattices == (kind == "honeycomb")
        assert len(set(Lattice.named("honeycomb", 3, 3).sublattice_signs()[0::2])) == 1


@pytest.mark.parametrize("boundary", ["open", "periodic", "cylinder"])
@pytest.mark.parametrize(("kind", "shape"), [("triangular", (2, 4)), ("honeycomb", (2, 2)), ("kagome", (1, 2))], ids=str)
def test_energies_are_those_of_dense_matrices(kind: str, shape: tuple[int, int], boundary: str) -> None:
    where = {"lattice": kind, "Lx": shape[0], "Ly": shape[1], "boundary": boundary}
    array, magnet = qsr.Rydberg(**where, V=5.0, delta=1.3), qsr.TFIM(**where, J=0.8, h=0.6)
    x, z, n = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1.0]), np.diag([0.0, 1.0])
    sites, apart = array.num_sites, array.lattice().distances()
    flips = sum(on(i, x, sites) for i in range(sites))
    rydberg, ising = -0.5 * flips - 1.3 * sum(on(i, n, sites) for i in range(sites)), -0.6 * flips
    for i, j in itertools.combinations(range(sites), 2):
        rydberg = rydberg + 5 / apart[i, j] ** 6 * on(i, n, sites) @ on(j, n, sites)
        if apart[i, j] < 1.01:
            ising = ising - 0.8 * on(i, z, sites) @ on(j, z, sites)
    assert qsr.exact(array).energy == pytest.approx(np.linalg.eigvalsh(rydberg)[0], rel=1e-11)
    assert qsr.exact(magnet).energy == pytest.approx(np.linalg.eigvalsh(ising)[0], rel=1e-11)


def test_a_ring_is_the_closed_form() -> None:
    """Critical periodic TFIM chain: E0 = -2 / sin(pi / (2N)) (free fermions in the even sector)."""
    ring = qsr.TFIM(lattice="chain", Lx=10, boundary="periodic")
    assert qsr.exact(ring).energy == pytest.approx(-2 / np.sin(np.pi / 20), rel=1e-12)


def test_a_cylinder_of_the_square_lattice_is_a_stack_of_rings() -> None:
    assert qsr.exact(qsr.TFIM(Lx=1, Ly=8, boundary="cylinder")).energy == pytest.approx(-2 / np.sin(np.pi / 16), rel=1e-12)
    row = qsr.exact(qsr.Rydberg(Lx=8, Ly=1, boundary="cylinder")).energy
    assert row == pytest.approx(qsr.exact(qsr.Rydberg(Lx=8, Ly=1)).energy, rel=1e-12)


def test_a_run_on_a_kagome_lattice(tmp_path: Path) -> None:
    array = qsr.Rydberg(lattice="kagome", Lx=2, Ly=2, boundary="periodic", delta=2.0)
    model = qsr.PTF(patch=3, Nh=8, nhead=2)
    run = qsr.train(array, model, {"K": 64, "steps": 4, "dir": str(tmp_path)})
    assert run.path is not None and run.path.parent.name == "12-B=64-K=64"
    assert json.loads((run.path / "settings.json").read_text())["hamiltonian"]["geometry"] == "kagome"
    found = qsr.evaluate(run.path, 64, write=True)
    assert found.problem == "rydberg kagome 2x2 periodic, 12 sites: V=7.0 Omega=1.0 delta=2.0, Rb/a=1.383"
    assert "structure_factor" not in found.observables and qsr.plot(run).is_file()
    assert qsr.finetune(run.path, {"steps": 0}, {"Lx": 3, "Ly": 2}).settings.hamiltonian.num_sites == 18
    with pytest.raises(ConfigError, match="periodic lattice that is no rectangle"):
        lattice_edges(array.lattice().positions, read_snapshots(run.path / "samples.h5").attributes, 1.1, 0.0)


def tree(problem: dict[str, Any], train: dict[str, Any] | None = None, patch: str = "1") -> RunSettings:
    return RunSettings.from_tree({"model": {"type": "rnn", "patch": patch}, "hamiltonian": problem, "train": train or {}})


def test_sizes_follow_from_the_number_of_sites() -> None:
    assert tree({"type": "rydberg", "lattice": "kagome"}, {"L": 27}).hamiltonian.cells == (3, 3)
    assert tree({"type": "rydberg", "lattice": "honeycomb", "Lx": 2}, {"L": 12}).hamiltonian.cells == (2, 3)
    assert tree({"type": "tfim", "lattice": "chain"}, {"L": 12}).hamiltonian.shape == (12, 1)
    grown = tree({"type": "rydberg", "Lx": 2, "Ly": 2}).updated({"hamiltonian": {"lattice": "kagome"}})
    assert (grown.hamiltonian.geometry, grown.train.L) == ("kagome", 12)
    magnet = grown.updated({"hamiltonian": {"type": "tfim"}})
    assert (magnet.hamiltonian.geometry, magnet.train.L) == ("kagome", 12)
    placed = grown.updated({"hamiltonian": {"positions": [[0, 0], [1, 0]]}})
    assert (placed.hamiltonian.geometry, placed.train.L) == ("square", 2)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"lattice": "cubic"}, r"rydberg\.lattice=cubic: must be one of square, chain, triangular, honeycomb, kagome"),
        ({"lattice": "kagome", "geometry": "square", "Lx": 2, "Ly": 2}, r"rydberg\.lattice=kagome: excludes geometry=square"),
        ({"lattice": "kagome"}, r"rydberg\.Lx: give both Lx and Ly, or train\.L"),
        ({"lattice": "chain", "Lx": 4, "Ly": 2}, r"rydberg\.Ly=2: must be 1 with lattice=chain"),
        ({"lattice": "chain", "Lx": 4, "boundary": "cylinder"}, r"rydberg\.boundary=cylinder: a chain is open or periodic"),
        ({"lattice": "kagome", "positions": [[0, 0], [1, 0]]}, r"rydberg\.positions: excludes lattice=kagome"),
        ({"boundary": "cylinder", "positions": [[0, 0], [1, 0]]}, r"rydberg\.positions: excludes boundary=cylinder"),
        ({"type": "pauli", "terms": "X0 X1", "lattice": "kagome"}, r"pauli\.lattice=kagome: the sites of Pauli strings"),
        ({"type": "heisenberg", "Lx": 2, "Ly": 3, "boundary": "cylinder"}, r"heisenberg\.Ly=3: must be even with boundary=cyl"),
    ],
)
def test_what_is_refused(problem: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tree({"type": "rydberg", **problem})


def test_patches_and_curricula_that_need_a_rectangle_are_refused() -> None:
    kagome = {"type": "rydberg", "lattice": "kagome", "Lx": 2, "Ly": 2}
    with pytest.raises(ConfigError, match=r"rnn\.patch=2x2: the sites form a line of 12; give a number of sites"):
        tree(kagome, patch="2x2")
    with pytest.raises(ConfigError, match=r"train\.curriculum=1x1:1,2x2:1: needs lattices of Lx x Ly sites, and .* is kagome"):
        tree(kagome, {"curriculum": "1x1:1,2x2:1"})
    with pytest.raises(ConfigError, match=r"train\.L=10: not a multiple of 3, the number of sites in a unit cell"):
        tree({"type": "rydberg", "lattice": "kagome"}, {"L": 10})
    with pytest.raises(ConfigError, match=r"train\.L=10: rydberg has 3\*Lx\*Ly = 3\*2\*2 = 12 sites \(kagome\)"):
        tree(kagome, {"L": 10})


@pytest.mark.parametrize("kind", NAMED)
def test_reduction_ends_for_every_size(kind: Any) -> None:
    """5x1, 10x2 and 11x1 have translations half a step apart, which rounding took to and fro."""
    a1, a2 = (np.array(vector) for vector in CELLS[kind][:2])
    for x, y in itertools.product(range(1, 13), repeat=2):
        first, second = reduced_periods(x * a1, y * a2)
        assert abs(np.linalg.det([first, second])) == pytest.approx(abs(np.linalg.det([x * a1, y * a2])))
        assert first @ first <= second @ second * (1 + 1e-9) and abs(first @ second) <= first @ first * (0.5 + 1e-9)


def test_odd_rings_have_no_checkerboard() -> None:
    for shape, boundary, expected in (
        ((3, 3), "open", True),
        ((3, 3), "periodic", False),
        ((4, 3), "cylinder", False),
        ((3, 4), "cylinder", True),
        ((4, 2), "periodic", True),
        ((5, 1), "periodic", False),
    ):
        lattice = Lattice(*shape, boundary)  # type: ignore[arg-type]
        bonds, signs = lattice.bonds(), lattice.sublattice_signs()
        assert lattice.has_sublattices == (signs[bonds[:, 0]] == -signs[bonds[:, 1]]).all() == expected


def test_a_stretched_and_disordered_square_is_one() -> None:
    square = Lattice(4, 3)
    rng = np.random.default_rng(0)
    places = square.positions * [6.1, 5.6] + rng.uniform(-0.2, 0.2, (12, 2))
    assert np.array_equal(Lattice.from_positions(places).bonds(), square.bonds())
    assert abs(Lattice.from_positions(places).sublattice_signs() @ square.sublattice_signs()) == 12
    for kind in NAMED:
        open_one = Lattice.named(kind, 3, 3)
        distance = open_one.distances()
        assert len(open_one.bonds()) == (np.triu(np.abs(distance - 1) < 1e-9, k=1)).sum()
