"""The one training loop: steps, checkpoints, resuming, signals, and what happens when a number is not finite, memory is not
there, or the time is up."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from qsr.hparams import ConfigError, RunSettings
from qsr.runs import RunDirectory, fit_weights
from qsr.training.determinism import deterministic_operations
from qsr.training.distribution import ALONE, Processes
from qsr.training.memory import LEAST_MEMORY, is_out_of_memory, less_memory
from qsr.training.precision import computing_in
from qsr.training.protocols import (
    BatchKey,
    BudgetedObjective,
    Callback,
    EpochObjective,
    FailedAlone,
    Metrics,
    Objective,
    RunFailed,
    UpdateRule,
)
from qsr.training.random import forked_generators
from qsr.training.resuming import check_state, going_on
from qsr.training.schedule import Stage

logger = logging.getLogger(__name__)

MAX_REWINDS = 3
SECONDS_BETWEEN_EPOCH_CHECKPOINTS = 1.0
TIME_IS_UP = 75  # EX_TEMPFAIL of BSD's sysexits.h: "try again later"


class Interrupted(Exception):
    """A signal, or `train.max_time`, ended a fit between two steps; all is saved in `directory` (if the run has one).

    Attributes:
        signum: of the signal; None: the time was up.
        cause: the same in words.
        status: for the exit of the process.

    Args:
        resume: how to go on, where it is not `qsr train --resume`.
    """

    def __init__(self, signum: int | None, directory: RunDirectory | None, resume: str = "") -> None:
        self.signum = signum
        self.cause = "train.max_time has passed" if signum is None else signal.Signals(signum).name
        self.status = TIME_IS_UP if signum is None else 128 + signum
        self.directory = directory
        how = "" if directory is None else resume or f"qsr train --resume {directory.path}"
        super().__init__(self.cause + ("" if directory is None else f"; saved in {directory.path}, go on with {how}"))


class Trainer:
    """Runs an update rule on an objective until `settings.train.steps`, or to the end of a stage of the run.

    Args:
        model: trained in place.
        objective, update_rule: the loss and the step.
        callbacks: called in this order at every hook.
        settings: `train.steps`, `train.Q` and `checkpoint` are read here.
        directory: where checkpoints and weights go; None keeps everything in memory.
        stage: the stage of a curriculum that this model and objective are for; default: the run's first.
        processes: that share the minibatches of a step; the objective and the update rule have the same ones. Weights are those
            of the first, which alone has a directory.
        until: reading of `time.monotonic` after which the run is interrupted.

    Attributes:
        step: number of steps done.
        epoch, step_in_epoch: the same, counted in epochs of the objective.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        update_rule: UpdateRule,
        callbacks: Sequence[Callback],
        settings: RunSettings,
        directory: RunDirectory | None = None,
        stage: Stage | None = None,
        processes: Processes = ALONE,
        until: float = math.inf,
    ) -> None:
        self.model = model
        self.objective = objective
        self.update_rule = update_rule
        self.callbacks = list(callbacks)
        self.settings = settings
        self.directory = directory
        self.stage = stage or settings.train.stages()[0]
        self.processes = processes
        self.until = until
        processes.agree(model)
        self.step = self.stage.first
        self.epoch = 0
        self.step_in_epoch = self.stage.first
        self.rewinds = 0
        self.stopped = ""  # why it ends before the stage does
        self._written = -math.inf  # when the last checkpoint was
        self._good: dict[str, Any] = {}  # the last checkpoint that is known to be sound
        self._latest: dict[str, Any] = {}  # the last checkpoint
        self._untried = ""  # the checkpoint that it was resumed from, until a step has been done

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.stage.end if self.stage.final else int(self.settings.train.steps)

    def fit(self) -> None:
        """Train to the end of the stage.

        Raises:
            Interrupted: after SIGINT, SIGTERM or SIGHUP, or when the time is up, with a checkpoint written.
            RunFailed: if steps stay non-finite after three rewinds, with the last good weights in place; if the memory is not
                there, however small the chunks; also see `deterministic_operations`.
            OSError: if the files of the run cannot be written.
        """
        train = self.settings.train
        computing, operations = computing_in(train.precision, self.model), deterministic_operations(train.deterministic)
        with operations, forked_generators(cuda_devices(self.model)), computing, _signals_noted() as noted:
            try:
                if not self._good:
                    self.checkpoint()
                self._call("on_fit_start")
                self._run(noted)
                self.model.eval()
                if self.stage.final:  # the settings speak of its lattice
                    self.save_weights()
                self._call("on_fit_end")
                if not self.stage.final:  # a signal while the last step was saved would be forgotten by the next stage
                    (signum,) = self.processes.largest(max(noted, default=0))
                    if signum:
                        raise Interrupted(signum, self.directory)
            except BaseException as error:
                for callback in self.callbacks:
                    callback.on_exception(self, error)
                raise

    def _run(self, noted: list[int]) -> None:
        every = self.settings.checkpoint.every_n_steps
        if self.step == self.stage.end and self.step_in_epoch and isinstance(self.objective, EpochObjective):
            self._end_epoch()  # a run that was killed in its last evaluation
        while self.step < self.stage.end and not self.stopped:
            epoch_done = True
            for keys in self.objective.batches(self.epoch, self.step_in_epoch, self.settings.train.Q):
                with going_on(self._untried) if self._untried else nullcontext():
                    metrics = self._updated(keys)
                if metrics is None:
                    epoch_done = False
                    break
                self._untried = ""
                problem = self._not_finite(metrics)
                (failed,) = self.processes.largest(bool(problem))
                if failed:
                    self._rewind(problem or "a number is not finite in another process")
                    epoch_done = False
                    break
                self._good = self._latest  # a step from it came out well
                self.step += 1
                self.step_in_epoch += 1
                for callback in self.callbacks:
                    callback.on_step_end(self, metrics)
                last = self.step == self.stage.end
                # All stop after the same step.
                signum, late = self.processes.largest(max(noted, default=0), time.monotonic() > self.until)
                if last or signum or late or (every and self.step % every == 0):
                    self.checkpoint()
                if (signum or late) and not (last and self.stage.final):
                    raise Interrupted(signum or None, self.directory)
                if last:
                    break
            if epoch_done:
                if self.step_in_epoch == 0:
                    raise ConfigError("the objective has no data: an epoch of it has no batches")
                self._end_epoch()

    def _updated(self, keys: Sequence[BatchKey]) -> Metrics | None:
        """The metrics of a step; None if its memory was not there: back at the last checkpoint, with smaller chunks."""
        try:
            return self.update_rule.update(self.model, self.objective, self.processes.share(keys))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback holds the tensors of the step.
        if not isinstance(self.objective, BudgetedObjective):
            raise RunFailed(f"step {self.step}: out of memory; a smaller data.loader.batch_size or model takes less")
        if self.processes.size > 1:  # the others are in the middle of the step
            raise FailedAlone(f"step {self.step}: out of memory; a smaller train.memory_MiB makes smaller chunks")
        failed_at = self.step
        memory = less_memory(self.objective.memory_bytes, "a smaller train.K or model takes less")
        # Not the step alone: it may have changed the weights in part.
        self.load_state(self._latest)
        self.objective.memory_bytes = memory
        logger.warning(
            "step %d: out of memory; again from step %d with train.memory_MiB=%g", failed_at, self.step, memory / 2**20
        )
        return None

    def _end_epoch(self) -> None:
        """Evaluate, move the scheduler on, let the callbacks see it, save: in this order."""
        self.epoch += 1
        self.step_in_epoch = 0
        if not isinstance(self.objective, EpochObjective):
            return self._call("on_epoch_end")
        metrics = self.objective.end_epoch(self.model, self.epoch)
        self.update_rule.end_epoch(metrics)
        for callback in self.callbacks:
            callback.on_validation_end(self, metrics)
        self._call("on_epoch_end")
        every = self.settings.checkpoint.every_n_epochs
        # A checkpoint can take longer than the epoch of a small model; a crash costs the time since the last one.
        due = every and self.epoch % every == 0 and time.monotonic() - self._written > SECONDS_BETWEEN_EPOCH_CHECKPOINTS
        if self.stopped or self.step == self.stage.end or due:
            self.checkpoint()
        return None

    def _not_finite(self, metrics: Metrics) -> str:
        """Which number of a step is not finite; empty if all are, the new weights included."""
        # Of a model's own metrics only the loss: an accuracy over no samples may be what it likes.
        vital = (name for name in metrics if "/" not in name or name.endswith("/loss"))
        bad = [f"{name}={metrics[name]}" for name in vital if not math.isfinite(metrics[name])]
        if not bad:
            bad = [f"{name} is not finite" for name, values in self.model.named_parameters() if not values.isfinite().all()]
        return ", ".join(bad)

    def _call(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self)

    # --- saving and going back --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """A copy of all that the rest of the run depends on."""
        return {
            "step": self.step,
            "stage": self.stage.index,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "rewinds": self.rewinds,
            "memory_bytes": self.objective.memory_bytes if isinstance(self.objective, BudgetedObjective) else None,
            "model": {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()},
            "update_rule": deepcopy(self.update_rule.state_dict()),
            "objective": deepcopy(self.objective.state_dict()),
            # By name: a run that was started on a terminal may be resumed without one, and so without its bar.
            "callbacks": {name: deepcopy(callback.state_dict()) for name, callback in self._named_callbacks()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state; the callbacks, too (the history is cut to its length then)."""
        self.step, self.epoch, self.step_in_epoch = state["step"], state["epoch"], state["step_in_epoch"]
        self.rewinds = state["rewinds"]
        self.model.load_state_dict(state["model"])
        self.update_rule.load_state_dict(deepcopy(state["update_rule"]))
        if "objective" in state:  # checkpoints of qsr 0.1 have none
            self.objective.load_state_dict(deepcopy(state["objective"]))
        if isinstance(self.objective, BudgetedObjective):  # chunks set the rounding, and may have become smaller
            stored = state.get("memory_bytes", self.objective.memory_bytes)
            self.objective.memory_bytes = max(LEAST_MEMORY, min(stored, self.objective.memory_bytes))
        for name, callback in self._named_callbacks():
            if name in state["callbacks"]:
                callback.load_state_dict(deepcopy(state["callbacks"][name]))

    def _named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """Callbacks with the names of their classes; the second of a class is number 2, and so on."""
        seen: dict[str, int] = {}
        for callback in self.callbacks:
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, 0) + 1
            yield kind if seen[kind] == 1 else f"{kind} {seen[kind]}", callback

    def checkpoint(self) -> None:
        """Remember this state, and write it if there is a directory.

        Rewinding goes back to the last checkpoint from which a step came out finite.

        Raises:
            RunFailed: if several processes no longer have the same weights.
        """
        self.processes.check_equal(self.model)
        self._call("on_checkpoint")
        self._latest = self.state()
        self._written = time.monotonic()
        self._good = self._good or self._latest
        self._save(self._latest)

    def _save(self, state: dict[str, Any]) -> None:
        """Make a state the newest checkpoint on disk."""
        if self.directory is not None:
            rest = {name: value for name, value in state.items() if name != "model"}
            self.directory.save_checkpoint(state["step"], state["model"], rest)

    def resume(self) -> None:
        """Go on from the last checkpoint in the first process' directory.

        Raises:
            ConfigError: if there is none, or it is not one of such a run.
        """
        stored = self._stored() if self.processes.first else None
        self._latest, self._good = self.processes.told_state(stored)
        self._untried = f"{self.directory.path if self.directory else 'the run'}: checkpoint {self._latest['step']}"
        with going_on(self._untried):
            self.load_state(self._latest)

    def _stored(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The last checkpoint, and the one to go back to if the next step is not finite."""
        found = None if self.directory is None else self.directory.latest_checkpoint()
        if found is None:
            raise ConfigError("nothing to resume: the run has no checkpoint")
        before = self.directory.latest_checkpoint(before=found.step) if self.directory is not None else None
        latest = {**found.state, "model": found.weights}
        # A model of an earlier stage may have other shapes.
        same_stage = before is not None and before.state.get("stage", 0) == self.stage.index
        good = {**before.state, "model": before.weights} if before is not None and same_stage else latest
        own = self.state()
        for checkpoint in (found, before if same_stage else None):
            if checkpoint is not None:
                fit_weights(self.model, checkpoint.weights, f"checkpoint {checkpoint.step}")
                check_state(checkpoint.state, own, checkpoint.step, f"checkpoint {checkpoint.step}")
        return latest, good

    def save_weights(self) -> None:
        """Write the model's weights, if there is a directory."""
        if self.directory is not None:
            self.directory.save_weights(self.model.state_dict())

    def _rewind(self, problem: str) -> None:
        failed_at, rewinds = self.step, self.rewinds + 1
        self._save(self._good)  # before the history is cut to its length: later checkpoints could not be resumed then
        self._latest = self._good
        self.load_state(self._good)
        if rewinds > MAX_REWINDS:
            self.save_weights()
            raise RunFailed(
                f"step {failed_at}: {problem} after {MAX_REWINDS} rewinds; the weights of step {self.step} are kept "
                f"(a train.lr smaller than {self.settings.train.lr} may help)"
            )
        for _ in range(rewinds - self.rewinds):  # the good state may be older than earlier rewinds
            self.update_rule.slow_down()
        self.rewinds = rewinds
        self.checkpoint()  # a kill, or missing memory, must not give the rate back
        logger.warning("step %d: %s; back to step %d with half the learning rate", failed_at, problem, self.step)


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """Where the model's parameters are, as far as the CPU's generator is not the one for dropout there."""
    return sorted({parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}, key=str)


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP are put on a list instead of ending the process; a second one acts at once.

    One that is ignored stays so: `nohup` asks for that.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # only the main thread may handle signals
        return
    previous: dict[int, Any] = {}

    def note(signum: int, frame: Any) -> None:
        noted.append(signum)
        signal.signal(signum, previous[signum])

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        caught = getattr(signal, name, None)  # Windows has no SIGHUP
        if caught is not None and signal.getsignal(caught) != signal.SIG_IGN:
            previous[caught] = signal.signal(caught, note)
    try:
        yield noted
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
