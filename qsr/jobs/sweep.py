"""The runs of a sweep, in this process or as joblib and submitit start them.

Hydra's launchers are asked for their settings only. Their `launch` returns when the last run has ended, keeps the jobs to
itself (none could be told to stop), gives up on all when one of joblib's workers is killed, and makes folders of Hydra's.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from qsr.hparams import ConfigError, imports_allowed
from qsr.hparams.launchers import Launcher
from qsr.jobs.run import Run
from qsr.jobs.train import resume, train
from qsr.training import Callback, Interrupted, RunFailed, Trainer
from qsr.training.distribution import Processes
from qsr.training.memory import is_out_of_memory

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_BETWEEN_LOOKS = 0.3  # at jobs that submitit has started


@dataclass(frozen=True)
class SweepRun:
    """A combination of a sweep, with all that another process needs to train it.

    Attributes:
        words: the overrides that it consists of.
        tree: sections as `train` takes them.
        preset: named settings below them.
        allow_import: modules of the user's own.
        resume_auto: go on with the newest run of these settings, if there is one.
    """

    words: Sequence[str]
    tree: Mapping[str, Any]
    preset: str | None = None
    allow_import: Sequence[str] = ()
    resume_auto: bool = False

    def start(self, callbacks: Sequence[Callback] = (), progress: bool = False) -> Run:
        """Train it in this process; every run of every sweep comes by here."""
        with imports_allowed(self.allow_import):
            return train(**self.tree, preset=self.preset, resume_auto=self.resume_auto, progress=progress, callbacks=callbacks)


@dataclass(frozen=True)
class Outcome:
    """How a run of a sweep has ended.

    Attributes:
        begun: whether training began.
        path: its directory; None: it has none (yet).
        error: why it failed, in one line; empty if it did not.
        signum: of the signal that stopped it; 0 for none.
        late: whether it was stopped by `train.max_time`.
    """

    begun: bool = False
    path: Path | None = None
    error: str = ""
    signum: int = 0
    late: bool = False

    @property
    def stopped(self) -> bool:
        """Whether it was saved before its end, and can go on."""
        return bool(self.signum) or self.late

    def line(self, words: Sequence[str]) -> str:
        """For the table of a sweep."""
        end = f"failed: {self.error}" if self.error else "stopped" if self.stopped else "" if self.begun else "not started"
        return "  ".join(part for part in (str(self.path or "-"), " ".join(words), end) if part)


class Watch(Callback):
    """Notes that a run has begun and where, and stops it after a step when the sweep is to stop.

    Args:
        stop: a file; when it is there, all stop. None for a run that is in the process of the sweep itself.
        tell: called once training begins.
    """

    def __init__(self, stop: Path | None = None, tell: Callable[[Outcome], object] | None = None) -> None:
        self.stop = stop
        self.tell = tell
        self.parent = multiprocessing.parent_process()
        self.found = Outcome()

    def asked(self) -> bool:
        """Whether the run should end: it was told to, or whoever started it is gone."""
        gone = self.parent is not None and not self.parent.is_alive()
        return self.stop is not None and (gone or self.stop.exists())

    def on_fit_start(self, trainer: Trainer) -> None:
        self.found = Outcome(True, None if trainer.directory is None else trainer.directory.path)
        if self.tell is not None:
            self.tell(self.found)

    def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
        if self.asked():
            terminate_softly()


def terminate_softly() -> None:
    """SIGTERM to this process, unless the trainer has noted one already: a second one would end it before it has saved."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        signal.raise_signal(signal.SIGTERM)


def attempt(start: Callable[[Sequence[Callback]], Run], watch: Watch) -> Outcome:
    """Run a training with the watch among its callbacks, and turn what ends it into an outcome.

    A run that had ended before is not trained, and has begun all the same.
    """
    if watch.asked():
        return Outcome()
    try:
        run = start([watch])
    except Interrupted as stop:
        return replace(watch.found, signum=stop.signum or 0, late=stop.signum is None)
    except (ConfigError, RunFailed) as error:
        return replace(watch.found, error=" ".join(str(error).split()))
    except OSError as error:
        return replace(watch.found, error=f"{error.filename or 'output'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return replace(watch.found, error="out of memory")
    return watch.found if watch.found.begun else Outcome(True, run.path)


def in_parallel(runs: Sequence[SweepRun], launcher: Launcher) -> Iterator[tuple[int, Outcome]]:
    """Start all runs with joblib or submitit; the number and the outcome of each, as they end.

    A signal stops those that run after their step, and no other one begins. Each run has as many threads as there are cores
    for it, or fewer if `OMP_NUM_THREADS` says so.

    Raises:
        ConfigError: where the launcher cannot start them.
        Interrupted: after a signal, when all have ended.
    """
    if Processes.expected().size > 1:
        raise ConfigError(
            f"hydra/launcher={launcher.name}: the processes of torchrun share every run; start the sweep without it"
        )
    if launcher.name == "joblib":
        with tempfile.TemporaryDirectory(prefix="qsr-sweep-") as folder:
            yield from _until_stopped(Path(folder) / "stop", partial(_with_joblib, runs, launcher))
        return
    # All nodes of a cluster see submitit's folder.
    folder_of_jobs = Path(str(launcher.settings["submitit_folder"]).partition("%")[0])
    stop = folder_of_jobs.absolute() / f"stop-{secrets.token_hex(4)}"
    try:
        yield from _until_stopped(stop, partial(_with_submitit, runs, launcher))
    finally:
        stop.unlink(missing_ok=True)


def _until_stopped(stop: Path, start: Callable[[Path], Iterator[tuple[int, Outcome]]]) -> Iterator[tuple[int, Outcome]]:
    """What `start` yields; the first signal makes the file `stop`, a second one acts at once."""
    noted: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for caught, handler in previous.items():
            signal.signal(caught, handler)

    def note(signum: int, frame: Any) -> None:
        noted.append(signum)
        restore()
        stop.parent.mkdir(parents=True, exist_ok=True)
        stop.touch()

    for caught in STOPPING:
        if signal.getsignal(caught) != signal.SIG_IGN:
            previous[caught] = signal.signal(caught, note)
    try:
        yield from start(stop)
    finally:
        restore()
    if noted:
        raise Interrupted(noted[0], None)


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Processes that are started here do not get these: the Ctrl-C of a terminal is for the sweep, which tells them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def threads_for(processes: int) -> int:
    """Threads for each of so many processes on the cores of this machine that this one may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def _limit_threads(threads: int) -> None:
    torch.set_num_threads(min(threads, torch.get_num_threads()))


# --- joblib -------------------------------------------------------------------------------------------------------------


def _with_joblib(runs: Sequence[SweepRun], launcher: Launcher, stop: Path) -> Iterator[tuple[int, Outcome]]:
    """joblib's queue, with a process of its own for each run: one that is killed takes no other with it."""
    import joblib

    jobs = min(joblib.effective_n_jobs(launcher.settings["n_jobs"]), len(runs))
    multiprocessing.set_forkserver_preload([__name__])  # torch is imported once
    resource_tracker.ensure_running()  # it unblocks them
    with _blocked(*STOPPING):
        forkserver.ensure_running()
    parallel = joblib.Parallel(jobs, backend="threading", pre_dispatch=jobs, batch_size=1, return_as="generator_unordered")
    yield from parallel(joblib.delayed(_in_own_process)(index, run, threads_for(jobs), stop) for index, run in enumerate(runs))


def _in_own_process(index: int, run: SweepRun, threads: int, stop: Path) -> tuple[int, Outcome]:
    outcome = Outcome()
    if stop.exists():
        return index, outcome
    context = multiprocessing.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(run, threads, stop, writer))
    with reader:
        try:
            with writer:
                process.start()
            while True:
                outcome = reader.recv()  # where it runs, and at the end how it went
        except (EOFError, OSError) as error:
            if process.pid is None:
                return index, outcome if stop.exists() else replace(outcome, error=f"no process could be started ({error})")
    process.join()
    if process.exitcode and (outcome.begun or not stop.exists()):
        by = signal.Signals(-process.exitcode).name if process.exitcode < 0 else f"status {process.exitcode}"
        outcome = replace(outcome, error=f"its process ended with {by}")
    return index, outcome


def _report(run: SweepRun, threads: int, stop: Path, writer: Connection) -> None:
    """The whole of a run's process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # only the server must live on, to tell how this one ended
    _limit_threads(threads)
    logging.getLogger("qsr").addHandler(logging.NullHandler())  # lines of several runs would mix; each has its output.txt
    outcome = attempt(run.start, Watch(stop, writer.send))
    with suppress(BrokenPipeError):  # whoever would list it is gone
        writer.send(outcome)


# --- submitit -----------------------------------------------------------------------------------------------------------


def _with_submitit(runs: Sequence[SweepRun], launcher: Launcher, stop: Path) -> Iterator[tuple[int, Outcome]]:
    executor = slurm_or_local(launcher)
    threads = (launcher.settings["cpus_per_task"] or 1) if launcher.name == "submitit_slurm" else threads_for(len(runs))
    with _blocked(signal.SIGINT, signal.SIGHUP):
        try:
            left = dict(enumerate(executor.submit_array([Submitted(run, threads, stop) for run in runs])))
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"hydra/launcher={launcher.name}: {' '.join(str(error).split())}") from None
    while left:
        for index, job in list(left.items()):
            if job.done():
                del left[index]
                yield index, _outcome_of(job)
            elif stop.exists() and job.state == "PENDING":
                del left[index]
                job.cancel(check=False)
                yield index, Outcome()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def slurm_or_local(launcher: Launcher) -> Any:
    """submitit's executor with the settings of Hydra's plugin.

    Raises:
        ConfigError: for settings that submitit refuses, and where there is no Slurm.
    """
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    cluster = launcher.name.removeprefix("submitit_")
    settings = dict(launcher.settings)
    folder = settings.pop("submitit_folder")
    retries = {f"{cluster}_max_num_timeout": settings.pop("max_num_timeout")} if "max_num_timeout" in settings else {}
    shared = BaseQueueConf.__dataclass_fields__
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **retries)
        executor.update_parameters(**{name if name in shared else f"{cluster}_{name}": settings[name] for name in settings})
    except (OSError, RuntimeError, ValueError, TypeError, NameError) as error:
        raise ConfigError(f"hydra/launcher={launcher.name}: {' '.join(str(error).split())}") from None
    return executor


class Submitted:
    """A run as submitit calls it on another machine; after a warning of Slurm's it saves, and may be queued again to go on.

    Attributes:
        path: the run to go on with; None: it is a new one.
    """

    def __init__(self, run: SweepRun, threads: int, stop: Path) -> None:
        self.run = run
        self.threads = threads
        self.stop = stop
        self.path: Path | None = None

    def __call__(self) -> Outcome:
        import submitit
        from submitit.core.utils import UncompletedJobError

        _limit_threads(self.threads)
        warning = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        queue_again = signal.getsignal(warning)
        warned: list[int] = []

        def note(signum: int, frame: Any) -> None:
            warned.append(signum)
            terminate_softly()

        signal.signal(warning, note)
        outcome = attempt(self._start, Watch(self.stop))
        if warned and outcome.signum and outcome.path is not None and callable(queue_again):
            self.path = outcome.path
            try:
                queue_again(warning, None)  # ends this process
            except UncompletedJobError:  # no retry is left
                return outcome
        return outcome

    def _start(self, callbacks: Sequence[Callback]) -> Run:
        if self.path is None:
            return self.run.start(callbacks)
        with imports_allowed(self.run.allow_import):
            return resume(self.path, callbacks=callbacks)

    def checkpoint(self) -> Any:
        """What submitit queues again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _outcome_of(job: Any) -> Outcome:
    try:
        found = job.result()
    except RuntimeError:  # its text is the whole log
        return Outcome(error=f"its job failed, see {os.path.relpath(job.paths.stderr)}")
    assert isinstance(found, Outcome)
    return found
