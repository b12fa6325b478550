"""Graphs that were prepared once: chunks of tensors on disk, with a record of what they were made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import MOST_TEXT, check_regular, parse_json, parsing, read_bounded

SCHEMA = "qsr-graphs/1"
META_FILE = "meta.json"
PROCESSED = "processed"
_PLAIN = (bool, int, float, str)


def folder_of(output: str | Path, fingerprint: Mapping[str, Any]) -> Path:
    """Where graphs with this fingerprint are kept: others have folders of their own beside it, old ones, too."""
    whole = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    return Path(output) / PROCESSED / whole[:16]


def write_chunk(path: Path, graphs: Sequence[Any], index: Sequence[int]) -> None:
    """Write graphs (torch_geometric's `Data`) and the numbers of their samples to a safetensors file.

    Raises:
        ConfigError: for graphs that hold anything but tensors, numbers and text.
    """
    tensors = {"index": torch.tensor(index, dtype=torch.int64)}
    described = []
    for number, graph in enumerate(graphs):
        plain: dict[str, Any] = {}
        names = []
        for name, value in graph.to_dict().items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}/{name}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            elif isinstance(value, _PLAIN):
                plain[name] = value
            else:
                raise ConfigError(
                    f"data.pre_transform: sample {index[number]} has '{name}' of type {type(value).__name__}; graphs that are "
                    "kept may hold tensors, numbers and text"
                )
            names.append(name)
        described.append({"names": names, "plain": plain})
    save_file(tensors, path, {"graphs": json.dumps(described)})


class Chunks:
    """The graphs of a cache, read one by one.

    Args:
        fingerprint: what they are made of; it is compared with what the folder says in every process that reads them.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.files = sorted(folder.glob("chunk-*.safetensors"))
        self._opened: dict[int, tuple[Any, list[dict[str, Any]]]] = {}
        numbers = [self._numbers(chunk) for chunk in range(len(self.files))]
        self.index = np.concatenate([np.empty(0, dtype=np.int64), *numbers])  # numbers of the samples
        self.ends = np.cumsum([len(part) for part in numbers], dtype=np.int64)

    def __getitem__(self, number: int) -> Any:
        from torch_geometric.data import Data

        chunk = int(np.searchsorted(self.ends, number, side="right"))
        inside = number - (int(self.ends[chunk - 1]) if chunk else 0)
        file, described = self._chunk(chunk)
        with parsing(self.files[chunk], "damaged"):
            graph = described[inside]
            values = {
                name: graph["plain"][name] if name in graph["plain"] else file.get_tensor(f"{inside}/{name}")
                for name in graph["names"]
            }
            return Data.from_dict(values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def _chunk(self, number: int) -> tuple[Any, list[dict[str, Any]]]:
        if not self._opened and not is_current(self.folder, self.fingerprint):
            raise ConfigError(f"data.output: {self.folder} holds other graphs than when the data set was made; make it anew")
        if number not in self._opened:
            path = self.files[number]
            with parsing(path, "damaged"):
                check_regular(path)
                file = safe_open(path, framework="pt")
                self._opened[number] = file, list(parse_json(file.metadata()["graphs"]))
        return self._opened[number]

    def _numbers(self, chunk: int) -> NDArray[np.int64]:
        """The numbers of the samples in a chunk."""
        file, described = self._chunk(chunk)
        with parsing(self.files[chunk], "damaged"):
            found: NDArray[Any] = file.get_tensor("index").numpy()
            if found.dtype != np.int64 or found.shape != (len(described),):
                raise ValueError(f"{len(described)} graphs, and an index {found.dtype} {found.shape}")
        return found


def is_current(folder: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Whether a cache is there, whole, and made of the same things."""
    try:
        meta = parse_json(read_bounded(folder / META_FILE, MOST_TEXT))
    except (OSError, ValueError):
        return False
    chunks = len(list(folder.glob("chunk-*.safetensors")))
    return bool(meta == {"complete": True, "chunks": chunks, **fingerprint})


def write_meta(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Record that a cache is whole, and what it was made of."""
    meta = {"complete": True, "chunks": len(list(folder.glob("chunk-*.safetensors"))), **fingerprint}
    (folder / META_FILE).write_text(json.dumps(meta, indent=1), encoding="utf-8")
