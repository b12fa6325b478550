"""Patched recurrent network: the hidden state carries the prefix, a small head reads the conditional off it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsr.lattice import Lattice
from qsr.samplers.base import AutoregressiveSampler
from qsr.samplers.embedding import SiteStates, Tokens, TokenState
from qsr.samplers.flips import Rows, Window

CELLS = {"GRU": nn.GRU, "ELMAN": nn.RNN}


@dataclass
class RecurrentState:
    """Hidden states (B, t, H) after the inputs of the last call; after `prefill` that is all of them, t = length + 1."""

    hidden: Tensor
    length: int
    tokens: TokenState | None = None  # of the token layer

    def branch(self, length: int, copies: int, rows: Rows = slice(None)) -> RecurrentState:
        assert self.hidden.shape[1] == self.length + 1, "only a prefilled state can be branched"
        tokens = None if self.tokens is None else self.tokens.branch(length, copies, rows)
        return RecurrentState(self.hidden[rows, length : length + 1].repeat_interleave(copies, dim=0), length, tokens)


class PatchedRNN(AutoregressiveSampler):
    """RNN over patches (arXiv 2306.03921). Input j is patch j-1; the head is Linear-ReLU-Linear.

    Args:
        lattice, patch: what the sequence runs over.
        width: H, the hidden width.
        cell: "GRU" or "ELMAN" (tanh).
        local_dim: states per site.
        tokens: makes vectors (H) of the patches; None: they are read as they are, and input 0 is zeros.

    The context of a conditioned RNN, (B, H), is its initial hidden state.
    """

    def __init__(
        self,
        lattice: Lattice,
        patch: str,
        width: int,
        cell: str = "GRU",
        local_dim: int = 2,
        tokens: Tokens | None = None,
    ) -> None:
        super().__init__(lattice, torch.from_numpy(lattice.patches(patch)), local_dim)
        self.width = width
        self.tokens = SiteStates() if tokens is None else tokens
        self.replaces_together = self.tokens.context_free
        self.rnn = CELLS[cell](self.sites_per_token if tokens is None else width, width, batch_first=True)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.num_values))

    def prefill(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, RecurrentState]:
        inputs, token_state = self.tokens.begin(self.token_values(tokens))
        initial = None if context is None else context[None].contiguous()
        hidden, _ = self.rnn(inputs.to(self.dtype), initial)
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype), RecurrentState(hidden, tokens.shape[1], token_state)

    def extend(self, state: RecurrentState, tokens: Tensor) -> tuple[Tensor, RecurrentState]:
        inputs, token_state = self.tokens.read(state.tokens, self.token_values(tokens))
        inputs = inputs.to(self.dtype)
        if tokens.shape[1] == 1 and not torch.is_grad_enabled():
            hidden = self._step(self._entering(inputs), state.hidden[:, -1:])
        else:
            hidden, _ = self.rnn(inputs, state.hidden[None, :, -1].contiguous())
        length = state.length + tokens.shape[1]
        return self.head(hidden).log_softmax(dim=-1, dtype=self.dtype), RecurrentState(hidden, length, token_state)

    def replace_each(self, state: RecurrentState, tokens: Tensor, start: int, values: Tensor, offsets: Window) -> Tensor:
        if not self.tokens.context_free:
            return super().replace_each(state, tokens, start, values, offsets)
        # All starts advance together, one distance at a time: few large products instead of many small ones, and what
        # enters the gates from the unchanged tokens is computed once. Starts that have come to the end drop out.
        batch, count, copies = values.shape
        inputs = self._inputs(state, tokens[:, start:]).transpose(0, 1)[:, :, None]  # (n - start, B, 1, gates*H)
        hidden = state.hidden[:, start : start + count].transpose(0, 1)[:, :, None]
        hidden = hidden.expand(-1, -1, copies, -1)  # (s, B, m, H)
        found = values.new_empty((count, batch, copies, len(offsets), self.num_values), dtype=self.dtype)
        for distance in range(1, offsets[-1] + 1):
            active = min(count, self.num_tokens - start - distance)
            if active <= 0:
                break
            if distance == 1:
                entering = self._inputs(state, values[:, :active].flatten(1)).unflatten(1, (active, copies)).transpose(0, 1)
            else:
                entering = inputs[distance - 1 :][:active]
            hidden = self._step(entering, hidden[:active])
            if distance in offsets:
                conditional = self.head(hidden).log_softmax(dim=-1, dtype=self.dtype)
                found[:active, :, :, offsets.index(distance)] = conditional
        return found.transpose(0, 1)

    def _inputs(self, state: RecurrentState, tokens: Tensor) -> Tensor:
        """What context-free tokens (B, w) bring into the gates: (B, w, gates*H)."""
        return self._entering(self.tokens.read(state.tokens, self.token_values(tokens))[0].to(self.dtype))

    def _entering(self, vectors: Tensor) -> Tensor:
        return nn.functional.linear(vectors, self.rnn.weight_ih_l0, self.rnn.bias_ih_l0)

    def _step(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        """One step of the cell for hidden states (..., H), without gradients; `inputs` may have ones among its dimensions."""
        gates = nn.functional.linear(hidden, self.rnn.weight_hh_l0, self.rnn.bias_hh_l0)
        if isinstance(self.rnn, nn.RNN):
            return gates.add_(inputs).tanh_()
        # The order of torch.nn.GRU: reset, update, new.
        both = 2 * self.width
        reset, update = gates[..., :both].add_(inputs[..., :both]).sigmoid_().split(self.width, dim=-1)
        new = gates[..., both:].mul_(reset).add_(inputs[..., both:]).tanh_()
        return torch.lerp(new, hidden.to(new.dtype), update)

    def row_bytes(self, length: int, alone: bool = False) -> int:
        # The gates of all positions at once, then the hidden states one by one and joined; or two layers and the table.
        recurrence = (self._gates + 3) * self.width + self._input
        head = 3 * self.width + 3 * self.num_values + self._input
        return self._bytes(length * max(recurrence, head, self.tokens.memory.reading))

    def window_bytes(self, window: Window) -> int:
        if not self.tokens.context_free:
            return super().window_bytes(window)
        # A step: hidden states before and after it, the gates, two layers of the head and the table; and all results.
        step = (self._gates + 4) * self.width + 3 * self.num_values
        vectors = self.tokens.memory.reading + self._input
        return self._bytes(max(step, vectors) + len(window) * (self.num_values + 6))

    def prefix_bytes(self, length: int) -> int:
        return self._bytes(2 * self.width)

    def state_bytes(self, shortcut: bool = False) -> int:
        return self._bytes(self.num_tokens * (self.width + self.num_values + 5 + self.tokens.memory.kept))

    def pass_bytes(self) -> int:
        return max(self.row_bytes(self.num_tokens), self.state_bytes())

    def graph_bytes(self, per_sample: bool = False) -> int:
        # Per-sample gradients run through the recurrence once more, with every gate and its derivatives.
        kept = 12 * self._gates if per_sample else 2 * self._gates + 4
        tokens = self.tokens.memory.gradients(self.num_tokens, per_sample)
        return self._bytes(self.num_tokens * (kept * self.width + 3 * self.num_values + 2 * self._input) + tokens)

    @property
    def _input(self) -> int:
        """Numbers of a token's vector; those of the sites' states are few."""
        return 0 if isinstance(self.tokens, SiteStates) else self.width

    @property
    def _gates(self) -> int:
        return 3 if isinstance(self.rnn, nn.GRU) else 1
