"""Files of weights: safetensors, which hold tensors and text, and cannot hold code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hparams.bounded import check_regular, parsing, read_bounded
from qsr.runs.files import reason, write_atomically


def save_weights(file: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, with text beside the tensors; a reader sees the old one or the new one."""
    write_atomically(file, weights_bytes(weights, metadata))


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    with _reading(file):
        return safetensors.torch.load(read_bounded(file))


def read_metadata(file: Path) -> dict[str, str]:
    """The text beside the tensors of a safetensors file.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    with _reading(file):
        check_regular(file)
        with safetensors.safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}


def weights_bytes(weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """What a safetensors file holds."""
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
    return safetensors.torch.save(copies, metadata=None if metadata is None else dict(metadata))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        with parsing(file, "damaged"):
            yield
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({reason(error)})") from None
