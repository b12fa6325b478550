"""Reading files that strangers wrote: regular files only, sizes checked before memory is taken, one line of complaint."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qsr.hparams.base import ConfigError

MOST_TEXT = 2**26  # bytes of a file of settings; parsed, each may take some tens of bytes
MOST_DATA = 2**34  # bytes of a file of data that is read as a whole
MOST_DEPTH = 64  # mappings and lists inside each other
# An array may be larger than its file: chunks are compressed, or were never written.
FREE_BYTES, MOST_INFLATED = 2**30, 64
_TEXT = re.compile(rb"^\x93NUMPY.{2,8}\{'descr': '[<>|=]?[US]\d+'", re.DOTALL)
_SHOWN = 200  # characters of what a library says


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, opened for reading. Pipes are not waited for, devices not read.

    Raises:
        OSError: for anything else; its `strerror` says what was found.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError:  # NUL, or text that no file system encodes
        raise OSError(errno.EINVAL, "not a file name", ascii(str(path))) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or a device, expected a regular file", str(path))


def check_regular(path: str | Path) -> int:
    """Bytes in a regular file, for libraries that want its name.

    Raises:
        OSError: see `open_regular`.
    """
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size


def read_bounded(path: str | Path, most: int = MOST_DATA) -> bytes:
    """All bytes of a regular file of at most `most` bytes.

    Raises:
        OSError: for a larger one, and see `open_regular`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size} bytes, at most {most} are read", str(path))
        return file.read(size)


def read_text(path: str | Path, most: int = MOST_TEXT) -> str:
    """As `read_bounded`, text in UTF-8; a byte-order mark is left out.

    Raises:
        OSError: see `read_bounded`.
        UnicodeDecodeError: for other bytes.
    """
    return read_bounded(path, most).decode("utf-8-sig")


def parse_json(raw: bytes | str) -> Any:
    """What JSON says.

    Raises:
        ValueError: for what is not JSON in UTF-8, is nested more than 64 deep, has whole numbers of thousands of digits, or
            text that no file can hold (half of a surrogate pair).
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    try:
        tree = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {MOST_DEPTH} deep") from None
    level = [tree] if text.count("[") + text.count("{") > MOST_DEPTH else []  # others have not enough brackets
    for _ in range(MOST_DEPTH):
        level = [part for value in level if isinstance(value, (dict, list)) for part in _parts(value)]
        if not level:
            break
    else:
        raise ValueError(f"nested more than {MOST_DEPTH} deep")
    if "\\ud" in text.lower():
        json.dumps(tree, ensure_ascii=False).encode()
    return tree


def check_inflated(claimed: int, size: int, what: str) -> None:
    """Whether an array of `claimed` bytes can come from a file of `size` bytes.

    Raises:
        ConfigError: if it is beyond 1 GiB and beyond 64 times the file.
    """
    if claimed > max(FREE_BYTES, MOST_INFLATED * size):
        raise ConfigError(f"{what}: claims {claimed} bytes, in a file of {size}")


def npy_array(raw: bytes) -> NDArray[Any]:
    """The array of numbers in a .npy file (NEP 1).

    Raises:
        ValueError: for damaged bytes, text and objects; nothing is allocated beyond what is there.
    """
    stream = io.BytesIO(raw)
    major, minor = np.lib.format.read_magic(stream)
    if (major, minor) not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {major}.{minor} of the npy format is not known")
    length = int.from_bytes(stream.read(2 if major == 1 else 4), "little")
    header = stream.read(length).decode("latin1" if major < 3 else "utf-8").strip()
    found = re.fullmatch(
        r"\{'descr': '([<>|=]?[biufc]\d{1,9})', 'fortran_order': (True|False), "
        r"'shape': (\((?:\d{1,18}(?:, ?\d{1,18})*,?)?\)),? *\}",
        header,
    )
    if found is None:
        raise ValueError("not the header of an array of numbers")
    try:
        dtype = np.dtype(found[1])
    except TypeError as error:
        raise ValueError(str(error)) from None
    shape = tuple(int(size) for size in re.findall(r"\d+", found[3]))
    count = math.prod(shape)
    body = raw[stream.tell() :]
    if len(shape) > 32 or count * dtype.itemsize > len(body) or (not count and max(shape, default=0) > len(raw)):
        raise ValueError(f"claims {shape} of {dtype}, and has {len(body)} bytes")
    if not dtype.itemsize:
        raise ValueError(f"has elements of no bytes, {dtype}")
    return np.frombuffer(body, dtype, count).reshape(shape, order="F" if found[2] == "True" else "C").copy()


def npz_arrays(raw: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of numbers in a .npz file, by name; text is left out.

    Raises:
        ValueError: for damaged bytes, objects, and files that would inflate beyond bounds.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        check_inflated(sum(entry.file_size for entry in archive.infolist()), len(raw), "npz")
        for entry in archive.infolist():
            if _TEXT.search(archive.open(entry).read(128)):  # what `export` writes of the attributes
                continue
            arrays[entry.filename.removesuffix(".npy")] = npy_array(archive.read(entry))
    return arrays


@contextmanager
def parsing(where: str | Path, complaint: str) -> Iterator[None]:
    """For a call of another library's parser: whatever it raises on bytes that it did not expect, as one line.

    Such parsers document no complete list of their exceptions. Running out of memory is not hidden: sizes are checked before.

    Raises:
        ConfigError: `where`: `complaint` (what the library says).
    """
    try:
        yield
    except (ConfigError, MemoryError):
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {complaint} ({reason(error)})") from None


def reason(error: Exception) -> str:
    """What went wrong, in a few words on one line: libraries write paragraphs."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    said = "".join(char if char.isprintable() else "?" for char in lines[0]) if lines else ""
    return said[:_SHOWN] or type(error).__name__


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value
