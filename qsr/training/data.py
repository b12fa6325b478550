"""Data of a user's own: a subclass makes the data set, and splits and loaders are here."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import model_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, random_split

from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.hparams.imports import find_class
from qsr.training.schema import WithHparams

TDataHparams = TypeVar("TDataHparams", bound="DataHparams")


class TensorRows(Dataset[tuple[Tensor, ...]]):
    """Tensors of equal length, whose rows are taken many at a time: no worker and no pinned memory would make it faster."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

    def rows(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The rows of a batch."""
        return tuple(column[indices] for column in self.columns)


class DataLoaderHparams(Hparams):
    """How batches are made of a data set (torch.utils.data.DataLoader)."""

    section: ClassVar[str] = "data.loader"

    batch_size: int = Hparam(64, ge=1, help="samples per batch")
    shuffle: bool = Hparam(False, help="another order of the training data in every epoch")
    pin_memory: bool = Hparam(False, help="put batches into page-locked memory, for GPUs")
    num_workers: int = Hparam(0, ge=0, help="processes that load data; 0: this one")
    persistent_workers: bool = Hparam(False, help="keep these processes between epochs; needs num_workers")
    drop_last: bool = Hparam(False, help="leave out an incomplete last batch of the training data")


class DataHparams(Hparams):
    """Settings of a data set, its split and its loaders; a subclass adds its own."""

    section: ClassVar[str] = "data"
    shorthands: ClassVar[dict[str, str]] = {name: f"loader.{name}" for name in DataLoaderHparams.model_fields}

    module_name: str | None = Hparam(None, help="the class of the data in full, package.module.Class")
    loader: DataLoaderHparams | None = Hparam(None, help="batches; None: 64 samples in the order of the data")
    seed: int | None = Hparam(None, ge=0, help="of the split; None: drawn, and recorded (a table of a run has that of the run)")
    split: tuple[float, ...] = Hparam((0.8, 0.1, 0.1), help="shares of training, validation and (if there are three) test data")

    def __init__(self, **values: Any) -> None:
        inside = {name: values.pop(name) for name in list(values) if name in self.shorthands}
        if inside:
            loader = values.get("loader") or {}
            if not isinstance(loader, Mapping):
                raise ConfigError(f"data.loader={loader!r}: expected a mapping of settings")
            given = {name: loader[name] for name in loader} if not isinstance(loader, Hparams) else loader.model_dump()
            values["loader"] = {**given, **inside}
        super().__init__(**values)

    @model_validator(mode="after")
    def _drawn(self) -> Any:
        if self.seed is None:
            self.__dict__["seed"] = random.randrange(10001)
            self.__pydantic_fields_set__.add("seed")  # it must not be drawn again by whoever copies what is set
        return self

    def build(self) -> Any:
        """The data that `module_name` names.

        Raises:
            ConfigError: if there is no name, or it may not be imported (see `qsr.hparams.imports`).
        """
        if self.module_name is None:
            raise ConfigError(
                "data.module_name: missing; name a class of data (--data module_name=package.Class), or pass the data"
            )
        return find_class(self.module_name, PyTorchData, "data.module_name")(self)


class PyTorchData(WithHparams[TDataHparams]):
    """Base class of data modules: `class MyData(PyTorchData[MyDataHparams])` with `get_dataset`.

    Attributes:
        full, train, val, test: the data set and its parts; `test` is None for a split in two.

    Raises:
        TypeError: as `Model`.
        ConfigError: for shares that do not add up to one.
    """

    def __init__(self, hparams: TDataHparams | Mapping[str, Any]) -> None:
        self.take_hparams(hparams)
        self.pre_init()
        self.full = self.get_dataset()
        assert self.thparams.seed is not None  # drawn by then
        self.split = self.split_dataset(self.full, self.thparams.split, self.thparams.seed)
        self.train, self.val = self.split[0], self.split[1]
        self.test = self.split[2] if len(self.split) == 3 else None

    def pre_init(self) -> None:
        """Called before the data set is made: to download, to generate."""

    def get_dataset(self) -> Dataset[Any]:
        """The whole data set; it needs a length."""
        raise TypeError(f"{type(self).__name__} does not define get_dataset")

    @staticmethod
    def split_dataset(dataset: Dataset[Any], fractions: Sequence[float], seed: int) -> list[Subset[Any]]:
        """Random parts of a data set, by the seed alone.

        Raises:
            ConfigError: if the shares are not two or three positive numbers that add up to one, or a part would be empty.
        """
        if len(fractions) not in (2, 3) or any(not share > 0 for share in fractions):
            raise ConfigError(f"data.split={tuple(fractions)}: must be two or three shares greater than 0")
        if not math.isclose(sum(fractions), 1, rel_tol=0, abs_tol=1e-9):
            raise ConfigError(f"data.split={tuple(fractions)}: dataset_split must sum to 1, got {sum(fractions):g}")
        total = len(dataset)  # type: ignore[arg-type]
        sizes = [math.floor(share * total) for share in fractions]
        for index in range(total - sum(sizes)):
            sizes[index % len(sizes)] += 1
        if not all(sizes):
            found = ", ".join(map(str, sizes))
            raise ConfigError(f"data.split={tuple(fractions)}: leaves a part empty ({found} samples)")
        return random_split(dataset, sizes, generator=torch.Generator().manual_seed(seed))

    def check_like(self, stored: Any) -> None:
        """Whether the model of a run with these settings of data (or None) understands these.

        Raises:
            ConfigError: naming what differs, where that can be told.
        """

    def check_same(self, stored: Any) -> None:
        """Whether a run with these settings of data (or None) was trained on these, split in the same way.

        Raises:
            ConfigError: naming what differs, where that can be told.
        """

    def _loader(self, part: Dataset[Any] | None, training: bool) -> DataLoader[Any] | None:
        settings = self.thparams.loader
        if settings is None or part is None:
            return None
        rest = {**settings.model_dump(), "shuffle": settings.shuffle and training, "drop_last": settings.drop_last and training}
        return DataLoader(part, **rest)

    @property
    def train_loader(self) -> DataLoader[Any] | None:
        """Batches of the training data, shuffled if the settings say so; None without loader settings."""
        return self._loader(self.train, training=True)

    @property
    def val_loader(self) -> DataLoader[Any] | None:
        """Batches of the validation data, in order."""
        return self._loader(self.val, training=False)

    @property
    def test_loader(self) -> DataLoader[Any] | None:
        """Batches of the test data, in order; None for a split in two."""
        return self._loader(self.test, training=False)
