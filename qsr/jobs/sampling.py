"""Samples of a trained model with their local energies: what `qsr load`, `scan` and `extrapolate` average."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qsr.estimators import local_energy
from qsr.estimators.local_energy import LocalEnergy
from qsr.hparams import RunSettings
from qsr.samplers.base import Sampler, draw_samples
from qsr.training.memory import MemoryBudget
from qsr.training.precision import computing_in, reporting_precision
from qsr.training.random import generator_for


def memory_of(settings: RunSettings) -> MemoryBudget:
    """What the batches of a job may take, that draws from a trained model."""
    return MemoryBudget(settings.train.memory_MiB, "a smaller BATCH takes less")


def samples_and_energies(
    settings: RunSettings,
    model: Sampler,
    hamiltonian: Any,
    size: int,
    memory: MemoryBudget,
    seed: int,
    purpose: str,
    *counters: int,
) -> tuple[Tensor, LocalEnergy]:
    """(size, N) samples and their local energies by exact flips, in the precision that results are reported in.

    Args:
        seed, purpose, counters: of the draws, see `qsr.training.random.generator_for`.

    Raises:
        RunFailed: if the memory is not there, however small the chunks.
    """

    def work(memory_bytes: int) -> tuple[Tensor, LocalEnergy]:
        with computing_in(reporting_precision(settings.train.precision), model):
            configs, _ = draw_samples(model, size, generator_for(model.device, seed, purpose, *counters), memory_bytes)
            return configs, local_energy(model, hamiltonian, configs, memory_bytes=memory_bytes)

    return memory.run(work)
