"""The local energy, written once for every Hamiltonian and every sampler, and the gradient that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsr.hamiltonians.base import Hamiltonian
from qsr.hparams.base import ConfigError
from qsr.samplers.base import DEFAULT_MEMORY_BYTES, Sampler


@dataclass(frozen=True)
class LocalEnergy:
    """Local energies of a batch, in the Hamiltonian's units of energy.

    Attributes:
        values: (B,) float64, or complex128 for a model with a phase.
        log_prob: (B,) log p of the configurations.
        masks: (M, N) bool, the connected configurations as XOR masks.
        ratios: (B, M) psi(n XOR mask) / psi(n).
    """

    values: Tensor
    log_prob: Tensor
    masks: Tensor
    ratios: Tensor


def local_energy(
    sampler: Sampler,
    hamiltonian: Hamiltonian,
    configs: Tensor,
    context: Tensor | None = None,
    num_loops: int | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> LocalEnergy:
    """E_loc(n) = H_nn + sum_{n'} H_{nn'} psi(n') / psi(n) of configs (B, N), by exact flips, without gradient.

    Ratios are formed in float64 from differences of log-probabilities, whatever the precision of the network.

    Raises:
        ConfigError: for a Hamiltonian with a sign problem and a model without a phase.
    """
    check_sign(sampler, hamiltonian)
    masks, coefficients = hamiltonian.connected(configs)
    log_prob, ratios = amplitude_ratios(sampler, configs, masks, context, num_loops, memory_bytes)
    return LocalEnergy(hamiltonian.diagonal(configs) + (coefficients * ratios).sum(dim=-1), log_prob, masks, ratios)


def amplitude_ratios(
    sampler: Sampler,
    configs: Tensor,
    masks: Tensor,
    context: Tensor | None = None,
    num_loops: int | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> tuple[Tensor, Tensor]:
    """log p (B,) and psi(n XOR mask) / psi(n) (B, M) of configs (B, N), for masks (M, N) bool, without gradient.

    float64, or complex128 for a model with a phase. All local values of operators come from here.
    """
    log_prob, log_ratio = sampler.flip_log_ratio(configs, masks, context, num_loops, memory_bytes)
    ratios = (0.5 * log_ratio.double()).exp()
    if sampler.has_phase:
        ratios = torch.polar(ratios, sampler.flip_phase(configs, masks, context, memory_bytes).double())
    return log_prob, ratios


def differentiable_local_energy(
    sampler: Sampler, hamiltonian: Hamiltonian, configs: Tensor, context: Tensor | None = None
) -> Tensor:
    """Real part of E_loc(n), (B,), with its gradient through every flipped configuration; one full evaluation for each."""
    check_sign(sampler, hamiltonian)
    masks, coefficients = hamiltonian.connected(configs)
    log_ratio = sampler.plain_flip_log_prob(configs, masks, context) - sampler.log_prob(configs, context)[:, None]
    ratios = (0.5 * log_ratio.double()).exp()
    if sampler.has_phase:
        turns = sampler.plain_flip_phase(configs, masks, context) - sampler.phase(configs, context)[:, None]
        ratios = torch.polar(ratios, turns.double())
    off_diagonal = (coefficients * ratios).sum(dim=-1)
    return hamiltonian.diagonal(configs) + (off_diagonal.real if off_diagonal.is_complex() else off_diagonal)


def check_sign(sampler: Sampler, hamiltonian: Hamiltonian) -> None:
    """Refuse psi = sqrt(p) for a Hamiltonian whose ground state has signs.

    Raises:
        ConfigError: if the Hamiltonian is not stoquastic and the model has no phase.
    """
    if not hamiltonian.is_stoquastic and not sampler.has_phase:
        raise ConfigError(
            f"{type(hamiltonian).__name__} is not stoquastic: its ground state has signs, and "
            f"{type(sampler).__name__} has no phase to represent them; set phase=True in the model's section"
        )


def weighted_loss(
    log_prob: Tensor, terms: Tensor, weights: Tensor, phase: Tensor | None = None, differentiable: Tensor | None = None
) -> Tensor:
    """A scalar whose gradient is 2 Re sum_i w_i [(E_i - <E>)^* grad log psi_i], an estimate of the gradient of <H>.

    Args:
        log_prob: (B,) differentiable.
        terms: (B,) w_i (E_i - <E>), real or complex: `leave_one_out` for samples, or with the exact probabilities w_i.
        weights: (B,) w_i (1/B for samples), used for `differentiable`.
        phase: (B,) differentiable, for a model with a phase head.
        differentiable: (B,) `differentiable_local_energy`. The gradient of its mean takes the place of the phase term;
            for psi = sqrt(p) it averages to zero.
    """
    loss = (terms.real * log_prob).sum()
    if differentiable is not None:
        loss = loss + (weights * differentiable).sum()
    elif phase is not None and terms.is_complex():
        loss = loss + 2 * (terms.imag * phase).sum()
    return loss


def leave_one_out(local_energies: Tensor, groups: Tensor | None = None) -> Tensor:
    """(E_i - mean of the others) / B for every sample of a batch (B,): the weight of grad log p_i.

    The baseline of a sample does not depend on it, which keeps the estimate of the gradient unbiased; it amounts to the
    factor 1/(B-1) in place of 1/B (Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019).

    Args:
        groups: (B,) which of G equally large groups, 0 to G-1, each sample is in; the others are then those of its group, and
            the factor is 1/(B-G). None: all are one group.
    """
    count = 1 if groups is None else int(groups.max()) + 1
    return deviations(local_energies, groups) / (len(local_energies) - count)


def deviations(values: Tensor, groups: Tensor | None = None) -> Tensor:
    """Values (B,) minus their mean, or that of their group (see `leave_one_out`)."""
    if groups is None:
        return values - values.mean()
    sums = values.new_zeros(int(groups.max()) + 1).index_add(0, groups, values)
    return values - (sums / torch.bincount(groups))[groups]
