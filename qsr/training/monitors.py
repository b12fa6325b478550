"""The monitors of an evaluator: whatever a task names, made into a number (or one for each class) of what an evaluation saw."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hparams import ConfigError, Hparam, Hparams, nearest
from qsr.hparams.objects import find_object
from qsr.training.scores import SCORES

_DATA_ARGUMENTS = ("y_true", "y_pred")
# These reduce one list of numbers; given predictions and targets they would take the targets for an axis.
_REDUCERS: tuple[Any, ...] = (np.mean, np.median, np.std, np.min, np.max, torch.mean)


class EvaluatorTask(Hparams):
    """One more column of an evaluation."""

    section = "evaluator_tasks"

    name: str = Hparam(min_length=1, help="the column; loss_avg, loss_min and loss_max are replaced")
    monitor: Any = Hparam(help="a function, a class, a torchmetrics object, or one of " + ", ".join(SCORES))
    args: list[Any] = Hparam(default_factory=list, help="of a class; of a function: after the two data arguments")
    kwargs: dict[str, Any] = Hparam(default_factory=dict, help="of a class, or of a function")
    task: int | str | None = Hparam(None, help="which output of the model; None: the first")


@dataclass
class Seen:
    """What an evaluation collects, batch by batch, on the CPU.

    Attributes:
        predictions: what the model returned.
        targets: `y` of the batches; None where a batch has none.
        losses: of the batches.
        sizes: numbers of graphs in them.
    """

    predictions: list[Any] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


class Monitor:
    """A task's monitor, ready to be computed.

    - a class is instantiated with `args` and `kwargs`;
    - an object with `update`, `compute` and `reset` gets (prediction, target) of each batch;
    - a function with parameters `y_true` and `y_pred` gets arrays of all samples: classes where the targets are integers
      (the largest of several outputs; whether a single one is at least 0), else the outputs as they are;
    - mean, median, std, min and max of NumPy and torch.mean reduce the losses of the batches;
    - any other function gets the list of predictions and the list of targets.

    Args:
        task: as the configuration has it.

    Attributes:
        name: of the column.
        target: what is called.
        needs_data: whether it looks at predictions, and not only at losses.

    Raises:
        ConfigError: for a monitor that is none of these.
    """

    def __init__(self, task: EvaluatorTask) -> None:
        self.name, self.head = task.name, task.task
        self.target, self._args, self._kwargs = _built(task)
        self._streams = all(callable(getattr(self.target, part, None)) for part in ("update", "compute", "reset"))
        self._takes_arrays = not self._streams and all(name in _parameters(self.target) for name in _DATA_ARGUMENTS)
        # By identity: comparing metrics of torchmetrics makes new metrics.
        self.needs_data = not any(self.target is reducer for reducer in _REDUCERS)

    def __call__(self, seen: Seen) -> Any:
        """The value: a float, or a list of them.

        Raises:
            ConfigError: if there are no targets where they are needed, or the value is no number.
        """
        if not self.needs_data:
            losses: Any = torch.tensor(seen.losses) if self.target is torch.mean else seen.losses
            return self._number(self.target(losses, *self._args, **self._kwargs))
        if self._streams or self._takes_arrays:
            self._check_targets(seen)
        if self._streams:
            self.target.reset()
            for prediction, target in zip(seen.predictions, seen.targets, strict=True):
                self.target.update(self._of_head(prediction), target)
            return self._number(self.target.compute())
        if self._takes_arrays:
            y_true, y_pred = arrays([self._of_head(found) for found in seen.predictions], seen.targets)
            extra = [name for name in _parameters(self.target) if name not in _DATA_ARGUMENTS]
            named = dict(zip(extra, self._args, strict=False))
            return self._number(self.target(y_true=y_true, y_pred=y_pred, **named, **self._kwargs))
        return self._number(self.target(seen.predictions, seen.targets, *self._args, **self._kwargs))

    def _of_head(self, prediction: Any) -> Tensor:
        found, where = prediction, f"evaluator_tasks.task={self.head}: {self.name}"
        if isinstance(prediction, Mapping):
            by_name = {str(key): value for key, value in prediction.items()}  # a file may have 0 where the model has "0"
            name = next(iter(by_name)) if self.head is None else str(self.head)
            if name not in by_name:
                raise ConfigError(
                    f"evaluator_tasks.task={self.head}: {self.name}: the model has the outputs {', '.join(by_name)}"
                )
            found = by_name[name]
        elif isinstance(prediction, (list, tuple)):
            index = 0 if self.head is None else int(self.head)
            if not 0 <= index < len(prediction):
                raise ConfigError(f"{where}: the model has {len(prediction)} outputs")
            found = prediction[index]
        if not isinstance(found, Tensor):
            raise ConfigError(
                f"evaluator_tasks.monitor: {self.name}: needs outputs that are tensors, found {type(found).__name__}"
            )
        return found

    def _check_targets(self, seen: Seen) -> None:
        if any(target is None for target in seen.targets):
            raise ConfigError(f"evaluator_tasks.monitor: {self.name}: needs targets, and the data have no y")

    def _number(self, value: Any) -> Any:
        found = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if found.dtype.kind not in "biuf":
            raise ConfigError(f"evaluator_tasks.monitor: {self.name}: must give numbers, found {type(value).__name__}")
        return float(found) if found.ndim == 0 else found.astype(np.float64).tolist()


def arrays(predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Targets and predictions of all samples, in the form that scores compare.

    Args:
        predictions: (B,), (B, 1) or (B, C) for each batch.
        targets: (B,) or (B, 1); for regression also (B, C).

    Returns:
        (B,) classes each, for integer targets; else both in the shape of the targets.

    Raises:
        ConfigError: for shapes that do not belong together.
    """
    found, true = torch.cat(list(predictions)), torch.cat(list(targets))
    if true.is_floating_point():
        if found.numel() != true.numel():
            raise ConfigError(f"evaluator_tasks: outputs {tuple(found.shape)} do not fit the targets {tuple(true.shape)}")
        return true.numpy(), found.reshape(true.shape).to(true.dtype).numpy()
    if len(found) != true.numel():
        raise ConfigError(f"evaluator_tasks: outputs {tuple(found.shape)} do not fit the labels {tuple(true.shape)}")
    scores = found.reshape(len(found), -1)
    classes = scores.argmax(dim=1) if scores.shape[1] > 1 else (scores[:, 0] >= 0).long()
    return true.flatten().long().numpy(), classes.numpy()


def _built(task: EvaluatorTask) -> tuple[Any, list[Any], dict[str, Any]]:
    """What is called, with the arguments that it gets beside the data."""
    monitor, args, kwargs = task.monitor, list(task.args), dict(task.kwargs)
    if isinstance(monitor, str) and "." in monitor:
        monitor = find_object(monitor, "evaluator_tasks.monitor")
    if isinstance(monitor, str):
        if monitor not in SCORES:
            raise ConfigError(f"evaluator_tasks.monitor={monitor}: unknown score{nearest(monitor, SCORES)}")
        if args or kwargs:
            raise ConfigError(f"evaluator_tasks.kwargs: {task.name}: the score {monitor} takes no arguments")
        monitor = SCORES[monitor]
    if inspect.isclass(monitor):
        return monitor(*args, **kwargs), [], {}
    if not callable(monitor) and not hasattr(monitor, "compute"):
        raise ConfigError(f"evaluator_tasks.monitor: {task.name}: must be a function or a metric, found {type(monitor).__name__}")
    return monitor, args, kwargs


def _parameters(target: Any) -> list[str]:
    """Names of the parameters; none for what does not tell."""
    while isinstance(target, functools.partial):
        target = target.func
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []
