"""The batches of a step shared among the processes of torch.distributed: gradients and metrics are those of all batches.

A step of N processes is that of one process with N times the batches (`gradient_accumulation_steps`), to rounding; but each
replays samples of its own batches, and files hold those of the first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import distributed

from qsr.qembed.statistics import parts_of_metrics
from qsr.training.distribution import Processes
from qsr.training.protocols import BatchKey, Metrics
from qsr.training.supervised import DataBatch, Supervised

_OF_COLLAPSE = parts_of_metrics("uncertainty", "superposition_coherence")
_OF_ENTANGLEMENT = parts_of_metrics("entanglement_strength")


def processes_found() -> Processes:
    """Those of torch.distributed, which is started if torchrun has started this process; a warning says if there are none."""
    found = Processes.found()
    if found.size == 1 and not (distributed.is_available() and distributed.is_initialized()):
        warnings.warn("distributed_training: this is the only process (start several with torchrun)", stacklevel=3)
    return found


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
