"""Samplers of whole phase diagrams: a normalised state for every point, with flips and local energies of that point."""

import itertools
import math
from typing import Any

import pytest
import torch

from qsr.estimators.local_energy import differentiable_local_energy, local_energy
from qsr.estimators.sampled_flips import FlipSampling, sampled_local_energy
from qsr.hamiltonians import Rydberg, configurations
from qsr.hparams import ConfigError, RunSettings
from qsr.samplers import LPTF, PTF, RNN
from qsr.samplers.conditioned import ConditionedSampler

SMALL: dict[str, Any] = {"Nh": 8, "nhead": 2}
MODELS = {
    "rnn": RNN(Nh=8, patch=1),
    "rnn-phase": RNN(Nh=8, patch="2x1", rnntype="ELMAN", phase=True, phase_Nh=6),
    "ptf": PTF(**SMALL, patch="2x1"),
    "ptf-repeated": PTF(**SMALL, patch=1, num_layers=2, repeat_pre=True),
    "lptf": LPTF(**SMALL, patch="2x1", subsampler=RNN(patch=1)),
}
PROBLEM = Rydberg(Lx=2, Ly=3, delta="-1:3", Omega="0.5:2", V=4.0)
POINTS = [{"Omega": 0.5, "delta": -1.0}, {"Omega": 1.1, "delta": 0.3}, {"Omega": 2.0, "delta": 3.0}]


def build(name: str) -> ConditionedSampler:
    """Far from uniform, and far from constant in its parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        sampler = MODELS[name].build_for(PROBLEM).double()
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.mul_(2.0)
    assert isinstance(sampler, ConditionedSampler)
    return sampler.eval()


def rows(copies: int) -> torch.Tensor:
    """(3*copies, 2) parameters."""
    return torch.tensor([list(point.values()) for point in POINTS], dtype=torch.float64).repeat_interleave(copies, dim=0)


@pytest.mark.parametrize("name", MODELS)
def test_every_point_has_a_normalised_state_of_its_own(name: str) -> None:
    sampler, configs = build(name), configurations(6)
    states = [sampler.at(**point).log_prob(configs).detach().exp() for point in POINTS]
    for number, probability in enumerate(states):
        assert probability.sum().item() == pytest.approx(1, abs=1e-12)
        as_rows = sampler.log_prob(configs, rows(64)[64 * number :][:64]).detach().exp()
        torch.testing.assert_close(as_rows, probability, rtol=0, atol=1e-13)
    for one, other in itertools.combinations(states, 2):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_those_of_their_point(name: str) -> None:
    sampler, context = build(name), rows(1000)
    configs, log_prob = sampler.sample(3000, torch.Generator().manual_seed(1), context, memory_bytes=2**20)
    torch.testing.assert_close(log_prob, sampler.log_prob(configs, context).detach(), rtol=0, atol=1e-10)
    for point, found in zip(POINTS, configs.double().view(3, 1000, 6).mean(dim=1), strict=True):
        expected = sampler.at(**point).log_prob(configurations(6)).detach().exp() @ configurations(6).double()
        error = (expected * (1 - expected) / 1000).sqrt()
        assert ((found - expected).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("name", MODELS)
def test_flips_and_local_energies_of_a_mixed_batch_are_those_of_each_point(name: str) -> None:
    sampler, context, family = build(name), rows(4), PROBLEM.family()
    configs, _ = sampler.sample(12, torch.Generator().manual_seed(2), context)
    problem = family.rows(context)
    for memory_bytes in (1, 2**30):
        found = local_energy(sampler, problem, configs, context, memory_bytes=memory_bytes)
        log_ratio = sampler.flip_log_ratio(configs, None, context, memory_bytes=memory_bytes)[1]
        plain = sampler.plain_flip_log_prob(configs, None, context).detach() - found.log_prob[:, None]
        torch.testing.assert_close(log_ratio, plain, rtol=0, atol=1e-9)
        for number, point in enumerate(POINTS):
            part = slice(4 * number, 4 * number + 4)
            single = local_energy(sampler.at(**point), family.at(**point), configs[part])
            torch.testing.assert_close(found.values[part], single.values, rtol=1e-9, atol=1e-9)
    through = differentiable_local_energy(sampler, problem, configs, context).detach()
    torch.testing.assert_close(through, found.values.real, rtol=1e-9, atol=1e-9)
    uniforms = torch.rand(12, 2000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = sampled_local_energy(sampler, problem, configs, FlipSampling(2000, (1,)), uniforms, context)
    assert drawn.sampling_variance is not None
    assert ((drawn.values - found.values).abs() < 6 * drawn.sampling_variance.sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_point_shares_the_weights(name: str) -> None:
    sampler = build(name)
    single = sampler.at(**POINTS[1])
    assert single.state_dict().keys() == sampler.state_dict().keys()
    assert all(one is other for one, other in zip(single.parameters(), sampler.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name in MODELS if "phase" not in name])
def test_weights_fit_a_larger_lattice(name: str) -> None:
    model = MODELS[name].updated({"positions": "learned"}) if "positions" in MODELS[name] else MODELS[name]
    larger = model.build_for(PROBLEM.updated({"Lx": 4, "Ly": 3}))
    shapes = {key: value.shape for key, value in larger.state_dict().items()}
    resized = larger.resized_weights(model.build_for(PROBLEM).state_dict())
    assert {key: value.shape for key, value in resized.items()} == shapes


def test_sinusoidal_positions_stay_on_their_lattice() -> None:
    model = PTF(patch=1, Nh=8, nhead=2, positions="sinusoidal")
    with pytest.raises(ConfigError, match="expected positions=learned"):
        model.build_for(PROBLEM.updated({"Lx": 4})).resized_weights(model.build_for(PROBLEM).state_dict())
    tree = {"model": {"type": "ptf", "positions": "sinusoidal"}, "train": {"curriculum": "2x2:2,4x4:2"}}
    with pytest.raises(ConfigError, match=r"ptf\.positions=sinusoidal: with rydberg\.delta=0:3 the model has a vector"):
        RunSettings.from_tree({**tree, "hamiltonian": {"type": "rydberg", "delta": "0:3"}})


def test_the_ends_of_a_narrow_range_keep_their_digits() -> None:
    narrow = Rydberg(Lx=2, Ly=2, delta="862690.01:862690.05")
    wide = Rydberg(Lx=2, Ly=2, delta="-1:1")
    torch.manual_seed(0)
    first = RNN(patch=1, Nh=8).build_for(narrow).to(torch.float32)
    second = RNN(patch=1, Nh=8).build_for(wide).to(torch.float32)
    second.load_state_dict(first.state_dict())
    found = first.at(delta=862690.02).log_prob(configurations(4))
    torch.testing.assert_close(found, second.at(delta=-0.5).log_prob(configurations(4)), rtol=1e-5, atol=1e-5)


def test_what_is_refused() -> None:
    sampler = build("rnn")
    with pytest.raises(
        ConfigError, match=r"is for all Hamiltonians with Omega=0\.5:2 delta=-1:3: choose one, model\.at\(Omega=1"
    ):
        sampler.sample(2)
    with pytest.raises(ConfigError, match=r"delta=3\.1: outside the range -1:3"):
        sampler.at(Omega=1.0, delta=3.1)
    with pytest.raises(ConfigError, match=r"delta: choose a value in -1:3"):
        sampler.at(Omega=1.0)


def test_parameters_are_scaled_to_their_range() -> None:
    """A range of large numbers is the same network as one of small ones."""
    scaled = ConditionedSampler(build("rnn").base, build("rnn").parameter_network, PROBLEM.ranges)
    shifted = Rydberg(Lx=2, Ly=3, delta="99999:100003", Omega="0.5:2", V=4.0)
    other = ConditionedSampler(scaled.base, scaled.parameter_network, shifted.ranges)
    configs = configurations(6)
    found, expected = other.at(Omega=1.0, delta=100001.5).log_prob(configs), scaled.at(Omega=1.0, delta=1.5).log_prob(configs)
    assert math.isclose((found - expected).abs().max().item(), 0, abs_tol=1e-9)
