"""The snapshot format: what is written comes back, and other files are refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from qsr.hparams import ConfigError
from qsr.snapshots import Snapshots, read_snapshots, write_snapshots


def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    written = Snapshots(
        configs=rng.integers(0, 2, (7, 6), dtype=np.uint8),
        positions=rng.random((6, 2)),
        columns={"log_prob": rng.random(7), "local_energy": rng.random(7), "labels": np.arange(7)},
        params={"delta": rng.random(7)},
        attributes={"Lx": 2, "Ly": 3, "boundary": "open", "hamiltonian": {"type": "rydberg", "V": 7.0}},
    )
    write_snapshots(tmp_path / "s.h5", written)
    found = read_snapshots(tmp_path / "s.h5")
    assert np.array_equal(found.configs, written.configs) and np.array_equal(found.positions, written.positions)
    assert all(np.array_equal(found.columns[name], written.columns[name]) for name in written.columns)
    assert found.columns["labels"].dtype == np.int64
    assert np.array_equal(found.params["delta"], written.params["delta"])
    assert found.attributes == written.attributes
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["schema"] == "qsr-snapshots/1" and "x*Ly + y" in file.attrs["site_order"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.h5: not a snapshot file"):
        read_snapshots(tmp_path / "missing.h5")
    (tmp_path / "text.h5").write_text("0 1 0")
    with pytest.raises(ConfigError, match=r"text\.h5: not a snapshot file"):
        read_snapshots(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["schema"] = "other/1"
    with pytest.raises(ConfigError, match=r"schema 'other/1', expected 'qsr-snapshots/1'"):
        read_snapshots(tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("configs", np.array([[0, 1], [2, 0]]), r"configs must hold 0 \(ground\) and 1 \(excited\), found 2"),
        ("configs", np.array([[1, -1], [1, 1]], dtype=np.int8), "found -1"),
        ("configs", np.zeros(2, dtype=np.uint8), r"configs must be whole numbers \(snapshots, sites\), found uint8 \(2,\)"),
        ("configs", np.zeros((2, 2)), "found float64"),
        ("configs", np.zeros((2, 3), dtype=np.uint8), r"positions must be \(3, 2\), as configs have 3 sites; found \(2, 2\)"),
        ("labels", np.zeros(3, dtype=np.int64), r"labels must be one number for each of the 2 snapshots, found int64 \(3,\)"),
        ("labels", np.array([b"a", b"b"]), r"labels must be one number for each of the 2 snapshots, found \|S1"),
        ("params/delta", np.zeros((2, 2)), r"delta must be one number for each of the 2 snapshots"),
    ],
)
def test_arrays_that_contradict_each_other(tmp_path: Path, name: str, values: np.ndarray, said: str) -> None:
    written = Snapshots(np.eye(2, dtype=np.uint8), np.eye(2), {"labels": np.arange(2)}, {"delta": np.ones(2)})
    write_snapshots(tmp_path / "s.h5", written)
    read_snapshots(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "a") as file:
        del file[name]
        file[name] = values
    with pytest.raises(ConfigError, match=said):
        read_snapshots(tmp_path / "s.h5")
