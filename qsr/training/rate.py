"""The learning rate that every update rule shares: torch's schedulers, the halving after a rewind, and what is saved."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from qsr.hparams import ConfigError, RunSettings
from qsr.training.schedule import Stage


class ScheduledStep:
    """A torch optimizer with its scheduler; `rate_factor` is what rewinds have left of the scheduled rate.

    Args:
        optimizer: applies the gradients (or any other direction) that lie in the parameters' `.grad`.
        settings: `scheduler`, and the rate in `train`.
        stage: the steps that the schedule runs over if it is the final one; before that the rate is constant.

    Raises:
        ConfigError: for arguments that torch's scheduler refuses.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: RunSettings, stage: Stage) -> None:
        self.rate_factor = 1.0
        self.optimizer = optimizer
        self.scheduler = None
        if settings.scheduler.name != "none" and stage.final:
            try:
                self.scheduler = _scheduler(optimizer, settings, stage.steps)
            except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
                raise ConfigError(f"scheduler.name={settings.scheduler.name}: {error}") from None

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"] * self.rate_factor)

    def step(self) -> float:
        """Apply the gradients and move the scheduler on; the rate that was used."""
        used = self.rate
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * self.rate_factor
        self.optimizer.step()
        for group, scheduled in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = scheduled  # schedulers compute the next rate from this one
        if self.scheduler is not None:
            self.scheduler.step()
        return used

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


def _scheduler(optimizer: torch.optim.Optimizer, settings: RunSettings, steps: int) -> Any:
    """The scheduler, with its number of steps and peak rate filled in where its arguments ask for them."""
    kind = getattr(torch.optim.lr_scheduler, settings.scheduler.name)
    steps = max(steps, 1)
    lengths = {"total_steps": steps, "T_max": steps, "max_lr": settings.train.lr}
    # Cycling the momentum needs an optimizer that has one, and no benchmark of ours showed a gain.
    lengths["cycle_momentum"] = False
    accepted = inspect.signature(kind.__init__).parameters
    filled = {name: value for name, value in lengths.items() if name in accepted}
    return kind(optimizer, **{**filled, **settings.scheduler.kwargs})
