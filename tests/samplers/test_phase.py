"""The phase of psi: its change under flips, what it leaves alone, and the settings that ask for it."""

import numpy as np
import pytest
import torch
from sampler_cases import CASES, build

import qsr
from qsr.estimators.local_energy import local_energy
from qsr.hamiltonians import PauliSum
from qsr.hamiltonians.base import configurations
from qsr.hparams import ConfigError
from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN
from qsr.samplers.phase import PhaseNetwork

MODELS = {
    "rnn": RNN(Nh=8, patch=1, phase=True, phase_Nh=6),
    "ptf": PTF(Nh=8, nhead=2, patch="2x1", phase=True, phase_Nh=6, phase_layers=1),
    "lptf": LPTF(Nh=8, nhead=2, patch="2x1", phase=True, phase_Nh=6, phase_layers=3, subsampler=RNN(patch=1)),
}


def network(num_layers, context_size=None):
    with torch.random.fork_rng():
        torch.manual_seed(num_layers)
        return PhaseNetwork(7, 5, num_layers, context_size).double()


def masks_of(num_sites):
    """No flip, single ones, and some of several sites."""
    random = torch.rand(6, num_sites, generator=torch.Generator().manual_seed(1)) < 0.4
    return torch.cat([torch.zeros(1, num_sites, dtype=torch.bool), torch.eye(num_sites, dtype=torch.bool), random])


@pytest.mark.parametrize("memory_bytes", [1, 2000, 2**30])
@pytest.mark.parametrize("context_size", [None, 3])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_changes_are_those_of_full_evaluations(num_layers, context_size, memory_bytes):
    phase = network(num_layers, context_size)
    generator = torch.Generator().manual_seed(0)
    configs = torch.randint(0, 2, (11, 7), generator=generator, dtype=torch.uint8)
    context = None if context_size is None else torch.randn(11, 3, generator=generator, dtype=torch.float64)
    masks = masks_of(7)
    found = phase.change(configs, masks, context, memory_bytes)
    assert not found.requires_grad
    for column, mask in zip(found.T, masks, strict=True):
        expected = phase(configs ^ mask.to(torch.uint8), context) - phase(configs, context)
        torch.testing.assert_close(column, expected.detach(), rtol=0, atol=1e-13)
    assert phase.change(configs, masks[:0], context).shape == (11, 0)


def test_a_first_phase_is_small_but_tells_configurations_apart():
    torch.manual_seed(0)
    phases = PhaseNetwork(16, 64, 2)(torch.randint(0, 2, (500, 16), dtype=torch.uint8)).detach()
    assert 0.2 < phases.std() < 1.0


def test_autocast_does_not_round_the_phase():
    phase = network(2).float()
    configs = configurations(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, change = phase(configs), phase.change(configs, masks_of(7))
    assert found.dtype == change.dtype == torch.float32
    assert torch.equal(found, phase(configs))


@pytest.mark.parametrize("name", MODELS)
def test_the_probability_is_that_of_the_model_without_phase(name):
    models = []
    for settings in (MODELS[name], MODELS[name].updated({"phase": False})):
        torch.manual_seed(5)
        models.append(settings.build(Lattice(2, 3)).double())
    configs = configurations(6)
    assert torch.equal(models[0].log_prob(configs), models[1].log_prob(configs))
    assert models[0].has_phase and not models[1].has_phase
    assert models[0].phase(configs).std() > 0.1
    assert torch.equal(models[1].phase(configs), torch.zeros(64, dtype=torch.float64))
    assert not [weights for weights in models[1].state_dict() if "phase" in weights]


@pytest.mark.parametrize("name", MODELS)
def test_local_energies_are_those_of_the_matrix(name):
    torch.manual_seed(5)
    model = MODELS[name].build(Lattice(2, 3)).double()
    generator = np.random.default_rng(0)
    strings = ["".join(generator.choice(list("IXYZ"), 6)) for _ in range(25)]
    hamiltonian = PauliSum(strings, generator.normal(size=25).tolist(), Lattice(2, 3))
    configs = configurations(6)
    psi = torch.polar((0.5 * model.log_prob(configs)).exp(), model.phase(configs)).detach().numpy()
    found = local_energy(model, hamiltonian, configs)
    np.testing.assert_allclose(found.values, hamiltonian.to_sparse() @ psi / psi, atol=1e-10)
    little = local_energy(model, hamiltonian, configs, memory_bytes=1)
    torch.testing.assert_close(little.values, found.values, rtol=0, atol=1e-12)


def test_a_hamiltonian_without_flips_has_its_diagonal_as_local_energy():
    model = MODELS["ptf"].build(Lattice(2, 2)).double()
    hamiltonian = PauliSum(["ZIIZ"], [0.5], Lattice(2, 2))
    configs = configurations(4)
    torch.testing.assert_close(local_energy(model, hamiltonian, configs).values.real, hamiltonian.diagonal(configs))


def test_a_model_that_only_has_phases_of_its_own_is_flipped_in_full():
    class Turned(qsr.samplers.AutoregressiveSampler):
        """Any sampler with a phase that it works out itself."""

        has_phase = True

        def phase(self, configs, context=None):
            return configs.to(self.dtype) @ torch.arange(self.num_sites, dtype=self.dtype)

    name = "rnn-gru-1"
    sampler = build(name)
    sampler.__class__ = type("TurnedRNN", (Turned, type(sampler)), {})
    configs, masks = configurations(6), torch.eye(6, dtype=torch.bool)
    expected = (1 - 2 * configs.double()) * torch.arange(6)
    torch.testing.assert_close(sampler.flip_phase(configs, masks), expected)
    assert CASES[name][1] == (2, 3)


@pytest.mark.parametrize("inner", [RNN(patch=1, phase=True), PTF(patch=1, phase=True)])
def test_a_subsampler_has_no_phase(inner):
    with pytest.raises(ConfigError, match=rf"{inner.section}\.phase=True: a phase belongs to all sites.*--lptf phase=True"):
        LPTF(patch="2x2", subsampler=inner)


@pytest.mark.parametrize("name", ["phase_Nh", "phase_layers"])
def test_sizes_of_the_phase_have_bounds(name):
    with pytest.raises(ConfigError, match=rf"ptf\.{name}=0: must be at least 1"):
        PTF(**{name: 0})
