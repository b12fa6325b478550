"""`qsr compare`: several trained samplers side by side, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsr.hparams import ConfigError
from qsr.hparams.types import dump_typed
from qsr.jobs.drawing import COLOURS, bound_view, check_picture, in_symbols, plain, sheet, write_picture
from qsr.jobs.exact import EXACT, references
from qsr.jobs.load import Evaluation, evaluate
from qsr.jobs.points import refuse_ranges
from qsr.jobs.reports import aligned
from qsr.jobs.run import Run, open_any_sampler, path_of
from qsr.runs import RunDirectory

PICTURE_FILE = "compare.png"


@dataclass(frozen=True)
class Comparison:
    """Runs with their evaluations.

    Attributes:
        runs: with their models.
        evaluations: of fresh samples, one for each run.
        exact: energy per site of each, where the lattice is small enough (16 sites), else None.
    """

    runs: list[Run]
    evaluations: list[Evaluation]
    exact: list[float | None]

    def rows(self) -> list[dict[str, str]]:
        """A row for each run."""
        found = []
        for run, result, exact in zip(self.runs, self.evaluations, self.exact, strict=True):
            row = {
                "run": str(run.path),
                "model": run.settings.model.section,
                "parameters": str(sum(tensor.numel() for tensor in run.model.state_dict().values())),
                "steps": str(run.settings.train.steps),
                "E/N": str(result.energy_per_site),
                "Var/N": f"{result.variance / result.num_sites:.2e}",
                "V-score": f"{result.v_score:.2e}",
            }
            if any(other is not None for other in self.exact):
                row["rel. error"] = "" if not exact else f"{(result.energy_per_site.mean - exact) / abs(exact):.1e}"
            if len({other.settings.hamiltonian.describe() for other in self.runs}) > 1:
                row["problem"] = run.settings.hamiltonian.describe()
            found.append(row)
        return found

    def lines(self) -> list[str]:
        """The table for the terminal."""
        rows = self.rows()
        return aligned([list(rows[0]), *(list(row.values()) for row in rows)])

    def draw(self, target: str | Path) -> None:
        """Energies per site against steps, and the final ones with their errors, as a PNG.

        Raises:
            ConfigError: if it cannot be written.
        """
        figure = sheet(10, 4)
        course, final = figure.subplots(1, 2, width_ratios=(2, 1))
        lowest = []
        for number, (run, result) in enumerate(zip(self.runs, self.evaluations, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            history = RunDirectory(path_of(run)).history.read("steps")
            if "energy" in history:
                sites = history.get("sites", result.num_sites)
                label = f"{number}: {plain(str(run.path))}"
                course.plot(history["step"], history["energy"] / sites, lw=0.8, color=colour, label=label)
                finite = (history["energy"] / sites)[np.isfinite(history["energy"] / sites)]
                lowest += [float(np.quantile(finite, 0.7))] if len(finite) else []
            energy = result.energy_per_site
            final.errorbar([number], [energy.mean], [energy.error], fmt="o", color=colour, capsize=3)
            lowest.append(energy.mean)
        known = {value for value in self.exact if value is not None}
        for axes in (course, final):
            for exact in known:
                axes.axhline(exact, color="0.4", ls="--", lw=1)
        margin = 0.15 * max(max(lowest) - min(lowest), 1e-3)
        bound_view(course, min(lowest) - margin, max(lowest) + margin)
        units = {in_symbols(run.settings.hamiltonian.energy_unit): None for run in self.runs}
        label = f"energy per site ({', '.join(units)})"
        course.set(xlabel="step", ylabel=label, title="training")
        final.set(xlabel="run", ylabel=label, title="fresh samples; dashed: exact" if known else "fresh samples")
        final.set_xticks(range(len(self.runs)), [str(number) for number in range(len(self.runs))])
        final.set_xlim(-0.5, len(self.runs) - 0.5)
        if course.get_legend_handles_labels()[0]:
            course.legend(fontsize=7)
        write_picture(figure, target)


def compare(
    runs: Sequence[str | Path | Run],
    num_samples: int = 2048,
    batch_size: int = 256,
    *,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
) -> Comparison:
    """Evaluate samplers on fresh samples, see `qsr.evaluate`.

    Args:
        output: a PNG for the picture; None: none is drawn.

    Raises:
        ConfigError: for fewer than two runs, for runs of models on data, for a picture that cannot be written, and as
            `qsr.evaluate`.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare: expected at least two runs, found {len(runs)}")
    if output is not None:
        check_picture(output)
    for run in runs:
        path_of(run)  # the picture needs their histories
    opened = [open_any_sampler(run, "compare", device) for run in runs]
    for run in opened:
        refuse_ranges(run.settings, "compare", f"qsr load {run.path} with a point has one of its energies")
    evaluations = [evaluate(run, num_samples, batch_size, seed=seed) for run in opened]
    problems = [run.settings.hamiltonian for run in opened]
    distinct = {repr(dump_typed(problem)): problem for problem in problems}  # their lines in words may leave positions out
    exact = {name: references(problem.build()).get(EXACT) for name, problem in distinct.items()}
    found = Comparison(opened, evaluations, [exact[repr(dump_typed(problem))] for problem in problems])
    if output is not None:
        found.draw(output)
    return found
