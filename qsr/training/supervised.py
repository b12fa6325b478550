"""The objective of models on data: batches in an order that the seed decides, and evaluation on data held back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qsr.hparams import ConfigError
from qsr.samplers.base import evaluation_mode
from qsr.training.data import DataLoaderHparams
from qsr.training.model import Model
from qsr.training.protocols import BatchKey, Metrics
from qsr.training.random import derived_seed, generator_for, seed_global
from qsr.training.rows import Rows


class BatchSource(Protocol):
    """Where batches come from."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of an epoch, from its batch `first` on: the same ones every time."""


class DatasetSource:
    """Batches of a data set with a length.

    Args:
        loader: batch size, order, workers.
        seed: of the order.
        training: whether to shuffle and to drop an incomplete batch, if the settings say so.
    """

    def __init__(self, dataset: Dataset[Any], loader: DataLoaderHparams, seed: int, training: bool) -> None:
        try:
            self.samples = len(dataset)  # type: ignore[arg-type]
        except TypeError:
            raise ConfigError(f"data: {type(dataset).__name__} has no length; a map-style data set is needed") from None
        self.dataset, self.loader, self.seed, self.training = dataset, loader, seed, training

    def __len__(self) -> int:
        whole, rest = divmod(self.samples, self.loader.batch_size)
        return whole if self.training and self.loader.drop_last else whole + bool(rest)

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        generator = generator_for("cpu", self.seed, "order", epoch)
        shuffled = self.training and self.loader.shuffle
        order = torch.randperm(self.samples, generator=generator) if shuffled else torch.arange(self.samples)
        chosen = order.split(self.loader.batch_size)[first : len(self)]
        if isinstance(self.dataset, Rows):
            drawn = self.dataset.drawn(generator_for("cpu", self.seed, "data", epoch))
            return (drawn.rows(indices) for indices in chosen)
        return iter(
            DataLoader(
                _Seeded(self.dataset, self.seed, epoch),
                batch_sampler=[indices.tolist() for indices in chosen],
                num_workers=self.loader.num_workers,
                pin_memory=self.loader.pin_memory and torch.cuda.is_available(),
                generator=generator,
            )
        )


class _Seeded(Dataset[Any]):
    """A data set whose random transforms draw numbers that depend on the epoch and the sample alone, in any process."""

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitem__(self, index: int) -> Any:
        seed_global(derived_seed(self.seed, "data", self.epoch, index))
        return self.dataset[index]


class LoaderSource:
    """Batches of a loader (any iterable with a length) that somebody else has made; global generators decide its order."""

    def __init__(self, loader: Any, seed: int) -> None:
        if not hasattr(loader, "__len__"):
            raise ConfigError(f"data: {type(loader).__name__} has no length; a loader with one is needed")
        self.loader, self.seed = loader, seed

    def __len__(self) -> int:
        return len(self.loader)

    def seeded(self, epoch: int) -> Any:
        """The loader, with the global generators as they are to be when an epoch begins."""
        seed_global(derived_seed(self.seed, "order", epoch))
        begin = getattr(getattr(self.loader, "dataset", None), "begin_epoch", None)
        if begin is not None:
            begin(epoch)
        return self.loader

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        batches = iter(self.seeded(epoch))
        # A sampler draws its order when the first batch is asked for: now, and not after other draws. And batches that are
        # skipped are drawn before whoever asks for the next one seeds the generators for it.
        batches = chain(list(islice(batches, 1)), batches)
        for _ in islice(batches, first):
            pass
        return batches


@dataclass
class DataBatch:
    """One batch of data, and its share of the samples of a step."""

    key: BatchKey
    data: Any
    size: int
    share: float


class Supervised:
    """The loss of a `Model` on data; each step takes Q batches, whose gradients add up to that of the mean over all of them.

    Args:
        training: batches to train on.
        validation: batches to evaluate on, if there are any.
        seed: of everything that is drawn.
        minibatches: Q.
        evaluate_every: epochs between evaluations.
        autocast: number format that the network computes in, if it is not that of the parameters.
    """

    def __init__(
        self,
        training: BatchSource,
        validation: BatchSource | None,
        seed: int,
        minibatches: int = 1,
        evaluate_every: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        if not len(training):
            raise ConfigError("data: no batch to train on; fewer samples than data.loader.batch_size, with drop_last")
        self.training, self.validation = training, validation
        self.seed, self.minibatches, self.evaluate_every, self.autocast = seed, minibatches, evaluate_every, autocast
        self.steps_per_epoch = -(-len(training) // minibatches)
        self._waiting: Iterator[Any] = iter(())
        self._sums: dict[str, float] = {}  # of the metrics of this epoch, times the sizes of their batches
        self._size = 0

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
        self._waiting = self.training.batches(epoch, first * minibatches)
        for step in range(first, self.steps_per_epoch):
            number = min(minibatches, len(self.training) - step * minibatches)
            yield [BatchKey(self.seed, epoch * self.steps_per_epoch + step, minibatch) for minibatch in range(number)]

    def prepare(self, model: Model[Any], keys: Sequence[BatchKey]) -> tuple[list[DataBatch], Metrics]:
        model.begin_step(*divmod(keys[0].step, self.steps_per_epoch), self.steps_per_epoch)
        found = []
        for key in keys:
            seed_global(derived_seed(key.seed, "data", key.step, key.minibatch))  # for loaders of a user's own
            found.append(moved(next(self._waiting), model))
        sizes = [batch_size(data) for data in found]
        return [DataBatch(k, data, size, size / sum(sizes)) for k, data, size in zip(keys, found, sizes, strict=True)], {}

    def loss(self, model: Model[Any], batch: DataBatch) -> tuple[Tensor, Metrics]:
        with self._network(model):
            loss = model.training_step(batch.data, batch.key.minibatch)
        if not loss.requires_grad:
            raise ConfigError(f"{type(model).__name__}: its loss does not depend on any parameter that is trained")
        metrics = numbers(model.logged)
        self._size += batch.size
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + batch.size * value
        return batch.share * loss, {name: batch.share * value for name, value in metrics.items()}

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        # Sums that `Model.finish_metrics` needs are for whole epochs.
        return {name: sum(part.get(name, 0.0) for part in found) for name in found[0] if "/_" not in name}

    def end_epoch(self, model: Model[Any], epoch: int) -> Metrics:
        metrics = model.finish_metrics({name: total / self._size for name, total in self._sums.items()} if self._size else {})
        self._sums, self._size = {}, 0
        if self.validation is not None and epoch % self.evaluate_every == 0:
            metrics |= self.evaluate(model, self.validation, "validation")
        return metrics

    def evaluate(self, model: Model[Any], source: BatchSource, phase: str, batches: int | None = None) -> Metrics:
        """Means over all samples (of so many batches) of what `validation_step` or `test_step` logs; dropout off."""
        found = []
        step = getattr(model, f"{phase}_step")
        with evaluation_mode(model), self._network(model):
            for index, data in enumerate(islice(source.batches(0, 0), batches)):
                step(moved(data, model), index)
                found.append((batch_size(data), numbers(model.logged)))
        return model.finish_metrics(mean_metrics(found))

    def state_dict(self) -> dict[str, Any]:
        """What has been summed up in an epoch that is not at its end."""
        return {"sums": dict(self._sums), "size": self._size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._size = dict(state["sums"]), state["size"]

    def _network(self, model: Model[Any]) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(next(model.parameters()).device.type, dtype=self.autocast)


def numbers(metrics: Mapping[str, Any]) -> Metrics:
    """Metrics as Python numbers."""
    return {name: float(value) for name, value in metrics.items()}


def mean_metrics(found: Sequence[tuple[int, Metrics]]) -> Metrics:
    """Means over samples, from the sizes of batches and the means over each; {} of nothing."""
    total = sum(size for size, _ in found)
    names = dict.fromkeys(name for _, metrics in found for name in metrics)
    return {name: sum(size * metrics.get(name, 0.0) for size, metrics in found) / total for name in names}


def moved(data: Any, model: torch.nn.Module) -> Any:
    """Data on the model's device; floating-point numbers in float64 for a model in float64."""
    parameter = next(model.parameters())
    if isinstance(data, Tensor):
        wide = data.is_floating_point() and parameter.dtype == torch.float64
        return data.to(parameter.device, torch.float64 if wide else None, non_blocking=True)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(moved(part, model) for part in data))
    if isinstance(data, (tuple, list)):
        return type(data)(moved(part, model) for part in data)
    if isinstance(data, Mapping):
        return {name: moved(part, model) for name, part in data.items()}
    return data.to(parameter.device) if hasattr(data, "to") else data


def batch_size(data: Any) -> int:
    """Number of samples in a batch: of graphs, or the length of its first tensor."""
    if hasattr(data, "num_graphs"):
        return int(data.num_graphs)
    if isinstance(data, Tensor):
        return len(data) if data.dim() else 1
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, (tuple, list)) else ()
    return next((batch_size(part) for part in parts), 1)
