"""Rydberg arrays in the units of an experiment: the same physics as without units, and what is refused."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import qsr
from qsr.hamiltonians import configurations
from qsr.hparams import ConfigError, RunSettings

C6 = 5420503.0  # rad/us um^6: rubidium in 70S_1/2
ATOMS: dict[str, Any] = {"units": "rad/us", "C6": C6, "Omega": 15.8, "delta": 20.0}
POINTS = [[0.0, 0.0], [5.5, 0.0], [5.5, 6.0], [0.0, 7.0], [11.0, 1.0]]


def test_a_lattice_in_micrometres_is_the_dimensionless_one() -> None:
    """In units of Omega the energy is E/Omega, with V = C6 / a^6 / Omega and detuning delta / Omega."""
    found = qsr.exact(qsr.Rydberg(Lx=3, Ly=3, spacing=5.5, **ATOMS))
    plain = qsr.exact(qsr.Rydberg(Lx=3, Ly=3, V=C6 / 5.5**6 / 15.8, delta=20 / 15.8))
    assert found.energy / 15.8 == pytest.approx(plain.energy, rel=1e-12)
    assert found.gap / 15.8 == pytest.approx(plain.gap, rel=1e-9)
    assert found.observables["density_mean"] == pytest.approx(plain.observables["density_mean"], rel=1e-9)


def test_positions_in_micrometres_are_the_lattice_with_that_spacing() -> None:
    grid = qsr.Rydberg(Lx=2, Ly=3, spacing=6.1, **ATOMS)
    free = qsr.Rydberg(positions=6.1 * grid.lattice().positions, **ATOMS)
    assert qsr.exact(free).energy == pytest.approx(qsr.exact(grid).energy, rel=1e-12)


def test_megahertz_are_two_pi_radians_per_microsecond() -> None:
    turn = 2 * np.pi
    frequencies = {"units": "MHz", "C6": C6 / turn, "Omega": 15.8 / turn, "delta": 20 / turn}
    in_rad = qsr.exact(qsr.Rydberg(positions=POINTS, **ATOMS)).energy
    assert qsr.exact(qsr.Rydberg(positions=POINTS, **frequencies)).energy * turn == pytest.approx(in_rad, rel=1e-12)


@pytest.mark.parametrize("distance", [4.0, 9.76, 20.0])
def test_two_atoms_on_resonance(distance: float) -> None:
    """|gg>, (|gr> + |rg>)/sqrt 2 and |rr> at delta = 0: [[0, s, 0], [s, 0, s], [0, s, V]] with s = -Omega/sqrt 2, V = C6/r^6.

    Its levels solve E^3 - V E^2 - Omega^2 E + V Omega^2/2 = 0; at full blockade the lowest is -Omega/sqrt 2.
    """
    omega = 2 * np.pi
    pair = qsr.Rydberg(
        positions=[[1.0, 2.0], [1.0 + 0.6 * distance, 2.0 + 0.8 * distance]], **{**ATOMS, "Omega": omega, "delta": 0}
    )
    repulsion = C6 / distance**6
    lowest = min(np.roots([1, -repulsion, -(omega**2), repulsion * omega**2 / 2]).real)
    assert qsr.exact(pair).energy == pytest.approx(lowest, rel=1e-9)
    if distance == 4.0:
        assert qsr.exact(pair).energy == pytest.approx(-omega / np.sqrt(2), rel=2e-3)


def test_the_problem_line_has_the_blockade_radius_and_the_unit() -> None:
    radius = (C6 / 15.8) ** (1 / 6)
    end = f"C6=5420503.0 spacing=5.5, Rb={radius:.4g} um, Rb/a={radius / 5.5:.4g}, energies in rad/us"
    line = qsr.Rydberg(Lx=3, Ly=3, spacing=5.5, **ATOMS).describe()
    assert line == f"rydberg 3x3 open: Omega=15.8 delta=20.0 {end}"
    assert qsr.exact(qsr.Rydberg(Lx=3, Ly=3, spacing=5.5, **ATOMS)).lines()[0] == line
    assert qsr.Rydberg(positions=POINTS, **ATOMS).describe().endswith(f"Rb/a={radius / 5.5:.4g}, energies in rad/us")
    assert qsr.Rydberg(Lx=4, Ly=4).describe() == "rydberg 4x4 open: V=7.0 Omega=1.0 delta=1.0, Rb/a=1.383"
    assert qsr.Rydberg(Lx=4, Ly=4, Omega=0).describe() == "rydberg 4x4 open: V=7.0 Omega=0.0 delta=1.0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**ATOMS, "spacing": 5.5, "V": 7}, r"rydberg\.V=7\.0: excludes units=rad/us"),
        (ATOMS, r"rydberg\.spacing: must be given with units=rad/us"),
        ({"units": "MHz", "Omega": 1, "delta": 1, "spacing": 5}, r"rydberg\.C6: must be given with units=MHz"),
        ({"units": "MHz", "C6": 1, "delta": 1, "spacing": 5}, r"rydberg\.Omega: must be given with units=MHz"),
        ({"units": "MHz", "C6": 1, "Omega": 1, "spacing": 5}, r"rydberg\.delta: must be given with units=MHz"),
        ({"C6": 862690}, r"rydberg\.C6=862690\.0: needs units=rad/us or units=MHz"),
        ({"spacing": 5.5}, r"rydberg\.spacing=5\.5: needs units"),
        ({**ATOMS, "spacing": -1}, r"rydberg\.spacing=-1: must be larger than 0"),
        ({"units": "GHz"}, r"rydberg\.units=GHz: must be 'rad/us' or 'MHz'"),
        ({"V": None}, r"rydberg\.V=None: must be a number"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qsr.Rydberg(Lx=2, Ly=2, **values)


def test_positions_have_no_spacing() -> None:
    with pytest.raises(ConfigError, match=r"rydberg\.positions: excludes spacing=5\.5"):
        qsr.Rydberg(positions=POINTS, spacing=5.5, **ATOMS)


def test_settings_are_stored_and_changed_in_their_units() -> None:
    problem = {"type": "rydberg", "Lx": 2, "Ly": 2, "spacing": 5.5, **ATOMS}
    settings = RunSettings.from_tree({"model": {"type": "rnn", "patch": "1"}, "hamiltonian": problem})
    assert RunSettings.from_tree(json.loads(json.dumps(settings.tree()))) == settings
    assert settings.updated({"hamiltonian": {"delta": 5.0}}).hamiltonian.delta == 5.0
    mhz = {"units": "MHz", "C6": 862690.0, "Omega": 2.0, "delta": 1.0}
    assert settings.updated({"hamiltonian": mhz}).hamiltonian == qsr.Rydberg(Lx=2, Ly=2, spacing=5.5, **mhz)
    with pytest.raises(ConfigError, match=r"rydberg\.C6: must be given with units=MHz"):  # the stored number is another unit's
        settings.updated({"hamiltonian": {"units": "MHz", "Omega": 2.0, "delta": 1.0}})
    plain = RunSettings.from_tree({"model": {"type": "rnn", "patch": "1"}, "hamiltonian": {"type": "rydberg", "Lx": 2, "Ly": 2}})
    assert plain.updated({"hamiltonian": {**ATOMS, "spacing": 5.5}}).hamiltonian.V is None


def test_a_run_reports_in_its_units(tmp_path: Path) -> None:
    array = qsr.Rydberg(Lx=2, Ly=2, spacing=5.5, **ATOMS)
    run = qsr.train(array, qsr.RNN(patch=1, Nh=8), {"K": 64, "steps": 3, "lr": 0.02, "dir": str(tmp_path)})
    assert run.path is not None
    psi = (0.5 * run.model.log_prob(configurations(4)).detach().double()).exp().numpy()
    found = qsr.evaluate(run, 4096)
    assert abs(found.z_score(float(psi @ (array.build().to_sparse() @ psi)))) < 4
    assert found.problem == array.describe() and array.describe() in (run.path / "output.txt").read_text()
    with h5py.File(run.path / "history.h5") as file:
        assert (file["steps/energy"].attrs["unit"], file["steps/variance"].attrs["unit"]) == ("rad/us", "rad/us^2")
    assert qsr.plot(run).stat().st_size > 10_000


@pytest.mark.parametrize("optimizer", [{"name": "spring"}, {"name": "SGD"}])
def test_a_run_takes_the_steps_of_the_dimensionless_one(optimizer: dict[str, str]) -> None:
    """Energies that are 15.8 times as large must not make steps that are: the same weights after them."""
    problems = [qsr.Rydberg(Lx=2, Ly=2, spacing=5.5, **ATOMS), qsr.Rydberg(Lx=2, Ly=2, V=C6 / 5.5**6 / 15.8, delta=20 / 15.8)]
    train = {"K": 64, "steps": 5, "lr": 0.02, "dir": "<NONE>", "precision": "float64"}
    model = qsr.PTF(patch=1, Nh=8, nhead=2)
    in_units, plain = (qsr.train(p, model, train, optimizer=optimizer).model.state_dict() for p in problems)
    assert all(torch.allclose(in_units[name], plain[name], rtol=0, atol=1e-9) for name in plain)
