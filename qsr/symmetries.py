"""Symmetries of a lattice: the isometries that map its sites onto sites, as permutations of the sites."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from qsr.hparams.base import ConfigError
from qsr.lattice import Lattice, reduced_periods

Symmetry = Literal["none", "reflections", "point", "translations", "all"]
SYMMETRIES: tuple[str, ...] = get_args(Symmetry)

TOLERANCE = 1e-3  # of the smallest distance between sites: positions in files are rounded

_Matrix = NDArray[np.float64]
_Sites = NDArray[np.int64]


def site_permutations(lattice: Lattice, which: str) -> Tensor:
    """The group (G, N) int64 of the symmetries of a lattice; the image of configs (B, N) under element g is configs[:, group[g]].

    Isometries are found from the positions, and from the periods where the boundary is periodic, so that every kind of lattice
    and every list of positions has its own group: C4v (8) on an open square of L x L, C2v (4) on other rectangles, N times 8 for
    `all` of a periodic square. Elements that do the same to all sites, as a chain's mirror along it and the identity, count once.
    The identity comes first.

    Args:
        which: `point`, the point group about the centre that has the most symmetries; `reflections`, of the point group a mirror,
            the one perpendicular to it, and the half turn that they make; `translations` along periodic directions; `all` that
            there are, the products of these and glide reflections among them; `none`, the identity.

    Raises:
        ConfigError: for another word.
    """
    if which not in SYMMETRIES:
        raise ConfigError(f"symmetry={which}: must be one of {', '.join(SYMMETRIES)}")
    return torch.from_numpy(_group(lattice, which).copy())


@lru_cache(maxsize=64)
def _group(lattice: Lattice, which: str) -> _Sites:
    identity = np.arange(lattice.num_sites)
    if which == "none" or lattice.num_sites == 1:
        return identity[None]
    torus = _Torus(lattice)
    shifts = torus.translations()
    if which == "translations":
        return _distinct([identity, *shifts.sites])
    about = _representatives(torus)
    if which == "all":
        return _distinct([identity, *(row for e in about for row in shifts.sites[:, e.sites])])
    best, most = identity[None], len(about) if which == "point" else min(4, len(about))
    for centre in _centres(torus, about, shifts):
        elements = _about(torus, centre, about, shifts)
        chosen = elements if which == "point" else _perpendicular_mirrors(elements)
        found = _distinct([identity, *(element.sites for element in chosen)])
        best = found if len(found) > len(best) else best
        if len(best) == most:
            break
    return best


@dataclass(frozen=True)
class _Element:
    """r -> R r + t; site i goes to site `sites[i]`."""

    matrix: _Matrix  # (2, 2)
    shift: _Matrix  # (2,)
    sites: _Sites  # (N,)

    @property
    def turns(self) -> bool:
        """Whether it is a rotation (or a translation)."""
        return float(np.linalg.det(self.matrix)) > 0


@dataclass(frozen=True)
class _Shifts:
    """All T translations."""

    vectors: _Matrix  # (T, 2)
    sites: _Sites  # (T, N)


class _Torus:
    """The plane, rolled up along the periods of a lattice, with its sites."""

    def __init__(self, lattice: Lattice) -> None:
        self.positions = lattice.positions - lattice.positions.mean(axis=0)
        self.periods = lattice.period_vectors()  # (k, 2)
        if len(self.periods) == 2:
            self.periods = reduced_periods(*self.periods)
        self.basis = _completed(self.periods)
        self.around = np.arange(2) < len(self.periods)
        distances = lattice.distances()
        self.tolerance = TOLERANCE * float(distances[distances > 0].min())
        self._tree = cKDTree(self._wrapped(self.positions), boxsize=np.where(self.around, 1.0, 0.0))

    def _wrapped(self, points: _Matrix) -> _Matrix:
        """Coordinates along the basis, those along periods in [0, 1)."""
        found = points @ np.linalg.inv(self.basis)
        found[..., self.around] %= 1.0
        return np.where(self.around & (found >= 1.0), 0.0, found)  # rounding makes 1.0 of -1e-17

    def norms(self, vectors: _Matrix) -> _Matrix:
        """(...) lengths of vectors (..., 2), up to periods, of those that are short."""
        found = vectors @ np.linalg.inv(self.basis)
        found = np.where(self.around, found - np.round(found), found)
        lengths: _Matrix = np.linalg.norm(found @ self.basis, axis=-1)
        return lengths

    def sites_at(self, points: _Matrix) -> tuple[_Sites, NDArray[np.bool_]]:
        """(K, n) the sites nearest to points (K, n, 2), and (K,) whether all are within the tolerance."""
        sites: _Sites = self._tree.query(self._wrapped(points.reshape(-1, 2)))[1].reshape(points.shape[:2])
        return sites, np.all(self.norms(points - self.positions[sites]) < self.tolerance, axis=1)

    def elements(self, matrix: _Matrix, shifts: _Matrix) -> tuple[_Matrix, _Sites]:
        """Those of the translations (K, 2) that after a rotation or reflection map sites onto sites, and the sites (K', N)."""
        turned = self.positions @ matrix.T
        _, fit = self.sites_at(turned[None, :8] + shifts[:, None])  # a few sites refuse most candidates
        shifts = shifts[fit]
        sites, fit = self.sites_at(turned[None] + shifts[:, None])
        fit &= (np.sort(sites, axis=1) == np.arange(len(self.positions))).all(axis=1)
        return shifts[fit], sites[fit]

    def candidates(self, matrix: _Matrix) -> _Matrix:
        """(K, 2) translations that may complete a rotation or reflection to a symmetry."""
        if not len(self.periods):
            return np.zeros((1, 2))  # the centre of the sites, the origin, stays where it is
        found: _Matrix = self.positions - matrix @ self.positions[0]  # the first site becomes any other
        return found

    def translations(self) -> _Shifts:
        one = np.eye(2)
        return _Shifts(*self.elements(one, self.candidates(one)))

    def matrices(self) -> list[_Matrix]:
        """Rotations and reflections that may be symmetries, the identity among them."""
        if len(self.periods) == 0:
            return self._matrices_of_points()
        if len(self.periods) == 1:
            along = self.periods[0] / np.linalg.norm(self.periods[0])
            mirror = 2 * np.outer(along, along) - np.eye(2)
            return [np.eye(2), -np.eye(2), mirror, -mirror]
        # Of a lattice: reduced basis vectors become vectors of the same lengths and the same angle.
        steps = np.array(list(itertools.product((-1, 0, 1), repeat=2)))
        vectors = steps @ self.periods
        found = [(np.linalg.inv(self.periods) @ np.stack([first, second])).T for first in vectors for second in vectors]
        return [matrix for matrix in found if np.allclose(matrix @ matrix.T, np.eye(2), atol=TOLERANCE)]

    def _matrices_of_points(self) -> list[_Matrix]:
        """An isometry about the centre is known by the image of one site, and by whether it turns or reflects."""
        radii = np.linalg.norm(self.positions, axis=1)
        far = radii > 10 * self.tolerance
        shells = [np.flatnonzero(np.abs(radii - radius) < self.tolerance) for radius in radii[far]]
        shell = min(shells, key=len)
        start = self.positions[shell[0]]
        found = []
        for end in self.positions[shell]:
            cosine, sine = (start @ end, start[0] * end[1] - start[1] * end[0]) / np.hypot(*start) / np.hypot(*end)
            turn = np.array([[cosine, -sine], [sine, cosine]]) / np.hypot(cosine, sine)
            along = start / np.hypot(*start)
            found += [turn, turn @ (2 * np.outer(along, along) - np.eye(2))]
        return found


def _completed(periods: _Matrix) -> _Matrix:
    """(2, 2) basis that begins with the periods; what is added is perpendicular and of length 1."""
    if len(periods) == 2:
        return periods
    if len(periods) == 0:
        return np.eye(2)
    x, y = periods[0]
    return np.array([[x, y], np.array([-y, x]) / np.hypot(x, y)])


def _representatives(torus: _Torus) -> list[_Element]:
    """One symmetry for each rotation and reflection that is part of any; times all translations these are all symmetries."""
    found: list[_Element] = []
    # Sites on a line do not tell its mirror from the identity, nor the half turn from the other mirror, which goes before it.
    for matrix in sorted(torus.matrices(), key=lambda matrix: (not np.allclose(matrix, np.eye(2)), np.linalg.det(matrix) > 0)):
        difference = [torus.positions @ (element.matrix - matrix).T for element in found]
        if any(np.abs(vectors).max() < torus.tolerance for vectors in difference):
            continue
        shifts, sites = torus.elements(matrix, torus.candidates(matrix))
        if len(shifts):
            found.append(_Element(matrix, shifts[0], sites[0]))
    return found


def _about(torus: _Torus, centre: _Matrix, about: list[_Element], shifts: _Shifts) -> list[_Element]:
    """The symmetries that leave a point where it is."""
    found = []
    for element in about:
        # R c + t + T = c for one of the translations T.
        missing = torus.norms(element.matrix @ centre + element.shift + shifts.vectors - centre)
        nearest = int(missing.argmin())
        if missing[nearest] < torus.tolerance:
            sites = shifts.sites[nearest][element.sites]
            found.append(_Element(element.matrix, element.shift + shifts.vectors[nearest], sites))
    return found


def _distinct(rows: list[_Sites]) -> _Sites:
    """(G, N) the different ones, in order."""
    return np.stack(list({row.tobytes(): row for row in rows}.values()))


def _centres(torus: _Torus, about: list[_Element], shifts: _Shifts) -> Iterator[_Matrix]:
    """Points that a rotation of the highest order, or a reflection, may leave where they are."""
    if not len(torus.periods):
        yield np.zeros(2)
        return
    wraps = np.array(list(itertools.product((-1, 0, 1), repeat=len(torus.periods)))) @ torus.periods
    rotations = [element for element in about if element.turns and not np.allclose(element.matrix, np.eye(2), atol=TOLERANCE)]
    sharpest = sorted(rotations, key=lambda element: -float(np.trace(element.matrix)))[:1]  # the trace is 2 cos of the angle
    for element in [*sharpest, *(element for element in about if not element.turns)]:
        ends = ((element.shift + shifts.vectors)[:, None] + wraps).reshape(-1, 2)
        # Of a reflection, halfway to the image of the origin; if that is on no mirror, nothing is found about it.
        yield from ends @ np.linalg.inv(np.eye(2) - element.matrix).T if element.turns else ends / 2


def _perpendicular_mirrors(elements: list[_Element]) -> list[_Element]:
    """The identity, a mirror, and where they are there the one perpendicular to it and the half turn."""
    mirrors = sorted((element for element in elements if not element.turns), key=lambda element: -abs(element.matrix[0, 0]))
    if not mirrors:
        return []
    first = mirrors[0]
    allowed = (np.eye(2), first.matrix, -first.matrix, -np.eye(2))
    chosen = [element for matrix in allowed for element in elements if np.allclose(element.matrix, matrix, atol=10 * TOLERANCE)]
    turned = any(np.allclose(element.matrix, -np.eye(2), atol=10 * TOLERANCE) for element in chosen)
    return chosen if turned else [e for e in chosen if not np.allclose(e.matrix, -first.matrix, atol=10 * TOLERANCE)]
