"""Sense samplers: a normalised distribution, exact draws, and the shared local energy on them."""

import itertools

import pytest
import torch
from torch import Tensor

from qsr.estimators.local_energy import local_energy, weighted_loss
from qsr.hamiltonians import Rydberg
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError
from qsr.qembed import EntanglementCorrelation, QuantumEmbeddings, SenseSampler
from qsr.samplers.base import Sampler

DOUBLE = torch.float64


def amplitudes(length: int, states: int, is_complex: bool = True, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(length, states, dtype=torch.complex128 if is_complex else DOUBLE, generator=generator)
    return found if is_complex else found.abs()


def all_configs(length: int, states: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(states), repeat=length)), dtype=torch.uint8)


def coupled(states: int, kind: str, strength: float) -> EntanglementCorrelation:
    generator = torch.Generator().manual_seed(3)
    return EntanglementCorrelation(states, kind, strength, generator=generator).double()


def samplers() -> dict[str, SenseSampler]:
    embeddings = QuantumEmbeddings(9, 6, 3, seed=0, entanglement="custom", entanglement_strength=5.0).double()
    return {
        "product": SenseSampler(amplitudes(4, 3)),
        "positive": SenseSampler(amplitudes(4, 3, is_complex=False), coupled(3, "bell_state", 0.8)),
        "ghz": SenseSampler(amplitudes(5, 2), EntanglementCorrelation(2, "ghz_state", 1.0, ghz_size=2).double()),
        "custom": SenseSampler(amplitudes(4, 3), coupled(3, "custom", 10.0)),
        "tokens": SenseSampler.of_tokens(embeddings, torch.tensor([1, 8, 3, 3])),
        "one site": SenseSampler(amplitudes(1, 4)),
        "one state": SenseSampler(amplitudes(3, 1)),
    }


SAMPLERS = samplers()


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_probabilities_and_amplitudes_agree(name: str) -> None:
    sampler = SAMPLERS[name]
    length, states = sampler.num_sites, sampler.local_dim
    configs, log_prob = sampler.sample(7, torch.Generator().manual_seed(1))
    assert isinstance(sampler, Sampler) and configs.shape == (7, length) and configs.dtype == torch.uint8
    assert not log_prob.requires_grad and int(configs.max()) < states
    assert torch.allclose(log_prob, sampler.log_prob(configs), rtol=0, atol=1e-10)
    everything = all_configs(length, states)
    assert sampler.log_prob(everything).exp().sum().item() == pytest.approx(1.0, abs=1e-10)
    log_amplitude = sampler.log_amplitude(everything)
    assert torch.allclose(2 * log_amplitude.real, sampler.log_prob(everything))
    assert torch.allclose(log_amplitude.imag, sampler.phase(everything))
    again, _ = sampler.sample(7, torch.Generator().manual_seed(1))
    assert torch.equal(configs, again)


def test_amplitudes_are_those_of_the_formula() -> None:
    given, coupling = amplitudes(4, 3), coupled(3, "custom", 10.0)
    sampler = SenseSampler(given, coupling)
    matrix = torch.complex(coupling.coupling_real, coupling.coupling_imag)[0]
    everything = all_configs(4, 3).long()
    psi = torch.ones(81, dtype=torch.complex128)
    for i in range(4):
        psi = psi * given[i, everything[:, i]]
        if i:
            psi = psi * matrix[everything[:, i - 1], everything[:, i]].exp()
    psi = psi / psi.abs().square().sum().sqrt()
    assert torch.allclose(sampler.log_amplitude(everything.to(torch.uint8)).exp(), psi, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["custom", "tokens"])
def test_frequencies_are_the_probabilities(name: str) -> None:
    sampler = SAMPLERS[name]
    configs, _ = sampler.sample(30000, torch.Generator().manual_seed(2))
    digits = sampler.local_dim ** torch.arange(sampler.num_sites - 1, -1, -1)
    counts = (configs.long() * digits).sum(dim=1).bincount(minlength=81).double()
    expected = 30000 * sampler.log_prob(all_configs(4, 3)).exp().detach()
    often = expected > 5
    statistic = ((counts - expected)[often].square() / expected[often]).sum()
    assert torch.special.gammaincc(often.sum() / 2.0, statistic / 2).item() > 1e-3


def test_the_layer_draws_from_the_sampler_of_its_tokens() -> None:
    for coupling in (None, "bell_state", "custom"):
        model = QuantumEmbeddings(9, 6, 3, seed=0, entanglement=coupling, entanglement_strength=1.0).double()
        ids = torch.tensor([1, 8, 3, 3, 0])
        sampler = SenseSampler.of_tokens(model, ids)
        noise = model.draw_noise(50, 5)
        found = model(ids.expand(50, -1), collapse=True, noise=noise)
        assert torch.allclose(sampler.log_prob(found.outcome.to(torch.uint8)), found.log_prob_outcome, rtol=0, atol=1e-12)
        sampler.log_prob(all_configs(5, 3)[:9]).sum().backward()
        assert model.amplitude_logits.grad is not None and bool((model.amplitude_logits.grad[8] != 0).any())
    model.eval()
    asleep = SenseSampler.of_tokens(model, ids)
    asleep.sample(3)
    asleep.log_prob(all_configs(5, 3)[:1])
    assert not model.training


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("theta", [0.0, 0.7])
def test_the_shared_local_energy_is_the_expectation_of_the_hamiltonian(theta: float, is_complex: bool) -> None:
    hamiltonian = Rydberg(Lx=6, Ly=1, V=7.0, delta=1.0, Omega=1.0).build()
    given = amplitudes(6, 2, is_complex)
    sampler = SenseSampler(given, coupled(2, "custom" if is_complex and theta else "bell_state", theta))
    assert sampler.has_phase == is_complex
    configs = configurations(6)
    found = local_energy(sampler, hamiltonian, configs)
    energy = (sampler.log_prob(configs).exp() * found.values).sum().detach()
    psi = sampler.log_amplitude(configs).exp().detach().numpy()
    exact = (psi.conj() @ (hamiltonian.to_sparse() @ psi)).real
    assert energy.real.item() == pytest.approx(exact, abs=1e-8) and abs(complex(energy).imag) < 1e-8
    if theta == 0 and not is_complex:
        a = given / given.norm(dim=1, keepdim=True)
        n = a[:, 1].square()
        distance = (torch.arange(6)[:, None] - torch.arange(6)).abs().double()
        pairs = torch.triu(n[:, None] * n, 1) * 7.0 / distance.clamp_min(1) ** 6
        mean_field = (-a[:, 0] * a[:, 1] - n).sum() + pairs.sum()
        assert mean_field.item() == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("is_complex", [False, True])
def test_the_gradient_of_the_energy_is_that_of_the_wave_function(is_complex: bool) -> None:
    hamiltonian = Rydberg(Lx=4, Ly=1, V=7.0, delta=1.0, Omega=1.0).build()
    sampler = SenseSampler(amplitudes(4, 2, is_complex), coupled(2, "custom" if is_complex else "bell_state", 0.7))
    configs = configurations(4)
    parameters = list(sampler.parameters())
    matrix = torch.tensor(hamiltonian.to_sparse().toarray(), dtype=torch.complex128)
    psi = sampler.log_amplitude(configs).exp()
    exact = torch.autograd.grad((psi.conj() @ matrix @ psi).real, parameters)
    weights = sampler.log_prob(configs).exp().detach()
    values = local_energy(sampler, hamiltonian, configs).values
    terms = weights * (values - (weights * values).sum())
    phase = sampler.phase(configs) if is_complex else None
    found = torch.autograd.grad(weighted_loss(sampler.log_prob(configs), terms, weights, phase), parameters)
    for first, second in zip(found, exact, strict=True):
        assert torch.allclose(first, second, rtol=0, atol=1e-10)


def test_flips_are_those_of_any_sampler() -> None:
    sampler = SenseSampler(amplitudes(5, 2), coupled(2, "custom", 3.0))
    configs = all_configs(5, 2)[3:9]
    found = sampler.flip_log_prob(configs)
    for site in range(5):
        flipped = configs.clone()
        flipped[:, site] ^= 1
        assert torch.allclose(found[:, site], sampler.log_prob(flipped), rtol=0, atol=1e-12)


def test_zeros_among_the_amplitudes() -> None:
    sampler = SenseSampler(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), EntanglementCorrelation(2))
    configs, log_prob = sampler.sample(50, torch.Generator().manual_seed(0))
    assert configs[:, 0].unique().tolist() == [0] and configs[:, 1].unique().tolist() == [1]
    assert bool(torch.isfinite(log_prob).all())
    sampler.log_prob(configs).mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in sampler.parameters())


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="entanglement: pairs='all' cannot be sampled exactly"):
        SenseSampler(amplitudes(3, 2), EntanglementCorrelation(2, pairs="all"))
    with pytest.raises(ConfigError, match="entanglement: has num_states=3; the amplitudes have 2"):
        SenseSampler(amplitudes(3, 2), EntanglementCorrelation(3))
    with pytest.raises(ConfigError, match=r"amplitudes: must be \(L, K\)"):
        SenseSampler(amplitudes(3, 2)[0])
    with pytest.raises(ConfigError, match="at least one in each row"):
        SenseSampler(torch.zeros(2, 2))
    with pytest.raises(ConfigError, match=r"amplitudes: must be real or complex numbers, found torch\.int64"):
        SenseSampler(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"257 states per site"):
        SenseSampler(torch.ones(2, 257))
    causal = QuantumEmbeddings(5, 4, 2, causal=True, entanglement="bell_state")
    with pytest.raises(ConfigError, match="embeddings: draw token by token"):
        SenseSampler.of_tokens(causal, torch.tensor([1, 2]))
    padded = QuantumEmbeddings(5, 4, 2, padding_idx=0)
    with pytest.raises(ConfigError, match=r"input_ids: hold the padding token 0"):
        SenseSampler.of_tokens(padded, torch.tensor([0, 2]))
    with pytest.raises(ConfigError, match=r"context: a SenseSampler has none"):
        SAMPLERS["product"].log_prob(all_configs(4, 3), torch.zeros(81, 1))
    with pytest.raises(ConfigError, match=r"configs: must be \(B, 4\)"):
        SAMPLERS["product"].log_prob(all_configs(3, 3))
