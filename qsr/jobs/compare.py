"""`qsr compare`: several trained samplers side by side, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsr.hamiltonians import ground_state
from qsr.hparams import ConfigError
from qsr.jobs.load import Evaluation, evaluate
from qsr.jobs.plot import EXACT_SITES
from qsr.jobs.points import refuse_ranges
from qsr.jobs.run import Run, path_of, refuse_on_data
from qsr.runs import RunDirectory, StoredRun, read_run, replacing

PICTURE_FILE = "compare.png"


@dataclass(frozen=True)
class Comparison:
    """Runs with their evaluations.

    Attributes:
        runs: as they were read.
        evaluations: of fresh samples, one for each run.
        exact: energy per site of each, where the lattice is small enough (16 sites), else None.
    """

    runs: list[StoredRun]
    evaluations: list[Evaluation]
    exact: list[float | None]

    def rows(self) -> list[dict[str, str]]:
        """A row for each run."""
        found = []
        for run, result, exact in zip(self.runs, self.evaluations, self.exact, strict=True):
            row = {
                "run": str(run.path),
                "model": run.settings.model.section,
                "parameters": str(sum(tensor.numel() for tensor in run.weights.values())),
                "steps": str(run.settings.train.steps),
                "E/N": str(result.energy_per_site),
                "Var/N": f"{result.variance / result.num_sites:.2e}",
                "V-score": f"{result.v_score:.2e}",
            }
            if any(other is not None for other in self.exact):
                row["rel. error"] = "" if exact is None else f"{(result.energy_per_site.mean - exact) / abs(exact):.1e}"
            if len({other.settings.hamiltonian.describe() for other in self.runs}) > 1:
                row["problem"] = run.settings.hamiltonian.describe()
            found.append(row)
        return found

    def lines(self) -> list[str]:
        """The table for the terminal."""
        rows = self.rows()
        table = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in table]

    def draw(self, target: Path) -> None:
        """Energies per site against steps, and the final ones with their errors, as a PNG."""
        from matplotlib.figure import Figure  # without pyplot: no window, and the caller's backend stays

        figure = Figure(figsize=(10, 4), layout="constrained")
        course, final = figure.subplots(1, 2, width_ratios=(2, 1))
        lowest = []
        for number, (run, result) in enumerate(zip(self.runs, self.evaluations, strict=True)):
            history = RunDirectory(run.path).history.read("steps")
            if "energy" in history:
                sites = history.get("sites", result.num_sites)
                course.plot(history["step"], history["energy"] / sites, lw=0.8, color=f"C{number}", label=str(run.path))
                lowest.append(float(np.nanquantile(history["energy"] / sites, 0.7)))
            energy = result.energy_per_site
            final.errorbar([number], [energy.mean], [energy.error], fmt="o", color=f"C{number}")
            lowest.append(energy.mean)
        for axes in (course, final):
            for exact in {value for value in self.exact if value is not None}:
                axes.axhline(exact, color="0.5", ls="--", lw=1)
        margin = 0.15 * max(max(lowest) - min(lowest), 1e-3)
        course.set_ylim(min(lowest) - margin, max(lowest) + margin)
        unit = self.runs[0].settings.hamiltonian.energy_unit
        course.set(xlabel="step", ylabel=f"energy per site ({unit})")
        final.set(xlabel="run", title="fresh samples; dashed: exact" if any(self.exact) else "fresh samples")
        final.set_xticks(range(len(self.runs)))
        if course.get_legend_handles_labels()[0]:
            course.legend(fontsize=7)
        with replacing(target) as temporary:
            figure.savefig(temporary, dpi=120, format="png")


def compare(
    runs: Sequence[str | Path | Run], num_samples: int = 2048, batch_size: int = 256, *, seed: int = 0, device: str = "auto"
) -> Comparison:
    """Evaluate samplers on fresh samples, see `qsr.evaluate`.

    Raises:
        ConfigError: for fewer than two runs, for runs of models on data, and as `qsr.evaluate`.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare: expected at least two runs, found {len(runs)}")
    stored = [read_run(path_of(run)) for run in runs]
    for run in stored:
        refuse_on_data(run.settings, "compare")
        refuse_ranges(run.settings, "compare", f"qsr load {run.path} with a point has one of its energies")
    evaluations = [evaluate(run.path, num_samples, batch_size, seed=seed, device=device) for run in stored]
    known: dict[str, float] = {}
    exact: list[float | None] = []
    for run in stored:
        problem: Any = run.settings.hamiltonian
        if problem.num_sites > EXACT_SITES:
            exact.append(None)
            continue
        name = problem.describe()
        if name not in known:
            known[name] = ground_state(problem.build(), num_levels=1).energy / problem.num_sites
        exact.append(known[name])
    return Comparison(stored, evaluations, exact)
