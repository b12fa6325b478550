"""Graphs from files: the same from HDF5 and zarr, the same with one process and two, and never an old cache."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from qsr.graph.data import GraphDataHparams, GraphDataset, check_graph
from qsr.graph.snapshots import SnapshotReader
from qsr.graph.splits import split_indices
from qsr.hparams import ConfigError
from qsr.snapshots import read_snapshots
from tests.graph.graph_files import DELTAS, as_zarr, is_filled, snapshots, with_density


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshots(tmp_path_factory.mktemp("data") / "s.h5")


def same(first: Any, second: Any) -> bool:
    """Whether two data sets have the same graphs, bit for bit."""
    pairs = zip(map(Data.to_dict, first), map(Data.to_dict, second), strict=True)
    return all(
        list(a) == list(b)
        and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)
        for a, b in pairs
    )


def test_a_snapshot_is_a_graph(file: Path) -> None:
    source, dataset = read_snapshots(file), GraphDataset({"files": [str(file)]})
    assert len(dataset) == 60
    for number in (0, 31, 59):
        graph = dataset[number]
        assert graph.x.flatten().tolist() == source.configs[number].tolist() and graph.x.shape == (6, 1)
        assert torch.equal(graph.pos, torch.tensor(source.positions, dtype=torch.float32))
        assert graph.edge_index.shape == (2, 22) and graph.edge_attr.shape == (22,)  # 7 bonds, 4 diagonals, both ways
        assert sorted({round(weight, 6) for weight in graph.edge_attr.tolist()}) == [0.125, 1.0]
        assert graph.y.dtype == torch.int64 and graph.y.item() == source.columns["labels"][number]
    assert np.array_equal(dataset.column("delta"), source.params["delta"])
    assert torch.equal(dataset[-1].x, dataset[59].x)
    with pytest.raises(IndexError, match="graph 60 of 60"):
        dataset[60]


def test_other_targets_cutoffs_and_number_formats(file: Path) -> None:
    reader = SnapshotReader(target="delta", cutoff=1.0, power=-1, graph_features=("V", "Omega"))
    graph = GraphDataset({"files": [str(file)], "reader": reader, "float_type": "float64"})[25]
    assert graph.y.dtype == torch.float64 and graph.y.item() == 1.0
    assert graph.edge_attr.tolist() == [1.0] * 14 and graph.graph_features.tolist() == [[7.0, 1.0]]
    batch = next(iter(DataLoader(GraphDataset({"files": [str(file)], "reader": reader}), batch_size=4)))
    assert batch.graph_features.shape == (4, 2) and batch.y.shape == (4,) and batch.num_graphs == 4
    with pytest.raises(ConfigError, match="the snapshots have no 'detla'"):
        GraphDataset({"files": [str(file)], "reader": SnapshotReader(target="detla")})[0]


def test_hdf5_and_zarr_give_identical_graphs_and_can_be_mixed(file: Path, tmp_path: Path) -> None:
    store = as_zarr(file, tmp_path / "s.zarr")
    both = [GraphDataset({"files": [str(path)]}) for path in (file, store)]
    assert same(*both)
    mixed = GraphDataset({"files": [str(file), str(store)]})
    assert len(mixed) == 120 and same([mixed[60 + number] for number in range(60)], both[0])
    assert np.array_equal(mixed.column("state_id"), np.tile(both[1].column("state_id"), 2))


def test_one_process_and_two_prepare_identical_graphs(file: Path, tmp_path: Path) -> None:
    settings = {"files": [str(file)], "pre_transform": with_density, "pre_filter": is_filled, "chunksize": 7}
    one, two = (
        GraphDataset({**settings, "output": str(tmp_path / str(count)), "n_processes": count}, seed=3) for count in (1, 2)
    )
    assert same(one, two) and 0 < len(one) < 60
    assert np.array_equal(one.column("state_id"), two.column("state_id"))
    written = [sorted((tmp_path / name / "processed").glob("*/chunk-*")) for name in "12"]
    assert len(written[0]) == 9
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]
    plain = GraphDataset({"files": [str(file)]})
    kept = [number for number in range(60) if plain[number].x.sum() > 1]
    assert len(one) == len(kept)
    assert all(torch.equal(graph.x, plain[number].x) for graph, number in zip(one, kept, strict=True))
    assert all(graph.density == graph.x.mean() and graph.note == "prepared" for graph in one)
    other = GraphDataset({**settings, "output": str(tmp_path / "seed")}, seed=4)
    assert not torch.equal(other[0].noise, one[0].noise), "random preparations follow the seed"
    assert len({tuple(graph.noise.tolist()) for graph in one}) == len(one), "and each sample has its own"


def test_preparing_leaves_the_global_generator_alone(file: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    GraphDataset({"files": [str(file)], "pre_transform": with_density, "output": str(tmp_path)})
    assert torch.equal(torch.get_rng_state(), before)


def doubled(graph: Data) -> Data:
    graph.x = 2 * graph.x
    return graph


def test_the_cache_is_used_until_something_changes(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = tmp_path / "own.h5"
    own.write_bytes(file.read_bytes())
    settings = {"files": [str(own)], "output": str(tmp_path / "out"), "pre_transform": doubled}

    def prepared(**changes: Any) -> bool:
        caplog.clear()
        with caplog.at_level("INFO", logger="qsr"):
            GraphDataset({**settings, **changes})
        return "preparing 60 samples" in caplog.text

    assert prepared() and not prepared()
    assert prepared(pre_transform=with_density) and not prepared(pre_transform=with_density)
    assert not prepared(), "several stand beside each other"
    assert prepared(reader=SnapshotReader(cutoff=1.0)) and prepared(reader=SnapshotReader(cutoff=2.0))
    assert prepared(float_type="float64") and not prepared()
    folders = set((tmp_path / "out" / "processed").iterdir())
    os.utime(own, ns=(1, 1))
    assert prepared() and not prepared()
    (folder,) = set((tmp_path / "out" / "processed").iterdir()) - folders
    next(folder.glob("chunk-*")).unlink()
    assert prepared() and not prepared()
    (folder / "meta.json").write_text("{}")
    assert prepared() and not prepared()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["processed"]
    assert set((tmp_path / "out" / "processed").iterdir()) == {*folders, folder}


def failing(graph: Data) -> Data:
    raise ZeroDivisionError


def test_a_failed_preparation_leaves_nothing_and_others_alone(file: Path, tmp_path: Path) -> None:
    settings = {"files": [str(file)], "output": str(tmp_path / "out")}
    GraphDataset({**settings, "pre_transform": doubled})
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(ZeroDivisionError):
        GraphDataset({**settings, "pre_transform": failing})
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_transform_acts_on_every_access_and_is_not_kept(file: Path) -> None:
    dataset = GraphDataset({"files": [str(file)], "transform": doubled})
    plain = GraphDataset({"files": [str(file)]})
    for _ in range(2):
        assert torch.equal(dataset[59].x, 2 * plain[59].x)


def test_a_subset_has_no_sample_twice_and_the_seed_decides(file: Path) -> None:
    def rows(seed: int = 0, **changes: Any) -> list[int]:
        return GraphDataset({"files": [str(file)], **changes}, seed).rows.tolist()

    assert rows() == list(range(60)) and rows(subset=1.0) == list(range(60))
    half = rows(subset=0.5)
    assert len(set(half)) == len(half) == 30 and half == sorted(half)
    assert half == rows(subset=0.5) and half != rows(1, subset=0.5)
    shuffled = rows(shuffle=True)
    assert sorted(shuffled) == list(range(60)) and shuffled != list(range(60)) and shuffled == rows(shuffle=True)
    assert sorted(rows(subset=0.5, shuffle=True)) == half
    dataset = GraphDataset({"files": [str(file)], "shuffle": True})
    assert dataset.column("delta").tolist() == [DELTAS[row // 10] for row in dataset.rows]


def document_reader(store: Any, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype, validate: bool) -> Data:
    group = zarr.open_group(store.root, mode="r")
    size = int(group["cset_size"][idx])
    edges = torch.as_tensor(group["adjacency_matrix"][idx][:size, :size]).nonzero().T
    lengths = torch.tensor(group["max_pathlens_future"][idx][:size], dtype=float_dtype)
    return Data(x=lengths[:, None], edge_index=edges, y=torch.tensor(int(group["manifold_like"][idx]), dtype=int_dtype))


@pytest.mark.parametrize("counted", ["num_causal_sets", "num_samples", "sample_axes", None])
def test_stores_of_other_shapes_say_how_many_samples_they_have(tmp_path: Path, counted: str | None) -> None:
    generator = np.random.default_rng(0)
    group = zarr.open_group(tmp_path / "c.zarr", mode="w")
    sizes = generator.integers(3, 9, size=12)
    group.create_array("cset_size", data=sizes)
    group.create_array("adjacency_matrix", data=np.triu(generator.random((12, 9, 9)) < 0.4, 1).astype(np.uint8))
    group.create_array("max_pathlens_future", data=generator.random((12, 9)))
    group.create_array("manifold_like", data=generator.integers(0, 3, size=12))
    if counted == "sample_axes":
        group.create_array("of_another_length", data=np.arange(5))
        group.attrs["sample_axes"] = ["cset_size", "adjacency_matrix"]
    elif counted == "num_samples":
        group.attrs["num_samples"] = 12
    elif counted is not None:
        group.create_array(counted, data=np.array([12]))
    dataset = GraphDataset({"files": [str(tmp_path / "c.zarr")], "reader": document_reader})
    assert len(dataset) == 12 and [graph.num_nodes for graph in dataset] == sizes.tolist()
    with pytest.raises(ConfigError, match=r"data\.reader: missing, and .*c\.zarr is no file of snapshots"):
        GraphDataset({"files": [str(tmp_path / "c.zarr")]})


def test_split_sizes_and_groups() -> None:
    parts = split_indices(15, (0.8, 0.1, 0.1), seed=0)
    assert [len(part) for part in parts] == [12, 1, 2] and sorted(np.concatenate(parts)) == list(range(15))
    assert [len(part) for part in split_indices(10, (0.7, 0.3), seed=0)] == [7, 3]
    assert all(np.array_equal(*pair) for pair in zip(parts, split_indices(15, (0.8, 0.1, 0.1), seed=0), strict=True))
    assert not np.array_equal(parts[0], split_indices(15, (0.8, 0.1, 0.1), seed=1)[0])
    groups = np.repeat([5, 7, 1, 9, 4], 6)
    parts = split_indices(30, (0.6, 0.2, 0.2), 0, groups)
    states = [set(groups[part].tolist()) for part in parts]
    assert [len(state) for state in states] == [3, 1, 1] and set.union(*states) == {5, 7, 1, 9, 4}
    assert sorted(np.concatenate(parts)) == list(range(30))
    few = split_indices(30, (0.8, 0.1, 0.1), 0, groups)
    assert [len(set(groups[part].tolist())) for part in few] == [3, 1, 1], "a tenth of five states is one"
    with pytest.raises(ConfigError, match=r"test size cannot be 0; there are 2 groups"):
        split_indices(12, (0.8, 0.1, 0.1), 0, np.repeat([0, 1], 6))
    for split, said in (
        ((0.8, 0.1), r"Split ratios must sum to 1\.0\. Provided split: \[0\.8, 0\.1\]"),
        ((1.0,), "two or three shares"),
        ((0.5, 0.0, 0.5), "two or three shares greater than 0"),
        ((0.98, 0.01, 0.01), r"validation size cannot be 0; there are 30 samples"),
        ((0.65, 0.34, 0.01), r"test size cannot be 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            split_indices(30, split, 0)


def graph(**changes: Any) -> Data:
    return Data(**{"x": torch.zeros(3, 1), "edge_index": torch.tensor([[0, 1], [1, 2]]), "edge_attr": torch.ones(2), **changes})


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (graph(edge_index=torch.tensor([[0, 1], [1, 3]])), "edge_index names node 3, and there are 3 nodes"),
        (graph(edge_index=torch.tensor([[0, -1], [1, 9]])), "edge_index names node -1, and there are 3 nodes"),
        (graph(x=torch.zeros(0, 1), edge_index=torch.zeros(2, 0).long(), edge_attr=None), r"has no nodes; leave such graphs out"),
        (graph(edge_index=torch.zeros(2, 2)), r"edge_index must be \(2, E\) integers"),
        (graph(edge_index=torch.zeros(3, 2, dtype=torch.long)), r"found \(3, 2\)"),
        (graph(edge_attr=torch.ones(3)), "edge_attr has 3 rows for 2 edges"),
        (graph(x=torch.full((3, 1), torch.nan)), "x has a value that is not finite"),
        (graph(y=torch.tensor(torch.inf)), "y has a value that is not finite"),
        ({"x": 1}, r"expected torch_geometric\.data\.Data, found dict"),
    ],
)
def test_graphs_that_are_none_are_found(sample: Any, said: str) -> None:
    check_graph(graph(), "here")
    with pytest.raises(ConfigError, match=f"here: .*{said}"):
        check_graph(sample, "here")


def test_validation_names_the_file_and_the_sample(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.h5"
    broken.write_bytes(file.read_bytes())
    with h5py.File(broken, "r+") as store:
        store["configs"][3, 0] = 7
    with pytest.raises(ConfigError, match="snapshot 3: configs must hold 0"):
        GraphDataset({"files": [str(broken)]})[3]
    assert GraphDataset({"files": [str(broken)], "validate_data": False})[3].x[0].item() == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": []}, r"data\.files=.*: .*at least 1"),
        ({"files": ["missing.h5"]}, r"missing\.h5: no such file"),
        ({"files": [__file__]}, "neither an HDF5 file nor a zarr store"),
        ({"pre_transform": doubled}, r"data\.output: missing; what data\.pre_transform makes"),
        ({"reader": 3}, r"data\.reader=3: must be a function"),
        ({"reader": "json.loads"}, r"data\.reader: 'json\.loads' is not among the objects that files may name"),
        ({"subset": 0}, r"data\.subset=0: must be larger than 0"),
        ({"split": [0.5, 0.4]}, r"Split ratios must sum to 1\.0"),
        ({"n_proceses": 2}, r"did you mean 'n_processes'"),
        (
            {"n_processes": 2, "chunksize": 9, "output": "x", "pre_filter": lambda graph: True},
            "define them at the top of a module",
        ),
        ({"output": "x", "pre_filter": lambda graph: False}, r"or none that data\.pre_filter keeps"),
    ],
)
def test_refused_settings(file: Path, tmp_path: Path, changes: dict, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        GraphDataset(GraphDataHparams(**{"files": [str(file)], **changes}))


def test_without_the_extra_one_line_says_what_to_install(file: Path) -> None:
    program = (
        "import sys; sys.modules['torch_geometric'] = None\n"
        "from qsr.graph.data import GraphDataset\n"
        f"GraphDataset({{'files': [{str(file)!r}]}})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].endswith("graph networks need PyTorch Geometric: pip install 'qsr[graph]'")


def test_workers_of_a_loader_read_the_same_graphs(file: Path) -> None:
    dataset = GraphDataset({"files": [str(file)]})
    assert dataset[0] is not None  # a file is open when the workers start
    here, there = (list(DataLoader(dataset, batch_size=16, num_workers=number)) for number in (0, 2))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(here, there, strict=True))
