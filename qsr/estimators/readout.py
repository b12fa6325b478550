"""What a sampler says of snapshots that were read with errors: the likelihood of the read bits, and the true configurations."""

from __future__ import annotations

import torch
from torch import Tensor

from qsr.samplers.base import AutoregressiveSampler, evaluation_mode

IMPOSSIBLE = -1e4  # log of a probability 0 that may be multiplied by 0


def posterior_draws(
    model: AutoregressiveSampler,
    reads: Tensor,
    e10: float,
    e01: float,
    draws: int,
    generator: torch.Generator,
    memory_bytes: int,
) -> tuple[Tensor, Tensor]:
    """True configurations of read ones, drawn patch by patch from p(patch_j | patch_<j) P(read_j | patch_j) / Z_j.

    A draw has the weight w = prod_j Z_j. Its mean is p_read(r) = sum_n p(n) P(r|n), without bias for any number of draws; the
    mean of log(w_1 + ... + w_S)/S is below log p_read(r), and reaches it with S (importance weighting, arXiv 1509.00519).
    Weighted by w, the draws follow the posterior p(n|r). One patch of all sites draws from it exactly, with equal weights.

    Args:
        reads: (R, N) uint8.
        e10: P(0|1), how often an excited site is read as ground.
        e01: P(1|0), how often a ground-state site is read as excited.
        draws: S, for each snapshot.
        memory_bytes: bound on intermediate results; changes results only by rounding.

    Returns:
        configurations (R, S, N) and log w (R, S), float64, without gradient.
    """
    rows = reads.repeat_interleave(draws, dim=0)
    shape = len(rows), model.num_tokens
    uniforms = torch.rand(shape, generator=generator, dtype=torch.float64, device=rows.device)
    chunk = max(1, memory_bytes // model.sample_bytes())
    ground = torch.tensor([1 - e01, e01], dtype=torch.float64, device=rows.device).log().clamp(min=IMPOSSIBLE)  # of read 0, 1
    excited = torch.tensor([e10, 1 - e10], dtype=torch.float64, device=rows.device).log().clamp(min=IMPOSSIBLE)
    values = model.token_values(torch.arange(model.num_values, device=rows.device)).double()  # (V, p)
    configs, log_weights = [], []
    with evaluation_mode(model):
        for part, drawn in zip(rows.split(chunk), uniforms.split(chunk), strict=True):
            read = part[:, model.token_sites].long()  # (R, n, p)
            tokens = torch.empty(len(part), model.num_tokens, dtype=torch.long, device=part.device)
            log_weight = torch.zeros(len(part), dtype=torch.float64, device=part.device)
            conditional, state = model.prefill(tokens[:, :0])
            for t in range(model.num_tokens):
                if t:
                    conditional, state = model.extend(state, tokens[:, t - 1 : t])
                here = read[:, t]
                channel = ground[here].sum(dim=1, keepdim=True) + (excited - ground)[here] @ values.T  # log P(read | value)
                joint = conditional[:, 0].double() + channel
                total = joint.logsumexp(dim=1, keepdim=True)
                cumulated = (joint - total).exp().cumsum(dim=1)
                chosen = torch.searchsorted(cumulated, drawn[:, t : t + 1] * cumulated[:, -1:], right=True)
                tokens[:, t] = chosen[:, 0].clamp(max=model.num_values - 1)
                log_weight += total[:, 0]
            configs.append(model.decode(tokens))
            log_weights.append(log_weight)
    return torch.cat(configs).view(len(reads), draws, -1), torch.cat(log_weights).view(len(reads), draws)
