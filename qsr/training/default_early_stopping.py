"""Early stopping by several metrics of an evaluator's table, each with its own threshold, direction and grace period."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from qsr.hparams import ConfigError, Hparam, Hparams, nearest

_STATE = ("current_grace_period", "best_score", "found_better")  # of a task, beside its settings


class StoppingTask(Hparams):
    """A metric that is watched."""

    section = "early_stopping.tasks"

    metric: str = Hparam(help="column of the validator's table")
    delta: float = Hparam(ge=0, allow_inf_nan=False, help="by how much it must be better than the best so far, and more")
    mode: Literal["min", "max"] = Hparam(help="whether smaller or larger values are better")
    grace_period: int = Hparam(ge=0, help="evaluations that do not count against the patience")
    init_best_score: float = Hparam(help="what the first evaluation is compared with")

    @field_validator("init_best_score")
    @classmethod
    def _is_a_number(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("must be a number, or .inf; nothing is better than NaN")
        return value


class DefaultEarlyStoppingHparams(Hparams):
    """When a training ends before its last epoch."""

    section = "early_stopping"

    tasks: dict[str | int, StoppingTask] = Hparam(min_length=1, help="metrics to watch, by any names")
    mode: Literal["any", "all"] = Hparam(help="how many of them must be better for the model to be")
    patience: int = Hparam(ge=0, help="evaluations in a row without a better model after which training ends; 0 is as 1")

    @field_validator("tasks")
    @classmethod
    def _different_names(cls, tasks: dict[str | int, StoppingTask]) -> dict[str | int, StoppingTask]:
        texts = [str(name) for name in tasks]
        if twice := next((name for name in texts if texts.count(name) > 1), None):
            raise ConfigError(f"early_stopping.tasks: the number {twice} and the text '{twice}' are one name; give one another")
        return tasks


class DefaultEarlyStopping:
    """Says of each evaluation whether training should end.

    A task is better if its metric beats its best score by more than `delta` (NaN never does); the model is better if any of
    the tasks, or all of them, are. Only then are the best scores of the better tasks moved, and the patience is as at the
    start. Otherwise an evaluation costs one of the patience, once the grace periods of all tasks are over. Without a better
    model the training ends at evaluation number grace period + patience.

    Args:
        tasks: mappings with all settings of `StoppingTask`, by any names; copied.
        patience: 0 means what 1 means, the end at the first evaluation that is not better.
        mode: whether 'any' or 'all' tasks must be better.

    Attributes:
        tasks: settings and state of each task: `best_score`, `current_grace_period`, `found_better`.
        current_patience: what is left of the patience.
        found_better_model: whether the last evaluation was of a better model.

    Raises:
        ConfigError: for missing, unknown or impossible settings.
    """

    def __init__(self, tasks: Mapping[str | int, Mapping[str, Any]], patience: int, mode: Literal["any", "all"] = "any") -> None:
        given: dict[str, Any] = {"tasks": {name: dict(task) for name, task in tasks.items()}, "mode": mode, "patience": patience}
        checked = DefaultEarlyStoppingHparams(**given)
        self._config = deepcopy(given)
        self.mode, self.patience = checked.mode, checked.patience
        self.tasks: dict[str | int, dict[str, Any]] = {name: dict(task) for name, task in checked.tasks.items()}
        self.current_patience = max(self.patience, 1)
        self.found_better_model = False
        self.reset()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DefaultEarlyStopping:
        """From a mapping with `tasks`, `mode` and `patience`.

        Raises:
            ConfigError: as the constructor; here `mode` is required.
        """
        checked = DefaultEarlyStoppingHparams(**config)
        return cls(config["tasks"], checked.patience, checked.mode)

    def to_config(self) -> dict[str, Any]:
        """The mapping that `from_config` takes."""
        return deepcopy(self._config)

    def reset(self, name: str | int = "all") -> None:
        """Put a task, or all of them, back to its start; the patience stays what it is."""
        for task in self.tasks.values() if name == "all" else [self.tasks[self._key(name)]]:
            task.update(best_score=task["init_best_score"], current_grace_period=task["grace_period"], found_better=False)

    def __call__(self, data: Any) -> bool:
        """Look at the last row of a table.

        Args:
            data: a `MetricTable`, a data frame, or a mapping of columns.

        Raises:
            ValueError: for a table without rows.
            ConfigError: for a table without a metric that is watched, and for one that is no number.
        """
        if not any(len(data[name]) for name in data):
            raise ValueError("Cannot compute early stopping on empty data")
        values = {name: _last(data, task["metric"]) for name, task in self.tasks.items()}
        for name, task in self.tasks.items():
            sign = 1 if task["mode"] == "min" else -1
            task["found_better"] = sign * values[name] < sign * task["best_score"] - task["delta"]
        better = [task["found_better"] for task in self.tasks.values()]
        self.found_better_model = any(better) if self.mode == "any" else all(better)
        if self.found_better_model:
            for name, task in self.tasks.items():
                task["best_score"] = values[name] if task["found_better"] else task["best_score"]
            self.current_patience = max(self.patience, 1)
        elif all(task["current_grace_period"] <= 0 for task in self.tasks.values()):
            self.current_patience -= 1
        for task in self.tasks.values():
            task["current_grace_period"] = max(task["current_grace_period"] - 1, 0)
        return self.current_patience <= 0

    def check_columns(self, columns: Sequence[str]) -> None:
        """Whether a table will have what is watched.

        Raises:
            ConfigError: naming a metric that it has not.
        """
        for task in self.tasks.values():
            if task["metric"] not in columns:
                raise ConfigError(
                    f"early_stopping.tasks.metric={task['metric']}: no such column{nearest(task['metric'], columns)}"
                )

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes back to: plain numbers and text."""
        tasks = {name: {part: task[part] for part in _STATE} for name, task in self.tasks.items()}
        return {"tasks": tasks, "mode": self.mode, "patience": self.patience, "current_patience": self.current_patience}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; names of tasks may have become text.

        The settings stay what they are: with another patience than the state had, what was used of it counts.

        Raises:
            ConfigError: for a state of other tasks, and for what is no state.
        """
        try:
            used = max(state["patience"], 1) - state["current_patience"]
            saved = {str(name): {part: task[part] for part in _STATE} for name, task in state["tasks"].items()}
        except (LookupError, TypeError, AttributeError):
            raise ConfigError(
                "early_stopping: not a state of DefaultEarlyStopping; expected tasks, patience, current_patience"
            ) from None
        if set(saved) != {str(name) for name in self.tasks}:
            found, own = (", ".join(map(str, names)) or "none" for names in (saved, self.tasks))
            raise ConfigError(f"early_stopping.tasks: the state is of the tasks {found}, and there are {own}")
        self.current_patience = max(self.patience, 1) - used
        for name, task in self.tasks.items():
            task.update(saved[str(name)])

    def _key(self, name: str | int) -> str | int:
        found = next((key for key in self.tasks if str(key) == str(name)), None)
        if found is None:
            raise ConfigError(f"early_stopping.tasks: no task {name!r}; there are {', '.join(map(str, self.tasks))}")
        return found


def _last(data: Any, metric: str) -> float:
    _check_column(metric, [str(name) for name in data])
    value = np.asarray(data[metric])[-1]
    if np.ndim(value):
        raise ConfigError(f"early_stopping.tasks.metric={metric}: is a list of numbers, one number is needed")
    return float(value)


def _check_column(metric: str, columns: Sequence[str]) -> None:
    if metric not in columns:
        raise ConfigError(f"early_stopping.tasks.metric={metric}: no such column{nearest(metric, columns)}")
