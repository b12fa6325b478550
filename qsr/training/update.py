"""The update rule that a run asks for, and that of first-order training: any torch optimizer, with gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from qsr.hparams import RunSettings
from qsr.training.distribution import ALONE, Processes
from qsr.training.model import Model
from qsr.training.protocols import BatchKey, Metrics, Objective, UpdateRule
from qsr.training.random import seed_dropout
from qsr.training.rate import ScheduledStep, named_optimizer, parameter_groups
from qsr.training.schedule import Stage
from qsr.training.spring import NaturalGradient


def update_rule(model: nn.Module, settings: RunSettings, stage: Stage | None = None, processes: Processes = ALONE) -> UpdateRule:
    """What `optimizer.name` asks for: `NaturalGradient` for spring and minsr, else `TorchUpdate`.

    Raises:
        ConfigError: for arguments or other settings that the rule refuses.
    """
    if settings.optimizer.natural_gradient() is not None:
        return NaturalGradient(model, settings, stage, processes)
    return TorchUpdate(model, settings, stage, processes)


class TorchUpdate(ScheduledStep):
    """Gradients summed over the minibatches of a step, clipped, and given to a torch optimizer.

    Args:
        model: its parameters are optimised.
        settings: `optimizer`, `scheduler`, `gradient_clipping`, and the rate in `train`.
        stage: the steps that the scheduler runs over; default: the run's first.
        processes: whose gradients are summed, each of its own minibatches.

    Raises:
        ConfigError: for arguments that torch refuses.
    """

    def __init__(self, model: nn.Module, settings: RunSettings, stage: Stage | None = None, processes: Processes = ALONE) -> None:
        self.clipping = settings.gradient_clipping
        self.processes = processes
        stage = stage or settings.train.stages()[0]
        if isinstance(model, Model) and type(model).configure_optimizers is not Model.configure_optimizers:
            made = model.configure_optimizers()
            super().__init__(made["optimizer"], settings, stage, made.get("lr_scheduler"))
        else:
            groups = parameter_groups(model, settings.optimizer, settings.train.lr)
            optimizer = named_optimizer(groups, settings.optimizer, lr=settings.train.lr)
            super().__init__(optimizer, settings, stage)

    def update(self, model: nn.Module, objective: Objective, keys: Sequence[BatchKey]) -> Metrics:
        model.train()
        batches, metrics = objective.prepare(model, keys)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            found, norms, rate = self._line_search(model, objective, batches)
        else:
            found, _ = self.gradient(model, objective, batches)
            norms = self.clip(model)
            rate = self.step()
        return {**metrics, **objective.summarise(found), **norms, "lr": rate}

    def gradient(self, model: nn.Module, objective: Objective, batches: Sequence[Any]) -> tuple[list[Metrics], Any]:
        """Sum the gradients of the batches of all processes up; what each of this process recorded, and their loss."""
        self.optimizer.zero_grad()
        found = []
        total: Any = 0.0
        key = None
        for batch in batches:
            if batch.key != key:  # the parts of a minibatch share its dropout's random numbers, one after the other
                key = batch.key
                seed_dropout(key)
            loss, recorded = objective.loss(model, batch)
            loss.backward()
            found.append(recorded)
            total = total + loss.detach()
        self.processes.sum_gradients(model)
        return found, total

    def _line_search(
        self, model: nn.Module, objective: Objective, batches: Sequence[Any]
    ) -> tuple[list[Metrics], Metrics, float]:
        """A step of an optimizer that evaluates the loss several times; the first one is what is recorded."""
        first: list[tuple[list[Metrics], Metrics]] = []

        def closure() -> float:
            before = objective.state_dict()
            found, loss = self.gradient(model, objective, batches)
            norms = self.clip(model)
            if first:
                objective.load_state_dict(before)
            else:
                first.append((found, norms))
            return float(self.processes.sum(torch.tensor(float(loss), dtype=torch.float64)))  # a line is searched by all alike

        rate = self.step(closure)
        return *first[0], rate

    def clip(self, model: nn.Module) -> Metrics:
        """Bound the norm of the gradient, and record what it was before."""
        return {"gradient_norm": clipped(model.parameters(), self.clipping.max_norm, self.clipping.norm_type)}


def clipped(parameters: Iterable[nn.Parameter], max_norm: float | None, norm_type: float = 2.0) -> float:
    """Scale the gradients of parameters down to a norm; the norm that they had."""
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in owners], norm_type)  # type: ignore[misc]
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(owners, max_norm, norm)
    return float(norm)
