"""The update rule of first-order training: any torch optimizer, with its scheduler and gradient clipping."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError, RunSettings
from qsr.training.protocols import BatchKey, Metrics, Objective
from qsr.training.random import seed_dropout


class TorchUpdate:
    """Gradients summed over the minibatches of a step, clipped, and given to a torch optimizer.

    Args:
        model: its parameters are optimised.
        settings: `optimizer`, `scheduler`, `gradient_clipping`, and the rate and number of steps in `train`.

    Raises:
        ConfigError: for arguments that torch refuses.
    """

    def __init__(self, model: nn.Module, settings: RunSettings) -> None:
        self.clipping = settings.gradient_clipping
        self.rate_factor = 1.0
        try:
            kind = getattr(torch.optim, settings.optimizer.name)
            self.optimizer = kind(model.parameters(), lr=settings.train.lr, **settings.optimizer.kwargs)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer.name={settings.optimizer.name}: {error}") from None
        self.scheduler = None
        if settings.scheduler.name != "none":
            try:
                self.scheduler = _scheduler(self.optimizer, settings)
            except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
                raise ConfigError(f"scheduler.name={settings.scheduler.name}: {error}") from None

    def update(self, model: nn.Module, objective: Objective, keys: Sequence[BatchKey]) -> Metrics:
        model.train()
        batches, metrics = objective.prepare(model, keys)
        self.optimizer.zero_grad()
        found = []
        for batch in batches:
            seed_dropout(batch.key)
            loss, recorded = objective.loss(model, batch)
            loss.backward()
            found.append(recorded)
        norm = self._clip(model)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * self.rate_factor
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        for group, scheduled in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = scheduled  # schedulers compute the next rate from this one
        if self.scheduler is not None:
            self.scheduler.step()
        return {**metrics, **objective.summarise(found), "gradient_norm": norm, "lr": rate}

    def _clip(self, model: nn.Module) -> float:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, self.clipping.norm_type)
        if self.clipping.max_norm is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), self.clipping.max_norm, norm)
        return float(norm)

    def slow_down(self) -> None:
        self.rate_factor /= 2

    def state_dict(self) -> dict[str, Any]:
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "scheduler": scheduler, "rate_factor": self.rate_factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        # torch converts the state to the parameters' number format, which NAdam's mu_product does not have.
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, saved in state["optimizer"]["state"].items():
            for name, value in saved.items():
                if isinstance(value, Tensor) and self.optimizer.state[parameters[index]][name].dtype != value.dtype:
                    self.optimizer.state[parameters[index]][name] = value.clone()
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.rate_factor = state["rate_factor"]


def _scheduler(optimizer: torch.optim.Optimizer, settings: RunSettings) -> Any:
    """The scheduler, with the run's length and peak rate filled in where its arguments ask for them."""
    kind = getattr(torch.optim.lr_scheduler, settings.scheduler.name)
    steps = max(settings.train.steps, 1)
    lengths = {"total_steps": steps, "T_max": steps, "max_lr": settings.train.lr}
    # Cycling the momentum needs an optimizer that has one, and no benchmark of ours showed a gain.
    lengths["cycle_momentum"] = False
    accepted = inspect.signature(kind.__init__).parameters
    filled = {name: value for name, value in lengths.items() if name in accepted}
    return kind(optimizer, **{**filled, **settings.scheduler.kwargs})
