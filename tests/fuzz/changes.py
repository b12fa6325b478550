"""Other bytes, words, values and headers in the place of those of a valid file."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

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
