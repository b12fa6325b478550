"""Quantum embeddings as the tokens of samplers: causal, deterministic, and the same in whatever pieces they are read."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensor_memory import TensorMemory
from torch import Tensor

import qsr
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError
from qsr.lattice import Lattice
from qsr.qembed.settings import PatchEmbedding
from qsr.qembed.tokens import MAX_TABLE, PatchQEmbed
from qsr.runs import RunDirectory, same_history
from qsr.samplers import AutoregressiveSampler
from qsr.training import BatchKey
from qsr.training.per_sample import PerSampleGradients

STRATEGIES = ("none", "soft", "argmax")
CONTEXTS: dict[str, dict[str, Any]] = {
    "alone": {},
    "mean": {"context_encoder": "mean"},
    "rnn": {"context_encoder": "rnn"},
    "chain": {"entanglement": "bell_state", "entanglement_strength": 1.0},
    "mean-chain": {"context_encoder": "mean", "entanglement": "custom", "entanglement_strength": 5.0},
}
KINDS = ("rnn", "ptf", "lptf-rnn", "lptf-ptf")
SMALL = {"Nh": 8, "nhead": 2}


def sampler_of(kind: str, dtype: torch.dtype = torch.float64, **embedding: Any) -> AutoregressiveSampler:
    """On 2x4 sites with four or more tokens, and weights scaled so that the distribution is far from uniform."""
    embedding = {"K": 3, "temperature": 0.5, **embedding}
    inner: dict[str, Any] = {"patch": 1, "embedding": embedding}
    settings: Any = {
        "rnn": lambda: qsr.RNN(Nh=8, patch="1x2", embedding=embedding),
        "ptf": lambda: qsr.PTF(**SMALL, patch="1x2", embedding=embedding),
        "lptf-rnn": lambda: qsr.LPTF(**SMALL, patch="2x1", embedding=embedding, subsampler=qsr.RNN(**inner)),
        "lptf-ptf": lambda: qsr.LPTF(**SMALL, patch="2x1", embedding=embedding, subsampler=qsr.PTF(**SMALL, **inner)),
    }[kind]()
    model = settings.build(Lattice(2, 4)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model.eval()


def layer(sites: int = 2, width: int = 6, **settings: Any) -> PatchQEmbed:
    return PatchEmbedding(**{"K": 3, "temperature": 0.5, **settings}).build_tokens(sites, width).double()


def patches(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


every_kind = pytest.mark.parametrize("kind", KINDS)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_context = pytest.mark.parametrize("context", CONTEXTS)


# --- the layer --------------------------------------------------------------------------------------------------------


@every_strategy
@every_context
@pytest.mark.parametrize("form", [{}, {"readout": "born"}, {"readout": "real"}, {"factorization": "ketxs"}], ids=str)
def test_vectors_are_those_of_the_embedding_on_the_whole_sequence(strategy: str, context: str, form: dict[str, Any]) -> None:
    tokens = layer(strategy=strategy, **CONTEXTS[context], **form)
    values = patches(5, 7, 2)
    ids = torch.cat([torch.full((5, 1), 4), values[..., 0].long() + 2 * values[..., 1].long()], dim=1)
    expected = tokens.embedding(ids, collapse=strategy != "none", sample=False).embeddings
    vectors, state = tokens.begin(values)
    assert (vectors - expected).abs().max() < 1e-13
    assert expected.flatten(0, 1).std(dim=0).min() > 0.05
    # The same one by one, in twos and threes, and in branches from the middle.
    for widths in ((0, 1, 1, 1, 1, 1, 1, 1), (2, 3, 2), (5, 2)):
        found, state = tokens.begin(values[:, : widths[0]])
        read, parts = widths[0], [found]
        for width in widths[1:]:
            found, state = tokens.read(state, values[:, read : read + width])
            parts, read = [*parts, found], read + width
        assert (torch.cat(parts, dim=1) - expected).abs().max() < 1e-13
    _, state = tokens.begin(values)
    for length, rows in itertools.product(range(7), (slice(None), torch.tensor([3, 0, 3]))):
        after = None if state is None else state.branch(length, 2, rows)
        found, _ = tokens.read(after, values[rows, length:].repeat_interleave(2, dim=0))
        assert (found - expected[rows, length + 1 :].repeat_interleave(2, dim=0)).abs().max() < 1e-13


@pytest.mark.parametrize("form", [{}, {"factorization": "ketxs"}, {"factorization": "ketxs", "order": 2}], ids=str)
def test_each_patch_has_a_vector_of_its_own(form: dict[str, Any]) -> None:
    tokens = layer(sites=3, **form)
    every = configurations(3)  # bit i of the row's number is the state of site i
    vectors, _ = tokens.begin(every[:, None])
    assert torch.equal(vectors[0, 0], vectors[-1, 0]), "one start token"
    different = torch.cat([vectors[:, 1], vectors[:1, 0]])
    assert torch.pdist(different).min() > 0.1
    by_id = tokens.embedding(torch.arange(9)[None], collapse=True).embeddings[0]
    assert (different - by_id).abs().max() < 1e-13


def test_large_patches_are_products_over_their_sites() -> None:
    """20 sites: a table would have a million rows; flipping a site changes one factor."""
    tokens = layer(sites=20, factorization="ketxs", rank=2)
    table: Any = tokens.embedding.sense_real
    assert len(table.leaves) == 21 and all(leaf.shape[1] == 2 for leaf in table.leaves)
    assert sum(parameter.numel() for parameter in tokens.parameters()) < 2000
    values = patches(50, 1, 20)
    vectors, state = tokens.begin(values)
    assert state is None, "no table of all vectors"
    assert torch.pdist(vectors[:, 1]).min() > 0
    with torch.no_grad():
        table.leaves[-1][:, 1] = table.leaves[-1][:, 0]  # the last leaf is the lowest bit, the first site
    flipped = values.clone()
    flipped[..., 0] ^= 1
    assert torch.equal(*(table(tokens._ids(each)) for each in (values, flipped)))


def test_without_context_all_vectors_are_made_once() -> None:
    tokens = layer(sites=2)
    assert tokens.context_free and tokens.embedding.context_proj is None
    _, state = tokens.begin(patches(5, 7, 2))
    assert state is not None and state.vectors.shape == (5, 6)
    assert tokens.begin(patches(1, 3, 2))[1] is None, "fewer tokens than the table has rows"
    assert layer(sites=11).embedding.vocab_size > MAX_TABLE and layer(sites=11).begin(patches(99, 30, 11))[1] is None
    assert not layer(context_encoder="mean").context_free and not layer(entanglement="bell_state").context_free


def test_what_nothing_depends_on_is_not_trained() -> None:
    def frozen(**settings: Any) -> set[str]:
        named = layer(**settings).named_parameters()
        return {name.rpartition(".")[2] for name, parameter in named if not parameter.requires_grad}

    assert frozen(strategy="none") == frozen(strategy="soft", context_encoder="mean") == set()
    assert frozen(strategy="soft") == frozen(strategy="argmax") == {"phases"}
    assert frozen(strategy="none", K=1) == {"phases", "amplitude_logits"}
    assert frozen(strategy="none", entanglement="custom") == {"coupling_imag"}
    for settings in ({"strategy": "soft"}, {"strategy": "none", "K": 1}, {"strategy": "none", "entanglement": "custom"}):
        tokens = layer(**settings)
        before = tokens.begin(patches(3, 4, 2))[0]
        with torch.no_grad():
            for parameter in tokens.parameters():
                if not parameter.requires_grad:
                    parameter.add_(torch.rand_like(parameter))
        assert torch.allclose(tokens.begin(patches(3, 4, 2))[0], before, atol=1e-14)


@every_context
def test_bf16_does_not_touch_the_states(context: str) -> None:
    tokens = layer(**CONTEXTS[context]).float()
    values = patches(3, 4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, state = tokens.begin(values)
        after, _ = tokens.read(None if state is None else state.branch(4, 1, slice(None)), values[:, :1])
    expected, state = tokens.begin(values)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert torch.equal(after, tokens.read(None if state is None else state.branch(4, 1, slice(None)), values[:, :1])[0])


# --- samplers ---------------------------------------------------------------------------------------------------------


@every_kind
@every_strategy
@every_context
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
def test_log_probabilities_are_exact(kind: str, strategy: str, context: str, dtype: torch.dtype, tolerance: float) -> None:
    model = sampler_of(kind, dtype, strategy=strategy, **CONTEXTS[context])
    log_prob = model.log_prob(configurations(8)).detach()
    assert abs(log_prob.double().exp().sum().item() - 1) < tolerance
    assert log_prob.std() > 0.1
    assert torch.equal(model.train().log_prob(configurations(8)), log_prob), "training and evaluation agree"
    configs, drawn = model.sample(32, torch.Generator().manual_seed(1))
    assert (drawn - model.log_prob(configs)).abs().max() < tolerance


@every_kind
@every_strategy
@every_context
def test_conditionals_do_not_depend_on_later_patches(kind: str, strategy: str, context: str) -> None:
    """Not by a single bit."""
    model = sampler_of(kind, strategy=strategy, **CONTEXTS[context])
    configs = patches(16, 8)
    base = model.conditionals(configs)
    for token in range(model.num_tokens):
        changed = configs.clone()
        changed[:, model.token_sites[token]] ^= 1
        found = model.conditionals(changed)
        assert torch.equal(found[:, : token + 1], base[:, : token + 1])
        if token + 1 < model.num_tokens:
            assert not torch.equal(found[:, token + 1 :], base[:, token + 1 :])


@every_kind
@pytest.mark.parametrize("strategy", ["none", "soft"])
@every_context
def test_flips_are_those_of_full_evaluations(kind: str, strategy: str, context: str) -> None:
    model = sampler_of(kind, strategy=strategy, **CONTEXTS[context])
    configs = patches(6, 8)
    masks = torch.cat([torch.eye(8, dtype=torch.bool), patches(9, 8).bool()])
    for chosen, memory in itertools.product((None, masks), (1, 2**30)):
        expected = model.plain_flip_log_prob(configs, chosen).detach()
        assert (model.flip_log_prob(configs, chosen, memory_bytes=memory) - expected).abs().max() < 1e-10
    tokens = model.encode(configs)
    for window in [(1,), *model.windows()]:
        found = model.flip_log_ratio(configs, window=window)[1]
        for site in range(8):
            flipped = configs.clone()
            flipped[:, site] ^= 1
            (token,) = torch.nonzero((model.token_sites == site).any(dim=1)).flatten().tolist()
            places = [token, *(token + offset for offset in window if token + offset < model.num_tokens)]
            change = torch.zeros(6, dtype=torch.float64)
            for place, (sign, each) in itertools.product(places, ((1, flipped), (-1, configs))):
                read = (model.encode(each) if place == token else model.encode(flipped) if sign > 0 else tokens)[:, place]
                change += sign * model.conditionals(each)[:, place].gather(1, read[:, None]).squeeze(1).detach()
            assert (found[:, site] - change).abs().max() < 1e-10


@every_kind
@pytest.mark.parametrize("strategy", ["none", "soft"])
@every_context
def test_gradients_of_log_prob_are_those_of_differences(kind: str, strategy: str, context: str) -> None:
    model = sampler_of(kind, strategy=strategy, **CONTEXTS[context])
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad and "tokens" in name}
    configs = patches(3, 8)

    def log_prob(*values: Tensor) -> Tensor:
        replaced = dict(zip(named, values, strict=True))
        found: Tensor = torch.func.functional_call(
            _Log(model), {f"model.{name}": part for name, part in replaced.items()}, configs
        )
        return found

    assert torch.autograd.gradcheck(log_prob, tuple(named.values()), fast_mode=True)


class _Log(torch.nn.Module):
    def __init__(self, model: AutoregressiveSampler) -> None:
        super().__init__()
        self.model = model

    def forward(self, configs: Tensor) -> Tensor:
        return self.model.log_prob(configs)


@every_strategy
@every_context
def test_gradients_of_each_sample(strategy: str, context: str) -> None:
    """Also where a factor of the tables, a coupling or a measurement is a part inside the layer."""
    factored = {} if context == "alone" else {"factorization": "ketxs", "readout": "born"}
    model = sampler_of("lptf-rnn", strategy=strategy, **CONTEXTS[context], **factored)
    configs = patches(5, 8)
    gradients = PerSampleGradients(model, 2**28)
    found = torch.cat([block for _, block in gradients.blocks(configs, BatchKey(0, 0, 0))], dim=1)
    for row, config in zip(found, configs, strict=True):
        parts = torch.autograd.grad(model.log_prob(config[None]).sum(), gradients.parameters, materialize_grads=True)
        expected = torch.cat([part.flatten() for part in parts])
        assert (row - expected).abs().max() < 1e-10 * expected.abs().max()


@every_context
@pytest.mark.parametrize("form", [{}, {"readout": "born"}, {"factorization": "ketxs"}], ids=str)
def test_gradients_of_each_sample_take_what_is_counted(context: str, form: dict[str, Any]) -> None:
    model = qsr.PTF(Nh=32, nhead=4, embedding={"K": 4, **CONTEXTS[context], **form}).build(Lattice(8, 8))
    configs = patches(24, 64)
    gradients = PerSampleGradients(model, 2**34)
    everything = range(len(gradients.parameters))
    with TensorMemory() as memory:
        values, calls = gradients._record(model.log_prob, (configs,), everything)
        found = gradients._gradients(values, calls, everything)
    assert len(found) == len(everything)
    counted = model.gradient_bytes(per_sample=True) + 4 * gradients.num_parameters
    assert memory.peak / 24 < 1.1 * counted < 2 * memory.peak / 24


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "context_aware"}, r"collapse_strategy=context_aware: draws senses, .*use none, soft or argmax"),
        ({"strategy": "born"}, r"collapse_strategy=born: draws senses"),
        ({"context_encoder": "attention"}, r"context_encoder=attention: needs all earlier patches again"),
        ({"context_encoder": "conv"}, r"context_encoder=conv: needs all earlier patches again"),
        ({"context_encoder": "mean", "context_window": 2}, r"context_window=2: means nothing in a sampler"),
        ({"uncertainty_type": "purity"}, r"uncertainty_type=purity: means nothing in a sampler"),
        ({"entanglement": "bell_state", "entanglement_pairs": "all"}, r"entanglement_pairs=all: must be chain"),
        ({"K": 0}, r"num_states=0: must be at least 1"),
    ],
)
def test_what_has_no_exact_probabilities_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^qembed_tokens\.{message}"):
        PatchEmbedding(**settings)


def test_patches_and_widths_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"factorization=None: a patch of 18 sites has 2.18 values.*use factorization=ketxs"):
        qsr.LPTF(patch="6x3", embedding={}, subsampler=qsr.RNN(patch=1))
    assert qsr.LPTF(patch="6x3", embedding={"factorization": "ketxs"}, subsampler=qsr.RNN(patch=1)).token == "qembed"
    with pytest.raises(ConfigError, match=r"rnn\.Nh=7: must be even for qembed_tokens\.readout=concat"):
        qsr.RNN(Nh=7, embedding={})
    assert qsr.RNN(Nh=7, embedding=qsr.PatchEmbedding(readout="real")).build(Lattice(2, 2)).tokens.embedding.embedding_dim == 7
    with pytest.raises(ConfigError, match=r"ptf\.embedding: RNN makes no tokens; write --qembed"):
        qsr.PTF(embedding=qsr.RNN())


# --- runs -------------------------------------------------------------------------------------------------------------

MODELS = {
    "rnn": qsr.RNN(Nh=8, patch=1, embedding={"K": 2, "strategy": "none", "context_encoder": "mean"}),
    "ptf": qsr.PTF(**SMALL, patch="2x1", embedding={"K": 2}),
    "lptf": qsr.LPTF(
        **SMALL,
        patch="2x1",
        embedding={"K": 2, "factorization": "ketxs", "entanglement": "bell_state"},
        subsampler=qsr.PTF(**SMALL, patch=1, embedding={"K": 2, "context_encoder": "rnn"}),
    ),
}
TRAIN = {"K": 16, "steps": 8, "lr": 0.01}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", ["Adam", "spring"])
def test_runs_are_stored_loaded_and_resumed(name: str, optimizer: str, tmp_path: Path) -> None:
    array = qsr.Rydberg(Lx=2, Ly=2)
    train = {**TRAIN, "dir": str(tmp_path)}
    runs = [
        qsr.train(array, MODELS[name], train, optimizer={"name": optimizer}, checkpoint={"every_n_steps": 5}) for _ in range(2)
    ]
    whole, cut = (run.path or Path() for run in runs)
    stored = json.loads((whole / "settings.json").read_text())["model"]
    assert stored["embedding"]["type"] == "qembed_tokens" and stored["embedding"]["num_states"] == 2
    expected = runs[0].model.log_prob(configurations(4)).detach()
    assert torch.equal(qsr.load_model(whole).log_prob(configurations(4)), expected)
    # As after a kill in the last steps: the newest whole set is the checkpoint of step 5.
    shutil.rmtree(cut / "checkpoint" / "8")
    (cut / "weights.safetensors").unlink()
    assert torch.equal(qsr.resume(cut).model.log_prob(configurations(4)), expected)
    assert same_history(RunDirectory(whole).history, RunDirectory(cut).history)


def test_a_fresh_process_reads_the_model_from_its_directory(tmp_path: Path) -> None:
    run = qsr.train(qsr.Rydberg(Lx=2, Ly=2), MODELS["lptf"], {**TRAIN, "steps": 1, "dir": str(tmp_path)})
    program = "import qsr, sys; from qsr.hamiltonians import configurations\n"
    program += "print(qsr.load_model(sys.argv[1]).log_prob(configurations(4)).tolist())"
    found = subprocess.run([sys.executable, "-c", program, str(run.path)], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == run.model.log_prob(configurations(4)).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_weights_go_to_a_larger_lattice_and_to_another_network(name: str, tmp_path: Path) -> None:
    train = {**TRAIN, "dir": str(tmp_path)}
    small = qsr.train(qsr.Rydberg(Lx=2, Ly=2), MODELS[name], train)
    larger = qsr.finetune(small.path or "", {"steps": 0}, {"Lx": 4, "Ly": 2})
    before, after = small.model.state_dict(), larger.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "positions" not in key)
    taught = qsr.transfer(small.path or "", MODELS[name], {**train, "steps": 60, "K": 128})
    teacher, student = (run.model.log_prob(configurations(4)).detach() for run in (small, taught))
    assert 0 <= (teacher.exp() * (teacher - student)).sum() < 0.02
