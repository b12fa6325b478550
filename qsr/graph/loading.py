"""Training, validation and test data of graphs: how a data set is split, and the loaders of the parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset

from qsr.graph.config import GraphConfig, GraphLoaderHparams
from qsr.graph.data import GraphDataset
from qsr.graph.splits import split_indices
from qsr.hparams import ConfigError


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
        train, validation, test = (GraphDataset(data, seed) for data in own if data is not None)
        return Parts(train, validation, test)
    shared = split_dataset(GraphDataset(config.data, seed), config.data.split, seed, config.data.split_by)
    return Parts(*shared, *(() if config.testing.data is None else (GraphDataset(config.testing.data, seed),)))


def split_dataset(dataset: Any, split: Sequence[float], seed: int, split_by: str | None = None) -> list[Subset[Any]]:
    """Random parts of a data set, by the seed alone; sizes are those of `split_indices`.

    Args:
        dataset: has a length; its items are graphs.
        split: two or three shares.
        split_by: attribute of the graphs: those with the same value go into one part, and the shares are of its values.

    Raises:
        ConfigError: for shares that do not add up to 1, parts without samples, and graphs without the attribute.
    """
    groups = None if split_by is None else _values(dataset, split_by)
    return [Subset(dataset, rows.tolist()) for rows in split_indices(len(dataset), split, seed, groups)]


def _values(dataset: Any, name: str) -> NDArray[Any]:
    """(S,) an attribute of the graphs, from the files where these have it as an array."""
    if isinstance(dataset, GraphDataset) and dataset.has_column(name):
        return dataset.column(name)
    found = []
    for index in range(len(dataset)):
        value = getattr(dataset[index], name, None)
        if value is None:
            raise ConfigError(f"data.split_by={name}: sample {index} has no such attribute")
        found.append(value.item() if isinstance(value, torch.Tensor) else value)
    return np.array(found)


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
