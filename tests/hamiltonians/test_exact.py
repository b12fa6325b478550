"""Exact diagonalisation against stored reference records and closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qsr.hamiltonians.base import basis_index, configurations
from qsr.hamiltonians.exact import exact_observables, ground_state
from qsr.hamiltonians.heisenberg import HeisenbergHamiltonian
from qsr.hamiltonians.ising import IsingHamiltonian, RydbergHamiltonian, TransverseFieldIsing
from qsr.hparams import ConfigError
from qsr.lattice import Lattice

DATA = Path(__file__).parents[1] / "data"
BUILD = {"rydberg": RydbergHamiltonian, "tfim": TransverseFieldIsing, "heisenberg": HeisenbergHamiltonian}


def reference_cases():
    for record in json.loads((DATA / "rydberg.json").read_text()):
        if record["method"] == "ed":
            name = "{model}-{Lx}x{Ly}-".format(**record) + "-".join(f"{key}{value}" for key, value in record["params"].items())
            slow = [pytest.mark.slow] if record["Lx"] * record["Ly"] > 16 else []
            yield pytest.param(record, id=name, marks=slow)


@pytest.mark.parametrize("record", list(reference_cases()))
def test_reference_records(record):
    lattice = Lattice(record["Lx"], record["Ly"], record["boundary"])
    expected = record["observables"]
    levels = expected.get("lowest_levels", [])[:2]
    result = ground_state(BUILD[record["model"]](lattice, **record["params"]))

    assert result.energy == pytest.approx(record["energy"], rel=1e-12, abs=5 * record["uncertainty"])
    assert result.gap == pytest.approx(expected["gap"], rel=1e-9, abs=1e-12 * abs(record["energy"]))
    assert result.levels[: len(levels)] == pytest.approx(np.array(levels), rel=1e-12)
    assert result.residual < 1e-10
    assert result.amplitudes.min() >= 0
    assert np.linalg.norm(result.amplitudes) == pytest.approx(1, abs=1e-12)

    # A state is known to residual/gap; the references have residuals of 1e-13.
    tolerance = 1e-9 + 1e-12 / expected["gap"]
    found = exact_observables(result, lattice)
    for name in set(found) & set(expected):
        assert found[name] == pytest.approx(np.array(expected[name]), rel=1e-9, abs=tolerance), name
    if record["model"] == "rydberg":
        assert set(found) <= set(expected)


@pytest.mark.parametrize("side", [3, 4])
def test_born_probabilities_of_the_rydberg_array(side):
    psi2 = np.load(DATA / f"{side}x{side}_V7_delta1_psi2.npz")["psi2"]
    found = ground_state(RydbergHamiltonian(Lattice(side, side))).amplitudes ** 2
    np.testing.assert_allclose(found, psi2, atol=1e-13)
    likely = psi2 > 1e-12
    np.testing.assert_allclose(found[likely], psi2[likely], rtol=1e-5)


def test_critical_ising_chain_is_the_closed_form():
    """Open chain of N sites at J = h = 1: E0 = 1 - 1/sin(pi/(4N + 2)) (P. Pfeuty, Ann. Phys. 57, 79 (1970))."""
    for num_sites in (6, 12):
        energy = ground_state(TransverseFieldIsing(Lattice(num_sites, 1))).energy
        assert energy == pytest.approx(1 - 1 / np.sin(np.pi / (4 * num_sites + 2)), rel=1e-12)


def test_iteration_agrees_with_dense_diagonalisation_of_the_matrix():
    """Ten sites, the smallest lattice that is iterated: unequal flips, and levels that come in degenerate pairs."""
    lattice = Lattice(2, 5)
    ising = TransverseFieldIsing(lattice)
    uneven = IsingHamiltonian(lattice, 0.5, ising.fields, ising.couplings, np.linspace(0.1, 2.0, 10))
    for hamiltonian in (uneven, HeisenbergHamiltonian(Lattice(10, 1, "periodic")), RydbergHamiltonian(lattice, delta=2.0)):
        dense = np.linalg.eigvalsh(hamiltonian.to_sparse().toarray())
        result = ground_state(hamiltonian, num_levels=5)
        assert result.levels == pytest.approx(dense[:5], abs=1e-11)
        assert result.residual < 1e-11


def test_one_level_has_no_gap():
    result = ground_state(RydbergHamiltonian(Lattice(2, 5)), num_levels=1)
    assert len(result.levels) == 1
    assert np.isnan(result.gap)


def test_classical_limit_keeps_its_degeneracies():
    """Without flips: two checkerboards of a periodic 4x4 antiferromagnet, and single spins turned over on either."""
    hamiltonian = TransverseFieldIsing(Lattice(4, 4, "periodic"), J=-1.0, h=0.0)
    result = ground_state(hamiltonian, num_levels=3)
    assert result.levels == pytest.approx([-32.0, -32.0, -24.0])
    assert result.residual == 0
    assert exact_observables(result, hamiltonian.lattice)["staggered_abs"] == 0.5


class Twisted:
    """A Hamiltonian after a site-dependent change of phase: the same spectrum, complex off-diagonal elements."""

    is_stoquastic = False

    def __init__(self, hamiltonian):
        self.hamiltonian, self.lattice, self.num_sites = hamiltonian, hamiltonian.lattice, hamiltonian.num_sites

    def diagonal(self, configs):
        return self.hamiltonian.diagonal(configs)

    def connected(self, configs):
        masks, coefficients = self.hamiltonian.connected(configs)
        angles = torch.linspace(0.3, 2.0, self.num_sites, dtype=torch.float64)
        turn = ((1 - 2 * configs.double())[:, None, :] * masks) @ angles
        return masks, torch.polar(coefficients.abs(), turn) * coefficients.sign()


@pytest.mark.parametrize("shape", [(2, 3), (2, 5)])
def test_complex_elements(shape):
    hamiltonian = RydbergHamiltonian(Lattice(*shape))
    plain, twisted = ground_state(hamiltonian), ground_state(Twisted(hamiltonian))
    assert twisted.energy == pytest.approx(plain.energy, abs=1e-12)
    assert twisted.gap == pytest.approx(plain.gap, abs=1e-10)
    np.testing.assert_allclose(np.abs(twisted.amplitudes), plain.amplitudes, atol=1e-10)
    largest = twisted.amplitudes[np.argmax(np.abs(twisted.amplitudes))]
    assert largest.real > 0
    assert abs(largest.imag) < 1e-12
    assert twisted.residual < 1e-10


def test_amplitudes_are_in_basis_order():
    """A field that is strongest on site 0 must show in bit 0."""
    lattice = Lattice(2, 1)
    hamiltonian = IsingHamiltonian(lattice, 0.0, np.array([-5.0, 5.0]), np.zeros((2, 2)), np.full(2, 0.1))
    likely = ground_state(hamiltonian).amplitudes.argmax()
    assert configurations(2)[likely].tolist() == [1, 0]
    assert basis_index(torch.tensor([[1, 0]])).item() == likely


def test_limits_are_named():
    with pytest.raises(ConfigError, match=r"ground_state: at most 20 sites .* found 24"):
        ground_state(RydbergHamiltonian(Lattice(4, 6)))
    with pytest.raises(ValueError, match="num_levels=5: must be between 1 and 4"):
        ground_state(RydbergHamiltonian(Lattice(2, 1)), num_levels=5)


def test_a_single_atom():
    """E = -delta/2 - sqrt(delta^2 + Omega^2)/2, and no bond to average over."""
    hamiltonian = RydbergHamiltonian(Lattice(1, 1), Omega=0.8, delta=0.6)
    result = ground_state(hamiltonian)
    assert (result.energy, result.gap) == pytest.approx((-0.8, 1.0))
    found = exact_observables(result, hamiltonian.lattice)
    assert found["sx_mean"] == pytest.approx(0.8)
    assert "nn_mean" not in found
