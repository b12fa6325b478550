"""Snapshot files in both formats, and functions of data that another process can import."""

from pathlib import Path
from typing import Any

import h5py
import torch

import qsr
from qsr.graph import SnapshotReader
from qsr.jobs import make_snapshots

DELTAS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)


def snapshots(file: Path, shots: int = 10, shape: tuple[int, int] = (2, 3), seed: int = 0, **settings: Any) -> Path:
    """`shots` snapshots of each of six states."""
    states = [qsr.Rydberg(Lx=shape[0], Ly=shape[1], delta=delta) for delta in DELTAS]
    make_snapshots(states, file, shots=shots, labels="delta>1.2", seed=seed, **settings)
    return file


def as_zarr(file: Path, target: Path) -> Path:
    """The same arrays and attributes as a zarr store."""
    import zarr  # which Python 3.10 has not

    group = zarr.open_group(target, mode="w")
    with h5py.File(file) as store:
        for name, value in store.attrs.items():
            group.attrs[name] = value.item() if hasattr(value, "item") else value

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                group.create_array(name, data=item[...])

        store.visititems(copy)
    return target


def with_density(graph: Any) -> Any:
    """A preparation with a random number in it."""
    graph.density = graph.x.mean()
    graph.noise = torch.rand(2)
    graph.note = "prepared"
    return graph


def is_filled(graph: Any) -> bool:
    return bool(graph.x.sum() > 1)


def read_third(store: Any, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype, validate: bool) -> Any:
    """A snapshot with the third of the detunings that it is from as its class."""
    graph = SnapshotReader(target="state_id")(store, idx, float_dtype, int_dtype, validate)
    graph.y = graph.y // 2
    return graph


def with_moments(graph: Any) -> Any:
    """Four features of the whole graph."""
    density = graph.x.mean()
    graph.graph_features = torch.stack([density**power for power in (1, 2, 3, 4)])[None]
    return graph
