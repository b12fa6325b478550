"""How many steps of variational Monte Carlo snapshots save: from scratch, and after learning from snapshots, on a 4x4 array.

Snapshots are those of the exact ground state, with and without readout errors (which are taken off). The energy of a step is
the mean over the last 10 steps of 256 samples; counted is the first that is nearer to the exact energy than the tolerance.
Seconds are those of all training up to there, learning from snapshots included. Medians over seeds. About 4 minutes on one core;
--quick half a minute.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report

import qsr
from qsr.jobs import exact, make_snapshots
from qsr.runs import RunDirectory

PROBLEM = qsr.Rydberg(Lx=4, Ly=4)
MODEL = qsr.PTF(patch="2x2", Nh=16, nhead=2)
WINDOW = 10  # steps that an energy is averaged over
TOLERANCES = (1e-2, 3e-3, 1e-3)
STEADY = {"scheduler": {"name": "none"}}


def first_within(energies: np.ndarray, reference: float, tolerance: float) -> int | None:
    """Steps until the running mean is within a relative tolerance; None: never."""
    means = np.convolve(energies, np.ones(WINDOW) / WINDOW, mode="valid")
    near = np.flatnonzero(np.abs(means / reference - 1) < tolerance)
    return None if not len(near) else int(near[0]) + WINDOW


def needed(run: qsr.Run, before: float, reference: float) -> dict[str, float | None]:
    """Steps and seconds of a run of variational Monte Carlo until each tolerance, and where it began."""
    history = RunDirectory(run.path).history.read("steps")
    found: dict[str, float | None] = {"start": float(history["energy"][0] - reference) / abs(reference)}
    for tolerance in TOLERANCES:
        steps = first_within(history["energy"], reference, tolerance)
        found[f"steps {tolerance:g}"] = steps
        found[f"s {tolerance:g}"] = None if steps is None else before + float(history["seconds"][:steps].sum())
    return found


def medians(found: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Over seeds; None where more than half of them have not come there."""
    result: dict[str, float | None] = {}
    for name in found[0]:
        value = statistics.median(np.inf if seed[name] is None else float(seed[name] or 0) for seed in found)
        result[name] = None if value == np.inf else value
    return result


def cells(way: Mapping[str, float | None], scratch: Mapping[str, float | None]) -> list[str]:
    """Of a row of the table, with ratios."""
    texts = [f"{way['start']:.1e}"]
    for name, value in list(way.items())[1:]:
        base = scratch[name]
        ratio = f" ({base / value:.1f}x)" if value and base else ""
        texts.append("-" if value is None else f"{value:.{0 if name.startswith('steps') else 1}f}{ratio}")
    return texts


def main(seeds: int, quick: bool) -> None:
    """Print the table and keep it."""
    steps, learning = (120, 60) if quick else (600, 200)
    print(f"{report.header()}\nsteps of variational Monte Carlo (K=256, Adam, lr=0.005) and seconds until a relative error")
    print("in brackets: from scratch / this way\n")
    columns = {f"{kind} {tolerance:g}": 14 for tolerance in TOLERANCES for kind in ("steps", "s")}
    table = report.Table({"way": 28, "at the start": 14, **columns})
    reference = exact(PROBLEM).energy
    rows: list[dict[str, Any]] = []
    ways = [(0, 0.0), *((count, error) for count in ((1000,) if quick else (1000, 10000)) for error in (0.0, 0.05))]
    with tempfile.TemporaryDirectory() as folder:
        for count, error in ways:
            found = []
            for seed in range(seeds):
                train = {"K": 256, "dir": folder, "lr": 0.005, "seed": 10 * seed}
                if not count:
                    run, before = qsr.train(PROBLEM, MODEL, {**train, "steps": steps}, **STEADY), 0.0
                else:
                    file = Path(folder) / f"{count}-{error}-{seed}.h5"
                    make_snapshots([PROBLEM], file, shots=count, e10=error, e01=error / 5, seed=seed)
                    stopping = {"patience": 10, "restore_best_weights": True}
                    data = {"file": str(file), "draws": 4}
                    run = qsr.train(PROBLEM, MODEL, {**train, "steps": learning}, data=data, early_stopping=stopping, **STEADY)
                    before = float(RunDirectory(run.path).history.read("steps")["seconds"].sum())
                    run = qsr.finetune(run, train={"steps": steps})
                found.append(needed(run, before, reference))
            name = f"{count} snapshots{f', e10={error:g}' if error else ''}" if count else "from scratch"
            rows.append({"name": name, **medians(found)})
            values = [{name: value for name, value in row.items() if name != "name"} for row in (rows[-1], rows[0])]
            table.row(name, *cells(*values))
    report.save("pretraining", {"quick": quick, "rows": rows})


if __name__ == "__main__":
    parser = report.arguments(__doc__, threads=1)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    report.limit_threads(options.threads)
    main(1 if options.quick else options.seeds, options.quick)
