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
