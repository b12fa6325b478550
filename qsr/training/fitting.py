"""What a fit of a model on data is made of: the start that every fit has, the objective, the stage, and fits in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from qsr.hparams import ConfigError, RunSettings
from qsr.hparams.imports import dotted_name
from qsr.training.callbacks import EpochMetrics, ProgressBar
from qsr.training.data import DataLoaderHparams, PyTorchData
from qsr.training.determinism import prepare_determinism
from qsr.training.device import find_device
from qsr.training.model import Model
from qsr.training.protocols import Callback
from qsr.training.random import derived_seed, forked_generators
from qsr.training.schedule import Stage
from qsr.training.stopping import watched, weights_name
from qsr.training.supervised import BatchSource, DatasetSource, LoaderSource, Supervised, moved, numbers
from qsr.training.trainer import Trainer
from qsr.training.update import TorchUpdate

DEVICES = {"gpu": "cuda"}  # other words for them
PRECISIONS = {"32": "float32", "64": "float64", "16": "bf16", "bf16": "bf16"}


@dataclass(frozen=True)
class StartedFit:
    """All that a fit needs before its first step.

    Attributes:
        settings: resolved, with what only the data can tell.
        model: with its first weights, on its device; it has seen the training data (`Model.prepare_fit`).
        objective: the batches and the loss.
    """

    settings: RunSettings
    model: Model[Any]
    objective: Supervised


def started_fit(settings: RunSettings, data: Any, model: Model[Any] | None = None) -> StartedFit:
    """The start of a new fit.

    Args:
        data: a `PyTorchData`, or (training, validation) data sets or loaders.
        model: trained in place; None: a new one is made from the settings.

    Raises:
        ConfigError: for data that cannot be trained on, and settings that do not fit them.
    """
    objective = objective_of(settings, data)
    settings = fitted(settings, data, objective)
    model = new_model(settings) if model is None else placed(model, settings)
    with forked_generators(seed=derived_seed(settings.train.seed, "prepare")):
        model.prepare_fit(objective.training.batches(0, 0))
    check_monitors(settings, model, objective)
    return StartedFit(settings, model, objective)


def fitted(settings: RunSettings, data: Any, objective: Supervised) -> RunSettings:
    """The settings with what only the data can tell.

    Raises:
        ConfigError: for data that do not fit the model's settings.
    """
    with forked_generators():
        model = settings.model.fitted(data, next(iter(objective.training.batches(0, 0))))
    own = data.thparams if isinstance(data, PyTorchData) else settings.data
    return replace(settings, model=model, data=own)


def new_model(settings: RunSettings) -> Model[Any]:
    """The model of the settings with its initial weights, drawn from the run's seed alone, on the run's device."""
    with forked_generators(seed=derived_seed(settings.train.seed, "init")):
        return placed(settings.model.build(), settings)


def placed(model: Model[Any], settings: RunSettings) -> Model[Any]:
    """The model on the run's device, with the resolved settings."""
    model.thparams = settings.model
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"model: {dotted_name(type(model))} has no parameters to train")
    device = find_device(settings.train.device)
    prepare_determinism(settings.train.deterministic, device)
    return model.to(device, getattr(torch, settings.train.number_format))


def check_monitors(settings: RunSettings, model: Model[Any], objective: Supervised) -> None:
    """Whether what is watched will be there, by an evaluation of one batch.

    Raises:
        ConfigError: naming the setting that asks for something else.
    """
    evaluated = objective.validation is not None and settings.train.check_val_every_n_epoch <= settings.train.max_epochs
    watching = {"early_stopping": settings.early_stopping}
    if settings.scheduler.name == "ReduceLROnPlateau":
        watching["scheduler"] = settings.scheduler
    if evaluated and settings.checkpoint.monitor is not None:
        watching["checkpoint"] = settings.checkpoint
    with forked_generators():
        names = objective.evaluate(model, objective.validation or objective.training, "validation", batches=1)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # a batch norm counts this batch
        model.train()
        with torch.no_grad():
            model.training_step(moved(next(iter(objective.training.batches(0, 0))), model), 0)
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    metrics = {**(names if evaluated else {}), **model.finish_metrics(numbers(model.logged))}
    for name, section in watching.items():
        if section is None:
            continue
        if section.monitor.startswith("validation/") and not evaluated:
            raise ConfigError(f"{name}.monitor={section.monitor}: there is never an evaluation on validation data in this run")
        watched(metrics, section.monitor, name)
    weights_name(settings.checkpoint.filename, 0, 0, metrics)


def source(data: Any, loader: DataLoaderHparams, seed: int, training: bool) -> BatchSource:
    """Batches of a data set, or of a loader that is there already."""
    if isinstance(data, torch.utils.data.Dataset):
        return DatasetSource(data, loader, seed, training)
    return LoaderSource(data, seed)


def objective_of(settings: RunSettings, data: Any) -> Supervised:
    """The objective of a run on data.

    Args:
        data: a `PyTorchData`, or a sequence of data sets or loaders for training and validation.

    Raises:
        ConfigError: for data that cannot be trained on.
    """
    if isinstance(data, PyTorchData):
        parts: Sequence[Any] = (data.train, data.val)
        loader = data.thparams.loader or DataLoaderHparams()
    else:
        parts, loader = data, DataLoaderHparams()
    if not isinstance(parts, (tuple, list)) or not 1 <= len(parts) <= 3:
        raise ConfigError(
            f"data: expected PyTorchData, or (training, validation) data sets or loaders, found {type(data).__name__}"
        )
    train = settings.train
    validation = parts[1] if len(parts) > 1 else None
    return Supervised(
        source(parts[0], loader, train.seed, training=True),
        None if validation is None else source(validation, loader, train.seed, training=False),
        train.seed,
        train.Q,
        train.check_val_every_n_epoch,
        torch.bfloat16 if train.precision == "bf16" else None,
    )


def stage_of(settings: RunSettings, objective: Supervised) -> Stage:
    """All steps of the run."""
    return Stage(0, settings.train.max_epochs * objective.steps_per_epoch)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """torch's rounding of float32 matrix products, put back on exit."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def train_in_memory(started: StartedFit, callbacks: Sequence[Callback]) -> None:
    """Train to the end; nothing is written, and the model is in evaluation mode then.

    Args:
        callbacks: beside those of `Model.configure_callbacks`.
    """
    settings, model, objective = started.settings, started.model, started.objective
    stage = stage_of(settings, objective)
    watching = [*model.configure_callbacks(), *callbacks]
    rule = model.configure_update(settings, stage)
    with matmul_precision(settings.model.matmul_precision):
        Trainer(model, objective, rule, watching, settings, None, stage).fit()


def fit_in_memory(
    model: Model[Any],
    train_loader: Any,
    val_loader: Any,
    n_epochs: int,
    lr: float,
    accelerator: str,
    precision: str | int,
    verbose: bool,
) -> dict[str, float]:
    """`Model.fit_fast`."""
    if str(precision) not in PRECISIONS:
        raise ConfigError(f"precision={precision}: must be one of {', '.join(PRECISIONS)}")
    if isinstance(train_loader, PyTorchData):
        raise ConfigError("fit_fast: expected loaders, found PyTorchData; give data.train_loader and data.val_loader")
    device = str(find_device(DEVICES.get(accelerator, accelerator), "accelerator"))
    name = PRECISIONS[str(precision)]
    settings = RunSettings.from_tree(
        {
            "model": {"type": "model", "module_name": model.thparams.module_name, **model.thparams.own_settings()},
            "train": {"max_epochs": n_epochs, "lr": lr, "dir": "<NONE>", "precision": name, "device": device},
        }
    )
    parts = (train_loader,) if val_loader is None else (train_loader, val_loader)
    objective = objective_of(settings, parts)
    model.to(device, torch.float64 if name == "float64" else torch.float32)
    stage = stage_of(settings, objective)
    metrics = EpochMetrics()
    callbacks: list[Callback] = [metrics, *([ProgressBar()] if verbose else [])]
    Trainer(model, objective, TorchUpdate(model, settings, stage), callbacks, settings, None, stage).fit()
    return metrics.last
