"""What `qsr train -m` shows: a line for each run that has ended, and all of them at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import click

from qsr.hparams import ConfigError
from qsr.hparams.launchers import Launcher
from qsr.jobs.sweep import Outcome, SweepRun, in_parallel
from qsr.runs import RunDirectory
from qsr.training import Interrupted, RunFailed
from qsr.training.distribution import Processes


def run_sweep(
    runs: Sequence[SweepRun],
    launcher: Launcher,
    here: Callable[[SweepRun], Outcome],
    saved: Callable[[RunDirectory | None], str],
) -> None:
    """Run all combinations, and list them in their order.

    Args:
        here: runs one in this process, with its progress.
        saved: says what there is of a run that was stopped.

    Raises:
        Interrupted: after a signal, when those that were running have saved; and for some, when the others are done, whose
            `train.max_time` has passed.
        RunFailed: if some have failed, when the others are done.
        ConfigError: if all were refused before any work.
    """
    outcomes = [Outcome()] * len(runs)
    signum = 0
    parallel = launcher.name != "basic"
    if parallel:
        click.echo(f"{len(runs)} runs; the lines of each are in its output.txt", err=True)
    try:
        ended = 0
        for index, outcome in in_parallel(runs, launcher) if parallel else _in_turn(runs, here):
            outcomes[index] = outcome
            if not Processes.expected().first:
                continue
            if outcome.stopped:
                directory = None if outcome.path is None else RunDirectory(outcome.path)
                click.echo(f"stopped: {saved(directory)}", err=True)
            elif parallel and (outcome.begun or outcome.error):
                ended += 1
                click.echo(f"{ended}/{len(runs)}  {outcome.line(runs[index].words)}", err=True)
    except Interrupted as stop:
        signum = stop.signum or 0
    if Processes.expected().first:
        lines = [outcome.line(run.words) for outcome, run in zip(outcomes, runs, strict=True)]
        click.echo("\n".join(["runs of the sweep:", *lines]))
    if signum or any(outcome.late for outcome in outcomes):
        raise Interrupted(signum or None, None)
    failed = [outcome for outcome in outcomes if outcome.error or outcome.signum]
    if failed and not any(outcome.begun for outcome in outcomes):
        raise ConfigError(failed[0].error)
    if failed:
        raise RunFailed(f"{len(failed)} of the {len(runs)} runs of the sweep did not reach their end")


def _in_turn(runs: Sequence[SweepRun], here: Callable[[SweepRun], Outcome]) -> Iterator[tuple[int, Outcome]]:
    """One after the other, up to a signal; of processes that share each run, up to the first failure, as they may be lost."""
    for index, run in enumerate(runs):
        outcome = here(run)
        yield index, outcome
        if outcome.signum:
            raise Interrupted(outcome.signum, None)
        if outcome.error:
            if Processes.expected().size > 1:
                return
            click.echo(f"Error: {outcome.error}", err=True)
