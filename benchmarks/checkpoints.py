"""Weights saved while a run trains, with the training seconds until then; and the search for the first good ones."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from qsr.estimators import RunningMoments, local_energy
from qsr.hamiltonians import Hamiltonian, configurations
from qsr.runs.files import replacing, write_atomically
from qsr.samplers import Sampler
from qsr.training import Callback
from qsr.training.protocols import Metrics
from qsr.training.random import generator_for

INDEX = "saved.json"
SPACING = 0.02  # a checkpoint whenever the training seconds have grown by this share,
LEAST = 0.25  # or by so many seconds, whichever is later
LOOK_BACK = 3  # checkpoints before the one found by bisection that are looked at, too
CLEAR = 3.0  # standard errors beyond which a checkpoint is clearly outside
FIRST_SAMPLES = 256  # of an evaluation; heavy tails make fewer say nothing


class Enough(Exception):
    """The budget of training seconds is spent."""


@dataclass
class Saved:
    """A checkpoint: its step, the training seconds until then, and its file."""

    step: int
    seconds: float
    file: str


class Keeper(Callback):
    """Saves weights of the run's final lattice as training goes on; its own time does not count.

    The clock runs from the making of this object, so that building and the stages of a curriculum count. A run that is
    resumed goes on with the seconds of its last checkpoint, and with the weights saved until then.

    Args:
        folder: where weights and the index go.
        budget: raise `Enough` after so many training seconds.
    """

    def __init__(self, folder: Path, budget: float = math.inf) -> None:
        self.folder, self.budget = folder, budget
        folder.mkdir(parents=True, exist_ok=True)
        self.saved: list[Saved] = read_index(folder)
        self.seconds = 0.0
        self.settings: Any = None  # of the run
        self._clock = time.perf_counter()

    def on_fit_start(self, trainer: Any) -> None:
        self.settings = trainer.settings

    def on_step_end(self, trainer: Any, metrics: Metrics) -> None:
        self.pause()
        last = self.saved[-1].seconds if self.saved else -math.inf
        due = self.seconds - last >= max(LEAST, SPACING * self.seconds)
        enough = self.seconds >= self.budget
        if trainer.stage.final and (due or enough or trainer.step == trainer.stage.end):
            self.save(trainer.step, trainer.model)
        if enough:
            if trainer.directory is not None:
                trainer.checkpoint()  # to be gone on with from here
            raise Enough
        self.go_on()

    def pause(self) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._clock

    def go_on(self) -> None:
        """Start it again."""
        self._clock = time.perf_counter()

    def save(self, step: int, model: torch.nn.Module) -> None:
        """Keep the weights."""
        file = f"{step:07d}.safetensors"
        with replacing(self.folder / file) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
        self.saved.append(Saved(step, self.seconds, file))
        write_atomically(self.folder / INDEX, json.dumps([asdict(entry) for entry in self.saved]))

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """On resuming; when a run goes back to an earlier step because of a failed one, the seconds stay spent."""
        if state["seconds"] > self.seconds:
            self.saved = [entry for entry in self.saved if entry.seconds <= state["seconds"]]
            self.seconds = state["seconds"]
            self.go_on()


def read_index(folder: Path) -> list[Saved]:
    """The checkpoints of a folder, in the order of their seconds."""
    path = folder / INDEX
    return [Saved(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


# ---- what a checkpoint is worth --------------------------------------------------------------------------------------


@dataclass
class Estimated:
    """E/N of a checkpoint as far as it is known."""

    energy: float = math.nan
    error: float = math.inf
    samples: int = 0


class Evaluator(Protocol):
    """E/N of checkpoints, by their number; every call with more samples makes it more precise."""

    def __call__(self, index: int, samples: int) -> Estimated: ...


@dataclass
class FreshSamples:
    """Evaluates saved weights by samples of their own and exact flips; samples drawn before are kept and added to.

    `enumerate_all` (on 4x4) takes <psi|H|psi> / <psi|psi> over all configurations instead.
    """

    model: Sampler
    hamiltonian: Hamiltonian
    folder: Path
    saved: list[Saved]
    seed: int = 0
    batch: int = 256
    enumerate_all: bool = False
    moments: dict[int, RunningMoments] = field(default_factory=dict)
    known: dict[int, Estimated] = field(default_factory=dict)
    matrix: Any = None  # of the Hamiltonian

    def __call__(self, index: int, samples: int) -> Estimated:
        if index in self.known and self.known[index].samples >= samples:
            return self.known[index]
        self.model.load_state_dict(load_file(self.folder / self.saved[index].file))
        self.model.eval()
        self.known[index] = self._exact() if self.enumerate_all else self._sampled(index, samples)
        return self.known[index]

    def _exact(self) -> Estimated:
        every = configurations(self.hamiltonian.num_sites).to(self.model.device)
        self.matrix = self.hamiltonian.to_sparse() if self.matrix is None else self.matrix
        with torch.no_grad():
            psi = (0.5 * self.model.log_prob(every).double()).exp().cpu().numpy()
        energy = float(psi @ (self.matrix @ psi) / (psi @ psi))
        return Estimated(energy / self.hamiltonian.num_sites, 0.0, len(every))

    def _sampled(self, index: int, samples: int) -> Estimated:
        moments = self.moments.setdefault(index, RunningMoments())
        sites = self.hamiltonian.num_sites
        while moments.count < samples:
            generator = generator_for(self.model.device, self.seed, "accuracy", self.saved[index].step, moments.count)
            configs, _ = self.model.sample(min(self.batch, samples - moments.count), generator)
            moments.update(local_energy(self.model, self.hamiltonian, configs).values.cpu().numpy() / sites)
        return Estimated(float(moments.mean), float(moments.error), moments.count)


@dataclass(frozen=True)
class Goal:
    """A relative error of a reference E/N. If the reference is that of a variational state, lower energies reach it, too."""

    error: float
    reference: float
    exact: bool

    def distance(self, energy: float) -> float:
        """Relative deviation of an energy; for a variational reference only what lies above it counts."""
        above = (energy - self.reference) / abs(self.reference)
        return abs(above) if self.exact else above

    def judge(self, found: Estimated) -> bool | None:
        """Whether the goal is reached; None if that needs more samples."""
        scale = abs(self.reference)
        if not math.isfinite(found.energy):
            return False
        if found.error <= self.error * scale / 4:
            return self.distance(found.energy) <= self.error
        return False if self.distance(found.energy) - CLEAR * found.error / scale > self.error else None


def reaches(goal: Goal, index: int, evaluate: Evaluator, most: int) -> bool:
    """Whether a checkpoint reaches the goal; what takes more than `most` samples to tell does not.

    Samples are added until the standard error suffices, or the checkpoint is clearly outside.
    """
    samples = min(FIRST_SAMPLES, most)
    while True:
        found = evaluate(index, samples)
        verdict = goal.judge(found)
        if verdict is not None:
            return verdict
        if found.samples >= most:
            return False
        wanted = found.samples * (found.error / (goal.error * abs(goal.reference) / 4)) ** 2
        # At most four times as many at once: the variance of a few samples says little.
        samples = min(most, 4 * found.samples, max(math.ceil(1.1 * wanted), found.samples + FIRST_SAMPLES))


def spread(seconds: list[float], number: int) -> list[int]:
    """About `number` of the checkpoints, at equal ratios of their seconds; the first and the last are among them."""
    if not seconds:
        return []
    first, last = math.log(max(seconds[0], 1e-3)), math.log(max(seconds[-1], 1e-3))
    wanted = [math.exp(first + (last - first) * i / (number - 1)) for i in range(number)]
    return sorted({min(range(len(seconds)), key=lambda index: abs(seconds[index] - time)) for time in wanted})


def first_reaching(count: int, passes: Callable[[int], bool]) -> int | None:
    """The first of `count` checkpoints that passes, found by bisection from the last ones; None if they do not.

    Energies fall but for noise, so that bisection finds a checkpoint that passes behind one that does not. The
    `LOOK_BACK` checkpoints before it are looked at, too, and so on from each that passes.
    """
    last = next((index for index in reversed(range(max(0, count - LOOK_BACK), count)) if passes(index)), None)
    if last is None:
        return None
    low, found = -1, last
    while found - low > 1:
        middle = (low + found) // 2
        if passes(middle):
            found = middle
        else:
            low = middle
    while True:
        earlier = next((index for index in range(max(0, found - 1 - LOOK_BACK), found) if passes(index)), None)
        if earlier is None:
            return found
        found = earlier
