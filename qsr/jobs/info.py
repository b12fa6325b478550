"""`qsr info`: what a run is, how far it got, and what to type next, read from its files without building its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from qsr.estimators import Estimate
from qsr.jobs.points import suggested_scan
from qsr.jobs.run import Run, path_of
from qsr.runs import RunDirectory, StoredRun, read_run
from qsr.runs.directory import LOCK_FILE, SETTINGS_FILE, WEIGHTS_FILE, read_tree
from qsr.samplers.group import symmetry_group

ALWAYS = ("patch", "Nh")  # settings of a model that are shown also where they are the defaults
LATE = 0.1  # share of the steps that the last energy is the mean of


@dataclass(frozen=True)
class RunInfo:
    """What the files of a run say.

    Attributes:
        path: of the directory.
        problem: the Hamiltonian, or the model on data, in one line.
        model: kind, number of numbers in the weights, precision.
        training: what was asked for.
        done, total: steps of a sampler, epochs of a model on data.
        state: finished, being written, or interrupted.
        last: the last metrics, by name; of a sampler the mean energy per site over the last tenth of the steps.
        versions: of the packages that it was made with, and the number of threads.
        size: of all files, in bytes.
        following: commands that make sense now.
    """

    path: Path
    problem: str
    model: str
    training: str
    done: int
    total: int
    state: str
    last: dict[str, str]
    versions: dict[str, str]
    size: int
    following: list[str]

    def lines(self) -> list[str]:
        """For the terminal."""
        rows = [
            ("run", str(self.path)),
            ("state", self.state),
            ("problem", self.problem),
            ("model", self.model),
            ("training", self.training),
            *self.last.items(),
            ("made with", ", ".join(f"{name} {version}" for name, version in self.versions.items()) or "unknown versions"),
            ("on disk", f"{self.size / 2**20:.1f} MiB"),
        ]
        return [*(f"{name:<20}{text}" for name, text in rows), *(f"  {command}" for command in self.following)]


def info(run: str | Path | Run) -> RunInfo:
    """What the files of a run of qsr or of NN-QSR say.

    Raises:
        ConfigError: as `read_run`.
    """
    stored = read_run(path_of(run))
    directory, settings = RunDirectory(stored.path), stored.settings
    counter, total = ("epochs", settings.train.max_epochs) if settings.on_data else ("steps", settings.train.steps)
    history = directory.history.read(counter)
    done = len(next(iter(history.values()))) if history else 0
    finished = (stored.path / WEIGHTS_FILE).is_file()
    state = "being written" if _locked(stored.path) else "finished" if finished else "interrupted"
    short = "" if done in (0, total) and state != "interrupted" else f" after {done} of {total} {counter}"
    resume = [f"qsr train --resume {stored.path}"] if state == "interrupted" and (stored.path / SETTINGS_FILE).is_file() else []
    return RunInfo(
        path=stored.path,
        problem=settings.model.label_of_runs if settings.on_data else settings.hamiltonian.describe(),
        model=_model(stored),
        training=_training(settings),
        done=done,
        total=total,
        state=f"{state}{short}",
        last=_last_metrics(history) if settings.on_data else _last_energy(history, settings.hamiltonian.num_sites),
        versions=_versions(stored.path),
        size=sum(file.stat().st_size for file in stored.path.rglob("*") if file.is_file()),
        following=[*resume, *_looks(stored)],
    )


def _looks(stored: StoredRun) -> list[str]:
    """Commands that show what the run has found."""
    if stored.settings.hamiltonian is not None and stored.settings.hamiltonian.ranges:
        return [suggested_scan(stored.settings, stored.path)]
    return [f"qsr load {stored.path}", f"qsr plot {stored.path}"]


def _model(stored: StoredRun) -> str:
    section = stored.settings.model
    fields, own = type(section).model_fields, section.own_settings() if stored.settings.on_data else dict(section.items())
    given = {
        name: value
        for name, value in own.items()
        if isinstance(value, (str, int, float)) and (name in ALWAYS or value != fields[name].default)
    }
    numbers = sum(tensor.numel() for tensor in stored.weights.values())
    if "symmetry" in given:
        problem = stored.settings.hamiltonian
        group = symmetry_group(f"{section.section}.symmetry", section.symmetry, problem.lattice(), problem)
        given["symmetry"] = f"{section.symmetry} ({len(group)} images)"
    words = " ".join(f"{name}={value}" for name, value in given.items())
    return f"{section.section} {words}".rstrip() + f", {numbers} parameters in {stored.settings.train.precision}"


def _training(settings: Any) -> str:
    train = settings.train
    rate = f"{settings.optimizer.name}, lr={train.lr:g}, {settings.scheduler.name}, seed={train.seed}"
    if settings.on_data:
        return f"{train.max_epochs} epochs, {rate}"
    return f"{train.steps} steps of {train.B} samples, {rate}"


def _last_energy(history: dict[str, Any], num_sites: int) -> dict[str, str]:
    """Energy per site and its variance over the last steps of a history."""
    if "energy" not in history:
        return {} if "kl" not in history else {"KL, last": f"{history['kl'][-1]:.3e}"}
    late = max(1, int(LATE * len(history["energy"])))
    sites = history.get("sites", np.full(len(history["energy"]), num_sites))[-late:]
    energy, variance = history["energy"][-late:] / sites, history["variance"][-late:] / sites
    error = float(np.linalg.norm(history["energy_error"][-late:] / sites)) / late
    return {
        "E/N, last steps": f"{Estimate(float(energy.mean()), error)}   (mean of {late} steps)",
        "Var/N, last steps": f"{variance.mean():.3e}",
    }


def _last_metrics(history: dict[str, Any]) -> dict[str, str]:
    """The last epoch's metrics."""
    return {name: f"{values[-1]:.6g}" for name, values in history.items() if name.startswith(("training_", "validation_"))}


def _versions(path: Path) -> dict[str, str]:
    file = path / SETTINGS_FILE
    found = read_tree(file).get("versions", {}) if file.is_file() else {}
    return {name: str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def _locked(path: Path) -> bool:
    """Whether a process writes the run."""
    if not (path / LOCK_FILE).exists():
        return False
    lock = FileLock(path / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False
