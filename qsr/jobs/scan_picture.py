"""The picture of `qsr scan`: curves with error bars against one parameter, or maps over two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsr.jobs.drawing import COLOURS, in_symbols, panels, plain, write_picture
from qsr.jobs.phase_diagram import UNITS

if TYPE_CHECKING:
    from qsr.jobs.scan import Scan

PANELS = ("energy_per_site", "density_mean", "staggered_abs", "binder")
TITLES = {"density_mean": "density", "staggered_abs": "|staggered magnetisation|", "binder": "Binder cumulant"}


def draw_scan(path: Path, scan: Scan, title: str) -> None:
    """Write a PNG of a scan in which one or two parameters vary. Raises ConfigError if that fails."""
    names = [name for name in PANELS if name in scan.points[0].found]
    figure, grid = panels(len(names), 2, 5, 3.6)
    for axis, name in zip(grid, names, strict=True):
        label = TITLES.get(name, f"energy per site ({in_symbols(scan.energy_unit)})")
        (_draw_curve if len(scan.varied) == 1 else _draw_map)(figure, axis, scan, name, label)
    figure.suptitle(plain(title), fontsize=10)
    write_picture(figure, path)


def _draw_curve(figure: Any, axis: Any, scan: Scan, name: str, label: str) -> None:
    (parameter,) = scan.varied
    x = [point.values[parameter] for point in scan.points]
    found = [point.found[name] for point in scan.points]
    means, errors = [one.mean for one in found], [one.error for one in found]
    axis.errorbar(x, means, errors, fmt="o", color=COLOURS[0], ms=3, lw=0.8, capsize=2, label="network")
    if name in scan.points[0].exact:
        axis.plot(x, [point.exact[name] for point in scan.points], "k-", lw=0.8, label="exact")
        axis.legend(fontsize=8)
    axis.set(xlabel=UNITS.get(parameter, parameter), ylabel=label)


def _draw_map(figure: Any, axis: Any, scan: Scan, name: str, label: str) -> None:
    first, second = scan.varied
    x, y = (sorted({point.values[parameter] for point in scan.points}) for parameter in (first, second))
    values = np.full((len(y), len(x)), np.nan)
    for point in scan.points:
        values[y.index(point.values[second]), x.index(point.values[first])] = point.found[name].mean
    drawn = axis.pcolormesh(x, y, values, shading="nearest", cmap="viridis")
    figure.colorbar(drawn, ax=axis)
    axis.set(xlabel=UNITS.get(first, first), ylabel=UNITS.get(second, second), title=label)
