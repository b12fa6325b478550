"""Purity by the swap trick and fidelity: against reduced density matrices and overlaps, by enumeration of all pairs."""

import math

import pytest
import torch

from qsr.estimators import RunningMoments
from qsr.estimators.replicas import Fidelity, log_amplitude, overlap_terms, renyi2, swap_terms
from qsr.hamiltonians.base import configurations
from qsr.lattice import Lattice
from qsr.samplers import LPTF, PTF, RNN
from tests.estimators.tabled import TabledState, exact_purity


def built(settings, shape, seed=0):
    """A network with weights of its own, scaled so that the state is far from a product."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sampler = settings.build(Lattice(*shape)).double().eval()
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.mul_(4.0)
    return sampler


def amplitudes(sampler, configs):
    modulus, phase = log_amplitude(sampler, configs)
    return torch.polar(modulus.exp(), phase)


NETWORKS = {
    "rnn": (RNN(Nh=8, patch=1), (2, 4), "rows:1"),
    "rnn-phase": (RNN(Nh=8, patch=1, phase=True), (3, 3), "columns:1"),
    "ptf-phase": (PTF(Nh=8, nhead=2, patch="2x2", phase=True), (2, 4), "sites:0,3,5"),
    "lptf": (LPTF(Nh=8, nhead=2, patch="2x2", subsampler=RNN(Nh=8, patch=1)), (2, 4), "columns:2"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_pairs_give_the_purity_of_the_reduced_density_matrix(name):
    settings, shape, region = NETWORKS[name]
    sampler = built(settings, shape)
    sites = Lattice(*shape).region(region)
    basis = configurations(shape[0] * shape[1])
    psi = amplitudes(sampler, basis)
    born = psi.abs().square()
    assert born.sum().item() == pytest.approx(1)
    first, second = (
        index.flatten() for index in torch.meshgrid(torch.arange(len(basis)), torch.arange(len(basis)), indexing="ij")
    )
    terms = torch.cat(
        [
            swap_terms(sampler, basis[a], basis[b], sites, 2**24)
            for a, b in zip(first.split(2**15), second.split(2**15), strict=True)
        ]
    )
    weights = born[first] * born[second]
    expected = exact_purity(psi, sites.tolist())
    assert expected < 0.999
    assert (weights * terms).sum().item() == pytest.approx(expected, abs=1e-10)
    assert terms.abs().max() <= 1


def entropy(state, sites, num_samples=4000):
    configs, _ = state.sample(2 * num_samples, torch.Generator().manual_seed(3))
    moments = RunningMoments()
    moments.update(swap_terms(state, configs[:num_samples], configs[num_samples:], sites).numpy())
    return renyi2(moments)


def test_a_product_state_has_no_entropy():
    one = [
        torch.tensor([math.cos(a), math.sin(a) * complex(math.cos(b), math.sin(b))], dtype=torch.complex128)
        for a, b in ((0.3, 1.0), (1.1, -0.4), (0.8, 2.0))
    ]
    psi = torch.stack([one[0][i] * one[1][j] * one[2][k] for k in (0, 1) for j in (0, 1) for i in (0, 1)])
    found = entropy(TabledState(psi), [0, 2])
    assert abs(found.mean) < 1e-12 and found.error < 1e-12


@pytest.mark.parametrize("sites", [[0], [0, 1, 2], [1, 3]])
def test_a_cat_state_has_ln_2(sites):
    """(|0101> + i |1010>) / sqrt 2, whatever the region."""
    psi = torch.zeros(16, dtype=torch.complex128)
    psi[0b1010], psi[0b0101] = 1.0, 1.0j
    found = entropy(TabledState(psi), sites)
    assert abs(found.mean - math.log(2)) < 4 * found.error and 0 < found.error < 0.05


def test_bell_pairs_add_up():
    """n_0 = n_1 and n_2 = n_3: each cut pair gives ln 2."""
    psi = torch.zeros(16)
    psi[[0b0000, 0b0011, 0b1100, 0b1111]] = 1.0
    found = entropy(TabledState(psi), [0, 2])
    assert exact_purity(TabledState(psi).psi, [0, 2]) == pytest.approx(0.25)
    assert abs(found.mean - 2 * math.log(2)) < 4 * found.error


def test_a_purity_that_is_not_positive_has_no_logarithm():
    moments = RunningMoments()
    moments.update([-0.5, 0.1])
    assert math.isnan(renyi2(moments).mean)


@pytest.mark.parametrize("phase", [False, True])
def test_fidelity_by_enumeration(phase):
    psi, phi = (built(RNN(Nh=8, patch=1, phase=phase), (2, 4), seed) for seed in (1, 2))
    basis = configurations(8)
    a, b = (amplitudes(state, basis) for state in (psi, phi))
    overlap = (a.conj() * b).sum()
    assert 0.005 < overlap.abs() ** 2 < 0.95
    terms = overlap_terms(psi, phi, basis)
    assert terms.abs().max() <= 1
    torch.testing.assert_close(((a.abs().square() + b.abs().square()) / 2 * terms).sum(), overlap)
    fidelity = Fidelity()
    for batch in range(8):
        generator = torch.Generator().manual_seed(batch)
        fidelity.update(*(overlap_terms(psi, phi, state.sample(2000, generator)[0]) for state in (psi, phi)))
    found = fidelity.estimate()
    assert abs(found.mean - overlap.abs().item() ** 2) < 4 * found.error and found.error < 0.02


def test_fidelity_of_equal_and_of_disjoint_states():
    basis = torch.eye(4)
    psi, phi = TabledState(basis[0] + 1j * basis[1]), TabledState(basis[2] - basis[3])
    turned = TabledState(1j * psi.psi)  # the same state
    for other, exact in ((turned, 1.0), (phi, 0.0)):
        fidelity = Fidelity()
        fidelity.update(*(overlap_terms(psi, other, state.sample(100)[0]) for state in (psi, other)))
        found = fidelity.estimate()
        assert abs(found.mean - exact) < 1e-12 and found.error < 1e-12


def test_orthogonal_states_that_overlap_everywhere():
    """Plus and minus: all terms are +1 or -1, and only the second order of the error is left."""
    psi, phi = TabledState(torch.tensor([1.0, 1.0])), TabledState(torch.tensor([1.0, -1.0]))
    inside = []
    for seed in range(400):
        fidelity, generator = Fidelity(), torch.Generator().manual_seed(seed)
        fidelity.update(*(overlap_terms(psi, phi, state.sample(200, generator)[0]) for state in (psi, phi)))
        found = fidelity.estimate()
        inside.append((abs(found.mean) < 2 * found.error, found.mean / found.error))
    assert sum(here for here, _ in inside) > 0.9 * 400
    assert abs(sum(score for _, score in inside) / 400) < 4 / 20, "no bias"


def test_memory_bounds_the_rows_at_once():
    sampler = built(RNN(Nh=8, patch=1), (2, 4))
    basis = configurations(8)
    torch.testing.assert_close(log_amplitude(sampler, basis, 1), log_amplitude(sampler, basis))
