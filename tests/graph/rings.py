"""Graphs to train on: rings of four nodes whose features are larger in the class 1, and a small network for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv, global_mean_pool

from qsr.graph import Trainer

RING = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])


def rings(number: int, seed: int = 0, overlap: float = 0.5) -> list[Data]:
    """Features are uniform on [0, 1 + overlap] or [1, 2 + overlap]; `state` counts pairs of graphs."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Data(
            x=(1 + overlap) * torch.rand(4, 1, generator=generator) + index % 2,
            edge_index=RING,
            y=torch.tensor(index % 2),
            state=torch.tensor(index // 2),
        )
        for index in range(number)
    ]


class Net(nn.Module):
    """Two logits for each graph; dropout draws from the global generators."""

    def __init__(self, width: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv, self.head, self.dropout = SAGEConv(1, width), nn.Linear(width, 2), nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> dict[int, Tensor]:
        nodes = self.dropout(self.conv(x, edge_index).relu())
        return {0: self.head(global_mean_pool(nodes, batch))}


def compute_loss(outputs: dict[int, Tensor], data: Any) -> Tensor:
    return nn.functional.cross_entropy(outputs[0], data.y)


def config(
    folder: Path | str, training: Any = None, validator: Any = None, tester: Any = None, **sections: Any
) -> dict[str, Any]:
    """A complete configuration, with changes."""
    evaluator = {"device": "cpu", "criterion": compute_loss, "evaluator_tasks": []}
    return {
        "name": "rings",
        "training": {
            "seed": 1,
            "device": "cpu",
            "path": str(folder),
            "num_epochs": 4,
            "batch_size": 8,
            "optimizer_type": torch.optim.Adam,
            "optimizer_args": [],
            "optimizer_kwargs": {"lr": 1e-2},
            "num_workers": 0,
            "pin_memory": True,
            "drop_last": False,
            "checkpoint_at": 1,
            "shuffle": True,
            **(training or {}),
        },
        "model": {"type": Net},
        "validation": {"batch_size": 8, "validator": {**evaluator, **(validator or {})}},
        "testing": {"batch_size": 8, "tester": {**evaluator, **(tester or {})}},
        "criterion": compute_loss,
        **sections,
    }


STOPPING = {
    "tasks": {0: {"metric": "loss_avg", "delta": 1e-4, "grace_period": 2, "init_best_score": 1e9, "mode": "min"}},
    "mode": "any",
    "patience": 5,
}


def trained(settings: dict[str, Any], number: int = 60) -> tuple[Trainer, Any, Any]:
    """A trainer after its training on so many graphs, and the two tables."""
    found = Trainer.from_config(settings)
    train, validation, _ = found.prepare_dataloaders(rings(number))
    return found, *found.run_training(train, validation)


def weights_of(found: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in found.model.state_dict().items()}


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
