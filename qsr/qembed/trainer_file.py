"""The one file that a `QuantumTrainer` writes: tensors and plain containers, nothing that is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from qsr.hparams import ConfigError
from qsr.runs.files import replacing
from qsr.runs.tensors import read_tensors, write_tensors

FORMAT_VERSION = 1
ENDINGS = (".pth", ".pt")


def write_trainer_file(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state`, making the folders that are missing; a reader sees the old file or the new one.

    Raises:
        ConfigError: for another ending than .pth or .pt, and a file that cannot be written.
    """
    target = Path(path)
    if target.suffix not in ENDINGS:
        raise ConfigError(f"{target}: must end in {' or '.join(ENDINGS)}; run directories are what qsr train writes")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            write_tensors(temporary, {"format_version": FORMAT_VERSION, **state})
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror or error})") from None


def read_trainer_file(path: str | Path) -> dict[str, Any]:
    """What `write_trainer_file` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: for a file that is damaged, of another kind, or of a newer version.
    """
    target = Path(path)
    if not target.exists():
        raise FileNotFoundError(f"{target}: there is no such file")
    state = read_tensors(target)
    version = state.get("format_version") if isinstance(state, dict) else None
    if version is None:
        raise ConfigError(f"{target}: no file of save_model (it has no format_version)")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ConfigError(f"{target}: format_version={version}: this qsr reads up to {FORMAT_VERSION}")
    return state


def load_weights(model: nn.Module, weights: Mapping[str, Any], strict: bool, where: str) -> None:
    """Put weights into a model; with strict=False those that it has, in the shapes that it has.

    Raises:
        ConfigError: for names or shapes that differ, which are named.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    other = [name for name in weights if name in own and own[name].shape != weights[name].shape]
    if strict and (missing or unknown or other):
        parts = [("missing", missing), ("unknown", unknown), ("of another shape", other)]
        found = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
        raise ConfigError(f"{where}: weights of another model ({found})")
    model.load_state_dict({name: value for name, value in weights.items() if name in own and name not in other}, strict=False)
