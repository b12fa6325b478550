"""What a token sees of the others before it is measured: context vectors that leave the token itself out.

Shapes: `embeddings` (B, L, D) of the superposed tokens, zero where `mask` (B, L) bool is False; contexts (B, L, D), zero
where a token sees no other. With `causal` only earlier tokens are seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.qembed.functional import check_name

_CONV_WINDOW = 2  # tokens to each side, where context_window is not given


class MeanContext(nn.Module):
    """The average over the other tokens, within `window` positions if given; no parameters."""

    def __init__(self, width: int, window: int | None, causal: bool) -> None:
        super().__init__()
        self.window, self.causal = window, causal

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        length = embeddings.shape[1]
        here = torch.arange(length, device=embeddings.device)
        reach = length if self.window is None else self.window
        first, last = (here - reach).clamp_min(0), (here + reach + 1).clamp_max(length)
        # Tokens and their number in one sum: the last column counts.
        columns = torch.cat([embeddings, mask[..., None].to(embeddings.dtype)], dim=-1)
        before = nn.functional.pad(columns.cumsum(dim=1), (0, 0, 1, 0))  # (B, L + 1, D + 1) sums over the tokens before each
        # Not before[:, first]: its gradient, sums at equal indices, depends on the order of threads.
        total = before[:, :-1] - before.index_select(1, first)
        if not self.causal:
            total = total + before.index_select(1, last) - before[:, 1:]
        # Differences of sums leave rounding errors where nothing was added.
        seen = total[..., -1:].detach().round()
        return torch.where(seen > 0, total[..., :-1] / seen.clamp_min(1), 0.0)

    def follow(self, state: Tensor, read: int, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """As `follow` of `RecurrentContext`; the state is the sum of what was read."""
        sums = torch.cat([state[:, None], embeddings], dim=1).cumsum(dim=1)
        seen = torch.arange(read, read + embeddings.shape[1], device=sums.device).clamp_min(1)
        return sums[:, :-1] / seen[:, None], sums


class AttentionContext(nn.Module):
    """One head of dot-product attention to the other tokens."""

    def __init__(self, width: int, window: int | None, causal: bool) -> None:
        super().__init__()
        self.window, self.causal = window, causal
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        length = embeddings.shape[1]
        here = torch.arange(length, device=embeddings.device)
        later = here[None] - here[:, None]  # j - t
        seen = (later < 0) if self.causal else (later != 0)
        if self.window is not None:
            seen = seen & (later.abs() <= self.window)
        allowed = seen & mask[:, None, :]
        scores = self.query(embeddings) @ self.key(embeddings).mT / math.sqrt(embeddings.shape[-1])
        # A finite number: a softmax over nothing but -inf has no gradient.
        weights = torch.softmax(scores.masked_fill(~allowed, torch.finfo(scores.dtype).min), dim=-1)
        return (weights * allowed) @ embeddings


class ConvolutionContext(nn.Module):
    """A trainable weight for every channel and displacement up to `window`, 2 unless given."""

    def __init__(self, width: int, window: int | None, causal: bool) -> None:
        super().__init__()
        reach = _CONV_WINDOW if window is None else window
        self.offsets = [offset for offset in range(-reach, 1 if causal else reach + 1) if offset]
        self.weight = nn.Parameter(torch.full((len(self.offsets), width), 1 / len(self.offsets)))

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        length = embeddings.shape[1]
        reach = max(map(abs, self.offsets))
        padded = nn.functional.pad(embeddings, (0, 0, reach, reach))
        parts = [
            self.weight[row] * padded[:, reach + offset : reach + offset + length] for row, offset in enumerate(self.offsets)
        ]
        return torch.stack(parts).sum(dim=0)


class RecurrentContext(nn.Module):
    """The state of a GRU that has read the tokens before, plus that of another that has read those after from the end."""

    def __init__(self, width: int, window: int | None, causal: bool) -> None:
        super().__init__()
        if window is not None:
            raise ConfigError(f"context_window={window}: context_encoder='rnn' reads everything; leave it out")
        self.before = nn.GRUCell(width, width)
        self.after = None if causal else nn.GRUCell(width, width)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        found = self._read(self.before, embeddings, mask)
        if self.after is None:
            return found
        return found + self._read(self.after, embeddings.flip(1), mask.flip(1)).flip(1)

    def follow(self, state: Tensor, read: int, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts (B, w, D) of w more tokens of a causal sequence, and the states (B, w+1, D) before and after each of them.

        Args:
            state: (B, D) after the tokens before; zeros at the beginning.
            read: number of these.
        """
        states = [state]
        for t in range(embeddings.shape[1]):
            states.append(self.before(embeddings[:, t], states[-1]))
        joined = torch.stack(states, dim=1)
        return joined[:, :-1], joined

    def _read(self, cell: nn.GRUCell, embeddings: Tensor, mask: Tensor) -> Tensor:
        state = torch.zeros_like(embeddings[:, 0])
        states = []
        for t in range(embeddings.shape[1]):
            states.append(state)
            # Padding is passed over, so that results do not depend on it.
            state = torch.where(mask[:, t, None], cell(embeddings[:, t], state), state)
        return torch.stack(states, dim=1)


CONTEXT_ENCODERS: dict[str, Callable[[int, int | None, bool], nn.Module]] = {
    "mean": MeanContext,
    "attention": AttentionContext,
    "conv": ConvolutionContext,
    "convolution": ConvolutionContext,
    "rnn": RecurrentContext,
}


def context_encoder(kind: str, width: int, window: int | None, causal: bool) -> nn.Module:
    """One of `CONTEXT_ENCODERS` for embeddings of D = `width`.

    Raises:
        ConfigError: for another name, and a window that is below 1 or means nothing.
    """
    check_name("context_encoder", kind, tuple(CONTEXT_ENCODERS))
    if window is not None and window < 1:
        raise ConfigError(f"context_window={window}: must be at least 1 (tokens to each side)")
    return CONTEXT_ENCODERS[kind](width, window, causal)
