"""Evaluators: the loss of a model on data that it is not trained on, with whatever else is monitored, as rows of a table."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.training.metric_table import MetricTable, last_row
from qsr.training.monitors import EvaluatorTask, Monitor, Seen
from qsr.training.supervised import batch_size

logger = logging.getLogger(__name__)

LOSSES = ("loss_avg", "loss_min", "loss_max")

ApplyModel = Callable[[Any, Any], Any]  # (model, data) -> outputs
Criterion = Callable[[Any, Any], Tensor]  # (outputs, data) -> the loss


class Evaluator:
    """Computes the loss and the monitors of its tasks; each evaluation is a row of `data`.

    Args:
        device: where batches go; the model must be there.
        criterion: `criterion(outputs, data)`, a scalar; see `as_criterion`.
        evaluator_tasks: mappings with `name`, `monitor`, and perhaps `args`, `kwargs`, `task`; see `Monitor`.
        apply_model: `apply_model(model, data)`; None: `model(x, edge_index, batch)`, unless it is set before an evaluation.

    Attributes:
        apply_model: as it was given.
        tasks: (name, what is called) of each task.
        data: columns `loss_avg` (the mean over graphs), `loss_min` and `loss_max` (of batches), and those of the tasks.

    Raises:
        ConfigError: for tasks that cannot be used.
    """

    title = "Results"

    def __init__(
        self,
        device: str | torch.device,
        criterion: Callable[..., Tensor],
        evaluator_tasks: Sequence[Mapping[str, Any] | EvaluatorTask] | None = None,
        apply_model: ApplyModel | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.criterion = as_criterion(criterion)
        self.apply_model = apply_model
        found = [task if isinstance(task, EvaluatorTask) else EvaluatorTask(**task) for task in evaluator_tasks or ()]
        self.monitors = [Monitor(task) for task in found]
        names = [monitor.name for monitor in self.monitors]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"evaluator_tasks.name={twice}: there are two tasks of this name")
        if "loss" in names:
            raise ConfigError("evaluator_tasks.name=loss: is what loss_avg is called among the metrics of a run; choose another")
        self.data = MetricTable([*LOSSES, *(name for name in names if name not in LOSSES)])

    @property
    def tasks(self) -> list[tuple[str, Any]]:
        """Name of each task, and what computes it."""
        return [(monitor.name, monitor.target) for monitor in self.monitors]

    def evaluate(self, model: nn.Module, data_loader: Iterable[Any]) -> MetricTable:
        """Add a row for this model on these batches; the model is in evaluation mode afterwards.

        Returns:
            `data`, with the row as its last.

        Raises:
            ConfigError: without batches, for a loss that is no scalar, and for monitors that do not fit the data.
        """
        model.eval()
        seen, losses, apply = Seen(), [], self.apply_model or _of_graphs
        collects = any(monitor.needs_data for monitor in self.monitors)
        with torch.no_grad():
            for batch in data_loader:
                data = batch.to(self.device)
                outputs = apply(model, data)
                losses.append(self.criterion(outputs, data).detach())
                seen.sizes.append(batch_size(data))
                if collects:
                    seen.predictions.append(_on_cpu(outputs))
                    seen.targets.append(_on_cpu(getattr(data, "y", None)))
        if not losses:
            raise ConfigError("evaluation: the loader has no batches")
        seen.losses = torch.stack(losses).double().tolist()  # one transfer from the device
        row = {
            "loss_avg": float(np.average(seen.losses, weights=seen.sizes)),
            "loss_min": min(seen.losses),
            "loss_max": max(seen.losses),
        }
        self.data.append({**row, **{monitor.name: monitor(seen) for monitor in self.monitors}})
        return self.data

    def report(self, data: Any) -> None:
        """Log the last row of a table."""
        found = last_row(data)
        logger.info("%s: %s", self.title, " ".join(f"{name}={_shown(value)}" for name, value in found.items()))

    def state_dict(self) -> dict[str, Any]:
        """The rows, in plain containers."""
        return self.data.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self.data.load_state_dict(state)


class Validator(Evaluator):
    """Evaluates during training, after each epoch."""

    title = "Validation results"

    def validate(self, model: nn.Module, data_loader: Iterable[Any]) -> MetricTable:
        """As `evaluate`."""
        return self.evaluate(model, data_loader)


class Tester(Evaluator):
    """Evaluates a trained model."""

    __test__ = False  # by its name pytest would take it for a test

    title = "Testing results"

    def test(self, model: nn.Module, data_loader: Iterable[Any]) -> MetricTable:
        """As `evaluate`."""
        return self.evaluate(model, data_loader)


def as_criterion(criterion: Callable[..., Tensor], trainer: Any = None) -> Criterion:
    """The criterion as a function of (outputs, data), which checks that its result is a scalar.

    Args:
        criterion: of two arguments; or of three, and then the third is the trainer: it has no default, or is named
            `trainer`, or there is `*args`.

    Raises:
        ConfigError: for what cannot be called. The function raises it for a result that is not a scalar tensor.
    """
    if isinstance(criterion, _Checked):
        return criterion
    if not callable(criterion):
        raise ConfigError(f"criterion: must be a function (outputs, data) -> loss, found {type(criterion).__name__}")
    return _Checked(criterion, (trainer,) if _wants_trainer(criterion) else ())


class _Checked:
    def __init__(self, criterion: Callable[..., Tensor], rest: tuple[Any, ...]) -> None:
        self.criterion, self.rest = criterion, rest

    def __call__(self, outputs: Any, data: Any) -> Tensor:
        loss = self.criterion(outputs, data, *self.rest)
        if not isinstance(loss, Tensor) or loss.dim():
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"criterion: must return a scalar tensor, found {found}")
        return loss


def _wants_trainer(criterion: Callable[..., Any]) -> bool:
    # The call of a module takes anything.
    target = criterion.forward if isinstance(criterion, nn.Module) else criterion
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return False  # a function of C that does not tell
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 2 and (positional[2].default is positional[2].empty or positional[2].name == "trainer")


def _of_graphs(model: Any, data: Any) -> Any:
    return model(data.x, data.edge_index, data.batch)


def _on_cpu(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.detach().cpu()
    if isinstance(outputs, Mapping):
        return {name: _on_cpu(part) for name, part in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return [_on_cpu(part) for part in outputs]
    return outputs


def _shown(value: Any) -> str:
    return f"{value:.5g}" if np.ndim(value) == 0 else str(np.round(value, 5).tolist())
