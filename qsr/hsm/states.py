"""States of Hamiltonians that depend on data, with gradients that are exact and finite at every degeneracy.

Gradients of eigenvectors from `torch.linalg.eigh` divide by the distances of all pairs of levels; two excited levels that
coincide make them infinite, though nothing that is asked for here depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Relative to the width of the spectrum: levels that are closer to the ground level than this are degenerate with it.
DEGENERATE = {torch.float32: 1e-6, torch.float64: 1e-12}


@dataclass(frozen=True)
class States:
    """States of B Hamiltonians.

    Attributes:
        energy: (B,) differentiable: the ground energy, or the free energy of thermal states.
        expectations: (B, T) differentiable: <B_t>.
        levels: (B, d) all energies, ascending.
        vectors: (B, d, d) eigenvectors in the columns, in the order of the levels.
        weights: (B, d) probability of each of them in the state.
    """

    energy: Tensor
    expectations: Tensor
    levels: Tensor
    vectors: Tensor
    weights: Tensor

    @property
    def ground(self) -> Tensor:
        """(B, d) the ground states, each with an arbitrary phase."""
        return self.vectors[..., 0]

    @property
    def gap(self) -> Tensor:
        """(B,) distance of the first excited level; 0 for d = 1."""
        return self.levels[:, min(1, self.levels.shape[1] - 1)] - self.levels[:, 0]

    @property
    def excited(self) -> Tensor:
        """(B, d) bool: which levels lie above the ground level."""
        return ~_ground_level(self.levels)

    def degenerate(self) -> Tensor:
        """(B,) bool: whether the ground level is."""
        return _ground_level(self.levels).sum(dim=-1) > 1

    def expectations_of(self, operators: Tensor) -> Tensor:
        """(B, T) of operators (T, d, d), without gradient through the states."""
        rho = (self.vectors * self.weights[:, None].to(self.vectors.dtype)) @ self.vectors.mH
        return torch.einsum("bij,tji->bt", rho, operators).real


def states_of(hamiltonians: Tensor, operators: Tensor, beta: float | None = None, average: bool = False) -> States:
    """Ground states, or thermal states exp(-beta H) / Z, and the expectation values of operators in them.

    Args:
        hamiltonians: (B, d, d) Hermitian; their lower triangles are read.
        operators: (T, d, d) Hermitian.
        beta: inverse temperature in the units of H; None: the ground state.
        average: for ground states: over a degenerate ground level, instead of the state in it that the solver gives.
    """
    if beta is None and not average:
        return States(*_GroundState.apply(hamiltonians, operators))
    return States(*_MixedState.apply(hamiltonians, operators, beta))


def variances(states: States, operators: Tensor) -> Tensor:
    """(B, T) <B^2> - <B>^2 >= 0 in the states, sum_n p_n |(B_t - <B_t>) n|^2."""
    vectors = states.vectors
    occupied = int((states.weights > 0).any(dim=0).sum())  # ground states use the first column only
    vectors, weights = vectors[..., :occupied], states.weights[:, :occupied]
    applied = torch.einsum("tij,bjn->btin", operators, vectors)
    each = torch.einsum("bin,btin->btn", vectors.conj(), applied).real
    mean = (each * weights[:, None]).sum(dim=-1)
    off = applied - mean[..., None, None] * vectors[:, None]
    return (off.abs().square().sum(dim=2) * weights[:, None]).sum(dim=-1)


def _solved(hamiltonians: Tensor) -> tuple[Tensor, Tensor]:
    """Levels and eigenvectors; NaN for Hamiltonians that are not finite, so that a run that blows up is seen as such."""
    try:
        levels, vectors = torch.linalg.eigh(hamiltonians)
        return levels, vectors
    except torch.linalg.LinAlgError:
        vectors = torch.full_like(hamiltonians, torch.nan)
        return vectors[..., 0].real.clone(), vectors


def _ground_level(levels: Tensor) -> Tensor:
    """(B, d) bool: which levels are the ground level."""
    gap = levels - levels[:, :1]
    return gap <= DEGENERATE[levels.dtype] * gap[:, -1:]


class _GroundState(torch.autograd.Function):
    """Gradients by first-order perturbation theory: with M = sum_t g_t B_t and phi = (H - E_0)^+ M psi,

    dL/dH = g_E |psi><psi| - |phi><psi| - |psi><phi| and dL/dB_t = sum_b g_bt |psi_b><psi_b|.

    Levels that are degenerate with the ground level are left out of the pseudo-inverse. (Xie, Liu, Wang, Phys. Rev. B 101,
    245139 (2020).)
    """

    @staticmethod
    def forward(hamiltonians: Tensor, operators: Tensor) -> tuple[Tensor, ...]:
        levels, vectors = _solved(hamiltonians)
        weights = torch.zeros_like(levels)
        weights[:, 0] = 1.0
        if not len(operators):
            return levels[:, 0].clone(), levels.new_zeros(len(levels), 0), levels, vectors, weights
        psi = vectors[..., 0]
        applied = torch.einsum("tij,bj->bti", operators, psi)
        expectations = torch.einsum("bi,bti->bt", psi.conj(), applied).real
        return levels[:, 0].clone(), expectations, levels, vectors, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, levels, vectors, weights = output
        operators = inputs[1]
        # For energies alone the ground state is enough.
        ctx.save_for_backward(levels, vectors if len(operators) else vectors[..., :1].clone(), operators)
        ctx.mark_non_differentiable(levels, vectors, weights)

    @staticmethod
    def backward(ctx: Any, g_energy: Tensor, g_expectations: Tensor, *_: Any) -> tuple[Tensor, Tensor | None]:
        _refuse_second_derivatives()
        levels, vectors, operators = ctx.saved_tensors
        psi = vectors[..., 0]
        # g_E |psi><psi| - |phi><psi| - |psi><phi| = |left><psi| + |psi><left| with left = g_E psi / 2 - phi
        left = 0.5 * g_energy[:, None] * psi
        g_operators = None
        if len(operators):
            turned = torch.einsum("tij,bj->bti", operators, psi)
            m_psi = torch.einsum("bt,bti->bi", g_expectations.to(psi.dtype), turned)
            excited = ~_ground_level(levels)
            gap = torch.where(excited, levels - levels[:, :1], 1.0)
            overlaps = torch.einsum("bin,bi->bn", vectors.conj(), m_psi) * (excited / gap)
            left = left - torch.einsum("bin,bn->bi", vectors, overlaps)
            if ctx.needs_input_grad[1]:
                weighted = g_expectations.to(psi.dtype)[..., None] * psi[:, None]  # (B, T, d)
                g_operators = torch.einsum("bti,bj->tij", weighted, psi.conj())
        outer = left[:, :, None] * psi[:, None, :].conj()
        return outer + outer.mH, g_operators


class _MixedState(torch.autograd.Function):
    """rho = sum_n p_n |n><n| with p_n ~ exp(-beta E_n), or (beta None) p_n equal over the ground level and 0 above it.

    dL/dH = g_F rho + V [Phi o V^dagger (M - Tr rho M) V] V^dagger with Phi_ij = (p_i - p_j)/(E_i - E_j) and the limit
    -beta p_i for equal levels, which is finite everywhere. (Wilcox, J. Math. Phys. 8, 962 (1967).)
    """

    @staticmethod
    def forward(hamiltonians: Tensor, operators: Tensor, beta: float | None) -> tuple[Tensor, ...]:
        levels, vectors = _solved(hamiltonians)
        if beta is None:
            ground = _ground_level(levels)
            weights = ground / ground.sum(dim=-1, keepdim=True)
            energy = levels[:, 0].clone()
        else:
            weights = torch.softmax(-beta * levels, dim=-1)
            energy = -torch.logsumexp(-beta * levels, dim=-1) / beta
        rho = (vectors * weights[:, None].to(vectors.dtype)) @ vectors.mH
        expectations = torch.einsum("bij,tji->bt", rho, operators).real
        return energy, expectations, levels, vectors, weights.to(levels.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, expectations, levels, vectors, weights = output
        ctx.beta = inputs[2]
        ctx.save_for_backward(expectations, levels, vectors, weights, inputs[1])
        ctx.mark_non_differentiable(levels, vectors, weights)

    @staticmethod
    def backward(ctx: Any, g_energy: Tensor, g_expectations: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
        _refuse_second_derivatives()
        expectations, levels, vectors, weights, operators = ctx.saved_tensors
        observable = torch.einsum("bt,tij->bij", g_expectations.to(operators.dtype), operators)
        inside = vectors.mH @ observable @ vectors
        mean = (g_expectations * expectations).sum(dim=-1)
        inside = inside - mean[:, None, None] * torch.eye(levels.shape[1], dtype=inside.dtype, device=inside.device)
        inside = inside * _divided_differences(levels, weights, ctx.beta).to(inside.dtype)
        inside = inside + torch.diag_embed(g_energy[:, None] * weights).to(inside.dtype)
        rho = (vectors * weights[:, None].to(vectors.dtype)) @ vectors.mH
        return vectors @ inside @ vectors.mH, torch.einsum("bt,bij->tij", g_expectations.to(rho.dtype), rho), None


def _refuse_second_derivatives() -> None:
    # Gradients are enabled in here for create_graph=True only. What follows would be a constant for them.
    if torch.is_grad_enabled():
        raise RuntimeError("states have first derivatives only; create_graph=True would need second ones")


def _divided_differences(levels: Tensor, weights: Tensor, beta: float | None) -> Tensor:
    """(B, d, d) (p_i - p_j)/(E_i - E_j), computed without a difference of nearly equal numbers."""
    distance = (levels[:, :, None] - levels[:, None, :]).abs()
    if beta is None:
        ground = weights > 0
        across = ground[:, :, None] != ground[:, None, :]
        return torch.where(across, -weights.amax(dim=-1)[:, None, None] / torch.where(across, distance, 1.0), 0.0)
    scaled = beta * distance
    larger = torch.maximum(weights[:, :, None], weights[:, None, :])
    small = scaled < 1e-6
    falling = torch.where(small, 1 - scaled / 2, -torch.expm1(-scaled) / torch.where(small, 1.0, scaled))
    return -beta * larger * falling
