"""The senses of a batch of tokens: mixed with weights, projected on vectors, compared with each other.

Two forms with one face and the same numbers. `Senses` holds a vector for every token of the batch. `SharedSenses` holds one
for every different token and never makes a tensor of size B L K 2C, forwards or backwards. Vectors are real, [Re s; Im s].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from qsr.qembed.functional import inverse_norm, overlaps, unit


class Senses:
    """Unit vectors (B, L, K, 2C)."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def mixed(self, weights: Tensor) -> Tensor:
        """sum_k w_jk s_k, (B, L, J, 2C), of weights (B, L, J, K)."""
        return weights @ self.vectors

    def along(self, directions: Tensor) -> Tensor:
        """Re <s_k|d>, (B, L, K), of directions (B, L, 2C): of complex vectors it is the product of [Re; Im]."""
        return (self.vectors @ directions[..., None]).squeeze(-1)

    def complex(self) -> Tensor:
        """The unit vectors s_k, (B, L, K, C): all of them, also where they are shared."""
        return as_complex(self.vectors)

    def overlaps(self) -> Tensor:
        """Gram matrices <s_k|s_l>, (B, L, K, K) complex."""
        return overlaps(self.complex())

    def mean(self, probs: Tensor) -> Tensor:
        """sum_k p_k s_k, (B, L, 2C), of probabilities (B, L, K): what is left when the outcome is not read."""
        return self.mixed(probs[..., None, :]).squeeze(-2)

    def superposed(self, log_probs: Tensor, phases: Tensor) -> Tensor:
        """sum_k sqrt(p_k) exp(i phi_k) s_k, (B, L, 2C), of ln p and phases (B, L, K)."""
        sizes = (0.5 * log_probs).exp()
        real, imag = self.mixed(torch.stack([sizes * phases.cos(), sizes * phases.sin()], dim=-2)).unbind(dim=-2)
        width = real.shape[-1] // 2
        return torch.cat([real[..., :width] - imag[..., width:], real[..., width:] + imag[..., :width]], dim=-1)


class SharedSenses(Senses):
    """The senses of U different tokens, and which of them stands where.

    Args:
        vectors: (U, K, 2C), not normalised.
        index: (B, L) int64 in [0, U).
    """

    def __init__(self, vectors: Tensor, index: Tensor) -> None:
        super().__init__(vectors)
        self.index = index
        # The vectors stay as they are, so that nothing is kept for the backward pass but themselves.
        self.scale = nn.functional.embedding(index, inverse_norm(vectors))  # (B, L, K)

    def mixed(self, weights: Tensor) -> Tensor:
        scaled = (weights * self.scale[..., None, :]).flatten(0, 1)
        parts = [_Mix.apply(part, self.vectors, self.index.flatten()) for part in scaled.unbind(dim=1)]
        return torch.stack(parts, dim=1).unflatten(0, self.index.shape)

    def along(self, directions: Tensor) -> Tensor:
        found = _Along.apply(directions.flatten(0, 1), self.vectors, self.index.flatten())
        return self.scale * found.unflatten(0, self.index.shape)

    def complex(self) -> Tensor:
        return as_complex(unit(self.vectors))[self.index]

    def overlaps(self) -> Tensor:
        return overlaps(as_complex(unit(self.vectors)))[self.index]


def as_complex(vectors: Tensor) -> Tensor:
    """(..., C) complex of [Re z; Im z] (..., 2C)."""
    return torch.complex(*vectors.chunk(2, dim=-1))


# --- the trilinear form sum_nk w_nk <s_{x_n k}, v_n> ------------------------------------------------------------------
# of weights w (N, K), rows s (U, K, E) and vectors v (N, E) with x_n in [0, U). Its gradients in v, w and s are `_mix`,
# `_along` and `_scatter`, and the gradients of each of these are the other two: derivatives of every order are exact.


def _mix(weights: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """sum_k w_nk s_{x_n k}, (N, E)."""
    count = rows.shape[1]
    places = index[:, None] * count + torch.arange(count, device=index.device)
    return nn.functional.embedding_bag(places, rows.flatten(0, 1), per_sample_weights=weights.contiguous(), mode="sum")


def _along(vectors: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """<s_{x_n k}, v_n>, (N, K)."""
    return torch.stack([(nn.functional.embedding(index, each) * vectors).sum(dim=-1) for each in rows.unbind(dim=1)], dim=-1)


def _scatter(weights: Tensor, vectors: Tensor, index: Tensor, count: int) -> Tensor:
    """sum over n with x_n = u of w_nk v_n, (U, K, E) for U = `count`."""
    states, order = weights.shape[1], index.argsort(stable=True)
    numbers = index.bincount(minlength=count)
    # One bag for each u and k; those of a k are a run of all positions, sorted by their u.
    starts = torch.arange(states, device=index.device)[:, None] * len(index) + (numbers.cumsum(dim=0) - numbers)
    sums = nn.functional.embedding_bag(
        order.repeat(states),
        vectors.contiguous(),
        starts.flatten(),
        per_sample_weights=weights[order].T.flatten(),
        mode="sum",
    )
    return sums.view(states, count, -1).transpose(0, 1)


class _Mix(Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(weights, rows, index)
        return _mix(weights, rows, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, rows, index = ctx.saved_tensors
        return _Along.apply(grad, rows, index), _Scatter.apply(weights, grad, index, len(rows)), None


class _Along(Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, rows, index)
        return _along(vectors, rows, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors, rows, index = ctx.saved_tensors
        return _Mix.apply(grad, rows, index), _Scatter.apply(grad, vectors, index, len(rows)), None


class _Scatter(Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, vectors: Tensor, index: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(weights, vectors, index)
        return _scatter(weights, vectors, index, count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weights, vectors, index = ctx.saved_tensors
        return _Along.apply(vectors, grad, index), _Mix.apply(weights, grad, index), None, None
