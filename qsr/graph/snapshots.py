"""Snapshots as graphs: sites are nodes, their occupations the features, and interactions the edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsr.graph.edges import radius_edges
from qsr.graph.stores import arrays_of, find_column
from qsr.hparams.base import ConfigError

CUTOFF = 1.5  # nearest and next-nearest neighbours of a square lattice


@dataclass(frozen=True)
class SnapshotReader:
    """Reads snapshot files (`qsr-snapshots/1`) sample by sample, as `GraphDataset` asks for them.

    A graph has x (N, 1), the occupations; edge_index and edge_attr, see `radius_edges`; pos (N, 2), which is no feature; y, the
    target; and graph_features (1, F), where there are any.

    Attributes:
        target: what y is: `labels`, `state_id` or a parameter such as delta. None: labels, if the file has them.
        cutoff, power: of the edges.
        graph_features: parameters that describe the whole snapshot.
    """

    target: str | None = None
    cutoff: float = CUTOFF
    power: float = 6
    graph_features: tuple[str, ...] = ()

    def __call__(self, store: Any, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype, validate: bool) -> Any:
        """The graph of snapshot `idx`.

        Raises:
            ConfigError: if the file has no such target, or with `validate`, for configurations of other values than 0 and 1.
        """
        from torch_geometric.data import Data

        arrays = arrays_of(store)
        config = np.asarray(arrays["configs"][idx])
        if validate and config.max(initial=0) > 1:
            raise ConfigError(f"snapshot {idx}: configs must hold 0 (ground) and 1 (excited), found {config.max()}")
        pos, edge_index, weights = _geometry(arrays, self.cutoff, self.power)
        graph = Data(
            x=torch.from_numpy(config).to(float_dtype)[:, None],
            edge_index=edge_index,
            edge_attr=weights.to(float_dtype),
            pos=pos.to(float_dtype),
        )
        target = self.target or ("labels" if "labels" in arrays else None)
        if target is not None:
            graph.y = _number(arrays, target, idx, float_dtype, int_dtype)
        if self.graph_features:
            numbers = [_number(arrays, name, idx, float_dtype, int_dtype) for name in self.graph_features]
            graph.graph_features = torch.stack([number.to(float_dtype) for number in numbers])[None]
        return graph


def lattice_edges(positions: np.ndarray, attributes: Any, cutoff: float, power: float) -> tuple[Tensor, Tensor]:
    """`radius_edges` of the sites of a snapshot file, periodic where the attributes say so."""
    periodic = (attributes["Lx"], attributes["Ly"]) if attributes.get("boundary") == "periodic" else None
    return radius_edges(positions, cutoff, power, periodic)


def _geometry(arrays: Any, cutoff: float, power: float) -> tuple[Tensor, Tensor, Tensor]:
    attributes = tuple((name, arrays.attrs[name]) for name in ("Lx", "Ly", "boundary") if name in arrays.attrs)
    return _edges_once(np.asarray(arrays["positions"][:]).tobytes(), attributes, cutoff, power)


@lru_cache(maxsize=16)
def _edges_once(positions: bytes, attributes: Any, cutoff: float, power: float) -> tuple[Tensor, Tensor, Tensor]:
    """Every snapshot of a file has the same edges."""
    points = np.frombuffer(positions).reshape(-1, 2).copy()
    return torch.from_numpy(points), *lattice_edges(points, dict(attributes), cutoff, power)


def _number(arrays: Any, name: str, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype) -> Tensor:
    numbers = find_column(arrays, name)
    if numbers is None:
        raise ConfigError(f"data.reader: the snapshots have no '{name}'")
    value = numbers[idx]
    return torch.tensor(value, dtype=int_dtype if np.issubdtype(np.asarray(value).dtype, np.integer) else float_dtype)
