"""Configurations as sequences of patches, and snapshot files as data of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hparams.base import ConfigError
from qsr.hparams.types import check_patch, patch_sites
from qsr.lattice import Lattice
from qsr.snapshots import Snapshots

MOST_PATCH_SITES = 16  # 2^16 tokens


def patch_ids(configs: Tensor, token_sites: Tensor) -> Tensor:
    """(B, L) int64 ids sum_i 2^i n_i of the patches of configurations; site i of patch t is `token_sites[t, i]`.

    These are the tokens of the samplers (`AutoregressiveSampler.encode`).

    Args:
        configs: (B, N) or (B, N, 1) of 0 and 1.
        token_sites: (L, p) int64.

    Raises:
        ConfigError: (a ValueError) for another number of sites, and for values that are not 0 or 1.
    """
    states = configs.squeeze(2) if configs.dim() == 3 and configs.shape[2] == 1 else configs
    sites = token_sites.numel()
    if states.dim() != 2 or states.shape[1] != sites:
        raise ConfigError(f"configs: must be (B, {sites}) or (B, {sites}, 1), found {tuple(configs.shape)}")
    bits = states != 0
    if not torch.equal(bits.to(states.dtype), states):
        raise ConfigError("configs: must hold 0 (ground) and 1 (excited), nothing else")
    digits = 2 ** torch.arange(token_sites.shape[1], device=configs.device)
    return (bits[:, token_sites].long() * digits).sum(dim=-1)


@dataclass(frozen=True)
class PatchTokens:
    """Patches of a lattice as tokens 0 to 2^p - 1, with two special ones after them.

    Attributes:
        token_sites: (L, p) int64.
    """

    token_sites: Tensor

    @classmethod
    def of_lattice(cls, shape: tuple[int, int], patch: str) -> PatchTokens:
        """Those of an Lx x Ly lattice.

        Raises:
            ConfigError: for a patch that does not tile it, or is too large.
        """
        check_patch("qembed", patch, shape)
        if patch_sites(patch) > MOST_PATCH_SITES:
            raise ConfigError(f"qembed.patch={patch}: has 2^{patch_sites(patch)} states, at most 2^{MOST_PATCH_SITES} are tokens")
        return cls(torch.from_numpy(Lattice(*shape).patches(patch)))

    def decode(self, ids: Tensor) -> Tensor:
        """(B, N) uint8 configurations of patches (B, L)."""
        bits = ids[..., None] >> torch.arange(self.token_sites.shape[1], device=ids.device) & 1
        configs = torch.empty(len(ids), self.token_sites.numel(), dtype=torch.uint8, device=ids.device)
        configs[:, self.token_sites.flatten()] = bits.flatten(1).to(torch.uint8)
        return configs

    @property
    def num_words(self) -> int:
        """2^p, the tokens that stand for something: those that can be predicted."""
        return int(2 ** self.token_sites.shape[1])

    @property
    def bos(self) -> int:
        """Stands before the first patch."""
        return self.num_words

    @property
    def mask(self) -> int:
        """Stands for a patch that is hidden."""
        return self.num_words + 1

    @property
    def padding(self) -> int | None:
        """None: all configurations have the same length."""
        return None

    @property
    def vocab_size(self) -> int:
        """2^p + 2."""
        return self.num_words + 2

    def encode(self, configs: Tensor) -> Tensor:
        """(B, L) ids of configurations (B, N); raises as `patch_ids`."""
        return patch_ids(configs, self.token_sites)


class SnapshotSource:
    """What is in a file of snapshots.

    Args:
        where: its name, for error messages.

    Raises:
        ConfigError: for configurations of other values than 0 and 1, none at all, or a number of sites that is not Lx * Ly.
    """

    kind = "snapshots"

    def __init__(self, snapshots: Snapshots, where: str) -> None:
        self.snapshots, self.where = snapshots, where
        configs = snapshots.configs
        if configs.ndim != 2 or not len(configs):
            raise ConfigError(f"{where}: has no configurations")
        if configs.max() > 1:
            raise ConfigError(f"{where}: configs must hold 0 (ground) and 1 (excited), found {configs.max()}")
        sites = configs.shape[1]
        known: dict[str, Any] = {"Lx": sites, "Ly": 1, **snapshots.attributes}
        self.shape = (int(known["Lx"]), int(known["Ly"]))
        if self.shape[0] * self.shape[1] != sites:
            raise ConfigError(f"{where}: Lx x Ly = {self.shape[0]}x{self.shape[1]} does not have its {sites} sites")

    def __len__(self) -> int:
        return len(self.snapshots.configs)

    @property
    def configs(self) -> Tensor:
        """(S, N) uint8."""
        return torch.from_numpy(self.snapshots.configs)

    def code(self, settings: Any, training: NDArray[np.int64]) -> PatchTokens:
        """How configurations become tokens.

        Args:
            settings: `SequencesHparams`.
            training: rows of the training part.

        Raises:
            ConfigError: without a patch, and for one that does not tile the lattice.
        """
        if settings.patch is None:
            raise ConfigError("qembed.patch: missing; snapshots are read in patches, for example patch=2x2")
        return PatchTokens.of_lattice(self.shape, settings.patch)

    def columns(self, code: Any) -> dict[str, Tensor]:
        """Inputs of a network.

        Raises:
            ConfigError: for another number of sites than the code has.
        """
        return {"input_ids": code.encode(self.configs)}

    def labels(self, target: str | None) -> NDArray[np.int64] | None:
        """(S,) the classes; None where the file has no such column.

        Args:
            target: `labels`, `state_id` or the name of a parameter; None: `labels`.

        Raises:
            ConfigError: for values that are no whole numbers.
        """
        name = target or "labels"
        known: Mapping[str, NDArray[Any]] = {**self.snapshots.params, **self.snapshots.columns}
        values = known.get(name)
        if values is None:
            return None
        whole = np.isfinite(values) & (values == np.round(values))
        if not whole.all():
            row = int(np.argmin(whole))
            raise ConfigError(
                f"data.target={name}: {values[row]:g} in row {row + 1} is no class, and a measured quantity has none; classes "
                "are whole numbers"
            )
        return values.astype(np.int64)

    def names(self) -> list[str]:
        """Columns that may hold classes."""
        return [name for name in ("labels", "state_id") if name in self.snapshots.columns] + list(self.snapshots.params)
