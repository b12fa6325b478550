"""Files of `torch.save` that hold tensors and plain containers: when read nothing is executed, and sizes are checked first."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from qsr.hparams import ConfigError
from qsr.hparams.bounded import parsing, read_bounded, reason
from qsr.runs.torchscript import STORAGES

# All that torch.save writes for tensors, dtypes and plain containers. torch's own list for weights_only is longer: it has
# bytearray, which takes as much memory as a file asks for.
_NAMES = re.compile(
    r"collections (OrderedDict|Counter)|torch\._utils _rebuild_(tensor_v2|parameter)|torch\.serialization _get_layout"
    r"|torch (\w+Storage|Size|device|(b?float|complex|u?int)\d+|bool)"
)
_MOST_OPCODES = 10_000_000


def write_tensors(file: Path, tree: Any) -> None:
    """Write tensors and plain containers of them.

    They are packed in memory: on a full disk torch's own writer raises an error without the name of the file.

    Raises:
        OSError: if the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    file.write_bytes(buffer.getbuffer())


def read_tensors(file: Path) -> Any:
    """What `torch.save` wrote, on the CPU.

    Raises:
        ConfigError: for a file that is missing, damaged (checksums are verified), or asks for anything but tensors, plain
            containers, numbers and text.
    """
    try:
        raw = read_bounded(file)
    except OSError as error:
        raise ConfigError(f"{file}: damaged ({reason(error)})") from None
    with parsing(file, "damaged"):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ConfigError(f"{file}: damaged (compressed, which torch does not do)")
            if sum(entry.file_size for entry in entries) > len(raw):
                raise ConfigError(f"{file}: damaged (claims more than its {len(raw)} bytes)")
            if damaged := archive.testzip():  # checksums, which torch does not look at
                raise ConfigError(f"{file}: damaged ({damaged!r} has changed)")
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    program = archive.read(entry)
                    _check_names(program, file)
                    _Rehearsal(program, archive, entry.filename).load()
        return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def _check_names(program: bytes, file: Path) -> None:
    """Whether a pickle names nothing but tensors."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        named = argument if opcode.name in ("GLOBAL", "INST") else None
        if (named is not None and not _NAMES.fullmatch(str(named))) or opcode.name == "STACK_GLOBAL":
            raise ConfigError(
                f"{file}: damaged, or not ours: it asks for {str(named)!r:.80}, and only tensors and containers are read"
            )
        if number > _MOST_OPCODES:
            raise ConfigError(f"{file}: damaged, or not ours: its pickle has more than {_MOST_OPCODES} parts")


class _Rehearsal(pickle.Unpickler):
    """Goes through a pickle as torch will, with stand-ins for its functions.

    Until 2.10 torch looked neither whether storages are as long as they say, nor what items are set on, and a file could have it
    write where it should not (GHSA-63cw-57p8-fm3p).
    """

    def __init__(self, program: bytes, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(program), fix_imports=False)
        self.archive, self.root = archive, name.rpartition("/")[0]

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in; which names there are `_check_names` has seen to."""
        if name in STORAGES:
            return STORAGES[name]
        return {"OrderedDict": _Mapping, "Counter": _Mapping, "Size": tuple}.get(name, _Inert)

    def persistent_load(self, pid: Any) -> Any:
        """A storage from ('storage', type, file name, device, number of elements).

        Raises:
            ValueError: if its file has another length.
        """
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int:
            raise ValueError(f"{pid!r:.80} is no storage")
        size = self.archive.getinfo(f"{self.root}/data/{key}").file_size
        if count * dtype.itemsize != size:
            raise ValueError(f"data/{key} has {size} bytes, and claims {count} of {dtype}")
        return _Inert()


class _Mapping(dict[Any, Any]):
    """As those of torch.save, which may have attributes."""


class _Inert:
    """What a function of torch returns, or a constant: nothing can be set in it."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None: ...
