"""Families of Rydberg Hamiltonians against their members, and ranges as settings."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import qsr
from qsr.hamiltonians.base import configurations
from qsr.hamiltonians.family import RydbergFamily
from qsr.hparams import ConfigError, RunSettings, parse_sections
from qsr.hparams.ranges import Range

UNITS = {"units": "rad/us", "spacing": 5.5, "Omega": 15.8}
FAMILIES: dict[str, tuple[dict[str, Any], list[dict[str, float]]]] = {
    "delta": ({"delta": "0:3"}, [{"delta": 0.0}, {"delta": 1.3}, {"delta": 3.0}]),
    "all": (
        {"delta": "-1:3", "Omega": "0.5:2", "V": "5:7"},
        [{"delta": -0.7, "Omega": 0.5, "V": 6.1}, {"delta": 2.5, "Omega": 1.9, "V": 5.0}],
    ),
    "interaction and sites": (
        {"V": "-2:7", "delta": [0.1, 2, 0.3, -1, 0, 1], "Omega": [1, 0.5, 0, 1, 2, 1]},
        [{"V": -1.5}, {"V": 7}],
    ),
    "units": ({**UNITS, "C6": "3e6:6e6", "delta": "0:20"}, [{"C6": 5420503, "delta": 3.0}, {"C6": 3e6, "delta": 20.0}]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_members_are_the_hamiltonians_of_their_numbers(name: str) -> None:
    values, points = FAMILIES[name]
    ranged = qsr.Rydberg(Lx=2, Ly=3, **values)
    family, configs = ranged.family(), configurations(6)
    assert list(family.ranges) == list(ranged.ranges) and family.is_stoquastic
    for point in points:
        single = ranged.updated(point).build()
        assert abs(family.at(**point).to_sparse() - single.to_sparse()).max() < 1e-9
        rows = torch.tensor([[point[column] for column in family.ranges]], dtype=torch.float64).expand(64, -1)
        torch.testing.assert_close(family.diagonal(configs, rows), single.diagonal(configs), rtol=1e-12, atol=1e-12)
        masks, coefficients = family.connected(configs, rows)
        expected = single.connected(configs)
        assert torch.equal(masks, expected[0])
        torch.testing.assert_close(coefficients, expected[1], rtol=1e-12, atol=0)


def test_every_row_has_its_own_member() -> None:
    values, points = FAMILIES["all"]
    family = qsr.Rydberg(Lx=2, Ly=3, **values).family()
    configs = configurations(6)[[5, 5, 42, 63]]
    chosen = [points[0], points[1], points[1], points[0]]
    rows = family.rows(torch.tensor([[point[name] for name in family.ranges] for point in chosen], dtype=torch.float64))
    for row, point in enumerate(chosen):
        single, config = family.at(**point), configs[row : row + 1]
        assert rows.diagonal(configs)[row] == pytest.approx(single.diagonal(config).item(), rel=1e-13)
        torch.testing.assert_close(rows.connected(configs)[1][row], single.connected(config)[1][0])


def test_ranges_are_settings() -> None:
    (tree,) = parse_sections(["--rydberg", "Lx=2", "Ly=2", "delta=0:3", "V=5:7.25", "Omega=0.5"]).values()
    problem = qsr.Rydberg(**{name: value for name, value in tree.items() if name != "type"})
    assert problem.ranges == {"V": Range(5, 7.25), "delta": Range(0, 3)}
    assert problem.describe() == "rydberg 2x2 open: V=5:7.25 Omega=0.5 delta=0:3"
    assert problem == qsr.Rydberg(Lx=2, Ly=2, delta=Range(0, 3), V=Range(5, 7.25), Omega=0.5)
    settings = RunSettings.from_tree({"model": {"type": "rnn", "patch": "1"}, "hamiltonian": problem})
    stored = json.loads(json.dumps(settings.tree()))
    assert stored["hamiltonian"]["delta"] == "0:3" and RunSettings.from_tree(stored) == settings
    assert settings.updated({"hamiltonian": {"Lx": 4, "Ly": 2}}).hamiltonian.ranges == problem.ranges
    third = Range(1 / 3, 2 / 3)
    assert qsr.Rydberg(delta=str(third)).delta == third, "no digit is lost"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delta": "3:0"}, r"rydberg\.delta=3:0: must be a range from a smaller to a larger finite number"),
        ({"V": "7:7"}, r"rydberg\.V=7:7: must be a range"),
        ({"delta": "0:1e999"}, r"rydberg\.delta=0:1e999: must be a range from a smaller to a larger finite number"),
        ({"delta": "0:3:31"}, r"rydberg\.delta=0:3:31: must be a number, or a range of two such as 0:3"),
        ({"Omega": "-1:2"}, r"rydberg\.Omega=-1:2: must be at least 0"),
        ({"delta": "0:3,1,1,1"}, r"rydberg\.delta=0:3,1,1,1: must be a number, or one for each site"),
        ({"delta": ["0:3", 1, 1, 1]}, r"rydberg\.delta=.*: must be a number, or one for each site"),
        ({**UNITS, "C6": "1:2", "V": "1:2", "delta": 1}, r"rydberg\.V=1:2: excludes units"),
    ],
)
def test_what_is_no_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qsr.Rydberg(Lx=2, Ly=2, **values)


def test_a_range_is_not_one_hamiltonian() -> None:
    ranged = qsr.Rydberg(Lx=2, Ly=2, delta="0:3")
    for use in (ranged.build, lambda: qsr.exact(ranged)):
        with pytest.raises(ConfigError, match=r"rydberg\.delta=0:3: is a range; one number is needed here, such as delta=1\.5"):
            use()


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"delta": 3.5}, r"delta=3\.5: outside the range 0:3"),
        ({"delta": float("nan")}, r"delta=nan: outside the range 0:3"),
        ({"delta": 1.0, "V": 5.0}, r"V=5\.0: is no range of this model, which is for delta=0:3"),
        ({}, r"delta: choose a value in 0:3"),
    ],
)
def test_points_outside_are_refused(point: dict[str, float], message: str) -> None:
    family = RydbergFamily(qsr.Lattice(2, 2), {"delta": Range(0, 3), "V": 7.0, "Omega": 1.0})
    with pytest.raises(ConfigError, match=message):
        family.at(**point)


def test_a_family_without_a_drive_everywhere_is_stoquastic() -> None:
    assert qsr.Rydberg(Lx=2, Ly=2, Omega=0, delta="0:3").family().is_stoquastic
    family = RydbergFamily(qsr.Lattice(2, 2), {"delta": Range(0, 3), "V": 7.0, "Omega": np.array([1.0, 1, 1, -1])})
    assert not family.is_stoquastic
