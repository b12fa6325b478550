"""The layer at its edges: padding, causality, number formats, arguments, parameters and their roles."""

import copy
import io
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qsr.hparams import ConfigError
from qsr.qembed import EntanglementCorrelation, QEmbedOutput, QuantumEmbeddings
from qsr.qembed.functional import UNCERTAINTIES
from qsr.qembed.roles import ROLES
from qsr.qembed.tables import KroneckerTable, ceil_root

V, D, K = 11, 8, 3
IDS = torch.tensor([[1, 4, 2, 9, 4], [0, 3, 10, 5, 5]])
ENCODERS = ("mean", "attention", "conv", "rnn")


def layer(**settings: Any) -> QuantumEmbeddings:
    model = QuantumEmbeddings(**{"vocab_size": V, "embedding_dim": D, "num_states": K, "seed": 0, **settings}).double()
    with torch.no_grad():
        model.context_proj.weight.mul_(10)  # so that contexts matter
    return model


# --- padding and causality ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(encoder: str, causal: bool) -> None:
    model = layer(context_encoder=encoder, causal=causal, entanglement="bell_state", padding_idx=0).eval()
    short = model(IDS[:1], collapse=True)
    ids = torch.cat([IDS[:1], torch.tensor([[0, 7, 0]])], dim=1)
    padded = model(ids, torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]]) * (ids != 7), collapse=True)
    assert padded.mask.tolist() == [5 * [True] + 3 * [False]]
    for name in ("embeddings", "uncertainty", "probs", "amplitudes", "coherence", "outcome"):
        assert torch.allclose(getattr(padded, name)[:, :5], getattr(short, name), rtol=0, atol=1e-12), name
        if name != "outcome":
            assert getattr(padded, name)[:, 5:].abs().max().item() == 0
    assert padded.outcome[0, 5:].tolist() == 3 * [-1] and not bool(padded.collapse_mask[:, 5:].any())
    assert torch.allclose(padded.log_prob_outcome, short.log_prob_outcome, rtol=0, atol=1e-12)
    assert padded.entanglement is not None and short.entanglement is not None
    assert torch.allclose(padded.entanglement[:, :4], short.entanglement) and padded.entanglement[:, 4:].abs().max() == 0


@pytest.mark.parametrize(
    ("encoder", "window"), [*((encoder, None) for encoder in ENCODERS), ("mean", 1), ("attention", 1), ("conv", 1)]
)
@pytest.mark.parametrize("coupling", [None, "bell_state", "ghz_state", "custom"])
def test_nothing_depends_on_later_tokens_if_causal(encoder: str, coupling: str | None, window: int | None) -> None:
    settings = {"context_encoder": encoder, "entanglement": coupling, "context_window": window, "entanglement_strength": 1.0}
    noise = layer().draw_noise(2, 5)
    for t in range(1, 5):
        changed = IDS.clone()
        changed[:, t] = (changed[:, t] + 3) % V
        for p in (0.0, 0.5, 1.0):
            first, second = (layer(causal=True, **settings)(ids, collapse_probability=p, noise=noise) for ids in (IDS, changed))
            for name in ("embeddings", "probs", "outcome", "uncertainty", "coherence"):
                assert torch.equal(getattr(first, name)[:, :t], getattr(second, name)[:, :t]), name
            if first.entanglement is not None and second.entanglement is not None:
                assert torch.equal(first.entanglement[:, : t - 1], second.entanglement[:, : t - 1])
            assert not torch.equal(first.embeddings[:, t], second.embeddings[:, t])
    changed = IDS.clone()
    changed[:, 4] = 6
    both = [layer(causal=False, **settings)(ids).probs[:, 3] for ids in (IDS, changed)]
    assert not torch.allclose(*both, atol=1e-6)  # otherwise the comparison above would say nothing


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_token_is_no_context_of_its_own(encoder: str) -> None:
    model = layer(context_encoder=encoder)
    context = torch.randn(1, 5, D, dtype=torch.float64).requires_grad_()
    everywhere = torch.ones(1, 5, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(model.context_encoder(context, everywhere)[0, 2].sum(), context)
    if encoder == "attention":  # it asks, but is not answered by itself
        alone = torch.zeros(1, 5, D, dtype=torch.float64).index_fill(1, torch.tensor([2]), 1.0)
        assert model.context_encoder(alone, everywhere)[0, 2].abs().max().item() < 1e-12
    else:
        assert gradient[0, 2].abs().max().item() < 1e-12
    assert gradient[0, 1].abs().max().item() > 0 and gradient[0, 3].abs().max().item() > 0


def test_windows_reach_as_far_as_they_say() -> None:
    for encoder in ("mean", "attention", "conv"):
        model = layer(context_encoder=encoder, context_window=2)
        context = torch.randn(1, 9, D, dtype=torch.float64).requires_grad_()
        found = model.context_encoder(context, torch.ones(1, 9, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(found[0, 4].sum(), context)
        reached = gradient[0].abs().amax(dim=-1) > 1e-12
        expected = [False, False, True, True, encoder == "attention", True, True, False, False]
        assert reached.tolist() == expected, encoder
    mean = layer(context_window=1).context_encoder(context, torch.ones(1, 9, dtype=torch.bool))
    assert torch.allclose(mean[0, 4], 0.5 * (context[0, 3] + context[0, 5])) and torch.allclose(mean[0, 0], context[0, 1])


# --- edges ----------------------------------------------------------------------------------------------------------


def finite(found: QEmbedOutput) -> bool:
    tensors = [found.embeddings, found.uncertainty, found.probs, found.coherence, found.log_prob_outcome]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@pytest.mark.parametrize("kind", UNCERTAINTIES)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("coupling", [None, "custom"])
def test_small_batches_and_rows_without_tokens(encoder: str, coupling: str | None, kind: str) -> None:
    model = layer(context_encoder=encoder, entanglement=coupling, uncertainty_type=kind)
    for ids in (IDS[:1], IDS[:, :1], IDS[:1, :1], IDS[:0], IDS[:, ::2], IDS.T.contiguous().T):
        found = model(ids, collapse_probability=0.5)
        assert found.embeddings.shape == (*ids.shape, D) and finite(found)
    model.zero_grad()
    found = model(IDS, torch.tensor([5 * [1], 5 * [0]]), collapse_probability=0.5)
    assert finite(found) and found.embeddings[1].abs().max().item() == 0 and found.log_prob_outcome[1].item() == 0
    (found.embeddings.sum() + found.uncertainty.sum() + found.log_prob_outcome.sum()).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_ids_of_every_integer_type() -> None:
    expected = layer()(IDS).embeddings
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(layer()(IDS.to(dtype)).embeddings, expected)


def test_one_sense_is_a_table() -> None:
    for coupling in (None, "bell_state"):
        model = layer(num_states=1, entanglement=coupling)
        table = model(torch.arange(V)[None], collapse=False).embeddings[0]
        for p in (0.0, 0.4, 1.0):
            found = model(IDS, collapse_probability=p)
            assert torch.allclose(found.embeddings, table[IDS], rtol=0, atol=1e-12)
            assert found.uncertainty.abs().max().item() == 0 and found.coherence.abs().max().item() == 0
            assert found.log_prob_outcome.abs().max().item() == pytest.approx(0.0, abs=1e-12)
        assert table.norm(dim=-1).tolist() == pytest.approx(V * [math.sqrt(D / 2)])


def test_autocast_does_not_reach_the_amplitudes() -> None:
    model = QuantumEmbeddings(V, D, K, seed=0, entanglement="custom", context_encoder="attention").eval()
    expected = model(IDS, collapse_probability=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(IDS, collapse_probability=0.5)
    assert found.amplitudes.dtype == torch.complex64 and torch.equal(found.embeddings, expected.embeddings)
    half = copy.deepcopy(model).bfloat16()(IDS, collapse_probability=0.5)
    assert half.embeddings.dtype == torch.bfloat16 and half.probs.dtype == torch.float32
    assert torch.allclose(half.probs.sum(dim=-1), torch.ones(2, 5), rtol=0, atol=1e-6)
    assert torch.allclose(half.embeddings.float(), expected.embeddings, atol=0.1)


def test_the_seed_decides_the_parameters_and_nothing_else() -> None:
    before = torch.get_rng_state()
    first, second, third = (QuantumEmbeddings(V, D, K, seed=s, readout="born", entanglement="custom") for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.linear.weight, third.linear.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": None}, "vocab_size: missing"),
        ({"embedding_dim": 0}, "embedding_dim=0: must be at least 1"),
        ({"num_states": 0}, "num_states=0"),
        ({"superposition_strength": 1.2}, "superposition_strength=1.2: must be between 0 and 1"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"embedding_dim": 7}, "embedding_dim=7: must be even for readout='concat'"),
        ({"readout": "sum"}, "readout='sum': must be one of concat, born, real"),
        ({"context_encoder": "atention"}, "context_encoder='atention': .*did you mean 'attention'"),
        ({"context_window": 0}, "context_window=0"),
        ({"context_window": 2, "context_encoder": "rnn"}, "context_window=2: context_encoder='rnn' reads everything"),
        ({"uncertainty_type": "x"}, "uncertainty_type='x'"),
        ({"collapse_strategy": "hard"}, "collapse_strategy='hard': must be one of context_aware, born, soft, argmax, none"),
        ({"padding_idx": V}, "padding_idx=11: must be between 0 and vocab_size - 1 = 10"),
        ({"num_measurements": 9}, "num_measurements=9: is for readout='born'"),
        ({"num_measurements": 3, "readout": "born"}, "num_measurements=3: must be at least the 4 dimensions"),
        ({"factorization": "svd"}, "factorization='svd'"),
        ({"factorization": "ketxs", "rank": 0}, "rank=0: must be at least 1"),
        ({"factorization": "ketxs", "order": 0}, "order=0: must be at least 1"),
        ({"order": 3}, "order=3: is for factorization='ketxs'"),
        ({"entanglement": "w_state"}, "correlation_type='w_state'"),
        ({"entanglement": EntanglementCorrelation(2)}, "entanglement: has num_states=2; the embedding has 3"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        layer(**settings)
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)


def test_inputs_that_are_refused() -> None:
    model = layer()
    with pytest.raises(IndexError, match="input_ids: lie between 0 and 11; the vocabulary has vocab_size=11"):
        model(torch.tensor([[0, 11]]))
    with pytest.raises(IndexError, match="between -1 and 2"):
        model(torch.tensor([[-1, 2]]))
    with pytest.raises(TypeError, match=r"input_ids: must be integers, found torch\.float32"):
        model(IDS.float())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"input_ids": IDS[0]}, r"input_ids: must be \(B, L\)"),
        ({"attention_mask": torch.ones(2, 4)}, r"attention_mask: must be \(B, L\) = \(2, 5\), found \(2, 4\)"),
        ({"attention_mask": torch.full((2, 5), -1e4)}, "attention_mask: must hold 0"),
        ({"context": torch.zeros(2, 5, 3)}, r"context: must be \(B, L, D\) = \(2, 5, 8\)"),
        ({"collapse_probability": 1.5}, "collapse_probability=1.5"),
        ({"collapse_probability": torch.tensor([0.1, -0.1, 0, 0, 0])}, "collapse_probability: must be between 0 and 1 in every"),
        ({"collapse_probability": torch.zeros(2)}, r"collapse_probability: must fit the shape \(2, 5\), found \(2,\)"),
        ({"noise": (torch.zeros(2, 5), torch.zeros(2, 4))}, r"noise: must fit the shape \(2, 5\), found \(2, 4\)"),
        ({"collapse": True, "collapse_probability": 0.5}, "collapse: stands for"),
    ]
    for arguments, message in cases:
        with pytest.raises(ConfigError, match=message):
            model(**{"input_ids": IDS, **arguments})
    with pytest.raises(ConfigError, match=r"collapse_probability=nan"):
        model.set_collapse_probability(math.nan)


# --- parameters -----------------------------------------------------------------------------------------------------


def test_the_number_of_parameters() -> None:
    assert sum(p.numel() for p in layer().parameters()) == V * K * (2 + D) + D**2 + 1
    config = SimpleNamespace(vocab_size=20, hidden_size=6)
    assert QuantumEmbeddings(config=config).sense_real.shape == (20, 4, 3)
    ket = layer(vocab_size=16, factorization="ketxs", rank=2, order=4)
    leaves = 2 * 4 * 2 * (2 * 2 + 2 * 2)  # rank, order, v = 2, widths ceil(3^(1/4)) twice and ceil(12^(1/4)) twice
    assert sum(p.numel() for p in ket.parameters()) == leaves + D**2 + 1


class Largest(TorchDispatchMode):
    """The largest tensor that operations make."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_a_factorised_table_is_a_sum_of_kronecker_products_and_never_made_whole() -> None:
    for rows, columns, order in ((16, 8, 4), (10, 7, 2), (30, 12, 3), (5, 3, 1)):
        table = KroneckerTable(rows, columns, 3, order, 1.0).double()
        whole = torch.zeros(table.base**order, ceil_root(columns, order) ** order, dtype=torch.float64)
        for r in range(3):
            product = torch.ones(1, 1, dtype=torch.float64)
            for leaf in table.leaves:
                product = torch.kron(product, leaf[r])
            whole += product
        ids = torch.randint(0, rows, (4, 3))
        assert torch.allclose(table(ids), whole[ids, :columns], rtol=0, atol=1e-12)
    model = QuantumEmbeddings(2**16, 64, 4, factorization="ketxs", order=16, seed=0)
    with Largest() as largest:
        found = model(torch.tensor([[0, 5, 2**16 - 1]]), collapse=True)
        found.embeddings.sum().backward()
    assert largest.size < 20000  # the table has 2^16 * 256 elements
    values = KroneckerTable(4096, 16, 4, 3, 0.7)(torch.arange(4096))
    assert values.std().item() == pytest.approx(0.7, rel=0.4)
    assert [ceil_root(2**16, 16), ceil_root(125, 3), ceil_root(126, 3), ceil_root(1, 2)] == [2, 5, 6, 1]


@pytest.mark.parametrize("factorization", [None, "ketxs"])
def test_parameters_know_their_role_after_copies_and_loading(factorization: str | None) -> None:
    model = layer(readout="born", entanglement="custom", context_encoder="rnn", factorization=factorization)

    def roles(module: torch.nn.Module) -> dict[str, str]:
        return {name: getattr(p, "_qrole", "classical") for name, p in module.named_parameters()}

    expected = roles(model)
    classical = {name for name, role in expected.items() if role == "classical"}
    assert classical == {"output_scale", "linear.weight", "linear.bias"} and set(expected.values()) == {*ROLES, "classical"}
    assert roles(copy.deepcopy(model)) == expected
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert roles(torch.load(file, weights_only=False)) == expected
    other = torch.nn.Sequential(layer(readout="born", entanglement="custom", context_encoder="rnn", factorization=factorization))
    other.load_state_dict({f"0.{name}": value.clone() for name, value in model.state_dict().items()}, assign=True)
    assert roles(other[0]) == expected
