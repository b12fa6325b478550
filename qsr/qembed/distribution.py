"""The batches of a step shared among the processes of torch.distributed: gradients and metrics are those of all batches.

A step of N processes is that of one process with N times the batches (`gradient_accumulation_steps`), to rounding; but each
replays samples of its own batches, and files hold those of the first.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from qsr.qembed.statistics import parts_of_metrics
from qsr.training.protocols import BatchKey, Metrics
from qsr.training.supervised import DataBatch, Supervised

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OF_COLLAPSE = parts_of_metrics("uncertainty", "superposition_coherence")
_OF_ENTANGLEMENT = parts_of_metrics("entanglement_strength")


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: of this one.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def found(cls) -> Processes:
        """Those of torch.distributed, which is started if torchrun has started this process; a warning says if there are none."""
        if not distributed.is_available() or not (distributed.is_initialized() or all(name in os.environ for name in _TORCHRUN)):
            warnings.warn("distributed_training: this is the only process (start several with torchrun)", stacklevel=3)
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def wait(self) -> None:
        """Until all processes are here: what the first one writes is there then."""
        if self.size > 1:
            distributed.barrier()

    def agree(self, model: nn.Module) -> None:
        """Give the model the parameters and buffers of the first process."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum the gradients up; a parameter that no process has a gradient of stays without."""
        if self.size == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        there = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
        flat = torch.cat(
            [(torch.zeros_like(value) if value.grad is None else value.grad).flatten() for value in parameters] + [there]
        )
        distributed.all_reduce(flat)
        used = flat[len(flat) - len(parameters) :] > 0
        first = 0
        for parameter, keep in zip(parameters, used.tolist(), strict=True):
            size = parameter.numel()
            parameter.grad = flat[first : first + size].view_as(parameter).clone() if keep else None
            first += size

    def sum_metrics(self, metrics: Metrics) -> Metrics:
        """Sums over all processes, name by name."""
        if self.size == 1:
            return metrics
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, metrics)
        names = dict.fromkeys(name for part in everyone for name in part)
        return {name: sum(part.get(name, 0.0) for part in everyone) for name in names}


ALONE = Processes()


class SharedSupervised(Supervised):
    """As `Supervised`; of the batches of a step each process has every size-th, and its own statistics unless they are synced.

    Args:
        processes: that train together.
        collapse, entanglement: whether the statistics of collapse, and of entanglement, are those of all processes.
        arguments: of `Supervised`; `minibatches` is a multiple of the number of processes.
    """

    def __init__(self, processes: Processes, collapse: bool, entanglement: bool, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.processes = processes
        own = (() if collapse else _OF_COLLAPSE) + (() if entanglement else _OF_ENTANGLEMENT)
        self._local = frozenset(f"training/{name}" for name in own)
        self._share = 0.0  # of the samples of a step that are in batches of this process

    def prepare(self, model: Any, keys: Sequence[BatchKey]) -> tuple[list[DataBatch], Metrics]:
        batches, metrics = super().prepare(model, keys)
        own = [batch for batch in batches if batch.key.minibatch % self.processes.size == self.processes.rank]
        self._share = sum(batch.share for batch in own)
        return own, metrics

    def summarise(self, found: Sequence[Metrics]) -> Metrics:
        own = super().summarise(found) if found else {}
        return self._all(own, self._share, 1.0)

    def end_epoch(self, model: Any, epoch: int) -> Metrics:
        size = int(self.processes.sum_metrics({"size": float(self._size)})["size"])
        self._sums, self._size = self._all(self._sums, self._size, size), size
        return super().end_epoch(model, epoch)

    def _all(self, own: Metrics, weight: float, total: float) -> Metrics:
        """Sums of all processes; of what is not synced the sum of this one, which has `weight` of the `total`, scaled to it."""
        sums = self.processes.sum_metrics(own)
        return {name: own.get(name, 0.0) * total / weight if name in self._local and weight else sums[name] for name in sums}
