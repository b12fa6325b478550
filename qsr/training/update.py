"""The update rule that a run asks for, and that of first-order training: any torch optimizer, with gradient clipping."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from qsr.hparams import RunSettings
from qsr.training.model import Model
from qsr.training.protocols import BatchKey, Metrics, Objective, UpdateRule
from qsr.training.random import seed_dropout
from qsr.training.rate import ScheduledStep, named_optimizer
from qsr.training.schedule import Stage
from qsr.training.spring import NaturalGradient


def update_rule(model: nn.Module, settings: RunSettings, stage: Stage | None = None) -> UpdateRule:
    """What `optimizer.name` asks for: `NaturalGradient` for spring and minsr, else `TorchUpdate`.

    Raises:
        ConfigError: for arguments or other settings that the rule refuses.
    """
    if settings.optimizer.natural_gradient() is not None:
        return NaturalGradient(model, settings, stage)
    return TorchUpdate(model, settings, stage)


class TorchUpdate(ScheduledStep):
    """Gradients summed over the minibatches of a step, clipped, and given to a torch optimizer.

    Args:
        model: its parameters are optimised.
        settings: `optimizer`, `scheduler`, `gradient_clipping`, and the rate in `train`.
        stage: the steps that the scheduler runs over; default: the run's first.

    Raises:
        ConfigError: for arguments that torch refuses.
    """

    def __init__(self, model: nn.Module, settings: RunSettings, stage: Stage | None = None) -> None:
        self.clipping = settings.gradient_clipping
        stage = stage or settings.train.stages()[0]
        if isinstance(model, Model) and type(model).configure_optimizers is not Model.configure_optimizers:
            made = model.configure_optimizers()
            super().__init__(made["optimizer"], settings, stage, made.get("lr_scheduler"))
        else:
            optimizer = named_optimizer(model.parameters(), settings.optimizer, lr=settings.train.lr)
            super().__init__(optimizer, settings, stage)

    def update(self, model: nn.Module, objective: Objective, keys: Sequence[BatchKey]) -> Metrics:
        model.train()
        batches, metrics = objective.prepare(model, keys)
        self.optimizer.zero_grad()
        found = []
        key = None
        for batch in batches:
            if batch.key != key:  # the parts of a minibatch share its dropout's random numbers, one after the other
                key = batch.key
                seed_dropout(key)
            loss, recorded = objective.loss(model, batch)
            loss.backward()
            found.append(recorded)
        norm = self._clip(model)
        return {**metrics, **objective.summarise(found), "gradient_norm": norm, "lr": self.step()}

    def _clip(self, model: nn.Module) -> float:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, self.clipping.norm_type)
        if self.clipping.max_norm is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), self.clipping.max_norm, norm)
        return float(norm)
