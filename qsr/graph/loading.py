"""Training, validation and test data of graphs: how a data set is split, and the loaders of the parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler, Subset

from qsr.graph.config import GraphConfig, GraphLoaderHparams
from qsr.graph.data import GraphDataset
from qsr.graph.splits import split_indices
from qsr.hparams import ConfigError
from qsr.training.random import derived_seed, generator_for, seed_global


class Parts(NamedTuple):
    """Data sets of graphs."""

    train: Any
    validation: Any
    test: Any


def chosen_parts(config: GraphConfig, dataset: Any, split: Sequence[float], parts: Sequence[Any]) -> Parts:
    """Training, validation and test data: the parts that are given, those of a data set, or those of the configuration.

    Raises:
        ConfigError: for data sets that contradict each other, and for data that cannot be split.
    """
    given = [part is not None for part in parts]
    if dataset is not None and any(given):
        raise ConfigError("If providing train, val, or test datasets, the full dataset must not be provided.")
    if any(given) and not all(given):
        raise ConfigError("data: expected train_dataset, val_dataset and test_dataset, all three of them")
    if all(given):
        return Parts(*parts)
    if dataset is None:
        return configured_parts(config)
    shares, together = (split, None) if config.data is None else (config.data.split, config.data.split_by)
    if len(shares) != 3:
        raise ConfigError(f"data.split={list(shares)}: expected three shares for a data set of everything")
    return Parts(*split_dataset(dataset, shares, config.training.seed, together))


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


class SeededSamples(Dataset[Any]):
    """A data set for processes that outlive an epoch: what its transforms draw depends on the epoch and the sample alone."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # the processes see it change

    def begin_epoch(self, epoch: int) -> None:
        """Let what is drawn from now on be that of an epoch."""
        self.epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed_global(derived_seed(self.seed, "data", int(self.epoch[0]), index))
        return self.dataset[index]


class SeededOrder(Sampler[int]):
    """All samples of such a data set in another order in every epoch."""

    def __init__(self, samples: SeededSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[int]:
        # Torch's own sampler draws from the global generator, which has been drawn from once more where processes start.
        samples = self.samples
        generator = generator_for("cpu", samples.seed, "order", int(samples.epoch[0]))
        return iter(torch.randperm(len(samples), generator=generator).tolist())


def loader(
    dataset: Any, settings: GraphLoaderHparams, device: torch.device, shuffle: bool, seed: int, sampler: Any = None
) -> Any:
    """Batches of graphs: a `torch_geometric.loader.DataLoader` without random numbers of its own.

    Whoever iterates seeds the global generators first, as the Trainer does for each epoch: that decides the order.
    """
    from torch_geometric.loader import DataLoader

    if settings.persistent_workers:
        dataset = SeededSamples(dataset, seed)
        sampler = SeededOrder(dataset) if shuffle and sampler is None else sampler
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
