"""What a `QuantumTrainer` remembers: a row of metrics for each epoch, and the best model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from qsr.training.protocols import Callback, Metrics
from qsr.training.settings import EarlyStoppingHparams
from qsr.training.stopping import EarlyStopping, watched
from qsr.training.trainer import Trainer

# Names of the history, and what the Trainer calls the same.
COLUMNS = {
    "train_loss": "training/loss",
    "val_loss": "validation/loss",
    "uncertainty": "training/uncertainty",
    "quantum_loss": "training/quantum_loss",
    "task_loss": "training/task_loss",
    "entanglement_strength": "training/entanglement_strength",
    "superposition_coherence": "training/superposition_coherence",
    "collapse_probability": "training/collapse_probability",
    "replay_loss": "training/replay_loss",
    "val_task_loss": "validation/task_loss",
    "val_accuracy": "validation/accuracy",
    "val_uncertainty": "validation/uncertainty",
    "val_ece": "validation/ece",
    "grad_norm": "gradient_norm",
    "lr": "lr",
    "epoch_time": "seconds",
}
_OF_STEPS = ("gradient_norm", "quantum_gradient_norm", "lr")  # an epoch's are those of its last step

EpochCallback = Callable[[int, dict[str, float]], Any]


def of_phase(metrics: Mapping[str, float], phase: str) -> dict[str, float]:
    """Metrics of one phase by their short names."""
    return {name.removeprefix(f"{phase}/"): value for name, value in metrics.items() if name.startswith(f"{phase}/")}


def visible(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without the sums that are only there to be divided."""
    return {name: value for name, value in metrics.items() if not name.startswith("_")}


class EpochRows(Callback):
    """Adds a row to `history` for each epoch.

    Args:
        history: lists by the names of `COLUMNS`.
        then: called with the epoch, from 0 on, and its row; if it returns True the fit ends.
    """

    def __init__(self, history: dict[str, list[float]], then: EpochCallback | None = None) -> None:
        self.history, self.then = history, then
        self._step: Metrics = {}
        self._clock = time.perf_counter()

    def on_fit_start(self, trainer: Trainer) -> None:
        self._clock = time.perf_counter()

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self._step = {name: metrics[name] for name in _OF_STEPS if name in metrics}

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        now = time.perf_counter()
        found = {"training/replay_loss": 0.0, **metrics, **self._step, "seconds": now - self._clock}
        self._clock = now
        row = {name: float(found.get(source, math.nan)) for name, source in COLUMNS.items()}
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        if self.then is not None and self.then(trainer.epoch - 1, row):
            trainer.stopped = "the callback of the epoch said so"

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": len(self.history.get("train_loss", []))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for values in self.history.values():
            del values[state["epochs"] :]


class BestModel(Callback):
    """Calls `save` after each epoch that is better than all before it.

    Attributes:
        value, epoch: of the best one, from 0 on; None before the first.
    """

    def __init__(self, monitor: str, min_delta: float, save: Callable[[Trainer], None] | None) -> None:
        self.monitor, self.min_delta, self.save = monitor, min_delta, save
        self.value: float | None = None
        self.epoch: int | None = None
        self.mode: Literal["min", "max"] = "max" if monitor.endswith("/accuracy") else "min"

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        value = watched(metrics, self.monitor, "monitor")
        if value is None or not math.isfinite(value):
            return
        sign = 1 if self.mode == "min" else -1
        if self.value is None or sign * (self.value - value) > self.min_delta:
            self.value, self.epoch = value, trainer.epoch - 1
            if self.save is not None:
                self.save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.epoch = state["value"], state["epoch"]


class LastEpoch(Callback):
    """Keeps the metrics of an epoch by the short names of `train_epoch`."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self._norms: dict[str, float] = {}

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self._norms = {"grad_norm": metrics["gradient_norm"], "quantum_grad_norm": metrics["quantum_gradient_norm"]}

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self.metrics = {"replay_loss": 0.0, **visible(of_phase(metrics, "training")), **self._norms}


class StepCount(Callback):
    """Keeps `owner.global_step`, also for files that are written on the way."""

    def __init__(self, owner: Any) -> None:
        self.owner, self.before = owner, 0

    def on_fit_start(self, trainer: Trainer) -> None:
        self.before = self.owner.global_step - trainer.step

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self.owner.global_step = self.before + trainer.step


def stopping(best: BestModel, patience: int, done: int) -> EarlyStopping:
    """Ends a fit after so many epochs in a row without a better one; `done` epochs are behind it, and `best` knows of them."""
    found = EarlyStopping(EarlyStoppingHparams(monitor=best.monitor, patience=patience, min_delta=best.min_delta, mode=best.mode))
    if best.epoch is not None:
        found.best, found.waited = best.value, done - 1 - best.epoch
    return found
