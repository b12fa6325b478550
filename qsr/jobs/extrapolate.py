"""`qsr extrapolate`: the energy at zero variance, from runs of one problem that are converged to different degrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from qsr.estimators import Estimate, RunningCovariance
from qsr.estimators.extrapolation import Line, fit_line
from qsr.hparams import ConfigError
from qsr.hparams.types import dump_typed
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.drawing import COLOURS, check_picture, in_symbols, plain, sheet, write_picture
from qsr.jobs.run import Run, batches, open_sampler
from qsr.jobs.sampling import memory_of, samples_and_energies


@dataclass(frozen=True)
class Extrapolation:
    """Energies of runs against their variances, and the line through them. Per site, in units of the Hamiltonian's parameters.

    Attributes:
        names: of the runs.
        energies: (R,) E/N.
        variances: (R,) Var E_loc / N.
        covariances: (R, 2, 2) of each (variance, energy): both come from the same samples.
        line: its intercept is the energy at zero variance (see `energy`).
        num_samples: of each run.
        problem: the Hamiltonian in one line.
    """

    names: tuple[str, ...]
    energies: NDArray[np.float64]
    variances: NDArray[np.float64]
    covariances: NDArray[np.float64]
    line: Line
    num_samples: int
    problem: str

    @property
    def energy(self) -> Estimate:
        """E_0/N; where the points scatter more than their errors, its error is larger by that, sqrt(chi^2 / (R - 2))."""
        found, freedom = self.line.intercept, len(self.names) - 2
        return Estimate(found.mean, found.error * max(1.0, (self.line.chi_squared / freedom) ** 0.5) if freedom else found.error)

    def lines(self) -> list[str]:
        """A table for the terminal."""
        freedom = len(self.names) - 2
        width = max(24, *(len(name) + 2 for name in self.names))
        errors = np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))
        rows = [("problem", self.problem), ("samples", f"{self.num_samples} of each run"), ("", "E/N  Var/N")]
        for name, energy, variance, (of_variance, of_energy) in zip(
            self.names, self.energies, self.variances, errors, strict=True
        ):
            rows.append((name, f"{Estimate(energy, of_energy)}  {Estimate(variance, of_variance)}"))
        rows += [
            ("E/N at zero variance", str(self.energy)),
            ("slope", str(self.line.slope)),
            ("chi^2", f"{self.line.chi_squared:.3g} for {freedom} degrees of freedom" if freedom else "two points: no check"),
        ]
        return [f"{name:<{width}}{value}" for name, value in rows]


def extrapolate(
    runs: Sequence[str | Path | Run],
    num_samples: int = 4096,
    batch_size: int = 256,
    *,
    seed: int = 0,
    device: str = "auto",
    picture: str | Path | None = None,
    progress: bool = False,
) -> Extrapolation:
    """Evaluate runs of one Hamiltonian and fit E/N = E_0/N + slope Var/N; an eigenstate has no variance.

    Args:
        runs: at least two run directories or results of training jobs.
        num_samples: of each run, in batches of at most `batch_size`; local energies with exact flips.
        seed: of the draws; run number r draws its own.
        device: as for `qsr.evaluate`.
        picture: a PNG of points and line.
        progress: show a tqdm bar on stderr.

    Raises:
        ConfigError: for fewer than two runs, runs of different Hamiltonians, points through which no line goes, a picture
            that cannot be written, and for whatever `load_model` refuses.
    """
    starts = batches(num_samples, batch_size)
    if len(runs) < 2:
        raise ConfigError(f"RUN: a line needs at least 2 runs, found {len(runs)}")
    if picture is not None:
        check_picture(picture)
    opened = [open_sampler(run, "extrapolate", device) for run in runs]
    names = tuple(str(run.path or f"run {index}") for index, run in enumerate(opened))
    first = opened[0].settings.hamiltonian
    for name, run in zip(names, opened, strict=True):
        if dump_typed(run.settings.hamiltonian) != dump_typed(first):
            found = run.settings.hamiltonian.describe()
            raise ConfigError(f"{name}: expected the Hamiltonian of {names[0]} ({first.describe()}), found {found}")
    keep_freed_memory()
    with tqdm(total=len(opened) * len(starts), unit="batch", disable=not progress) as bar:
        measured = [
            _measure(run, [min(batch_size, num_samples - start) for start in starts], seed, index, bar)
            for index, run in enumerate(opened)
        ]
    values = np.array([value for value, _ in measured])
    covariances = np.array([covariance for _, covariance in measured])
    try:
        line = fit_line(values[:, 0], values[:, 1], covariances)
    except ValueError as error:
        raise ConfigError(f"{', '.join(names)}: {error}; take runs that are converged to different degrees") from None
    result = Extrapolation(names, values[:, 1], values[:, 0], covariances, line, num_samples, first.describe())
    if picture is not None:
        write_picture(_drawn(result, in_symbols(first.energy_unit)), picture)
    return result


def _measure(run: Run, sizes: list[int], seed: int, number: int, bar: tqdm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(2,) variance and energy per site, and their (2, 2) covariance."""
    settings, model = run.settings, run.model
    hamiltonian = settings.hamiltonian.build()
    memory = memory_of(settings)
    moments, origin = RunningCovariance(2), 0.0
    for index, size in enumerate(sizes):
        _, found = samples_and_energies(settings, model, hamiltonian, size, memory, seed, "extrapolate", number, index)
        energy = found.values.cpu()
        if index == 0:
            origin = float(energy.real.mean())  # near the energy, so that squares keep their digits
        moments.update(torch.stack([energy.real - origin, (energy - origin).abs() ** 2], dim=1).numpy())
        bar.update()
    shift, square = moments.mean
    # Per site: variance <|E - origin|^2> - shift^2 and energy origin + shift, and their derivatives by (shift, square).
    jacobian = np.array([[-2 * shift, 1.0], [1.0, 0.0]]) / hamiltonian.num_sites
    values = np.array([(square - shift**2) * moments.count / (moments.count - 1), origin + shift]) / hamiltonian.num_sites
    return values, jacobian @ moments.covariance @ jacobian.T / moments.count


def _drawn(found: Extrapolation, unit: str) -> Any:
    figure = sheet(6, 4.5)
    axis = figure.subplots()
    errors = np.sqrt(np.diagonal(found.covariances, axis1=1, axis2=2))
    axis.errorbar(found.variances, found.energies, errors[:, 1], errors[:, 0], fmt="o", color=COLOURS[0], ms=4, capsize=2)
    ends = np.array([0.0, 1.05 * found.variances.max()])
    axis.plot(ends, found.line.intercept.mean + found.line.slope.mean * ends, color=COLOURS[0], lw=0.8)
    axis.errorbar([0], [found.energy.mean], [found.energy.error], fmt="s", ms=4, capsize=2, color=COLOURS[1])
    axis.set(xlabel=f"Var E_loc / N ({unit}^2)", ylabel=f"E/N ({unit})", title=f"zero variance: {found.energy}")
    figure.suptitle(plain(found.problem), fontsize=10)
    return figure
