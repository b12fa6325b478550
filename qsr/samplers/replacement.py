"""The first transformer layer when one token of a sequence is replaced: a change of rank one in its attention.

The queries, keys and values of all other tokens are those of the base pass. What a later position reads is a mixture of
what it reads from the other tokens, o, and of the new token's value v', in the proportion g = 1 / (1 + Z / exp(q k')), where Z
is the weight of the others: o + g (v' - o) (nqs_anchors: the rank-one first layer).
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from qsr.samplers.flips import Window


class FirstLayerAttention:
    """Attention of the first layer's base pass, from which that of sequences with one new token follows.

    Args:
        query, keys, values: (B, heads, n, d) of the base pass.
    """

    def __init__(self, query: Tensor, keys: Tensor, values: Tensor) -> None:
        self.query = query * query.shape[-1] ** -0.5
        self.keys, self.values = keys, values

    @cached_property
    def _base(self) -> tuple[Tensor, Tensor]:
        """What every position reads in the base pass (B, heads, n, d), and the log of the weight of it (B, heads, n)."""
        return attend(self.query, self.keys, self.values, causal_mask(self.query.shape[2], self.query))

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B, heads, n, n) relative to the largest of each row, whose logarithm is (B, heads, n); values and ones."""
        scores = self.query @ self.keys.transpose(-1, -2)
        scores += causal_mask(scores.shape[-1], scores)
        largest = scores.amax(dim=-1)
        # Sums and their normalisation in one product.
        values_and_one = torch.cat([self.values, torch.ones_like(self.values[..., :1])], dim=-1)
        return scores.sub_(largest[..., None]).exp_(), largest, values_and_one

    def replaced(self, position: int, query: Tensor, keys: Tensor, values: Tensor, own: bool, later: slice | list[int]) -> Tensor:
        """What positions read when the token at `position` is replaced.

        Sums over the other tokens are formed without the replaced one, never by subtracting it: its weight may be nearly all.

        Args:
            query, keys, values: (B, heads, m, d) of m new tokens, each of which gives a sequence of its own.
            own: whether the new token's own position is wanted.
            later: the wanted positions after it.

        Returns:
            (B, m, wanted positions, heads*d)
        """
        reads = []
        if own:
            read = self._own(query, keys, values, position, None)
            reads.append(read.permute(0, 2, 1, 3).flatten(2).unsqueeze(2))
        if isinstance(later, slice) or later:
            reads.append(self._later(position, keys, values, later))
        return torch.cat(reads, dim=2) if len(reads) > 1 else reads[0]

    def replaced_each(self, first: int, query: Tensor, keys: Tensor, values: Tensor, own: bool, later: Window) -> Tensor:
        """What few positions after each of several tokens read, when that one token is replaced.

        For a handful of positions this is an order of magnitude faster than a call of `replaced` for every token. The
        replaced token's share is subtracted here, at the price of digits where it has nearly all of the weight.

        Args:
            first: position of the first of s adjacent tokens.
            query, keys, values: (B, heads, s, m, d) of m new tokens in the place of each.
            own: whether the new token's own position is wanted.
            later: the wanted distances after it; what is read beyond the end of the sequence is undefined.

        Returns:
            (B, s, m, wanted positions, heads*d)
        """
        batch, heads, s, m, width = keys.shape
        reads = []
        places = torch.arange(first, first + s, device=keys.device)
        if own:
            end = first + s - 1
            hidden = torch.arange(end, device=keys.device) >= places.repeat_interleave(m)[:, None]
            mask = keys.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
            new_query, new_keys, new_values = (part.flatten(2, 3) for part in (query, keys, values))
            read = self._own(new_query, new_keys, new_values, end, mask)
            reads.append(read.permute(0, 2, 1, 3).reshape(batch, s, m, 1, -1))
        if later:
            reader = (places[:, None] + torch.tensor(later, device=keys.device)).clamp_max(self.query.shape[2] - 1)  # (s, w)
            queries = self.query[:, :, reader]  # (B, heads, s, w, d)
            gone = places[:, None].expand_as(reader)
            read, log_weight = self._base[0][:, :, reader], self._base[1][:, :, reader]
            others, left = without(read, log_weight, queries, self.keys[:, :, gone], self.values[:, :, gone])
            score = queries @ keys.transpose(-1, -2)  # (B, heads, s, w, m)
            gate = (score - left[..., None]).sigmoid_().permute(0, 2, 4, 3, 1).contiguous()
            gates = gate @ torch.block_diag(*[gate.new_ones(1, width)] * heads)  # (B, s, m, w, heads*d)
            new = values.permute(0, 2, 3, 1, 4).reshape(batch, s, m, 1, -1)
            reads.append(torch.lerp(others.permute(0, 2, 3, 1, 4).flatten(3).unsqueeze(2), new, gates))
        return torch.cat(reads, dim=3) if len(reads) > 1 else reads[0]

    def replaced_pairs(self, first: int, rows: Tensor, positions: Tensor, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What all positions from `first` on read in R sequences, in each of which one token is replaced.

        As in `replaced_each` the replaced token's share is subtracted. What is read before the replaced token is undefined.

        Args:
            rows: (R,) which sequence of the base pass.
            positions: (R,) of the replaced tokens, none before `first`.
            query, keys, values: (R, heads, d) of the new tokens.

        Returns:
            (R, n - first, heads*d)
        """
        count, _, width = keys.shape
        length = self.query.shape[2]
        queries = self.query[rows, :, first:]  # (R, heads, w, d)
        gone = (self.keys[rows, :, positions][:, :, None], self.values[rows, :, positions][:, :, None])
        others, left = without(self._base[0][rows, :, first:], self._base[1][rows, :, first:], queries, *gone)
        gate = ((queries @ keys[..., None]).squeeze(-1) - left).sigmoid_()
        reads = torch.lerp(others, values[:, :, None], gate[..., None]).transpose(1, 2).reshape(count, length - first, -1)
        hidden = torch.arange(length, device=rows.device) >= positions[:, None]
        scores = (self.keys[rows] @ (query * width**-0.5)[..., None]).squeeze(-1)  # (R, heads, n)
        scores.masked_fill_(hidden[:, None], float("-inf"))
        scores = torch.cat([scores, (query * keys).sum(dim=-1, keepdim=True) * width**-0.5], dim=-1)
        weights = scores.softmax(dim=-1)
        own = (weights[..., None, :-1] @ self.values[rows]).squeeze(-2) + weights[..., -1:] * values
        reads[torch.arange(count, device=rows.device), positions - first] = own.flatten(1)
        return reads

    def _own(self, query: Tensor, keys: Tensor, values: Tensor, end: int, mask: Tensor | None) -> Tensor:
        """(B, heads, m, d): what new tokens read from those before `end` that the mask (m, end) does not hide, and themselves."""
        query = query * query.shape[-1] ** -0.5
        before, log_weight = attend(query, self.keys[:, :, :end], self.values[:, :, :end], mask)
        gate = ((query * keys).sum(dim=-1) - log_weight).sigmoid_()
        return torch.lerp(before, values, gate[..., None])

    def _later(self, position: int, keys: Tensor, values: Tensor, later: slice | list[int]) -> Tensor:
        """(B, m, w, heads*d): what later positions read."""
        batch, heads, m, width = keys.shape
        others, scale = self._others(position, later)
        score = self.query[:, :, later] @ keys.transpose(-1, -2)  # (B, heads, w, m)
        gate = (score - scale[..., None]).sigmoid_().permute(0, 3, 2, 1).contiguous()
        # The gates are written out for every channel, by a matrix product: broadcasting them over a short last dimension
        # is thirty times slower, and copying them four times.
        gates = gate @ torch.block_diag(*[gate.new_ones(1, width)] * heads)
        return torch.lerp(others[:, None], values.permute(0, 2, 1, 3).reshape(batch, m, 1, -1), gates)

    def _others(self, position: int, later: slice | list[int]) -> tuple[Tensor, Tensor]:
        """What later positions read without `position`, (B, w, heads*d), and the log of its weight (B, heads, w)."""
        end = later.stop if isinstance(later, slice) else later[-1] + 1
        all_weights, largest, values_and_one = self._weights
        weights = all_weights[:, :, later, :end]
        kept = weights[..., position].clone()
        weights[..., position] = 0
        sums = weights @ values_and_one[:, :, :end]
        weights[..., position] = kept
        total = sums[..., -1].clamp_min(torch.finfo(sums.dtype).tiny)  # zero if the replaced token had all of the weight
        others = (sums[..., :-1] / total[..., None]).permute(0, 2, 1, 3).flatten(2)
        return others, largest[:, :, later] + total.log()


def causal_mask(length: int, like: Tensor) -> Tensor:
    """(n, n): -inf where a position would read a later one."""
    return torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What scaled queries read, (B, heads, q, d), and the log sum exp of their scores plus the mask, (B, heads, q)."""
    if query.device.type == "cpu":
        # torch's fused kernel, by the name under which it also gives the normalisation: no scores in memory, and several
        # times as fast as the formula below.
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        read, log_weight = fused(query, keys, values, 0.0, False, attn_mask=mask, scale=1.0)
        return read, log_weight
    return attend_plainly(query, keys, values, mask)


def attend_plainly(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same by its formula."""
    scores = query @ keys.transpose(-1, -2)
    scores = scores if mask is None else scores + mask
    return scores.softmax(dim=-1) @ values, scores.logsumexp(dim=-1)


def without(read: Tensor, log_weight: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What queries (..., d) read, and the log of its weight (...), when one token's key and value (..., d) are taken away."""
    share = ((query * key).sum(dim=-1) - log_weight).exp_().clamp_max_(1 - 1e-7)
    return (read - share[..., None] * value) / (1 - share)[..., None], log_weight + torch.log1p(-share)
