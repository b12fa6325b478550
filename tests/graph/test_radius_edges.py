"""Edges of lattices: known counts and weights, and the symmetries of the plane."""

from typing import Any

import numpy as np
import pytest
import torch

from qsr import Lattice
from qsr.graph.edges import radius_edges
from qsr.hparams import ConfigError


@pytest.mark.parametrize(
    ("shape", "cutoff", "edges"), [((4, 4), 1.5, 84), ((3, 3), 1.5, 40), ((4, 4), 1.0, 48), ((4, 4), 0.99, 0), ((1, 5), 9, 20)]
)
def test_known_numbers_of_edges(shape: tuple[int, int], cutoff: float, edges: int) -> None:
    edge_index, weights = radius_edges(Lattice(*shape).positions, cutoff)
    assert edge_index.shape == (2, edges) and weights.shape == (edges,)
    assert edge_index.dtype == torch.int64 and weights.dtype == torch.float64


@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_edges_are_the_pairs_within_the_cutoff(boundary: str) -> None:
    lattice = Lattice(4, 5, boundary)
    periodic = (4, 5) if boundary == "periodic" else None
    edge_index, weights = radius_edges(lattice.positions, 2.0, periodic=periodic)
    distances = lattice.distances()
    pairs = {(i, j) for i in range(20) for j in range(20) if i != j and distances[i, j] <= 2 + 1e-12}
    assert set(map(tuple, edge_index.T.tolist())) == pairs and edge_index.shape[1] == len(pairs)
    assert np.allclose(weights, distances[tuple(edge_index)] ** -6.0, atol=1e-15)
    assert np.allclose(radius_edges(lattice.positions, 2.0, -1, periodic)[1], distances[tuple(edge_index)], atol=1e-15)


def test_rotations_translations_and_permutations_change_nothing() -> None:
    points = Lattice(4, 4).positions
    edge_index, weights = radius_edges(points, 1.0)
    for angle in (np.pi / 2, 0.3):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved_index, moved = radius_edges(points @ turn.T + [100.5, -7.25], 1.0)
        assert torch.equal(moved_index, edge_index) and torch.allclose(moved, weights, rtol=0, atol=1e-12)
    order = np.random.default_rng(0).permutation(16)
    shuffled_index, _ = radius_edges(points[order], 1.0)
    assert set(map(tuple, order[shuffled_index.numpy()].T.tolist())) == set(map(tuple, edge_index.T.tolist()))


@pytest.mark.parametrize("cutoff", [1.0, 2**0.5, 2.0])
@pytest.mark.parametrize("array", [torch.tensor, np.array])
def test_lattices_that_were_turned_and_moved_in_float32_keep_their_edges(cutoff: float, array: Any) -> None:
    points = torch.tensor(Lattice(6, 6).positions, dtype=torch.float32)
    expected = radius_edges(points, cutoff)[0]
    for angle in np.linspace(0, np.pi, 13):
        cos, sin = np.cos(angle), np.sin(angle)
        turned = points @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float32)
        for shift in ([0.0, 0.0], [0.1, -0.7], [100.3, -7.2], [-3000.7, 2000.1]):
            moved = turned + torch.tensor(shift)
            assert moved.dtype == torch.float32
            found = radius_edges(array(moved.tolist(), dtype=torch.float32 if array is torch.tensor else np.float32), cutoff)[0]
            assert torch.equal(found, expected), (angle, shift)


def test_weights_have_the_precision_of_a_tensor_of_positions() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    edge_index, weights = radius_edges(points, 2.0)
    assert edge_index.tolist() == [[0, 1], [1, 0]]
    assert weights.dtype == torch.float32 and weights.tolist() == [1 / 64, 1 / 64]
    assert radius_edges(points.long(), 2.0)[1].dtype == torch.float64


@pytest.mark.parametrize(
    ("points", "cutoff", "said"),
    [
        (np.zeros((3, 3)), 1.0, r"positions: must be \(N, 2\) finite numbers, found shape \(3, 3\)"),
        (np.array([[0, np.nan]]), 1.0, "finite"),
        (np.zeros((2, 2)), 1.0, "sites 0 and 1 lie on the same point"),
        (np.eye(2), -1.0, "cutoff=-1.0: must be at least 0"),
    ],
)
def test_refused(points: np.ndarray, cutoff: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        radius_edges(points, cutoff)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": "here"}, r"positions: must be \(N, 2\) finite numbers, found str"),
        ({"positions": [[0, 1], [1]]}, r"positions: must be \(N, 2\) finite numbers, found list"),
        ({"cutoff": "far"}, "cutoff='far': must be a number"),
        ({"cutoff": None}, "cutoff=None: must be a number"),
        ({"cutoff": np.nan}, "cutoff=nan: must be at least 0"),
        ({"power": np.nan}, "power=nan: must be a finite number"),
        ({"power": [6]}, r"power=\[6\]: must be a number"),
        ({"periodic": (0, 4)}, r"periodic=\(0, 4\): must be two lengths \(Lx, Ly\) larger than 0"),
        ({"periodic": (4, 4, 4)}, r"periodic=\(4, 4, 4\): must be two lengths"),
        ({"periodic": (4, np.inf)}, "must be two lengths"),
        ({"periodic": "4x4"}, "periodic='4x4': must be two lengths"),
    ],
)
def test_refused_arguments(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        radius_edges(**{"positions": np.eye(2), "cutoff": 1.5, **changes})
