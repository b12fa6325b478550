"""How many numbers a transformer holds at once, counted from its widths, so that work can be cut to a memory.

Tests compare the counts with the tensors that are really alive: a count is never too small by more than a tenth, nor too large by
more than half. What takes little in every case (tokens as integers, masks, one position's hidden vector) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformerMemory:
    """Numbers per row of a `CausalTransformer` with H = width over n = positions.

    Attributes:
        width, heads, feedforward, layers, positions: H, h, F, L, n.
    """

    width: int
    heads: int
    feedforward: int
    layers: int
    positions: int

    def cache(self, length: int) -> int:
        """Keys and values of `length` positions."""
        return 2 * self.width * self.layers * length

    def kept(self, shortcut: bool) -> int:
        """What a pass over all positions without gradients leaves for the flips.

        Queries, keys and values as they were projected (3H), the last two once more in the cache, and the first layer's
        inputs and what it reads, which replaced tokens need; with the shortcut for many positions also its attention weights.
        """
        n, width = self.positions, self.width
        first_layer = n * (self.heads * (n + 2) + 2 * width) if shortcut else 0
        return n * (5 * width * self.layers + 3 * width + self.heads) + first_layer

    def passing(self) -> int:
        """Peak of such a pass beyond what it leaves: the feed-forward part of the last layer."""
        return self.positions * (6 * self.width + self.feedforward)

    def reading(self, length: int) -> int:
        """Peak while `length` tokens are read after a shared prefix: attention weights twice over, or the feed-forward part."""
        width = self.width
        attending = 2 * self.heads * self.positions + 8 * width + 3 * width * (self.layers - 1)
        return length * max(attending, 7 * width + self.feedforward + 3 * width * self.layers)

    def read(self, length: int) -> int:
        """What is left after reading."""
        return length * (3 * self.width * self.layers + self.width)

    def replacing(self, length: int) -> int:
        """Peak while one token is replaced and `length` are computed anew: the first layer holds no attention weights."""
        width = self.width
        first = 6 * width + self.feedforward
        if self.layers == 1:
            return length * first
        attending = 2 * self.heads * self.positions + 7 * width + 3 * width * (self.layers - 2)
        return length * max(first, attending, 2 * width + first + 3 * width * (self.layers - 2))

    def graph(self, per_sample: bool) -> int:
        """Peak of a forward and backward pass: what autograd keeps, and the gradients of the layer that it is in.

        With `per_sample` also the outputs of all layers and their gradients, which are held together.
        """
        width, wide = self.width, self.feedforward
        every_layer = 9 * width + wide + (9 * width + 2 * wide if per_sample else 0)
        return self.positions * (self.layers * every_layer + 4 * width + wide)
