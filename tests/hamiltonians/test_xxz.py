"""The XXZ antiferromagnet: matrices of Kronecker products, the XY and Ising limits, and frustrated lattices."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qsr
from qsr.hamiltonians import configurations
from qsr.hparams import ConfigError, RunSettings, parse_sections
from tests.hamiltonians.test_site_values import on

SPINS = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]]) / 2


def dense(problem: Any) -> NDArray[np.complex128]:
    """H as it is written, without a rotation."""
    sites, lattice = problem.num_sites, problem.lattice()
    total = np.zeros((2**sites, 2**sites), dtype=complex)
    for i, j in itertools.combinations(range(sites), 2):
        if abs(lattice.distances()[i, j] - 1) < 0.01:
            for axis, weight in zip(SPINS, (1, 1, problem.Delta), strict=True):
                total += problem.J * weight * on(i, axis, sites) @ on(j, axis, sites)
    return total


@pytest.mark.parametrize("Delta", [0.0, 0.5, 1.0, 3.0, -0.7, -1.0])
@pytest.mark.parametrize(
    "where",
    [{"Lx": 2, "Ly": 3}, {"Lx": 3, "Ly": 2, "boundary": "cylinder"}, {"lattice": "honeycomb", "Lx": 2, "Ly": 2}],
    ids=["square", "cylinder", "honeycomb"],
)
def test_the_sign_rule_keeps_the_spectrum_and_makes_psi_positive(where: dict[str, Any], Delta: float) -> None:
    turned = qsr.Heisenberg(**where, J=1.5, Delta=Delta)
    plain = turned.updated({"sign_rule": False})
    expected = dense(turned)
    assert np.allclose(plain.build().to_sparse().toarray(), expected, rtol=0, atol=1e-12)
    found = turned.build().to_sparse().toarray()
    assert np.allclose(np.linalg.eigvalsh(found), np.linalg.eigvalsh(expected), rtol=0, atol=1e-10)
    assert (found - np.diag(found.diagonal())).max() <= 0 and turned.build().is_stoquastic and not plain.build().is_stoquastic


@pytest.mark.parametrize("num_sites", [4, 8, 12])
def test_the_xy_ring_and_the_xy_chain_are_free_fermions(num_sites: int) -> None:
    """E0 = -J / sin(pi/N) on a ring of N = 4k, and the sum of the negative J cos(pi k/(N+1)) on an open chain."""
    ring = qsr.Heisenberg(lattice="chain", Lx=num_sites, boundary="periodic", J=1.3, Delta=0)
    assert qsr.exact(ring).energy == pytest.approx(-1.3 / np.sin(np.pi / num_sites), rel=1e-11)
    levels = 1.3 * np.cos(np.pi * np.arange(1, num_sites + 1) / (num_sites + 1))
    assert qsr.exact(ring.updated({"boundary": "open"})).energy == pytest.approx(levels[levels < 0].sum(), rel=1e-11)


def test_two_spins_and_the_ising_limit() -> None:
    """A pair: the singlet at -J/2 - J Delta/4. Large Delta: -J Delta/4 for every bond, and less than it by O(1/Delta)."""
    for Delta in (0.0, 0.4, 2.0):
        assert qsr.exact(qsr.Heisenberg(Lx=2, Ly=1, J=2, Delta=Delta)).energy == pytest.approx(-1 - Delta / 2, rel=1e-12)
    square = qsr.Heisenberg(Lx=2, Ly=3, Delta=1e4)
    assert qsr.exact(square).energy / 1e4 == pytest.approx(-7 / 4, rel=1e-6)
    # Delta < -1 is a ferromagnet along z: all parallel.
    assert qsr.exact(square.updated({"Delta": -2.0})).energy == pytest.approx(-2 * 7 / 4, rel=1e-12)


def test_a_triangle_is_frustrated() -> None:
    """J/2 (S(S+1) - 3 * 3/4) with S = 1/2: E0 = -3J/4, fourfold."""
    triangle = {"lattice": "kagome", "Lx": 1, "Ly": 1}
    with pytest.raises(ConfigError, match=r"the lattice is not bipartite.*sign_rule=False.*phase=True"):
        qsr.exact(qsr.Heisenberg(**triangle))
    levels = np.linalg.eigvalsh(qsr.Heisenberg(**triangle, sign_rule=False).build().to_sparse().toarray())
    assert levels == pytest.approx([-0.75] * 4 + [0.75] * 4)
    assert qsr.Heisenberg(Lx=3, Ly=3, boundary="periodic", sign_rule=False).build().num_sites == 9


def test_a_frustrated_run_needs_a_phase(tmp_path: Path) -> None:
    magnet = qsr.Heisenberg(lattice="triangular", Lx=2, Ly=2, sign_rule=False, Delta=0.5)
    train = {"K": 64, "steps": 3, "dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"not stoquastic.*set phase=True"):
        qsr.train(magnet, qsr.RNN(patch=1, Nh=4), train)
    assert not list(tmp_path.iterdir())
    run = qsr.train(magnet, qsr.RNN(patch=1, Nh=4, phase=True), train)
    psi = np.exp(
        0.5 * run.model.log_prob(configurations(4)).detach().double().numpy()
        + 1j * run.model.phase(configurations(4)).detach().double().numpy()
    )
    assert abs(qsr.evaluate(run, 4096).z_score(float((psi.conj() @ dense(magnet) @ psi).real))) < 4


def test_other_spellings_and_old_files() -> None:
    tree = parse_sections(["--xxz", "Lx=2", "Ly=2", "Delta=0.5"])["hamiltonian"]
    assert tree["type"] == "heisenberg" and tree["Delta"] == 0.5
    old = {"type": "heisenberg", "Lx": 2, "Ly": 2, "boundary": "open", "J": 1.0}
    settings = RunSettings.from_tree({"model": {"type": "rnn", "patch": "1"}, "hamiltonian": old})
    assert settings.hamiltonian == qsr.Heisenberg(Lx=2, Ly=2, J=1.0, boundary="open")
