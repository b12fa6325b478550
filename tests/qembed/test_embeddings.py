"""The layer: Bayes' rule, collapse, what is random and what is not, statistics."""

import math

import pytest
import torch
from torch import Tensor

from qsr.qembed import COLLAPSE_STRATEGIES, QEmbedOutput, QuantumEmbeddings
from qsr.qembed.context import MeanContext
from qsr.qembed.functional import UNCERTAINTIES, fidelity, shannon_uncertainty, uncertainty

V, D, K = 11, 8, 3
IDS = torch.tensor([[1, 4, 2, 9, 4], [0, 3, 10, 5, 5]])


def layer(**settings: object) -> QuantumEmbeddings:
    given = {"vocab_size": V, "embedding_dim": D, "num_states": K, "seed": 0, **settings}
    return QuantumEmbeddings(**given).double()  # type: ignore[arg-type]


def senses_of(model: QuantumEmbeddings, ids: Tensor = IDS) -> Tensor:
    """(B, L, K, C) complex."""
    real, imag = model.rows(ids)[2].split(model.sense_dim, dim=-1)
    return torch.complex(real, imag)


# --- the state of a token -------------------------------------------------------------------------------------------


def test_the_layer_is_its_formulas() -> None:
    model = layer(temperature=0.4)
    with torch.no_grad():
        model.context_proj.weight.mul_(8)
    found = model(IDS, collapse=False)
    p = torch.softmax(model.amplitude_logits[IDS], dim=-1)
    phase = model.phases[IDS]
    s = torch.complex(model.sense_real[IDS], model.sense_imag[IDS])
    s = s / s.norm(dim=-1, keepdim=True)
    superposed = (torch.polar(p.sqrt(), phase)[..., None] * s).sum(dim=-2)
    x = torch.cat([superposed.real, superposed.imag], dim=-1)
    for b in range(2):
        for t in range(5):
            context = x[b, [j for j in range(5) if j != t]].mean(dim=0)
            c = torch.complex(*(model.context_proj.weight @ context).split(D // 2))
            evidence = (s[b, t].conj() * c).sum(dim=-1).real / 0.4
            posterior = p[b, t] * evidence.exp() / (p[b, t] * evidence.exp()).sum()
            assert torch.allclose(found.probs[b, t], posterior, rtol=0, atol=1e-12)
            z = (torch.polar(posterior.sqrt(), phase[b, t])[:, None] * s[b, t]).sum(dim=0)
            expected = math.sqrt(D / 2) * torch.cat([z.real, z.imag])
            assert torch.allclose(found.embeddings[b, t], expected, rtol=0, atol=1e-12)
    assert torch.allclose(found.amplitudes.abs().square(), found.probs) and not torch.allclose(found.probs, p, atol=1e-3)
    assert torch.allclose(found.uncertainty, shannon_uncertainty(found.probs))


def test_without_context_the_prior_stays() -> None:
    prior = torch.softmax(layer().amplitude_logits[IDS], dim=-1)
    assert torch.allclose(layer()(IDS[:, :1]).probs, prior[:, :1])  # a token alone sees nothing
    assert torch.allclose(layer(collapse_strategy="born")(IDS).probs, prior)
    given = layer()(IDS, context=torch.zeros(2, 5, D, dtype=torch.float64))
    assert torch.allclose(given.probs, prior) and not torch.allclose(layer()(IDS).probs, prior)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_start_is_as_superposed_as_asked_for(strength: float) -> None:
    model = QuantumEmbeddings(4000, 2, 4, superposition_strength=strength, seed=1)
    expected = torch.full((4,), strength / 4) + torch.tensor([1 - strength, 0, 0, 0])
    mean = torch.log_softmax(model.amplitude_logits, -1).mean(dim=0)
    start = torch.log_softmax((expected + 1e-4).log(), -1)
    assert torch.allclose(mean, start, atol=0.05)
    phases = model.phases
    assert 0 <= phases.min().item() and 6.2 < phases.max().item() <= 2 * math.pi


@pytest.mark.parametrize("kind", UNCERTAINTIES)
def test_uncertainty_does_not_depend_on_the_size_or_phase_of_senses(kind: str) -> None:
    model = layer(uncertainty_type=kind, collapse_strategy="born")
    before = model(IDS)
    assert torch.allclose(before.uncertainty, uncertainty(kind, before.probs, senses_of(model)), rtol=0, atol=1e-12)
    with torch.no_grad():
        model.sense_real.mul_(3.0)
        model.sense_imag.mul_(3.0)
        model.phases.add_(1.1)
    assert torch.allclose(model(IDS).uncertainty, before.uncertainty, rtol=0, atol=1e-9)


# --- collapse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["context_aware", "born", "argmax"])
def test_a_measured_token_is_one_of_its_senses(strategy: str) -> None:
    model = layer(collapse_strategy=strategy, entanglement="bell_state")
    found = model(IDS, collapse=True)
    chosen = senses_of(model).gather(2, found.outcome[..., None, None].expand(-1, -1, 1, D // 2)).squeeze(2)
    z = torch.complex(*(found.embeddings / model.output_scale).split(D // 2, dim=-1))
    assert torch.allclose(z, chosen, rtol=0, atol=1e-12)
    assert bool(found.collapse_mask.all()) and found.residual_uncertainty.abs().max().item() == 0
    assert found.coherence.abs().max().item() == 0 and bool((found.log_prob_outcome < 0).all())
    if strategy == "argmax":
        assert torch.equal(found.outcome, found.probs.argmax(dim=-1))


def test_soft_and_none() -> None:
    soft = layer(collapse_strategy="soft")
    found = soft(IDS, collapse=True)
    mean = (found.probs[..., None] * senses_of(soft)).sum(dim=-2)
    expected = soft.output_scale * torch.cat([mean.real, mean.imag], dim=-1)
    assert torch.allclose(found.embeddings, expected, rtol=0, atol=1e-12)
    assert bool((found.outcome == -1).all()) and torch.equal(found.residual_uncertainty, found.uncertainty)
    never = layer(collapse_strategy="none")
    for p in (0.5, 1.0):
        found = never(IDS, collapse_probability=p)
        assert torch.equal(found.embeddings, layer()(IDS, collapse=False).embeddings)
        assert not bool(found.collapse_mask.any()) and bool((found.outcome == -1).all())


@pytest.mark.parametrize("coupling", [None, "bell_state"])
def test_outcomes_follow_the_born_rule(coupling: str | None) -> None:
    model = layer(entanglement=coupling, entanglement_strength=1.0)
    ids = IDS[:1].expand(20000, -1)
    found = model(ids, collapse_probability=1.0, noise=model.draw_noise(20000, 5, torch.Generator().manual_seed(0)))
    share = torch.nn.functional.one_hot(found.outcome, K).double().mean(dim=0)
    spread = (found.probs[0] * (1 - found.probs[0]) / 20000).sqrt()
    assert bool(((share - found.probs[0]).abs() < 4.5 * spread).all())
    index = (found.outcome * K ** torch.arange(5)).sum(dim=1)
    for value, count in zip(*(part.tolist() for part in index.unique(return_counts=True)), strict=True):
        joint = found.log_prob_outcome[index == value][0].exp().item()
        assert abs(count - 20000 * joint) < 5 * math.sqrt(20000 * joint) + 2


def test_the_fraction_of_collapsed_tokens_is_the_collapse_probability() -> None:
    model = layer()
    found = model(torch.zeros(1000, 100, dtype=torch.int64), collapse_probability=0.3)
    assert abs(found.collapse_mask.double().mean().item() - 0.3) < 4 * math.sqrt(0.21 / 1e5)
    assert torch.equal(found.outcome >= 0, found.collapse_mask)
    assert torch.equal(found.residual_uncertainty == 0, found.collapse_mask)
    assert torch.allclose(found.coherence, 0.7 * model(torch.zeros(1, 100, dtype=torch.int64)).coherence)
    each = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    assert model(IDS, collapse_probability=each).collapse_mask.tolist() == 2 * [[False, True, False, True, True]]
    model.set_collapse_probability(1.0)
    assert bool(model(IDS).collapse_mask.all()) and not bool(model(IDS, collapse=False).collapse_mask.any())


@pytest.mark.parametrize("strategy", COLLAPSE_STRATEGIES)
@pytest.mark.parametrize("coupling", [None, "ghz_state"])
def test_evaluation_is_deterministic_and_draws_nothing(strategy: str, coupling: str | None) -> None:
    model = layer(collapse_strategy=strategy, entanglement=coupling).eval()
    before = torch.get_rng_state()
    results = {p: (model(IDS, collapse_probability=p), model(IDS, collapse_probability=p)) for p in (0.0, 0.3, 1.0)}
    assert torch.equal(torch.get_rng_state(), before)
    for first, second in results.values():
        assert torch.equal(first.embeddings, second.embeddings)
    if strategy != "none":
        mean = 0.3 * results[1.0][0].embeddings + 0.7 * results[0.0][0].embeddings
        assert torch.allclose(results[0.3][0].embeddings, mean, rtol=0, atol=1e-12)
    if strategy not in ("soft", "none"):
        assert torch.equal(results[1.0][0].outcome, results[1.0][0].probs.argmax(dim=-1))
    model.train()(IDS, collapse=False)
    assert torch.equal(torch.get_rng_state(), before)  # a coherent superposition is not random in training either
    if strategy in ("context_aware", "born"):
        several = {tuple(model.eval()(IDS, collapse=True, sample=True).outcome.flatten().tolist()) for _ in range(8)}
        assert len(several) > 1


@pytest.mark.parametrize("coupling", [None, "bell_state"])
def test_given_noise_decides_everything(coupling: str | None) -> None:
    model = layer(entanglement=coupling)
    noise = model.draw_noise(2, 5)
    before = torch.get_rng_state()
    first, second = (model(IDS, collapse_probability=0.5, noise=noise) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.outcome, second.outcome) and torch.equal(first.embeddings, second.embeddings)
    assert torch.equal(first.collapse_mask, noise[0] < 0.5)


def test_a_checkpointed_region_has_the_same_gradient() -> None:
    model = layer(entanglement="custom")
    noise = model.draw_noise(2, 5)
    gradients = []
    for checkpointed in (False, True):
        model.zero_grad()

        def run(first: Tensor, second: Tensor) -> Tensor:
            return model(IDS, collapse_probability=0.5, noise=(first, second)).embeddings.cos().sum()

        loss = torch.utils.checkpoint.checkpoint(run, *noise, use_reentrant=False) if checkpointed else run(*noise)
        assert isinstance(loss, Tensor)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_sampled_gradients_are_on_average_those_of_the_mean() -> None:
    """Straight through: for a function linear in the collapsed state both expectations are exact."""
    direction = torch.randn(D, dtype=torch.float64)
    gradients = {}
    for strategy in ("soft", "context_aware"):
        model = layer(collapse_strategy=strategy)
        ids = IDS[:1].expand(1 if strategy == "soft" else 4000, -1)
        (model(ids, collapse=True).embeddings @ direction).sum(dim=1).mean().backward()
        assert model.amplitude_logits.grad is not None
        gradients[strategy] = model.amplitude_logits.grad
    assert torch.allclose(gradients["soft"], gradients["context_aware"], rtol=0, atol=1e-12)
    model = layer(collapse_strategy="soft")
    logits, ids = model.amplitude_logits[IDS[0, :1]], IDS[:1, :1]
    (found,) = torch.autograd.grad((model(ids, collapse=True).embeddings @ direction).sum(), model.amplitude_logits)
    p = torch.softmax(logits, -1)[0]
    s = senses_of(model, ids)[0, 0]
    values = model.output_scale * torch.cat([s.real, s.imag], dim=-1) @ direction
    assert torch.allclose(found[IDS[0, 0]], p * (values - (p * values).sum()), rtol=0, atol=1e-12)


# --- readouts -------------------------------------------------------------------------------------------------------


def test_the_born_readout_does_not_see_a_global_phase() -> None:
    model = layer(readout="born", num_measurements=7, collapse_strategy="born")
    before = model(IDS, collapse=False)
    assert model.measurement is not None and before.embeddings.shape == (2, 5, D)
    with torch.no_grad():
        model.phases.add_(0.8)
    after = model(IDS, collapse=False)
    assert torch.allclose(before.embeddings, after.embeddings, rtol=0, atol=1e-12)
    assert torch.allclose(fidelity(before.amplitudes, after.amplitudes), torch.ones(2, 5, dtype=torch.float64))
    with torch.no_grad():
        model.phases[:, 0] += 0.8  # a relative phase is seen
    assert not torch.allclose(before.embeddings, model(IDS, collapse=False).embeddings, atol=1e-4)
    one_sense = layer(readout="born", num_states=1)(IDS)
    assert bool(torch.isfinite(one_sense.embeddings).all())


def test_the_real_readout_takes_odd_sizes() -> None:
    model = layer(readout="real", embedding_dim=5)
    found = model(IDS, collapse=True)
    chosen = senses_of(model).gather(2, found.outcome[..., None, None].expand(-1, -1, 1, 5)).squeeze(2)
    assert torch.allclose(found.embeddings, model.output_scale * chosen.real, rtol=0, atol=1e-12)
    given = model(IDS, context=torch.randn(2, 5, 5, dtype=torch.float64))
    assert given.embeddings.shape == (2, 5, 5)


# --- entanglement ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.0, 1.0])
def test_a_token_changes_the_outcomes_of_others_through_the_coupling(theta: float) -> None:
    model = layer(collapse_strategy="born", entanglement="bell_state", entanglement_strength=theta)
    changed = IDS.clone()
    changed[0, 2] = 7
    difference = (model(IDS).probs - model(changed).probs).abs()[0].amax(dim=-1)
    others = [0, 1, 3, 4]
    assert bool((difference[others] > 1e-4).all()) if theta else difference[others].max().item() < 1e-12


def test_marginals_of_the_chain_stand_for_the_probabilities_everywhere() -> None:
    model = layer(entanglement="bell_state", entanglement_strength=1.5)
    plain = layer()
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("entanglement")})
    found = model(IDS, collapse=False)
    assert not torch.allclose(found.probs, plain(IDS, collapse=False).probs, atol=1e-3)
    assert torch.allclose(found.uncertainty, shannon_uncertainty(found.probs))
    z = (found.amplitudes[..., None] * senses_of(model)).sum(dim=-2)
    assert torch.allclose(found.embeddings, model.output_scale * torch.cat([z.real, z.imag], -1), rtol=0, atol=1e-12)
    assert found.entanglement is not None and found.entanglement.shape == (2, 4) and found.bonds is not None
    assert bool((found.entanglement > 0.05).all()) and plain(IDS).entanglement is None
    model(IDS, collapse=True).embeddings.sum().backward()
    assert model.entanglement is not None
    coupling = model.entanglement.coupling_theta
    assert isinstance(coupling, Tensor) and coupling.grad is not None and coupling.grad.item() != 0


def test_iterating_gives_embeddings_and_uncertainty() -> None:
    found = layer()(IDS)
    embeddings, doubt = found
    assert isinstance(found, QEmbedOutput) and embeddings is found.embeddings and doubt is found.uncertainty
    assert torch.equal(layer().get_uncertainty(IDS), doubt)


def test_the_gradient_through_the_mean_of_all_tokens_repeats_with_two_threads() -> None:
    """One long sequence, in whose middle the threads meet; indexing with equal places in a row gave 25 gradients in 30 tries."""
    generator = torch.Generator().manual_seed(0)
    tokens, weights = torch.randn(2, 1, 4096, 32, generator=generator)
    mask = torch.ones(1, 4096, dtype=torch.bool)
    before, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        for _ in range(20):
            leaf = tokens.clone().requires_grad_()
            (MeanContext(32, None, causal=False)(leaf, mask) * weights).sum().backward()
            found.append(leaf.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)
