"""The edges of a lattice graph: pairs of sites within a radius, weighted by a power of their distance."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qsr.hparams.base import ConfigError

_SLACK = 1e-9  # of the cutoff: the distances of rotated lattices are rounded


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
        ConfigError: for positions of another shape or that are not finite, a negative cutoff, and sites on one point.
    """
    tensor = isinstance(positions, Tensor)
    points = positions.detach().cpu().double().numpy() if isinstance(positions, Tensor) else np.asarray(positions, dtype=float)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ConfigError(f"positions: must be (N, 2) finite numbers, found shape {points.shape}")
    if not cutoff >= 0:
        raise ConfigError(f"cutoff={cutoff}: must be at least 0")
    difference = points[:, None] - points[None]
    if periodic is not None:
        size = np.asarray(periodic, dtype=float)
        difference -= size * np.round(difference / size)
    distance = np.linalg.norm(difference, axis=-1)
    np.fill_diagonal(distance, np.inf)
    if (distance == 0).any():
        first, second = np.argwhere(distance == 0)[0]
        raise ConfigError(f"positions: sites {first} and {second} lie on the same point")
    first, second = np.nonzero(distance <= cutoff * (1 + _SLACK))
    weights = torch.from_numpy(distance[first, second] ** -float(power))
    edge_index = torch.from_numpy(np.stack([first, second]).astype(np.int64))
    return edge_index, weights.to(positions.dtype) if tensor and positions.is_floating_point() else weights  # type: ignore[union-attr]
