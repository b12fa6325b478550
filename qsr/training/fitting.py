"""What a fit of a model on data is made of: the objective, the stage, and a quick fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from qsr.hparams import ConfigError, RunSettings
from qsr.training.callbacks import EpochMetrics, ProgressBar
from qsr.training.data import DataLoaderHparams, PyTorchData
from qsr.training.device import find_device
from qsr.training.model import Model
from qsr.training.protocols import Callback
from qsr.training.schedule import Stage
from qsr.training.supervised import BatchSource, DatasetSource, LoaderSource, Supervised
from qsr.training.trainer import Trainer
from qsr.training.update import TorchUpdate

DEVICES = {"gpu": "cuda"}  # other words for them
PRECISIONS = {"32": "float32", "64": "float64", "16": "bf16", "bf16": "bf16"}


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
