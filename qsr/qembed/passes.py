"""Monte-Carlo passes: a network run several times on one batch, its tokens collapsing anew in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qsr.hparams.base import ConfigError
from qsr.qembed.embeddings import QuantumEmbeddings

_SEEDS = 2**63 - 1


def sample_passes(
    model: nn.Module,
    call: Callable[[Any], Tensor],
    batch: Any,
    num_samples: int,
    parallel: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Results (S, B, ...) of S passes in which the quantum embeddings of `model` sample, also in evaluation mode.

    Each pass, and each embedding in it, draws from a generator of its own. So it makes no difference to the outcomes whether
    passes run one after the other or together, how often a network calls an embedding, or what else draws numbers. What draws
    from torch's global generator, as dropout in training mode does, is not repeated so.

    Args:
        model: holds the embeddings.
        call: runs the model on a batch and gives a tensor (B, ...).
        batch: a tensor, or a mapping or sequence of them (and other things); their first axis is that of the batch.
        num_samples: S.
        parallel: one batch of S * B rows, pass after pass, instead of S batches: S times the memory, less overhead.
        generator: seeds the passes; None: torch's global one.

    Raises:
        ConfigError: for S below 1.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples}: must be at least 1")
    embeddings = [module for module in model.modules() if isinstance(module, QuantumEmbeddings)]
    seeds = torch.randint(_SEEDS, (num_samples, len(embeddings)), generator=generator).tolist()
    if not parallel:
        results = []
        for own in seeds:
            with _drawing(embeddings, [own]):
                results.append(call(batch))
        return torch.stack(results)
    with _drawing(embeddings, seeds):
        found = call(_repeated(batch, num_samples))
    return found.unflatten(0, (num_samples, -1))


@contextmanager
def _drawing(embeddings: list[QuantumEmbeddings], seeds: list[list[int]]) -> Iterator[None]:
    """Let each embedding sample from its own generator for each pass, seeded by `seeds[pass][embedding]`."""
    before = [(module.sample, module.generators, module.collapse_probability) for module in embeddings]
    for module, own in zip(embeddings, zip(*seeds, strict=True), strict=True):
        device = module.output_scale.device
        module.sample, module.generators = True, [torch.Generator(device).manual_seed(seed) for seed in own]
        chance = module.collapse_probability
        if isinstance(chance, Tensor) and chance.dim() == 2 and len(chance) > 1:
            module.collapse_probability = _repeated(chance, len(seeds))
    try:
        yield
    finally:
        for module, (sample, generators, chance) in zip(embeddings, before, strict=True):
            module.sample, module.generators, module.collapse_probability = sample, generators, chance


def _repeated(batch: Any, times: int) -> Any:
    """The batch `times` times after itself."""
    if isinstance(batch, Tensor):
        return torch.cat([batch] * times) if batch.dim() else batch
    if isinstance(batch, Mapping):
        return {name: _repeated(value, times) for name, value in batch.items()}
    return type(batch)(_repeated(value, times) for value in batch) if isinstance(batch, list | tuple) else batch
