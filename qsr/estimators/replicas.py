"""Estimates from two sets of independent samples: purity and second Renyi entropy of a region, overlap of two states."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.estimators.statistics import Estimate, RunningCovariance, RunningMoments
from qsr.samplers.base import DEFAULT_MEMORY_BYTES, CountedSampler, Sampler, evaluation_mode


def log_amplitude(sampler: Sampler, configs: Tensor, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> tuple[Tensor, Tensor]:
    """log |psi| and phase of configs (B, N), both (B,) float64, without gradient.

    As many rows at a time as fit into the memory; the configurations may be on another device than the sampler.
    """
    rows = max(1, memory_bytes // sampler.pass_bytes()) if isinstance(sampler, CountedSampler) else max(1, len(configs))
    modulus = torch.empty(len(configs), dtype=torch.float64, device=configs.device)
    phase = torch.empty_like(modulus)
    with evaluation_mode(sampler):
        for first in range(0, len(configs), rows):
            part = slice(first, first + rows)
            there = configs[part].to(sampler.device)
            modulus[part] = 0.5 * sampler.log_prob(there).double().to(configs.device)
            phase[part] = sampler.phase(there).double().to(configs.device)
    return modulus, phase


def swap_terms(
    sampler: Sampler,
    first: Tensor,
    second: Tensor,
    sites: NDArray[np.int64],
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Tensor:
    """cos(a) / cosh(l) of pairs n, m of samples (B, N), l + i a = log [psi(n') psi(m') / (psi(n) psi(m))]; (B,) float64.

    n' and m' have exchanged `sites`. Over independent pairs the mean is the purity Tr rho_A^2 of the region A of the sites, as it
    is of the ratio exp(l + i a) itself (M. Hastings et al., Phys. Rev. Lett. 104, 157201 (2010)). A swapped pair swapped again is
    the first one, so a ratio and its inverse may be averaged with their probabilities: that bounds the summand by 1.
    """
    index = torch.as_tensor(sites, device=first.device)
    changed, other = first.clone(), second.clone()
    changed[:, index], other[:, index] = second[:, index], first[:, index]
    found = log_amplitude(sampler, torch.cat([changed, other, first, second]), memory_bytes)
    modulus, phase = (value.view(2, 2, -1).sum(dim=1) for value in found)
    return torch.cos(phase[0] - phase[1]) / torch.cosh(modulus[0] - modulus[1])


def overlap_terms(psi: Sampler, phi: Sampler, configs: Tensor, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> Tensor:
    """2 psi^*(n) phi(n) / (|psi(n)|^2 + |phi(n)|^2) of configs (B, N); (B,) complex128 of modulus at most 1.

    Averaged over as many samples of |psi|^2 as of |phi|^2 it is <psi|phi>. It is bounded, where the ratios phi/psi have tails,
    and deviates from 1 in second order only where the states are alike.
    """
    (log_psi, angle), (log_phi, other) = (log_amplitude(state, configs, memory_bytes) for state in (psi, phi))
    return torch.polar(1 / torch.cosh(log_phi - log_psi), other - angle)


def renyi2(moments: RunningMoments) -> Estimate:
    """S_2 = -ln Tr rho_A^2 in nat, from the moments of `swap_terms`.

    The error is that of the delta method; nan where the estimated purity is not positive.
    """
    found = moments.estimate()
    if not found.mean > 0:
        return Estimate(math.nan, math.nan)
    return Estimate(-math.log(found.mean), found.error / found.mean)


class Fidelity:
    """F = |<psi|phi>|^2 of two normalised states, from as many independent samples of each."""

    def __init__(self) -> None:
        self._overlap = RunningCovariance(2)  # its real and imaginary part

    def update(self, of_psi: Tensor, of_phi: Tensor) -> None:
        """Add `overlap_terms` (B,) at samples of psi, and (B,) at samples of phi."""
        terms = ((of_psi + of_phi) / 2).cpu()
        self._overlap.update(torch.stack([terms.real, terms.imag], dim=1).numpy())

    def estimate(self) -> Estimate:
        """F without bias, so that noise may take it below 0.

        The error has the term of second order, too, which is all of it for orthogonal states.
        """
        mean, covariance = self._overlap.mean, self._overlap.covariance / max(self._overlap.count, 1)
        variance = 4 * mean @ covariance @ mean + 2 * np.square(covariance).sum()
        return Estimate(float(mean @ mean - np.trace(covariance)), float(np.sqrt(variance)))
