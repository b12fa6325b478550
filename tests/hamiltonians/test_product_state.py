"""Product-state energies: known values, and variational bounds on exact energies."""

import json
from pathlib import Path

import numpy as np
import pytest

from qsr.hamiltonians.exact import ground_state
from qsr.hamiltonians.heisenberg import HeisenbergHamiltonian
from qsr.hamiltonians.ising import IsingHamiltonian, RydbergHamiltonian, TransverseFieldIsing
from qsr.hamiltonians.product_state import cluster_product_energy, site_product_energy
from qsr.hparams import ConfigError
from qsr.lattice import Lattice

RECORDS = json.loads((Path(__file__).parents[1] / "data" / "rydberg.json").read_text())


@pytest.mark.parametrize(("side", "uniform", "staggered"), [(8, -0.3513, -0.3636), (16, -0.3321, -0.3379)])
def test_known_site_products(side, uniform, staggered):
    found = site_product_energy(RydbergHamiltonian(Lattice(side, side)))
    assert found.uniform / side**2 == pytest.approx(uniform, abs=6e-5)
    assert found.staggered / side**2 == pytest.approx(staggered, abs=6e-5)
    assert found.energy == found.staggered


@pytest.mark.parametrize(("side", "saddle", "staggered"), [(8, -0.3687, -0.3736), (16, -0.3412, -0.3447)])
def test_known_cluster_products(side, saddle, staggered):
    """From equal densities, the fully symmetric solution (a saddle point) has the energy `saddle`; ours leaves it downwards."""
    found = cluster_product_energy(RydbergHamiltonian(Lattice(side, side)), "2x2")
    assert found.staggered / side**2 == pytest.approx(staggered, abs=6e-5)
    assert found.staggered < found.uniform < saddle * side**2


@pytest.mark.parametrize("patch", ["1", "2x2"])
def test_bounds_on_exact_energies(patch):
    records = [r for r in RECORDS if r["model"] == "rydberg" and r["Lx"] % 2 == r["Ly"] % 2 == 0]
    assert {(r["Lx"], r["Ly"]) for r in records} >= {(2, 2), (4, 4), (6, 6), (8, 8)}
    for record in records:
        hamiltonian = RydbergHamiltonian(Lattice(record["Lx"], record["Ly"]), **record["params"])
        energy = cluster_product_energy(hamiltonian, patch).energy
        assert energy > record["energy"] - 1e-9
        assert energy < 0.75 * record["energy"]  # both negative: not far above either


def test_larger_clusters_are_better():
    hamiltonian = RydbergHamiltonian(Lattice(6, 6))
    energies = [cluster_product_energy(hamiltonian, patch).energy for patch in ("1", "1x2", "2x2", "2x3")]
    assert energies == sorted(energies, reverse=True)


@pytest.mark.parametrize("hamiltonian", [RydbergHamiltonian(Lattice(2, 3)), TransverseFieldIsing(Lattice(2, 3), J=1.0, h=0.7)])
def test_one_cluster_is_exact(hamiltonian):
    """A single patch has no mean field: both starts give the exact energy."""
    found = cluster_product_energy(hamiltonian, "2x3")
    exact = ground_state(hamiltonian).energy
    assert (found.uniform, found.staggered) == pytest.approx((exact, exact), abs=1e-11)


def test_energy_is_the_expectation_in_a_product_state():
    """Two sites by brute force over all product states: cos(a)|0> + sin(a)|1> times cos(b)|0> + sin(b)|1>."""
    couplings = np.array([[0.0, 3.0], [3.0, 0.0]])
    hamiltonian = IsingHamiltonian(Lattice(2, 1), 0.7, np.array([-1.0, -1.5]), couplings, np.array([0.5, 0.8]))
    angle = np.linspace(0, np.pi / 2, 2001)
    density, flip = np.sin(angle) ** 2, np.sin(2 * angle)
    first, second = -1.0 * density - 0.5 * flip, -1.5 * density - 0.8 * flip
    brute = 0.7 + first[:, None] + second[None, :] + 3.0 * np.outer(density, density)
    assert site_product_energy(hamiltonian).energy == pytest.approx(brute.min(), abs=1e-6)


def test_uncoupled_sites_are_products():
    """Without couplings every site has -delta/2 - sqrt(delta^2 + Omega^2)/2."""
    energy = site_product_energy(RydbergHamiltonian(Lattice(3, 5), V=0.0, Omega=0.8, delta=0.6)).energy
    assert energy == pytest.approx(15 * -0.8, abs=1e-12)


def test_what_cannot_be_computed_is_refused():
    hamiltonian = RydbergHamiltonian(Lattice(4, 4))
    with pytest.raises(TypeError, match="HeisenbergHamiltonian is not an IsingHamiltonian"):
        site_product_energy(HeisenbergHamiltonian(Lattice(2, 2)))
    with pytest.raises(ConfigError, match=r"product_state\.patch=3x3: does not tile the 4x4 lattice"):
        cluster_product_energy(hamiltonian, "3x3")
    with pytest.raises(ConfigError, match=r"product_state\.patch=4x4: at most 9 sites .* found 16"):
        cluster_product_energy(hamiltonian, "4x4")
    with pytest.raises(ConfigError, match=r"product_state\.patch=big"):
        cluster_product_energy(hamiltonian, "big")
