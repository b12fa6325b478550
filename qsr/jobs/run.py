"""What every training job shares: building the model, the log, and running the trainer inside a locked directory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qsr.hamiltonians import IsingHamiltonian, site_product_energy
from qsr.hparams import ConfigError, RunSettings
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.points import at_point
from qsr.runs import RunDirectory, read_run, restore_model
from qsr.samplers import Sampler, SymmetrizedSampler
from qsr.samplers.group import NO_PHASE, symmetry_group
from qsr.symmetries import SYMMETRIES
from qsr.training import (
    Callback,
    HistoryWriter,
    Objective,
    ProgressBar,
    ProgressLog,
    Stage,
    Trainer,
    check_natural_gradient,
    update_rule,
)
from qsr.training.determinism import prepare_determinism
from qsr.training.device import find_device
from qsr.training.distribution import ALONE, Processes
from qsr.training.loggers import LoggerCallback, metric_logger
from qsr.training.logs import logged
from qsr.training.random import derived_seed, forked_generators
from qsr.training.wall_time import deadline

logger = logging.getLogger(__name__)

Section = Any  # an Hparams object, or a mapping of its settings

BASELINE_SITES = 400  # the product-state baseline of a larger lattice takes seconds


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its directory, None for a run without output (`dir=<NONE>`).
        settings: all of them, resolved.
        model: the trained sampler (or model on data), in evaluation mode.
    """

    path: Path | None
    settings: RunSettings
    model: Any


def path_of(run: str | Path | Run) -> Path:
    """The directory of a run.

    Raises:
        ConfigError: for a run without one.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    if path is None:
        raise ConfigError("this run has no directory (train.dir=<NONE>), and one is needed here")
    return path


def refuse_on_data(settings: RunSettings, command: str) -> None:
    """For jobs on samplers.

    Raises:
        ConfigError: for the run of a model on data.
    """
    if settings.on_data:
        raise ConfigError(f"{command}: this is a run of a model on data ({settings.model.label_of_runs}); a sampler is needed")


def open_sampler(
    run: str | Path | Run,
    command: str,
    device: str = "auto",
    hamiltonian: Section = None,
    symmetry: str | None = None,
    precision: str | None = None,
) -> Run:
    """A trained sampler with its settings, from its directory (onto `device`) or as a training job returned it.

    Args:
        hamiltonian: which one, for a run over ranges; see `at_point`.
        symmetry: of the problem, over which p is averaged (see `qsr.symmetries.site_permutations`); default: as in training.
        precision: float64 for the same weights in float64; default: as `reporting_precision` says.

    Raises:
        ConfigError: for the run of a model on data, for a device that this machine does not have, for whatever `load_model`
            and `at_point` refuse, for a symmetry that the problem does not have, or of a run that was trained with another,
            and for another precision.
    """
    opened = open_any_sampler(run, command, device)
    opened = opened if precision is None else _in_float64(opened, precision)
    single = Run(opened.path, *at_point(opened.settings, opened.model, hamiltonian, command))
    return single if symmetry is None else _symmetrized(single, symmetry)


def open_any_sampler(run: str | Path | Run, command: str, device: str = "auto") -> Run:
    """As `open_sampler`; a run over ranges comes as it is, with a sampler of all states."""
    if isinstance(run, Run):
        refuse_on_data(run.settings, command)
        return run
    stored = read_run(run)
    refuse_on_data(stored.settings, command)
    return Run(stored.path, stored.settings, restore_model(stored, find_device(device, "device")))


def _in_float64(run: Run, precision: str) -> Run:
    """The run with its weights in float64; the model of the run given is left as it is."""
    if precision != "float64":
        raise ConfigError(f"precision={precision}: must be float64 (without it: what the run is reported in)")
    settings = replace(run.settings, train=run.settings.train.updated({"precision": precision}))
    return Run(run.path, settings, deepcopy(run.model).double())


def symmetry_line(run: Run) -> str:
    """'point, 8 images', for tables; empty for a sampler without a symmetry."""
    symmetry = run.settings.model.symmetry
    return "" if symmetry == "none" else f"{symmetry}, {run.model.order} images"


def _symmetrized(run: Run, symmetry: str) -> Run:
    """The run of the model averaged over a symmetry; the model of the run given is left as it is."""
    trained = run.settings.model.symmetry
    if symmetry not in SYMMETRIES:
        raise ConfigError(f"symmetry={symmetry}: must be one of {', '.join(SYMMETRIES)}")
    if trained not in ("none", symmetry):
        raise ConfigError(f"symmetry={symmetry}: the run was trained with symmetry={trained}, and is evaluated with that")
    if symmetry == trained:
        return run
    if run.settings.model.phase:
        raise ConfigError(f"symmetry={symmetry}: {NO_PHASE}")
    problem = run.settings.hamiltonian
    group = symmetry_group("symmetry", symmetry, problem.lattice(), problem)
    settings = replace(run.settings, model=run.settings.model.updated({"symmetry": symmetry}))
    return Run(run.path, settings, SymmetrizedSampler(run.model, group.to(run.model.device)).eval())


def batches(num_samples: int, batch_size: int) -> range:
    """The number of the first sample of each batch in which samples are drawn.

    Raises:
        ConfigError: for fewer than 2 samples, or 1 per batch.
    """
    if num_samples < 2:
        raise ConfigError(f"SAMPLES={num_samples}: must be at least 2 (an error bar needs them)")
    if batch_size < 1:
        raise ConfigError(f"BATCH={batch_size}: must be at least 1")
    return range(0, num_samples, batch_size)


def results_folder(run: Run, output: str | Path | None) -> Path:
    """Where results are written: `output`, or the run's own directory; it is there and writable.

    Raises:
        ConfigError: if there is none, or nothing can be written there.
    """
    target = Path(output) if output is not None else run.path
    if target is None:
        raise ConfigError("output: this run has no directory; say where to write")
    check_writable(target)
    return target


def refuse_energy_settings(settings: RunSettings, what: str) -> None:
    """For jobs that learn from samples; `what` names the job.

    Raises:
        ConfigError: for settings of local energies, a curriculum, a phase, and natural gradients.
    """
    for name in ("sgrad", "true_grad", "NLOOPS", "curriculum", "K_final"):
        if getattr(settings.train, name):
            raise ConfigError(f"train.{name}={getattr(settings.train, name)}: concerns energies, and {what} computes none")
    if settings.model.phase:
        raise ConfigError(
            f"{settings.model.section}.phase=True: the new model has a phase, and the likelihood of samples says nothing of it"
        )
    check_natural_gradient(settings)


def given_sections(**sections: Section) -> dict[str, Any]:
    """Those sections that a caller gave."""
    return {name: value for name, value in sections.items() if value is not None}


def build_model(settings: RunSettings) -> Sampler:
    """The model with its initial weights, drawn from the run's seed alone, on the run's device.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    device = find_device(settings.train.device)
    prepare_determinism(settings.train.deterministic, device)
    # Only generators of the CPU: weights are drawn there, and do not depend on where the run computes.
    with forked_generators(seed=derived_seed(settings.train.seed, "init")):
        model: Sampler = settings.new_model()
    return model.to(device, getattr(torch, settings.train.number_format))


def at_stage(settings: RunSettings, stage: Stage) -> RunSettings:
    """The settings with the lattice of a stage of the curriculum."""
    if stage.shape is None:
        return settings
    rows, columns = stage.shape
    return replace(settings, hamiltonian=settings.hamiltonian.updated({"Lx": rows, "Ly": columns}))


def run_training(
    settings: RunSettings,
    model: Sampler,
    objective: Callable[[RunSettings, Stage], Objective],
    directory: RunDirectory | None,
    progress: bool,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    processes: Processes = ALONE,
) -> Run:
    """Train through all stages; the directory must be claimed (or opened, to resume) and locked by the caller.

    Args:
        model: for the lattice of the first stage, with its first weights.
        objective: makes the objective of a stage.
        callbacks: watch every stage, beside the history and the progress.
        processes: that share the work, as the objective does; only the first one has a directory.
    """
    keep_freed_memory()
    until = deadline(settings.train.max_time)
    stages = settings.train.stages()
    found = directory.latest_checkpoint() if resume and directory is not None else None
    number = processes.told(0 if found is None else found.state.get("stage", 0))
    if type(number) is not int or not 0 <= number < len(stages):
        raise ConfigError(f"checkpoint: stage={number!r:.60}: the run has {len(stages)}")
    current = stages[number]
    for stage in stages[current.index :]:
        if stage.index:
            previous = model
            model = build_model(at_stage(settings, stage))
            model.load_state_dict(model.resized_weights(previous.state_dict()))
        again = resume and stage is current
        _run_stage(settings, model, objective, directory, progress, stage, again, callbacks, processes, until)
    return Run(None if directory is None else directory.path, settings, model)


def _run_stage(
    settings: RunSettings,
    model: Sampler,
    objective: Callable[[RunSettings, Stage], Objective],
    directory: RunDirectory | None,
    progress: bool,
    stage: Stage,
    resume: bool,
    watching: Sequence[Callback],
    processes: Processes,
    until: float,
) -> None:
    here = at_stage(settings, stage)
    num_sites = here.hamiltonian.num_sites
    callbacks: list[Callback] = [ProgressLog(num_sites)]
    if directory is not None:
        callbacks.insert(0, HistoryWriter(directory.history, here.hamiltonian.energy_unit, num_sites))
    if progress:
        callbacks.append(ProgressBar(num_sites))
    target = metric_logger(settings.logger, directory, settings.tree(), resume or stage.index > 0) if processes.first else None
    callbacks += [] if target is None else [LoggerCallback(target)]
    callbacks += watching
    rule = update_rule(model, settings, stage, processes)
    trainer = Trainer(model, objective(here, stage), rule, callbacks, settings, directory, stage, processes, until)
    with logged(directory):
        if resume:
            trainer.resume()
            warn_of_changes(directory)
            logger.info("resuming %s at step %d of %d", directory.path if directory else "", trainer.step, trainer.steps)
        elif stage.index == 0:
            # The first checkpoint comes before settings.json: whoever finds settings.json can resume.
            trainer.checkpoint()
            if directory is not None:
                directory.write_settings(settings)
                logger.info("run directory %s", directory.path)
            train = settings.train
            parameters = sum(parameter.numel() for parameter in model.parameters())
            logger.info("%s", settings.hamiltonian.describe())
            images = f" averaged over {model.order} images" if isinstance(model, SymmetrizedSampler) else ""
            network = type(model.base if isinstance(model, SymmetrizedSampler) else model).__name__
            logger.info("%s%s with %d parameters in %s on %s", network, images, parameters, train.precision, model.device)
            if processes.size > 1:
                logger.info("%d processes, %d of the %d minibatches each", processes.size, train.Q // processes.size, train.Q)
            logger.info(
                "%d steps of %d samples, %s, lr=%g, %s, seed=%d",
                *(train.steps, train.B, settings.optimizer.name, train.lr, settings.scheduler.name, train.seed),
            )
        if stage.shape is not None:
            number = f"stage {stage.index + 1} of {len(settings.train.stages())}"
            logger.info("%s: %dx%d, steps %d to %d", number, *stage.shape, stage.first, stage.end)
        trainer.fit()


def warn_of_changes(directory: RunDirectory | None) -> None:
    """Say if a resumed run goes on with what a bit for bit repetition does not allow to change."""
    if directory is not None and (changes := directory.changed_conditions()):
        logger.warning("%s: the rest is not bit for bit what it would have been", ", ".join(changes))


def log_baseline(settings: RunSettings) -> None:
    """Log the product-state energy: a run that stays above it has learned no correlations yet. Ranges have no single one."""
    if settings.hamiltonian.ranges:
        return
    hamiltonian = settings.hamiltonian.build()
    if isinstance(hamiltonian, IsingHamiltonian) and hamiltonian.num_sites <= BASELINE_SITES:
        energy = site_product_energy(hamiltonian).energy
        logger.info("best product of site states: E/N = %.6f", energy / hamiltonian.num_sites)


def check_writable(folder: Path, named_by: str = "--output") -> None:
    """Make the folder for the results and try to write there, before the work.

    Args:
        named_by: what names the folder, for the error.

    Raises:
        ConfigError: if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write the results there ({error.strerror}); choose another {named_by}") from None
