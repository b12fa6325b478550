"""Snapshots as graphs: sites are nodes, their occupations the features, and interactions the edges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.graph.edges import radius_edges
from qsr.graph.stores import arrays_of, find_column, name_of, once
from qsr.hparams.base import ConfigError

MOST_IN_MEMORY = 2**26  # bytes of an array
CUTOFF = 1.5  # nearest and next-nearest neighbours of a square lattice


@dataclass(frozen=True)
class SnapshotReader:
    """Reads snapshot files (`qsr-snapshots/1`) sample by sample, as `GraphDataset` asks for them.

    A graph has x (N, 1), the occupations; edge_index and edge_attr, see `radius_edges`; pos (N, 2), which is no feature; y, the
    target; and graph_features (1, F), where there are any. Arrays of at most 64 MiB are read once.

    The atoms of each snapshot may be elsewhere: positions are (S, N, 2) then, and n_atoms (S,), if it is there, tells how many of
    the N are meant.

    Attributes:
        target: what y is: `labels`, `state_id` or a parameter such as delta. None: labels, if the file has them.
        cutoff, power: of the edges.
        graph_features: parameters that describe the whole snapshot. None of them: the file's array graph_features (S, F), if
            there is one.
    """

    target: str | None = None
    cutoff: float = CUTOFF
    power: float = 6
    graph_features: tuple[str, ...] = ()

    def __call__(self, store: Any, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype, validate: bool) -> Any:
        """The graph of snapshot `idx`.

        Raises:
            ConfigError: if the file has no such target, or arrays that do not fit each other; with `validate`, for
                configurations of other values than 0 and 1.
        """
        from torch_geometric.data import Data

        arrays = arrays_of(store)
        file = once(store, "snapshots", lambda: _Snapshots(arrays, name_of(store)))
        config = np.array(file.configs[idx])[: file.atoms(idx)]
        if validate and config.max(initial=0) > 1:
            raise ConfigError(f"snapshot {idx}: configs must hold 0 (ground) and 1 (excited), found {config.max()}")
        pos, edge_index, weights = file.geometry(idx, self.cutoff, self.power)
        # Tensors of its own: a transform may change them.
        graph = Data(
            x=torch.from_numpy(config).to(float_dtype)[:, None],
            edge_index=edge_index.clone(),
            edge_attr=weights.to(float_dtype, copy=True),
            pos=pos.to(float_dtype, copy=True),
        )
        target = self.target or ("labels" if file.column(arrays, "labels") is not None else None)
        if target is not None:
            graph.y = file.number(arrays, target, idx, float_dtype, int_dtype)
        if self.graph_features:
            numbers = [file.number(arrays, name, idx, float_dtype, int_dtype) for name in self.graph_features]
            graph.graph_features = torch.stack([number.to(float_dtype) for number in numbers])[None]
        elif file.features is not None:
            graph.graph_features = torch.from_numpy(np.array(file.features[idx])).to(float_dtype)[None]
        return graph


class _Snapshots:
    """An open snapshot file: its arrays, in memory if they are small, and the edges of its lattice.

    It belongs to the store, which it must not hold itself: files in a circle of references are closed by whatever thread collects
    them, and HDF5 lets only one thread in at a time.
    """

    def __init__(self, arrays: Any, where: str) -> None:
        self.where = where
        self.attributes = {name: arrays.attrs[name] for name in ("Lx", "Ly", "boundary", "periods") if name in arrays.attrs}
        missing = next((name for name in ("configs", "positions") if name not in arrays), None)
        if missing is not None:
            raise ConfigError(f"{where}: has no array {missing}; data.reader says how such files are read")
        found = (find_column(arrays, name) for name in ("configs", "positions", "n_atoms", "graph_features"))
        self.configs, self.positions, self.n_atoms, self.features = map(_held, found)
        self.columns: dict[str, Any] = {}
        self.edges: dict[tuple[float, float], tuple[Tensor, Tensor, Tensor]] = {}
        self._check()

    def _check(self) -> None:
        configs, positions = tuple(self.configs.shape), tuple(self.positions.shape)
        if len(configs) != 2:
            raise ConfigError(f"{self.where}: configs must be (S, N), found {configs}")
        if positions not in ((configs[1], 2), (*configs, 2)):
            raise ConfigError(f"{self.where}: positions must be {(configs[1], 2)} or {(*configs, 2)}, found {positions}")
        if self.n_atoms is not None and tuple(self.n_atoms.shape) != configs[:1]:
            raise ConfigError(f"{self.where}: n_atoms must be {configs[:1]}, found {tuple(self.n_atoms.shape)}")
        if self.features is not None and (len(self.features.shape) != 2 or self.features.shape[0] != configs[0]):
            raise ConfigError(f"{self.where}: graph_features must be ({configs[0]}, F), found {tuple(self.features.shape)}")

    def atoms(self, idx: int) -> int:
        """How many atoms a snapshot has; the rest is padding."""
        most = int(self.configs.shape[1])
        count = most if self.n_atoms is None else int(self.n_atoms[idx])
        if not 1 <= count <= most:
            raise ConfigError(f"{self.where}: snapshot {idx}: n_atoms={count}: must be from 1 to {most}")
        return count

    def geometry(self, idx: int, cutoff: float, power: float) -> tuple[Tensor, Tensor, Tensor]:
        """Positions, edges and weights; those of a file with one lattice are found once."""
        if len(self.positions.shape) == 2 and self.n_atoms is None:
            if (cutoff, power) not in self.edges:
                self.edges[cutoff, power] = self._edges(np.array(self.positions[:]), cutoff, power)
            return self.edges[cutoff, power]
        points = self.positions[idx] if len(self.positions.shape) == 3 else self.positions[:]
        return self._edges(np.array(points)[: self.atoms(idx)], cutoff, power)

    def _edges(self, points: NDArray[Any], cutoff: float, power: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.from_numpy(points), *lattice_edges(points, self.attributes, cutoff, power)

    def column(self, arrays: Any, name: str) -> Any:
        """(S,) the numbers of a column or a parameter; None if there are none."""
        if name not in self.columns:
            found = find_column(arrays, name)
            shape = tuple(getattr(found, "shape", ()))
            if found is not None and shape != (self.configs.shape[0],):
                raise ConfigError(f"{self.where}: {name} must be ({self.configs.shape[0]},), found {shape}")
            self.columns[name] = _held(found)
        return self.columns[name]

    def number(self, arrays: Any, name: str, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype) -> Tensor:
        """Such a number of a snapshot."""
        numbers = self.column(arrays, name)
        if numbers is None:
            raise ConfigError(f"data.reader: {self.where}: the snapshots have no '{name}'")
        value = numbers[idx]
        return torch.tensor(value, dtype=int_dtype if np.issubdtype(np.asarray(value).dtype, np.integer) else float_dtype)


def _held(array: Any) -> Any:
    """An array in memory, where every row of a compressed one would be a whole chunk to read; a large one as it is."""
    small = array is not None and array.dtype.itemsize * math.prod(array.shape) <= MOST_IN_MEMORY
    return np.asarray(array[...]) if small else array


def lattice_edges(positions: np.ndarray, attributes: Any, cutoff: float, power: float) -> tuple[Tensor, Tensor]:
    """`radius_edges` of the sites of a snapshot file, periodic where the attributes say so."""
    if attributes.get("boundary") == "cylinder" or "periods" in attributes:
        found = "boundary=cylinder" if attributes.get("boundary") == "cylinder" else "a periodic lattice that is no rectangle"
        raise ConfigError(f"positions: edges across {found} are not found; expected an open boundary, or a periodic rectangle")
    if attributes.get("boundary") != "periodic":
        return radius_edges(positions, cutoff, power)
    if not {"Lx", "Ly"} <= attributes.keys():
        raise ConfigError("positions: boundary=periodic needs the attributes Lx and Ly, the lengths of the lattice")
    return radius_edges(positions, cutoff, power, (attributes["Lx"], attributes["Ly"]))
