"""Training, validation and test data of graphs: how a data set is split, and the loaders of the parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, Subset

from qsr.graph.config import GraphConfig, GraphDataHparams, GraphLoaderHparams, check_sum
from qsr.hparams import ConfigError
from qsr.hparams.registry import resolve
from qsr.training.random import generator_for

PARTS = ("train", "validation", "test")
# Makes the data set (with a length, and graphs as items) of a GraphDataHparams.
_DATASET_FROM = "qsr.graph.data:dataset_from"


class Parts(NamedTuple):
    """Data sets of graphs."""

    train: Any
    validation: Any
    test: Any


def configured_parts(config: GraphConfig) -> Parts:
    """The data sets that a configuration describes: one in parts, or one for each purpose.

    Raises:
        ConfigError: if it describes none, and for data that cannot be split as it says.
    """
    seed = config.training.seed
    if config.data is None:
        own = [config.training.data, config.validation.data, config.testing.data]
        if any(data is None for data in own):
            raise ConfigError("data: missing; describe the data in the configuration, or pass a dataset")
        train, validation, test = (_dataset(data, seed) for data in own)
        return Parts(train, validation, test)
    found = split_dataset(_dataset(config.data, seed), config.data.split, seed, config.data.split_by)
    if config.testing.data is None:
        return Parts(*found)
    train, validation = found
    return Parts(train, validation, _dataset(config.testing.data, seed))


def split_dataset(dataset: Any, split: Sequence[float], seed: int, split_by: str | None = None) -> list[Subset[Any]]:
    """Random parts of a data set, by the seed alone.

    Of n samples the first part has ceil(n * share), the second of three floor(n * share), and the last one the rest.

    Args:
        dataset: has a length; its items are graphs.
        split: two or three shares.
        split_by: attribute of the graphs: those with the same value go into one part, and the shares are of its values.

    Raises:
        ConfigError: for shares that do not add up to 1, parts without samples, and graphs without the attribute.
    """
    check_sum(tuple(split))
    groups = [[index] for index in range(len(dataset))] if split_by is None else _groups(dataset, split_by)
    sizes = _sizes(len(groups), split)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    parts, start = [], 0
    for size in sizes:
        chosen = [index for group in order[start : start + size] for index in groups[group]]
        parts.append(Subset(dataset, chosen))
        start += size
    return parts


def _sizes(total: int, split: Sequence[float]) -> list[int]:
    # 10 * 0.7 is a little more than 7, which is not to become 8.
    first = math.ceil(total * split[0] - 1e-9)
    second = [math.floor(total * split[1] + 1e-9)] if len(split) == 3 else []
    sizes = [first, *second, total - first - sum(second)]
    for name, size in zip(PARTS, sizes, strict=False):
        if size <= 0:
            raise ConfigError(f"data.split={list(split)}: {name} size cannot be 0; there are {total} to split")
    return sizes


def _groups(dataset: Any, name: str) -> list[list[int]]:
    found: dict[Any, list[int]] = {}
    for index in range(len(dataset)):
        value = getattr(dataset[index], name, None)
        if value is None:
            raise ConfigError(f"data.split_by={name}: sample {index} has no such attribute")
        found.setdefault(value.item() if isinstance(value, torch.Tensor) else value, []).append(index)
    return list(found.values())


def _dataset(settings: GraphDataHparams | None, seed: int) -> Dataset[Any]:
    found: Any = resolve(_DATASET_FROM)(settings)
    if settings is None or settings.subset is None:
        return found
    number = math.ceil(len(found) * settings.subset - 1e-9)
    chosen = torch.randperm(len(found), generator=generator_for("cpu", seed, "subset"))[:number]
    return Subset(found, sorted(chosen.tolist()))


def loader(dataset: Any, settings: GraphLoaderHparams, device: torch.device, shuffle: bool, sampler: Any = None) -> Any:
    """Batches of graphs: a `torch_geometric.loader.DataLoader` without random numbers of its own.

    Whoever iterates seeds the global generators first, as the Trainer does for each epoch: that decides the order.
    """
    from torch_geometric.loader import DataLoader

    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        shuffle=shuffle and sampler is None,
        sampler=sampler,
        drop_last=settings.drop_last,
        num_workers=settings.num_workers,
        pin_memory=settings.pin_memory and device.type == "cuda",
        prefetch_factor=settings.prefetch_factor,
        persistent_workers=settings.persistent_workers,
    )
