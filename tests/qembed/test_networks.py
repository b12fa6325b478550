"""Networks on quantum embeddings: what padding, a plain embedding and a single sense must make of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qsr.qembed import QuantumEmbeddings
from qsr.qembed.networks import QEmbedModelOutput, QuantumDenoiser, QuantumMaskedLM, QuantumSequenceClassifier

SITES = torch.tensor([[0, 1, 3, 4], [2, 5, 8, 7], [6, 9, 10, 11]])  # no order at all


def classifier(**settings: object) -> QuantumSequenceClassifier:
    return QuantumSequenceClassifier(9, 3, 8, **settings).double().eval()


def denoiser(**settings: object) -> QuantumDenoiser:
    return QuantumDenoiser(18, SITES, 8, **settings).double().eval()


def masked_lm(**settings: object) -> QuantumMaskedLM:
    return QuantumMaskedLM(9, 8, **settings).double().eval()


NETWORKS: list[Callable[..., torch.nn.Module]] = [classifier, masked_lm, denoiser]


def padded(ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
    rest = (0, length - ids.shape[1])
    return F.pad(ids, rest, value=1), F.pad(torch.ones_like(ids), rest)


@pytest.mark.parametrize("embedding", ["qembed", "plain"])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_padding_changes_nothing(embedding: str, probability: float) -> None:
    entangled = {"entanglement": "bell_state"} if embedding == "qembed" else {}
    network = classifier(embedding=embedding, num_layers=2, **entangled)
    ids = torch.randint(9, (5, 4))
    longer, mask = padded(ids, 7)
    found = network(longer, mask, collapse_probability=probability)
    alone = network(ids, collapse_probability=probability)
    torch.testing.assert_close(found.logits, alone.logits, rtol=0, atol=1e-12)
    assert not found.hidden_states[:, 4:].any() and torch.equal(found.mask, mask.bool())


def test_the_mean_over_tokens_is_what_the_head_reads() -> None:
    network = classifier()
    longer, mask = padded(torch.randint(9, (5, 4)), 7)
    found = network(longer, mask)
    expected = network.head(found.hidden_states[:, :4].mean(dim=1))
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("embedding", ["qembed", "plain"])
def test_a_row_without_tokens_is_finite_and_leaves_the_others_alone(make: Callable[..., torch.nn.Module], embedding: str) -> None:
    network = make(embedding=embedding)
    ids = torch.randint(9, (3, 3))
    mask = torch.ones_like(ids)
    mask[1] = 0
    found = network(ids, mask)
    assert not found.hidden_states[1].any()
    found.logits.square().sum().backward()
    assert all(parameter.grad is None or bool(parameter.grad.isfinite().all()) for parameter in network.parameters())
    with torch.no_grad():  # torch computes in another way then
        assert bool(network(ids, mask).logits.isfinite().all())
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(found.logits[kept], network(ids[kept]).logits, rtol=0, atol=1e-12)


def test_the_plain_network_differs_by_its_table_alone() -> None:
    quantum, plain = classifier(), classifier(embedding="plain")
    vocab, dim, states = 9, 8, 4
    tables = vocab * states * (2 + dim) + dim**2 + 1

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(quantum) - count(plain) == tables - vocab * dim
    assert count(plain) == vocab * dim + 512 * dim + _layer(dim) + 2 * dim + 3 * (dim + 1)
    own = {name: tuple(part.shape) for name, part in quantum.state_dict().items() if not name.startswith("embedding.")}
    assert own == {n: tuple(part.shape) for n, part in plain.state_dict().items() if not n.startswith("embedding.")}
    found = plain(torch.randint(9, (2, 5)), collapse_probability=0.5)
    nothing = ("uncertainty", "superposition_coherence", "bonds", "entanglement", "collapse_probs", "outcome", "embedding")
    assert all(found[name] is None for name in nothing)


def _layer(dim: int) -> int:
    attention = 4 * dim * (dim + 1)
    return attention + 4 * dim * (dim + 1) + dim * (4 * dim + 1) + 4 * dim


def test_one_sense_is_an_embedding() -> None:
    quantum, plain = classifier(num_states=1), classifier(embedding="plain", num_states=1)
    with torch.no_grad():
        table = quantum.embedding(torch.arange(9)[None]).embeddings[0]
        plain.embedding.weight.copy_(table)
        rest = {name: part for name, part in quantum.state_dict().items() if not name.startswith("embedding.")}
        plain.load_state_dict(rest, strict=False)
    ids = torch.randint(9, (6, 5))
    for probability in (0.0, 0.3, 1.0):
        found = quantum.train()(ids, collapse_probability=probability)
        torch.testing.assert_close(found.logits, plain(ids).logits, rtol=0, atol=1e-12)
        assert found.uncertainty is not None and not found.uncertainty.any()


def test_an_output_is_read_by_attribute_and_by_name() -> None:
    network = classifier(entanglement="bell_state")
    ids = torch.randint(9, (4, 5))
    found = network(ids, collapse_probability=1.0)
    assert isinstance(found, QEmbedModelOutput) and found.loss is None
    embedded = found.embedding
    assert embedded is not None
    pairs = {"uncertainty": embedded.uncertainty, "quantum_uncertainty": embedded.uncertainty, "outcome": embedded.outcome}
    pairs |= {"collapse_probs": embedded.probs, "superposition_coherence": embedded.coherence, "bonds": embedded.bonds}
    assert all(found[name] is expected for name, expected in pairs.items())
    assert found["entanglement"].shape == (4, 4) and torch.equal(found.entanglement, embedded.bonds.measure())
    assert dict(found).keys() == set(found.NAMES) and found.get("nothing") is None and "nothing" not in found
    with pytest.raises(KeyError):
        found["nothing"]


def test_losses_of_labels() -> None:
    ids = torch.randint(8, (4, 3))
    labels = torch.tensor([2, 0, 1, 1])
    found = classifier()(ids, labels=labels)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits, labels))
    masked = torch.full((4, 3), -100)
    network = masked_lm(num_outputs=8)
    assert network(ids, labels=masked).loss == 0 and network(ids).logits.shape == (4, 3, 8)
    masked[1, 2] = 5
    found = network(ids, labels=masked)
    torch.testing.assert_close(found.loss, -found.logits[1, 2].log_softmax(-1)[5])
    states = torch.randint(2, (4, 12))
    found = denoiser()(ids, labels=states)
    expected = -(states * found.logits.sigmoid().log() + (1 - states) * (-found.logits).sigmoid().log()).mean()
    torch.testing.assert_close(found.loss, expected)


def test_sites_of_a_denoiser_are_those_of_its_patches() -> None:
    network = denoiser(num_layers=0)
    ids = torch.randint(16, (6, 3))
    found = network(ids)
    by_patch = network.head(found.hidden_states)  # (B, L, p)
    for token, sites in enumerate(SITES):
        torch.testing.assert_close(found.logits[:, sites], by_patch[:, token], rtol=0, atol=0)


def test_one_collapsed_token_is_all_that_a_position_without_layers_reads() -> None:
    network = classifier(pooling=2, num_layers=0, num_states=2)
    with torch.no_grad():
        network.embedding.context_proj.weight.mul_(100)  # the context decides
    ids = torch.randint(9, (64, 5))
    ids[:, 2] = 4
    found = network(ids, collapse_probability=1.0)
    _, _, senses = network.embedding.rows(torch.tensor(4))
    expected = network.head(network.embedding.output_scale * senses + network.positions[2])  # (K, C)
    torch.testing.assert_close(found.logits, expected[found.outcome[:, 2]], rtol=0, atol=1e-12)
    assert found.outcome[:, 2].unique().tolist() == [0, 1]
    others = ids.clone()
    others[:, [0, 1, 3, 4]] = 3
    plain = classifier(pooling=2, num_layers=0, embedding="plain")
    torch.testing.assert_close(plain(ids).logits, plain(others).logits, rtol=0, atol=0)


def test_given_noise_decides_what_collapses() -> None:
    network = classifier(dropout=0.1)
    ids = torch.randint(9, (4, 5))
    noise = network.embedding.draw_noise(4, 5, torch.Generator().manual_seed(1))
    first, again = (network(ids, collapse_probability=0.5, noise=noise, sample=True) for _ in range(2))
    torch.testing.assert_close(first.logits, again.logits, rtol=0, atol=0)
    assert torch.equal(first.embedding.collapse_mask, noise[0] < 0.5)
    assert not torch.equal(first.logits, network(ids, collapse_probability=0.5).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding": "dense"}, "embedding='dense'"),
        ({"num_layers": -1}, "num_layers=-1: must be at least 0"),
        ({"nhead": 3}, "nhead=3: must divide embedding_dim=8"),
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0"),
        ({"pooling": "last"}, "pooling='last': must be 'mean', 'first' or a position"),
        ({"pooling": 512}, "pooling=512: must be a position from 0 to 511"),
        ({"embedding": "plain", "temperature": 1.0}, "temperature: means nothing for embedding='plain'"),
        ({"temperature": 0.0}, "temperature=0.0: must be a finite number above 0"),
    ],
)
def test_settings_out_of_bounds_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.split(":")[0]) as found:
        classifier(**settings)
    assert message in str(found.value)


def test_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="num_outputs=10: must be between 1 and vocab_size=9"):
        masked_lm(num_outputs=10)
    with pytest.raises(ValueError, match="token_sites: must be"):
        QuantumDenoiser(18, SITES + 1, 8)
    with pytest.raises(ValueError, match="input_ids: 5 tokens; the network has positions for max_len=4"):
        classifier(max_len=4)(torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="pooling=3: the input has 3 tokens"):
        classifier(pooling=3)(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="input_ids: 2 tokens; the configurations have 3 patches"):
        denoiser()(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="context: means nothing"):
        classifier(embedding="plain")(torch.zeros(2, 3, dtype=torch.long), context=torch.zeros(2, 3, 8))
    with pytest.raises(IndexError, match="vocab_size=9"):
        classifier(embedding="plain")(torch.full((2, 3), 9))


def test_the_settings_reach_the_embedding() -> None:
    network = classifier(collapse_strategy="born", padding_idx=1, seed=3)
    embedding = network.embedding
    assert isinstance(embedding, QuantumEmbeddings)
    assert embedding.collapse_strategy == "born" and embedding.padding_idx == 1
    ids = torch.tensor([[0, 1, 2]])
    for one in (network, classifier(embedding="plain", padding_idx=1)):
        assert one(ids).mask.tolist() == [[True, False, True]]
