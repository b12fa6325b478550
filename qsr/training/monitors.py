"""The monitors of an evaluator: whatever a task names, made into a number (or one for each class) of what an evaluation saw."""

from __future__ import annotations

import builtins
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hparams import ConfigError, Hparam, Hparams, nearest
from qsr.hparams.files import one_line
from qsr.hparams.objects import find_object
from qsr.training.scores import OF_CLASSES, OF_VALUES, SCORES

_NAMES = ("mean", "median", "std", "var", "min", "max", "amin", "amax", "sum")
# These reduce one list of numbers; given predictions and targets they would take the targets for an axis.
_OF_TENSORS: tuple[Any, ...] = tuple(getattr(torch, name) for name in _NAMES)
_REDUCERS: tuple[Any, ...] = (
    *_OF_TENSORS,
    *(getattr(np, name) for name in _NAMES),
    *(getattr(builtins, name) for name in ("min", "max", "sum")),
)

# What a function gets as predictions: classes, the outputs as they are, scores that order the samples, or probabilities.
Form = Literal["classes", "values", "scores", "probabilities"]
# By the name of its second parameter; the first is y_true.
_SECOND: dict[str, Form | None] = {"y_pred": None, "y_score": "scores", "y_proba": "probabilities", "y_prob": "probabilities"}
# sklearn says by the module whether a function compares classes or numbers.
_MODULES: dict[str, Form] = {"sklearn.metrics._classification": "classes", "sklearn.metrics._regression": "values"}


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
    - a function with parameters `y_true` and `y_pred` gets arrays of all samples, see `arrays`: scores of classes get classes,
      those of regressions the outputs as they are, and others what the targets are, classes if they are integers; with
      `y_score` or `y_proba` in the place of `y_pred` it gets scores or probabilities of the classes;
    - mean, median, std, var, min, max and sum of NumPy and torch reduce the losses of the batches;
    - any other function gets the list of predictions and the list of targets.

    Args:
        task: as the configuration has it.

    Attributes:
        name: of the column.
        target: what is called.
        needs_data: whether it looks at predictions, and not only at losses.

    Raises:
        ConfigError: for a monitor that is none of these, and for arguments that it does not take.
    """

    def __init__(self, task: EvaluatorTask) -> None:
        self.name, self.head = task.name, task.task
        with self._named():
            self.target, args, kwargs = _built(task)
            self._streams = _is_metric(self.target)
            # By identity: comparing metrics of torchmetrics makes new metrics.
            self.needs_data = not any(self.target is reducer for reducer in _REDUCERS)
            parameters = [] if self._streams else _parameters(self.target)
            self._second = next((name for name in _SECOND if "y_true" in parameters and name in parameters), None)
            if self._second is not None:
                further = [name for name in parameters if name not in ("y_true", self._second)]
                args, kwargs = [], _by_name(args, kwargs, further)
            self._args, self._kwargs = args, kwargs
            self._check_arguments()

    def __call__(self, seen: Seen) -> Any:
        """The value: a float, or a list of them.

        Raises:
            ConfigError: if there are no targets where they are needed, if the value is no number, and if the monitor fails.
        """
        with self._named():
            return self._number(self._value(seen))

    def _value(self, seen: Seen) -> Any:
        if not self.needs_data:
            tensors = any(self.target is reducer for reducer in _OF_TENSORS)
            losses: Any = torch.tensor(seen.losses, dtype=torch.float64) if tensors else seen.losses
            return self.target(losses, *self._args, **self._kwargs)
        if self._streams or self._second is not None:
            self._check_targets(seen)
        if self._streams:
            self.target.reset()
            for prediction, target in zip(seen.predictions, seen.targets, strict=True):
                self.target.update(*_aligned(self._of_head(prediction), target))
            return self.target.compute()
        if self._second is not None:
            form = _SECOND[self._second] or _form(self.target)
            y_true, found = arrays([self._of_head(one) for one in seen.predictions], seen.targets, form)
            return self.target(**{"y_true": y_true, self._second: found}, **self._kwargs)
        return self.target(seen.predictions, seen.targets, *self._args, **self._kwargs)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the task in whatever is raised."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ConfigError) and str(error).startswith("evaluator_tasks"):
                raise
            said = error if isinstance(error, ConfigError) else f"{type(error).__name__}: {one_line(error)}"
            raise ConfigError(f"evaluator_tasks.monitor: {self.name}: {said}") from error

    def _check_arguments(self) -> None:
        if self._streams:
            if self._args or self._kwargs:
                raise ConfigError(f"{type(self.target).__name__} is made already and takes no arguments; give its class")
            return
        try:
            signature = inspect.signature(self.target)
        except (TypeError, ValueError):
            return  # a function of C that does not tell
        if self._second is not None:
            signature.bind(**{"y_true": None, self._second: None}, **self._kwargs)
        else:
            signature.bind(*([None, None] if self.needs_data else [None]), *self._args, **self._kwargs)

    def _of_head(self, prediction: Any) -> Tensor:
        found, where = prediction, f"evaluator_tasks.task={self.head}: {self.name}"
        if isinstance(prediction, Mapping):
            by_name = {str(key): value for key, value in prediction.items()}  # a file may have 0 where the model has "0"
            name = next(iter(by_name)) if self.head is None else str(self.head)
            if name not in by_name:
                raise ConfigError(f"{where}: the model has the outputs {', '.join(by_name)}")
            found = by_name[name]
        elif isinstance(prediction, (list, tuple)):
            index = 0 if self.head is None else int(self.head)
            if not 0 <= index < len(prediction):
                raise ConfigError(f"{where}: the model has {len(prediction)} outputs")
            found = prediction[index]
        if not isinstance(found, Tensor):
            raise ConfigError(f"needs outputs that are tensors, found {type(found).__name__}")
        return found

    def _check_targets(self, seen: Seen) -> None:
        if any(target is None for target in seen.targets):
            raise ConfigError("needs targets, and the data have no y")

    def _number(self, value: Any) -> Any:
        found = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if found.dtype.kind not in "biuf":
            raise ConfigError(f"must give numbers, found {type(value).__name__}")
        return float(found) if found.ndim == 0 else found.astype(np.float64).tolist()


def arrays(
    predictions: Sequence[Tensor], targets: Sequence[Tensor], form: Form | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Targets and predictions of all samples, in the form that scores compare.

    Args:
        predictions: (B,), (B, 1) or (B, C) for each batch.
        targets: (B,) or (B, 1); for regression also (B, C).
        form: of the predictions; None: values for targets with a point, else classes.

    Returns:
        values: both in the shape of the targets, float64.
        classes: (S,) labels, and the largest of several outputs, or whether a single one is at least 0.
        scores: (S,) labels, and the output, or the second less the first of two; (S, C) probabilities of more.
        probabilities: (S,) labels, and (S,) probabilities of the second class, or (S, C) those of more; outputs are logits.

    Raises:
        ConfigError: for shapes that do not belong together, and labels that are no whole numbers, or not 0 and 1 where there is
            a single output.
    """
    found, true = torch.cat(list(predictions)), torch.cat(list(targets))
    if form == "values" or (form is None and true.is_floating_point()):
        if found.numel() != true.numel():
            raise ConfigError(f"outputs {tuple(found.shape)} do not fit the targets {tuple(true.shape)}")
        return true.double().numpy(), found.reshape(true.shape).double().numpy()
    if len(found) != true.numel():
        raise ConfigError(f"outputs {tuple(found.shape)} do not fit the labels {tuple(true.shape)}")
    labels, outputs = _labels(true), found.double().reshape(len(found), -1)
    single = outputs.shape[1] == 1
    if single and not ((labels == 0) | (labels == 1)).all():
        other = labels[(labels != 0) & (labels != 1)][0]
        raise ConfigError(f"with a single output the labels must be 0 and 1, found {other}; numbers have the scores mae, mse, r2")
    if form in (None, "classes"):
        return labels.numpy(), ((outputs[:, 0] >= 0).long() if single else outputs.argmax(dim=1)).numpy()
    if outputs.shape[1] > 2:
        return labels.numpy(), outputs.softmax(dim=1).numpy()
    logit = outputs[:, 0] if single else outputs[:, 1] - outputs[:, 0]
    return labels.numpy(), (logit.sigmoid() if form == "probabilities" else logit).numpy()


def _labels(targets: Tensor) -> Tensor:
    """(S,) int64, also of whole numbers with a point, as losses of single outputs take them."""
    flat = targets.flatten()
    if flat.is_floating_point() and not (flat == flat.round()).all():
        raise ConfigError(f"needs labels, whole numbers, found {flat[flat != flat.round()][0]:g} among the targets")
    return flat.long()


def _aligned(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1) as (B,) and the reverse, where the target is so; labels (B, 1) as (B,)."""
    if prediction.numel() == target.numel():
        return prediction.reshape(target.shape), target
    return prediction, target.flatten() if len(prediction) == target.numel() else target


def _form(function: Any) -> Form | None:
    while isinstance(function, functools.partial):
        function = function.func
    if any(function is score for score in OF_CLASSES):
        return "classes"
    if any(function is score for score in OF_VALUES):
        return "values"
    return _MODULES.get(getattr(function, "__module__", None) or "")


def _built(task: EvaluatorTask) -> tuple[Any, list[Any], dict[str, Any]]:
    """What is called, with the arguments that it gets beside the data."""
    monitor, args, kwargs = task.monitor, list(task.args), dict(task.kwargs)
    if isinstance(monitor, str) and "." in monitor:
        monitor = find_object(monitor, "evaluator_tasks.monitor")
    if isinstance(monitor, str):
        if monitor not in SCORES:
            raise ConfigError(f"evaluator_tasks.monitor={monitor}: unknown score{nearest(monitor, SCORES)}")
        if args or kwargs:
            raise ConfigError(f"the score {monitor} takes no arguments")
        monitor = SCORES[monitor]
    if inspect.isclass(monitor):
        monitor, args, kwargs = monitor(*args, **kwargs), [], {}
    if not callable(monitor) and not _is_metric(monitor):
        raise ConfigError(f"must be a function or a metric, found {type(monitor).__name__}")
    return monitor, args, kwargs


def _is_metric(thing: Any) -> bool:
    return all(callable(getattr(thing, part, None)) for part in ("update", "compute", "reset"))


def _parameters(target: Any) -> list[str]:
    """Names of the parameters that can be given by name; none for what does not tell."""
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _by_name(args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """All arguments by their names."""
    if len(args) > len(names):
        raise ConfigError(f"takes at most {len(names)} arguments beside the data, found {len(args)}")
    named = dict(zip(names, args, strict=False))
    twice = next((name for name in named if name in kwargs), None)
    if twice is not None:
        raise ConfigError(f"{twice} stands in args and in kwargs")
    return {**named, **kwargs}
