"""Training and evaluating a model on data: what `qsr train` and `qsr load` do for models of a user's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsr.hparams import ConfigError, RunSettings, hparams_class
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.run import Run, Section, check_writable, given_sections, path_of, warn_of_changes
from qsr.runs import RunDirectory, StoredRun, bounded_by, read_run, restore_model, write_atomically
from qsr.training import Callback, HistoryWriter, ProgressBar, ProgressLog, Trainer
from qsr.training.data import DataLoaderHparams, PyTorchData
from qsr.training.device import find_device
from qsr.training.fitting import StartedFit, matmul_precision, new_model, objective_of, source, stage_of, started_fit
from qsr.training.loggers import LoggerCallback, check_logger, metric_logger
from qsr.training.logs import locked, logged
from qsr.training.model import Model
from qsr.training.rate import ScheduledStep
from qsr.training.wall_time import deadline

logger = logging.getLogger(__name__)


def fit(
    model: Model[Any] | Section,
    data: Any = None,
    train: Section = None,
    *,
    optimizer: Section = None,
    scheduler: Section = None,
    gradient_clipping: Section = None,
    checkpoint: Section = None,
    early_stopping: Section = None,
    loss: Section = None,
    logger: Section = None,
    extra: Mapping[str, Any] | None = None,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a model on data.

    Args:
        model: a `Model`, trained in place; or its settings, with `module_name`.
        data: a `PyTorchData`, or (training, validation) data sets or loaders; or settings with `module_name`.
        train: max_epochs, rate, seed, output directory; `Q` batches make a step.
        optimizer, scheduler, checkpoint, early_stopping, loss: as in the model's settings, which they must not contradict.
        extra: free keys, kept in settings.json.
        progress: show a bar on stderr.
        callbacks: called at every hook, after those of `Model.configure_callbacks`.

    Raises:
        ConfigError: for settings that cannot be run, before any work.
        RunFailed: if the loss stays non-finite.
        Interrupted: on a signal, or when `max_time` has passed, with everything saved.
    """
    given = given_sections(
        train=train,
        optimizer=optimizer,
        scheduler=scheduler,
        gradient_clipping=gradient_clipping,
        checkpoint=checkpoint,
        early_stopping=early_stopping,
        loss=loss,
        logger=logger,
        extra=extra,
    )
    given["model"] = model.thparams if isinstance(model, Model) else model
    if isinstance(data, PyTorchData):
        given["data"] = data.thparams
    elif _is_section(data):
        given["data"] = data
    settings = RunSettings.from_tree(given)
    ready = data if data is not None and not _is_section(data) else None
    return start_fit(settings, model if isinstance(model, Model) else None, ready, progress, callbacks)


def start_fit(
    settings: RunSettings,
    model: Model[Any] | None = None,
    data: Any = None,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """A new run; the model and the data are made from their settings if they are not there."""
    started = started_fit(settings, data_of(settings) if data is None else data, model)
    stage = stage_of(started.settings, started.objective)
    started.model.configure_update(started.settings, stage)  # may refuse its arguments: before there is a directory
    check_logger(started.settings.logger)
    directory = RunDirectory.claim(started.settings)
    with locked(directory):
        return _run(started, directory, progress, False, callbacks)


def resume_fit(settings: RunSettings, directory: RunDirectory, data: Any, progress: bool, callbacks: Sequence[Callback]) -> Run:
    """Go on with a run; the directory must be locked."""
    data = data_of(settings) if data is None else data
    if isinstance(data, PyTorchData):
        data.check_same(settings.data)
    objective = objective_of(settings, data)
    with bounded_by(directory):
        model = new_model(settings)
    return _run(StartedFit(settings, model, objective), directory, progress, True, callbacks)


def data_of(settings: RunSettings) -> PyTorchData[Any]:
    """The data that the settings name.

    Raises:
        ConfigError: if they name none.
    """
    named: Any = hparams_class(settings.model.data_section)() if settings.data is None else settings.data
    found: PyTorchData[Any] = named.build()
    return found


def _run(started: StartedFit, directory: RunDirectory | None, progress: bool, resume: bool, watching: Sequence[Callback]) -> Run:
    settings, model, objective = started.settings, started.model, started.objective
    keep_freed_memory()
    stage = stage_of(settings, objective)
    callbacks: list[Callback] = [] if directory is None else [HistoryWriter(directory.history)]
    callbacks += [ProgressLog(), *([ProgressBar()] if progress else [])]
    callbacks += model.configure_callbacks()
    target = metric_logger(settings.logger, directory, settings.tree(), resume)
    callbacks += [] if target is None else [LoggerCallback(target)]  # after what may put other weights in place
    callbacks += watching
    update = model.configure_update(settings, stage)
    until = deadline(settings.train.max_time)
    trainer = Trainer(model, objective, update, callbacks, settings, directory, stage, until=until)
    with logged(directory), matmul_precision(settings.model.matmul_precision):
        if resume:
            trainer.resume()
            warn_of_changes(directory)
            logger.info("resuming %s at step %d of %d", directory.path if directory else "", trainer.step, trainer.steps)
        else:
            trainer.checkpoint()
            if directory is not None:
                directory.write_settings(settings)
                logger.info("run directory %s", directory.path)
            train, rule = settings.train, trainer.update_rule
            follows = isinstance(rule, ScheduledStep)
            how = f"{settings.optimizer.name}, lr={train.lr:g}, {settings.scheduler.name}" if follows else type(rule).__name__
            for line in model.describe_data(objective):
                logger.info("%s", line)
            logger.info("%s with %d parameters in %s", type(model).__name__, model.num_params, train.precision)
            logger.info("%d epochs of %d steps, %s, seed=%d", train.max_epochs, objective.steps_per_epoch, how, train.seed)
        trainer.fit()
    return Run(None if directory is None else directory.path, settings, model)


@dataclass(frozen=True)
class DataEvaluation:
    """Metrics of a trained model on data that it was not trained on.

    Attributes:
        metrics: means over the samples, by name (`test/loss`).
        samples: how many there were.
        part: which data: test, or validation where there is no test data.
    """

    metrics: dict[str, float]
    samples: int
    part: str

    def lines(self) -> list[str]:
        """A table for the terminal."""
        width = max(len(name) for name in self.metrics)
        return [
            f"{self.samples} samples of the {self.part} data",
            *(f"{name:<{width}}  {v:.6g}" for name, v in self.metrics.items()),
        ]


def evaluate_on_data(
    run: StoredRun | str | Path | Run,
    data: Any = None,
    *,
    device: str = "auto",
    output: str | Path | None = None,
    write: bool = False,
) -> DataEvaluation:
    """Metrics of a run's model on its test data (validation data, if there is none).

    Args:
        run: a run directory, or the result of `fit`.
        data: a `PyTorchData`; default: that of the run's settings.
        output: directory for `evaluation.txt`; default the run's own.
        write: whether to write it.

    Raises:
        ConfigError: as `load_model`; also if the run does not say where its data come from.
    """
    stored = run if isinstance(run, StoredRun) else read_run(path_of(run))
    if not stored.settings.on_data:
        raise ConfigError(f"{stored.path}: is a run of a sampler; use evaluate")
    target = Path(output or stored.path)
    if write:
        check_writable(target)
    tested = _tested_graphs if stored.settings.model.section == "graph_run" else _tested
    result = tested(stored, data, device)
    if write:
        write_atomically(target / "evaluation.txt", "\n".join(result.lines()) + "\n")
    return result


def _tested(stored: StoredRun, data: Any, device: str) -> DataEvaluation:
    model: Model[Any] = restore_model(stored, find_device(device, "device"))
    found: PyTorchData[Any] = data_of(stored.settings) if data is None else data
    found.check_like(stored.settings.data)
    parts = {"test": found.test, "validation": found.val}
    part, dataset = next(((name, rows) for name, rows in parts.items() if rows is not None), ("", None))
    if dataset is None:
        shares = found.thparams.split
        raise ConfigError(f"{stored.path}: data.split={shares} holds no data back; evaluate on new ones with --data")
    batches = source(dataset, found.thparams.loader or DataLoaderHparams(), stored.settings.train.seed, training=False)
    objective = objective_of(stored.settings, found)
    with matmul_precision(stored.settings.model.matmul_precision):
        metrics = objective.evaluate(model, batches, part)
    return DataEvaluation(metrics, len(dataset), part)


def _tested_graphs(stored: StoredRun, data: Any, device: str) -> DataEvaluation:
    from qsr.jobs.graph_runs import evaluate_graphs

    columns, samples = evaluate_graphs(stored.path, data, device)
    return DataEvaluation({f"test/{name}": value for name, value in columns.items()}, samples, "test")


def _is_section(data: Any) -> bool:
    return isinstance(data, Mapping)
