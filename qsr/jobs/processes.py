"""Several processes for one run: what is refused before they meet, and the run that they go on with after a restart."""

from __future__ import annotations

from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory
from qsr.training.distribution import Processes, restarts


def check_shared(settings: RunSettings) -> None:
    """Refuse what several processes cannot share; nothing for one.

    Raises:
        ConfigError: for learning from data, and for a number of minibatches that is no multiple of that of the processes.
    """
    size = Processes.expected().size
    if size == 1:
        return
    if settings.objective.name != "energy":
        raise ConfigError(f"{size} processes: only training on energies (VMC) is shared among them; start this run in one")
    if settings.train.Q % size:
        raise ConfigError(
            f"train.Q={settings.train.Q}: must be a multiple of the {size} processes, which share the Q minibatches of a step"
        )


def claimed(settings: RunSettings, processes: Processes) -> tuple[RunDirectory | None, bool]:
    """The directory of a new run in the first process, None in the others, and whether to go on with what is in it.

    After torchrun has restarted the processes (`--max-restarts`) it is the run that they were at: of these settings the newest
    that has not ended.
    """
    directory = None
    if processes.first and restarts():
        directory = RunDirectory.unfinished(settings)
    started = processes.told(directory is not None)
    if processes.first and not started:
        directory = RunDirectory.claim(settings)
    return directory, started
