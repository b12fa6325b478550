"""Patched recurrent network: the hidden state carries the prefix, a small head reads the conditional off it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsr.lattice import Lattice
from qsr.samplers.base import AutoregressiveSampler, Rows

CELLS = {"GRU": nn.GRU, "ELMAN": nn.RNN}


@dataclass
class RecurrentState:
    """Hidden states (B, t, H) after the inputs of the last call; after `prefill` that is all of them, t = length + 1."""

    hidden: Tensor
    length: int

    def branch(self, length: int, copies: int, rows: Rows = slice(None)) -> RecurrentState:
        assert self.hidden.shape[1] == self.length + 1, "only a prefilled state can be branched"
        return RecurrentState(self.hidden[rows, length : length + 1].repeat_interleave(copies, dim=0), length)


class PatchedRNN(AutoregressiveSampler):
    """RNN over patches (arXiv 2306.03921). Input j is patch j-1 (zeros for j = 0); the head is Linear-ReLU-Linear.

    Args:
        lattice, patch: what the sequence runs over.
        width: H, the hidden width.
        cell: "GRU" or "ELMAN" (tanh).
        local_dim: states per site.

    The context of a conditioned RNN, (B, H), is its initial hidden state.
    """

    def __init__(self, lattice: Lattice, patch: str, width: int, cell: str = "GRU", local_dim: int = 2) -> None:
        super().__init__(lattice, torch.from_numpy(lattice.patches(patch)), local_dim)
        self.width = width
        self.rnn = CELLS[cell](self.sites_per_token, width, batch_first=True)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.num_values))

    def prefill(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, RecurrentState]:
        inputs = nn.functional.pad(self.token_values(tokens).to(self.dtype), (0, 0, 1, 0))  # the start input: zeros
        initial = None if context is None else context[None].contiguous()
        hidden, _ = self.rnn(inputs, initial)
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype), RecurrentState(hidden, tokens.shape[1])

    def extend(self, state: RecurrentState, tokens: Tensor) -> tuple[Tensor, RecurrentState]:
        hidden, _ = self.rnn(self.token_values(tokens).to(self.dtype), state.hidden[None, :, -1].contiguous())
        length = state.length + tokens.shape[1]
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype), RecurrentState(hidden, length)

    def row_bytes(self, length: int, alone: bool = False) -> int:
        # The gates of all positions at once, then the hidden states one by one and joined; or two layers and the table.
        recurrence = (self._gates + 3) * self.width
        return self._bytes(length * max(recurrence, 3 * self.width + 3 * self.num_values))

    def prefix_bytes(self, length: int) -> int:
        return self._bytes(2 * self.width)

    def state_bytes(self, shortcut: bool = False) -> int:
        return self._bytes(self.num_tokens * (self.width + self.num_values + 5))

    def pass_bytes(self) -> int:
        return max(self.row_bytes(self.num_tokens), self.state_bytes())

    def graph_bytes(self, per_sample: bool = False) -> int:
        # Per-sample gradients run through the recurrence once more, with every gate and its derivatives.
        kept = 12 * self._gates if per_sample else 2 * self._gates + 5
        return self._bytes(self.num_tokens * (kept * self.width + 3 * self.num_values))

    @property
    def _gates(self) -> int:
        return 3 if isinstance(self.rnn, nn.GRU) else 1
