"""What a reader of files is for the fuzzer, and how it may end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from qsr.hparams import ConfigError
from qsr.snapshots import Snapshots

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        file: what the file is called; for a file of a run directory its path in it (or what says it, once the run is there).
        kind: how such files are mutated: json, text, yaml, hdf5, zip, npy, safetensors or bytes.
        read: what is called with the path.
        seeds: valid files.
        around: other files that must lie there, by their paths in the same directory.
        heavy: builds a network, and takes milliseconds.
    """

    file: str | Callable[[], str]
    kind: str
    read: Callable[[Path], Any]
    seeds: Callable[[], list[bytes]]
    around: Callable[[], Mapping[str, bytes]] = dict
    heavy: bool = False

    def lay_out(self, directory: Path) -> Path:
        """Make the directory that the file is to lie in; returns the path of the file, which is not there yet."""
        for name, content in self.around().items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)
        file = directory / (self.file if isinstance(self.file, str) else self.file())
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        return file


def outcome(reader: Reader, file: Path) -> str:
    """`read` or `refused`; whatever else the reader raises is a finding, and goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.read(file)
        except ConfigError as error:
            said = str(error)
            said.encode()
            # The name of the file is the reader's own; beyond it, one line that fits a terminal.
            assert "\n" not in said and len(said) < 4000, f"not one line: {said[:300]!r}"
            return "refused"
    return "read"


def snapshots_of(sites: int = 4, count: int = 6) -> Snapshots:
    configs = np.random.default_rng(0).integers(0, 2, (count, sites)).astype(np.uint8)
    positions = np.stack(np.divmod(np.arange(sites), 2), axis=1).astype(float)
    columns = {"labels": np.arange(count) % 2, "log_prob": -np.ones(count)}
    about = {"Lx": 2, "Ly": 2, "boundary": "open", "hamiltonian": {"type": "rydberg", "V": 7.0}, "e10": 0.1}
    return Snapshots(configs, positions, columns, {"delta": np.linspace(0, 1, count)}, about)


def written(write: Callable[[Path], Any], name: str) -> bytes:
    with TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()
