"""Where metrics go beside the run's history.h5: a CSV file, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import importlib
import io
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.hparams.bounded import open_regular, parsing
from qsr.runs import RunDirectory, replacing
from qsr.runs.files import check_own, remove_leftovers
from qsr.training.protocols import Callback, EpochObjective, Metrics
from qsr.training.trainer import Trainer

logger = logging.getLogger(__name__)

ROWS_KEPT = 100  # of a CSV file before they are written
_STEP = re.compile(r"[0-9]{1,18}")
MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}  # that a kind of logger imports
FLUSH_SECONDS = 2  # until events are on disk, where `tensorboard` shows them; what a kill may lose


class LoggerHparams(Hparams):
    """Where metrics go beside history.h5, which every run has."""

    section: ClassVar[str] = "logger"

    kind: Literal["none", "csv", "tensorboard", "wandb"] = Hparam(
        "none", help="csv: metrics.csv; tensorboard and wandb need the packages (pip install 'qsr[tensorboard]', 'qsr[wandb]')"
    )
    name: str = Hparam("", help="of the run, as the logger shows it; empty: its directory")
    save_dir: str = Hparam("", help="where the files go, in a folder for every run; empty: the run directory")
    version: str | None = Hparam(None, help="identifier of the run in Weights & Biases, to go on with an earlier one")
    offline: bool = Hparam(True, help="Weights & Biases: keep everything on this machine (wandb sync sends it later)")
    project: str | None = Hparam(None, help="Weights & Biases: the project")
    log_model: bool = Hparam(False, help="Weights & Biases: store the final weights as an artifact")


class MetricLogger(Protocol):
    """What a logger does."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of a step."""

    def save(self) -> None:
        """Put what there is on disk, with a checkpoint of the run."""

    def flush(self) -> None:
        """Put what there is where the logger of the next stage of a curriculum goes on."""

    def close(self, weights: Path | None) -> None:
        """Write what is left; the final weights, if they are in a file."""


class CsvLogger:
    """metrics.csv: a row per step, a column per metric.

    Rows are appended; a run that goes back, and columns that turn up later, rewrite the file.

    Args:
        resume: go on with the rows that are there; without it they must not be.

    Raises:
        ConfigError: for the file of another run.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.columns: list[str] = []
        self.waiting: list[dict[str, str]] = []
        self.last = -1  # step of the last row
        check_own(path)
        if path.exists():
            if not resume:
                raise ConfigError(f"logger.save_dir={path.parent}: has the metrics.csv of another run; choose another directory")
            remove_leftovers(path)
            self._rewrite()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step <= self.last:  # the run has gone back to a checkpoint
            self.save()
            self._rewrite(before=step)
        self.waiting.append({"step": str(step), **{name: repr(float(value)) for name, value in metrics.items()}})
        self.last = step
        if len(self.waiting) >= ROWS_KEPT:
            self.save()

    def save(self) -> None:
        if not self.waiting:
            return
        fresh = [name for name in dict.fromkeys(key for row in self.waiting for key in row) if name not in self.columns]
        if fresh:
            self.columns += fresh
            self._rewrite()
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="").writerows(self.waiting)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())
        self.last = int(self.waiting[-1]["step"])
        self.waiting = []

    def flush(self) -> None:
        self.save()

    def close(self, weights: Path | None) -> None:
        self.save()

    def _rewrite(self, before: float = math.inf) -> None:
        """Write whole rows of earlier steps anew, under all columns; what a crash tore off at the end is left out."""
        rows = self._rows()
        self.columns = list(dict.fromkeys([*next(rows), *self.columns]))
        self.last = -1
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            for row in rows:
                if (step := int(row["step"])) < before:
                    writer.writerow(row)
                    self.last = step

    def _rows(self) -> Iterator[dict[str, str]]:
        """The names of the columns, as one row, and then the rows of the file: one at a time, there may be millions."""
        if not self.path.exists():
            yield {}
            return
        with parsing(self.path, "no metrics of a run"), open_regular(self.path) as raw:
            lines = io.TextIOWrapper(raw, encoding="utf-8", newline="")
            reader = csv.DictReader(line for line in lines if line.endswith("\n"))
            yield dict.fromkeys(reader.fieldnames or (), "")
            for row in reader:
                if None in row or None in row.values() or not _STEP.fullmatch(row["step"]):
                    raise ValueError("expected a column of whole numbers 'step', and equally long rows")
                yield row


class TensorBoardLogger:
    """Event files that `tensorboard --logdir` shows, also while the run goes on.

    A run that goes back to a checkpoint, or is resumed from one, begins another file, which takes back what earlier ones have
    from that step on (`purge_step`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = _package("tensorboard")
        self.writer: Any = None
        self.last = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self.writer is None or step <= self.last:
            self.close(None)
            self.writer = self.package.SummaryWriter(str(self.folder), purge_step=step, flush_secs=FLUSH_SECONDS)
        self.last = step
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def save(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def flush(self) -> None:
        self.close(None)

    def close(self, weights: Path | None) -> None:
        if self.writer is not None:
            self.writer.close()


class WandbLogger:
    """A run of Weights & Biases, on this machine unless `offline=False`."""

    def __init__(self, folder: Path, settings: LoggerHparams, config: dict[str, Any]) -> None:
        self.wandb = _package("wandb")
        self.settings = settings
        self.run = self.wandb.init(
            project=settings.project,
            name=settings.name or None,
            id=settings.version,
            resume="allow" if settings.version else None,
            dir=str(folder),
            mode="offline" if settings.offline else "online",
            config=config,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log(dict(metrics), step=step)

    def save(self) -> None:
        """The package writes by itself."""

    def flush(self) -> None:
        """The package has one run in a process, and goes on with it."""

    def close(self, weights: Path | None) -> None:
        if self.settings.log_model and weights is not None:
            artifact = self.wandb.Artifact(f"model-{self.run.id}", type="model")
            artifact.add_file(str(weights))
            self.run.log_artifact(artifact)
        self.run.finish()


def metric_logger(
    settings: LoggerHparams, directory: RunDirectory | None, config: dict[str, Any], resume: bool
) -> MetricLogger | None:
    """The logger that the settings ask for.

    Args:
        directory: of the run; None needs `save_dir`.
        config: all settings of the run.
        resume: go on with what is there.

    Raises:
        ConfigError: if its package is not installed, or there is no place for its files.
    """
    if settings.kind == "none":
        return None
    if not settings.save_dir and directory is None:
        raise ConfigError(f"logger.kind={settings.kind}: give logger.save_dir; this run has no directory")
    folder = Path(settings.save_dir)
    if directory is not None:  # runs that share `save_dir` have folders of their own in it
        folder = folder.joinpath(*directory.path.parts[-3:]) if settings.save_dir else directory.path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"logger.save_dir={folder}: cannot be made ({error.strerror})") from None
    if settings.kind == "csv":
        return CsvLogger(folder / "metrics.csv", resume)
    if settings.kind == "tensorboard":
        return TensorBoardLogger(folder / "tensorboard" / settings.name)
    return WandbLogger(folder, settings, config)


class LoggerCallback(Callback):
    """Hands the metrics of steps (of models on data: of epochs, too) to a logger."""

    def __init__(self, target: MetricLogger) -> None:
        self.target = target

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if not isinstance(trainer.objective, EpochObjective):
            self.target.log(metrics, trainer.step)

    def on_validation_end(self, trainer: Trainer, metrics: Metrics) -> None:
        self.target.log({**metrics, "epoch": trainer.epoch, "lr": trainer.update_rule.rate}, trainer.step)

    def on_checkpoint(self, trainer: Trainer) -> None:
        self.target.save()

    def on_fit_end(self, trainer: Trainer) -> None:
        if not trainer.stage.final:
            self.target.flush()
        else:
            file = None if trainer.directory is None else trainer.directory.weights_file
            self.target.close(file if file is not None and file.exists() else None)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.target.close(None)


def check_logger(settings: LoggerHparams) -> None:
    """Before there is a directory for its run.

    Raises:
        ConfigError: if the package of this kind of logger is not installed; it names the extra.
    """
    if settings.kind in MODULES:
        _package(settings.kind)


def _package(kind: str) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")  # its greeting would go into the terminal between our lines
    try:
        return importlib.import_module(MODULES[kind])
    except ImportError:
        raise ConfigError(f"logger.kind={kind}: the package {kind} is not installed; pip install 'qsr[{kind}]'") from None
