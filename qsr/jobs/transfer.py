"""`qsr transfer`: a new architecture learns the distribution of a trained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qsr.hparams import RunSettings, hparams_class
from qsr.jobs.run import Run, build_model, run_training
from qsr.jobs.train import TEACHER, Section
from qsr.runs import RunDirectory, load_model, read_run
from qsr.training import TeacherLikelihood


def transfer(
    run: str | Path,
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
    stored = read_run(run)
    given: dict[str, Any] = {
        "model": model,
        "train": train,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "gradient_clipping": gradient_clipping,
        "checkpoint": checkpoint,
    }
    tree = {name: value for name, value in given.items() if value is not None}
    tree["hamiltonian"] = stored.settings.tree()["hamiltonian"]
    settings = RunSettings.from_tree(tree, preset)
    settings = replace(settings, objective=hparams_class("objective")(name="teacher"))
    teacher = load_model(run)
    student = build_model(settings)
    objective = TeacherLikelihood(teacher, settings.train)
    directory = RunDirectory.claim(settings)
    if directory is None:
        return run_training(settings, student, objective, None, progress)
    with directory.lock():
        copy = RunDirectory(directory.path / TEACHER)
        copy.path.mkdir()
        copy.save_weights(stored.weights)
        copy.write_settings(stored.settings)
        return run_training(settings, student, objective, directory, progress)
