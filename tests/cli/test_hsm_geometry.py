"""`qsr hsm geometry` as a user types it, after `qsr train --hsm hsm_model=geometry`."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.commands import run_qsr as qsr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a table and a run on it."""
    found = tmp_path_factory.mktemp("hsm")
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savetxt(found / "x.csv", x / np.linalg.norm(x, axis=1, keepdims=True), delimiter=",", header="a,b,c", comments="")
    words = "train --hsm hsm_model=geometry hilbert_space_dims=4 --data file=x.csv seed=0 --train lr=0.03 max_epochs=2"
    result = qsr(*words.split(), cwd=found)
    assert result.returncode == 0, result.stderr
    return found


def test_geometry_of_a_run(folder: Path) -> None:
    run = "runs/hsm/geometry/0"
    result = qsr("hsm", "geometry", run, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "intrinsic dimension   " in result.stdout and "votes of points       " in result.stdout
    assert f"written: {run}/geometry.h5, geometry.png" in result.stdout
    assert (folder / run / "geometry.h5").is_file() and (folder / run / "geometry.png").stat().st_size > 10_000
    result = qsr("hsm", "geometry", run, "--data", "x.csv", "--points", "9", "--output", "there", cwd=folder)
    assert (
        result.returncode == 0 and "9 of x.csv, 3 features, d=4" in result.stdout and (folder / "there" / "geometry.h5").is_file()
    )


def test_help_and_errors(folder: Path) -> None:
    assert re.search(r"hsm +More of a trained Hilbert-space model", qsr("--help", cwd=folder).stdout)
    assert "geometry" in qsr("hsm", "--help", cwd=folder).stdout
    assert "--points" in qsr("hsm", "geometry", "--help", cwd=folder).stdout
    for words, message in [
        (["nowhere"], "nowhere: no such directory"),
        (["runs/hsm/geometry/0", "--data", "nothing.csv"], "nothing.csv: no such file"),
        (["runs/hsm/geometry/0", "--points", "0"], "points=0: must be at least 1"),
    ]:
        result = qsr("hsm", "geometry", *words, cwd=folder)
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith("Error: ") and message in result.stderr and result.stderr.count("\n") == 1
