"""A conditional depends on the patches before it, on all of them, and on nothing after."""

import pytest
import torch
from sampler_cases import CASES, build

from qsr.samplers.replacement import attend, attend_plainly, causal_mask


@pytest.mark.parametrize("name", CASES)
def test_conditionals_are_causal_and_use_the_whole_prefix(name: str) -> None:
    sampler = build(name)
    configs, _ = sampler.sample(8, torch.Generator().manual_seed(3))
    base = sampler.conditionals(configs).detach()
    for token in range(sampler.num_tokens):
        changed = configs.clone()
        changed[:, sampler.token_sites[token]] ^= 1
        difference = (sampler.conditionals(changed).detach() - base).abs().amax(dim=(0, 2))
        assert difference[: token + 1].max() < 1e-12
        if token + 1 < sampler.num_tokens:
            assert difference[token + 1 :].min() > 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_fused_attention_is_the_formula(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (3 * torch.randn(4, 2, 9, 5, dtype=dtype, generator=generator) for _ in range(3))
    for mask in (None, causal_mask(9, query)):
        expected, weight = attend_plainly(query, keys, values, mask)
        read, log_weight = attend(query, keys, values, mask)
        tolerance = 1e-12 if dtype is torch.float64 else 1e-5
        assert (read - expected).abs().max() < tolerance and (log_weight - weight).abs().max() < tolerance
