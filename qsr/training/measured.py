"""Snapshots as the data of a sampler: where they are, how they were read, and what is held back of them."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.lattice import Lattice
from qsr.snapshots import Snapshots, read_snapshots
from qsr.training.files import read_bytes

SAME_PLACE = 0.05  # of the smallest distance: two lists of positions are of one array


class SnapshotsHparams(Hparams):
    """Snapshots whose distribution a sampler learns: a file of schema qsr-snapshots/1, of one state on the problem's sites."""

    section: ClassVar[str] = "snapshots"

    file: str = Hparam(help="the snapshots (h5)")
    validation: float = Hparam(0.1, ge=0, lt=1, help="share that is held back, for validation/loss; 0: none")
    e10: float | None = Hparam(
        None, ge=0, lt=1, help="P(0|1), how often an excited site was read as ground; None: what the file says, or 0"
    )
    e01: float | None = Hparam(
        None, ge=0, lt=1, help="P(1|0), how often a ground-state site was read as excited; None: what the file says, or 0"
    )
    draws: int = Hparam(
        16, ge=1, help="with readout errors: true configurations that are drawn for each snapshot, the more the tighter the bound"
    )
    seed: int | None = Hparam(None, ge=0, help="of what is held back; None: that of the run")
    sha256: str | None = Hparam(None, help="of the file; filled in")

    @classmethod
    def label(cls, name: str) -> str:
        return f"data.{name}"

    @model_validator(mode="after")
    def _a_channel(self) -> Any:
        if (self.e10 or 0) + (self.e01 or 0) >= 1:
            raise ConfigError(f"data.e10={self.e10}: with e01={self.e01} what is read says nothing; their sum must be below 1")
        return self

    @property
    def noisy(self) -> bool:
        """Whether what was read may be wrong."""
        return bool(self.e10 or self.e01)

    def read(self, problem: Any) -> tuple[SnapshotsHparams, Tensor, Tensor]:
        """These settings with all that the file fills in, and the snapshots to train on and to hold back, (S, N) uint8 each.

        Args:
            problem: settings of the Hamiltonian; the file must be of its sites, and may not contradict its numbers.

        Raises:
            ConfigError: for a file that cannot be read, is of another array or state, or has changed since `sha256` was taken.
        """
        found = hashlib.sha256(read_bytes(self.file)).hexdigest()
        snapshots = read_snapshots(self.file)
        if self.sha256 not in (None, found):
            raise ConfigError(f"data.file={self.file}: has changed since data.sha256={self.sha256} was taken, it is {found} now")
        self._check(snapshots, problem)
        errors = {name: float(snapshots.attributes.get(name, 0.0)) for name in ("e10", "e01") if self[name] is None}
        settings = self.updated({**errors, "sha256": found})
        order = torch.from_numpy(np.random.default_rng(self.seed or 0).permutation(len(snapshots.configs)))
        held_back = round(self.validation * len(order))
        if held_back == len(order) or (self.validation and not held_back):
            raise ConfigError(f"data.validation={self.validation}: leaves {held_back} of {len(order)} snapshots to hold back")
        configs = torch.from_numpy(snapshots.configs.astype(np.uint8))
        return settings, configs[order[held_back:].sort().values], configs[order[:held_back].sort().values]

    def _check(self, snapshots: Snapshots, problem: Any) -> None:
        sites = snapshots.configs.shape[1]
        if sites != problem.num_sites:
            raise ConfigError(f"data.file={self.file}: snapshots of {sites} sites, but {problem.describe_size()}")
        if not same_array(problem.lattice(), snapshots.positions):
            raise ConfigError(
                f"data.file={self.file}: its sites are not those of the problem, in its order (site i = x*Ly + y): site 1 is at "
                f"{tuple(snapshots.positions[1].tolist())}, expected {tuple(problem.lattice().positions[1].tolist())} up to a "
                "shift and the unit of length"
            )
        for name, values in snapshots.params.items():
            if name not in problem or problem[name] is None:  # V, of a problem with C6
                continue
            expected = problem[name]
            by_site = np.atleast_1d(expected)
            if not np.allclose(values[:, None], by_site, rtol=1e-9):
                held, asked = (f"{v.min():g}" + (f" to {v.max():g}" if v.min() < v.max() else "") for v in (values, by_site))
                raise ConfigError(f"data.file={self.file}: snapshots with {name}={held}, but the problem has {name}={asked}")


def same_array(lattice: Lattice, positions: np.ndarray) -> bool:
    """Whether positions (N, 2) are those of the sites, one by one, up to a shift and the unit of length."""
    expected, found = (points - points.mean(axis=0) for points in (lattice.positions, np.asarray(positions, dtype=float)))
    scale = np.sqrt((expected**2).sum() / max((found**2).sum(), 1e-300))
    nearest = (lattice.distances() + np.diag(np.full(lattice.num_sites, np.inf))).min() if lattice.num_sites > 1 else 1.0
    return bool(np.abs(scale * found - expected).max() < SAME_PLACE * nearest)
