"""Chains of sense registers: Psi(k_1..k_L) = prod_i a_i(k_i) prod_i exp J_i(k_i, k_{i+1}), exactly, in O(L K^2).

The Born distribution |Psi|^2 / Z is a Markov chain with site weights p_i = |a_i|^2 and bond weights exp(2 Re J_i). Messages
are kept as logarithms and normalised at every step. Shapes: `log_probs` (B, L, K); `couplings` (B or 1, L-1, K, K), real or
complex, J_i of the bond between i and i+1, zero where there is none; outcomes (B, L) int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsr.qembed.functional import bond_matrix, draw


@dataclass(frozen=True)
class Messages:
    """What a chain knows of its two sides.

    Attributes:
        left: (B, L, K) ln of the weight of k_i summed over k_1..k_{i-1}, normalised over k_i.
        right: (B, L, K) ln of the weight of k_i summed over k_{i+1}..k_L, normalised over k_i; both hold ln p_i.
        log_norm: (B,) ln Z.
    """

    left: Tensor
    right: Tensor
    log_norm: Tensor


def chain_messages(log_probs: Tensor, couplings: Tensor) -> Messages:
    """The messages of both directions."""
    weights = bond_weights(couplings)
    left, log_norm = left_messages(log_probs, couplings)
    found = torch.log_softmax(log_probs[:, -1], dim=-1)
    right = [found]
    for i in range(log_probs.shape[1] - 2, -1, -1):
        onto = log_probs[:, i] + torch.logsumexp(weights[:, i] + found[:, None, :], dim=-1)
        found = torch.log_softmax(onto, dim=-1)
        right.append(found)
    return Messages(left, torch.stack(right[::-1], dim=1), log_norm)


def left_messages(log_probs: Tensor, couplings: Tensor) -> tuple[Tensor, Tensor]:
    """`Messages.left` (B, L, K), of which entry i depends on the tokens up to i only, and ln Z (B,)."""
    weights = bond_weights(couplings)
    sizes: list[Tensor] = []
    left: list[Tensor] = []
    onto = log_probs[:, 0]
    for i in range(log_probs.shape[1]):
        if i:
            onto = log_probs[:, i] + torch.logsumexp(left[-1][:, :, None] + weights[:, i - 1], dim=1)
        size = torch.logsumexp(onto, dim=-1)
        sizes.append(size)
        left.append(onto - size[:, None])
    return torch.stack(left, dim=1), torch.stack(sizes, dim=1).sum(dim=1)


def bond_weights(couplings: Tensor) -> Tensor:
    """ln |exp J|^2 = 2 Re J, in the shape of J."""
    return 2 * couplings.real


def chain_marginals(messages: Messages, log_probs: Tensor) -> Tensor:
    """(B, L, K) ln of the probability of k_i, the rest summed over."""
    # Both messages hold p_i once.
    return torch.log_softmax(messages.left + messages.right - log_probs, dim=-1)


def chain_log_prob(log_probs: Tensor, couplings: Tensor, outcomes: Tensor, log_norm: Tensor) -> Tensor:
    """ln |Psi(k)|^2 / Z, (B,), of outcomes of all sites; a chain (batch axis 1) may be shared by all outcomes."""
    return site_terms(log_probs, outcomes) + bond_terms(bond_weights(couplings), outcomes) - log_norm


def site_terms(values: Tensor, outcomes: Tensor) -> Tensor:
    """sum_i f_i(k_i), (B,), of f (B or 1, L, K)."""
    values = values.expand(len(outcomes), -1, -1)
    return values.gather(2, outcomes[..., None]).squeeze(2).sum(dim=1)


def bond_terms(values: Tensor, outcomes: Tensor) -> Tensor:
    """sum_i g_i(k_i, k_{i+1}), (B,), of g (B or 1, L-1, K, K)."""
    states = values.shape[-1]
    flat = values.flatten(2).expand(len(outcomes), -1, -1)
    index = outcomes[:, :-1] * states + outcomes[:, 1:]
    return flat.gather(2, index[..., None]).squeeze(2).sum(dim=1)


def chain_subset_log_prob(log_probs: Tensor, couplings: Tensor, outcomes: Tensor, log_norm: Tensor) -> Tensor:
    """ln of the probability of the outcomes of some sites, (B,); sites with outcome -1 are summed over."""
    senses = torch.arange(log_probs.shape[-1], device=log_probs.device)
    excluded = (outcomes[..., None] != senses) & (outcomes[..., None] >= 0)
    _, fixed = left_messages(log_probs.masked_fill(excluded, -torch.inf), couplings)
    return fixed - log_norm


def chain_bonds(messages: Messages, couplings: Tensor) -> Tensor:
    """Schmidt matrices (B, L-1, K, K) of the cuts between i and i+1; their singular values are the Schmidt coefficients."""
    return bond_matrix(messages.left[:, :-1], couplings, messages.right[:, 1:])


@torch.no_grad()
def draw_chain(right: Tensor, couplings: Tensor, uniforms: Tensor) -> Tensor:
    """Exact outcomes (B, L) int64 from the messages of the right sides, by inverse CDF of uniforms (B, L) in [0, 1).

    A chain of batch axis 1 is shared by all uniforms.
    """
    count, length = uniforms.shape
    states = right.shape[-1]
    weights = bond_weights(couplings).expand(count, -1, -1, -1)
    right = right.expand(count, -1, -1)
    found = draw(torch.softmax(right[:, 0], dim=-1), uniforms[:, 0])
    outcomes = [found]
    for i in range(1, length):
        row = weights[:, i - 1].gather(1, found[:, None, None].expand(-1, 1, states)).squeeze(1)
        found = draw(torch.softmax(row + right[:, i], dim=-1), uniforms[:, i])
        outcomes.append(found)
    return torch.stack(outcomes, dim=1)
