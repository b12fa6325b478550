"""`qsr finetune`: go on training a model on a larger lattice, with another Hamiltonian, or with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qsr.hparams import ConfigError
from qsr.jobs.run import Run, build_model
from qsr.jobs.train import Section, start
from qsr.runs import fit_weights, read_run


def finetune(
    run: str | Path,
    train: Section = None,
    hamiltonian: Section = None,
    *,
    optimizer: Section = None,
    scheduler: Section = None,
    gradient_clipping: Section = None,
    checkpoint: Section = None,
    progress: bool = False,
) -> Run:
    """Train the weights of a run further, in a new run directory; what is not given stays as stored.

    The same weights serve a lattice of any size that the patches tile; learned positions are interpolated.

    Args:
        run: a run directory of qsr or of NN-QSR.
        train: new training settings; L alone means a square lattice.
        hamiltonian: new parameters of the stored Hamiltonian, or another one (a mapping with another `type`).

    Raises:
        ConfigError, RunFailed, Interrupted: as `train`.
    """
    stored = read_run(run)
    changes: dict[str, Any] = {
        "train": train,
        "hamiltonian": hamiltonian,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "gradient_clipping": gradient_clipping,
        "checkpoint": checkpoint,
        "objective": {"name": "energy"},  # also after a transfer
    }
    settings = stored.settings.updated(changes)
    model = build_model(settings)
    weights = stored.weights
    positions = model.state_dict()
    for name, values in weights.items():
        if name.endswith("positions.learned") and name in positions and not name.startswith("subsampler."):
            grid = tuple(positions[name].shape[:-1])
            if len(grid) != values.dim() - 1:
                raise ConfigError(f"{run}: its positions are {values.dim() - 1}-dimensional, the new lattice needs {len(grid)}")
            weights = {**weights, name: resized(values, grid)}
    fit_weights(model, weights, run)
    return start(settings, model, progress)


def resized(values: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """Learned positions for another number of patches; unchanged for the same."""
    from qsr.samplers.transformer import resize_positions

    return values if tuple(values.shape[:-1]) == grid else resize_positions(values, grid)
