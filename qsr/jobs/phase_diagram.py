"""The phase diagram that a network sees: what it says of snapshots, averaged over each state, against the states' parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsr.jobs.drawing import sheet, write_picture

PICTURE_FILE = "phase_diagram.png"
UNITS = {"delta": r"detuning $\delta$", "Omega": r"Rabi frequency $\Omega$", "V": "interaction $V$"}


def varying(params: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Names of the parameters that are not the same for all snapshots."""
    return [name for name, values in params.items() if len(values) and values.min() < values.max()]


def draw_phase_diagram(
    params: Mapping[str, NDArray[np.float64]], found: Mapping[str, NDArray[np.float64]], target: Path, truth: str | None = None
) -> bool:
    """Draw means over the snapshots with equal parameters, with their standard errors.

    Of one parameter a curve for each of the quantities; of two a map of the last one; further parameters are averaged over.

    Args:
        params: (S,) each, of the snapshots.
        found: (S,) each: probabilities of classes, or predictions of a parameter.
        target: the PNG.
        truth: which of the parameters the predictions are of; None: they are probabilities.

    Returns:
        Whether there was something to draw: a parameter that varies.
    """
    names = varying(params)
    if not names:
        return False
    figure = sheet(6, 4.2)
    axes = figure.subplots()
    (_draw_curves if len(names) == 1 else _draw_map)(figure, axes, names[:2], params, found, truth)
    if len(names) > 2:
        axes.set_title(f"averaged over {', '.join(names[2:])}", fontsize=10)
    write_picture(figure, target)
    return True


def means_of_states(keys: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Means of values (S,) over the rows with equal keys (S, P).

    Returns:
        The keys (K, P) in their order, the means (K,) and their standard errors (K,), 0 of a single value.
    """
    unique, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    mean = np.bincount(group, values) / count
    squares = np.bincount(group, (values - mean[group]) ** 2)
    return unique, mean, np.sqrt(squares / np.maximum(count - 1, 1) / count)


def _draw_curves(figure: Any, axes: Any, names: list[str], params: Any, found: Any, truth: str | None) -> None:
    keys = params[names[0]][:, None]
    for label, values in found.items():
        points, mean, error = means_of_states(keys, values)
        axes.errorbar(points[:, 0], mean, error, fmt="o-", ms=4, lw=0.8, label=label)
    if truth == names[0]:
        ends = [float(keys.min()), float(keys.max())]
        axes.plot(ends, ends, color="0.6", ls="--", lw=1, label="exact")
    axes.set(xlabel=_label(names[0]), ylabel="mean probability" if truth is None else f"mean prediction of {truth}")
    if truth is None:
        axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=8)


def _draw_map(figure: Any, axes: Any, names: list[str], params: Any, found: Any, truth: str | None) -> None:
    label, values = list(found.items())[-1]
    points, mean, _ = means_of_states(np.stack([params[name] for name in names], axis=1), values)
    limits = (0, 1) if truth is None else (float(mean.min()), float(mean.max()))
    grid = [np.unique(points[:, column]) for column in (0, 1)]
    style = {"cmap": "viridis", "vmin": limits[0], "vmax": limits[1]}
    if len(points) == len(grid[0]) * len(grid[1]):  # sorted, so that the second changes fastest
        drawn = axes.pcolormesh(*grid, mean.reshape(len(grid[0]), -1).T, shading="nearest", **style)
    else:
        drawn = axes.scatter(points[:, 0], points[:, 1], c=mean, marker="s", s=80, **style)
    figure.colorbar(drawn, ax=axes, label=f"mean of {label}")
    axes.set(xlabel=_label(names[0]), ylabel=_label(names[1]))


def _label(name: str) -> str:
    return UNITS.get(name, name)
