"""Data sets in memory, whose rows are taken many at a time: no worker and no pinned memory would make it faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Batch = dict[str, Tensor]
TDictRows = TypeVar("TDictRows", bound="DictRows")


class Rows(Dataset[Any]):
    """A data set with batches of its own making."""

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} does not define __len__")

    def rows(self, indices: Tensor) -> Any:
        """The batch of these rows."""
        raise TypeError(f"{type(self).__name__} does not define rows")

    def drawn(self, generator: torch.Generator) -> Rows:
        """The rows of one epoch: what is random about them is drawn, for all of them. Itself, where nothing is random."""
        return self


class TensorRows(Rows):
    """Tensors of equal length; batches are tuples."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

    def rows(self, indices: Tensor) -> tuple[Tensor, ...]:
        return tuple(column[indices] for column in self.columns)


class DictRows(Rows):
    """Tensors of equal length with names; batches are dictionaries."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Batch:
        return {name: column[0] for name, column in self.rows(torch.tensor([index])).items()}

    def rows(self, indices: Tensor) -> Batch:
        return {name: column[indices] for name, column in self.columns.items()}

    def part(self: TDictRows, indices: Tensor) -> TDictRows:
        """These rows alone, with the same transform."""
        found = copy.copy(self)
        found.columns = {name: column[indices] for name, column in self.columns.items()}
        return found


class RandomRows(DictRows):
    """Named tensors that go through a random transform, another one in every epoch.

    The numbers that a row gets in an epoch depend on the generator and the row alone, not on the batch that it is in.

    Args:
        uniforms: how many random numbers a row takes.
    """

    def __init__(self, columns: Mapping[str, Tensor], uniforms: int) -> None:
        super().__init__(columns)
        self.uniforms = uniforms

    def made(self, batch: Batch, uniforms: Tensor) -> Batch:
        """The transform of a batch of B rows, from numbers (B, `uniforms`) in [0, 1)."""
        raise TypeError(f"{type(self).__name__} does not define made")

    def rows(self, indices: Tensor) -> Batch:
        return self.made(super().rows(indices), torch.rand(len(indices), self.uniforms))

    def drawn(self, generator: torch.Generator) -> Rows:
        return _DrawnRows(self, torch.rand(len(self), self.uniforms, generator=generator))


class _DrawnRows(Rows):
    def __init__(self, source: RandomRows, uniforms: Tensor) -> None:
        self.source, self.uniforms = source, uniforms

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, indices: Tensor) -> Batch:
        return self.source.made(DictRows.rows(self.source, indices), self.uniforms[indices])


def class_numbers(labels: Sequence[Any] | NDArray[Any], classes: Sequence[Any]) -> Tensor:
    """(S,) int64 number of each label among the classes, -1 for one that is none of them."""
    numbers = {name: number for number, name in enumerate(classes)}
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    return torch.tensor([numbers.get(value, -1) for value in values], dtype=torch.long)


def grouped(order: NDArray[np.int64], values: NDArray[np.generic] | None) -> list[NDArray[np.int64]]:
    """Row numbers in an order, those of each value (S,) apart; in one group without values."""
    return [order] if values is None else [order[values[order] == value] for value in np.unique(values)]


def split_rows(groups: Sequence[NDArray[np.int64]], shares: Sequence[float]) -> list[list[NDArray[np.int64]]]:
    """Row numbers of training, validation and test data, as parts of each group.

    Of a group of S rows the last ceil(share * S) are test data, then come the validation data.

    Args:
        shares: of the three, which add up to 1.
    """
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    for group in groups:
        test = int(np.ceil(shares[2] * len(group) - 1e-9))
        # Of what the test data leave.
        share = shares[1] / (1 - shares[2])
        held = min(int(np.ceil(share * (len(group) - test) - 1e-9)), len(group) - test)
        for part, rows in zip(parts, np.split(group, [len(group) - test - held, len(group) - test]), strict=True):
            part.append(rows)
    return parts
