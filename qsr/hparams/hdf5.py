"""Reading HDF5 files that strangers wrote: nothing outside the file, and no array larger than the file can hold. And writing."""

from __future__ import annotations

import io
import math
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import MOST_INFLATED, MOST_TEXT, check_inflated, check_regular, open_regular, parsing

# The type of texts of any length: class 9, 16 bytes for each; what they are made of comes after it. The literal stands first,
# which is what makes the search fast.
_VARIABLE = re.compile(rb"\x10\0\0\0(?<=[\x19\x29\x39\x49][\x00\x01\x11\x21][\x00\x01]\0\x10\0\0\0)")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCKS = (0, *(2**power for power in range(9, 31)))  # before it: a block of the user's
MOST_MEMBERS = 100_000  # of a group that is read as a whole
_PLAIN = "biufcS"  # kinds of elements that lie in the array itself


@contextmanager
def written_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """A file that is filled in the block and then written as a whole.

    It is made in memory: on a full disk libhdf5 raises whatever it was about, and cannot close the file.

    Raises:
        OSError: if it cannot be written.
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
    III.E, with lengths of eight bytes. And it believes what the texts of attributes claim, see `check_texts`.

    Raises:
        OSError: for anything but a regular file.
        ConfigError: for a heap with such an object, texts that claim far more than the file, and files with other lengths.
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
            check_texts(path, data, _in_attributes(data))


def check_texts(path: str | Path, data: bytes | mmap.mmap, places: Iterable[int]) -> None:
    """Whether references of 16 bytes to texts (length, address of a heap, number in it) claim about what a file can hold.

    libhdf5 takes as much memory for each text as its reference claims, four GiB if need be, before it looks at the heap.

    Raises:
        ConfigError: if they claim far more.
    """
    claimed = sum(int.from_bytes(data[place : place + 4], "little") for place in places)
    if claimed > max(MOST_TEXT, MOST_INFLATED * len(data)):
        raise ConfigError(f"{path}: damaged (its texts claim {claimed} bytes, in a file of {len(data)})")


def _in_attributes(data: mmap.mmap) -> Iterator[int]:
    """Places of the references of attributes of text: type, dimensions and data follow each other (IV.A.2.m)."""
    for found in _VARIABLE.finditer(data):
        base = found.end()
        length = {0: 12, 1: 20, 3: 8}.get(data[base] & 15 if base < len(data) else 15)  # integers, floats, characters
        if length is None:
            continue
        for place in (base + length, base + (length + 7) // 8 * 8):  # the first version of the message pads
            begin, count = _dimensions(data, place)
            if begin + 16 * count <= len(data):
                yield from range(begin, begin + 16 * count, 16)
            if count:
                break


def _dimensions(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Where the message with the dimensions ends, and the number of elements; 0 of them if there is no such message."""
    version, rank, flags, kind, *zeros = data[place : place + 8].ljust(8, b"\xff")
    if rank > 32 or flags > 1 or not ((version == 1 and not any((kind, *zeros))) or (version == 2 and kind <= 1)):
        return place, 0
    begin = place + (8 if version == 1 else 4)
    sizes = [int.from_bytes(data[begin + 8 * axis : begin + 8 * axis + 8], "little") for axis in range(rank)]
    return begin + 8 * rank * (1 + flags), math.prod(sizes)


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
    if dataset.dtype.kind == "O" and dataset.size:
        _check_text(dataset, where)
    return dataset


def _check_text(dataset: h5py.Dataset, where: str | Path) -> None:
    """Whether a data set of text claims what a file can hold, see `check_texts`."""
    made = dataset.id.get_create_plist()
    if made.get_nfilters() or made.get_layout() == h5py.h5d.COMPACT:
        raise ConfigError(f"{where}: {dataset.name}: is compressed or compact text, which is not read; expected plain text")
    if dataset.chunks is None:
        parts = [(dataset.id.get_offset(), 16 * dataset.size)]
    else:
        chunks = (dataset.id.get_chunk_info(number) for number in range(dataset.id.get_num_chunks()))
        parts = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    with open_regular(where) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_texts(
            where, data, (place for begin, size in parts if begin is not None for place in range(begin, begin + size, 16))
        )


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
