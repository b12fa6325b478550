"""The benchmark of matrix geometry: its data, its baseline, and one line of its table."""

import hsm_geometry
import numpy as np
import pytest
import torch
from hsm_geometry import CHECKS, STEPS, Check, assess, clusters, sphere, swiss_roll, two_nn

from qsr.hsm import HSM, HilbertSpaceModel, matrix_geometry


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_finds_the_dimension_of_clean_data_and_that_of_the_noise(dimension):
    """The standard error is dimension / sqrt(points)."""
    assert two_nn(sphere(dimension, 8, count=2000)) == pytest.approx(dimension, rel=0.1)
    assert two_nn(sphere(dimension, 8, noise=0.3, count=2000)) > 5.5


def test_data_lie_where_they_should():
    x = sphere(3, 8)
    assert np.allclose(np.linalg.norm(x, axis=1), 1) and (x[:, 4:] == 0).all() and abs(x.mean()) < 0.01
    assert np.std(sphere(3, 8, noise=0.2)[:, 4:]) == pytest.approx(0.2, rel=0.02)
    assert np.allclose(swiss_roll().std(axis=0), 1)


def test_a_line_of_the_table(capsys, tmp_path):
    check = Check("sphere", lambda: sphere(2, 3, count=300), 2, 0.1, loss=(1 / 6, 0.2), seeds=1)
    row = assess(check, 2, 300)
    assert row["ok"] and row["loss"] == min(row["losses"]) and len(row["losses"]) == 2
    wrong = Check("sphere", check.data, 2, 0.1, loss=(1 / 6, 0.2), dimension=2)
    assert not assess(wrong, 1, 30)["ok"]
    hsm_geometry.main([check], 30, True, tmp_path / "x.json")
    assert "sphere" in capsys.readouterr().out and (tmp_path / "x.json").is_file()


def test_clusters_are_told_from_a_curve():
    torch.manual_seed(0)
    x = sphere(1, 2, count=200)
    corners = HilbertSpaceModel(HSM(hsm_model="geometry", hilbert_space_dims=4, input_operator_count=2, standardize="none"))
    found = matrix_geometry(corners, torch.from_numpy(x))
    object.__setattr__(found, "cloud", torch.from_numpy(x))
    assert clusters(found) > 0.05
    object.__setattr__(found, "cloud", torch.from_numpy(np.sign(x)))
    assert clusters(found) < 1e-6


def test_every_line_expects_something():
    assert all(check.loss or check.dimension is not None or check.collapsed for check in CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}, N={check.levels}, w={check.weight:g}")
def test_the_figures_of_the_table(check):
    """Tolerances, seeds and the share of the points that must agree stand in CHECKS."""
    if check.name == "breast cancer":
        pytest.importorskip("sklearn")
    row = assess(check, check.seeds, STEPS)
    assert row["ok"], row
