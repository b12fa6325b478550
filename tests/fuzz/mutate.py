"""Hostile and broken files made from valid ones: bytes, text, JSON, zip, npy and safetensors headers, parts of HDF5."""

from __future__ import annotations

import io
import json
import pickletools
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np

from qsr.hparams.hdf5 import check_heaps

MOST = 200_000  # bytes of a mutated file
NUMBERS = (0, 1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (
    *("", " ", "\0", "\ud800", "é", "\u2028", "a" * 300, "../../etc/passwd", "/dev/zero", "/dev/tty", "/proc/self/mem", "."),
    *("nan", "inf", "-inf", "1e400", "-1", "1e9", "9" * 5000, "0x10", "1:1", "2x2", "0x0", "99999x99999", "1000000x1", "none"),
    *("os.system", "builtins.eval", "!pyobject os.system", "${oc.env:HOME}", "${a}", "${.}", "${..x}", "%s", "{0}", "\x1b[31m"),
    *("rydberg", "tfim", "heisenberg", "pauli", "ptf", "rnn", "lptf", "hsm", "graph", "qembed", "model", "0:3", "1,2", "cuda:99"),
)
WORDS = (
    *(
        "rydberg",
        "tfim",
        "heisenberg",
        "pauli",
        "rnn",
        "ptf",
        "lptf",
        "qembed",
        "graph",
        "hsm",
        "energy",
        "teacher",
        "supervised",
    ),
    *(
        "Adam",
        "SGD",
        "LBFGS",
        "spring",
        "minsr",
        "Muon",
        "OneCycleLR",
        "CosineAnnealingLR",
        "ReduceLROnPlateau",
        "StepLR",
        "none",
    ),
    *("auto", "exact", "cpu", "cuda", "mps", "float32", "float64", "bf16", "open", "periodic", "kagome", "triangular", "chain"),
    *(
        "csv",
        "tensorboard",
        "wandb",
        "min",
        "max",
        "sinusoidal",
        "learned",
        "linear",
        "point",
        "all",
        "translations",
        "2x2",
        "1x2",
    ),
    *(
        "2x2:2,4x4:4",
        "0:3",
        "0.5:1:3",
        "s.h5",
        "table.csv",
        "history.h5",
        "settings.json",
        "x{epoch:09999d}",
        "$\\frac{",
        "<script>",
    ),
)
YAML_TOKENS = (
    *("&a ", "*a", "<<: *a", "!!python/object/apply:os.system [id]", "!pyobject os.system", "!!int ", "!!float ", "!!bool x"),
    *(
        "!!timestamp x",
        "!!binary x",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!null x",
        "{",
        "}",
        "[",
        "]",
        "? ",
        ": ",
        "- ",
        "---\n",
        "...\n",
    ),
    *(
        "${a}",
        "${oc.env:HOME}",
        "${oc.decode:x}",
        "${a.b}",
        "???",
        "%YAML 9.9\n",
        "%TAG ! x\n",
        "|\n",
        ">\n",
        '"',
        "'",
        "\t",
        "#",
    ),
    *(
        "0b1",
        "0o7",
        "1:60:60",
        "1e400",
        "._",
        "+.inf",
        ".nan",
        "2001-99-99",
        "!sweep {values: []}",
        "!range {start: 0, stop: 1e18}",
    ),
    *("!random_uniform {start: 0, stop: 1, log: true}", "!reference {target: a}", "!coupled-sweep {target: a, values: [1]}"),
)
TEXT_TOKENS = ("\n", ",", ";", ":", "\t", '"', "#", "+", "-", "*", "(", ")", "[", "]", "X0", "Z999999999999", "Y1", "IX", "1e400")


def mutated(kind: str, seeds: list[bytes], generator: random.Random) -> bytes:
    """A file made from one or two of the seeds."""
    # The first seeds are valid, and what is changed once in them comes farther than the whole pool, of which most is refused.
    data = generator.choice(seeds[:4] if generator.random() < 0.5 else seeds)
    structural = STRUCTURAL.get(kind)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 6))):
        if structural is not None and generator.random() < (0.9 if kind == "json" else 0.6):
            try:
                data = structural(data, generator)
                continue
            except Exception:  # the file is broken already
                pass
        data = of_bytes(data, generator, seeds)
    return data[:MOST]


def of_bytes(data: bytes, generator: random.Random, seeds: list[bytes]) -> bytes:
    """Flipped, cut, doubled, spliced or overwritten bytes."""
    where = generator.randrange(len(data) + 1)
    length = min(generator.choice((1, 2, 4, 8, 16, 64, 512)), len(data) - where)
    change = generator.randrange(9)
    if change == 0 and where < len(data):
        return data[:where] + bytes([data[where] ^ (1 << generator.randrange(8))]) + data[where + 1 :]
    if change == 1:
        return data[:where]
    if change == 2:
        return data[:where] + data[where + length :]
    if change == 3:
        return data[:where] + data[where : where + length] * generator.choice((2, 3, 50)) + data[where + length :]
    if change == 4:
        other = generator.choice(seeds)
        return data[:where] + other[generator.randrange(len(other) + 1) :]
    if change == 5:
        return data[:where] + generator.randbytes(length) + data[where + length :]
    if change == 6:
        size, order = generator.choice((1, 2, 4, 8)), generator.choice(("little", "big"))
        number = (generator.choice(NUMBERS) % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
        return data[:where] + number + data[where + size :]
    if change == 7:
        return data[:where] + generator.choice((b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r")) + data[where:]
    return data[:where] + generator.choice(TEXTS).encode(errors="surrogatepass") + data[where:]


def of_tokens(tokens: tuple[str, ...]) -> Callable[[bytes, random.Random], bytes]:
    """Words of the format put in, and lines moved."""

    def mutate(data: bytes, generator: random.Random) -> bytes:
        if generator.random() < 0.3:
            lines = data.split(b"\n")
            generator.shuffle(lines)
            return b"\n".join(lines)
        where = generator.randrange(len(data) + 1)
        token = generator.choice(tokens + TEXTS).encode(errors="replace")
        return data[:where] + token * generator.choice((1, 1, 1, 2, 3, 200)) + data[where:]

    return mutate


def of_json(data: bytes, generator: random.Random) -> bytes:
    """A value of the tree replaced, taken out, or put inside itself; or what JSON can say and a tree cannot."""
    text = json.dumps(of_tree(json.loads(data), generator))
    change = generator.randrange(20)
    if change == 0:  # names that stand twice
        place = text.find("{", generator.randrange(len(text)))
        return (
            text[: place + 1] + f'"{generator.choice(TEXTS[8:])}": 1, "type": "rnn", "type": [], ' + text[place + 1 :]
        ).encode()
    if change == 1:
        return text.encode(generator.choice(("utf-16", "utf-32", "utf-8-sig")))
    if change == 2:
        return text.replace(
            " 1", generator.choice((" 1e999", " -0", " 1E-9999", " " + "1" * 5000, " 0x1", " 01", " NaN")), 1
        ).encode()
    return text.encode()


def of_tree(tree: Any, generator: random.Random) -> Any:
    """Another tree."""
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        places += [(value, key) for key in keys]
        waiting += [value[key] for key in keys]
    if not places:
        return value_of(generator)
    holder, key = generator.choice(places)
    change = generator.randrange(12)
    if change >= 8 and (near := near_value(holder[key], generator)) is not None:
        holder[key] = near
    elif change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[generator.choice(TEXTS)] = holder.pop(key)
    elif change == 2:
        deep: Any = holder[key]
        for _ in range(generator.choice((1, 70, 500))):
            deep = [deep] if generator.random() < 0.5 else {"a": deep}
        holder[key] = deep
    elif change == 3:
        other, name = generator.choice(places)
        holder[key] = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else other[0] if other else None))
    else:
        holder[key] = value_of(generator)
    return tree


def near_value(value: Any, generator: random.Random) -> Any:
    """Another value of the same type, which may well be allowed there; None for others than numbers, text, true and false."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return generator.choice((value + 1, value - 1, 2 * value, 0, 1, 2, 3, 4, 16, 1000, 10**6, 2**31, 2**62))
    if isinstance(value, float):
        return generator.choice((-value, 0.0, 1e-30, 1e-3, 0.5, 1.0, 1e3, 1e30, 1e300, value * (1 + 1e-9)))
    return generator.choice(WORDS) if isinstance(value, str) else None


def value_of(generator: random.Random) -> Any:
    """Something that the place was not made for."""
    numbers = (*NUMBERS, -1, -(2**63), 10**30, 10**4000, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"))
    plain = (None, True, False, [], {}, [[]], [1, 2, 3], {"type": "rnn"}, {"type": "rydberg", "Lx": 2, "Ly": 2}, [None] * 1000)
    return generator.choice((generator.choice(numbers), generator.choice(TEXTS), generator.choice(plain)))


def of_safetensors(data: bytes, generator: random.Random) -> bytes:
    """The header edited as JSON, with or without its right length."""
    length = int.from_bytes(data[:8], "little")
    header = of_tree(json.loads(data[8 : 8 + length]), generator)
    if generator.random() < 0.3:
        name = generator.choice(list(header))
        header[name] = {
            "dtype": generator.choice(("F64", "F32", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "X")),
            "shape": [generator.choice(NUMBERS) for _ in range(generator.randrange(4))],
            "data_offsets": [0, generator.choice((0, 4, 8, 2**63))],
        }
    text = json.dumps(header).encode()
    size = len(text) if generator.random() < 0.8 else generator.choice(NUMBERS)
    return struct.pack("<Q", size % 2**64) + text + data[8 + length :]


def of_npy(data: bytes, generator: random.Random) -> bytes:
    """Another shape, type or version in the header."""
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    shape = tuple(generator.choice(NUMBERS) for _ in range(generator.randrange(5)))
    kind = generator.choice(("<f8", "|u1", "|O", "<U9", "|V0", "<c16", "<M8[s]", "|S0"))
    text = generator.choice(
        (
            f"{{'descr': '{kind}', 'fortran_order': {generator.choice((True, False))}, 'shape': {shape!r}, }}",
            "(" * generator.choice((3, 9000)) + header,
            header.replace("(", "[").replace(")", "]"),
            header.replace("False", "__import__('os').system('id')"),
        )
    )
    encoded = text.encode("latin1")
    version = generator.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    size = len(encoded).to_bytes(2 if version[:1] == b"\x01" else 4, "little")
    return b"\x93NUMPY" + version + size + encoded + body


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


STRUCTURAL: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": of_json,
    "text": of_tokens(TEXT_TOKENS),
    "yaml": of_tokens(YAML_TOKENS),
    "safetensors": of_safetensors,
    "npy": of_npy,
    "zip": of_zip,
    "hdf5": of_hdf5,
}
