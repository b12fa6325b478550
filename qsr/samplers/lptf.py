"""Large-patched transformer: a transformer over large patches, each factorised by a smaller sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qsr.lattice import Lattice
from qsr.samplers.base import AutoregressiveSampler
from qsr.samplers.flips import Rows
from qsr.samplers.settings import LPTF
from qsr.samplers.transformer import CausalTransformer, TransformerState


@dataclass
class LargePatchState:
    """State of the transformer after whole large patches, and of the subsampler inside the patches after them.

    `inner` and `tokens` (R, patches, n_inner) are for the last `patches` large patches (rows of `inner`: R*patches,
    those of a sample adjacent); the very last one is still being read, its missing tokens are padded.
    """

    length: int
    outer: TransformerState
    inner: Any
    tokens: Tensor

    def branch(self, length: int, copies: int, rows: Rows = slice(None)) -> LargePatchState:
        patches, per_patch = self.tokens.shape[1:]
        large, small = divmod(length, per_patch)
        if isinstance(rows, slice):
            inner_rows: Rows = slice((rows.start or 0) * patches + large, None, patches * (rows.step or 1))
        else:
            inner_rows = rows * patches + large
        return LargePatchState(
            length,
            self.outer.branch(large, copies, rows),
            self.inner.branch(small, copies, inner_rows),
            self.tokens[rows, large : large + 1].repeat_interleave(copies, dim=0),
        )


class LargePatchedTransformer(AutoregressiveSampler):
    """LPTF (arXiv 2306.03921): the transformer's output at large patch J conditions the subsampler on patch J.

    As a sequence it has n = n_large * n_inner tokens, those of the subsampler in every large patch, so that it serves
    as a subsampler itself.
    """

    def __init__(self, lattice: Lattice, settings: LPTF, context_size: int | None = None) -> None:
        shape = settings.patch_shape()
        subsampler: AutoregressiveSampler = settings.subsampler.build(Lattice(*shape), context_size=settings.Nh)  # type: ignore[union-attr]
        large = torch.from_numpy(lattice.patches(settings.patch))  # (n_large, sites of a large patch)
        inner_sites = subsampler.token_sites  # (n_inner, p) sites within a large patch
        super().__init__(lattice, large[:, inner_sites].flatten(0, 1), subsampler.local_dim)
        self.tokens_per_patch = len(inner_sites)
        grid = lattice.patch_grid(settings.patch)
        self.trunk = CausalTransformer(settings, grid, large.shape[1], context_size, local_dim=self.local_dim)
        self.subsampler = subsampler

    def prefill(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, LargePatchState]:
        whole = tokens.shape[1] // self.tokens_per_patch
        hidden, outer = self.trunk.prefill(self._large_patches(tokens, whole), context)
        conditionals, inner, held = self._inside(hidden, tokens)
        return conditionals, LargePatchState(tokens.shape[1], outer, inner, held)

    def extend(self, state: LargePatchState, tokens: Tensor) -> tuple[Tensor, LargePatchState]:
        within = state.length % self.tokens_per_patch
        read = torch.cat([state.tokens[:, -1, :within], tokens], dim=1)
        whole = read.shape[1] // self.tokens_per_patch
        conditionals, outer, inner, held = [], state.outer, state.inner, state.tokens[:, -1:]
        feed = min(tokens.shape[1], self.tokens_per_patch - 1 - within)  # the last token of a patch goes to the transformer only
        if feed:
            patches = state.tokens.shape[1]
            if patches > 1:  # read in one batch, padding included: go back to the tokens that were really there
                inner = inner.branch(within, 1, slice(patches - 1, None, patches))
            part, inner = self.subsampler.extend(inner, tokens[:, :feed])
            conditionals.append(part)
            held = nn.functional.pad(read[:, : self.tokens_per_patch - 1], (0, self.tokens_per_patch - within - feed))[:, None]
        if whole:
            hidden, outer = self.trunk.extend(outer, self._large_patches(read, whole))
            part, inner, held = self._inside(hidden, read[:, self.tokens_per_patch :])
            conditionals.append(part)
        length = state.length + tokens.shape[1]
        return torch.cat(conditionals, dim=1), LargePatchState(length, outer, inner, held)

    def _large_patches(self, tokens: Tensor, whole: int) -> Tensor:
        """Site states (R, whole, sites) of the first `whole` large patches of a token sequence (R, t)."""
        rows = len(tokens)
        tokens = tokens[:, : whole * self.tokens_per_patch].reshape(rows * whole, self.tokens_per_patch)
        return self.subsampler.decode(tokens).view(rows, whole, self.subsampler.num_sites)

    def _inside(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Any, Tensor]:
        """Conditionals (R, t+1, V) of `tokens` (R, t), which begin with the first patch that `hidden` (R, m, H) is for.

        All m patches are read in one batch of R*m rows; the tail of the last, incomplete one is padded, since its
        conditionals are cut off again. Also the subsampler's state and the tokens (R, m, n_inner) it was given.
        """
        rows, patches = hidden.shape[:2]
        t, per_patch = tokens.shape[1], self.tokens_per_patch
        width = per_patch - 1 if patches > 1 else t
        held = nn.functional.pad(tokens, (0, patches * per_patch - t)).view(rows, patches, per_patch)
        inner_tokens = held[:, :, :width].reshape(rows * patches, width)
        part, inner = self.subsampler.prefill(inner_tokens, hidden.flatten(0, 1))
        return part.reshape(rows, -1, part.shape[-1])[:, : t + 1], inner, held

    def resized_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.trunk.resized_weights(weights, "trunk.")

    def row_bytes(self, length: int, alone: bool = False) -> int:
        large = length // self.tokens_per_patch  # whole patches: these go through the transformer
        memory = self.trunk.memory()
        inside = -(-length // self.tokens_per_patch) * self.subsampler.pass_bytes()
        return max(self._bytes(memory.reading(large)), self._bytes(memory.read(large)) + inside)

    def prefix_bytes(self, length: int) -> int:
        inside = self.subsampler.prefix_bytes(self.tokens_per_patch)
        return self._bytes(self.trunk.memory().cache(length // self.tokens_per_patch)) + inside

    def state_bytes(self, shortcut: bool = False) -> int:
        return self._bytes(self.trunk.memory().kept(False)) + self._num_patches * self.subsampler.state_bytes()

    def pass_bytes(self) -> int:
        memory = self.trunk.memory()
        inside = self._num_patches * self.subsampler.pass_bytes()
        return self._bytes(memory.kept(False)) + max(self._bytes(memory.passing()), inside)

    def graph_bytes(self, per_sample: bool = False) -> int:
        return self._bytes(self.trunk.memory().graph(per_sample)) + self._num_patches * self.subsampler.graph_bytes(per_sample)

    @property
    def _num_patches(self) -> int:
        return self.num_tokens // self.tokens_per_patch
