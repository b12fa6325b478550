"""The call of the QCML client that runs an experiment, answered by a run on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qsr.hparams import ConfigError, RunSettings, nearest
from qsr.hsm.hyperparameters import ModelHyperparameters
from qsr.jobs.fit import evaluate_on_data, start_fit
from qsr.jobs.run import Run
from qsr.runs import RunDirectory, StoredRun
from qsr.training import Callback, Trainer
from qsr.training.protocols import Metrics
from qsr.training.table import Table

logger = logging.getLogger(__name__)

EXPERIMENT = "pytorch-models"
ENDINGS = (".csv", ".tsv", ".parquet", ".h5")
PARAMETERS = ("hyperparameters", "cpu_count", "memory", "timeout", "gpu_type")


class TimeLimit(Callback):
    """Ends a fit after the step in which so many seconds have passed since it began."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._end = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        self._end = time.monotonic() + self.seconds

    def on_step_end(self, trainer: Trainer, metrics: Metrics) -> None:
        if time.monotonic() > self._end:
            self.passed = True
            trainer.stopped = f"the time limit of {self.seconds:g} s has passed"
            logger.info("%s", trainer.stopped)


@dataclass(frozen=True)
class Experiment:
    """A run that has ended.

    Attributes:
        name, description: as given.
        run: its directory, settings and model.
        metrics: see `metrics_of`.
        status: completed, or timeout.
    """

    name: str
    description: str
    run: Run
    metrics: dict[str, Any]
    status: str = "completed"


class ExperimentClient:
    """Runs experiments here; there is no server and nothing is sent anywhere.

    Args:
        api_key: ignored, with a note.
        datasets: the directory of tables that are known by their names (`my-dataset` is my-dataset.csv, .tsv, .parquet or
            .h5), or a mapping of names to files or frames.
        directory: where runs go.
    """

    def __init__(
        self, api_key: str | None = None, datasets: str | Path | Mapping[str, Any] = ".", directory: str | Path = "runs"
    ) -> None:
        if api_key is not None:
            logger.info("api_key is not needed: experiments run on this machine")
        self.datasets = datasets
        self.directory = directory

    async def run_experiment(
        self,
        name: str,
        description: str = "",
        *,
        experiment_name: str = EXPERIMENT,
        dataset_name: str,
        environment_name: str | None = None,
        parameters: Mapping[str, Any],
    ) -> Experiment:
        """Train and test a model; the event loop waits while it runs.

        Args:
            name: becomes part of the run's directory.
            experiment_name: pytorch-models is the only one.
            dataset_name: see `datasets`.
            environment_name: ignored, with a note; this Python is used.
            parameters: `hyperparameters` (a `ModelHyperparameters`); `cpu_count`, the number of threads; `timeout` in seconds,
                after which training ends with what it has; `memory` in MiB and `gpu_type`, compared with this machine's.

        Raises:
            ConfigError: for another experiment, a table that is not there, parameters that are unknown or out of bounds, and as
                `qsr.fit`.
        """
        await asyncio.sleep(0)
        if experiment_name != EXPERIMENT:
            raise ConfigError(f"experiment_name={experiment_name}: unknown experiment; the one that runs here is {EXPERIMENT}")
        if environment_name is not None:
            logger.info("environment_name=%s: not needed, this Python is used", environment_name)
        config = _hyperparameters(parameters)
        threads, limit = _positive(parameters, "cpu_count"), _positive(parameters, "timeout")
        _compare_machine(parameters)
        tree = config.tree()
        tree["train"] |= {"dir": str(self.directory), "sub_directory": _part_of_a_path(name)}
        tree["extra"] = {"name": name, "description": description}
        source = self._dataset(dataset_name)
        if isinstance(source, (str, Path)):
            tree["data"]["file"] = str(source)
        settings = RunSettings.from_tree(tree)
        before = torch.get_num_threads()
        try:
            if threads is not None:
                torch.set_num_threads(int(threads))
            data = Table(settings.data, None if isinstance(source, (str, Path)) else source)
            began = time.monotonic()
            limits = [] if limit is None else [TimeLimit(limit)]
            run = start_fit(settings, data=data, callbacks=limits)
            metrics = metrics_of(run, data, time.monotonic() - began)
        finally:
            torch.set_num_threads(before)
        return Experiment(name, description, run, metrics, "timeout" if any(limit.passed for limit in limits) else "completed")

    def _dataset(self, name: str) -> Any:
        if not isinstance(name, str):
            raise ConfigError(
                f"dataset_name: must be a name, found {type(name).__name__}; ExperimentClient(datasets={{name: frame}})"
            )
        if isinstance(self.datasets, Mapping):
            if name not in self.datasets:
                raise ConfigError(f"dataset_name={name}: unknown{nearest(name, self.datasets)}")
            return self.datasets[name]
        folder = Path(self.datasets)
        for file in (folder / name, *(folder / f"{name}{ending}" for ending in ENDINGS)):
            if file.is_file():
                return file
        raise ConfigError(f"dataset_name={name}: no file {name} in {folder}, with the ending {', '.join(ENDINGS)} or none")


def metrics_of(run: Run, data: Table, seconds: float) -> dict[str, Any]:
    """What is known of a run that has ended, under the names that the QCML client gives.

    `test_loss`, `train_loss_history`, `val_loss_history` (one number an epoch), `final_train_loss`, `final_val_loss`,
    `best_val_loss`, `epochs_completed`, `train_dataset_size`, `val_dataset_size`, `test_dataset_size`, `total_training_time`
    and `avg_epoch_time` in seconds, and every metric of the test data as `test_...`. None for parts that hold no rows.
    """
    assert run.path is not None
    epochs = RunDirectory(run.path).history.read("epochs")
    train, val = ([float(value) for value in epochs.get(f"{part}_loss", [])] for part in ("training", "validation"))
    stored = StoredRun(run.settings, run.model.state_dict(), run.path)
    tested = {} if data.test is None else evaluate_on_data(stored, data).metrics
    return {
        "test_loss": None,
        **{name.replace("/", "_"): value for name, value in tested.items()},
        "train_loss_history": train,
        "val_loss_history": val,
        "final_train_loss": train[-1] if train else None,
        "final_val_loss": val[-1] if val else None,
        "best_val_loss": min(val) if val else None,
        "epochs_completed": len(train),
        "train_dataset_size": len(data.train),
        "val_dataset_size": 0 if data.val is None else len(data.val),
        "test_dataset_size": 0 if data.test is None else len(data.test),
        "total_training_time": seconds,
        "avg_epoch_time": seconds / max(len(train), 1),
    }


def _hyperparameters(parameters: Mapping[str, Any]) -> ModelHyperparameters:
    for name in parameters:
        if name not in PARAMETERS:
            raise ConfigError(f"parameters.{name}: unknown parameter{nearest(name, PARAMETERS)}")
    config = parameters.get("hyperparameters")
    if config is None:
        raise ConfigError("Hyperparameters must be provided: parameters.hyperparameters is missing")
    if not isinstance(config, ModelHyperparameters):
        raise ConfigError(f"parameters.hyperparameters: expected a ModelHyperparameters, found {type(config).__name__}")
    return config


def _positive(parameters: Mapping[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f"parameters.{name}={value!r}: must be a number greater than 0")
    return float(value)


def _compare_machine(parameters: Mapping[str, Any]) -> None:
    """Say where this machine has less than what was asked for."""
    wanted = _positive(parameters, "memory")
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 if hasattr(os, "sysconf") else None
    if wanted is not None and there is not None and wanted > there:
        logger.warning("parameters.memory=%g: this machine has %.0f MiB", wanted, there)
    gpu = parameters.get("gpu_type")
    if gpu is None:
        return
    if not torch.cuda.is_available():
        logger.warning("parameters.gpu_type=%s: this machine has no CUDA device", gpu)
    elif str(gpu).lower() not in torch.cuda.get_device_name().lower():
        logger.warning("parameters.gpu_type=%s: this machine has %s", gpu, torch.cuda.get_device_name())


def _part_of_a_path(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
