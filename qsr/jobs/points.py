"""One Hamiltonian of a run that was trained over ranges: for every job that asks for a single state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qsr.hparams import ConfigError, RunSettings
from qsr.hparams.building import as_mapping

SCANNED = 13  # points of a range in the scan that is suggested


def ranges_of(settings: RunSettings) -> str:
    """'delta=0:3 V=5:7': the ranges of a run as they are written."""
    return " ".join(f"{name}={found}" for name, found in settings.hamiltonian.ranges.items())


def suggested_scan(settings: RunSettings, path: Path) -> str:
    """The command that goes through a run's ranges."""
    grid = " ".join(f"{name}={found}:{SCANNED}" for name, found in settings.hamiltonian.ranges.items())
    return f"qsr scan {path} --{settings.hamiltonian.section} {grid}"


def refuse_ranges(settings: RunSettings, command: str, instead: str) -> None:
    """For jobs on one state.

    Args:
        instead: what to type in place of it.

    Raises:
        ConfigError: for a run over ranges.
    """
    if settings.hamiltonian is not None and settings.hamiltonian.ranges:
        raise ConfigError(f"{command}: this run is for all of {ranges_of(settings)}, and one state is needed here; {instead}")


def at_point(settings: RunSettings, model: Any, hamiltonian: Any, command: str) -> tuple[RunSettings, Any]:
    """The settings and the sampler of one point of a run over ranges.

    Args:
        model: a `ConditionedSampler`, if the run is over ranges.
        hamiltonian: values of the ranges: a mapping, or an `Hparams` object; None for a run of one Hamiltonian.

    Raises:
        ConfigError: without values for a run over ranges, with some for a run of one Hamiltonian, for values outside their
            ranges, and for other settings than those of the run.
    """
    problem = settings.hamiltonian
    if not problem.ranges:
        if hamiltonian is not None:
            raise ConfigError(
                f"{command}: this run is for one Hamiltonian, {problem.describe()}; train over a range, such as "
                f"--{problem.section} delta=0:3, to choose one afterwards"
            )
        return settings, model
    if hamiltonian is None:
        example = " ".join(f"{name}={found.middle:g}" for name, found in problem.ranges.items())
        raise ConfigError(
            f"{command}: this run is for all of {ranges_of(settings)}; choose one, --{problem.section} {example}, or go through "
            "all with qsr scan"
        )
    values = chosen_values(settings, hamiltonian)
    single = problem.updated(values)
    return replace(settings, hamiltonian=single), model.at(**{name: single[name] for name in values})


def chosen_values(settings: RunSettings, hamiltonian: Any) -> dict[str, Any]:
    """Values of a problem's ranges, by name; other settings may only repeat those of the run.

    Raises:
        ConfigError: for another problem, and for another value of what is no range.
    """
    problem = settings.hamiltonian
    given: Mapping[str, Any] = as_mapping("hamiltonian", hamiltonian)
    values = {}
    for name, value in given.items():
        if name == "type":
            if value != problem.section:
                raise ConfigError(f"--{value}: this run is of --{problem.section} {ranges_of(settings)}")
        elif name not in problem:
            raise ConfigError(problem.unknown_name(name))
        elif name in problem.ranges:
            values[name] = value
        elif value != problem[name]:
            known = "numbers of its own" if isinstance(problem[name], list) else problem[name]
            can = f"only {ranges_of(settings)} can be chosen"
            raise ConfigError(f"{problem.label(name)}={value}: this run has {known} there; {can}")
    return values
