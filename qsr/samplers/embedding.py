"""What enters a sampler's network: patches as tokens, and their places."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from qsr.samplers.flips import Rows
from qsr.samplers.memory import TokenMemory


class TokenState(Protocol):
    """What the tokens that were read leave for the vectors of those that follow."""

    def branch(self, length: int, copies: int, rows: Rows) -> Any:
        """As `qsr.samplers.flips.State.branch`; `length` patches, the start token not counted."""


class Tokens(nn.Module):
    """Site states of patches (B, t, p) to the vectors (B, t, H) that a network reads; before the first comes a start token.

    Attributes:
        context_free: whether a patch's vector depends on that patch alone. Replacing a patch then replaces one vector, which
            the shortcuts of flips rely on.
        memory: what a token takes beside its vector.
    """

    context_free: bool = True
    memory: TokenMemory = TokenMemory()

    def begin(self, values: Tensor) -> tuple[Tensor, TokenState | None]:
        """The vectors (B, t+1, H) of the start token and of the patches, and what they leave."""
        raise TypeError(f"{type(self).__name__} does not define begin")

    def read(self, state: TokenState | None, values: Tensor) -> tuple[Tensor, TokenState | None]:
        """The vectors (B, w, H) of the patches that follow, and what is left now."""
        raise TypeError(f"{type(self).__name__} does not define read")


class SiteStates(Tokens):
    """The states themselves, H = p; zeros before the first."""

    def begin(self, values: Tensor) -> tuple[Tensor, None]:
        return pad(values, (0, 0, 1, 0)), None

    def read(self, state: TokenState | None, values: Tensor) -> tuple[Tensor, None]:
        return values, None


class PatchTokens(Tokens):
    """A table over the local_dim^p patches, or tanh(Linear)."""

    digits: Tensor

    def __init__(self, kind: str, sites_per_patch: int, width: int, local_dim: int) -> None:
        super().__init__()
        self.register_buffer("digits", local_dim ** torch.arange(sites_per_patch), persistent=False)
        self.linear = nn.Linear(sites_per_patch, width) if kind == "linear" else None
        self.embedding = nn.Embedding(local_dim**sites_per_patch + 1, width) if kind == "embedding" else None

    def forward(self, values: Tensor) -> Tensor:
        if self.linear is not None:
            return self.linear(values.to(self.linear.weight.dtype)).tanh()
        assert self.embedding is not None
        return self.embedding((values.long() * self.digits).sum(dim=-1))

    def begin(self, values: Tensor) -> tuple[Tensor, None]:
        start = self.start(len(values))
        return torch.cat([start, self(values)], dim=1) if values.shape[1] else start, None

    def read(self, state: TokenState | None, values: Tensor) -> tuple[Tensor, None]:
        return self(values), None

    def start(self, batch: int) -> Tensor:
        """(B, 1, H) the token before the first patch: zeros through tanh(Linear), or its own row of the table."""
        # Through the layers, not by a look at their weights: per-sample gradients are collected there.
        if self.linear is not None:
            return self.linear(self.linear.weight.new_zeros(batch, 1, self.linear.in_features)).tanh()
        assert self.embedding is not None
        last = self.embedding.num_embeddings - 1
        return self.embedding(torch.full((batch, 1), last, device=self.embedding.weight.device))


class Positions(nn.Module):
    """Adds the encoding (n, H) of the patches' places on their grid."""

    fixed: Tensor

    def __init__(self, kind: str, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.learned = nn.Parameter(0.02 * torch.randn(*grid, width)) if kind == "learned" else None
        if self.learned is None:
            self.register_buffer("fixed", sinusoidal_encoding(grid, width), persistent=False)

    def forward(self, tokens: Tensor, first: int) -> Tensor:
        """Tokens (R, w, H) of the positions `first`, `first` + 1, ... with their encoding added."""
        return tokens + self._encoding[first : first + tokens.shape[1]]

    def at(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (R, 1, H), each at a position of its own (R,)."""
        return tokens + self._encoding[positions][:, None]

    @property
    def _encoding(self) -> Tensor:
        return self.fixed if self.learned is None else self.learned.flatten(0, -2)


def sinusoidal_encoding(grid: tuple[int, ...], width: int) -> Tensor:
    """(n, H) constant encoding of NN-QSR: the first 3H/4 entries hold sines and cosines, the rest is zero.

    In 2-D entries i..i+3 (i = 0, 4, ...) are sin(x/f_i), cos(x/f_{i+1}), sin(y/f_i), cos(y/f_{i+1}), and in 1-D entries
    i, i+1 (i = 0, 2, ...) are sin(t/f_i), cos(t/f_{i+1}), with f_i = 10000^(2i/m), m = 3H//4.
    """
    m = 3 * width // 4
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, len(grid)).double()
    encoding = torch.zeros(len(places), width, dtype=torch.float64)
    block = 2 * len(grid)
    for i in range(0, m, block):
        for axis in range(len(grid)):
            for offset, wave in enumerate((torch.sin, torch.cos)):
                column = i + 2 * axis + offset
                if column < width:
                    encoding[:, column] = wave(places[:, axis] / 10000 ** (2 * (i + offset) / m))
    return encoding.to(torch.get_default_dtype())


def resize_positions(weights: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Learned positions (*old grid, H) on a new grid (*grid, H), edges on edges (arXiv 2010.11929, section 3.2)."""
    if tuple(weights.shape[:-1]) == grid:
        return weights
    mode = "bilinear" if len(grid) == 2 else "linear"
    channels_first = weights.movedim(-1, 0)[None]
    return interpolate(channels_first, size=grid, mode=mode, align_corners=True)[0].movedim(0, -1).contiguous()
