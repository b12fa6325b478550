"""Error bars cover the truth: 2000 independent estimates of every observable of a trained 3x3 network, against its own values."""

import numpy as np
import pytest
import torch

import qsr
from qsr.estimators import OrderParameters, RunningMoments
from qsr.estimators.replicas import Fidelity, log_amplitude, overlap_terms, renyi2, swap_terms
from qsr.hamiltonians.base import configurations
from qsr.lattice import Lattice
from tests.estimators.tabled import TabledState, exact_purity
from tests.estimators.test_order import by_hand, flat

LATTICE, ESTIMATES, SAMPLES = Lattice(3, 3), 2000, 600
PAIRS = 1000
RARE = 50 / SAMPLES  # what is seen less than 50 times in a set has errors that no normal distribution describes


def trained(model, seed):
    """A network after a short training, far from done: coverage is that of its own state."""
    train = {"K": 256, "steps": 120, "lr": 0.02, "dir": "<NONE>", "seed": seed, "device": "cpu"}
    return qsr.train(qsr.Rydberg(Lx=3, Ly=3, delta=1.5), model, train=train).model


def tabled(sampler):
    modulus, phase = log_amplitude(sampler, configurations(LATTICE.num_sites))
    return TabledState(torch.polar(modulus.exp(), phase))


@pytest.fixture(scope="module")
def model():
    return trained(qsr.RNN(Nh=8, patch=3), seed=0)


@pytest.fixture(scope="module")
def samples(model):
    """(ESTIMATES, SAMPLES, N), all drawn by the network."""
    drawn, _ = model.sample(ESTIMATES * SAMPLES, torch.Generator().manual_seed(1))
    return drawn.view(ESTIMATES, SAMPLES, -1)


def assert_covered(values, errors, exact, name):
    """68 +- 4 % within one error, 95 +- 2 % within 1.96."""
    deviation = np.abs(np.asarray(values) - exact) / np.asarray(errors)
    for width, share, margin in ((1.0, 0.68, 0.04), (1.96, 0.95, 0.02)):
        inside = (deviation < width).mean(axis=0)
        assert np.all(np.abs(inside - share) < margin), f"{name}: {inside} within {width} errors"


def test_order_parameters(model, samples):
    state = tabled(model)
    momenta = [[0, 0], [2 * np.pi / 3, 0], [np.pi, np.pi], [1.0, 0.4]]
    exact = by_hand(LATTICE, state.born.numpy(), np.array(momenta))
    found = []
    for batch in samples:
        parameters = OrderParameters(LATTICE, momenta)
        parameters.update(batch)
        found.append(flat(parameters.results()))
    checked = 0
    for name in found[0]:
        values, errors = (np.array([one[name][part] for one in found]) for part in (0, 1))
        truth = np.asarray(exact[name])
        common = truth > RARE if name in ("staggered_distribution", "domain_sizes") else np.ones(truth.shape, dtype=bool)
        assert_covered(values[:, common], errors[:, common], truth[common], name)
        checked += int(common.sum())
    assert checked > 30


def test_entropy_and_purity(model):
    """Samples and terms are those of the network's table (the network's own are in test_replicas): a pure region is told by the
    few pairs that deviate, and takes more of them than the rest."""
    state = tabled(model)
    drawn, _ = state.sample(ESTIMATES * 2 * PAIRS, torch.Generator().manual_seed(4))
    for region in ("rows:2", "sites:4"):
        sites = LATTICE.region(region)
        terms = swap_terms(state, *drawn.chunk(2), sites).view(ESTIMATES, PAIRS)
        found = []
        for part in terms:
            moments = RunningMoments()
            moments.update(part.numpy())
            found.append((moments.estimate(), renyi2(moments)))
        purity = exact_purity(state.psi, sites.tolist())
        assert purity < 0.98
        for index, (name, exact) in enumerate((("purity", purity), ("renyi2", -np.log(purity)))):
            pairs = [one[index] for one in found]
            assert_covered([e.mean for e in pairs], [e.error for e in pairs], exact, f"{name} {region}")


@pytest.mark.parametrize("phase", [False, True])
def test_fidelity(model, samples, phase):
    """With a network of another seed, also where that one has a phase (an untrained one: the problem has no signs)."""
    if phase:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            other = qsr.RNN(Nh=8, patch=3, phase=True).build(LATTICE)
    else:
        other = trained(qsr.RNN(Nh=8, patch=3), seed=5)
    psi, phi = tabled(model), tabled(other)
    exact = (psi.psi.conj() * phi.psi).sum().abs().item() ** 2
    theirs, _ = other.sample(ESTIMATES * SAMPLES, torch.Generator().manual_seed(2))
    of_psi, of_phi = (overlap_terms(psi, phi, drawn.reshape(-1, 9)).view(ESTIMATES, SAMPLES) for drawn in (samples, theirs))
    found = []
    for here, there in zip(of_psi, of_phi, strict=True):
        fidelity = Fidelity()
        fidelity.update(here, there)
        found.append(fidelity.estimate())
    assert 0.01 < exact < 0.999
    assert_covered([e.mean for e in found], [e.error for e in found], exact, "fidelity")
