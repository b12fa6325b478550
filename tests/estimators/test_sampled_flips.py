"""Sampled flips: unbiased over every possible draw, with the error bars and the variance that they claim."""

import math

import numpy as np
import pytest
import torch
from sampler_cases import CASES, build
from scipy.stats import kstest

import qsr
from qsr.estimators import local_energy
from qsr.estimators.flip_choice import FlipCosts, WindowCost, flip_costs
from qsr.estimators.sampled_flips import EXACT, FlipSampling, draw, proposal, sampled_local_energy, uncovered_flips
from qsr.hamiltonians import PauliSum, configurations
from qsr.hparams import ConfigError
from qsr.samplers.phase import PhaseNetwork

WINDOWS = [(), (1,), (2,), (1, 3), (1, 2), (1, 2, 3, 4, 5)]


def rydberg(shape):
    return qsr.Rydberg(Lx=shape[0], Ly=shape[1], V=3.0, delta=0.7, Omega=1.3).build()


def terms_of_every_draw(sampler, hamiltonian, configs, sampling, context=None):
    """Probabilities (B, flips) of a single draw, and the energies (B, flips) that each gives; found through `uniforms`."""
    masks, coefficients = hamiltonian.connected(configs)
    log_ratio = sampler.flip_log_ratio(configs, masks, window=sampling.window)[1]
    windowed = coefficients * (0.5 * log_ratio.double()).exp()
    possible = (coefficients != 0) & uncovered_flips(sampler.encode(masks.to(torch.uint8)), sampling.window)
    weights = None if sampling.weights is None else torch.tensor(sampling.weights, dtype=torch.float64)
    probabilities = proposal(windowed, possible, weights)
    upper = probabilities.cumsum(dim=1)
    middles = upper - probabilities / 2  # a uniform number in the middle of a flip's interval draws that flip
    single = FlipSampling(1, sampling.window, sampling.weights)
    energies = [
        sampled_local_energy(sampler, hamiltonian, configs, single, middles[:, i : i + 1]).values for i in range(len(masks))
    ]
    return probabilities, torch.stack(energies, dim=1), middles


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_mean_over_every_draw_is_the_exact_local_energy(name, window):
    sampler, shape = build(name), CASES[name][1]
    hamiltonian = rydberg(shape)
    configs = sampler.sample(7, torch.Generator().manual_seed(3))[0]
    exact = local_energy(sampler, hamiltonian, configs).values
    probabilities, energies, middles = terms_of_every_draw(sampler, hamiltonian, configs, FlipSampling(1, window))
    covered = probabilities.sum(dim=1) == 0
    assert torch.allclose(probabilities.sum(dim=1)[~covered], torch.ones((~covered).sum(), dtype=torch.float64), atol=1e-12)
    mean = torch.where(covered, energies[:, 0], (probabilities * energies).sum(dim=1))
    assert torch.allclose(mean, exact, rtol=0, atol=1e-10)

    # M = 2: all pairs of draws at once, for copies of the configurations.
    flips = middles.shape[1]
    first, second = torch.cartesian_prod(torch.arange(flips), torch.arange(flips)).T
    uniforms = torch.stack([middles[:, first], middles[:, second]], dim=-1).flatten(0, 1)
    found = sampled_local_energy(sampler, hamiltonian, configs.repeat_interleave(flips**2, 0), FlipSampling(2, window), uniforms)
    values = found.values.view(len(configs), flips**2)
    mean = torch.where(covered, values[:, 0], (probabilities[:, first] * probabilities[:, second] * values).sum(dim=1))
    assert torch.allclose(mean, exact, rtol=0, atol=1e-10)


def test_weights_and_other_hamiltonians_stay_unbiased():
    sampler = build("ptf-2x2-two-layers")
    configs = sampler.sample(5, torch.Generator().manual_seed(3))[0]
    hamiltonian = qsr.Heisenberg(Lx=4, Ly=2).build()  # two sites a flip, in one patch or in two; some elements are zero
    masks, _ = hamiltonian.connected(configs)
    weights = tuple(float(w) for w in torch.linspace(0.1, 3.0, len(masks)))
    exact = local_energy(sampler, hamiltonian, configs).values
    probabilities, energies, _ = terms_of_every_draw(sampler, hamiltonian, configs, FlipSampling(1, (1,), weights))
    mean = torch.where(probabilities.sum(1) == 0, energies[:, 0], (probabilities * energies).sum(dim=1))
    assert torch.allclose(mean, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_windowed_ratios_are_those_of_the_conditionals_in_the_window(name):
    sampler = build(name)
    configs = sampler.sample(4, torch.Generator().manual_seed(5))[0]
    masks = torch.rand(9, sampler.num_sites, generator=torch.Generator().manual_seed(1)) < 0.3
    masks = torch.cat([sampler.single_flips(configs.device), masks])
    xor = sampler.encode(masks.to(torch.uint8))
    before = sampler.conditionals(configs).gather(-1, sampler.encode(configs)[..., None])[..., 0]
    for window in WINDOWS:
        _, found = sampler.flip_log_ratio(configs, masks, window=window)
        for index, mask in enumerate(masks):
            flipped = configs ^ mask.to(torch.uint8)
            after = sampler.conditionals(flipped).gather(-1, sampler.encode(flipped)[..., None])[..., 0]
            if not mask.any():
                continue
            start = int((xor[index] != 0).nonzero()[0])
            places = [start, *(start + offset for offset in window if start + offset < sampler.num_tokens)]
            assert torch.allclose(found[:, index], (after - before)[:, places].sum(dim=1).detach(), atol=1e-10)


@pytest.fixture(scope="module")
def eight(request):
    model = qsr.load_model(request.config.rootpath / "demos" / "RNN").double()
    hamiltonian = qsr.Rydberg(Lx=8, Ly=8).build()
    configs = model.sample(24, torch.Generator().manual_seed(11))[0]
    return model, hamiltonian, configs, local_energy(model, hamiltonian, configs).values


@pytest.mark.parametrize("window", [(), (1, 2, 3, 4)], ids=str)
def test_a_hundred_repeats_on_8x8_scatter_as_their_error_bars_say(eight, window):
    model, hamiltonian, configs, exact = eight
    z_scores = []
    generator = torch.Generator().manual_seed(2024)
    for _ in range(100):
        uniforms = torch.rand(len(configs), 16, generator=generator, dtype=torch.float64)
        found = sampled_local_energy(model, hamiltonian, configs, FlipSampling(16, window), uniforms)
        # Of the mean over the configurations, whose 24 * 16 terms make it normal: single terms have long tails.
        error = math.sqrt(found.sampling_variance.sum().item()) / len(configs)
        z_scores.append((found.values.mean() - exact.mean()).item() / error)
    assert kstest(z_scores, "norm").pvalue > 1e-3


def test_reported_sampling_variance_is_that_of_the_draws(eight):
    model, hamiltonian, configs, _ = eight
    generator = torch.Generator().manual_seed(7)
    uniforms = torch.rand(200, len(configs), 4, generator=generator, dtype=torch.float64)
    repeats = [sampled_local_energy(model, hamiltonian, configs, FlipSampling(4, ()), one) for one in uniforms]
    spread = torch.stack([found.values for found in repeats]).var(dim=0).mean()
    claimed = torch.stack([found.sampling_variance for found in repeats]).mean()
    # 200 * 24 samples: 5 sigma of the ratio is below 0.3 even with the heavy tails of w = 0.
    assert abs(spread / claimed - 1) < 0.3


def test_draws_follow_the_proposals():
    proposals = torch.tensor([[0.0, 0.5, 0.0, 0.5], [0.25, 0.25, 0.5, 0.0]], dtype=torch.float64)
    uniforms = torch.tensor([[0.0, 0.4999, 0.5, 0.9999], [0.0, 0.25, 0.5, 0.9999]], dtype=torch.float64)
    assert draw(proposals, uniforms).tolist() == [[1, 1, 3, 3], [0, 1, 2, 2]]


def test_costs_are_counted_and_the_best_choice_minimises_cost_times_variance(eight):
    model, hamiltonian, configs, exact = eight
    costs = flip_costs(model, hamiltonian, configs)
    assert costs.exact_tokens == 64 * 15 / 2
    assert costs.fixed_tokens == 5 * 16
    assert costs.exact_variance == pytest.approx(exact.var().item())
    by_window = {entry.window: entry for entry in costs.windows}
    assert by_window[()].window_tokens == 0
    assert by_window[(1, 2, 3, 4)].window_tokens == sum(4 * min(4, 15 - k) for k in range(16))
    assert by_window[()].flip_variance > 100 * by_window[(1, 2, 3, 4, 5)].flip_variance > 0

    # A window without error is worth its M = 2; one of the state's own variance is not worth ten times the work.
    free = WindowCost((1,), 10.0, 1.0, 0.0, (1.0,))
    noisy = WindowCost((2,), 1000.0, 100.0, 5.0, (1.0,))
    made_up = FlipCosts(exact_tokens=1000.0, exact_variance=1.0, bulk_variance=1.0, fixed_tokens=10.0, windows=[noisy, free])
    assert made_up.best() == FlipSampling(2, (1,), (1.0,))
    assert FlipCosts(1000.0, 1.0, 1.0, 10.0, [noisy]).best() == EXACT
    assert FlipCosts(1000.0, 1.0, 1.0, 10.0, [noisy]).best((3,), allow_exact=False).num_flips == 3


def test_the_noise_of_drawn_flips_is_estimated_upwards(eight):
    """A few configurations have most of it: of small pilot batches at least 4 in 5 must say at least the truth."""
    model, hamiltonian, configs, _ = eight
    window = [(1, 2, 3, 4)]
    parts = [flip_costs(model, hamiltonian, part, window).windows[0].flip_variance for part in configs.split(8)]
    plain = flip_costs(model, hamiltonian, configs, window).windows[0].flip_variance / (1 + 2 / len(configs) ** 0.5)
    assert sum(found >= plain for found in parts) >= 0.8 * len(parts)


def test_a_model_without_a_sequence_is_refused():
    class Uniform(qsr.samplers.Sampler):
        num_sites = 4

    hamiltonian = rydberg((2, 2))
    with pytest.raises(ConfigError, match=r"train\.flips: Uniform is not autoregressive"):
        sampled_local_energy(Uniform(), hamiltonian, configurations(4), FlipSampling(1), torch.rand(16, 1))


@pytest.mark.parametrize("window", [(), (1,)], ids=str)
def test_drawn_flips_of_a_model_with_phase_are_unbiased(window):
    sampler = build("ptf-1")
    torch.manual_seed(2)
    sampler.add_phase(PhaseNetwork(6, 6, 2).double())
    generator = np.random.default_rng(0)
    strings = ["".join(generator.choice(list("IXYZ"), 6)) for _ in range(20)]
    hamiltonian = PauliSum(strings, generator.normal(size=20).tolist(), sampler.lattice)
    configs = sampler.sample(5, torch.Generator().manual_seed(3))[0]
    exact = local_energy(sampler, hamiltonian, configs).values
    assert exact.is_complex()
    probabilities, energies, middles = terms_of_every_draw(sampler, hamiltonian, configs, FlipSampling(1, window))
    mean = torch.where(probabilities.sum(1) == 0, energies[:, 0], (probabilities * energies).sum(dim=1))
    assert torch.allclose(mean, exact, rtol=0, atol=1e-10)
    two = sampled_local_energy(sampler, hamiltonian, configs, FlipSampling(2, window), middles[:, :2])
    assert torch.allclose(two.sampling_variance, (energies[:, 0] - energies[:, 1]).abs().square() / 4)
    costs = flip_costs(sampler, hamiltonian, configs, [window])
    assert costs.exact_variance == pytest.approx(float(exact.var()))
    # Estimated upwards, and with proposals of its own.
    added = float((probabilities * (energies - exact[:, None]).abs().square()).sum(dim=1).mean())
    assert 0.2 * added < costs.windows[0].flip_variance < 5 * added
