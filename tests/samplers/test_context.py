"""Samplers that are conditioned on a vector for every row: one network for all of them, several samples of each."""

import itertools

import numpy as np
import pytest
import torch
from sampler_cases import SMALL

from qsr.estimators import local_energy
from qsr.estimators.local_energy import differentiable_local_energy
from qsr.estimators.sampled_flips import FlipSampling, sampled_local_energy
from qsr.hamiltonians import PauliSum
from qsr.hamiltonians.base import configurations
from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN

PHASE = {"phase": True, "phase_Nh": 6}
CASES = {
    "rnn": (RNN(Nh=8, patch=1, **PHASE), 8),
    "rnn-elman-2x1": (RNN(Nh=8, patch="2x1", rnntype="ELMAN", **PHASE), 8),
    "ptf": (PTF(**SMALL, patch=1, **PHASE), 5),
    "ptf-two-layers": (PTF(**SMALL, patch="2x1", num_layers=2, **PHASE), 5),
    "ptf-repeated": (PTF(**SMALL, patch=1, repeat_pre=True, **PHASE), 8),
    "lptf-rnn": (LPTF(**SMALL, patch="2x1", subsampler=RNN(patch=1), **PHASE), 5),
    "lptf-ptf": (LPTF(**SMALL, patch="2x1", subsampler=PTF(**SMALL, patch=1), **PHASE), 5),
}
LATTICE = Lattice(2, 3)
COPIES = 4


def build(name):
    """A sampler far from uniform, and contexts (3, C)."""
    settings, size = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(sum(name.encode()))
        sampler = settings.build(LATTICE, context_size=size).double()
        context = 2 * torch.randn(3, size, dtype=torch.float64)
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.mul_(2.0)
    return sampler.eval(), context


def draw(name, copies=COPIES):
    sampler, context = build(name)
    repeated = context.repeat_interleave(copies, dim=0)
    return sampler, repeated, *sampler.sample(len(repeated), torch.Generator().manual_seed(1), repeated)


def amplitudes(sampler, context):
    """(2^N,) psi of one context, by enumeration."""
    configs = configurations(6)
    rows = context.expand(len(configs), -1)
    return torch.polar((0.5 * sampler.log_prob(configs, rows)).exp(), sampler.phase(configs, rows)).detach()


def random_sum():
    generator = np.random.default_rng(0)
    strings = ["".join(generator.choice(list("IXYZ"), 6)) for _ in range(25)]
    return PauliSum(strings, generator.normal(size=25).tolist(), LATTICE)


@pytest.mark.parametrize("name", CASES)
def test_every_context_has_a_normalised_state_of_its_own(name):
    sampler, context = build(name)
    states = [amplitudes(sampler, row) for row in context]
    for psi in states:
        assert psi.abs().square().sum().item() == pytest.approx(1, abs=1e-12)
    for psi, other in itertools.combinations(states, 2):
        assert (psi.abs().square() - other.abs().square()).abs().max() > 1e-3
        assert (psi.angle() - other.angle()).abs().max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_samples_come_from_the_distribution_of_their_context(name):
    sampler, context, configs, log_prob = draw(name, copies=2000)
    torch.testing.assert_close(log_prob, sampler.log_prob(configs, context).detach(), rtol=0, atol=1e-10)
    frequencies = configs.double().view(3, 2000, 6).mean(dim=1)
    for row, found in zip(context[::2000], frequencies, strict=True):
        expected = amplitudes(sampler, row).abs().square() @ configurations(6).double()
        error = (expected * (1 - expected) / 2000).sqrt()
        assert ((found - expected).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("name", CASES)
def test_samples_within_a_memory_are_the_same(name):
    sampler, context, configs, log_prob = draw(name)
    found = sampler.sample(len(context), torch.Generator().manual_seed(1), context, memory_bytes=1)
    assert torch.equal(found[0], configs)
    torch.testing.assert_close(found[1], log_prob, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory_bytes", [1, 2**30])
@pytest.mark.parametrize("window", [None, (1,)])
@pytest.mark.parametrize("name", CASES)
def test_flips_are_those_of_full_evaluations(name, window, memory_bytes):
    sampler, context, configs, _ = draw(name)
    several = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    for masks in (None, torch.cat([torch.eye(6, dtype=torch.bool), several])):
        log_prob, log_ratio = sampler.flip_log_ratio(configs, masks, context, memory_bytes=memory_bytes, window=window)
        torch.testing.assert_close(log_prob, sampler.log_prob(configs, context).detach(), rtol=0, atol=1e-10)
        if window is None:
            expected = sampler.plain_flip_log_prob(configs, masks, context).detach() - log_prob[:, None]
            torch.testing.assert_close(log_ratio, expected, rtol=0, atol=1e-9)
        alone = [
            sampler.flip_log_ratio(configs[row : row + 1], masks, context[row : row + 1], window=window)[1]
            for row in range(len(configs))
        ]
        torch.testing.assert_close(log_ratio, torch.cat(alone), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_flips_of_the_phase(name):
    sampler, context, configs, _ = draw(name)
    masks = torch.rand(9, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    found = sampler.flip_phase(configs, masks, context)
    for column, mask in zip(found.T, masks, strict=True):
        expected = sampler.phase(configs ^ mask.to(torch.uint8), context) - sampler.phase(configs, context)
        torch.testing.assert_close(column, expected.detach(), rtol=0, atol=1e-11)
    plain = sampler.plain_flip_phase(configs, masks, context) - sampler.phase(configs, context)[:, None]
    torch.testing.assert_close(found, plain.detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_local_energies_are_those_of_the_matrix(name):
    sampler, context, configs, _ = draw(name)
    hamiltonian = random_sum()
    matrix = hamiltonian.to_sparse()
    index = (configs.long() << torch.arange(6)).sum(dim=1).view(3, COPIES)
    expected = []
    for row, places in zip(context[::COPIES], index, strict=True):
        psi = amplitudes(sampler, row).numpy()
        expected.append(torch.from_numpy(matrix @ psi / psi)[places])
    found = local_energy(sampler, hamiltonian, configs, context).values
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-8, atol=1e-8)
    through = differentiable_local_energy(sampler, hamiltonian, configs, context)
    torch.testing.assert_close(through.detach(), found.real, rtol=1e-8, atol=1e-8)
    # With so many draws that their mean tells: 6 standard errors of the estimate itself.
    uniforms = torch.rand(len(configs), 4000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = sampled_local_energy(sampler, hamiltonian, configs, FlipSampling(4000, (1,)), uniforms, context)
    assert ((drawn.values - found).abs() < 6 * drawn.sampling_variance.sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_context(name):
    """What makes the context, a layer on features, learns with the network."""
    sampler, context, configs, _ = draw(name)
    context = context[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: sampler.log_prob(configs[:2], c), context)
    assert torch.autograd.gradcheck(lambda c: sampler.phase(configs[:2], c), context)
