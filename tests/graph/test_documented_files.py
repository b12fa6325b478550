"""The documented example and the documented file, with data from files: causal sets in a zarr store, snapshots in HDF5."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv, global_mean_pool
from torch_geometric.utils import dense_to_sparse

import qsr.graph
from qsr.graph import Trainer
from tests.graph.graph_files import DELTAS, snapshots
from tests.graph.rings import STOPPING, compute_loss
from tests.graph.test_graph_trainer import YAML

LARGEST = 12  # elements of a causal set


def causal_sets(path: Path, number: int, seed: int = 0) -> Path:
    """Random orders with three densities of relations, the classes; padded, as the document's stores are."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(6, LARGEST + 1, size=number)
    classes = generator.integers(0, 3, size=number)
    adjacency = np.zeros((number, LARGEST, LARGEST), dtype=np.uint8)
    lengths = np.zeros((number, LARGEST), dtype=np.int64)
    for index, (size, density) in enumerate(zip(sizes, np.array([0.1, 0.35, 0.8])[classes], strict=True)):
        related = np.triu(generator.random((size, size)) < density, 1)
        adjacency[index, :size, :size] = related.T  # the reader transposes
        for element in reversed(range(size)):
            after = np.flatnonzero(related[element])
            lengths[index, element] = 1 + lengths[index, after].max() if len(after) else 0
    group = zarr.open_group(path, mode="w")
    named = {"cset_size": sizes, "adjacency_matrix": adjacency, "max_pathlens_future": lengths, "manifold_like": classes}
    for name, values in named.items():
        group.create_array(name, data=values)
    return path


def reader(store: Any, idx: int, float_dtype: torch.dtype, int_dtype: torch.dtype, validate: bool) -> Data:
    group = zarr.open_group(store.root)
    size = int(group["cset_size"][idx])
    related = np.transpose(group["adjacency_matrix"][idx, :, :])[:size, :size]
    edge_index, edge_weight = dense_to_sparse(torch.tensor(related, dtype=torch.float32))
    x = torch.tensor(group["max_pathlens_future"][idx, :][:size], dtype=float_dtype).unsqueeze(1)
    return Data(x=x, edge_index=edge_index, edge_attr=edge_weight, y=torch.tensor(int(group["manifold_like"][idx])))


def test_the_documented_example_reads_causal_sets(tmp_path: Path) -> None:
    files = [str(causal_sets(tmp_path / f"{seed}.zarr", 120, seed)) for seed in (0, 1)]
    evaluator = {"device": "cpu", "criterion": compute_loss, "evaluator_tasks": [{"name": "right", "monitor": "accuracy"}]}
    training = {"seed": 0, "device": "cpu", "path": str(tmp_path / "runs"), "num_epochs": 15, "batch_size": 32}
    training |= {"optimizer_type": torch.optim.Adam, "optimizer_args": [], "optimizer_kwargs": {"lr": 1e-2}}
    training |= {"num_workers": 0, "pin_memory": True, "drop_last": False, "checkpoint_at": 2, "shuffle": True}
    data = {"files": files, "output": str(tmp_path / "output"), "reader": reader, "validate_data": True, "n_processes": 1}
    layers = [[SAGEConv, [1, 64], {"aggr": "mean"}, "x, edge_index"], [torch.nn.ReLU, [], {}, "x"]]
    trainer = Trainer.from_config(
        {
            "name": "run",
            "training": training,
            "data": {**data, "chunksize": 1000, "split": [0.8, 0.1, 0.1]},
            "model": {
                "encoder_type": qsr.graph.Sequential,
                "encoder_kwargs": {"layers": layers, "forward_signature": "x, edge_index, batch"},
                "pooling_layers": [[global_mean_pool, [], {}]],
                "aggregate_pooling_type": torch.cat,
                "downstream_tasks": [[qsr.graph.LinearSequential, None, {"dims": [[64, 3]], "activations": [torch.nn.Identity]}]],
            },
            "validation": {"batch_size": 32, "validator": evaluator},
            "testing": {"batch_size": 32, "tester": evaluator},
            "early_stopping": {**STOPPING, "patience": 15},
            "criterion": compute_loss,
        }
    )
    train, validation, test = trainer.prepare_dataloaders()
    assert [len(loader.dataset) for loader in (train, validation, test)] == [192, 24, 24]
    training_result, validation_result = trainer.run_training(train, validation)
    test_result = trainer.run_test(test)
    assert len(training_result) == len(validation_result) == 15
    assert validation_result["loss_avg"][-1] < 0.7 * validation_result["loss_avg"][0]
    assert test_result["right"][-1] > 1 / 3 + 3 * np.sqrt(2 / 9 / 24), "more than three sigma above a guess"
    assert not (tmp_path / "output").exists(), "nothing is prepared, so nothing is kept"


SNAPSHOTS = """
data:
    files: ["{file}"]
    output: "{output}"
    reader: !pyobject tests.graph.graph_files.read_third
    pre_transform: !pyobject tests.graph.graph_files.with_moments
    pre_filter: !pyobject tests.graph.graph_files.is_filled
    validate_data: true
    n_processes: 2
    chunksize: 60
    split: [0.8, 0.1, 0.1]
    shuffle: false
model:"""


@pytest.mark.slow
def test_the_documented_file_reads_snapshots(tmp_path: Path) -> None:
    """Three ranges of the detuning as classes; moments of the occupations are features of the whole graph."""
    file = snapshots(tmp_path / "s.h5", shots=40, shape=(3, 3))
    data = SNAPSHOTS.format(file=file, output=tmp_path / "output")
    text = YAML.format(path=tmp_path / "runs").replace("\nmodel:", data, 1)
    (tmp_path / "config.yaml").write_text(text)
    trainer = Trainer.from_config(tmp_path / "config.yaml", allow_import=["tests.graph.rings", "tests.graph.graph_files"])
    loaders = trainer.prepare_dataloaders()
    total = sum(len(loader.dataset) for loader in loaders)
    assert 0 < total < 40 * len(DELTAS) and len(list((tmp_path / "output" / "processed").glob("*/chunk-*"))) == 4
    assert next(iter(loaders[0])).graph_features.shape == (32, 4)
    training, validation = trainer.run_training(*loaders[:2])
    assert len(training) == len(validation) == 3 and training["mean_loss"][-1] < training["mean_loss"][0]
    assert len(trainer.run_test(loaders[2])) == 1
