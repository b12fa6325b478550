"""How much memory a row of work takes, counted from a network's widths, so that work can be cut to a memory.

Tests compare the counts with the tensors that are really alive: a count is never too small by more than a tenth, nor too large by
more than half. What takes little in every case (tokens as integers, masks, one position's hidden vector) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsr.samplers.flips import Window


@dataclass(frozen=True)
class TokenMemory:
    """Numbers for each token beside the vector that a network reads.

    Attributes:
        reading: peak while vectors are made without gradients.
        kept: what they leave for the tokens that follow.
        graph: what autograd keeps of a vector that is made, and the gradients of that.
        table: number of different vectors, where each is made once for all rows: then the numbers of `graph` are for one of
            these, and a row takes them only where it has gradients of its own. 0: each token's vector is made.
    """

    reading: int = 0
    kept: int = 0
    graph: int = 0
    table: int = 0

    def gradients(self, length: int, per_sample: bool) -> int:
        """Of a row with `length` tokens while it is differentiated."""
        if per_sample:  # through the layer once more
            return 3 * self.graph * min(length, self.table or length) // 2
        return 0 if self.table else self.graph * length


@dataclass(frozen=True)
class TransformerMemory:
    """Numbers per row of a `CausalTransformer` with H = width over n = positions.

    Attributes:
        width, heads, feedforward, layers, positions: H, h, F, L, n.
        tokens: of what makes the tokens.
    """

    width: int
    heads: int
    feedforward: int
    layers: int
    positions: int
    tokens: TokenMemory = TokenMemory()

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
        return n * (5 * width * self.layers + 3 * width + self.heads + self.tokens.kept) + first_layer

    def passing(self) -> int:
        """Peak of such a pass beyond what it leaves: the feed-forward part of the last layer, or the tokens before the first."""
        before = self.tokens.reading - 5 * self.width * self.layers
        return self.positions * max(6 * self.width + self.feedforward, before)

    def reading(self, length: int) -> int:
        """Peak while `length` tokens are read after a shared prefix: attention weights twice over, or the feed-forward part."""
        width = self.width
        attending = 2 * self.heads * self.positions + 8 * width + 3 * width * (self.layers - 1)
        return length * max(attending, 7 * width + self.feedforward + 3 * width * self.layers, self.tokens.reading)

    def read(self, length: int) -> int:
        """What is left after reading."""
        return length * (3 * self.width * self.layers + self.width)

    def replacing(self, length: int) -> int:
        """Peak while one token is replaced and `length` are computed anew: the first layer holds no attention weights."""
        width = self.width
        first = 6 * width + self.feedforward
        token = self.tokens.reading
        if self.layers == 1:
            return max(length * first, token)
        attending = 2 * self.heads * self.positions + 7 * width + 3 * width * (self.layers - 2)
        return max(length * max(first, attending, 2 * width + first + 3 * width * (self.layers - 2)), token)

    def graph(self, per_sample: bool) -> int:
        """Peak of a forward and backward pass: what autograd keeps, and the gradients of the layer that it is in.

        With `per_sample` also the outputs of all layers and their gradients, which are held together.
        """
        width, wide = self.width, self.feedforward
        every_layer = 9 * width + wide + (9 * width + 2 * wide if per_sample else 0)
        tokens = self.tokens.gradients(self.positions, per_sample)
        return self.positions * (self.layers * every_layer + 4 * width + wide) + tokens


class CountedMemory:
    """Bytes that a row takes in an autoregressive sampler: they set how many rows are worked on at once."""

    num_tokens: int
    sites_per_token: int

    def row_bytes(self, length: int, alone: bool = False) -> int:
        """While `length` tokens are read after a prefix that others share; `alone`: by `replace`."""
        raise TypeError(f"{type(self).__name__} does not define row_bytes")

    def window_bytes(self, window: Window) -> int:
        """While `replace_each` computes the conditionals of one flip in a window."""
        return self.row_bytes(window[-1], alone=True)

    def pair_bytes(self, length: int) -> int:
        """While one flip, in a row of its own, is evaluated in full, with `length` tokens from its stretch on."""
        return self.row_bytes(length) + self.prefix_bytes(self.num_tokens - length)

    def prefix_bytes(self, length: int) -> int:
        """Of the state after `length` tokens, where a row has it for itself."""
        raise TypeError(f"{type(self).__name__} does not define prefix_bytes")

    def state_bytes(self, shortcut: bool = False) -> int:
        """Of what a base pass leaves; with `shortcut` also what `replace` of one token adds to it."""
        raise TypeError(f"{type(self).__name__} does not define state_bytes")

    def pass_bytes(self) -> int:
        """Peak of a base pass, what it leaves included."""
        raise TypeError(f"{type(self).__name__} does not define pass_bytes")

    def graph_bytes(self, per_sample: bool = False) -> int:
        """Peak of `log_prob` and its backward pass; `per_sample`: where the gradients of all layers' outputs are wanted."""
        raise TypeError(f"{type(self).__name__} does not define graph_bytes")

    def sample_bytes(self) -> int:
        """While sampling: the state grows to the whole sequence, and the integers of decoding take what a small one does."""
        return self.prefix_bytes(self.num_tokens) + self.num_tokens * 16 * (self.sites_per_token + 1) + self.row_bytes(1)
