"""Reading HDF5 files that strangers wrote: nothing outside the file, and no array larger than the file can hold. And writing."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import check_inflated, check_regular, open_regular, parsing

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCKS = (0, *(2**power for power in range(9, 31)))  # before it: a block of the user's
MOST_MEMBERS = 100_000  # of a group that is read as a whole
_PLAIN = "biufcS"  # kinds of elements that lie in the array itself


@contextmanager
def written_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """A file that is filled in the block and then written as a whole.

    It is made in memory: on a full disk libhdf5 raises whatever it was about, and cannot close the file.

    Raises:
        OSError: with the name of the file, if it cannot be written.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        yield file
    Path(path).write_bytes(buffer.getbuffer())


@contextmanager
def opened_hdf5(path: str | Path, complaint: str) -> Iterator[h5py.File]:
    """A file open for reading; what libhdf5 says about damage inside the block becomes a ConfigError with `complaint`.

    Raises:
        OSError: for anything but a regular file.
        ConfigError: for damage.
    """
    check_heaps(path)
    with parsing(path, complaint), h5py.File(path, "r") as file:
        yield file


def check_heaps(path: str | Path) -> None:
    """Whether every global heap, where texts lie, can be walked through to its end.

    libhdf5 1.14 and 2.0 do not: an object of size 0 in it, and they turn for ever. Layout: HDF5 File Format Specification 3.0,
    III.E, with lengths of eight bytes.

    Raises:
        OSError: for anything but a regular file.
        ConfigError: for a heap with such an object, and files with other lengths.
    """
    with open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            begin = next((offset for offset in _SUPERBLOCKS if data[offset : offset + 8] == _SIGNATURE), None)
            if begin is None:
                return  # libhdf5 says so
            block = data[begin : begin + 16].ljust(16, b"\0")
            length = block[14] if block[8] < 2 else block[10]
            if length != 8:
                raise ConfigError(f"{path}: damaged (lengths of {length} bytes, expected 8)")
            place = data.find(b"GCOL\x01")
            while place >= 0:
                _walk(data, place, path)
                place = data.find(b"GCOL\x01", place + 1)


def _walk(data: mmap.mmap, place: int, path: str | Path) -> None:
    end = place + int.from_bytes(data[place + 8 : place + 16], "little")
    if end > len(data):
        return  # libhdf5 says so
    place += 16
    while place + 16 <= end:
        number, size = (int.from_bytes(data[place + at : place + at + width], "little") for at, width in ((0, 2), (8, 8)))
        step = 16 + (size + 7) // 8 * 8 if number else size  # free space counts its own header
        if not 16 <= step <= end - place:
            raise ConfigError(f"{path}: damaged (an object of {size} bytes in a global heap)")
        place += step


def members(group: Any, where: str | Path) -> dict[str, Any]:
    """What lies in a group, in its order.

    Raises:
        ConfigError: for links out of the file (or soft ones), and groups with more members than anybody makes.
    """
    if not isinstance(group, h5py.Group):
        raise ConfigError(f"{where}: {getattr(group, 'name', group)}: expected a group")
    if len(group) > MOST_MEMBERS:
        raise ConfigError(f"{where}: {group.name}: has {len(group)} members, at most {MOST_MEMBERS} are read")
    return {name: member(group, name, where) for name in group}


def member(group: Any, name: str, where: str | Path) -> Any:
    """What a group has under a name of its own.

    Raises:
        KeyError: if there is none.
        ConfigError: for a link out of the file, or a soft one.
    """
    if not isinstance(group, h5py.Group) or name not in group.keys():  # noqa: SIM118  # `in` follows links
        raise KeyError(name)
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ConfigError(f"{where}: {name}: is a link, expected the data themselves")
    return group[name]


def check_dataset(dataset: Any, where: str | Path) -> Any:
    """The same data set, if it lies in its file and can be as large as it says.

    Raises:
        ConfigError: for groups, virtual and external data sets, and claimed sizes that the file cannot hold.
    """
    name = getattr(dataset, "name", dataset)
    if not isinstance(dataset, h5py.Dataset):
        raise ConfigError(f"{where}: {name}: expected a data set")
    if dataset.is_virtual or dataset.external:
        raise ConfigError(f"{where}: {name}: lies in other files, expected the data themselves")
    check_inflated(dataset.size * max(dataset.dtype.itemsize, 1) if dataset.size else 0, check_regular(where), f"{where}: {name}")
    return dataset


def read_array(group: Any, name: str, where: str | Path) -> NDArray[Any]:
    """An array of numbers, or of short text; which of them it may be is for the caller to say.

    Raises:
        KeyError: if there is none of this name.
        ConfigError: for anything else, see `member` and `check_dataset`.
    """
    dataset = check_dataset(member(group, name, where), where)
    if dataset.dtype.kind not in _PLAIN or dataset.shape is None:
        raise ConfigError(f"{where}: {name}: expected numbers, found {dataset.dtype}")
    found: NDArray[Any] = dataset[()]
    return found


def attributes(item: Any, where: str | Path) -> Mapping[str, Any]:
    """All attributes of a file, group or data set; they are small by the format (64 KiB) unless they claim otherwise.

    Raises:
        ConfigError: for one that claims more than the file can hold.
    """
    found = {}
    for name in item.attrs:
        check_inflated(item.attrs.get_id(name).get_storage_size(), check_regular(where), f"{where}: {name}")
        found[name] = item.attrs[name]
    return found
