"""Settings that save memory or time: they do something, and results stay what they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qsr.hparams import ConfigError
from qsr.qembed import EntanglementCorrelation, QuantumEmbeddings
from qsr.qembed.functional import UNCERTAINTIES
from tests.qembed.test_layer import ENCODERS, IDS, D, K, Largest, layer

RESULTS = ("embeddings", "uncertainty", "residual_uncertainty", "probs", "coherence", "log_prob_outcome")


class Operations(TorchDispatchMode):
    """How many operations there were, and the formats of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.dtypes = 0, set[torch.dtype]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += 1
        self.dtypes |= {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


def saved_bytes(model: nn.Module, run: Callable[[], Tensor]) -> int:
    """Memory that is kept for the backward pass besides the parameters, whatever it is kept for."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # tensors stay alive, so that no memory is used twice

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in parameters)


def gradients(model: nn.Module, run: Callable[[], Tensor]) -> Tensor:
    model.zero_grad()
    run().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def total(model: QuantumEmbeddings, **arguments: Any) -> Tensor:
    """A number that depends on everything that has a gradient."""
    found = model(IDS, **arguments)
    entangled = 0.0 if found.entanglement is None else found.entanglement.sum()
    return sum((getattr(found, name).cos().sum() for name in RESULTS), start=found.amplitudes.real.sum()) + entangled


# --- memory_efficient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        *({"uncertainty_type": kind} for kind in UNCERTAINTIES),
        *({"context_encoder": encoder, "causal": True} for encoder in ENCODERS),
        *({"collapse_strategy": strategy} for strategy in ("born", "soft", "argmax")),
        {"readout": "real", "num_states": 1},
        {"readout": "born", "entanglement": "custom"},
        {"factorization": "ketxs", "entanglement": "bell_state", "padding_idx": 4},
    ],
    ids=str,
)
def test_senses_of_different_tokens_give_the_results_of_all(settings: dict[str, Any]) -> None:
    plain, efficient = layer(**settings), layer(**settings)
    efficient.memory_efficient = True
    noise = plain.draw_noise(*IDS.shape)
    for p in (0.0, 0.5, 1.0):
        first, second = (model(IDS, collapse_probability=p, noise=noise) for model in (plain, efficient))
        assert torch.equal(first.outcome, second.outcome)
        for name in RESULTS:
            assert torch.allclose(getattr(first, name), getattr(second, name), rtol=0, atol=1e-12), name
        both = [gradients(m, lambda m=m, p=p: total(m, collapse_probability=p, noise=noise)) for m in (plain, efficient)]
        assert torch.allclose(*both, rtol=1e-10, atol=1e-12) and bool(both[0].any())


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_memory_of_a_large_batch(p: float) -> None:
    """Nothing of size B L K 2C is made, forwards or backwards; less than a third is kept; single precision holds."""
    shape, states, width = (64, 64), 8, 128
    model = QuantumEmbeddings(200, width, states, seed=0)
    ids, noise = torch.randint(200, shape), model.draw_noise(*shape)

    def run() -> Tensor:
        return model(ids, collapse_probability=p, noise=noise).embeddings.sum()

    kept, found, largest = [], [], []
    for model.memory_efficient in (False, True):
        kept.append(saved_bytes(model, run))
        with Largest() as mode:
            found.append(gradients(model, run))
        largest.append(mode.size)
    assert kept[1] < kept[0] / 3
    assert largest[0] >= 4096 * states * width and largest[1] <= 4096 * 2 * width
    assert torch.allclose(*found, rtol=0, atol=1e-6 * found[0].abs().max().item())


# --- checkpointing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("efficient", [False, True])
def test_a_layer_that_is_computed_again_has_the_same_gradient(efficient: bool) -> None:
    model = layer(entanglement="custom", dropout=0.3)
    model.memory_efficient = efficient

    def run() -> Tensor:
        torch.manual_seed(3)
        model.generators = [torch.Generator().manual_seed(4)]  # would draw anew inside
        return total(model, collapse_probability=0.5)

    found, kept, random = [], [], []
    for model.gradient_checkpointing in (False, True):
        found.append(gradients(model, run))
        random.append(torch.get_rng_state())
        kept.append(saved_bytes(model, lambda: model(IDS, collapse_probability=0.5).embeddings))
    assert torch.equal(*found) and torch.equal(*random)
    assert kept[0] > 0 and kept[1] < kept[0] / 4


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = QuantumEmbeddings(11, D, K, seed=0, dropout=0.1)
        block = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2)
        self.head = nn.Linear(D, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids, collapse_probability=0.5).embeddings).mean(dim=1))


def loss(model: nn.Module) -> Tensor:
    torch.manual_seed(5)
    return nn.functional.cross_entropy(model(IDS), torch.tensor([0, 2]))


# --- layouts and draws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bell_state", "custom"])
@pytest.mark.parametrize("pairs", ["all", "grid:2x3", torch.tensor([[0, 4], [1, 2], [0, 4]])], ids=["all", "grid", "given"])
def test_dense_and_sparse_bonds_are_the_same(kind: str, pairs: str | Tensor) -> None:
    couplings = EntanglementCorrelation(K, kind, 1.0, pairs).double()  # one of the given pairs stands there twice
    log_probs = torch.log_softmax(torch.randn(2, 6, K, dtype=torch.float64), dim=-1).requires_grad_()
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    leaves = (log_probs, *couplings.parameters())
    matrices, found, largest = [], [], []
    for couplings.layout in ("sparse", "dense"):
        with Largest() as mode:
            bonds = couplings(log_probs, mask).bonds
        assert bonds is not None
        matrices.append(bonds.matrices)
        found.append(torch.autograd.grad(bonds.measure("negativity").sum() + bonds.matrices.abs().sum(), leaves))
        largest.append(mode.size)
    assert torch.allclose(*matrices, rtol=0, atol=1e-14)
    assert all(torch.allclose(*both, rtol=0, atol=1e-12) for both in zip(*found, strict=True))
    parts = 2 if kind == "custom" else 1
    assert largest[0] <= parts * matrices[0].numel() and largest[1] >= 2 * 6 * 6 * K * K
    couplings.layout = "padded"
    with pytest.raises(ConfigError, match="layout='padded': must be one of sparse, dense"):
        couplings(log_probs)


@pytest.mark.parametrize("settings", [{}, {"entanglement": "custom"}, {"entanglement": "ghz_state", "causal": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_one_after_the_other_find_the_same(settings: dict[str, Any], dtype: torch.dtype) -> None:
    model = layer(entanglement_strength=1.0, **settings).to(dtype)
    ids = torch.randint(11, (150, 7))
    mask = torch.rand(150, 7) < 0.9
    noise = model.draw_noise(*ids.shape)
    outcomes, counts = [], []
    for model.drawing in ("batched", "sequential"):
        with Operations() as operations, torch.no_grad():
            outcomes.append(model(ids, mask, collapse_probability=0.8, noise=noise).outcome)
        counts.append(operations.count)
        assert model(ids[:0], collapse=True).outcome.shape == (0, 7)
    assert torch.equal(*outcomes) and outcomes[0].unique().tolist() == [-1, *range(K)]
    assert counts[1] > counts[0] + 150 * 7
    model.drawing = "serial"
    with pytest.raises(ConfigError, match="drawing='serial': must be one of batched, sequential"):
        model(ids, collapse=True)


# --- mixed precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_autocast_leaves_the_quantum_block_in_single_precision(efficient: bool, kind: str) -> None:
    model = Classifier()
    model.embedding = QuantumEmbeddings(11, D, K, seed=0, entanglement="custom", uncertainty_type=kind)
    model.embedding.memory_efficient = efficient
    full = loss(model.eval())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(model)
        with Operations() as inside:
            found = model.embedding(IDS, collapse_probability=0.5, sample=True)
        with Operations() as outside:
            model(IDS)
    assert torch.bfloat16 in outside.dtypes and torch.bfloat16 not in inside.dtypes and torch.complex64 in inside.dtypes
    assert found.embeddings.dtype == torch.float32
    assert bool(torch.isfinite(found.uncertainty).all()) and bool(torch.isfinite(found.entanglement).all())
    assert half.item() != full.item() and half.item() == pytest.approx(full.item(), rel=0.02)
    gradient = gradients(model, lambda: half)
    assert bool(torch.isfinite(gradient).all()) and bool(gradient.any())
