"""Which tokens are measured in a call, and what is found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qsr.hparams.base import ConfigError
from qsr.qembed.arguments import is_exactly
from qsr.qembed.entanglement import Correlations
from qsr.qembed.functional import at_least_single

COLLAPSE_STRATEGIES = ("context_aware", "born", "soft", "argmax", "none")
Noise = tuple[Tensor, Tensor]
_SAMPLED = ("context_aware", "born")


def is_random(strategy: str, chance: float | Tensor) -> bool:
    """Whether a measurement with this probability draws anything: the tokens, their outcomes, or both."""
    return not is_exactly(chance, 0.0) and (strategy in _SAMPLED or not is_exactly(chance, 1.0))


def draw_noise(batch: int, length: int, like: Tensor, generators: Sequence[torch.Generator]) -> Noise:
    """Two tensors of uniforms (B, L), at least single precision, on the device of `like`.

    Args:
        generators: each draws an equal share of the batch, in order; none: torch's global one draws everything.

    Raises:
        ConfigError: if the batch cannot be shared out equally.
    """
    sources: list[torch.Generator | None] = [*generators] or [None]
    if batch % len(sources):
        raise ConfigError(f"generators: {len(sources)} of them cannot share a batch of {batch} equally")
    share = 2, batch // len(sources), length
    dtype = at_least_single(like).dtype
    parts = [torch.rand(share, generator=source, dtype=dtype, device=like.device) for source in sources]
    which, outcome = torch.cat(parts, dim=1)
    return which, outcome


def measure(
    strategy: str, found: Correlations, chance: float | Tensor, share: Tensor, noise: Noise | None, drawing: str
) -> tuple[Tensor, Tensor | None]:
    """How much of each token is collapsed, (B, L) in [0, 1], and its sense (B, L); None where no outcome is read.

    Args:
        chance: the collapse probability, and `share` the same as (B, L).
        noise: uniforms (B, L) that decide which tokens collapse and to which sense; None: the mean, and the likeliest sense.
        drawing: see `Correlations.draw`.
    """
    if is_exactly(chance, 0.0):
        return share, None
    weight = share if noise is None or is_exactly(chance, 1.0) else (noise[0] < share).to(share.dtype)
    if strategy == "soft":
        return weight, None
    if noise is None or strategy not in _SAMPLED:
        return weight, found.log_marginals.argmax(dim=-1)
    return weight, found.draw(noise[1], drawing)
