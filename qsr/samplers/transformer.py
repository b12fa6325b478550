"""The one causal transformer: patches to tokens, positions, layers, and the cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from qsr.hparams.base import ConfigError
from qsr.samplers.embedding import PatchTokens, Positions, Tokens, TokenState, resize_positions
from qsr.samplers.flips import Rows, Window
from qsr.samplers.memory import TransformerMemory
from qsr.samplers.replacement import FirstLayerAttention
from qsr.samplers.settings import TransformerHparams

WIDE_NUMBERS = 2**19  # of a feed-forward layer at once, without gradients


@dataclass
class LayerCache:
    """Keys and values of one layer: a prefix that `copies` adjacent rows share, and what each row has read since.

    Shapes: prefix (B, heads, t, d), own (B, heads, copies, s, d).
    """

    copies: int = 1
    prefix: tuple[Tensor, Tensor] | None = None
    own: tuple[Tensor, Tensor] | None = None
    buffer: tuple[Tensor, Tensor] | None = None  # room that `own` grows into while sampling
    query: Tensor | None = None  # (B, heads, copies, w, d) of the last call, kept when there are no gradients

    def append(self, keys: Tensor, values: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, heads, copies, w, d); all of `own` comes back.

        Without gradients they are written into a buffer of `capacity` positions (0: none, which costs a copy per call).
        """
        if torch.is_grad_enabled() or capacity == 0:
            joined = (
                (keys, values) if self.own is None else (torch.cat([self.own[0], keys], 3), torch.cat([self.own[1], values], 3))
            )
            self.own = joined
            return joined
        used = 0 if self.own is None else self.own[0].shape[3]
        if self.buffer is None:
            shape = (*keys.shape[:3], capacity, keys.shape[4])
            self.buffer = keys.new_empty(shape), keys.new_empty(shape)
        end = used + keys.shape[3]
        self.buffer[0][:, :, :, used:end] = keys
        self.buffer[1][:, :, :, used:end] = values
        self.own = self.buffer[0][:, :, :, :end], self.buffer[1][:, :, :, :end]
        return self.own

    def branch(self, length: int, copies: int, rows: Rows) -> LayerCache:
        assert self.own is not None and self.prefix is None, "a branch cannot be branched again"
        return LayerCache(copies, (self.own[0][rows, :, 0, :length], self.own[1][rows, :, 0, :length]))


@dataclass
class TransformerState:
    """Caches of all layers after the start token and `length` patches; `shift` is what conditioning adds to the tokens."""

    length: int
    layers: list[LayerCache]
    shift: Tensor | None = None  # (B, n, H)
    copies: int = 1
    inputs: Tensor | None = None  # (B, w, H) of the first layer in the last call
    first_layer: FirstLayerAttention | None = None  # made from a prefill when it is first asked for
    tokens: TokenState | None = None  # of the token layer

    def attention(self) -> FirstLayerAttention:
        """The first layer's attention in a prefill that was made without gradients."""
        if self.first_layer is None:
            cache = self.layers[0]
            assert cache.query is not None and cache.own is not None and self.inputs is not None, "only a prefilled state"
            parts = (cache.query[:, :, 0], cache.own[0][:, :, 0], cache.own[1][:, :, 0])
            # Under autocast these are rounded; what is computed from them must not be: it takes differences.
            with without_autocast(self.inputs):
                self.first_layer = FirstLayerAttention(*(part.to(self.inputs.dtype) for part in parts))
        return self.first_layer

    def branch(self, length: int, copies: int, rows: Rows = slice(None)) -> TransformerState:
        shift = None if self.shift is None else self.shift[rows]
        tokens = None if self.tokens is None else self.tokens.branch(length, copies, rows)
        # One more than `length`: the start token was read, too.
        layers = [cache.branch(length + 1, copies, rows) for cache in self.layers]
        return TransformerState(length, layers, shift, copies, tokens=tokens)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Where autocast is on: switch it off for the device of `x`."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward with residuals; post-norm as torch's encoder layer, or pre-norm."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm_first = norm_first
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: LayerCache, capacity: int) -> Tensor:
        """(R, w, H) tokens to (R, w, H), R = B*copies rows; reads and extends the cache."""
        return self.rest(x, self._attention(self.attended(x), cache, capacity))

    def attended(self, x: Tensor) -> Tensor:
        """What attention sees of the layer's input."""
        return self.norm1(x) if self.norm_first else x

    def rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The layer's output, from its input and the heads' outputs (R, w, H)."""
        x = x + self.dropout(self.out(mixed))
        if self.norm_first:
            return x + self.dropout(self._feedforward(self.norm2(x)))
        x = self.norm1(x)
        return self.norm2(x + self.dropout(self._feedforward(x)))

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values (3, R, heads, w, d) of attended inputs (R, w, H)."""
        rows, w, width = x.shape
        return self.qkv(x).view(rows, w, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)

    def _feedforward(self, x: Tensor) -> Tensor:
        # Not in place where gradients are taken: per-sample gradients look at what came out of linear1.
        if torch.is_grad_enabled():
            return self.linear2(self.dropout(self.linear1(x).relu()))
        if x.device.type != "cpu":
            return self.linear2(self.dropout(self.linear1(x).relu_()))
        # A stretch of rows whose wide layer stays in the cache: half as fast again for a width of 2048.
        rows = x.flatten(0, -2)
        stretches = rows.split(max(1, WIDE_NUMBERS // self.linear1.out_features))
        return torch.cat([self.linear2(self.dropout(self.linear1(part).relu_())) for part in stretches]).view_as(x)

    def _attention(self, x: Tensor, cache: LayerCache, capacity: int) -> Tensor:
        rows, w, width = x.shape
        # (B, copies, w, 3, heads, d) -> 3 x (B, heads, copies, w, d): copies of a row stay together, for one product
        # with the prefix that they share.
        split = self.qkv(x).view(rows // cache.copies, cache.copies, w, 3, self.heads, width // self.heads)
        query, key, value = split.permute(3, 0, 4, 1, 2, 5)
        keys, values = cache.append(key, value, capacity)
        cache.query = None if torch.is_grad_enabled() else query
        dropout = self.dropout.p if self.training else 0.0
        if cache.prefix is None:
            mixed = _causal_attention(query.squeeze(2), keys.squeeze(2), values.squeeze(2), dropout).unsqueeze(2)
        else:
            mixed = _branched_attention(query, keys, values, *cache.prefix)
        return mixed.permute(0, 2, 3, 1, 4).reshape(rows, w, width)


def _causal_attention(query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """The last w of s positions attend to all up to themselves: (B, heads, w, d) with (B, heads, s, d)."""
    w, s = query.shape[2], keys.shape[2]
    if w == 1:
        return scaled_dot_product_attention(query, keys, values, dropout_p=dropout)
    if w == s:
        return scaled_dot_product_attention(query, keys, values, dropout_p=dropout, is_causal=True)
    mask = torch.ones(w, s, dtype=torch.bool, device=query.device).tril(s - w)
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)


def _branched_attention(query: Tensor, keys: Tensor, values: Tensor, prefix_keys: Tensor, prefix_values: Tensor) -> Tensor:
    """Attention of (B, heads, copies, w, d) to a prefix (B, heads, t, d) shared by the copies, and causally to their own."""
    batch, heads, copies, w, d = query.shape
    s, t = keys.shape[3], prefix_keys.shape[2]
    query = query * d**-0.5
    together = query.reshape(batch, heads, copies * w, d)
    before = (together @ prefix_keys.transpose(-1, -2)).view(batch, heads, copies, w, t)
    own = query @ keys.transpose(-1, -2)
    if w > 1:
        hidden = torch.ones(w, s, dtype=torch.bool, device=query.device).triu(s - w + 1)
        own = own.masked_fill_(hidden, float("-inf"))
    scores = torch.cat([before, own], dim=-1)
    del before, own  # scores are most of the memory of a long sequence
    # In float32 also where autocast has rounded the products; weights in the format of the values.
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)
    del scores
    mixed = weights[..., :t].reshape(batch, heads, copies * w, t) @ prefix_values
    return mixed.view(batch, heads, copies, w, d) + weights[..., t:] @ values


class CausalTransformer(nn.Module):
    """Hidden vector of every position of a patch sequence: position t has read the start token and patches < t.

    Args:
        settings: widths, layers, token and position kinds.
        grid: arrangement of the n patches, (n,) or (rows, columns).
        sites_per_patch: p.
        context_size: C of a context (B, C) that is added to all tokens (arXiv 2306.03921, LPTF); None without one.
        repeat_context: add the context as it is, instead of Linear+ReLU to one vector per token.
        local_dim: states per site.
    """

    def __init__(
        self,
        settings: TransformerHparams,
        grid: tuple[int, ...],
        sites_per_patch: int,
        context_size: int | None = None,
        repeat_context: bool = False,
        local_dim: int = 2,
    ) -> None:
        super().__init__()
        self.width = settings.Nh
        self.heads = settings.nhead
        self.feedforward = settings.dim_feedforward or 4 * settings.Nh
        self.num_patches = 1
        for size in grid:
            self.num_patches *= size
        self.tokens: Tokens
        if settings.embedding is None:
            self.tokens = PatchTokens(settings.token, sites_per_patch, self.width, local_dim)
        else:
            self.tokens = settings.embedding.build_tokens(sites_per_patch, self.width, local_dim)  # type: ignore[attr-defined]
        self.positions = Positions(settings.positions, grid, self.width)
        self.layers = nn.ModuleList(
            TransformerLayer(self.width, self.heads, self.feedforward, settings.dropout, settings.norm_first)
            for _ in range(settings.num_layers)
        )
        self.norm = nn.LayerNorm(self.width) if settings.norm_first else nn.Identity()
        self.repeat_context = repeat_context
        project = context_size is not None and not repeat_context
        self.context = nn.Linear(context_size or 0, self.num_patches * self.width) if project else None

    def prefill(self, values: Tensor, context: Tensor | None = None) -> tuple[Tensor, TransformerState]:
        """Read the start token and patches (B, t, p): hidden vectors (B, t+1, H) and the state."""
        state = TransformerState(-1, [LayerCache() for _ in self.layers], self._shift(context))
        return self._advance(state, *self.tokens.begin(values))

    def extend(self, state: TransformerState, values: Tensor) -> tuple[Tensor, TransformerState]:
        """Read w more patches (B*copies, w, p): hidden vectors (B*copies, w, H) and the new state."""
        return self._advance(state, *self.tokens.read(state.tokens, values))

    def replace(self, state: TransformerState, values: Tensor, start: int, offsets: Window) -> Tensor:
        """Hidden vectors (B, m, w, H) of the w positions `start` + offset when patch `start` is replaced by patches (B, m, p).

        The state is that of a prefill with all other patches, made without gradients, and tokens are context-free. One layer
        computes the wanted positions only, several need all up to the last.
        """
        batch, m, sites = values.shape
        position = start + 1  # the start token was read, too
        x = self.positions(self.tokens.read(state.tokens, values.view(batch * m, 1, sites))[0], position)
        if state.shift is not None:
            x = x + state.shift[:, position : position + 1].repeat_interleave(m, dim=0)
        wanted = offsets if len(self.layers) == 1 else tuple(range(1, offsets[-1] + 1))
        own = wanted[0] == 1  # the first wanted conditional is read at the new token itself
        later = [position + offset - 1 for offset in wanted[own:]]
        places = slice(later[0], later[-1] + 1) if later and len(later) == later[-1] + 1 - later[0] else later
        first: Any = self.layers[0]
        # (3, B*m, heads, 1, d) -> 3 x (B, heads, m, d)
        new = first.project(first.attended(x)).view(3, batch, m, self.heads, -1).transpose(2, 3)
        with without_autocast(x):
            query, keys, made = new.to(x.dtype).unbind()
            mixed = state.attention().replaced(position, query, keys, made, own, places)
        assert state.inputs is not None
        inputs = state.inputs[:, None, places].expand(-1, m, -1, -1)
        inputs = torch.cat([x.view(batch, m, 1, -1), inputs], dim=2) if own else inputs
        x = first.rest(inputs.flatten(0, 1), mixed.flatten(0, 1))
        del inputs, mixed
        for layer, cache in zip(self.layers[1:], state.layers[1:], strict=True):
            x = layer(x, cache.branch(position, m, slice(None)), capacity=0)
        x = x.view(batch, m, len(wanted), -1)
        return self.norm(x if len(wanted) == len(offsets) else x[:, :, [offset - 1 for offset in offsets]])

    def replace_each(self, state: TransformerState, values: Tensor, start: int, offsets: Window) -> Tensor:
        """Hidden vectors (B, s, m, w, H): as `replace`, for the s patches from `start` on, each replaced by itself.

        `values` are (B, s, m, p). One layer only. Positions beyond the end of the sequence are undefined.
        """
        batch, s, m, sites = values.shape
        position = start + 1
        x = self.positions(self.tokens.read(state.tokens, values.transpose(1, 2).reshape(batch * m, s, sites))[0], position)
        if state.shift is not None:
            x = x + state.shift[:, position : position + s].repeat_interleave(m, dim=0)
        own = offsets[0] == 1
        later = tuple(offset - 1 for offset in offsets[own:])
        first: Any = self.layers[0]
        # (3, B*m, heads, s, d) -> 3 x (B, heads, s, m, d)
        new = first.project(first.attended(x)).unflatten(1, (batch, m)).permute(0, 1, 3, 4, 2, 5)
        with without_autocast(x):
            query, keys, made = new.to(x.dtype).unbind()
            mixed = state.attention().replaced_each(position, query, keys, made, own, later)
        assert state.inputs is not None
        reader = torch.arange(position, position + s, device=x.device)[:, None]
        reader = reader + torch.tensor(later, dtype=torch.long, device=x.device)
        inputs = state.inputs[:, reader.clamp_max(state.inputs.shape[1] - 1)][:, :, None].expand(-1, -1, m, -1, -1)
        if own:
            inputs = torch.cat([x.view(batch, m, s, 1, -1).transpose(1, 2), inputs], dim=3)
        rows = inputs.flatten(0, 2), mixed.flatten(0, 2)
        return self.norm(first.rest(*rows)).view(batch, s, m, len(offsets), -1)

    def replace_pairs(self, state: TransformerState, values: Tensor, begin: int, rows: Tensor, starts: Tensor) -> Tensor:
        """Hidden vectors (R, w, H) of the w positions after `begin`, in R sequences with one replaced patch each.

        Patch starts[r] >= begin of row rows[r] becomes values[r] (p); nothing reads the last patch, which cannot be replaced.
        Positions up to the replaced patch are undefined. One layer only.
        """
        positions = starts + 1
        x = self.positions.at(self.tokens.read(state.tokens, values[:, None])[0], positions)
        if state.shift is not None:
            x = x + state.shift[rows, positions][:, None]
        first: Any = self.layers[0]
        new = first.project(first.attended(x)).squeeze(3)  # (3, R, heads, d)
        with without_autocast(x):
            query, keys, made = new.to(x.dtype).unbind()
            mixed = state.attention().replaced_pairs(begin + 1, rows, positions, query, keys, made)
        assert state.inputs is not None
        inputs = state.inputs[rows, begin + 1 :]
        inputs[torch.arange(len(rows), device=rows.device), starts - begin] = x.squeeze(1)
        return self.norm(first.rest(inputs, mixed))

    def _advance(
        self, state: TransformerState, tokens: Tensor, token_state: TokenState | None
    ) -> tuple[Tensor, TransformerState]:
        first = state.length + 1
        end = first + tokens.shape[1]
        x = self.positions(tokens, first)
        if state.shift is not None:
            x = x + state.shift[:, first:end].repeat_interleave(state.copies, dim=0)
        inputs = x
        for layer, cache in zip(self.layers, state.layers, strict=True):
            # A branch usually runs to the end of the sequence at once: no room to grow.
            x = layer(x, cache, capacity=0 if cache.prefix is not None else self.num_patches)
        return self.norm(x), TransformerState(end - 1, state.layers, state.shift, state.copies, inputs, tokens=token_state)

    def _shift(self, context: Tensor | None) -> Tensor | None:
        if context is None:
            return None
        if self.repeat_context:
            return context[:, None].expand(-1, self.num_patches, -1)
        assert self.context is not None, "this transformer was built without a context"
        return self.context(context).relu().view(-1, self.num_patches, self.width)

    def resized_weights(self, weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Weights of this transformer on another grid, with what positions have interpolated; `prefix` is that of its names."""
        name = f"{prefix}positions.learned"
        resized = dict(weights)
        stored = weights.get(f"{prefix}context.weight")
        if self.context is not None and name not in resized and stored is not None and len(stored) != len(self.context.weight):
            raise ConfigError(
                "positions=sinusoidal: a transformer over ranges has a vector for each position, which go to another lattice by "
                "interpolation as learned positions do; expected positions=learned"
            )
        if self.positions.learned is not None and name in resized:
            old, new = tuple(weights[name].shape[:-1]), tuple(self.positions.learned.shape[:-1])
            resized[name] = resize_positions(weights[name], new)
            for part in ("weight", "bias") if self.context is not None else ():  # a context has a vector for each position, too
                vectors = weights[f"{prefix}context.{part}"]
                moved = resize_positions(vectors.reshape(*old, -1), new)
                resized[f"{prefix}context.{part}"] = moved.reshape(-1, *vectors.shape[1:])
        return resized

    def memory(self) -> TransformerMemory:
        """What a row takes."""
        layers = len(self.layers)
        return TransformerMemory(self.width, self.heads, self.feedforward, layers, self.num_patches, self.tokens.memory)
