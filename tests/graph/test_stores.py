"""What is in files: how many samples, what is refused, lattices that differ from snapshot to snapshot, and what is kept open."""

import gc
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from torch_geometric.loader import DataLoader

from qsr.graph import GraphDataset, SnapshotReader, radius_edges
from qsr.graph import snapshots as reading
from qsr.hparams import ConfigError
from qsr.snapshots import SCHEMA
from tests.graph.graph_files import as_zarr, snapshots


def read_row(store: Any, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype, validate: bool) -> Any:
    raise AssertionError("nothing is read here") if idx < 0 else IndexError("row out of range\nand more about it")


def stored(path: Path, kind: str, attributes: dict[str, Any], **arrays: Any) -> Path:
    """A store of either kind with these arrays; those of None are groups."""
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
            for name, value in arrays.items():
                file.create_group(name) if value is None else file.create_dataset(name, data=value)
    else:
        group = zarr.open_group(path, mode="w", attributes=attributes)
        for name, value in arrays.items():
            group.create_group(name) if value is None else group.create_array(name, data=np.asarray(value))
    return path


@pytest.mark.parametrize("kind", ["h5", "zarr"])
@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (
            {"sample_axes": ["nope"]},
            r"sample_axes names 'nope', expected arrays with a row for each sample; there are configs, sites",
        ),
        ({"sample_axes": "nope"}, "sample_axes names 'nope'"),
        ({"sample_axes": 3}, "sample_axes names '3'"),
        ({"sample_axes": ["configs", "group"]}, "sample_axes names 'group'"),
        ({"sample_axes": ["configs", "sites"]}, "how many samples are there"),
        ({"num_samples": 7}, "num_samples=7, and the array sites has 6 rows"),
        ({"num_samples": 5, "sample_axes": ["configs"]}, "num_samples=5, and the array configs has 3 rows"),
        ({"num_samples": "many"}, "num_samples must be one whole number, at least 0, found 'many'"),
        ({"num_samples": -1}, "num_samples must be one whole number"),
        ({"num_samples": 2.5}, "num_samples must be one whole number"),
        ({"num_causal_sets": [3, 3]}, "num_causal_sets must be one whole number"),
    ],
)
def test_stores_that_contradict_themselves(tmp_path: Path, kind: str, attributes: dict[str, Any], said: str) -> None:
    arrays = {"configs": np.zeros((3, 6)), "sites": np.zeros((6, 2))}
    if "group" in said:
        arrays["group"] = None  # type: ignore[assignment]
    path = stored(tmp_path / f"s.{kind}", kind, attributes, **arrays)
    with pytest.raises(ConfigError, match=rf"s\.{kind}: {said}"):
        GraphDataset({"files": [str(path)], "reader": read_row})


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_how_many_samples_there_are(tmp_path: Path, kind: str) -> None:
    def count(name: str, attributes: dict[str, Any], **arrays: Any) -> int:
        path = stored(tmp_path / f"{name}.{kind}", kind, attributes, **arrays)
        return len(GraphDataset({"files": [str(path)], "reader": read_row}))

    assert count("one", {"sample_axes": "configs"}, configs=np.zeros((3, 6)), sites=np.zeros(6)) == 3
    assert count("filled", {"num_samples": 2}, configs=np.zeros((3, 6))) == 2, "there may be room for more"
    assert count("groups", {"num_samples": 9}, sites=np.zeros((6, 2)), first=None) == 9, "samples may be groups"
    assert count("array", {}, num_samples=np.array([3]), configs=np.zeros((3, 6))) == 3


def test_a_sample_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path / "s.h5", "h5", {"num_samples": 5}, configs=np.zeros((3, 6)), sites=np.zeros((6, 2)), labels=[1, 2, 3])
    dataset = GraphDataset({"files": [str(path)], "reader": read_row})
    with pytest.raises(ConfigError, match=r"s\.h5: sample 4 cannot be read by data.reader: IndexError: row out of range$"):
        dataset[4]
    with pytest.raises(ConfigError, match=r"s\.h5: has no array 'labels' with a number for each of 5 samples, found \(3,\)"):
        dataset.column("labels")


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    file = snapshots(tmp_path / "s.h5")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ConfigError, match=r"data\.files: .*s\.h5: "):
        GraphDataset({"files": [str(file)]})


POINTS = np.array([[[0, 0], [0, 1], [1, 0], [9, 9]], [[0, 0], [2, 0], [9, 9], [9, 9]]], dtype=np.float32)
VARIABLE = {
    "configs": np.array([[1, 0, 1, 7], [0, 1, 7, 7]], dtype=np.uint8),  # 7 is padding
    "positions": POINTS,
    "n_atoms": np.array([3, 2]),
    "labels": np.array([0, 1]),
    "graph_features": np.array([[0.5, 2.0], [1.5, 3.0]]),
}


@pytest.mark.parametrize("kind", ["h5", "zarr"])
@pytest.mark.parametrize("memory", [reading.MOST_IN_MEMORY, 0])
def test_atoms_may_be_elsewhere_in_every_snapshot(
    tmp_path: Path, kind: str, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_IN_MEMORY", memory)
    path = stored(tmp_path / f"s.{kind}", kind, {"schema": SCHEMA}, **VARIABLE)
    dataset = GraphDataset({"files": [str(path)], "reader": SnapshotReader(cutoff=2.0)})
    first, second = dataset
    assert first.x.tolist() == [[1], [0], [1]] and second.x.tolist() == [[0], [1]] and second.y.item() == 1
    assert second.pos.tolist() == [[0, 0], [2, 0]]
    for graph, points in ((first, POINTS[0, :3]), (second, POINTS[1, :2])):
        edge_index, weights = radius_edges(points, 2.0)
        assert torch.equal(graph.edge_index, edge_index) and torch.equal(graph.edge_attr, weights.float())
    assert first.edge_index.shape == (2, 6) and second.edge_attr.tolist() == [1 / 64, 1 / 64]
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch.num_graphs == 2 and batch.graph_features.tolist() == [[0.5, 2.0], [1.5, 3.0]]
    without = stored(tmp_path / f"w.{kind}", kind, {"schema": SCHEMA}, **{k: v for k, v in VARIABLE.items() if k != "n_atoms"})
    far = GraphDataset({"files": [str(without)], "validate_data": False})[0]
    assert far.num_nodes == 4 and far.edge_index.shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": None}, "has no array positions"),
        ({"positions": np.zeros((3, 2))}, r"positions must be \(4, 2\) or \(2, 4, 2\), found \(3, 2\)"),
        ({"n_atoms": np.array([3])}, r"n_atoms must be \(2,\), found \(1,\)"),
        ({"n_atoms": np.array([5, 1])}, "snapshot 0: n_atoms=5: must be from 1 to 4"),
        ({"n_atoms": np.array([0, 1])}, "snapshot 0: n_atoms=0: must be from 1 to 4"),
        ({"graph_features": np.zeros(2)}, r"graph_features must be \(2, F\), found \(2,\)"),
        ({"labels": np.zeros(1)}, r"labels must be \(2,\), found \(1,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    arrays = {name: value for name, value in {**VARIABLE, **changes}.items() if value is not None}
    path = stored(tmp_path / "s.h5", "h5", {"schema": SCHEMA}, **arrays)
    dataset = GraphDataset({"files": [str(path)]})
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"s\.h5: {said}"):
            dataset[0]


def test_a_periodic_lattice_needs_its_lengths(tmp_path: Path) -> None:
    path = stored(tmp_path / "s.h5", "h5", {"schema": SCHEMA, "boundary": "periodic"}, **VARIABLE)
    with pytest.raises(ConfigError, match="boundary=periodic needs the attributes Lx and Ly"):
        GraphDataset({"files": [str(path)]})[0]


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_a_store_is_looked_into_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And large arrays are left on disk, with the same graphs."""
    file = snapshots(tmp_path / "s.h5")
    path = file if kind == "h5" else as_zarr(file, tmp_path / "s.zarr")
    held = list(GraphDataset({"files": [str(path)]}))
    monkeypatch.setattr(reading, "MOST_IN_MEMORY", 0)
    assert all(torch.equal(a.x, b.x) and a.y == b.y for a, b in zip(held, GraphDataset({"files": [str(path)]}), strict=True))
    calls: list[Any] = []
    monkeypatch.setattr(reading, "radius_edges", lambda *given: calls.append(1) or radius_edges(*given))
    monkeypatch.setattr(
        zarr, "open_group", lambda *given, opened=zarr.open_group, **more: calls.append(2) or opened(*given, **more)
    )
    assert len(list(GraphDataset({"files": [str(path)]}))) == 60 and calls == ([1] if kind == "h5" else [2, 1])


def test_a_transform_that_changes_a_graph_changes_no_other(tmp_path: Path) -> None:
    def spoil(graph: Any) -> Any:
        for tensor in (graph.x, graph.edge_index, graph.edge_attr, graph.pos):
            tensor.zero_()
        return graph

    files = [str(snapshots(tmp_path / "s.h5"))]
    dataset = GraphDataset({"files": files, "float_type": "float64"})
    before = dataset[3].clone()
    spoil(dataset[3]), spoil(dataset[4])
    after = dataset[3]
    assert all(torch.equal(before[name], after[name]) for name in ("x", "edge_index", "edge_attr", "pos"))


def test_a_file_is_closed_as_soon_as_nobody_reads_it(tmp_path: Path) -> None:
    """By the thread that let it go: one that collects garbage may wait for HDF5 forever."""
    dataset = GraphDataset({"files": [str(snapshots(tmp_path / "s.h5"))]})
    assert dataset[0] is not None
    gc.disable()
    try:
        file = weakref.ref(dataset.source.stores[0])
        del dataset
        assert file() is None
    finally:
        gc.enable()


def no_such_array(store: Any, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype, validate: bool) -> Any:
    return store["nope"][idx]


def too_few(store: Any, idx: int) -> Any:
    return None


@pytest.mark.parametrize(
    ("reader", "said"), [(no_such_array, "KeyError: .*nope"), (too_few, r"TypeError: too_few\(\) takes 2 positional")]
)
def test_a_reader_that_fails_names_the_file_and_the_sample(tmp_path: Path, reader: Any, said: str) -> None:
    file = snapshots(tmp_path / "s.h5")
    dataset = GraphDataset({"files": str(file), "reader": reader})
    with pytest.raises(ConfigError, match=rf"s\.h5: sample 3 cannot be read by data\.reader: {said}"):
        dataset[3]
