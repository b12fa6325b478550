"""`--graph`: a graph network on snapshots, which tells phases apart or reads a parameter off each of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from qsr.graph.lattice_data import GraphsHparams, LatticeData, Task
from qsr.graph.model import GNNModel, apply_model
from qsr.graph.snapshots import CUTOFF
from qsr.hparams import ConfigError, Hparam
from qsr.training.model import Model, ModelHparams

_UNIT = ("mean", "deviation")


class Graph(ModelHparams):
    """A graph network on snapshots: h_i <- ReLU(W1 h_i + W2 sum_j h_j / r_ij^power + b), pools over all sites, two layers.

    It knows no sites, only their distances: rotating, reflecting or renumbering a lattice changes nothing, and a network that
    was trained on one lattice reads snapshots of any other.
    """

    section: ClassVar[str] = "graph"
    data_section: ClassVar[str] = "graphs"
    default_rates: ClassVar[Mapping[str, float]] = {"Adam": 3e-3, "AdamW": 3e-3}
    default_epochs: ClassVar[int | None] = 10

    task: Task = Hparam("classify", help="classify: labels, such as phases; regress: a parameter, such as delta")
    cutoff: float = Hparam(CUTOFF, ge=0, allow_inf_nan=False, help="sites up to this distance see each other (lattice constants)")
    power: float = Hparam(6.0, allow_inf_nan=False, help="of the distance, by which they count less")
    num_layers: int = Hparam(3, ge=1, le=1000, help="how often neighbours are summed")
    width: int = Hparam(32, ge=1, help="features of a site")
    num_classes: int | None = Hparam(None, ge=2, help="task=classify: number of classes; filled in")
    mean: float = Hparam(0.0, allow_inf_nan=False, help="task=regress: what the network's outputs are counted from; filled in")
    deviation: float = Hparam(1.0, gt=0, allow_inf_nan=False, help="task=regress: their unit; filled in")

    @property
    def label_of_runs(self) -> str:
        return f"graph/{self.task}"

    def build(self) -> LatticeModel:
        return LatticeModel(self)

    @model_validator(mode="after")
    def _of_its_kind(self) -> Any:
        if self.module_name is not None:
            raise ConfigError(f"graph.module_name={self.module_name}: is for models of your own (--model)")
        other = ("num_classes",) if self.task == "regress" else _UNIT
        for name in other:
            if self[name] != type(self).model_fields[name].default:
                task = "classify" if self.task == "regress" else "regress"
                raise ConfigError(f"graph.{name}={self[name]}: is for task={task}, not for {self.task}")
        if len(self.model_fields_set.intersection(_UNIT)) == 1:
            raise ConfigError("graph: of mean and deviation only one is given; give both, or leave both out")
        return self

    @property
    def _has_unit(self) -> bool:
        return any(self[name] != type(self).model_fields[name].default for name in _UNIT)

    def agreed(self, data: Any) -> Any:
        if not isinstance(data, GraphsHparams):
            return data
        own = {"task": self.task, "cutoff": self.cutoff, "power": self.power}
        for name, value in own.items():
            if data[name] not in (None, value):
                raise ConfigError(f"data.{name}={data[name]}: the model has {name}={value}")
        return data.updated(own)

    def fitted(self, data: Any, batch: Any) -> Graph:
        if not isinstance(data, LatticeData):
            return self
        whole: Any = data.full
        training: Any = data.train
        described = self.agreed(data.thparams)
        if self.task == "regress":
            _check_unit(described, training.y)
            # A model that has been trained keeps its unit: its weights are right in no other.
            return self if self._has_unit else self.updated({name: described[name] for name in _UNIT})
        classes = described.classes or ()
        count = len(classes)
        seen = set(whole.y.tolist())
        if missing := [name for number, name in enumerate(classes) if number not in seen]:
            raise ConfigError(f"data.classes={classes}: no snapshot has the class {missing[0]}; leave it out")
        if self.num_classes not in (None, count):
            raise ConfigError(f"graph.num_classes={self.num_classes}: the data have {count}; leave it out")
        return self.updated({"num_classes": count})

    def network(self) -> GNNModel:
        """The network, with new weights.

        Raises:
            ConfigError: without `num_classes`, for task=classify; where PyTorch Geometric is not installed.
        """
        if self.task == "classify" and self.num_classes is None:
            raise ConfigError("graph.num_classes: missing; the data of a run tell it, or give it")
        outputs = self.num_classes if self.task == "classify" else 1
        layers: list[list[Any]] = []
        for layer in range(self.num_layers):
            widths = [self.width if layer else 1, self.width]
            layers.append(["torch_geometric.nn.GraphConv", widths, {}, "x, edge_index, edge_attr"])
            layers.append(["torch.nn.ReLU", [], {}, "x"])
        head = {
            "dims": [[2 * self.width, self.width], [self.width, outputs]],
            "activations": ["torch.nn.ReLU", "torch.nn.Identity"],
        }
        return GNNModel(
            encoder_type="qsr.graph.Sequential",
            encoder_kwargs={"layers": layers, "forward_signature": "x, edge_index, edge_attr"},
            pooling_layers=[["mean_pool"], ["max_pool"]],
            downstream_tasks=[["qsr.graph.LinearSequential", [], head]],
        )


def _check_unit(data: GraphsHparams, values: Tensor) -> None:
    """Whether mean and deviation, if someone has given them, are those of the training data."""
    found = (float(values.double().mean()), float(values.double().std(correction=0)))
    for name, value in zip(_UNIT, found, strict=True):
        if abs(data[name] - value) > 1e-5 * (abs(found[0]) + found[1]):  # the values are float32
            raise ConfigError(f"data.{name}={data[name]}: the training data have {value:g}; leave it out")


class LatticeModel(Model[Graph]):
    """The network that the settings name, with the loss of its task.

    Batches are torch_geometric's, with x (n, 1), edge_attr (E,), and to learn from, y (B,): the number of the class, or the
    value.
    """

    hparams_schema = Graph
    named_by_module = False
    thparams: Graph

    def __init__(self, hparams: Graph | Mapping[str, Any]) -> None:
        super().__init__(hparams)
        self.network = self.thparams.network()

    def forward(self, batch: Any) -> Tensor:
        """(B, C) logits of the classes; of task=regress (B,) values in the target's unit."""
        dtype = next(self.parameters()).dtype
        if batch.x.dtype != dtype:
            batch = copy.copy(batch).apply(lambda values: values.to(dtype) if values.is_floating_point() else values)
        outputs = apply_model(self.network, batch)[0]
        if self.thparams.task == "classify":
            return outputs
        return self.thparams.mean + self.thparams.deviation * outputs[:, 0]

    def compute_metrics(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Cross entropy (nats) and accuracy; of task=regress the mean squared error, in the target's unit and (loss) in that of
        the network."""
        outputs = self(batch)
        if self.thparams.task == "classify":
            accuracy = (outputs.argmax(dim=1) == batch.y).to(outputs.dtype).mean()
            return {"loss": functional.cross_entropy(outputs, batch.y), "accuracy": accuracy}
        error = functional.mse_loss(outputs, batch.y.to(outputs.dtype))
        return {"loss": error / self.thparams.deviation**2, "mse": error}

    def describe_data(self, objective: Any) -> list[str]:
        sizes = [getattr(part, "samples", 0) for part in (objective.training, objective.validation)]
        what = f"{self.thparams.num_classes} classes" if self.thparams.task == "classify" else "one number"
        return [f"{self.thparams.task}: {what}; {sizes[0]} snapshots to train on, {sizes[1]} to validate"]

    def predictions(self, graphs: Any, rows: int = 1024) -> Tensor:
        """(S, C) probabilities of the classes, or (S,) values, of `LatticeGraphs`; float64 on the CPU."""
        from qsr.training.supervised import moved

        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                found = [self(moved(graphs.rows(part), self)).double().cpu() for part in torch.arange(len(graphs)).split(rows)]
        finally:
            self.train(training)
        outputs = torch.cat(found)
        return outputs.softmax(dim=1) if self.thparams.task == "classify" else outputs
