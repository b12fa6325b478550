"""Training a sampler on measured snapshots: what `qsr train` does with `--data` beside a sampler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from qsr.hparams import ConfigError, RunSettings
from qsr.jobs.run import Run, build_model, refuse_energy_settings, run_training
from qsr.runs import RunDirectory, bounded_by
from qsr.training import Callback, EarlyStopping, SnapshotLikelihood, update_rule
from qsr.training.loggers import check_logger
from qsr.training.logs import locked, logged

logger = logging.getLogger(__name__)


def start_on_snapshots(settings: RunSettings, progress: bool, callbacks: Sequence[Callback]) -> Run:
    """A new run; everything that may be refused is, before there is a directory."""
    refuse_energy_settings(settings, "learning from snapshots")
    settings, objective = snapshots_objective(settings)
    model = build_model(settings)
    update_rule(model, settings)
    check_logger(settings.logger)
    directory = RunDirectory.claim(settings)
    watching = [*_stopping(settings), *callbacks]
    with locked(directory):
        with logged(directory):
            _log(settings, objective)
        return run_training(settings, model, lambda *_: objective, directory, progress, callbacks=watching)


def resume_on_snapshots(settings: RunSettings, directory: RunDirectory, progress: bool, callbacks: Sequence[Callback]) -> Run:
    """Go on with a run, on the same file; the directory must be locked."""
    settings, objective = snapshots_objective(settings)
    watching = [*_stopping(settings), *callbacks]
    with bounded_by(directory):
        model = build_model(settings)
    return run_training(settings, model, lambda *_: objective, directory, progress, True, watching)


def snapshots_objective(settings: RunSettings) -> tuple[RunSettings, SnapshotLikelihood]:
    """The objective, and the settings with what the file says.

    Raises:
        ConfigError: for what the file refuses, and for readout errors with a symmetry.
    """
    data, training, validation = settings.data.read(settings.hamiltonian)
    if data.noisy and settings.model.symmetry != "none":
        raise ConfigError(
            f"{settings.model.section}.symmetry={settings.model.symmetry}: readout errors are taken off patch "
            "by patch, in the order of one network; learn the snapshots with symmetry=none, then qsr finetune RUN --symmetry"
        )
    return replace(settings, data=data), SnapshotLikelihood(training, validation, data, settings.train)


def _log(settings: RunSettings, objective: SnapshotLikelihood) -> None:
    data = settings.data
    training, held_back = len(objective.training), len(objective.validation)
    logger.info("%s: %d snapshots to learn from, %d held back", data.file, training, held_back)
    if data.noisy:
        logger.info("readout errors e10=%g, e01=%g: %d draws for each snapshot", data.e10, data.e01, data.draws)


def _stopping(settings: RunSettings) -> list[Callback]:
    return [] if settings.early_stopping is None else [EarlyStopping(settings.early_stopping)]
