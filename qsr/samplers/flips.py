"""Log-probability ratios of changed configurations, re-using what one pass over the unchanged ones has computed.

A change in token k leaves the conditionals before k as they are; that of token k itself is another entry of a table that is
already there; only those of later tokens have to be computed again: N(n-1)/2 token-forwards for the N single flips of a sample.
A window restricts them to a few later tokens, where most of the change is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from qsr.hparams.base import ConfigError

if TYPE_CHECKING:
    from qsr.samplers.base import AutoregressiveSampler

Rows = slice | Tensor  # a choice of rows of a batch
Window = tuple[int, ...]  # increasing distances >= 1 from the changed token

TState = TypeVar("TState", bound="State")

ROWS = 2**16  # of a chunk of windows: fewer waste time on calls, more fall out of the cache
STRETCHES = 8  # pairs are grouped by their first changed token into that many stretches: an eighth more tokens than need be


class State(Protocol):
    """What a sampler remembers of the tokens that it has read. `extend` uses it up; `branch` leaves it intact."""

    length: int  # number of tokens read

    def branch(self: TState, length: int, copies: int, rows: Rows = slice(None)) -> TState:
        """The selected rows, rewound to their first `length` tokens, each `copies` times (copies of a row adjacent).

        Memory of the common prefix is shared, not copied.
        """


@dataclass(frozen=True)
class FlipGroup:
    """Flips that are evaluated together: all leave the tokens before `start` unchanged, and if `alone` those after it, too."""

    start: int
    index: Tensor  # (m,) which masks
    tokens: Tensor  # (m, n) XOR on the tokens
    alone: bool

    def bytes(self, sampler: AutoregressiveSampler, window: Window | None) -> int:
        """Of intermediate results for one flip of the group."""
        rest = sampler.num_tokens - 1 - self.start
        return sampler.row_bytes(rest if window is None else min(rest, max(window, default=0)), self.alone)


def single_tokens(groups: list[FlipGroup], num_tokens: int) -> bool:
    """Whether the groups hold equally many flips of each token, none of which touches another token."""
    if len(groups) != num_tokens or len({len(group.index) for group in groups}) > 1:
        return False
    return all(group.alone for group in groups)


def pick(log_conditionals: Tensor, tokens: Tensor) -> Tensor:
    """Entries of (..., V) tables at `tokens`: (B, t, V) with (B, t) gives (B, t); (B, V) with (B, m) gives (B, m)."""
    if log_conditionals.dim() == tokens.dim():  # several entries of every table
        return log_conditionals.gather(-1, tokens)
    return log_conditionals.gather(-1, tokens[..., None]).squeeze(-1)


def first_changed(xor: Tensor) -> Tensor:
    """(M,) the first token that XOR patterns (M, n) change; n for those that change none."""
    changed = xor != 0
    return torch.where(changed.any(dim=1), changed.int().argmax(dim=1), xor.shape[1])


def flip_groups(xor: Tensor, num_loops: int | None = None) -> list[FlipGroup]:
    """Flips, as XOR patterns (M, n) on the tokens, sorted by the first token that they change; the others are in no group.

    Raises:
        ConfigError: if there are more loops than tokens.
    """
    num_tokens = xor.shape[1]
    if num_loops is not None and not 1 <= num_loops <= num_tokens:
        raise ConfigError(f"train.NLOOPS={num_loops}: must be between 1 and {num_tokens}, the length of the sequence")
    stretch = 1 if num_loops is None else -(-num_tokens // num_loops)
    patterns = xor.cpu()  # waits for a GPU once instead of once for every group
    first = first_changed(patterns)
    groups = []
    for begin in range(0, num_tokens, stretch):
        index = torch.nonzero((first >= begin) & (first < begin + stretch)).squeeze(1)
        if len(index):
            start = int(first[index].min())
            alone = not bool(patterns[index, start + 1 :].any())
            groups.append(FlipGroup(start, index.to(xor.device), patterns[index].to(xor.device), alone))
    return groups


class BasePass:
    """One pass over configurations (B, N), without gradients and in evaluation mode, and the ratios that follow from it.

    Attributes:
        tokens: (B, n).
        base: (B, n) log-conditionals of the tokens.
        spare_bytes: memory for what follows.
    """

    spare_bytes = 2**30

    def __init__(self, sampler: AutoregressiveSampler, tokens: Tensor, context: Tensor | None) -> None:
        self.sampler = sampler
        self.tokens = tokens
        self.conditional, self.state = sampler.prefill(tokens[:, :-1], context)
        self.base = pick(self.conditional, tokens)

    def changes(self, groups: list[FlipGroup], num_flips: int, window: Window | None) -> Tensor:
        """(B, num_flips) change of log p by the flips of all groups; with a window, of the conditionals in it only."""
        result = self.base.new_zeros(len(self.tokens), num_flips)
        if window is None and self.sampler.replaces_together:
            together: Window = tuple(range(1, self.sampler.num_tokens))
        else:
            together = window or ()
        if together and single_tokens(groups, self.sampler.num_tokens):
            index = torch.stack([group.index for group in groups])  # (n, m)
            xor = torch.stack([group.tokens[:, group.start] for group in groups])  # (n, m)
            flips = len(self.tokens) * xor.shape[1]
            chunk = max(
                1, min(self.spare_bytes // (self.sampler.window_bytes(together) * flips), ROWS // (flips * len(together)))
            )
            for first in range(0, len(groups), chunk):
                part = slice(first, first + chunk)
                result[:, index[part].flatten()] = self._each_change(first, xor[part], together).flatten(1)
            return result
        for group in groups:
            result[:, group.index] = self.change(group, window)
        return result

    def _each_change(self, first: int, xor: Tensor, window: Window) -> Tensor:
        """(B, s, m) change of the conditionals in the window, when tokens `first`, ... are XORed with (s, m), one at a time."""
        n = self.sampler.num_tokens
        starts = torch.arange(first, first + len(xor), device=xor.device)
        values = self.tokens[:, starts, None] ^ xor
        change = pick(self.conditional[:, starts], values) - self.base[:, starts, None]
        starts = starts[starts < n - 1]  # nothing comes after the last token
        if len(starts):
            found = self.sampler.replace_each(self.state, self.tokens, first, values[:, : len(starts)], window)  # (B, s, m, w, V)
            places = starts[:, None] + torch.tensor(window, device=xor.device)  # (s, w)
            inside, places = places < n, places.clamp_max(n - 1)
            wanted = self.tokens[:, places][:, :, None].expand(found.shape[:-1])
            difference = pick(found, wanted) - self.base[:, places][:, :, None]
            change[:, : len(starts)] += difference.masked_fill_(~inside[:, None], 0).sum(dim=-1)
        return change

    def change(self, group: FlipGroup, window: Window | None) -> Tensor:
        """(B, m) change of log p by the flips of a group; with a window, of the conditionals in it only."""
        rows = max(1, self.spare_bytes // max(1, group.bytes(self.sampler, window) * len(self.tokens)))
        return torch.cat([self._change(group.start, xor, group.alone, window) for xor in group.tokens.split(rows)], dim=1)

    def _change(self, start: int, xor: Tensor, alone: bool, window: Window | None) -> Tensor:
        rest = self.sampler.num_tokens - 1 - start
        offsets = tuple(range(1, rest + 1)) if window is None else tuple(o for o in window if o <= rest)
        flipped = self.tokens[:, None, start:] ^ xor[None, :, start:]  # (B, m, n - start)
        change = pick(self.conditional[:, start], flipped[:, :, 0]) - self.base[:, start, None]
        if not offsets:
            return change
        if not alone:
            branch = self.state.branch(start, copies=len(xor))
            suffix, _ = self.sampler.extend(branch, flipped[:, :, : offsets[-1]].flatten(0, 1))
            suffix = suffix.unflatten(0, (len(self.tokens), len(xor)))
            suffix = suffix if len(offsets) == offsets[-1] else suffix[:, :, [o - 1 for o in offsets]]
        else:
            suffix = self.sampler.replace(self.state, self.tokens, start, flipped[:, :, 0], offsets)
        if len(offsets) == offsets[-1]:
            after, before = flipped[:, :, 1 : offsets[-1] + 1], self.base[:, start + 1 : start + offsets[-1] + 1]
        else:
            after, before = flipped[:, :, list(offsets)], self.base[:, [start + o for o in offsets]]
        # Differences of conditionals are summed, never differences of totals: those cancel to 1e-5 at N = 256.
        return change + (pick(suffix, after) - before[:, None]).sum(dim=-1)

    def pair_change(self, rows: Tensor, xor: Tensor) -> Tensor:
        """(R,) change of log p of the configurations `rows` (R,), each under a flip of its own (R, n)."""
        n = self.sampler.num_tokens
        start = first_changed(xor)
        result = torch.zeros(len(rows), dtype=self.base.dtype, device=rows.device)
        shortcut = self.sampler.replaces_pairs and not bool(((xor != 0).sum(dim=1) > 1).any())
        change = self._token_change if shortcut else self._pair_change
        stretch = -(-n // STRETCHES)
        for begin in range(0, n, stretch):
            chosen = torch.nonzero((start >= begin) & (start < begin + stretch)).squeeze(1)
            chunk = max(1, self.spare_bytes // self.sampler.pair_bytes(n - begin))
            for part in chosen.split(chunk) if len(chosen) else ():
                result[part] = change(begin, rows[part], xor[part], start[part])
        return result

    def _pair_change(self, begin: int, rows: Tensor, xor: Tensor, start: Tensor) -> Tensor:
        flipped = self.tokens[rows, begin:] ^ xor[:, begin:]
        conditional = self.conditional[rows, begin : begin + 1]
        if flipped.shape[1] > 1:
            suffix, _ = self.sampler.extend(self.state.branch(begin, 1, rows), flipped[:, :-1])
            conditional = torch.cat([conditional, suffix], dim=1)
        change = pick(conditional, flipped) - self.base[rows, begin:]
        # What comes before the flip is unchanged but for rounding.
        unchanged = torch.arange(begin, self.sampler.num_tokens, device=rows.device) < start[:, None]
        return change.masked_fill(unchanged, 0).sum(dim=1)

    def _token_change(self, begin: int, rows: Tensor, xor: Tensor, start: Tensor) -> Tensor:
        """As `_pair_change`, where each flip changes one token only."""
        n = self.sampler.num_tokens
        values = self.tokens[rows, start] ^ xor.gather(1, start[:, None]).squeeze(1)
        change = self.conditional[rows, start].gather(1, values[:, None]).squeeze(1) - self.base[rows, start]
        inner = torch.nonzero(start < n - 1).squeeze(1)  # nothing comes after the last token
        if len(inner):
            rows, start = rows[inner], start[inner]
            suffix = self.sampler.replace_pairs(self.state, begin, rows, start, values[inner])
            difference = pick(suffix, self.tokens[rows, begin + 1 :]) - self.base[rows, begin + 1 :]
            unchanged = torch.arange(begin + 1, n, device=rows.device) <= start[:, None]
            change[inner] += difference.masked_fill_(unchanged, 0).sum(dim=1)
        return change


def replace_by_reading(
    sampler: AutoregressiveSampler, state: Any, tokens: Tensor, start: int, values: Tensor, offsets: Window
) -> Tensor:
    """`AutoregressiveSampler.replace` for any sampler: read the new token and those after it as far as the last offset."""
    suffix = tokens[:, None, start : start + offsets[-1]].repeat(1, values.shape[1], 1)
    suffix[:, :, 0] = values
    conditionals, _ = sampler.extend(state.branch(start, values.shape[1]), suffix.flatten(0, 1))
    conditionals = conditionals.unflatten(0, values.shape)
    return conditionals if len(offsets) == offsets[-1] else conditionals[:, :, [o - 1 for o in offsets]]
