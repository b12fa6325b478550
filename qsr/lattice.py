"""Geometry of a lattice: sites, distances, neighbours, patches and the boundary."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError
from qsr.hparams.types import patch_block, patch_sites

Boundary = Literal["open", "periodic", "cylinder"]
Kind = Literal["square", "chain", "triangular", "honeycomb", "kagome"]
Vector = tuple[float, float]


class Cell(NamedTuple):
    """A unit cell: its translations a1 and a2, and where its sites are. Nearest neighbours have the distance 1."""

    a1: Vector
    a2: Vector
    sites: tuple[Vector, ...]


_ROOT = 3**0.5
CELLS: dict[str, Cell] = {
    "triangular": Cell((1.0, 0.0), (0.5, _ROOT / 2), ((0.0, 0.0),)),
    "honeycomb": Cell((_ROOT, 0.0), (_ROOT / 2, 1.5), ((0.0, 0.0), (_ROOT / 2, 0.5))),
    "kagome": Cell((2.0, 0.0), (1.0, _ROOT), ((0.0, 0.0), (1.0, 0.0), (0.5, _ROOT / 2))),
}

_MOST_DISTANCES = 64  # of free positions
_BOND = 1.3  # between 1, the side of a square, and its diagonal


@dataclass(frozen=True)
class Lattice:
    """A rectangle of Lx x Ly sites with lattice constant 1, or sites at arbitrary positions.

    Site (x, y) has index i = x*Ly + y. With `coordinates`, sites have the order of the list and count as a chain of N x 1 for
    patches. The boundary is open, periodic, or that of a cylinder, periodic in y (along a2) only; of coordinates, `periods`
    are the translations that lead back.
    """

    Lx: int
    Ly: int
    boundary: Boundary = "open"
    coordinates: tuple[Vector, ...] | None = None
    periods: tuple[Vector, ...] = ()

    @classmethod
    def named(cls, kind: Kind, Lx: int, Ly: int, boundary: Boundary = "open") -> Lattice:
        """Lx x Ly unit cells; site s of cell (x, y), at x a1 + y a2 + its place in the cell, has index (x*Ly + y)*S + s."""
        if kind not in CELLS:
            return cls(Lx, Ly, boundary)
        a1, a2, sites = (np.array(part) for part in CELLS[kind])
        x, y = np.divmod(np.arange(Lx * Ly), Ly)
        points = (x[:, None] * a1 + y[:, None] * a2)[:, None] + sites
        coordinates = tuple((float(x), float(y)) for x, y in points.reshape(-1, 2))
        around = {"open": (), "cylinder": (Ly * a2,), "periodic": (Lx * a1, Ly * a2)}[boundary]
        periods = tuple((float(x), float(y)) for x, y in around)
        return cls(len(coordinates), 1, boundary, coordinates, periods)

    @classmethod
    def from_positions(cls, positions: NDArray[np.float64] | list[list[float]]) -> Lattice:
        """Sites at the given (N, 2) coordinates, open boundary."""
        points = tuple((float(x), float(y)) for x, y in positions)
        return cls(Lx=len(points), Ly=1, coordinates=points)

    @property
    def num_sites(self) -> int:
        """N."""
        return self.Lx * self.Ly

    @property
    def shape(self) -> tuple[int, int]:
        """(Lx, Ly)."""
        return self.Lx, self.Ly

    @property
    def attributes(self) -> dict[str, Any]:
        """What files of snapshots say of the lattice beside the positions."""
        around = {"periods": [list(period) for period in self.periods]} if self.periods else {}
        return {"Lx": self.Lx, "Ly": self.Ly, "boundary": self.boundary, **around}

    @property
    def positions(self) -> NDArray[np.float64]:
        """(N, 2) coordinates in units of the lattice constant."""
        if self.coordinates is not None:
            return np.array(self.coordinates, dtype=float)
        x, y = np.divmod(np.arange(self.num_sites), self.Ly)
        return np.stack([x, y], axis=1).astype(float)

    def period_vectors(self) -> NDArray[np.float64]:
        """(k, 2) translations that lead back: none for an open boundary, one for a cylinder, two for a periodic one."""
        if self.coordinates is not None or self.boundary == "open":
            return np.array(self.periods, dtype=float).reshape(-1, 2)
        return np.diag([self.Lx, self.Ly]).astype(float)[0 if self.boundary == "periodic" else 1 :]

    def displacements(self) -> NDArray[np.float64]:
        """(N, N, 2) vectors r_i - r_j; the shortest image where the boundary is periodic."""
        difference = self.positions[:, None, :] - self.positions[None, :, :]
        if self.periods:
            return _shortest_images(difference, np.array(self.periods))
        if self.boundary != "open" and self.coordinates is None:
            around = slice(0, 2) if self.boundary == "periodic" else slice(1, 2)
            size = np.array(self.shape, dtype=float)[around]
            difference[..., around] -= size * np.round(difference[..., around] / size)
        return difference

    def distances(self) -> NDArray[np.float64]:
        """(N, N) distances |r_i - r_j| (minimum image where periodic)."""
        return np.linalg.norm(self.displacements(), axis=-1)

    def bonds(self) -> NDArray[np.int64]:
        """(number of bonds, 2) nearest-neighbour pairs i < j, each once.

        Of sites at free positions all pairs up to 1.3 times the distance from one of them to its nearest site: arrays are
        stretched, and atoms sit beside their places; diagonals of a square are longer. A periodic direction of length 2 has one
        bond, not two.
        """
        distance = self.distances() + np.diag(np.full(self.num_sites, np.inf))
        if self.coordinates is None or self.periods:
            limit: Any = distance.min() * 1.01
        else:
            nearest = distance.min(axis=1)
            limit = _BOND * np.maximum(nearest[:, None], nearest)
        first, second = np.nonzero(np.triu(distance < limit, k=1))
        return np.stack([first, second], axis=1)

    def distance_groups(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The distances (D,) between sites, ascending, and which of them every pair has, (N, N); -1 on the diagonal.

        Distances within 1 % of the smallest one count as equal (files of positions are rounded). Where free positions still
        have more than 64 of them, pairs are put into at most 64 intervals, and the distance is the mean in each.
        """
        group = np.full((self.num_sites, self.num_sites), -1, dtype=np.int64)
        first, second = np.triu_indices(self.num_sites, k=1)
        if len(first) == 0:
            return np.zeros(0), group
        distance = self.distances()[first, second]
        member = np.unique(np.round(distance / (0.01 * distance.min())), return_inverse=True)[1]
        if self.coordinates is not None and member.max() >= _MOST_DISTANCES:
            edges = np.linspace(distance.min(), distance.max(), _MOST_DISTANCES + 1)[1:-1]
            member = np.unique(np.digitize(distance, edges), return_inverse=True)[1]
        group[first, second] = group[second, first] = member
        return np.bincount(member, distance) / np.bincount(member), group

    def sublattice_signs(self) -> NDArray[np.float64]:
        """(N,) the sign of the checkerboard order: (-1)^(x+y), or for free positions +1 and -1 alternating along bonds."""
        if self.coordinates is None:
            return np.where(self.positions.sum(axis=1) % 2 == 0, 1.0, -1.0)
        bonds = self.bonds()
        signs = np.zeros(self.num_sites)
        while not signs.all():
            signs[np.argmin(np.abs(signs))] = 1.0  # the first site of a part that no bond joins to those before
            for _ in range(self.num_sites):  # no path is longer
                for here, there in (bonds.T, bonds.T[::-1]):
                    reached = (signs[here] != 0) & (signs[there] == 0)
                    signs[there[reached]] = -signs[here[reached]]
        return signs

    @property
    def has_sublattices(self) -> bool:
        """Whether the checkerboard order means something: where bonds join all sites, and always sites of unequal sign.

        Not on periodic rings of odd length, nor where bonds make triangles.
        """
        if self.coordinates is None:
            around = {"open": (), "cylinder": (self.Ly,), "periodic": self.shape}[self.boundary]
            return all(length % 2 == 0 or length == 1 for length in around)
        bonds, signs = self.bonds(), self.sublattice_signs()
        reached = np.arange(self.num_sites) == 0
        for _ in range(self.num_sites):
            for here, there in (bonds.T, bonds.T[::-1]):
                reached[there[reached[here]]] = True
        return bool(reached.all() and (signs[bonds[:, 0]] == -signs[bonds[:, 1]]).all())

    def region(self, text: str) -> NDArray[np.int64]:
        """Site indices of a region: 'rows:2' (x < 2), 'columns:1' (y < 1), or 'sites:0,1,5'.

        Raises:
            ConfigError: for another form, for rows, columns or sites that the lattice does not have, and for rows and columns
                of a lattice that is no rectangle.
        """
        kind, _, value = text.partition(":")
        words = value.split(",")
        if all(word.isdecimal() for word in words) and (kind == "sites" or len(words) == 1):
            numbers = [int(word) for word in words]
            if kind == "sites" and len(set(numbers)) == len(numbers) and max(numbers) < self.num_sites:
                return np.array(numbers)
            if kind in ("rows", "columns") and self.coordinates is not None:
                raise ConfigError(f"region={text}: this lattice is no rectangle of sites; expected sites:I,J,...")
            sites = np.arange(self.num_sites).reshape(self.shape)
            if kind == "rows" and 1 <= numbers[0] <= self.Lx:
                return sites[: numbers[0]].ravel()
            if kind == "columns" and 1 <= numbers[0] <= self.Ly:
                return sites[:, : numbers[0]].ravel()
        raise ConfigError(
            f"region={text}: expected rows:1 to rows:{self.Lx}, columns:1 to columns:{self.Ly}, "
            f"or sites:I,J,... with different numbers below {self.num_sites}"
        )

    def patches(self, patch: str) -> NDArray[np.int64]:
        """(n, p) site indices of each patch; both the patches and the sites within one run row by row.

        `patch` is '4' (sites in a row of the site order) or '2x3' (a block); it must tile the lattice (`check_patch`).
        """
        sites = np.arange(self.num_sites).reshape(self.Lx, self.Ly)
        block = patch_block(patch)
        if block is None:
            return sites.reshape(-1, patch_sites(patch))
        rows, columns = block
        tiles = sites.reshape(self.Lx // rows, rows, self.Ly // columns, columns)
        return tiles.transpose(0, 2, 1, 3).reshape(-1, rows * columns)

    def patch_grid(self, patch: str) -> tuple[int, ...]:
        """Shape of the arrangement of patches: (n,) for one-dimensional patches, (rows, columns) for blocks."""
        block = patch_block(patch)
        if block is None:
            return (self.num_sites // patch_sites(patch),)
        return self.Lx // block[0], self.Ly // block[1]


def _shortest_images(vectors: NDArray[np.float64], periods: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shortest of vectors (N, N, 2) plus integer combinations of periods (k, 2)."""
    if len(periods) == 2:
        periods = reduced_periods(*periods)
    vectors = vectors - np.round(vectors @ np.linalg.pinv(periods)) @ periods
    # Next to the rounded combination lies the best one, as the periods are reduced.
    best = vectors
    for combination in itertools.product((-1, 0, 1), repeat=len(periods)):
        image = vectors + np.array(combination) @ periods
        shorter = np.linalg.norm(image, axis=-1) < np.linalg.norm(best, axis=-1)
        best = np.where(shorter[..., None], image, best)
    return best


def reduced_periods(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2) the two shortest vectors of the lattice that these span (Lagrange and Gauss)."""
    while True:
        if first @ first > second @ second:
            first, second = second, first
        shorter = second - np.round(first @ second / (first @ first)) * first
        if shorter @ shorter >= second @ second * (1 - 1e-12):  # rounding would take half a step to and fro for ever
            return np.stack([first, second])
        second = shorter
