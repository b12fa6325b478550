"""Single training steps for the benchmarks that time them: the same objects that `qsr.train` puts together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

import qsr
from qsr.estimators.sampled_flips import EXACT, FlipSampling
from qsr.hparams import RunSettings
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.run import build_model
from qsr.jobs.train import variational_energy
from qsr.samplers import Sampler
from qsr.samplers.flips import Window
from qsr.training import update_rule
from qsr.training.protocols import Metrics

SMALL = {"type": "ptf", "patch": "2x2", "Nh": 16, "nhead": 2, "dim_feedforward": 32}  # one layer, 3000 weights on 8x8
DEEP = {"type": "ptf", "patch": "2x2", "Nh": 32, "num_layers": 2}
MODELS: dict[str, dict[str, Any]] = {
    "RNN": {"type": "rnn"},
    "PTF": {"type": "ptf"},
    "PTF d16": SMALL,
    "LPTF": {"type": "lptf", "patch": "4x4", "subsampler": {"type": "rnn", "patch": "2x2"}},
}
ADAM = {"name": "Adam"}
SPRING = {"name": "spring"}

# The recipe of the quick training that some benchmarks start from: steps on 4x4, 6x6 and 8x8.
RECIPE: dict[str, Any] = {
    "train": {"K": 128, "K_final": 320, "lr": 0.05, "dir": "<NONE>", "device": "cpu"},
    "optimizer": {"name": "spring", "kwargs": {"shift": 1e-2, "final_shift": 1e-4, "momentum": 0.9, "cap": 0.3}},
    "scheduler": {"name": "OneCycleLR", "kwargs": {"pct_start": 0.05}},
}


class Stepper:
    """Training steps of a model on a size x size Rydberg array, one at a time.

    The flips are exact or, if `sampling` says so, drawn; nothing is chosen on the way.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        size: int,
        samples: int,
        optimizer: Mapping[str, Any] = ADAM,
        sampling: FlipSampling = EXACT,
    ) -> None:
        keep_freed_memory()
        tree = {
            "model": model,
            "hamiltonian": {"type": "rydberg", "Lx": size, "Ly": size},
            "train": {"K": samples, "flips": "exact", "dir": "<NONE>", "device": "cpu", "lr": 1e-3},
            "optimizer": optimizer,
            "scheduler": {"name": "none"},
        }
        self.settings = RunSettings.from_tree(tree)
        self.model: Any = build_model(self.settings)
        stage = self.settings.train.stages()[-1]
        self.objective: Any = variational_energy(self.settings, stage)
        self.objective.sampling = sampling  # obeyed with flips=exact, which keeps the objective from choosing
        self.rule: Any = update_rule(self.model, self.settings, stage)
        self.keys = self.objective.batches(0, 0, 1)

    def step(self) -> Metrics:
        """One step; what it recorded."""
        return self.rule.update(self.model, self.objective, next(self.keys))

    def load(self, model: Sampler) -> None:
        """Take the weights of the same model, maybe on another lattice."""
        self.model.load_state_dict(self.model.resized_weights(model.state_dict()))


def trained(model: Mapping[str, Any], curriculum: str, seed: int = 0) -> Any:
    """A model trained briefly by `RECIPE` through a curriculum; it is on the last lattice of it."""
    return qsr.train(None, model, **{**RECIPE, "train": {**RECIPE["train"], "curriculum": curriculum, "seed": seed}}).model


def row_window(model: Any) -> Window:
    """The next patches as far as one row of patches reaches: the last of them lies below the flipped one."""
    row = int(model.lattice.patch_grid("2x2")[-1])
    return tuple(range(1, row + 1))


def neighbour_window(model: Any) -> Window:
    """The window over all neighbouring patches, diagonal ones included; contiguous for networks that must read in between."""
    near = tuple(model.neighbour_offsets(1.5))
    contiguous = tuple(range(1, near[-1] + 1))
    return near if model.replaced_tokens(near) < model.replaced_tokens(contiguous) else contiguous


class Stopwatch:
    """Seconds spent inside chosen functions, which are wrapped while the context is open."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def watching(self, places: Mapping[str, tuple[Any, str]]) -> Iterator[Stopwatch]:
        """Wrap `label -> (owner, name of its function)`."""
        with ExitStack() as stack:
            for label, (owner, name) in places.items():
                stack.enter_context(mock.patch.object(owner, name, self._timed(label, getattr(owner, name))))
            yield self

    def _timed(self, label: str, function: Any) -> Any:
        def wrapped(*positional: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*positional, **named)
            finally:
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - started

        return wrapped


def sample_configs(model: Any, samples: int, seed: int = 0) -> torch.Tensor:
    """(B, N) fresh samples."""
    configs: torch.Tensor = model.sample(samples, torch.Generator().manual_seed(seed))[0]
    return configs
