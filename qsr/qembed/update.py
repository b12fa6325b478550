"""The step of networks with quantum embeddings: any torch optimizer, and a bound on the gradient of the quantum parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from qsr.hparams import ConfigError, RunSettings
from qsr.qembed.learning import QuantumModel
from qsr.qembed.optimizers import UncertaintyOptimizer
from qsr.qembed.settings import QuantumHparams
from qsr.training.distribution import ALONE, Processes
from qsr.training.protocols import Metrics, Objective
from qsr.training.rate import ScheduledStep
from qsr.training.schedule import Stage
from qsr.training.update import TorchUpdate, clipped


def clip_by_role(model: nn.Module, quantum: QuantumHparams, max_norm: float | None, kind: float = 2.0) -> Metrics:
    """Bound the norm of the gradient of quantum parameters, or of all, as the settings say; the norms that there were.

    Args:
        max_norm: of the other parameters if quantum ones are clipped separately; of all without `quantum_gradient_clipping`.
        kind: of the norm.
    """
    of_role = [parameter for parameter in model.parameters() if hasattr(parameter, "_qrole")]
    separate = quantum.quantum_gradient_clipping and quantum.separate_clipping
    of_quantum = clipped(of_role, quantum.max_quantum_grad_norm if separate else None, kind)
    if not separate:
        bound = quantum.max_quantum_grad_norm if quantum.quantum_gradient_clipping else max_norm
        return {"gradient_norm": clipped(model.parameters(), bound, kind), "quantum_gradient_norm": of_quantum}
    of_others = clipped([parameter for parameter in model.parameters() if not hasattr(parameter, "_qrole")], max_norm, kind)
    whole = (of_quantum**kind + of_others**kind) ** (1 / kind) if kind < float("inf") else max(of_quantum, of_others)
    return {"gradient_norm": whole, "quantum_gradient_norm": of_quantum}


class QuantumUpdate(TorchUpdate):
    """As `TorchUpdate`; with the model's own optimizer if it was given one.

    With `quantum_gradient_clipping` the norm of the whole gradient is bounded by `max_quantum_grad_norm`, or, clipped separately,
    that of the parameters with a role in quantum embeddings (`qsr.qembed.roles`), and that of the others by
    `gradient_clipping.max_norm`. The samples that the model replays belong to what is saved.

    Raises:
        ConfigError: for arguments that torch refuses, and for replay with an optimizer that searches along a line.
    """

    def __init__(self, model: QuantumModel, settings: RunSettings, stage: Stage, processes: Processes = ALONE) -> None:
        if model.optimizer is None:
            super().__init__(model, settings, stage, processes)
        else:
            self.clipping, self.processes = settings.gradient_clipping, processes
            ScheduledStep.__init__(self, model.optimizer, settings, stage, model.lr_scheduler)
        if model.replay is not None and isinstance(self.optimizer, torch.optim.LBFGS):
            raise ConfigError(
                f"{model.quantum.label('quantum_memory_replay')}=True: not with LBFGS, which compares losses of the same samples"
            )
        self.model, self.quantum = model, model.quantum

    def gradient(self, model: nn.Module, objective: Objective, batches: Sequence[Any]) -> tuple[list[Metrics], Any]:
        found, loss = super().gradient(model, objective, batches)
        if isinstance(self.optimizer, UncertaintyOptimizer):  # of the whole step: one factor for all processes
            own = {"uncertainty": sum(part["training/uncertainty"] for part in found)}
            self.optimizer.set_uncertainty(self.processes.sum_metrics(own)["uncertainty"])
        return found, loss

    def clip(self, model: nn.Module) -> Metrics:
        return clip_by_role(model, self.quantum, self.clipping.max_norm, self.clipping.norm_type)

    def state_dict(self) -> dict[str, Any]:
        replay = {} if self.model.replay is None else {"replay": self.model.replay.state_dict()}
        return {**super().state_dict(), **replay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.model.replay is not None:
            self.model.replay.load_state_dict(state["replay"])
