"""`qsr snapshots make` as a user types it."""

import subprocess
from pathlib import Path

import numpy as np

from qsr.snapshots import read_snapshots
from tests.commands import run_qsr


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return run_qsr("snapshots", *words)


def test_make_from_exact_states(tmp_path: Path) -> None:
    file = tmp_path / "phases.h5"
    words = ["--rydberg", "Lx=3", "Ly=3", "delta=0.5:1.25:0.25,2.25:3:0.25", "--shots", "20", "--e10", "0.05", "--seed", "4"]
    result = run("make", str(file), *words, "--labels", "delta>1.75")
    assert result.returncode == 0, result.stderr
    assert "best possible accuracy" in result.stdout and result.stdout.endswith(f"written: {file}, 160 snapshots\n")
    found = read_snapshots(file)
    assert found.configs.shape == (160, 9) and found.attributes["e10"] == 0.05
    assert np.array_equal(np.unique(found.params["delta"]), [0.5, 0.75, 1, 1.25, 2.25, 2.5, 2.75, 3])
    assert np.array_equal(found.columns["labels"], (found.params["delta"] > 1.75).astype(int))


def test_make_from_runs(tmp_path: Path) -> None:
    file = tmp_path / "runs.h5"
    result = run("make", str(file), "demos/RNN", "demos/RNN", "--shots", "3", "--labels", "state")
    assert result.returncode == 0, result.stderr
    assert read_snapshots(file).configs.shape == (6, 64)


def test_bad_input_exits_with_2_and_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "s.h5"
    for words, said in (
        (["--rydberg", "Lx=3", "Ly=3", "--shots", "many"], "snapshots.shots=many: must be a whole number"),
        (["--rydberg", "Lx=3", "Ly=3", "detla=1"], "did you mean 'delta'"),
        (["--ptf", "patch=2"], "expected one problem section"),
        ([], "no state; give a problem such as --rydberg"),
        (["demos"], "demos"),
    ):
        result = run("make", str(file), *words)
        assert result.returncode == 2 and said in result.stderr, result.stderr
    assert not file.exists()


def test_help_lists_the_settings() -> None:
    shown = run("make", "--help").stdout
    assert all(f"--{name} " in shown for name in ("shots", "labels", "e10", "e01", "seed", "device"))
    assert "qsr snapshots make phases.h5 --rydberg Lx=4 Ly=4" in shown


def test_import_and_export(tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data" / "measured"
    result = run("import", str(data / "aquila.json"), str(tmp_path / "a.h5"), "--lattice", "2x3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[:2] == [
        "3 snapshots of 6 sites, mean density 0.2778",
        "1 shots dropped: not all atoms loaded",
    ]
    result = run("export", str(tmp_path / "a.h5"), str(tmp_path / "a.csv"))
    assert result.stdout == f"written: {tmp_path / 'a.csv'}, 3 snapshots\n"
    assert (tmp_path / "a.csv").read_text().splitlines()[:2] == ["n0,n1,n2,n3,n4,n5", "0,1,0,1,0,1"]
    for words, said in (
        (("import", str(data / "aquila.json"), str(tmp_path / "b.h5"), "--lattice", "3x2"), "not those of a square lattice 3x2"),
        (("import", str(data / "pulser_counts.json"), str(tmp_path / "b.h5")), "give --positions FILE or --lattice LxxLy"),
        (("export", str(data / "aquila.json"), str(tmp_path / "b.npz")), "not a snapshot file"),
    ):
        result = run(*words)
        assert result.returncode == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "b.h5").exists()
