"""Data that lie in a file: read into memory once, and known again by their hash."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from qsr.hparams import ConfigError, Hparam
from qsr.training.data import DataHparams, PyTorchData

logger = logging.getLogger(__name__)

TFileHparams = TypeVar("TFileHparams", bound="FileHparams")


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

    @classmethod
    def missing(cls) -> ConfigError:
        """What is raised where a file is needed and none is named."""
        return ConfigError(f"data.file: missing; name {cls.wanted}, or pass the data")


class FileData(PyTorchData[TFileHparams]):
    """Base class of data modules that read a file.

    Attributes:
        fixed: settings that must not change when a run goes on.
    """

    fixed: ClassVar[tuple[str, ...]] = ("seed", "split", "sha256")
    named_by_module = False

    def __init__(self, hparams: TFileHparams | Mapping[str, Any]) -> None:
        super().__init__(hparams)
        loader = self.thparams.loader
        if loader is not None and (loader.num_workers or loader.pin_memory):
            logger.info("data.loader: num_workers and pin_memory are not needed: the data are in memory")

    def like(self, stored: Any) -> None:
        """Whether these are data that a run with other settings understands in the same way.

        Raises:
            ConfigError: naming what differs.
        """

    def read_bytes(self, file: str) -> bytes:
        """What is in a file.

        Raises:
            ConfigError: if it is not there, or cannot be read.
        """
        path = Path(file)
        if self.thparams.sha256 is not None and not path.exists() and not path.is_absolute():
            raise ConfigError(f"{file}: not here; the run names its data as they were called where the run was started")
        if not path.is_file():
            raise ConfigError(f"{file}: {'a directory, expected a file' if path.is_dir() else 'no such file'}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None

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
