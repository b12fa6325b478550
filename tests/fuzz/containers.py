"""Hostile zips, pickles and HDF5 files made from valid ones."""

from __future__ import annotations

import io
import pickletools
import random
import re
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np

from qsr.hparams.hdf5 import check_heaps
from tests.fuzz.changes import NUMBERS, TEXTS, of_bytes, of_npy


def of_zip(data: bytes, generator: random.Random) -> bytes:
    """A member changed, taken out, doubled, compressed, or blown up; the checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    number = generator.randrange(len(entries))
    name, content = entries[number]
    compression = zipfile.ZIP_STORED
    change = generator.randrange(9)
    if change >= 7:
        return of_directory(data, generator)
    if change == 0:
        del entries[number]
    elif change == 1:
        entries.append((generator.choice((name, "../x", "a/data.pkl", "x.npy")), content))
    elif change == 2:
        compression = zipfile.ZIP_DEFLATED
    elif change == 3:
        compression = zipfile.ZIP_DEFLATED
        entries[number] = (name, content + b"\0" * 5_000_000)
    elif change == 4 and name.endswith(".npy"):
        entries[number] = (name, of_npy(content, generator))
    elif change == 5 and name.endswith(".pkl"):
        entries[number] = (name, of_pickle(content, generator))
    else:
        entries[number] = (name, of_bytes(content, generator, [content]))
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", compression) as archive:
        warnings.simplefilter("ignore")  # a name that stands twice is meant
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


def of_directory(data: bytes, generator: random.Random) -> bytes:
    """Another number in the local header, the directory or the end of a zip: sizes, offsets, counts, flags, methods, sums."""
    signature, widths = generator.choice(
        (
            (b"PK\x03\x04", ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
            (b"PK\x01\x02", ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4))),
            (b"PK\x05\x06", ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
        )
    )
    places = [found.start() for found in re.finditer(re.escape(signature), data)]
    place = generator.choice(places)
    offset, width = generator.choice(widths)
    number = generator.choice((*NUMBERS, *places)) % 256**width
    return data[: place + offset] + number.to_bytes(width, "little") + data[place + offset + width :]


def of_pickle(data: bytes, generator: random.Random) -> bytes:
    """Calls of other functions, numbers of other sizes, loops."""
    start = 2 if data[:1] == b"\x80" else 0
    program = generator.choice(
        (
            b"cos\nsystem\n(X\x02\x00\x00\x00idtR0",
            b"cbuiltins\nbytearray\n(\x8a\x05\x00\x00\x00\x00\x40tR0",
            b"ctorch\nzeros\n(\x8a\x05\x00\x00\x00\x00\x40tR0",
            b"cbuiltins\neval\n(X\x01\x00\x00\x001tR0",
            b"]q\x00h\x00a0",
            b"(" * 5000 + b"1" * 5000,
            b"]" * 3000 + b"a" * 2999 + b"0",
        )
    )
    change = generator.random()
    if change < 0.3:
        return data[:start] + program + data[start:]
    if change < 0.7:  # a value in the place of another: K one byte, J four, G a float, N None, \x88 true, ] and } empty
        places = [place for opcode, _, place in pickletools.genops(data) if opcode.name in _VALUES and place is not None]
        place = generator.choice(places)
        end = next(after for _, _, after in pickletools.genops(data[place:]) if after)
        value = generator.choice(
            (b"K\x00", b"K\x07", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"N", b"\x88", b"]", b"}", b")")
        )
        value = generator.choice(
            (value, b"G\x7f\xf8" + bytes(6), b"G" + bytes(8), b"X\x01\x00\x00\x00a", b"\x8a\x09" + bytes(8) + b"\x01")
        )
        return data[:place] + value + data[place + end :]
    return of_bytes(data, generator, [data])


_VALUES = ("BININT", "BININT1", "BININT2", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_LIST", "EMPTY_DICT", "BINUNICODE")


def of_hdf5(data: bytes, generator: random.Random) -> bytes:
    """Data sets, groups, links and attributes replaced by others that the format allows."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.h5"
        path.write_bytes(data)
        check_heaps(path)  # this process must not turn in them either
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            name = generator.choice([*names, "params", "extra"])
            _change_hdf5(file, name, generator)
        return path.read_bytes()


def _change_hdf5(file: h5py.File, name: str, generator: random.Random) -> None:
    change = generator.randrange(18)
    holder = file[name] if name in file and generator.random() < 0.5 else file
    if change >= 14 and isinstance(file.get(name), h5py.Dataset) and file[name].dtype.kind in "iuf" and file[name].size:
        values = np.array(file[name])  # the same shape and type, other numbers
        with np.errstate(all="ignore"):
            odd = generator.choice((np.nan, np.inf, -np.inf, 0, -1, 1, 1e308, -1e308, 5e-324, 2**62))
            values.flat[:: generator.choice((1, 2, values.size))] = np.float64(odd).astype(values.dtype)
        file[name][...] = values
        return
    attribute = generator.choice([*holder.attrs, "schema", "format", "generation", "unit", "hamiltonian", "num_samples", "Lx"])
    if change >= 10:
        texts = [text.replace("\0", "").encode("utf-8", "replace").decode() for text in TEXTS]
        values: list[Any] = [*NUMBERS, *texts, np.zeros(3), np.zeros((0, 2)), h5py.Empty("f"), np.nan, b"\xff\xfe", "[" * 2000]
        holder.attrs[attribute] = generator.choice(values)
        return
    if change == 9:
        holder.attrs.pop(attribute, None)
        return
    if name in file:
        del file[name]
    if change == 0:
        return
    if change == 1:
        shape = tuple(generator.choice((0, 1, 4, 6, 2**20, 2**40, 2**62)) for _ in range(generator.randrange(1, 4)))
        file.create_dataset(name, shape=shape, dtype=generator.choice(("u1", "f8", "i8")), chunks=True, compression="gzip")
    elif change == 2:
        file[name] = h5py.ExternalLink(generator.choice(("/etc/passwd", "other.h5", "/dev/zero")), "/x")
    elif change == 3:
        file[name] = h5py.SoftLink(generator.choice(("/", "/configs", "/nowhere", f"/{name}")))
    elif change == 4:
        layout = h5py.VirtualLayout(shape=(6, 4), dtype="u1")
        layout[:] = h5py.VirtualSource("other.h5", "x", shape=(6, 4))
        file.create_virtual_dataset(name, layout)
    elif change == 5:
        file.create_dataset(name, shape=(6,), dtype="u1", external=[("/etc/passwd", 0, 6)])
    elif change == 6:
        file.create_group(name)["x"] = 1
    elif change == 7:
        odd = (h5py.string_dtype(), h5py.vlen_dtype("i4"), h5py.ref_dtype, "S3", "c16", [("a", "f8")], ("f8", (3,)), "?", "V5")
        file.create_dataset(name, shape=generator.choice(((), (6,), (6, 4))), dtype=generator.choice(odd))
    else:
        array = generator.choice((np.full((6, 4), np.nan), np.arange(6), np.zeros((6, 4, 1)), np.float64(1), np.zeros((0, 4))))
        file[name] = array
