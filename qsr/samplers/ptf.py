"""Patched transformer: one token per patch, one table of conditionals per token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qsr.lattice import Lattice
from qsr.samplers.base import AutoregressiveSampler
from qsr.samplers.flips import Window
from qsr.samplers.settings import PTF
from qsr.samplers.transformer import CausalTransformer, TransformerState


class PatchedTransformer(AutoregressiveSampler):
    """Transformer over patches (arXiv 2306.03921): log-conditionals of 2^p patches from a head on every position.

    Free-standing, the head is Linear-ReLU-Linear. Conditioned on a context (as subsampler), the first of these layers
    acts on the context instead (`CausalTransformer`), and the head is the last Linear.
    """

    def __init__(self, lattice: Lattice, settings: PTF, context_size: int | None = None, local_dim: int = 2) -> None:
        super().__init__(lattice, torch.from_numpy(lattice.patches(settings.patch)), local_dim)
        grid = lattice.patch_grid(settings.patch)
        self.trunk = CausalTransformer(settings, grid, self.sites_per_token, context_size, settings.repeat_pre, local_dim)
        self.replaces_pairs = settings.num_layers == 1 and self.trunk.tokens.context_free
        width = settings.Nh
        last = nn.Linear(width, self.num_values)
        self.head = last if context_size is not None else nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)

    def prefill(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, TransformerState]:
        hidden, state = self.trunk.prefill(self.token_values(tokens), context)
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype), state

    def extend(self, state: TransformerState, tokens: Tensor) -> tuple[Tensor, TransformerState]:
        hidden, state = self.trunk.extend(state, self.token_values(tokens))
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype), state

    def replace(self, state: TransformerState, tokens: Tensor, start: int, values: Tensor, offsets: Window) -> Tensor:
        if not self.trunk.tokens.context_free:
            return super().replace(state, tokens, start, values, offsets)
        hidden = self.trunk.replace(state, self.token_values(values), start, offsets)
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype)

    def replace_each(self, state: TransformerState, tokens: Tensor, start: int, values: Tensor, offsets: Window) -> Tensor:
        if not self.replaces_pairs:
            return super().replace_each(state, tokens, start, values, offsets)
        hidden = self.trunk.replace_each(state, self.token_values(values), start, offsets)
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype)

    def replace_pairs(self, state: TransformerState, begin: int, rows: Tensor, starts: Tensor, values: Tensor) -> Tensor:
        hidden = self.trunk.replace_pairs(state, self.token_values(values), begin, rows, starts)
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype)

    def replaced_tokens(self, offsets: Window) -> int:
        return len(offsets) if self.replaces_pairs else super().replaced_tokens(offsets)

    def windows(self) -> list[Window]:
        if not self.replaces_pairs:
            return super().windows()
        # One layer computes any later token without those between: neighbours, also diagonal ones, and two further. With the two
        # nearest alone a run on 8x8 ends with twice the error of exact flips: what they leave over is rare and large.
        return [(), *dict.fromkeys((self.neighbour_offsets(1.5), self.neighbour_offsets(3.3)))]

    def resized_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.trunk.resized_weights(weights, "trunk.")

    def row_bytes(self, length: int, alone: bool = False) -> int:
        memory = self.trunk.memory()
        alone = alone and self.trunk.tokens.context_free  # otherwise all tokens after the replaced one are read
        inside = memory.replacing(length) if alone else memory.reading(length)
        before = 0 if alone else memory.read(length)
        return self._bytes(max(inside, before + self._head(length)))

    def window_bytes(self, window: Window) -> int:
        if not self.replaces_pairs:
            return super().window_bytes(window)
        return self.row_bytes(len(window) + 1, alone=True) + self._bytes(self.num_tokens)  # the mask of what it reads itself

    def pair_bytes(self, length: int) -> int:
        if not self.replaces_pairs:
            return super().pair_bytes(length)
        width, heads = self.trunk.width, self.trunk.heads
        # Its row of the base pass, what is read from it, and the scores and keys that the new token looks at.
        gathered = length * (4 * width + 6 * heads) + self.num_tokens * (2 * width + 4 * heads)
        return max(self._bytes(gathered), self.row_bytes(length, alone=True))

    def prefix_bytes(self, length: int) -> int:
        return self._bytes(self.trunk.memory().cache(length))

    def state_bytes(self, shortcut: bool = False) -> int:
        table = self.num_tokens * (self.num_values + 5)  # conditionals, and the tokens
        return self._bytes(self.trunk.memory().kept(shortcut) + table)

    def pass_bytes(self) -> int:
        return self.state_bytes() + self._bytes(max(self.trunk.memory().passing(), self._head(self.num_tokens)))

    def graph_bytes(self, per_sample: bool = False) -> int:
        head = self.num_tokens * (3 * self.num_values + (3 * self.trunk.width + 2 * self.num_values if per_sample else 0))
        return self._bytes(self.trunk.memory().graph(per_sample) + head)

    def _head(self, length: int) -> int:
        """Numbers while the conditionals of `length` tokens are formed: three hidden layers, logits and their normalisation."""
        return length * (4 * self.trunk.width + 3 * self.num_values)
