"""The local energy by sampled flips: unbiased, at a fraction of the cost of all of them.

The sum over connected configurations is split into what a window of conditionals after each flip says, which is cheap, and a
correction, of which only M randomly chosen terms are computed in full:

    sum_i h_i r_i  =  sum_i h_i c_i  +  E_{i ~ q}[h_i (r_i - c_i) / q_i],    r_i = sqrt(p(n^i) / p(n))

with h_i the matrix elements and c_i the square root of the ratio of the conditionals in the window. Proposals are
q_i ~ |h_i| c_i g_i, mixed with a little of the uniform distribution, over the flips that the window does not already cover; g_i
is how far a window is off for flip i on average (`qsr.estimators.flip_choice`), one if not known. The mean over the draws is the
exact local energy for every window, every g and every M >= 1 (tests enumerate all draws).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsr.estimators.local_energy import check_sign
from qsr.hamiltonians.base import Hamiltonian
from qsr.hparams.base import ConfigError
from qsr.samplers.base import DEFAULT_MEMORY_BYTES, AutoregressiveSampler, Sampler, evaluation_mode
from qsr.samplers.flips import Window, first_changed, flip_groups

UNIFORM = 0.1  # share of the uniform distribution in the proposals: bounds the weight of a flip whose window misleads


@dataclass(frozen=True)
class FlipSampling:
    """How local energies are computed: all flips exactly, or M of them and a window for the rest.

    Attributes:
        num_flips: M; None for exact flips.
        window: distances after the flipped token at which conditionals are compared for every flip.
        weights: g, one factor for every flip in the proposals; None for ones.
    """

    num_flips: int | None = None
    window: Window = ()
    weights: tuple[float, ...] | None = None


EXACT = FlipSampling()


@dataclass(frozen=True)
class SampledEnergy:
    """Unbiased estimates of local energies.

    Attributes:
        values: (B,) float64, or complex128 for a model with a phase.
        log_prob: (B,) log p of the configurations.
        sampling_variance: (B,) unbiased estimates of the variance that drawing the flips adds; None for M = 1, whose
            single term has no spread to tell it from.
    """

    values: Tensor
    log_prob: Tensor
    sampling_variance: Tensor | None


def sampled_local_energy(
    sampler: Sampler,
    hamiltonian: Hamiltonian,
    configs: Tensor,
    sampling: FlipSampling,
    uniforms: Tensor,
    context: Tensor | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> SampledEnergy:
    """E_loc of configs (B, N) with M = `sampling.num_flips` flips drawn for each, without gradient.

    Args:
        uniforms: (B, M) float64 in [0, 1), one for every draw.

    Raises:
        ConfigError: for a model that is not autoregressive, and for a sign problem.
    """
    model = check_sampled(sampler, hamiltonian)
    masks, coefficients = hamiltonian.connected(configs)
    xor = model.encode(masks.to(torch.uint8))
    groups = flip_groups(xor)
    uncovered = uncovered_flips(xor, sampling.window)
    weights = None if sampling.weights is None else torch.tensor(sampling.weights, dtype=torch.float64, device=configs.device)
    log_prob = torch.empty(len(configs), dtype=model.dtype, device=configs.device)
    coefficients = turned(model, configs, masks, coefficients, context, memory_bytes)
    off_diagonal = torch.empty(len(configs), dtype=coefficients.dtype, device=configs.device)
    terms = torch.zeros(uniforms.shape, dtype=coefficients.dtype, device=configs.device)
    with evaluation_mode(model):
        for part, passed in model.base_passes(configs, context, groups, memory_bytes, sampling.window, uniforms.shape[1]):
            log_prob[part] = passed.base.sum(dim=-1)
            log_ratio = passed.changes(groups, len(masks), sampling.window)
            elements = coefficients[part]
            windowed = elements * (0.5 * log_ratio.double()).exp()
            off_diagonal[part] = windowed.sum(dim=-1)
            proposals = proposal(windowed, (elements != 0) & uncovered, weights)
            drawn = draw(proposals, uniforms[part])  # (b, M)
            rows = torch.arange(len(drawn), device=drawn.device)[:, None].expand_as(drawn)
            wanted = proposals.gather(1, drawn) > 0  # all zero where the window covers every flip
            row, flip = rows[wanted], drawn[wanted]
            ratio = (0.5 * passed.pair_change(row, xor[flip]).double()).exp()
            terms[part][wanted] = (elements[row, flip] * ratio - windowed[row, flip]) / proposals[row, flip]
            del passed  # before the next one is made
    num_flips = uniforms.shape[1]
    values = hamiltonian.diagonal(configs) + off_diagonal + terms.mean(dim=1)
    return SampledEnergy(values, log_prob, terms.var(dim=1) / num_flips if num_flips > 1 else None)


def can_sample(sampler: Sampler) -> bool:
    """Whether flips of this model can be sampled."""
    return isinstance(sampler, AutoregressiveSampler)


def check_sampled(sampler: Sampler, hamiltonian: Hamiltonian) -> AutoregressiveSampler:
    """The sampler, if its flips can be sampled.

    Raises:
        ConfigError: if not.
    """
    check_sign(sampler, hamiltonian)
    if not isinstance(sampler, AutoregressiveSampler):
        raise ConfigError(f"train.flips: {type(sampler).__name__} is not autoregressive; only flips=exact")
    return sampler


def turned(
    model: Sampler, configs: Tensor, masks: Tensor, coefficients: Tensor, context: Tensor | None, memory_bytes: int
) -> Tensor:
    """The matrix elements (B, M) times the change of phase, which is cheap enough to be exact for every flip."""
    if not model.has_phase:
        return coefficients
    angles = model.flip_phase(configs, masks, context, memory_bytes).double()
    return coefficients * torch.polar(torch.ones_like(angles), angles)


def uncovered_flips(xor: Tensor, window: Window) -> Tensor:
    """(M,) whether conditionals outside the window change under flips, given as XOR patterns (M, n) on the tokens."""
    n = xor.shape[1]
    start = first_changed(xor)
    inside = sum((start + offset < n).long() for offset in window)
    return (start < n) & (inside < n - 1 - start)


def proposal(windowed: Tensor, possible: Tensor, weights: Tensor | None = None) -> Tensor:
    """(B, M) probabilities of the flips: from their windowed terms (B, M), where corrections are due, and weights (M,)."""
    weight = windowed.abs() * possible
    if weights is not None:
        weight = weight * weights
    total = weight.sum(dim=1, keepdim=True)
    # All in float64: what is left of the sum to one would be a bias.
    uniform = possible.double() / possible.sum(dim=1, keepdim=True).clamp_min(1)
    share = (1 - UNIFORM) * (total > 0).double()  # without any weight, as after an underflow, the draws are uniform
    return share * weight / total.clamp_min(torch.finfo(total.dtype).tiny) + (1 - share) * uniform


def draw(proposals: Tensor, uniforms: Tensor) -> Tensor:
    """(B, M) independent draws from the rows of `proposals` (B, flips), by the inverse of their cumulative sums."""
    cumulative = proposals.cumsum(dim=1)
    # Scaled by the last sum, which rounding may leave below one; a flip of probability zero has an empty interval.
    return torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True).clamp_max(proposals.shape[1] - 1)
