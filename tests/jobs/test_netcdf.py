"""Snapshots as netCDF, opened with xarray, and read back."""

from pathlib import Path

import numpy as np
import pytest
import xarray

import qsr
from qsr.hparams import ConfigError
from qsr.jobs import export_snapshots, import_snapshots, make_snapshots
from qsr.snapshots import Snapshots, read_snapshots, write_snapshots


def test_xarray_opens_it_with_dimensions_and_coordinates(tmp_path: Path) -> None:
    states = [qsr.Rydberg(Lx=2, Ly=3, delta=delta) for delta in (0.5, 2.0)]
    made = make_snapshots(states, tmp_path / "s.h5", shots=40, labels="state", seed=2**40).snapshots
    assert export_snapshots(tmp_path / "s.h5", tmp_path / "s.nc") == 80
    with xarray.open_dataset(tmp_path / "s.nc") as opened:
        assert dict(opened.sizes) == {"sample": 80, "site": 6} and opened.configs.dims == ("sample", "site")
        assert set(opened.coords) == {"x", "y", "delta", "Omega", "V"}
        assert np.array_equal(opened.configs, made.configs)
        assert np.array_equal(np.stack([opened.x, opened.y], axis=1), made.positions)
        assert np.array_equal(opened.delta, made.params["delta"]) and np.array_equal(opened.labels, made.columns["labels"])
        assert opened.attrs["Ly"] == 3 and opened.attrs["label_rule"] == "state" and opened.attrs["seed"] == str(2**40)
        by_state = opened.configs.groupby("delta").mean(["sample", "site"])
        assert by_state.delta.values.tolist() == [0.5, 2.0]
        assert by_state.values == pytest.approx([made.configs[:40].mean(), made.configs[40:].mean()], abs=1e-12)
    again = import_snapshots(tmp_path / "s.nc").snapshots
    assert np.array_equal(again.configs, made.configs) and np.array_equal(again.positions, made.positions)


def test_samples_of_a_run(tmp_path: Path) -> None:
    problem = qsr.Rydberg(positions=[[0, 0], [0.1, 1.3], [1.2, 0.4]], Omega=[1, 0.5, 0.7])
    run = qsr.train(problem, qsr.RNN(patch=1, Nh=4), {"K": 8, "steps": 1, "dir": "<NONE>"})
    qsr.evaluate(run, 30, 30, output=tmp_path, write=True)
    export_snapshots(tmp_path / "samples.h5", tmp_path / "s.nc")
    kept = read_snapshots(tmp_path / "samples.h5")
    with xarray.open_dataset(tmp_path / "s.nc") as opened:
        assert set(opened.data_vars) == {"configs", "log_prob", "local_energy"}
        assert opened.x.values.tolist() == [0, 0.1, 1.2]
        for name in ("log_prob", "local_energy"):
            assert np.array_equal(opened[name], kept.columns[name])
        assert '"Omega": [1.0, 0.5, 0.7]' in opened.attrs["hamiltonian"]


def test_a_file_that_xarray_made_is_read(tmp_path: Path) -> None:
    shots = np.array([[0, 1], [1, 0], [1, 1]])
    places = {"x": ("site", [0.0, 5.5]), "y": ("site", [0.0, 1.0])}
    xarray.Dataset({"configs": (("sample", "site"), shots)}, places).to_netcdf(tmp_path / "x.nc", format="NETCDF3_64BIT")
    found = import_snapshots(tmp_path / "x.nc").snapshots
    assert found.configs.tolist() == shots.tolist() and found.positions.tolist() == [[0, 0], [5.5, 1]]


def test_refused(tmp_path: Path) -> None:
    good = Snapshots(np.array([[0, 1]], dtype=np.uint8), np.array([[0.0, 0], [0, 1]]))
    whole, large, named = (tmp_path / f"{name}.h5" for name in ("whole", "large", "named"))
    write_snapshots(whole, good)
    write_snapshots(large, Snapshots(good.configs, good.positions, {"labels": np.array([2**31])}))
    write_snapshots(named, Snapshots(good.configs, good.positions, attributes={"mode": "fast"}))
    for file, said in ((large, "labels: netCDF has no whole numbers above 2147483647, found 2147483648"), (named, "'mode'")):
        with pytest.raises(ConfigError, match=said):
            export_snapshots(file, tmp_path / "out.nc")
    assert not list(tmp_path.glob("out*"))
    export_snapshots(whole, tmp_path / "w.nc")
    content = (tmp_path / "w.nc").read_bytes()
    for broken in (b"", b"CDF\x01", whole.read_bytes(), content[:60], content[:-50]):
        (tmp_path / "b.nc").write_bytes(broken)
        with pytest.raises(ConfigError, match=r"b\.nc: not a netCDF file of the classic format"):
            import_snapshots(tmp_path / "b.nc", lattice="2x1")
    xarray.Dataset({"shots": ("n", [0, 1])}).to_netcdf(tmp_path / "n.nc", format="NETCDF3_CLASSIC")
    with pytest.raises(ConfigError, match=r"n\.nc: expected an array 'configs', found shots"):
        import_snapshots(tmp_path / "n.nc", lattice="2x1")
