"""What watches a fit: the history file, the progress bar, and the lines of the log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from qsr.estimators.statistics import Estimate
from qsr.runs import History
from qsr.training.model import Model
from qsr.training.protocols import Callback, Metrics
from qsr.training.trainer import Trainer

logger = logging.getLogger(__name__)


class HistoryWriter(Callback):
    """A row of the run's history for every step, and for every epoch of data; cut back when the run goes back to a checkpoint.

    Columns have the names of the metrics with '/' written '_'.

    Args:
        energy_unit: what energies are in units of ("Omega").
        num_sites: N, which is not the same in all stages of a curriculum; a column of its own. None for models on data.
    """

    def __init__(self, history: History, energy_unit: str = "", num_sites: int | None = None) -> None:
        self.history = history
        self.sites = {} if num_sites is None else {"sites": num_sites}
        history.units.update(dict.fromkeys(("energy", "energy_error"), energy_unit), variance=f"{energy_unit}^2")
        history.units.update(kl="nat", kl_variance="nat^2", nll="nat", nll_error="nat", seconds="s")
        self._clock = time.perf_counter()

    def on_fit_start(self, trainer: Trainer) -> None:
        self._clock = time.perf_counter()

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        now = time.perf_counter()
        self.history.append("steps", {"step": trainer.step, **self.sites, **columns(metrics), "seconds": now - self._clock})
        self._clock = now

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self.history.append("epochs", {"epoch": trainer.epoch, "step": trainer.step, **columns(metrics)})

    def on_checkpoint(self, trainer: Trainer) -> None:
        self.history.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        self.history.merge()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.history.length("steps"), "epochs": self.history.length("epochs")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history.truncate(state)


class EpochMetrics(Callback):
    """Keeps the metrics of every epoch.

    Attributes:
        epochs: by name, one after the other; cut back when the run goes back to a checkpoint.
    """

    def __init__(self) -> None:
        self.epochs: list[Metrics] = []

    @property
    def last(self) -> Metrics:
        """Of the last epoch."""
        return self.epochs[-1] if self.epochs else {}

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self.epochs.append(dict(metrics))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del self.epochs[state["epochs"] :]

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": len(self.epochs)}


def columns(metrics: Metrics) -> Metrics:
    """Metrics by the names of their columns."""
    return {name.replace("/", "_"): value for name, value in metrics.items()}


def describe(metrics: Metrics, num_sites: int | None, samples: int, shown: Sequence[str] = ()) -> str:
    """One line of progress: energy per site with error and variance, divergence from a teacher, -log p of a snapshot, or losses.

    Args:
        shown: of the metrics of a model on data, by their names without the phase; none: all.
    """
    if "energy" in metrics and num_sites is not None:
        energy = Estimate(metrics["energy"] / num_sites, metrics["energy_error"] / num_sites)
        flips = f" flips={metrics['flips']}+window {metrics['window']}" if metrics.get("flips") else ""
        return f"E/N={energy} Var/N={metrics['variance'] / num_sites:.2e}{flips}"
    if "kl" in metrics:
        return f"KL={Estimate(metrics['kl'], math.sqrt(max(metrics['kl_variance'], 0.0) / samples))}"
    if "nll" in metrics:
        return f"NLL={Estimate(metrics['nll'], metrics['nll_error'])}"
    named = {name: value for name, value in metrics.items() if "/" in name and (not shown or name.partition("/")[2] in shown)}
    return " ".join(f"{name}={value:.5g}" for name, value in named.items())


def shown_of(trainer: Trainer) -> tuple[str, ...]:
    """The metrics that a model on data wants to be shown."""
    return trainer.model.shown if isinstance(trainer.model, Model) else ()


class HeldOut(Callback):
    """Keeps what samplers reach on snapshots that are held back, for the lines of progress."""

    def __init__(self) -> None:
        self.held_out = ""

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if "validation/loss_error" in metrics:
            self.held_out = f" held back: {Estimate(metrics['validation/loss'], metrics['validation/loss_error'])}"


class ProgressBar(HeldOut):
    """A bar on the terminal with energy, error, variance (or losses) and the time left."""

    def __init__(self, num_sites: int | None = None) -> None:
        super().__init__()
        self.num_sites = num_sites
        self.bar: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        self.bar = tqdm(total=trainer.steps, initial=trainer.step, unit="step", dynamic_ncols=True, mininterval=0.5)

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        line = describe(metrics, self.num_sites, trainer.settings.train.B, shown_of(trainer))
        self.bar.set_postfix_str(line + self.held_out, refresh=False)
        self.bar.update(trainer.step - self.bar.n)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self._close()

    def on_fit_end(self, trainer: Trainer) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class ProgressLog(HeldOut):
    """A log line about twenty times a run, for output.txt and for terminals without a bar; models on data: one per epoch."""

    def __init__(self, num_sites: int | None = None) -> None:
        super().__init__()
        self.num_sites = num_sites

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if self.num_sites is not None and trainer.step % max(1, trainer.steps // 20) == 0:
            line = describe(metrics, self.num_sites, trainer.settings.train.B)
            logger.info("step %d/%d  %s%s", trainer.step, trainer.steps, line, self.held_out)

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if self.num_sites is not None:
            return super().on_validation_end(trainer, metrics)
        epochs = trainer.settings.train.max_epochs
        if trainer.epoch % max(1, epochs // 100) == 0 or trainer.epoch == epochs:
            logger.info("epoch %d/%d  %s", trainer.epoch, epochs, describe(metrics, None, 0, shown_of(trainer)))
        return None
