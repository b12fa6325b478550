"""Settings of the three problems: what they build, and what they refuse."""

import numpy as np
import pytest

from qsr.hamiltonians.heisenberg import HeisenbergHamiltonian
from qsr.hamiltonians.ising import RydbergHamiltonian, TransverseFieldIsing
from qsr.hamiltonians.settings import TFIM, Heisenberg, Rydberg
from qsr.hparams import ConfigError

TRIANGLE = [[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]]


def test_defaults_are_those_of_the_source():
    settings = Rydberg()
    assert (settings.V, settings.Omega, settings.delta, settings.boundary) == (7.0, 1.0, 1.0, "open")
    assert (TFIM().J, TFIM().h, Heisenberg().J) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "built"),
    [
        (Rydberg(Lx=2, Ly=3), RydbergHamiltonian),
        (TFIM(Lx=2, Ly=3), TransverseFieldIsing),
        (Heisenberg(Lx=2, Ly=3), HeisenbergHamiltonian),
    ],
)
def test_builds_its_hamiltonian_on_its_lattice(settings, built):
    hamiltonian = settings.build()
    assert type(hamiltonian) is built
    assert hamiltonian.num_sites == settings.num_sites == 6
    assert hamiltonian.lattice == settings.lattice()
    assert settings.shape == (2, 3)
    assert settings.describe_size() == f"{settings.section} has Lx*Ly = 2*3 = 6 sites"


def test_parameters_and_boundary_reach_the_hamiltonian():
    hamiltonian = Rydberg(Lx=4, Ly=1, boundary="periodic", V=3.0, Omega=0.5, delta=-2.0).build()
    assert hamiltonian.couplings[0, 3] == 3.0  # neighbours across the boundary
    assert hamiltonian.transverse == pytest.approx(np.full(4, 0.25))
    assert hamiltonian.fields == pytest.approx(np.full(4, 2.0))
    ising = TFIM(Lx=2, Ly=1, J=-2.0, h=3.0).build()
    assert (ising.constant, ising.couplings[0, 1], ising.transverse[0]) == (2.0, 8.0, 3.0)


def test_positions_replace_the_lattice():
    settings = Rydberg(positions=TRIANGLE)
    assert settings.shape == (3, 1)
    assert settings.describe_size() == "rydberg.positions has 3 sites"
    assert settings.build().couplings[np.triu_indices(3, 1)] == pytest.approx(np.full(3, 7.0))  # an equilateral triangle


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (Rydberg, {"positions": TRIANGLE, "Lx": 3}, r"rydberg\.positions: excludes Lx=3"),
        (Rydberg, {"positions": TRIANGLE, "Ly": 1}, r"rydberg\.positions: excludes Ly=1"),
        (Rydberg, {"positions": TRIANGLE, "boundary": "periodic"}, r"rydberg\.positions: excludes boundary=periodic"),
        (Rydberg, {"positions": [[0, 0], [0, 0]]}, r"rydberg\.positions.*same point"),
        (Rydberg, {"Lx": 0}, r"rydberg\.Lx=0: must be at least 1"),
        (Rydberg, {"boundary": "closed"}, r"rydberg\.boundary=closed"),
        (Rydberg, {"Omega": -1.0}, r"rydberg\.Omega=-1\.0: must be at least 0"),
        (Rydberg, {"Omega": float("inf")}, r"rydberg\.Omega=inf: must be a finite number"),
        (Rydberg, {"V": float("nan")}, r"rydberg\.V=nan: must be a finite number"),
        (Rydberg, {"delta": "much"}, r"rydberg\.delta=much: must be a number"),
        (Rydberg, {"L": 16}, r"rydberg\.L: unknown setting"),
        (TFIM, {"h": -0.5}, r"tfim\.h=-0\.5: must be at least 0"),
        (TFIM, {"J": float("-inf")}, r"tfim\.J=-inf: must be a finite number"),
        (TFIM, {"positions": TRIANGLE}, r"tfim\.positions: unknown setting"),
        (Heisenberg, {"J": 0.0}, r"heisenberg\.J=0\.0: must be larger than 0"),
        (Heisenberg, {"Lx": 4, "Ly": 5, "boundary": "periodic"}, r"heisenberg\.Ly=5: must be even with boundary=periodic"),
    ],
)
def test_bad_settings_are_refused_by_name(section, values, message):
    with pytest.raises(ConfigError, match=message):
        section(**values)


@pytest.mark.parametrize("text", ["inf", "nan", "-1", "one"])
def test_bad_text_from_the_command_line_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=rf"rydberg\.Omega={text}"):
        Rydberg.from_text({"Omega": text})


@pytest.mark.parametrize("section", [Rydberg, TFIM, Heisenberg])
def test_a_size_must_be_set_before_use(section):
    for use in (
        lambda s: s.shape,
        lambda s: s.num_sites,
        lambda s: s.lattice(),
        lambda s: s.describe_size(),
        lambda s: s.build(),
    ):
        with pytest.raises(ConfigError, match=rf"{section.section}\.Ly: .*not set"):
            use(section(Lx=4))


def test_an_odd_open_lattice_is_bipartite_and_a_chain_may_close_on_itself():
    assert Heisenberg(Lx=3, Ly=3).build().num_sites == 9
    assert Heisenberg(Lx=6, Ly=1, boundary="periodic").build().num_sites == 6
