"""`qsr train`: a new ground-state run, or the rest of an interrupted one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qsr.estimators.local_energy import check_sign
from qsr.hparams import ConfigError, RunSettings
from qsr.jobs.fit import data_of, resume_fit, start_fit
from qsr.jobs.likelihood import resume_on_snapshots, snapshots_objective, start_on_snapshots
from qsr.jobs.processes import check_shared, claimed
from qsr.jobs.run import Run, Section, at_stage, build_model, given_sections, log_baseline, path_of, run_training
from qsr.runs import RunDirectory, bounded_by, load_model, read_run, restore_model
from qsr.samplers import Sampler
from qsr.training import Callback, FamilyEnergy, Stage, TeacherLikelihood, VariationalEnergy, update_rule
from qsr.training.device import find_device
from qsr.training.distribution import ALONE, Processes
from qsr.training.fitting import started_fit
from qsr.training.loggers import check_logger
from qsr.training.logs import locked, logged

logger_of_jobs = logging.getLogger(__name__)  # `logger` is a section of settings here

# Natural gradients fit the local energies sample by sample, and learn the noise of drawn flips with them: without a
# bound a run on 8x8 had five times the error of exact flips after 100 steps. With a bound of 0.1 runs on 16x16 with drawn flips
# that a sharper window would have covered ended with five times the error.
MOST_NOISE = 0.03
TEACHER = "teacher"  # a copy of the teacher's run inside that of its student


def train(
    hamiltonian: Section = None,
    model: Section = None,
    train: Section = None,
    *,
    optimizer: Section = None,
    scheduler: Section = None,
    gradient_clipping: Section = None,
    checkpoint: Section = None,
    data: Section = None,
    early_stopping: Section = None,
    loss: Section = None,
    logger: Section = None,
    extra: Section = None,
    preset: str | None = None,
    resume_auto: bool = False,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a sampler to the ground state of a Hamiltonian by variational Monte Carlo (arXiv 2306.03921), or a model on data.

    With `data`, a sampler learns the distribution of measured snapshots by maximum likelihood; `finetune` goes on with energies.
    Models on data are trained as by `fit`.

    Sections are `Hparams` objects (`qsr.Rydberg(Lx=4, Ly=4)`, `qsr.PTF(patch="2x2")`) or mappings; a model or Hamiltonian
    given as a mapping has its `type` in it. Energies are in the units of the Hamiltonian's parameters (Omega).

    Args:
        hamiltonian: default: Rydberg atoms on a square of L sites with V=7, Omega=delta=1.
        model: required.
        train: steps, batch, rate, seed and output directory.
        data: snapshots for a sampler (`SnapshotsHparams`), or what a model on data takes (see `qsr.fit`).
        early_stopping: with data only.
        loss: of models on data only.
        logger: where metrics go beside history.h5.
        extra: free keys, kept in settings.json.
        preset: named settings below the given ones (`nnqsr`).
        resume_auto: go on with the newest run that has these very settings (`max_time` may be another one), if there is one; one
            that has ended stays as it is.
        progress: show a tqdm bar on stderr.
        callbacks: called at every hook of the training (see `qsr.training.Callback`).

    Raises:
        ConfigError: for settings that cannot be run, before any work.
        RunFailed: if the energy stays non-finite.
        Interrupted: on a signal, or when `max_time` has passed, with everything saved.
    """
    given = given_sections(
        hamiltonian=hamiltonian,
        model=model,
        train=train,
        optimizer=optimizer,
        scheduler=scheduler,
        gradient_clipping=gradient_clipping,
        checkpoint=checkpoint,
        data=data,
        early_stopping=early_stopping,
        loss=loss,
        logger=logger,
        extra=extra,
    )
    settings = RunSettings.from_tree(given, preset)
    check_shared(settings)
    if resume_auto and not settings.train.writes:
        raise ConfigError(f"train.dir={settings.train.dir}: keeps nothing that --resume auto could go on with")
    if resume_auto and (found := _newest(settings)) is not None:
        path, ended = found
        if ended:
            logger_of_jobs.info("%s has ended", path)
            return _ended(Path(path), settings)
        return _go_on(Path(path), None, progress, callbacks, {"max_time": settings.train.max_time})
    if settings.on_data:
        return start_fit(settings, progress=progress, callbacks=callbacks)
    if settings.data is not None:
        return start_on_snapshots(settings, progress, callbacks)
    return start(settings, build_model(at_stage(settings, settings.train.stages()[0])), progress, callbacks)


def _newest(settings: RunSettings) -> tuple[str, bool] | None:
    """The directory of the newest run with these settings, and whether it has ended; of several processes the first one looks."""
    if settings.on_data:
        settings = started_fit(settings, data_of(settings)).settings  # settings.json has what the data say, too
    elif settings.data is not None:
        settings, _ = snapshots_objective(settings)
    processes = Processes.found()
    found = RunDirectory.newest(settings) if processes.first else None
    return processes.told(None if found is None else (str(found.path), found.weights_file.is_file()))


def _ended(path: Path, settings: RunSettings) -> Run:
    """A run to which nothing is to be done."""
    if not Processes.expected().first:  # the others need no access to the directory
        return Run(None, settings, None)
    stored = read_run(path)
    return Run(path, stored.settings, restore_model(stored, find_device(stored.settings.train.device)))


def start(settings: RunSettings, model: Sampler, progress: bool, callbacks: Sequence[Callback] = ()) -> Run:
    """Run variational Monte Carlo on a model with its first weights, in a new directory."""
    check_shared(settings)
    final = settings.train.stages()[-1]
    objective = variational_energy(settings, final)  # all of these may refuse their arguments: before there is a directory
    check_sign(model, objective.hamiltonian)
    update_rule(model, settings, final)
    check_logger(settings.logger)
    processes = Processes.found()
    directory, started = claimed(settings, processes)
    with locked(directory):
        if processes.first and not started:
            with logged(directory):
                log_baseline(settings)
        return _run(settings, model, directory, progress, started, callbacks, processes)


def _run(
    settings: RunSettings,
    model: Sampler,
    directory: RunDirectory | None,
    progress: bool,
    resume: bool,
    callbacks: Sequence[Callback],
    processes: Processes,
) -> Run:
    processes = processes.on(model.device)
    objective = partial(variational_energy, processes=processes)
    return run_training(settings, model, objective, directory, progress and processes.first, resume, callbacks, processes)


def variational_energy(settings: RunSettings, stage: Stage, processes: Processes = ALONE) -> VariationalEnergy:
    """The objective of a stage, whose lattice the settings have: the energy, or its mean over ranges."""
    most_noise = None if settings.optimizer.natural_gradient() is None else MOST_NOISE
    problem = settings.hamiltonian
    if problem.ranges:
        return FamilyEnergy(problem.family(), settings.train, stage, most_noise, problem.energy_scale, processes)
    return VariationalEnergy(problem.build(), settings.train, stage, most_noise, problem.energy_scale, processes)


def resume(run: str | Path | Run, *, data: Any = None, progress: bool = False, callbacks: Sequence[Callback] = ()) -> Run:
    """Go on with an interrupted run from its last checkpoint; on a CPU bit for bit as if nothing had happened.

    Args:
        data: of a run on data whose settings do not say where they come from.
        callbacks: those that the run was started with.

    Raises:
        ConfigError: if the directory is not a run of qsr, has no usable checkpoint, or is being written.
        RunFailed, Interrupted: as `train`.
    """
    return _go_on(path_of(run), data, progress, callbacks, {})


def _go_on(path: Path, data: Any, progress: bool, callbacks: Sequence[Callback], limits: Mapping[str, Any]) -> Run:
    """As `resume`; `limits` are settings of `train` that hold for this process instead of the stored ones."""
    if Processes.expected().size > 1:
        return _resume_shared(path, progress, callbacks, limits)
    directory = RunDirectory.open(path)
    if directory.read_settings().model.section == "graph_run":
        from qsr.jobs.graph_runs import resume_graphs

        return resume_graphs(directory.path, data, progress, callbacks)
    with locked(directory):
        settings = _limited(directory.read_settings(), limits)
        if settings.on_data:
            return resume_fit(settings, directory, data, progress, callbacks)
        if settings.data is not None:
            return resume_on_snapshots(settings, directory, progress, callbacks)
        with bounded_by(directory):
            model = build_model(at_stage(settings, settings.train.stages()[0]))
        if settings.objective.name == "teacher":
            teacher = directory.path / TEACHER
            if not teacher.is_dir():
                raise ConfigError(f"{teacher}: the teacher of this transfer is missing")
            likelihood = TeacherLikelihood(load_model(teacher, model.device), settings.train)
            return run_training(settings, model, lambda *_: likelihood, directory, progress, True, callbacks)
        return _run(settings, model, directory, progress, True, callbacks, ALONE)


def _limited(settings: RunSettings, limits: Mapping[str, Any]) -> RunSettings:
    return replace(settings, train=settings.train.updated(limits)) if limits else settings


def _resume_shared(path: Path, progress: bool, callbacks: Sequence[Callback], limits: Mapping[str, Any]) -> Run:
    """Go on in several processes; the run's directory needs to be there for the first one only."""
    processes = Processes.found()
    directory = RunDirectory.open(path) if processes.first else None
    with locked(directory):
        tree: dict[str, Any] = {}
        if directory is not None:
            stored = directory.read_settings()
            check_shared(stored)
            tree = stored.tree()
        settings = _limited(RunSettings.from_tree(processes.told(tree)), limits)
        with bounded_by(directory):
            model = build_model(at_stage(settings, settings.train.stages()[0]))
        return _run(settings, model, directory, progress, True, callbacks, processes)
