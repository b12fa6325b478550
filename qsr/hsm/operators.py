"""Hermitian operators from real parameters, and the error Hamiltonian of data points."""

from __future__ import annotations

import torch
from torch import Tensor


def hermitian(diags: Tensor, trius: Tensor) -> Tensor:
    """Operators A_k = D_k + U_k + U_k^dagger from their diagonals and what stands above them.

    Args:
        diags: (K, d) real.
        trius: row by row: (K, d(d-1)/2, 2), real and imaginary parts, for complex operators; (K, d(d-1)/2) for real ones.

    Returns:
        (K, d, d), differentiable.
    """
    dimension = diags.shape[1]
    upper = torch.view_as_complex(trius.contiguous()) if trius.dim() == 3 else trius
    row, column = torch.triu_indices(dimension, dimension, 1, device=diags.device)
    empty = upper.new_zeros(len(diags), dimension * dimension)
    above = empty.index_copy(1, row * dimension + column, upper).view(-1, dimension, dimension)
    return above + above.mH + torch.diag_embed(diags.to(upper.dtype))


def parameters_of(operators: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonals and upper triangles (see `hermitian`) of Hermitian operators (K, d, d)."""
    dimension = operators.shape[-1]
    row, column = torch.triu_indices(dimension, dimension, 1, device=operators.device)
    upper = operators[:, row, column]
    diags = operators.diagonal(dim1=1, dim2=2)
    return (diags.real.clone(), torch.view_as_real(upper).clone()) if operators.is_complex() else (diags.clone(), upper.clone())


def random_parameters(count: int, dimension: int, is_complex: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Parameters of operators of the Gaussian unitary (or orthogonal) ensemble, whose spectrum fills [-2, 2] * scale."""
    size = scale / dimension**0.5
    diags = size * torch.randn(count, dimension)
    pairs = dimension * (dimension - 1) // 2
    if not is_complex:
        return diags, size * torch.randn(count, pairs)
    return diags, size / 2**0.5 * torch.randn(count, pairs, 2)


def combined(weights: Tensor, operators: Tensor) -> Tensor:
    """sum_k w_bk A_k, (B, d, d), of real weights (B, K) and operators (K, d, d): one real matrix product."""
    if not operators.is_complex():
        return (weights @ operators.flatten(1)).view(-1, *operators.shape[1:])
    parts = torch.view_as_real(operators)
    return torch.view_as_complex((weights @ parts.flatten(1)).view(-1, *parts.shape[1:]))


def error_hamiltonian(operators: Tensor, points: Tensor, observed: Tensor | None = None) -> Tensor:
    """H(x) - |x|^2 / 2 = 1/2 sum_k A_k^2 - sum_k x_k A_k, (B, d, d), of H(x) = 1/2 sum_k (A_k - x_k)^2.

    The part that is left out shifts all energies of a point. Where it is large, its digits would cost those of the rest.
    No array of B*K matrices is made. (Candelori et al., Sci. Rep. 15, 6933 (2025); Abanov et al., arXiv 2507.21135.)

    Args:
        operators: (K, d, d) Hermitian.
        points: (B, K) real.
        observed: (B, K) bool, or None: all. The term of a feature that is not observed is left out.
    """
    if observed is None:
        squares = torch.einsum("kij,kjl->il", operators, operators)[None]
    else:
        points = points.masked_fill(~observed, 0.0)
        squares = combined(observed.to(points.dtype), operators @ operators)
    return 0.5 * squares - combined(points, operators)


def linear_hamiltonian(offset: Tensor, operators: Tensor, points: Tensor) -> Tensor:
    """H(x) = A_0 - sum_k x_k A_k, (B, d, d), with an operator A_0 (1, d, d) of its own (arXiv 2601.03235)."""
    return offset - combined(points, operators)


def half_norm(points: Tensor, observed: Tensor | None = None) -> Tensor:
    """|x|^2 / 2, (B,), over the features that are observed."""
    squares = points.square() if observed is None else points.masked_fill(~observed, 0.0).square()
    return 0.5 * squares.sum(dim=-1)
