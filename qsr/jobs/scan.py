"""`qsr scan`: energies and order parameters over the phase diagram that one network was trained for, with error bars."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qsr.estimators import Estimate, RunningMoments
from qsr.estimators.order import OrderParameters
from qsr.hamiltonians import exact_observables, ground_state
from qsr.hamiltonians.family import checked_point
from qsr.hparams import ConfigError
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.exact import EXACT_SITES
from qsr.jobs.points import at_point, chosen_values
from qsr.jobs.reports import aligned, as_csv
from qsr.jobs.run import Run, batches, open_any_sampler, results_folder
from qsr.jobs.sampling import memory_of, samples_and_energies
from qsr.jobs.scan_picture import draw_scan
from qsr.runs import write_atomically

TABLE_FILE, PICTURE_FILE = "scan.csv", "scan.png"
ENERGY = "energy_per_site"
ORDER = ("density_mean", "staggered_abs", "staggered_sq", "binder")  # of `OrderParameters`, where the lattice has them
SHOWN = {ENERGY: "E/N", "density_mean": "density", "staggered_abs": "|staggered|"}  # heads of the table, where not the name


@dataclass(frozen=True)
class ScanPoint:
    """One Hamiltonian of a scan.

    Attributes:
        values: of the ranges.
        found: estimates with their standard errors by name; energies in the unit of the Hamiltonian's parameters.
        exact: what is known of them by diagonalisation; empty for a large lattice.
    """

    values: dict[str, float]
    found: dict[str, Estimate]
    exact: dict[str, float]


@dataclass(frozen=True)
class Scan:
    """A network's phase diagram.

    Attributes:
        points: in the order of the grid, the last parameter changing fastest.
        num_samples: S of each point.
        problem: the Hamiltonians in one line.
        energy_unit: what energies are in units of.
        written: files that were made.
    """

    points: list[ScanPoint]
    num_samples: int
    problem: str
    energy_unit: str
    written: tuple[str, ...] = ()

    @property
    def varied(self) -> list[str]:
        """Parameters with more than one value."""
        names = self.points[0].values
        return [name for name in names if len({point.values[name] for point in self.points}) > 1]

    def deviation(self, name: str = ENERGY) -> float | None:
        """The largest distance of an estimate from the exact value, without regard to its error; None if none is known."""
        known = [abs(point.found[name].mean - point.exact[name]) for point in self.points if name in point.exact]
        return max(known) if known else None

    def lines(self) -> list[str]:
        """A table for the terminal."""
        names = list(self.points[0].found)
        head = [*self.points[0].values, *(SHOWN.get(name, name) for name in names)]
        head += ["exact E/N"] if self.points[0].exact else []
        rows = [head]
        for point in self.points:
            row = [f"{value:g}" for value in point.values.values()] + [str(point.found[name]) for name in names]
            rows.append(row + ([f"{point.exact[ENERGY]:.6f}"] if point.exact else []))
        lines = [f"{self.problem}; {self.num_samples} samples of each point", *aligned(rows)]
        if (energy := self.deviation()) is not None:
            order = self.deviation("staggered_abs")
            text = "" if order is None else f", |staggered| {order:.1e}"
            lines.append(f"largest deviation from the exact values: E/N {energy:.1e}{text} (with the noise of the samples)")
        return lines

    def table(self) -> str:
        """The same as CSV: parameters, then each estimate and its error, then what is exact."""
        first = self.points[0]
        columns = {name: [point.values[name] for point in self.points] for name in first.values}
        for name in first.found:
            columns[name] = [point.found[name].mean for point in self.points]
            columns[f"{name}_error"] = [point.found[name].error for point in self.points]
        columns |= {f"{name}_exact": [point.exact[name] for point in self.points] for name in first.exact}
        return as_csv({name: np.array(values, dtype=np.float64) for name, values in columns.items()})


def scan(
    run: str | Path | Run,
    grid: Mapping[str, Any],
    num_samples: int = 1024,
    batch_size: int = 256,
    *,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    write: bool = False,
    progress: bool = False,
) -> Scan:
    """Go through the phase diagram of a run over ranges: energies (exact flips), densities and order parameters, with errors.

    Up to 16 sites with the exact values beside them. Memory does not grow with the number of samples.

    Args:
        run: a run directory, or the result of a training job, of a run over ranges (`qsr.Rydberg(delta="0:3")`).
        grid: values of each range, a number or several: {"delta": [0, 1.5, 3]}; all combinations, the last one changing fastest.
        num_samples: S of each point, in batches of at most `batch_size`.
        seed: of the draws; point number i draws its own.
        device: auto, cpu, cuda or cuda:N, for runs that are read.
        output: directory for `scan.csv` and `scan.png`; default the run's own.
        write: whether to write them; the picture only of one or two parameters that vary.
        progress: show a tqdm bar on stderr.

    Raises:
        ConfigError: for a run of one Hamiltonian, points outside the ranges, a range without values, fewer than 2 samples or 1
            per batch, an output that cannot be written, and for whatever `load_model` refuses.
    """
    starts = batches(num_samples, batch_size)
    opened = open_any_sampler(run, "scan", device)
    problem = opened.settings.hamiltonian
    if not problem.ranges:
        at_point(opened.settings, opened.model, grid, "scan")  # says so
    points = _points(opened, grid)
    target = results_folder(opened, output) if write else None
    keep_freed_memory()
    found = []
    with tqdm(total=len(points) * len(starts), unit="batch", disable=not progress) as bar:
        for index, values in enumerate(points):
            sizes = [min(batch_size, num_samples - start) for start in starts]
            found.append(_measured(opened, values, sizes, (seed, index), bar))
    result = Scan(found, num_samples, problem.describe(), problem.energy_unit)
    if target is None:
        return result
    write_atomically(target / TABLE_FILE, result.table())
    if not 1 <= len(result.varied) <= 2:
        (target / PICTURE_FILE).unlink(missing_ok=True)  # of another scan
        return replace(result, written=(TABLE_FILE,))
    fixed = "".join(f" at {name}={value:g}" for name, value in points[0].items() if name not in result.varied)
    title = f"{result.problem}{fixed}\n{num_samples} samples of each point, {opened.path or 'a run'}"
    draw_scan(target / PICTURE_FILE, result, title)
    return replace(result, written=(TABLE_FILE, PICTURE_FILE))


def _points(opened: Run, grid: Mapping[str, Any]) -> list[dict[str, float]]:
    """The points of a grid, all of them in the ranges."""
    kind = {"type": grid["type"]} if "type" in grid else {}
    given = {name: _numbers(name, value) for name, value in grid.items() if name != "type"}
    # What is no range may repeat the run's own number.
    alone = {name: numbers[0] if len(numbers) == 1 else numbers for name, numbers in given.items()}
    values = {name: given[name] for name in chosen_values(opened.settings, {**kind, **alone})}
    found = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    for point in found:
        checked_point(opened.settings.hamiltonian.ranges, point)
    return found


def _numbers(name: str, value: Any) -> list[float]:
    try:
        numbers = [float(number) for number in np.atleast_1d(value)]
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={value}: expected a number, or several") from None
    if not numbers:
        raise ConfigError(f"{name}: expected a number, or several, found none")
    return numbers


def _measured(opened: Run, values: dict[str, float], sizes: Sequence[int], seeds: tuple[int, int], bar: tqdm) -> ScanPoint:
    settings, model = at_point(opened.settings, opened.model, values, "scan")
    hamiltonian, lattice = settings.hamiltonian.build(), settings.hamiltonian.lattice()
    checkerboard = lattice.coordinates is None and lattice.has_sublattices
    named = None if not checkerboard else tuple(np.pi if length > 1 else 0.0 for length in lattice.shape)
    order = OrderParameters(lattice, np.zeros((0, 2)) if named is None else [named])
    energies = RunningMoments()
    memory = memory_of(settings)
    for batch, size in enumerate(sizes):
        configs, energy = samples_and_energies(settings, model, hamiltonian, size, memory, seeds[0], "scan", seeds[1], batch)
        energies.update(energy.values.real.cpu().numpy() / lattice.num_sites)
        order.update(configs)
        bar.update()
    results = order.results()
    found = {ENERGY: energies.estimate(), **{name: results.scalars[name] for name in ORDER if name in results.scalars}}
    if named is not None:
        found[f"S({','.join('pi' if k else '0' for k in named)})"] = results.structure_factor[0]
    return ScanPoint(values, found, _exact(hamiltonian, found))


def _exact(hamiltonian: Any, found: Mapping[str, Estimate]) -> dict[str, float]:
    """Exact values of the estimates that have one."""
    if hamiltonian.num_sites > EXACT_SITES:
        return {}
    state = ground_state(hamiltonian, num_levels=1)
    known = exact_observables(state, hamiltonian.lattice)
    energy = {ENERGY: state.energy / hamiltonian.num_sites}
    return energy | {name: float(known[name]) for name in found if name in known}
