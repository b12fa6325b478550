"""`qsr finetune`: go on training a model on a larger lattice, with another Hamiltonian, or with other settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from qsr.hparams import ConfigError, RunSettings
from qsr.jobs.run import Run, Section, at_stage, build_model, given_sections, path_of, refuse_on_data
from qsr.jobs.train import start
from qsr.runs import StoredRun, fit_weights, read_run
from qsr.runs.load import BoundedModel
from qsr.samplers.conditioned import rescaled_weights


def finetune(
    run: str | Path | Run,
    train: Section = None,
    hamiltonian: Section = None,
    *,
    optimizer: Section = None,
    scheduler: Section = None,
    gradient_clipping: Section = None,
    checkpoint: Section = None,
    symmetry: str | None = None,
    progress: bool = False,
) -> Run:
    """Train the weights of a run further, in a new run directory; what is not given stays as stored.

    The same weights serve a lattice of any size that the patches tile; learned positions are interpolated. A run over ranges goes
    on over ranges of the same parameters, the same or others. The seed moves on by one unless it is given.

    Args:
        run: a run directory of qsr or of NN-QSR.
        train: new training settings; L alone means a square lattice.
        hamiltonian: new parameters of the stored Hamiltonian, or another one (a mapping with another `type`).
        symmetry: over which p is averaged from now on, of the lattice that is trained on: the weights are those of the network
            inside, with or without. Default: as stored.

    Raises:
        ConfigError, RunFailed, Interrupted: as `train`.
    """
    path = path_of(run)
    stored = read_run(path)
    refuse_on_data(stored.settings, "finetune")
    changes = given_sections(
        train=train,
        hamiltonian=hamiltonian,
        optimizer=optimizer,
        scheduler=scheduler,
        gradient_clipping=gradient_clipping,
        checkpoint=checkpoint,
        objective={"name": "energy"},  # also after a transfer
    )
    before = stored.settings
    if symmetry is not None:
        before = replace(before, model=before.model.updated({"symmetry": symmetry}))
    settings = before.updated(changes)
    if settings.train.seed == stored.settings.train.seed:
        # Step s would draw with the random numbers of step s of the training before.
        settings = settings.updated({"train": {"seed": settings.train.seed + 1}})
    if settings.model.phase and settings.hamiltonian.shape != stored.settings.hamiltonian.shape:
        raise ConfigError(
            f"{settings.model.section}.phase=True: its weights are for one lattice; {settings.hamiltonian.describe_size()}"
            f" and the stored run {stored.settings.hamiltonian.num_sites}"
        )
    with BoundedModel(sum(tensor.nbytes for tensor in stored.weights.values()), path):
        model = build_model(at_stage(settings, settings.train.stages()[0]))
    weights = _over_new_ranges(stored, settings)
    fit_weights(model, model.resized_weights(weights), path)
    return start(settings, model, progress)


def _over_new_ranges(stored: StoredRun, settings: RunSettings) -> dict[str, Tensor]:
    """The stored weights, for the ranges of other settings.

    Raises:
        ConfigError: for ranges of other parameters than those that the network reads.
    """
    old, new = stored.settings.hamiltonian.ranges, settings.hamiltonian.ranges
    if list(old) != list(new):
        read, wanted = (", ".join(ranges) or "no parameters" for ranges in (old, new))
        raise ConfigError(
            f"finetune: the network of this run reads {read}, and the new settings have ranges of {wanted}; give "
            + (f"ranges of {read}" if old else "single numbers")
        )
    return rescaled_weights(stored.weights, old, new) if old != new else stored.weights
