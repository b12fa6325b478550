"""The job behind `qsr hsm geometry`: which points it takes, and what it writes."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import qsr
from qsr.hparams import ConfigError
from qsr.hsm import HSM, matrix_geometry
from qsr.jobs import Run, hsm_geometry
from qsr.jobs.geometry import leading_axes
from qsr.training.table import Table

ROOT = Path(__file__).resolve().parents[2]


def ellipsoid(count: int = 80) -> NDArray[np.float64]:
    x = np.random.default_rng(0).normal(size=(count, 3))
    return 5 + np.array([1.0, 10.0, 100.0]) * x / np.linalg.norm(x, axis=1, keepdims=True)


def write_csv(path: Path, names: str, x: NDArray[np.float64]) -> Path:
    np.savetxt(path, x, delimiter=",", header=names, comments="", fmt="%.17g")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("geometry")
    file = write_csv(folder / "x.csv", "a,b,c", ellipsoid())
    return qsr.train(
        model={"type": "hsm", "hsm_model": "geometry", "hilbert_space_dims": 4},
        data={"file": str(file), "split": (0.5, 0.5), "seed": 0},
        train={"max_epochs": 2, "dir": str(folder), "device": "cpu"},
    )


def test_the_training_points_of_the_run_are_taken(run: Run) -> None:
    found = hsm_geometry(run.path, device="cpu")
    table = Table({**run.settings.data.model_dump()})
    assert np.array_equal(found.points, table.train.columns[0].numpy()) and found.features == ("a", "b", "c")
    direct = matrix_geometry(run.model, torch.from_numpy(found.points))
    assert torch.allclose(found.geometry.spectrum, direct.spectrum, atol=1e-10)
    # The cloud in the units of the features is what the model predicts.
    with torch.no_grad():
        assert np.allclose(found.cloud, run.model(torch.from_numpy(found.points)), rtol=1e-4, atol=1e-3)
    assert not list(run.path.glob("geometry.*"))  # type: ignore[union-attr]


def test_columns_are_taken_by_name_and_arrays_in_their_order(run: Run, tmp_path: Path) -> None:
    x = ellipsoid(10)
    found = hsm_geometry(run, x)
    assert np.array_equal(found.points, x)
    turned = write_csv(tmp_path / "turned.csv", "c,other,b,a", x[:, [2, 0, 1, 0]])
    for data in (turned, str(turned), {"c": x[:, 2], "a": x[:, 0], "b": x[:, 1]}):
        assert np.array_equal(hsm_geometry(run, data).points, x)
    with pytest.raises(ConfigError, match=r"short.csv: no column 'c'"):
        hsm_geometry(run, write_csv(tmp_path / "short.csv", "a,b", x[:, :2]))
    with pytest.raises(ConfigError, match="data: 2 columns, expected the 3 features of the run"):
        hsm_geometry(run, x[:, :2])
    with pytest.raises(ConfigError, match=r"nothing.csv: no such file"):
        hsm_geometry(run, tmp_path / "nothing.csv")


def test_some_of_the_points(run: Run) -> None:
    x = ellipsoid(50)
    few = hsm_geometry(run, x, points=7)
    assert len(few.points) == len(set(few.rows)) == 7
    assert (np.diff(few.rows) > 0).all() and np.array_equal(few.points, x[few.rows])
    assert np.array_equal(few.rows, hsm_geometry(run, x, points=7).rows)
    assert not np.array_equal(few.rows, hsm_geometry(run, x, points=7, seed=1).rows)
    with pytest.raises(ConfigError, match="points=0: must be at least 1"):
        hsm_geometry(run, x, points=0)


def test_what_is_written(run: Run, tmp_path: Path) -> None:
    found = hsm_geometry(run, ellipsoid(20), output=tmp_path / "new", write=True)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["geometry.h5", "geometry.png"]
    with h5py.File(tmp_path / "new" / "geometry.h5") as store:
        assert store.attrs["schema"] == "qsr-geometry/1" and list(store.attrs["features"]) == ["a", "b", "c"]
        assert store.attrs["dimension"] == found.geometry.dimension
        assert np.array_equal(store["points"], found.points) and np.array_equal(store["cloud"], found.cloud)
        assert store["metric_eigenvalues"].shape == (20, 3) and store["laplacian_eigenvalues"].shape == (16,)
        assert sum(store["votes"]) == pytest.approx(1) and store["degenerate"].dtype == bool
        assert {"dimension", "curvature", "gap", "bias", "fluctuation", "row"} <= set(store)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another --output"):
        hsm_geometry(run, ellipsoid(5), output=tmp_path / "file", write=True)


def test_the_table_says_when_more_could_not_be_shown(run: Run) -> None:
    lines = hsm_geometry(run).lines()
    assert lines[0].startswith("points                40 of the training data, 3 features, d=4")
    shown = dict((line[:22].strip(), line[22:]) for line in lines)
    assert set(shown) >= {
        "intrinsic dimension",
        "votes of points",
        "metric eigenvalues",
        "gap",
        "bias",
        "fluctuation",
        "degenerate",
    }
    dimension = hsm_geometry(run).geometry.dimension
    assert shown["intrinsic dimension"] == ("2 or more (3 features can show no more)" if dimension == 2 else "1")


@pytest.mark.parametrize("features", [1, 2, 5])
def test_any_model_and_number_of_features(features: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, features + 1))
    names = [f"x{index}" for index in range(features)]
    table = Table({"targets": f"x{features}", "split": (0.8, 0.2), "seed": 0}, data=x)
    settings = HSM(hsm_model="pauli", qubits_count=2, input_operator_pauli_weight=1)
    trained = qsr.fit(settings, table, {"max_epochs": 1, "dir": str(tmp_path), "device": "cpu"})
    found = hsm_geometry(trained, table, write=True)
    assert found.features == tuple(names) and found.points.shape == (24, features)
    assert (tmp_path / "hsm" / "pauli" / "0" / "geometry.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match=r"data\.file: this run has seen data in memory"):
        hsm_geometry(trained.path)


def test_runs_that_have_no_such_geometry(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"RNN: is a run of --rnn; matrix geometry is of a Hilbert-space model \(--hsm\)"):
        hsm_geometry(ROOT / "demos" / "RNN")
    table = Table({"targets": "x2", "split": (0.8, 0.2), "seed": 0}, data=ellipsoid(20))
    thermal = qsr.fit(HSM(hilbert_space_dims=2, beta=1.0), table, {"max_epochs": 1, "dir": "<NONE>", "device": "cpu"})
    with pytest.raises(ConfigError, match=r"hsm\.beta=1: a model of thermal states"):
        hsm_geometry(thermal, table)
    with pytest.raises(ConfigError, match="output: this run has no directory"):
        hsm_geometry(thermal, table, write=True)


def test_leading_axes_are_those_of_the_largest_spread() -> None:
    cloud = torch.zeros(6, 4, dtype=torch.float64)
    cloud[:, 2] = torch.arange(6.0)
    cloud[:, 0] = torch.tensor([1.0, -1.0, 0.0, 0.0, -1.0, 1.0])
    axes = leading_axes(cloud + 7)
    assert np.allclose(np.abs(axes[:, 0]), np.abs(np.arange(6) - 2.5)) and np.allclose(axes[:, 2], 0)
    assert leading_axes(cloud[:, :1], 3).shape == (6, 3)
