"""Files that graphs are read from: HDF5 files and zarr stores, with the same arrays in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError
from qsr.snapshots import SCHEMA

COUNTS = ("num_samples", "num_causal_sets")  # what a file may call its number of samples
_ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs")


def open_store(path: str | Path) -> Any:
    """A read-only `h5py.File`, or a `zarr.storage.LocalStore`, by what lies there.

    Raises:
        ConfigError: for anything else, and for a zarr store where zarr is not installed.
    """
    file = Path(path)
    if file.is_dir() and any((file / name).is_file() for name in _ZARR_FILES):
        try:
            from zarr.storage import LocalStore
        except ImportError:
            raise ConfigError(f"{path}: zarr stores need zarr: pip install 'qsr[graph]'") from None
        return LocalStore(file, read_only=True)
    if file.is_file() and h5py.is_hdf5(file):
        return h5py.File(file, "r")
    found = "no such file" if not file.exists() else "neither an HDF5 file nor a zarr store"
    raise ConfigError(f"data.files: {path}: {found}")


def arrays_of(store: Any) -> Any:
    """The group of arrays in a store of either kind: `["name"]`, `in`, `.attrs`."""
    if isinstance(store, h5py.File):
        return store
    import zarr

    return zarr.open_group(store, mode="r")


def is_snapshots(arrays: Any) -> bool:
    """Whether these are the arrays of a snapshot file."""
    return bool(arrays.attrs.get("schema") == SCHEMA)


def sample_count(arrays: Any, where: str) -> int:
    """Number of samples in a file.

    That is its `num_samples` (an attribute, or an array with one element), else the common length of the arrays that the
    attribute `sample_axes` names, else of all one-dimensional arrays.

    Raises:
        ConfigError: if none of these tells.
    """
    if is_snapshots(arrays):
        return int(arrays["configs"].shape[0])
    for name in COUNTS:
        if name in arrays.attrs:
            return int(arrays.attrs[name])
        if name in arrays:
            return int(np.asarray(arrays[name][...]).ravel()[0])
    if "sample_axes" in arrays.attrs:
        lengths = {str(name): arrays[str(name)].shape[0] for name in arrays.attrs["sample_axes"]}
    else:
        lengths = {name: array.shape[0] for name, array in _members(arrays) if len(getattr(array, "shape", ())) == 1}
    if len(set(lengths.values())) == 1:
        return int(next(iter(lengths.values())))
    found = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no one-dimensional array"
    raise ConfigError(f"{where}: how many samples are there? expected an attribute num_samples, found {found}")


def find_column(arrays: Any, name: str) -> Any:
    """The array with a number for each sample of this name, which may be a parameter of snapshots; None if there is none."""
    place = next((place for place in (name, f"params/{name}") if place in arrays), None)
    return None if place is None else arrays[place]


def column(arrays: Any, name: str, where: str) -> NDArray[Any]:
    """(S,) one number for each sample.

    Raises:
        ConfigError: if there is none.
    """
    found = find_column(arrays, name)
    if found is None:
        raise ConfigError(f"{where}: has no array '{name}' with a number for each sample")
    return np.asarray(found[:])


def stamps(path: str | Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file of a store: by these a cache is known to be older."""
    root = Path(path)
    files = sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]
    return [(file.relative_to(root).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


class Stores:
    """Stores that are opened when they are needed, in each process for itself."""

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = [str(file) for file in files]
        self._open: dict[str, Any] = {}
        self._process = os.getpid()

    def __getitem__(self, number: int) -> Any:
        if self._process != os.getpid():  # a forked worker must not share the file position of its parent
            self._open, self._process = {}, os.getpid()
        file = self.files[number]
        if file not in self._open:
            self._open[file] = open_store(file)
        return self._open[file]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _members(arrays: Any) -> Iterator[tuple[str, Any]]:
    yield from arrays.items() if hasattr(arrays, "items") else arrays.members()
