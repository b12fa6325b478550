"""Writes observables.csv: what 200 shots of a 4x4 Rydberg array show, with the detuning at which they were taken.

For 400 detunings between 0 and 2.5, from the exact ground states: `density` (mean occupation), `staggered` (|staggered
magnetisation|), `neighbours` and `diagonal` (occupation of both sites of nearest and of diagonal pairs), then what is to be found
out: `delta`, and `phase`, which is ordered where the exact staggered magnetisation is above one half. Units: V = 7, Omega = 1.
"""

import csv
from pathlib import Path

import numpy as np

import qsr
from qsr.hamiltonians import ground_state
from qsr.hamiltonians.base import configurations

SHOTS, ROWS = 200, 400


def rows(count: int = ROWS) -> list[list[float | str]]:
    """One for each detuning."""
    generator = np.random.default_rng(0)
    configs = configurations(16).numpy().astype(float)
    grid = np.arange(16).reshape(4, 4)
    signs = (-1.0) ** (grid // 4 + grid % 4).ravel()
    near = [
        (a, b) for shift in (np.s_[1:, :], np.s_[:, 1:]) for a, b in zip(_others(grid, shift), grid[shift].ravel(), strict=True)
    ]
    diagonal = list(zip(grid[:-1, :-1].ravel(), grid[1:, 1:].ravel(), strict=True))
    columns = {
        "density": configs.mean(axis=1),
        "staggered": np.abs((2 * configs - 1) @ signs) / 16,
        "neighbours": np.mean([configs[:, a] * configs[:, b] for a, b in near], axis=0),
        "diagonal": np.mean([configs[:, a] * configs[:, b] for a, b in diagonal], axis=0),
    }
    found: list[list[float | str]] = [[*columns, "delta", "phase"]]
    for delta in np.sort(generator.uniform(0, 2.5, count)):
        probability = ground_state(qsr.Rydberg(Lx=4, Ly=4, V=7, delta=float(delta)).build()).amplitudes ** 2
        drawn = generator.choice(len(configs), SHOTS, p=probability / probability.sum())
        phase = "ordered" if probability @ columns["staggered"] > 0.5 else "disordered"
        found.append([*(round(float(values[drawn].mean()), 5) for values in columns.values()), round(float(delta), 5), phase])
    return found


def _others(grid: np.ndarray, shift: tuple[slice, slice]) -> np.ndarray:
    """The neighbours before the sites of `grid[shift]`."""
    return grid[tuple(slice(None, -1) if part.start else part for part in shift)].ravel()


if __name__ == "__main__":
    with (Path(__file__).parent / "observables.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows())
