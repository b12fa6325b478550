"""Callbacks of training on data: the best weights are kept, and training ends when it no longer helps."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from qsr.hparams import ConfigError, nearest
from qsr.runs import save_weights
from qsr.training.protocols import Callback, Metrics
from qsr.training.settings import CheckpointHparams, EarlyStoppingHparams
from qsr.training.trainer import Trainer

logger = logging.getLogger(__name__)

BEST = "best"  # folder of the run directory
_STEM = r"[\w.=+\-]+"
_FILE = re.compile(rf"{_STEM}\.safetensors")
_WIDTH = re.compile(r"\d{4}")  # of a number: more characters than a file name can have


def watched(metrics: Metrics, monitor: str, setting: str) -> float | None:
    """A metric; None in an epoch without evaluation.

    Raises:
        ConfigError: if there was one, and it did not give this metric.
    """
    if monitor in metrics:
        return metrics[monitor]
    if monitor.startswith("validation/") and not any(name.startswith("validation/") for name in metrics):
        return None
    raise ConfigError(f"{setting}.monitor={monitor}: no such metric{nearest(monitor, metrics)}")


class EarlyStopping(Callback):
    """Ends a fit after `patience` evaluations in a row that were not better, or at once at a threshold.

    Raises:
        ConfigError: from the first evaluation on, for a metric that there is not.
    """

    def __init__(self, settings: EarlyStoppingHparams) -> None:
        self.settings = settings
        self.best: float | None = None
        self.waited = 0
        self.reason = ""
        self._weights: dict[str, Tensor] | None = None

    def on_fit_start(self, trainer: Trainer) -> None:
        trainer.stopped = trainer.stopped or self.reason  # a run that is resumed after it has ended

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        value = watched(metrics, self.settings.monitor, "early_stopping")
        if value is None:
            return
        self.reason = self._verdict(value, trainer)
        if self.reason:
            logger.info("epoch %d: training stops, %s", trainer.epoch, self.reason)
            trainer.stopped = self.reason

    def _verdict(self, value: float, trainer: Trainer) -> str:
        settings = self.settings
        where = f"{settings.monitor}={value:g}"
        if not math.isfinite(value):
            return f"{where} is not finite" if settings.check_finite else ""
        sign = 1 if settings.mode == "min" else -1
        if self.best is None or sign * (self.best - value) > settings.min_delta:
            self.best, self.waited = value, 0
            if settings.restore_best_weights:
                self._weights = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
        else:
            self.waited += 1
        if settings.verbose:
            verdict = f"not better than {self.best:g}, {self.waited} of {settings.patience}" if self.waited else "the best so far"
            logger.info("epoch %d: %s, %s", trainer.epoch, where, verdict)
        if settings.stopping_threshold is not None and sign * (settings.stopping_threshold - value) > 0:
            return f"{where} is better than early_stopping.stopping_threshold={settings.stopping_threshold:g}"
        if settings.divergence_threshold is not None and sign * (value - settings.divergence_threshold) > 0:
            return f"{where} is worse than early_stopping.divergence_threshold={settings.divergence_threshold:g}"
        # Patience 0 stops at the first evaluation that is not better.
        if self.waited >= max(settings.patience, 1):
            return f"{settings.monitor} has not been better than {self.best:g} for {self.waited} evaluations"
        return ""

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._weights is not None:
            trainer.model.load_state_dict(self._weights)
            trainer.save_weights()
            logger.info("the weights of %s=%g are restored", self.settings.monitor, self.best)
        elif self.settings.restore_best_weights:
            logger.warning("%s was never finite: the last weights stay", self.settings.monitor)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "reason": self.reason, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = None if state["best"] is None else float(state["best"])
        self.waited, self.reason = state["waited"], state["reason"]
        self._weights = state["weights"]


class BestWeights(Callback):
    """Keeps the weights of the best epochs, and the newest, as safetensors files.

    Raises:
        ConfigError: from the first evaluation on, for a metric that there is not or a file name that cannot be made.
    """

    def __init__(self, settings: CheckpointHparams) -> None:
        self.settings = settings
        self.kept: list[tuple[float, str]] = []  # value and file, best first

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        settings = self.settings
        folder = self._folder(trainer)
        if folder is None or settings.every_n_epochs is None or trainer.epoch % settings.every_n_epochs:
            return
        if settings.save_last:
            save_weights(folder / "last.safetensors", trainer.model.state_dict())
        value: float | None = -float(trainer.epoch)
        if settings.monitor is not None and (settings.monitor in metrics or self._evaluates(trainer)):
            value = watched(metrics, settings.monitor, "checkpoint")
            value = value if value is None or settings.mode == "min" else -value
        if value is None or not math.isfinite(value) or settings.save_top_k == 0:
            return
        if settings.save_top_k > 0 and len(self.kept) == settings.save_top_k and value >= self.kept[-1][0]:
            return
        name = f"{self._name(trainer, metrics)}.safetensors"
        save_weights(folder / name, trainer.model.state_dict())
        self.kept = sorted([*((old, file) for old, file in self.kept if file != name), (value, name)])
        while 0 < settings.save_top_k < len(self.kept):
            (folder / self.kept.pop()[1]).unlink(missing_ok=True)

    def _evaluates(self, trainer: Trainer) -> bool:
        return getattr(trainer.objective, "validation", None) is not None

    def _folder(self, trainer: Trainer) -> Path | None:
        if self.settings.dirpath is not None:
            folder = Path(self.settings.dirpath)
        elif trainer.directory is not None:
            folder = trainer.directory.path / BEST
        else:
            return None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"checkpoint.dirpath={folder}: cannot be made ({error.strerror})") from None
        return folder

    def _name(self, trainer: Trainer, metrics: Metrics) -> str:
        return weights_name(self.settings.filename, trainer.epoch, trainer.step, metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [list(entry) for entry in self.kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        kept = [(float(value), str(name)) for value, name in state["kept"]]
        odd = next((name for _, name in kept if not _FILE.fullmatch(name)), None)
        if odd is not None:  # files of these names are removed when better ones come
            raise ConfigError(f"checkpoint: kept={odd!r:.60}: must be the name of a safetensors file")
        self.kept = kept


def weights_name(pattern: str | None, epoch: int, step: int, metrics: Metrics) -> str:
    """The name of a file of weights, without its ending: numbers in place of `{epoch:04d}`, `{val_loss:.2f}`, ...

    Metrics are called by their names with '/' written '_', `validation_` also `val_`. Nothing but numbers is put in.

    Raises:
        ConfigError: for a pattern that asks for something else.
    """
    known: dict[str, float] = {"epoch": epoch, "step": step}
    for name, value in metrics.items():
        known[name.replace("/", "_")] = value
        known[name.replace("/", "_").replace("validation_", "val_")] = value

    def number(field: re.Match[str]) -> str:
        if field["name"] not in known:
            raise ConfigError(f"checkpoint.filename={pattern}: no number {field['name']}{nearest(field['name'], known)}")
        if _WIDTH.search(field["format"] or ""):
            raise ConfigError(f"checkpoint.filename={pattern}: makes a name longer than files have")
        try:
            return format(known[field["name"]], field["format"] or "")
        except ValueError as error:
            raise ConfigError(f"checkpoint.filename={pattern}: {error}") from None

    name = re.sub(r"\{(?P<name>\w+)(?::(?P<format>[^{}]*))?\}", number, pattern or "{epoch:04d}")
    if not re.fullmatch(_STEM, name):
        raise ConfigError(f"checkpoint.filename={pattern}: makes {name!r}; letters, digits and . = + - _ are allowed")
    return name
