"""`qsr transfer`: a new architecture learns the distribution of a trained model."""

from __future__ import annotations

from pathlib import Path

from qsr.hparams import ConfigError, RunSettings
from qsr.jobs.points import refuse_ranges
from qsr.jobs.processes import check_shared
from qsr.jobs.run import Run, Section, build_model, given_sections, path_of, refuse_energy_settings, refuse_on_data, run_training
from qsr.jobs.train import TEACHER
from qsr.runs import RunDirectory, read_run, restore_model
from qsr.training import TeacherLikelihood, update_rule
from qsr.training.loggers import check_logger
from qsr.training.logs import locked


def transfer(
    run: str | Path | Run,
    model: Section = None,
    train: Section = None,
    *,
    optimizer: Section = None,
    scheduler: Section = None,
    gradient_clipping: Section = None,
    checkpoint: Section = None,
    preset: str | None = None,
    progress: bool = False,
) -> Run:
    """Train a new model to minimise KL(teacher || model) on samples of a trained one (the likelihood of its samples).

    The lattice and Hamiltonian are the teacher's. Its settings and weights are copied into the new run.

    Args:
        run: the teacher's run directory, of qsr or of NN-QSR.
        model: the new model (required).
        train: as for `train`; L must be the teacher's number of sites.

    Raises:
        ConfigError, RunFailed, Interrupted: as `train`.
    """
    stored = read_run(path_of(run))
    refuse_on_data(stored.settings, "transfer")
    refuse_ranges(stored.settings, "transfer", "a transfer keeps the teacher's Hamiltonian")
    given = given_sections(
        model=model,
        train=train,
        optimizer=optimizer,
        scheduler=scheduler,
        gradient_clipping=gradient_clipping,
        checkpoint=checkpoint,
        hamiltonian=stored.settings.hamiltonian,
        objective={"name": "teacher"},
    )
    settings = RunSettings.from_tree(given, preset)
    if stored.settings.model.phase:
        raise ConfigError(
            f"{stored.settings.model.section}.phase=True: the teacher's model has a phase, and the likelihood of samples says "
            "nothing of it"
        )
    check_shared(settings)
    refuse_energy_settings(settings, "a transfer")
    student = build_model(settings)
    objective = TeacherLikelihood(restore_model(stored, student.device), settings.train)
    update_rule(student, settings)  # may refuse its arguments: before there is a directory
    check_logger(settings.logger)
    directory = RunDirectory.claim(settings)
    if directory is None:
        return run_training(settings, student, lambda *_: objective, None, progress)
    with locked(directory):
        copy = RunDirectory(directory.path / TEACHER)
        copy.path.mkdir()
        copy.save_weights(stored.weights)
        copy.write_settings(stored.settings)
        return run_training(settings, student, lambda *_: objective, directory, progress)
