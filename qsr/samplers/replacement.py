"""The first transformer layer when one token of a sequence is replaced: a change of rank one in its attention.

The queries, keys and values of all other tokens are those of the base pass. What a later position reads is a mixture of
what it reads from the other tokens, o, and of the new token's value v', in the proportion g = 1 / (1 + Z / exp(q k')), where Z
is the weight of the others: o + g (v' - o) (nqs_anchors: the rank-one first layer). Sums over the others are formed without the
replaced token, never by subtracting it: its weight may be nearly all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsr.samplers.flips import Window


class FirstLayerAttention:
    """Attention weights of the first layer's base pass, from which those of a sequence with one new token follow.

    Args:
        query, keys, values: (B, heads, n, d) of the base pass.
    """

    def __init__(self, query: Tensor, keys: Tensor, values: Tensor) -> None:
        n, width = query.shape[2:]
        self.query = query * width**-0.5
        self.keys, self.values = keys, values
        scores = self.query @ keys.transpose(-1, -2)
        later = torch.ones(n, n, dtype=torch.bool, device=query.device).triu(1)
        scores.masked_fill_(later, float("-inf"))
        self.largest = scores.amax(dim=-1)  # (B, heads, n)
        self.weights = scores.sub_(self.largest[..., None]).exp_()  # (B, heads, n, n), not normalised
        self.values_and_one = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)  # sums and normalisation at once
        self.sums = self.weights @ self.values_and_one  # (B, heads, n, d + 1)

    def replaced(self, position: int, query: Tensor, keys: Tensor, values: Tensor, own: bool, later: slice | list[int]) -> Tensor:
        """What positions read when the token at `position` is replaced.

        Args:
            query, keys, values: (B, heads, m, d) of m new tokens, each of which gives a sequence of its own.
            own: whether the new token's own position is wanted.
            later: the wanted positions after it.

        Returns:
            (B, m, wanted positions, heads*d)
        """
        reads = [self._own(position, query, keys, values)] if own else []
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
            before = (query * width**-0.5).flatten(2, 3) @ self.keys[:, :, :end].transpose(-1, -2)
            hidden = torch.arange(end, device=keys.device) >= places[:, None]  # (s, end)
            before = before.unflatten(2, (s, m)).masked_fill_(hidden[:, None], float("-inf"))
            itself = (query * keys).sum(dim=-1, keepdim=True) * width**-0.5
            weights = torch.cat([before, itself], dim=-1).softmax(dim=-1)
            read = (weights[..., :-1].flatten(2, 3) @ self.values[:, :, :end]).unflatten(2, (s, m)) + weights[..., -1:] * values
            reads.append(read.permute(0, 2, 3, 1, 4).flatten(3).unsqueeze(3))
        if later:
            reader = (places[:, None] + torch.tensor(later, device=keys.device)).clamp_max(self.query.shape[2] - 1)  # (s, w)
            share = self.weights[:, :, reader, places[:, None]]  # (B, heads, s, w)
            sums = self.sums[:, :, reader]  # (B, heads, s, w, d + 1)
            total = sums[..., -1]
            left = (total - share).clamp_min(1e-7 * total)
            others = (sums[..., :-1] - share[..., None] * self.values[:, :, places, None]) / left[..., None]
            score = self.query[:, :, reader] @ keys.transpose(-1, -2)  # (B, heads, s, w, m)
            gate = (score - (self.largest[:, :, reader] + left.log())[..., None]).sigmoid_().permute(0, 2, 4, 3, 1).contiguous()
            gates = gate @ torch.block_diag(*[gate.new_ones(1, width)] * heads)  # (B, s, m, w, heads*d)
            new = values.permute(0, 2, 3, 1, 4).reshape(batch, s, m, 1, -1)
            reads.append(torch.lerp(others.permute(0, 2, 3, 1, 4).flatten(3).unsqueeze(2), new, gates))
        return torch.cat(reads, dim=3) if len(reads) > 1 else reads[0]

    def _own(self, position: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, m, 1, heads*d): what the new tokens read from those before them and from themselves."""
        query = query * query.shape[-1] ** -0.5
        before = query @ self.keys[:, :, :position].transpose(-1, -2)
        weights = torch.cat([before, (query * keys).sum(dim=-1, keepdim=True)], dim=-1).softmax(dim=-1)
        read = weights[..., :-1] @ self.values[:, :, :position] + weights[..., -1:] * values
        return read.permute(0, 2, 1, 3).flatten(2).unsqueeze(2)

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
        weights = self.weights[:, :, later, :end]
        kept = weights[..., position].clone()
        weights[..., position] = 0
        sums = weights @ self.values_and_one[:, :, :end]
        weights[..., position] = kept
        total = sums[..., -1].clamp_min(torch.finfo(sums.dtype).tiny)  # zero if the replaced token had all of the weight
        others = (sums[..., :-1] / total[..., None]).permute(0, 2, 1, 3).flatten(2)
        return others, self.largest[:, :, later] + total.log()
