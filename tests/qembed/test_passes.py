"""Monte-Carlo passes, one after the other or as one batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qsr.hparams import ConfigError
from qsr.qembed import QuantumEmbeddings
from qsr.qembed.passes import sample_passes
from tests.qembed.test_layer import IDS, D, K, layer


class Network(nn.Module):
    """Two embeddings, one of them used twice; what they found is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.first = QuantumEmbeddings(11, D, K, seed=0, entanglement="custom")
        self.second = QuantumEmbeddings(11, D, K, seed=1)
        self.head = nn.Linear(3 * D, 2)
        self.outcomes: list[Tensor] = []

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        found = [self.first(ids, mask), self.second(ids, mask), self.first(ids.flip(1), mask)]
        self.outcomes.append(torch.stack([each.outcome for each in found], dim=1))
        return self.head(torch.cat([each.embeddings for each in found], dim=-1)).mean(dim=1)


BATCH = {"ids": IDS, "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])}


@pytest.mark.parametrize("chance", [1.0, 0.5, torch.tensor([[1.0], [0.5]]), torch.tensor([1.0, 0.0, 1.0, 0.5, 0.5])], ids=str)
def test_passes_in_one_batch_are_those_of_a_loop(chance: Any) -> None:
    model = Network().eval()
    for embedding in (model.first, model.second):
        embedding.set_collapse_probability(chance)
    expected = model(**BATCH)
    logits, outcomes = [], []
    for parallel in (False, True):
        model.outcomes.clear()
        found = sample_passes(model, lambda b: model(**b), BATCH, 6, parallel, torch.Generator().manual_seed(2))
        assert found.shape == (6, 2, 2) and len(model.outcomes) == (1 if parallel else 6)
        logits.append(found)
        outcomes.append(torch.cat(model.outcomes))
    assert torch.equal(*outcomes) and len(outcomes[0].unflatten(0, (6, 2)).unique(dim=0)) == 6
    assert torch.allclose(*logits, rtol=0, atol=1e-6)
    assert model.first.collapse_probability is chance and torch.equal(model(**BATCH), expected)  # and all is as before
    other = sample_passes(model, lambda b: model(**b), BATCH, 6, True, torch.Generator().manual_seed(3))
    assert not torch.allclose(other, logits[0], atol=1e-3)


def test_passes_follow_the_born_rule() -> None:
    model = layer().eval()
    model.set_collapse_probability(1.0)
    found = sample_passes(model, lambda b: model(b[0]).outcome, (IDS, "a name", torch.tensor(3)), 4000, parallel=True)
    share = nn.functional.one_hot(found, K).double().mean(dim=0)
    probs = model(IDS).probs
    assert bool(((share - probs).abs() < 4.5 * (probs * (1 - probs) / 4000).sqrt()).all())


def test_embeddings_are_put_back_where_a_pass_fails() -> None:
    model = Network()
    with pytest.raises(IndexError):
        sample_passes(model, lambda b: model(b, None), IDS + 9, 3)
    assert model.first.sample is None and model.second.generators == ()
    with pytest.raises(ConfigError, match="num_samples=0: must be at least 1"):
        sample_passes(model, lambda b: model(b, None), IDS, 0)


def test_generators_share_a_batch() -> None:
    model = layer()
    model.generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    before = torch.get_rng_state()
    drawn = model.draw_noise(4, 5)
    parts = [model.draw_noise(2, 5, torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    for whole, *halves in zip(drawn, *parts, strict=True):
        assert torch.equal(whole, torch.cat(halves))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ConfigError, match="generators: 2 of them cannot share a batch of 3 equally"):
        model.draw_noise(3, 5)
    model.sample = False
    assert torch.equal(model(IDS, collapse=True).outcome, model(IDS).probs.argmax(dim=-1))
