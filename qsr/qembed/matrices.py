"""Functions of Hermitian matrices whose gradients stay finite where eigenvalues coincide or vanish."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_EMPTY = {torch.float32: 1e-6, torch.float64: 1e-12}  # eigenvalues below it, relative to the largest, count as zero


def inverse_root(matrix: Tensor) -> Tensor:
    """S^{-1/2} of positive definite matrices (..., C, C); directions that S does not have are left out."""
    found: Tensor = _InverseRoot.apply(matrix)[0]
    return found


def root_fidelity(first: Tensor, second: Tensor) -> Tensor:
    """tr sqrt(sqrt(rho) sigma sqrt(rho)), (...,), of positive semidefinite matrices (..., C, C)."""
    return _RootFidelity.apply(first, second)


def _powers(matrix: Tensor, power: float) -> Tensor:
    """M^power on the support of a positive semidefinite matrix, 0 outside it."""
    levels, vectors = torch.linalg.eigh(matrix)
    there = levels > _EMPTY[levels.dtype] * levels[..., -1:].clamp_min(torch.finfo(levels.dtype).tiny)
    raised = torch.where(there, torch.where(there, levels, 1.0).pow(power), 0.0)
    return (vectors * raised[..., None, :]) @ vectors.mH


class _InverseRoot(torch.autograd.Function):
    """dL/dS = V [D o V^dagger G V] V^dagger with D_ij = -1 / (a_i a_j (a_i + a_j)), a = sqrt of the eigenvalues.

    The divided differences of x^{-1/2} in this form have no small denominators (Daleckii and Krein).
    """

    generate_vmap_rule = True  # for gradients of every sample

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels, vectors = torch.linalg.eigh(matrix)
        there = levels > _EMPTY[levels.dtype] * levels[..., -1:]
        inverse = torch.where(there, torch.where(there, levels, 1.0).rsqrt(), 0.0)
        return (vectors * inverse[..., None, :]) @ vectors.mH, vectors, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, vectors, inverse = output
        ctx.mark_non_differentiable(vectors, inverse)
        ctx.save_for_backward(vectors, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Tensor:
        vectors, inverse = ctx.saved_tensors
        # 1 / (a_i a_j (a_i + a_j)) of b = 1/a: b_i^2 b_j^2 / (b_i + b_j)
        row, column = inverse[..., :, None], inverse[..., None, :]
        total = row + column
        weights = -row.square() * column.square() / torch.where(total > 0, total, 1.0)
        symmetric = 0.5 * (gradient + gradient.mH)
        return vectors @ (weights * (vectors.mH @ symmetric @ vectors)) @ vectors.mH


class _RootFidelity(torch.autograd.Function):
    """d tr sqrt(M) / d sigma = 1/2 sqrt(rho) M^{-1/2} sqrt(rho), M = sqrt(rho) sigma sqrt(rho); for rho the states change places.

    On the support of M: at states without full rank it is one of the finite subgradients.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        roots = _powers(first, 0.5), _powers(second, 0.5)
        ctx.save_for_backward(first, second, *roots)
        return torch.linalg.svdvals(roots[0] @ roots[1]).sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        first, second, first_root, second_root = ctx.saved_tensors
        by_second = first_root @ _powers(first_root @ second @ first_root, -0.5) @ first_root
        by_first = second_root @ _powers(second_root @ first @ second_root, -0.5) @ second_root
        scale = 0.5 * gradient[..., None, None]
        return scale * by_first, scale * by_second
