"""What the graph trainer adds to a fit: rows of losses, the evaluators' rows, early stopping, and the best weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from qsr.graph.fingerprint import digest
from qsr.graph.learner import Evaluated
from qsr.hparams import ConfigError
from qsr.runs import save_weights
from qsr.training import Callback, Trainer
from qsr.training.metric_table import MetricTable
from qsr.training.protocols import Metrics
from qsr.training.random import derived_seed, forked_generators
from qsr.training.stopping import BEST

logger = logging.getLogger(__name__)

COLUMNS = ("epoch", "min_loss", "mean_loss", "max_loss", "median_loss", "std_loss")


class EpochLosses(Callback):
    """A row for each epoch, from 0 on: its mean loss over graphs, and the spread of the losses of its batches.

    Attributes:
        table: columns `COLUMNS`; the standard deviation of a single batch is 0.
    """

    def __init__(self) -> None:
        self.table = MetricTable(COLUMNS)
        self._losses: list[float] = []

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self._losses.append(metrics["training/loss"])

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        losses = np.array(self._losses)
        values = (losses.min(), metrics["training/loss"], losses.max(), np.median(losses), losses.std())
        self.table.append({"epoch": trainer.epoch - 1, **dict(zip(COLUMNS[1:], map(float, values), strict=True))})
        self._losses = []

    def state_dict(self) -> dict[str, Any]:
        return {"table": self.table.state_dict(), "losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table.load_state_dict(state["table"])
        self._losses = list(state["losses"])


class ValidationRows(Callback):
    """Keeps the rows of a validator in step with the run."""

    def __init__(self, validator: Any) -> None:
        self.validator = validator

    def state_dict(self) -> dict[str, Any]:
        return dict(self.validator.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.validator.load_state_dict(state)


class SameData(Callback):
    """Notices when a run goes on with other data than it was begun with: another number of samples, another first or last one.

    Args:
        loader: of the training; nothing is known of one without a `dataset` that has a length.
        seed: of what transforms draw.
    """

    def __init__(self, loader: Any, seed: int) -> None:
        dataset: Any = getattr(loader, "dataset", None)
        self.known: list[Any] | None = None
        if hasattr(dataset, "__len__") and len(dataset):
            with forked_generators(seed=derived_seed(seed, "data")):
                ends = [dataset[0], dataset[len(dataset) - 1]]
            plain = [part.to_dict() if hasattr(part, "to_dict") else part for part in ends]
            self.known = [len(dataset), digest(plain, "files")]

    def state_dict(self) -> dict[str, Any]:
        return {"known": self.known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if None not in (self.known, state["known"]) and self.known != state["known"]:
            raise ConfigError("train_loader: other samples than those that the run was begun with")


class Stopping(Callback):
    """Ends a fit when a function of the validator's table says so.

    Args:
        verdict: such a function; `DefaultEarlyStopping` is one.
    """

    def __init__(self, verdict: Callable[[Any], bool]) -> None:
        self.verdict = verdict
        self.reason = ""

    def on_fit_start(self, trainer: Trainer) -> None:
        trainer.stopped = trainer.stopped or self.reason  # a run that is resumed after it has ended

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if isinstance(trainer.objective, Evaluated) and self.verdict(trainer.objective.table):
            self.reason = "early stopping: the model has not become better"
            logger.info("epoch %d: training stops, %s", trainer.epoch, self.reason)
            trainer.stopped = self.reason

    def state_dict(self) -> dict[str, Any]:
        kept = self.verdict.state_dict() if hasattr(self.verdict, "state_dict") else {}
        return {"verdict": kept, "reason": self.reason}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reason = state["reason"]
        if hasattr(self.verdict, "load_state_dict"):
            self.verdict.load_state_dict(state["verdict"])
        elif not inspect.isroutine(self.verdict):
            logger.warning("early_stopping: %s has no state_dict and begins anew", type(self.verdict).__name__)


class BestModel(Callback):
    """Keeps the weights of the best epoch, in memory and as best/best.safetensors of the run directory; at the end of the run
    they are its weights.safetensors, too, which `qsr.load_model` reads.

    Args:
        better: says of the epoch whose metrics it gets whether it is better than the best so far, with that one's metrics.

    Attributes:
        weights: those of the best epoch; None before there is one.
        epoch: number of epochs done then.
    """

    def __init__(self, better: Callable[[Metrics, Metrics | None], bool]) -> None:
        self.better = better
        self.weights: dict[str, Tensor] | None = None
        self.epoch: int | None = None
        self.metrics: Metrics | None = None

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if not self.better(metrics, self.metrics):
            return
        self.epoch, self.metrics = trainer.epoch, dict(metrics)
        self.weights = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._write(trainer)  # after a rewind the file may hold weights of a course that was given up
        if trainer.directory is not None and self.weights is not None:
            trainer.directory.save_weights(self.weights)

    def _write(self, trainer: Trainer) -> None:
        if trainer.directory is not None and self.weights is not None:
            folder = trainer.directory.path / BEST
            folder.mkdir(exist_ok=True)
            save_weights(folder / "best.safetensors", self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "epoch": self.epoch, "metrics": self.metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        metrics = state["metrics"]
        self.metrics = None if metrics is None else {str(name): float(value) for name, value in metrics.items()}
        self.weights, self.epoch = state["weights"], state["epoch"]


class TrialReport(Callback):
    """Tells a trial of Optuna the validation loss after every epoch, and ends the training when it is to be pruned."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if "validation/loss" not in metrics:
            raise ConfigError("trial: needs the loss on validation data, and there are none")
        self.trial.report(metrics["validation/loss"], trainer.epoch)
        if self.trial.should_prune():
            raise _pruned()(f"after epoch {trainer.epoch}")


class TrialPruned(Exception):
    """A trial that is not of Optuna has ended the training."""


def _pruned() -> type[Exception]:
    try:
        from optuna import TrialPruned as OfOptuna
    except ImportError:
        return TrialPruned
    return OfOptuna
