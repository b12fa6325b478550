"""Data that lie in a file: read into memory once, and known again by their hash."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from qsr.hparams import ConfigError, Hparam
from qsr.hparams.bounded import read_bounded, reason
from qsr.training.data import DataHparams, PyTorchData

logger = logging.getLogger(__name__)

TFileHparams = TypeVar("TFileHparams", bound="FileHparams")


def read_bytes(file: str | Path) -> bytes:
    """What is in a file.

    Raises:
        ConfigError: if it is not there, or cannot be read.
    """
    try:
        return read_bounded(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{file}: a directory, expected a file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({reason(error)})") from None


class FileHparams(DataHparams):
    """A file, and how its rows are split; the training data are shuffled unless the settings say otherwise."""

    wanted: ClassVar[str] = "a file"  # what errors ask for

    file: str | None = Hparam(None, help="where the data are; None: data in memory")
    sha256: str | None = Hparam(None, help="of the data; filled in")

    def __init__(self, **values: Any) -> None:
        values.setdefault("loader", None)
        if not isinstance(values["loader"], Mapping) or "shuffle" not in values["loader"]:
            values.setdefault("shuffle", True)
        super().__init__(**values)

    @classmethod
    def label(cls, name: str) -> str:
        return f"data.{name}"

    def check_file(self) -> None:
        """Whether a file is named.

        Raises:
            ConfigError: if not; says what to do.
        """
        if self.file is None and self.sha256 is not None:
            raise ConfigError("data.file: this run has seen data in memory; from Python: qsr.resume(run, data=...)")
        if self.file is None:
            raise ConfigError(f"data.file: missing; name {self.wanted}, or pass the data")


class FileData(PyTorchData[TFileHparams]):
    """Base class of data modules that read a file.

    Attributes:
        fixed: settings that must not change when a run goes on.
    """

    fixed: ClassVar[tuple[str, ...]] = ("seed", "split", "sha256")
    named_by_module = False
    parts: Sequence[NDArray[np.int64]]  # row numbers of each part of the split, if `get_dataset` chooses them

    def __init__(self, hparams: TFileHparams | Mapping[str, Any]) -> None:
        super().__init__(hparams)
        loader = self.thparams.loader
        if loader is not None and (loader.num_workers or loader.pin_memory):
            logger.info("data.loader: num_workers and pin_memory are not needed: the data are in memory")

    def check_same(self, stored: Any) -> None:
        if not isinstance(stored, type(self.thparams)):
            return
        self.check_like(stored)
        for name in self.fixed:
            if self.thparams[name] != stored[name]:
                raise ConfigError(
                    f"data.{name}={self.thparams[name]}: the run has {stored[name]}, and goes on with the same data only"
                )

    def split_dataset(self, dataset: Any, fractions: Sequence[float], seed: int) -> list[Any]:  # type: ignore[override]
        """The parts that `get_dataset` has chosen, of a data set with `part`."""
        return [dataset.part(torch.from_numpy(rows)) for rows in self.parts]

    def read_bytes(self, file: str) -> bytes:
        """As the function of this name; says more of a file that a run has left behind."""
        if self.thparams.sha256 is not None and not Path(file).exists() and not Path(file).is_absolute():
            raise ConfigError(f"{file}: not here; the run names its data as they were called where the run was started")
        return read_bytes(file)

    def checked_hash(self, *parts: bytes) -> str:
        """The hash of the data.

        Raises:
            ConfigError: if the settings have another one.
        """
        found = hashlib.sha256(b"".join(parts)).hexdigest()
        if self.thparams.sha256 not in (None, found):
            where = self.thparams.file or "data"
            raise ConfigError(f"{where}: has changed since data.sha256={self.thparams.sha256} was taken, it is {found} now")
        return found
