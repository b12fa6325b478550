"""Positions of atoms from files, some of them written by Pulser 1.9.1, amazon-braket-schemas and bloqade-analog 0.16.9."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qsr
from qsr.hparams import ConfigError
from qsr.hparams.positions import read_positions

FILES = Path(__file__).parents[1] / "data" / "measured"
HEIGHT = 6 * 3**0.5 / 2
ROOT = 3**0.5
PAIRS = [(-7.5, -0.5), (-1.5, -0.5), (4.5, -0.5), (-4.5, 0.5), (1.5, 0.5), (7.5, 0.5)]
KAGOME = [[0, 0], [5.5, 0], [2.75, 2.75 * ROOT], [5.5, 5.5 * ROOT], [11, 5.5 * ROOT], [8.25, 8.25 * ROOT]]


@pytest.mark.parametrize(
    ("name", "places", "rounded"),
    [
        ("pulser_register.json", [[-5.5, -2.75], [0, -2.75], [5.5, -2.75], [-5.5, 2.75], [0, 2.75], [5.5, 2.75]], 0.0),
        # Register.triangular_lattice(2, 3, spacing=6) in a sequence
        ("pulser_sequence.json", [[x, y * HEIGHT] for x, y in PAIRS], 0.0),
        ("ahs_program.json", [[0, 0], [0, 5.5], [0, 11], [5.5, 0], [5.5, 5.5], [5.5, 11]], 0.0),  # the seventh site is empty
        ("bloqade_emulated.json", KAGOME, 1e-9),  # Kagome(1, 2, lattice_spacing=11): that of the cells
        ("bloqade_aquila.json", KAGOME, 0.051),  # as the hardware has it, in steps of 0.1 um
        ("aquila.json", [[0, 0], [0, 5.5], [0, 11], [5.5, 0], [5.5, 5.5], [5.5, 11]], 0.0),  # the register of a task result
    ],
)
def test_registers_of_other_programs(name: str, places: list[list[float]], rounded: float) -> None:
    problem = qsr.Rydberg(positions=str(FILES / name), C6=5420503, Omega=15.8, delta=20, units="rad/us")
    assert np.array(problem.positions) == pytest.approx(np.array(places), rel=1e-9, abs=rounded + 1e-12)
    distance = np.linalg.norm(np.array(places)[:, None] - np.array(places), axis=-1)[np.triu_indices(6, 1)]
    couplings = problem.build().couplings[np.triu_indices(6, 1)]
    assert couplings == pytest.approx(5420503 / distance**6, rel=1e-8 if rounded < 0.01 else 0.1)


def test_the_unit_is_the_micrometre_and_no_dust_is_left() -> None:
    assert read_positions(FILES / "ahs_program.json")[1] == [0.0, 5.5]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "cannot read site positions: expected a register as JSON"),
        ("a.json", {"sites": [[0, 0], [1e-6, "far"]]}, "expected rows of x and y"),
        ("a.json", {"sites": [0, 1e-6]}, "sites: expected rows of x and y"),
        ("a.json", {"sites": [[0, 0], [1e-6, 0]], "filling": [1]}, "filling: has 1 entries for 2 sites"),
        (
            "a.json",
            {"sites": [[0, 0], [1e-6, 0]], "filling": [1, 0]},
            r"at least two rows of x and y, found an array of shape \(1, 2\)",
        ),
        ("a.json", {"register": [{"qid": "q0"}]}, "register: expected atoms with x and y"),
        ("a.json", {"register": [{"x": 0, "y": 0}, {"x": 0, "y": 0}]}, "sites 0 and 1 lie on the same point"),
        ("a.json", {"counts": {"01": 3}}, "no register: expected Pulser's 'register', or 'sites'"),
        ("a.json", [{"sites": [[0, 0], [1e-6, 0]]}, {"sites": [[0, 0], [2e-6, 0]]}], "has 2 tasks with different registers"),
        ("a.txt", "0 0\n1\n", "cannot read site positions: expected two numbers, x and y, on each line"),
        ("a.npy", "text", "cannot read site positions: expected two numbers"),
    ],
)
def test_refused(name: str, content: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=rf"rydberg\.positions.*{said}"):
        qsr.Rydberg(positions=str(tmp_path / name))


def test_a_register_in_three_dimensions_is_refused_in_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "qsr", "exact", "--rydberg"]
    good = subprocess.run([*words, f"positions={FILES / 'pulser_register.json'}", "V=1e5"], capture_output=True, text=True)
    assert good.returncode == 0 and good.stdout.startswith("rydberg 6 sites: V=100000.0"), good.stderr
    refused = subprocess.run([*words, f"positions={FILES / 'pulser_register_3d.json'}"], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "pulser_register_3d.json" in refused.stderr and "register: is three-dimensional" in refused.stderr, refused.stderr
