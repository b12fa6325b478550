"""The files of a zarr store that a stranger made, looked at before zarr opens them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import MOST_INFLATED, MOST_TEXT, check_inflated, parse_json, read_bounded

_FREE_CHUNKS = 10_000
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")
# What zarr's and numcodecs' codecs for numbers and text are called. Others may run code: numcodecs has one that is pickle.
_CODECS = frozenset(
    (
        *("bytes", "transpose", "crc32c", "gzip", "zstd", "blosc", "sharding_indexed", "vlen-utf8", "vlen-bytes", "zlib"),
        *(
            "lzma",
            "bz2",
            "shuffle",
            "delta",
            "fixedscaleoffset",
            "quantize",
            "bitround",
            "astype",
            "packbits",
            "crc32",
            "adler32",
        ),
    )
)


def check_zarr(root: Path) -> None:
    """Whether a store has nothing but files of its own, arrays of about its size, and codecs that only compress.

    Raises:
        ConfigError: naming the file and what is wrong with it.
        OSError, ValueError: for metadata that cannot be read, or are not JSON.
    """
    size, files, metadata = 0, 0, []
    folders = [str(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    raise ConfigError(f"{entry.path}: is a link, a pipe or a device, expected files of the store itself")
                else:
                    size, files = size + entry.stat(follow_symlinks=False).st_size, files + 1
                    if entry.name in _METADATA:
                        metadata.append(entry.path)
    for path in metadata:
        for node in _nodes(parse_json(read_bounded(path, MOST_TEXT))):
            _check_codecs(node, path)
            if isinstance(node.get("shape"), list):
                _check_array(node, size, files, path)


def _check_array(node: dict[str, Any], size: int, files: int, path: str) -> None:
    """Whether an array and its chunks can be in a store of so many bytes and files; a chunk that is not there costs time, too."""
    shape = [int(length) for length in node["shape"]]
    check_inflated(math.prod(shape), size, path)
    for inner in _nodes(node):
        chunk = inner.get("chunks", inner.get("chunk_shape"))
        if not isinstance(chunk, list) or len(chunk) != len(shape):
            continue
        check_inflated(math.prod(map(int, chunk)), size, path)
        count = math.prod(-(-length // int(part)) for length, part in zip(shape, chunk, strict=True))
        if count > max(_FREE_CHUNKS, MOST_INFLATED * files, size // 16):
            raise ConfigError(f"{path}: claims {count} chunks, in a store of {files} files")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All mappings, but for what users have written into attributes."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += [inner for name, inner in value.items() if name != "attributes"]
        elif isinstance(value, list):
            waiting += value


def _check_codecs(node: dict[str, Any], path: str) -> None:
    named = [node.get("compressor")]
    for place in ("filters", "codecs", "index_codecs"):
        found = node.get(place)
        named += found if isinstance(found, list) else [found]
    for codec in named:
        name = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
        plain = name.removeprefix("numcodecs.") if isinstance(name, str) else name
        if plain is not None and plain not in _CODECS:
            raise ConfigError(f"{path}: has the codec {name!r:.60}, which is not among those for numbers and text")
