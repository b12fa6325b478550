"""The objective of a sampler that learns the distribution of measured snapshots: their mean negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsr.estimators.readout import posterior_draws
from qsr.samplers.base import AutoregressiveSampler, evaluation_mode
from qsr.training.measured import SnapshotsHparams
from qsr.training.objectives import graph_rows, room_for_graph
from qsr.training.protocols import BatchKey, Metrics
from qsr.training.random import generator_for
from qsr.training.settings import TrainHparams

READ_TOGETHER = 1024  # snapshots that are held back whose draws are made at once


@dataclass
class SnapshotBatch:
    """Distinct configurations (U, N) of a minibatch and their shares of the step's snapshots (U,), float64."""

    key: BatchKey
    configs: Tensor
    weights: Tensor


class SnapshotLikelihood:
    """-mean log p(s) over snapshots, B = Q*K of them in each step; every epoch takes them in another order.

    Of snapshots that were read with errors it is -mean log p_read(r), p_read(r) = sum_n p(n) P(r|n), bounded from above by draws
    of the true configurations n (`posterior_draws`). Its gradient is -E[grad log p(n)] over n from p(n|r) (Fisher's identity),
    with weights that add up to one for each snapshot: that of the bound for the distribution they are drawn from.

    Snapshots that are left over at the end of an epoch wait for the next one.

    Args:
        training, validation: (S, N) uint8; none are held back if the second is empty.
        data: readout errors (resolved) and number of draws.
        settings: Q, K, memory and the seed of order and draws.
    """

    def __init__(self, training: Tensor, validation: Tensor, data: SnapshotsHparams, settings: TrainHparams) -> None:
        self.training, self.validation = training, validation
        self.data, self.settings = data, settings
        self.memory_bytes = settings.memory_MiB * 2**20
        self.batch = min(settings.Q * settings.K, len(training))
        self.steps_per_epoch = len(training) // self.batch

    def batches(self, epoch: int, first: int, minibatches: int) -> Iterator[list[BatchKey]]:
        for index in range(first, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + index
            yield [BatchKey(self.settings.seed, step, minibatch) for minibatch in range(minibatches)]

    def _snapshots(self, key: BatchKey) -> Tensor:
        """Those of a minibatch; the key alone says which."""
        epoch, index = divmod(key.step, self.steps_per_epoch)
        order = torch.randperm(len(self.training), generator=generator_for("cpu", key.seed, "order", epoch))
        first, size = index * self.batch, self.settings.K
        rows = order[first : first + self.batch][key.minibatch * size : (key.minibatch + 1) * size]
        return self.training[rows]

    def prepare(self, model: AutoregressiveSampler, keys: Sequence[BatchKey]) -> tuple[list[SnapshotBatch], Metrics]:
        batches: list[SnapshotBatch] = []
        rows = graph_rows(model, self.memory_bytes)
        found = []
        for key in keys:
            configs = self._snapshots(key).to(model.device)
            if not len(configs):  # fewer snapshots than Q*K
                continue
            shares = torch.full((len(configs),), 1 / self.batch, dtype=torch.float64, device=model.device)
            if self.data.noisy:
                generator = generator_for(model.device, key.seed, "readout", key.step, key.minibatch)
                drawn, log_weights = self._draw(model, configs, generator)
                found.append(_negative_log_mean(log_weights))
                configs, shares = drawn.flatten(0, 1), (shares[:, None] * log_weights.softmax(dim=1)).flatten()
            distinct, inverse = configs.unique(dim=0, return_inverse=True)
            weights = shares.new_zeros(len(distinct)).index_add(0, inverse, shares)
            parts = zip(distinct.split(rows), weights.split(rows), strict=True)
            batches += [SnapshotBatch(key, *part) for part in parts]
        return batches, _mean_and_error(torch.cat(found)) if found else {}

    def _draw(self, model: AutoregressiveSampler, reads: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        data = self.data
        return posterior_draws(model, reads, data.e10 or 0.0, data.e01 or 0.0, data.draws, generator, self.memory_bytes)

    def loss(self, model: AutoregressiveSampler, batch: SnapshotBatch) -> tuple[Tensor, Metrics]:
        room_for_graph(model, len(batch.configs), self.memory_bytes)
        log_prob = model.log_prob(batch.configs)
        surprise = -log_prob.detach().double()
        sums = {"nll": (batch.weights * surprise).sum().item(), "square": (batch.weights * surprise.square()).sum().item()}
        return -(batch.weights.to(log_prob.dtype) * log_prob).sum(), {} if self.data.noisy else sums

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        """Mean and standard error of -log p over the snapshots of the step (with readout errors they are known before)."""
        if self.data.noisy:
            return {}
        mean, square = (sum(part[name] for part in found) for name in ("nll", "square"))
        return {"nll": mean, "nll_error": math.sqrt(max(square - mean**2, 0.0) / max(self.batch - 1, 1))}

    def end_epoch(self, model: AutoregressiveSampler, epoch: int) -> Metrics:
        """The same of what is held back, with the same draws in every epoch."""
        if not len(self.validation):
            return {}
        found = _mean_and_error(self.surprise(model, self.validation))
        return {"validation/loss": found["nll"], "validation/loss_error": found["nll_error"]}

    def surprise(self, model: AutoregressiveSampler, snapshots: Tensor) -> Tensor:
        """-log p(s), or the bound of -log p_read(r), of snapshots (S, N): (S,) float64, without gradient."""
        configs = snapshots.to(model.device)
        if self.data.noisy:
            generator = generator_for(model.device, self.settings.seed, "validation")
            parts = configs.split(READ_TOGETHER)
            return torch.cat([_negative_log_mean(self._draw(model, part, generator)[1]) for part in parts])
        distinct, inverse = configs.unique(dim=0, return_inverse=True)
        rows = max(1, self.memory_bytes // model.pass_bytes())
        with evaluation_mode(model):
            return -torch.cat([model.log_prob(part).double() for part in distinct.split(rows)])[inverse]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def _negative_log_mean(log_weights: Tensor) -> Tensor:
    """-log of the mean weight (R,) of draws (R, S)."""
    return math.log(log_weights.shape[1]) - log_weights.logsumexp(dim=1)


def _mean_and_error(surprise: Tensor) -> Metrics:
    error = surprise.std().item() / math.sqrt(len(surprise)) if len(surprise) > 1 else 0.0
    return {"nll": surprise.mean().item(), "nll_error": error}
