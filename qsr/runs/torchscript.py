"""Reading the tensors of a TorchScript archive as data: nothing in it is executed, and torch.jit is not needed.

An archive is a zip with one pickle (`data.pkl`, the tree of modules), one file of raw numbers per storage (`data/0`,
`data/1`, ...) and the modules' source text (`code/`). The pickle is read by an unpickler that knows descriptions of tensors
and plain containers only; it meets no live tensor, since a pickle can call methods of the objects it made. Of the source
text, two lines per class are looked up, as text: the names of its parameters and buffers, which tell them apart from other
tensors that a module happens to hold (masks, index tables).
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hparams.bounded import check_inflated, parsing, read_bounded, reason

DEPTH = 64  # modules inside modules; a malicious pickle can contain itself

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# Wrappers that torch writes around lists, typed containers and devices: their first argument is the value.
_WRAPPERS = {
    ("torch.jit._pickle", "build_intlist"),
    ("torch.jit._pickle", "build_doublelist"),
    ("torch.jit._pickle", "build_boollist"),
    ("torch.jit._pickle", "build_tensorlist"),
    ("torch.jit._pickle", "restore_type_tag"),
    ("torch", "device"),
}
# What the pickle machine raises on bytes that are not a pickle of the expected form.
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    RuntimeError,
    MemoryError,
)


def read_archive(path: str | Path) -> dict[str, Tensor]:
    """Parameters and buffers of a module saved by `torch.jit.save` (or by `.save` of a scripted module).

    Returns:
        Tensors on the CPU by the names of the module's state dict (`lin.0.weight`); none share memory.

    Raises:
        ConfigError: for a file that is missing, damaged or not a TorchScript archive, and for a pickle that asks for
            anything but tensors, plain containers and the archive's own modules.
    """
    complaint = "not a readable TorchScript archive"
    try:
        raw = read_bounded(path)
    except OSError as error:
        raise ConfigError(f"{path}: {complaint} ({reason(error)})") from None
    with parsing(path, complaint), zipfile.ZipFile(io.BytesIO(raw)) as archive:
        try:
            return _Archive(archive, len(raw)).tensors()
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


class _Module:
    """A module of the archive: attributes only. Every class in it becomes a subclass without behaviour."""

    declared: frozenset[str] | None = None  # names of parameters and buffers; None: the archive does not say


class _Storage(NamedTuple):
    """`length` numbers in the file `data/{key}`."""

    dtype: torch.dtype
    key: str
    length: int


class _StridedView(NamedTuple):
    """A tensor as the pickle describes it, not yet checked: elements of a storage at offset + sum_k i_k*stride_k."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Archive:
    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        self.left = 16 * size  # bytes of tensors: modules may share storages, but not without bound
        self.names = set(archive.namelist())
        roots = [name.removesuffix("data.pkl") for name in self.names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            raise ConfigError("not a TorchScript archive (expected one NAME/data.pkl inside)")
        self.root = roots[0]
        if f"{self.root}byteorder" in self.names and self.read("byteorder") != b"little":
            raise ConfigError("its numbers are not little-endian")

    def read(self, name: str) -> bytes:
        """Content of a file of the archive; its checksum is verified."""
        if self.root + name not in self.names:
            raise ConfigError(f"incomplete: it has no {name}")
        entry = self.archive.getinfo(self.root + name)
        if not name.startswith("code/") and entry.compress_type != zipfile.ZIP_STORED:
            raise ConfigError(f"{name} is compressed, which torch does not do")  # and it could inflate without bound
        check_inflated(entry.file_size, entry.compress_size, name)
        return self.archive.read(entry)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        try:
            module = _TensorUnpickler(self).load()
            if not isinstance(module, _Module):
                raise ConfigError(f"holds a {type(module).__name__}, expected a scripted module")
            return {name: self.tensor(view) for name, view in _views(module, "", 0)}
        except ConfigError:
            raise
        except _DAMAGE as error:
            raise ConfigError(f"data.pkl is damaged ({reason(error)})") from None

    def tensor(self, view: _StridedView) -> Tensor:
        """The described tensor, if it lies within its storage and its storage is whole."""
        storage, offset, size, stride = view
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ConfigError(f"a tensor of impossible shape: offset {offset!r}, size {size!r}, stride {stride!r}")
        raw = self.read(f"data/{storage.key}")
        if len(raw) != storage.length * storage.dtype.itemsize:
            raise ConfigError(f"data/{storage.key} has {len(raw)} bytes, expected {storage.length} of {storage.dtype}")
        elements = math.prod(size)
        if elements == 0:
            return torch.empty(size, dtype=storage.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= storage.length or elements > storage.length:
            raise ConfigError(f"a tensor beyond its {storage.length} numbers: offset {offset}, size {size}, stride {stride}")
        self.left -= elements * storage.dtype.itemsize
        if self.left < 0:
            raise ConfigError("its tensors together are far larger than the file")
        flat = torch.frombuffer(bytearray(raw), dtype=storage.dtype)
        return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)

    def declared(self, module: str, name: str) -> frozenset[str] | None:
        """Names of the parameters and buffers of a class, from its source text."""
        file = f"code/{module.replace('.', '/')}.py"
        if self.root + file not in self.names:
            return None
        header = rf"^class {re.escape(name)}\(Module\):\n  __parameters__ = \[(.*?)\]\n  __buffers__ = \[(.*?)\]"
        found = re.search(header, self.read(file).decode(errors="replace"), re.MULTILINE)
        return frozenset(re.findall(r'"([^"]*)"', " ".join(found.groups()))) if found else None


class _TensorUnpickler(pickle.Unpickler):
    """A pickle machine whose only functions are those below."""

    def __init__(self, archive: _Archive) -> None:
        super().__init__(io.BytesIO(archive.read("data.pkl")), fix_imports=False)
        self.archive = archive
        self.classes: dict[tuple[str, str], type[_Module]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name that the pickle asks for; called by the machine, never importing anything."""
        if module == "__torch__" or module.startswith("__torch__."):
            if (module, name) not in self.classes:
                self.classes[module, name] = type("Module", (_Module,), {"declared": self.archive.declared(module, name)})
            return self.classes[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) in _WRAPPERS:
            return _Unwrap()
        raise ConfigError(f"its pickle asks for {f'{module}.{name}'!r}; only tensors and plain containers are read")

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage from ('storage', type, file name, device, number of elements)."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not re.fullmatch(r"\d+", key):
            raise ConfigError(f"its pickle refers to something that is not a storage: {pid!r:.80}")
        return _Storage(dtype, key, count)


class _RebuildTensor:
    """Stands for torch's function of that name. Like the next one it is an object without a dictionary, so that a
    pickle can call it but not change it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _StridedView:
        return _StridedView(storage, offset, size, stride)


class _Unwrap:
    """Stands for the wrappers above."""

    __slots__ = ()

    def __call__(self, value: Any, *_: Any) -> Any:
        return value


def _views(module: _Module, prefix: str, depth: int) -> Iterator[tuple[str, _StridedView]]:
    if depth > DEPTH:
        raise ConfigError(f"modules nested more than {DEPTH} deep")
    attributes = vars(module)
    for name, value in attributes.items():
        if isinstance(value, _StridedView) and (module.declared is None or name in module.declared):
            yield prefix + name, value
    for name, value in attributes.items():
        if isinstance(value, _Module):
            yield from _views(value, f"{prefix}{name}.", depth + 1)
