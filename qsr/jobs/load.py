"""`qsr load`: samples of a trained model, with energies and observables averaged over many batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from qsr.estimators import Estimate, Observables, RunningMoments, v_score
from qsr.hparams import RunSettings
from qsr.hparams.types import dump_typed
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.run import Run, Section, batches, open_sampler, results_folder, symmetry_line
from qsr.jobs.sampling import memory_of, samples_and_energies
from qsr.runs import replacing, write_atomically
from qsr.snapshots import Snapshots, write_snapshots

SAMPLES_FILE = "samples.h5"
TEXT_FILE = "evaluation.txt"


@dataclass(frozen=True)
class Evaluation:
    """What a model's samples say. Energies in the units of the Hamiltonian's parameters (Omega).

    Attributes:
        energy: <H> of the whole lattice with its standard error.
        variance: <|E_loc - E|^2> of the whole lattice.
        v_score: N Var / (E - E_inf)^2 (arXiv 2302.04919).
        observables: see `qsr.estimators.Observables`.
        num_samples, num_sites: S and N.
        problem: the Hamiltonian in one line.
        symmetry: of the sampler, and the number of images that it averages over; empty if there is none.
    """

    energy: Estimate
    variance: float
    v_score: float
    observables: dict[str, Any]
    num_samples: int
    num_sites: int
    problem: str
    symmetry: str = ""

    @property
    def energy_per_site(self) -> Estimate:
        """E/N."""
        return Estimate(self.energy.mean / self.num_sites, self.energy.error / self.num_sites)

    def z_score(self, reference: float) -> float:
        """(E - reference) in standard errors."""
        difference = self.energy.mean - reference
        return difference / self.energy.error if self.energy.error else math.copysign(math.inf, difference)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values as text."""
        rows = [
            ("problem", self.problem),
            *([("symmetry", self.symmetry)] if self.symmetry else []),
            ("samples", str(self.num_samples)),
            ("energy", str(self.energy)),
            ("energy per site", str(self.energy_per_site)),
            ("variance per site", f"{self.variance / self.num_sites:.3e}"),
            ("V-score", f"{self.v_score:.3e}"),
        ]
        return rows + [(name, str(value)) for name, value in self.observables.items() if isinstance(value, Estimate)]

    def lines(self) -> list[str]:
        """The result as text, one quantity a line."""
        return [f"{name:<20}{value}" for name, value in self.rows()]


def evaluate(
    run: str | Path | Run,
    num_samples: int = 4096,
    batch_size: int = 256,
    *,
    hamiltonian: Section = None,
    symmetry: str | None = None,
    precision: str | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    write: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Draw independent samples of a trained model and average local energies (exact flips) and observables.

    In float32, also for a run that was trained in less; in float64 for one that was trained in that, or on request.

    Args:
        run: a run directory of qsr or of NN-QSR, or the result of a training job.
        num_samples: S, in batches of at most `batch_size`.
        hamiltonian: of a run over ranges, which one: {"delta": 1.3}.
        symmetry: reflections, point, translations or all: average p over it, for a run that was trained without. The energy
            of a positive psi never rises by it; it costs as many times more as the group has elements.
        precision: float64, or None for that of the run. On a CPU the samples of a seed are the same in both, but for draws
            that fall between two roundings.
        seed: of the draws, independent of those of training.
        device: auto, cpu, cuda or cuda:N, wherever the run was trained; the model of a `Run` stays where it is.
        output: directory for `evaluation.txt` and `samples.h5`; default the run's own.
        write: whether to write them.
        progress: show a tqdm bar on stderr.

    Raises:
        ConfigError: for numbers below 2 samples or 1 per batch, for a device that this machine does not have, for a run over
            ranges without a point in them, for a symmetry that the problem does not have, for another precision, and for
            whatever `load_model` refuses.
    """
    starts = batches(num_samples, batch_size)
    opened = open_sampler(run, "evaluate", device, hamiltonian, symmetry, precision)
    settings, model = opened.settings, opened.model
    target = results_folder(opened, output) if write else None

    keep_freed_memory()
    hamiltonian, lattice = settings.hamiltonian.build(), settings.hamiltonian.lattice()
    energies, imaginary, observables = RunningMoments(), RunningMoments(), Observables(lattice)
    kept: dict[str, list[np.ndarray]] = {"configs": [], "log_prob": [], "local_energy": []}
    memory = memory_of(settings)
    for index, start in enumerate(tqdm(starts, unit="batch", disable=not progress)):
        size = min(batch_size, num_samples - start)
        configs, energy = samples_and_energies(settings, model, hamiltonian, size, memory, seed, "evaluate", index)
        values = energy.values.real
        single = energy.masks.shape == (lattice.num_sites,) * 2 and torch.equal(energy.masks, model.single_flips(configs.device))
        observables.update(configs, energy.ratios.real if single else None)
        energies.update(values.cpu().numpy())
        if energy.values.is_complex():
            imaginary.update(energy.values.imag.cpu().numpy())
        for name, tensor in (("configs", configs), ("log_prob", energy.log_prob), ("local_energy", values)):
            kept[name].append(tensor.cpu().numpy())

    # The mean is real, so its error is that of the real parts; how far psi is from an eigenstate, both parts say.
    variance = float(energies.variance) + (float(imaginary.variance) if imaginary.count else 0.0)
    mean = float(energies.mean)
    result = Evaluation(
        energy=Estimate(mean, math.sqrt(float(energies.variance) / num_samples)),
        variance=variance,
        v_score=v_score(mean, variance, lattice.num_sites, hamiltonian.infinite_temperature_energy()),
        observables=observables.results(),
        num_samples=num_samples,
        num_sites=lattice.num_sites,
        problem=settings.hamiltonian.describe(),
        symmetry=symmetry_line(opened),
    )
    if target is not None:
        snapshots = _snapshots(settings, {name: np.concatenate(parts) for name, parts in kept.items()})
        with replacing(target / SAMPLES_FILE) as temporary:
            write_snapshots(temporary, snapshots)
        write_atomically(target / TEXT_FILE, "\n".join(result.lines()) + "\n")
    return result


def _snapshots(settings: RunSettings, columns: dict[str, np.ndarray]) -> Snapshots:
    """The samples of a run with its Hamiltonian; the Hamiltonian's numbers become `params`."""
    lattice, hamiltonian = settings.hamiltonian.lattice(), dump_typed(settings.hamiltonian)
    configs = columns.pop("configs")
    params = {name: np.full(len(configs), value) for name, value in hamiltonian.items() if isinstance(value, float)}
    symmetry = {} if settings.model.symmetry == "none" else {"symmetry": settings.model.symmetry}
    attributes = {**lattice.attributes, "hamiltonian": hamiltonian, **symmetry}
    return Snapshots(configs, lattice.positions, columns, params, attributes)
