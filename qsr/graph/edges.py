"""The edges of a lattice graph: pairs of sites within a radius, weighted by a power of their distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qsr.hparams.base import ConfigError

# Lattices that were turned or moved have rounded coordinates, in the format that they were computed in.
_SLACK = 1e-9  # of the cutoff, at least
_ROUNDINGS = 8.0  # of the largest number at most, by which a distance is off


def radius_edges(
    positions: ArrayLike | Tensor, cutoff: float, power: float = 6, periodic: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor]:
    """Edges in both directions between sites at distances 0 < r <= cutoff, sorted by their first site, then the second.

    Args:
        positions: (N, 2) in lattice constants.
        cutoff: largest distance.
        power: the weight of an edge is r^(-power): 6 the van der Waals interaction in units of V, -1 the distance.
        periodic: lengths (Lx, Ly) of a periodic lattice; distances are those of the closest images then.

    Returns:
        edge_index (2, E) int64 from, to; weights (E,), float64 unless the positions are a tensor of another precision.

    Raises:
        ConfigError: for positions of another shape or that are not finite, a negative cutoff, a power that is not finite, lengths
            that are not two numbers larger than 0, and sites on one point.
    """
    points, rounding = _points(positions)
    cutoff, power = _number("cutoff", cutoff), _number("power", power)
    if not cutoff >= 0:
        raise ConfigError(f"cutoff={cutoff}: must be at least 0")
    if not np.isfinite(power):
        raise ConfigError(f"power={power}: must be a finite number")
    difference = points[:, None] - points[None]
    if periodic is not None:
        size = _lengths(periodic)
        difference -= size * np.round(difference / size)
    distance = np.linalg.norm(difference, axis=-1)
    np.fill_diagonal(distance, np.inf)
    if (distance == 0).any():
        first, second = np.argwhere(distance == 0)[0]
        raise ConfigError(f"positions: sites {first} and {second} lie on the same point")
    slack = max(_SLACK * cutoff, _ROUNDINGS * rounding * max(cutoff, np.abs(points).max(initial=0)))
    first, second = np.nonzero(distance <= cutoff + slack)
    weights = torch.from_numpy(distance[first, second] ** -power)
    edge_index = torch.from_numpy(np.stack([first, second]).astype(np.int64))
    if isinstance(positions, Tensor) and positions.is_floating_point():
        weights = weights.to(positions.dtype)
    return edge_index, weights


def _points(positions: ArrayLike | Tensor) -> tuple[NDArray[np.float64], float]:
    """Positions in float64, and the relative rounding of the format that they came in."""
    if isinstance(positions, Tensor):
        points = positions.detach().cpu().double().numpy()
        rounding = torch.finfo(positions.dtype).eps if positions.is_floating_point() else 0.0
    else:
        try:
            found = np.asarray(positions)
            points = found.astype(float)
        except (TypeError, ValueError):
            raise ConfigError(f"positions: must be (N, 2) finite numbers, found {type(positions).__name__}") from None
        rounding = float(np.finfo(found.dtype).eps) if np.issubdtype(found.dtype, np.floating) else 0.0
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ConfigError(f"positions: must be (N, 2) finite numbers, found shape {points.shape}")
    return points, rounding


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={value!r}: must be a number") from None


def _lengths(periodic: Any) -> NDArray[np.float64]:
    try:
        size = np.asarray(periodic, dtype=float)
    except (TypeError, ValueError):
        size = np.empty(0)
    if size.shape != (2,) or not (np.isfinite(size) & (size > 0)).all():
        raise ConfigError(f"periodic={periodic!r}: must be two lengths (Lx, Ly) larger than 0")
    return size
