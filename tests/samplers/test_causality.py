"""A conditional depends on the patches before it, on all of them, and on nothing after."""

import pytest
import torch
from sampler_cases import CASES, build


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
