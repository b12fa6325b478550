"""The learning rate that every update rule shares: torch's schedulers, the halving after a rewind, and what is saved."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError, RunSettings, nearest
from qsr.training.optimizers import OptimizerHparams, SchedulerHparams
from qsr.training.protocols import Metrics
from qsr.training.schedule import Stage

logger = logging.getLogger(__name__)


class ScheduledStep:
    """A torch optimizer with its scheduler; `rate_factor` is what rewinds have left of the scheduled rate.

    Args:
        optimizer: applies the gradients (or any other direction) that lie in the parameters' `.grad`.
        settings: `scheduler`, and the rate in `train`.
        stage: the steps that the schedule runs over if it is the final one; before that the rate is constant.
        scheduler: one that is there already, instead of that of the settings.

    Raises:
        ConfigError: for arguments that torch's scheduler refuses.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: RunSettings, stage: Stage, scheduler: Any = None) -> None:
        self.rate_factor = 1.0
        self.optimizer = optimizer
        self.settings = settings.scheduler
        self.scheduler = scheduler
        if scheduler is None and self.settings.name != "none" and stage.final:
            steps = stage.steps if self.settings.interval == "step" else settings.train.max_epochs
            self.scheduler = named_scheduler(optimizer, self.settings, steps, settings.train.lr)

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"] * self.rate_factor)

    def step(self, closure: Callable[[], float] | None = None) -> float:
        """Apply the gradients and move the scheduler on; the rate that was used.

        Args:
            closure: computes the gradients anew and returns the loss, for an optimizer that asks for both.
        """
        used = self.rate
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * self.rate_factor
        try:
            self.optimizer.step(closure)
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise ConfigError(f"train.lr={used:g}: too large for the number format of the parameters") from None
        for group, scheduled in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = scheduled  # schedulers compute the next rate from this one
        if self.scheduler is not None and self.settings.interval == "step":
            self.scheduler.step()
        return used

    def end_epoch(self, metrics: Metrics) -> None:
        """Move a scheduler on that is stepped by epochs; one that looks at a metric waits for it.

        Raises:
            ConfigError: if there are metrics of a validation, and the one to look at is not among them.
        """
        if self.scheduler is None or self.settings.interval != "epoch":
            return
        if not isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step()
        elif self.settings.monitor in metrics:
            self.scheduler.step(metrics[self.settings.monitor])
        elif any(name.startswith("validation/") for name in metrics):
            raise ConfigError(
                f"scheduler.monitor={self.settings.monitor}: no such metric{nearest(self.settings.monitor, metrics)}"
            )

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
            own = self.scheduler.state_dict()
            for name in ("total_steps", "T_max"):
                if name in own and own[name] != state["scheduler"][name]:
                    raise ConfigError(
                        f"scheduler: the checkpoint has {name}={state['scheduler'][name]!r:.60} and the settings of the run mean "
                        f"{own[name]}; a run keeps the steps that it was begun with"
                    )
            # It takes every name for an attribute of its own, those of its methods, too.
            kept = {name: value for name, value in state["scheduler"].items() if not hasattr(type(self.scheduler), name)}
            self.scheduler.load_state_dict(kept)
        self.rate_factor = state["rate_factor"]


def named_optimizer(parameters: Any, settings: OptimizerHparams, **arguments: Any) -> torch.optim.Optimizer:
    """The optimizer of torch that the settings name.

    Raises:
        ConfigError: for arguments that torch refuses.
    """
    try:
        found: torch.optim.Optimizer = settings.target(settings.name)(parameters, **{**settings.kwargs, **arguments})
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ConfigError(f"optimizer.name={settings.name}: {error}") from None
    return found


def parameter_groups(model: nn.Module, settings: OptimizerHparams, rate: float | None = None) -> list[dict[str, Any]]:
    """The groups of the settings, each with its parameters and its own arguments; those that fit no group come last.

    A group has the arguments of the section where it says nothing else. A warning names a group that no parameter fits.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: list[dict[str, Any]] = []
    for group in settings.groups:
        own = [name for name in named if any(part in name for part in group.param_name_contains)]
        if not own:
            wanted = ", ".join(group.param_name_contains)
            logger.warning("optimizer.groups: no parameter left with %s in its name; there are %s", wanted, ", ".join(named))
            continue
        arguments = {} if rate is None else {"lr": rate}
        groups.append({"params": [named.pop(name) for name in own], **arguments, **settings.kwargs, **group.params})
    return [*groups, {"params": list(named.values())}] if named or not groups else groups


def named_scheduler(
    optimizer: torch.optim.Optimizer, settings: SchedulerHparams, steps: int | None = None, rate: float | None = None
) -> Any:
    """The scheduler that the settings name, with its number of steps and peak rate filled in where its arguments ask for them.

    Raises:
        ConfigError: for arguments that torch refuses.
    """
    kind = settings.target(settings.name)
    filled: dict[str, Any] = {} if rate is None else {"max_lr": [group["lr"] for group in optimizer.param_groups]}
    if steps is not None:
        filled |= dict.fromkeys(("total_steps", "T_max"), max(steps, 1))
    # Cycling the momentum needs an optimizer that has one, and no benchmark of ours showed a gain.
    filled["cycle_momentum"] = False
    accepted = inspect.signature(kind.__init__).parameters
    wanted = {name: value for name, value in filled.items() if name in accepted}
    arguments = {**wanted, **settings.kwargs}
    try:
        # Some arguments (step_size=0) show only in the first step that they are wrong.
        groups = [{"params": [torch.zeros(1, device="cpu")], "lr": group["lr"]} for group in optimizer.param_groups]
        probe = torch.optim.SGD(groups, momentum=0.9)
        probing: Any = kind(probe, **arguments)
        probe.step()
        probing.step(*([1.0] if isinstance(probing, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
        return kind(optimizer, **arguments)
    except ZeroDivisionError:
        found = " ".join(f"{name}={value}" for name, value in arguments.items())
        raise ConfigError(f"scheduler.name={settings.name}: divides by zero with {found}") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise ConfigError(f"scheduler.name={settings.name}: {error}") from None
