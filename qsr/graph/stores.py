"""Files that graphs are read from: HDF5 files and zarr stores, with the same arrays in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from qsr.graph.zarr_files import check_zarr
from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import parsing, reason
from qsr.hparams.hdf5 import check_dataset, check_heaps, members
from qsr.snapshots import SCHEMA

MOST_MEMBERS = 100  # of a store that is looked at; others have a group for each sample
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
        with parsing(f"data.files: {path}", "damaged"):
            check_zarr(file)
        return LocalStore(file, read_only=True)
    if file.is_file() and h5py.is_hdf5(file):
        try:
            with parsing(f"data.files: {path}", "damaged"):
                check_heaps(file)
                return _checked(h5py.File(file, "r"))
        except OSError as error:
            raise ConfigError(f"data.files: {path}: {reason(error)}") from None
    found = "no such file" if not file.exists() else "neither an HDF5 file nor a zarr store"
    raise ConfigError(f"data.files: {path}: {found}")


def _checked(file: h5py.File) -> h5py.File:
    """The same file; of snapshots with its arrays in it, and numbers. Files with a reader of their own are the reader's."""
    if not is_snapshots(file):
        return file
    try:
        found = members(file, file.filename)
        arrays = [array for name, array in found.items() if name != "params"]
        arrays += members(found["params"], file.filename).values() if "params" in found else []
        for array in arrays:
            if check_dataset(array, file.filename).dtype.kind not in "biuf" or not array.shape:
                raise ConfigError(f"data.files: {file.filename}: {array.name}: expected an array of numbers, found {array.dtype}")
    except BaseException:
        file.close()
        raise
    return file


def arrays_of(store: Any) -> Any:
    """The group of arrays in a store of either kind: `["name"]`, `in`, `.attrs`."""
    if isinstance(store, h5py.File):
        return store
    import zarr

    with parsing(f"data.files: {name_of(store)}", "damaged"):
        return once(store, "arrays", lambda: zarr.open_group(store, mode="r"))


def once(store: Any, name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns, called once for each open store; it goes when the store does, and must not hold an HDF5 file."""
    kept = vars(store).setdefault("_qsr", {})
    if name not in kept:
        kept[name] = make()
    return kept[name]


def name_of(store: Any) -> str:
    """The file or folder of an open store."""
    return str(getattr(store, "filename", None) or getattr(store, "root", store))


def is_snapshots(arrays: Any) -> bool:
    """Whether these are the arrays of a snapshot file."""
    schema = arrays.attrs.get("schema")
    return isinstance(schema, str) and schema == SCHEMA


def sample_count(arrays: Any, where: str) -> int:
    """Number of samples in a file.

    That is its `num_samples` (an attribute, or an array with one element), else the common length of the arrays that the
    attribute `sample_axes` names, else of all one-dimensional arrays.

    Raises:
        ConfigError: if none of these tells, or not how many there can be.
    """
    if is_snapshots(arrays):
        if "configs" not in arrays:
            raise ConfigError(f"{where}: has the schema {SCHEMA}, and no array configs")
        return int(arrays["configs"].shape[0])
    axes = _sample_axes(arrays, where) if "sample_axes" in arrays.attrs else None
    for name in COUNTS:
        if name in arrays.attrs or name in arrays:
            count = _count(arrays.attrs[name] if name in arrays.attrs else arrays[name], name, where)
            _check_rows(arrays, axes, count, name, where)
            return count
    lengths = axes if axes is not None else {name: shape[0] for name, shape in _shapes(arrays).items() if len(shape) == 1}
    if len(set(lengths.values())) == 1:
        return int(next(iter(lengths.values())))
    found = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no one-dimensional array"
    raise ConfigError(f"{where}: how many samples are there? expected an attribute num_samples, found {found}")


def _count(value: Any, name: str, where: str) -> int:
    try:
        if getattr(value, "size", 1) != 1:
            raise ValueError
        (found,) = np.asarray(value[...] if hasattr(value, "shape") else value).ravel().tolist()
        count = int(found)
        if count < 0 or count != found:
            raise ValueError
    except (TypeError, ValueError):
        shown = f"of shape {value.shape}" if getattr(value, "shape", ()) else repr(value)
        raise ConfigError(f"{where}: {name} must be one whole number, at least 0, found {shown}") from None
    return count


def _sample_axes(arrays: Any, where: str) -> dict[str, int]:
    """Lengths of the arrays that `sample_axes` names."""
    named = arrays.attrs["sample_axes"]
    names = [named] if isinstance(named, (str, bytes)) else list(named) if isinstance(named, Iterable) else [named]
    lengths = {}
    for name in (name.decode() if isinstance(name, bytes) else str(name) for name in names):
        shape = getattr(arrays[name], "shape", ()) if name in arrays else ()
        if not shape:
            known = ", ".join(_shapes(arrays)) or "none"
            raise ConfigError(
                f"{where}: sample_axes names '{name}', expected arrays with a row for each sample; there are {known}"
            )
        lengths[name] = int(shape[0])
    return lengths


def _check_rows(arrays: Any, axes: Mapping[str, int] | None, count: int, name: str, where: str) -> None:
    """Whether there can be so many samples: a sample that is not there would end a training in its first epoch."""
    if axes is None:
        root = getattr(getattr(arrays, "store", None), "root", None)  # of a zarr store
        members = len(arrays) if root is None else sum(1 for _ in islice(Path(root).iterdir(), MOST_MEMBERS + 1))
        shapes = _shapes(arrays) if members <= MOST_MEMBERS else {}
        lengths = {array: shape[0] for array, shape in shapes.items() if shape and array not in COUNTS}
        if not lengths or any(member not in (*shapes, "params") for member, _ in _members(arrays)):
            return  # samples are groups, or who knows what
        axes = dict([max(lengths.items(), key=lambda item: item[1])])
    for array, length in axes.items():
        if length < count:
            raise ConfigError(f"{where}: {name}={count}, and the array {array} has {length} rows")


def _shapes(arrays: Any) -> dict[str, tuple[int, ...]]:
    found = {name: tuple(array.shape) for name, array in _members(arrays) if hasattr(array, "shape")}
    return dict(sorted(found.items()))  # zarr tells them in any order


def find_column(arrays: Any, name: str) -> Any:
    """The array with a number for each sample of this name, which may be a parameter of snapshots; None if there is none."""
    with parsing(name_of(arrays), "damaged"):
        place = next((place for place in (name, f"params/{name}") if place in arrays), None)
        return None if place is None else arrays[place]


def column(arrays: Any, name: str, count: int, where: str) -> NDArray[Any]:
    """(S,) one number for each of `count` samples.

    Raises:
        ConfigError: if there is none, or too few.
    """
    found = find_column(arrays, name)
    shape: tuple[int, ...] = getattr(found, "shape", ())
    if len(shape) != 1 or shape[0] < count:
        lacking = f", found {shape}" if shape else ""
        raise ConfigError(f"{where}: has no array '{name}' with a number for each of {count} samples{lacking}")
    with parsing(where, "damaged"):
        if isinstance(found, h5py.Dataset):
            check_dataset(found, where)
        return np.asarray(found[:count])


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
