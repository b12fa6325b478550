"""A graph model from its settings: an encoder of nodes, pooling, features of whole graphs, and networks for several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qsr.graph.layers import build_aggregation, build_layer
from qsr.graph.sequential import input_names
from qsr.graph.settings import GNNModelHparams
from qsr.hparams import ConfigError
from qsr.runs import fit_weights, read_weights, save_weights


class GNNModel(nn.Module):
    """Outputs of several tasks for graphs.

    The encoder makes features of the nodes, and the pools (joined by the aggregation) or the latent model make features of the
    graphs of them; without either they stay features of nodes. Features of whole graphs go through a network of their own and
    are joined to them. Each task's network works on the result.

    Args:
        encoder_type, downstream_tasks, settings: the settings of `GNNModelHparams`.

    Attributes:
        settings: these, resolved.
        active_tasks: whether each task is computed, by its index.

    Raises:
        ConfigError: for settings that contradict each other, and for layers that cannot be made.
    """

    def __init__(self, encoder_type: Any, downstream_tasks: Sequence[Any], **settings: Any) -> None:
        super().__init__()
        named = {"encoder_type": encoder_type, "downstream_tasks": downstream_tasks, **settings}
        self.settings = GNNModelHparams.from_dict(named)
        pools, tasks = self.settings.pooling_layers, self.settings.downstream_tasks
        self.encoder = self._part("encoder")
        self.pooling_layers = None if pools is None else _modules(pools, self.settings.label("pooling_layers"))
        self.aggregate_pooling = None if pools is None else self._aggregation("aggregate_pooling")
        self.latent_model = self._part("latent_model")
        self.graph_features_net = self._part("graph_features_net")
        with_features = self.graph_features_net is not None
        self.aggregate_graph_features = self._aggregation("aggregate_graph_features") if with_features else None
        self.downstream_tasks = _modules(tasks, self.settings.label("downstream_tasks"))
        self.active_tasks = dict(self.settings.active_tasks or dict.fromkeys(range(len(tasks)), True))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GNNModel:
        """The model of a mapping with the settings of `GNNModelHparams`.

        Raises:
            ConfigError: as the constructor.
        """
        try:
            return cls(**GNNModelHparams.from_dict(config))
        except ConfigError as error:
            raise ConfigError(f"Error during creation of GNNModel from config: {error}") from error

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        batch: Tensor | None = None,
        graph_features: Tensor | None = None,
        latent_args: Sequence[Any] | None = None,
        latent_kwargs: Mapping[str, Any] | None = None,
        downstream_task_args: Sequence[Sequence[Any] | None] | None = None,
        downstream_task_kwargs: Sequence[Mapping[str, Any] | None] | None = None,
        embedding_kwargs: Mapping[str, Any] | None = None,
    ) -> dict[int, Tensor]:
        """Outputs of the active tasks, by their index.

        Args:
            x: (n, F) features of the nodes of all graphs.
            edge_index: (2, E) int64 from, to.
            batch: (n,) int64 graph of each node; None: one graph.
            graph_features: (B, G), for a model with a graph features net, which needs them.
            latent_args, latent_kwargs: further inputs of the latent model.
            downstream_task_args, downstream_task_kwargs: further inputs of each task's network.
            embedding_kwargs: further inputs of the encoder, as edge_weight.

        Raises:
            ConfigError: for graph features that the model has no network for, and for none where it has one.
        """
        features = self.get_embeddings(x, edge_index, batch, latent_args, latent_kwargs, embedding_kwargs)
        if self.aggregate_graph_features is not None and self.graph_features_net is not None:
            if graph_features is None:
                raise ConfigError("GNNModel: the model has a graph features network, and the graphs have no graph_features")
            features = self.aggregate_graph_features([features, self.graph_features_net(graph_features)])
        elif graph_features is not None:
            raise ConfigError("GNNModel: graph_features are given, and the model has no graph features network")
        outputs = {}
        for index, task in enumerate(self.downstream_tasks):
            if self.active_tasks[index]:
                args = _of_task(downstream_task_args, index) or ()
                outputs[index] = task(features, *args, **(_of_task(downstream_task_kwargs, index) or {}))
        return outputs

    def get_embeddings(
        self,
        x: Tensor,
        edge_index: Tensor,
        batch: Tensor | None = None,
        latent_args: Sequence[Any] | None = None,
        latent_kwargs: Mapping[str, Any] | None = None,
        embedding_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """(B, H) features of the graphs, without those of whole graphs; (n, H) of the nodes if nothing pools them."""
        named = {"batch": batch} if "batch" in self.encoder_inputs else {}
        nodes = self.encoder(x, edge_index, **named, **(embedding_kwargs or {}))
        if self.pooling_layers is not None and self.aggregate_pooling is not None:
            return self.aggregate_pooling([pool(nodes, batch) for pool in self.pooling_layers])
        if self.latent_model is not None:
            return self.latent_model(nodes, *(latent_args or ()), **(latent_kwargs or {}))
        return nodes

    @property
    def encoder_inputs(self) -> tuple[str, ...]:
        """What the inputs of the encoder are called."""
        return input_names(self.encoder)

    def set_task_active(self, index: int) -> None:
        """Compute a task.

        Raises:
            KeyError: if there is no such task.
        """
        self._switch(index, True)

    def set_task_inactive(self, index: int) -> None:
        """Leave a task out; its weights stay, and get no gradient.

        Raises:
            KeyError: if there is no such task.
        """
        self._switch(index, False)

    def save(self, path: str | Path) -> None:
        """Write the weights as a safetensors file."""
        save_weights(Path(path), self.state_dict())

    @classmethod
    def load(cls, path: str | Path, config: Mapping[str, Any], device: str = "cpu") -> GNNModel:
        """The model of a configuration with the weights that `save` has written.

        Raises:
            ConfigError: as `from_config`; for a file that cannot be read, and for weights of another model.
        """
        model = cls.from_config(config)
        fit_weights(model, read_weights(Path(path)), path)
        return model.to(device)

    def _switch(self, index: int, active: bool) -> None:
        if index not in self.active_tasks:
            raise KeyError(f"no task {index}; there are {len(self.active_tasks)}, counted from 0")
        self.active_tasks[index] = active

    def _part(self, name: str) -> Any:
        kind, args, kwargs, where = self._description(name)
        return None if kind is None else build_layer(kind, args, kwargs, where)

    def _aggregation(self, name: str) -> Any:
        kind, args, kwargs, where = self._description(name)
        return build_aggregation("torch.cat" if kind is None else kind, args, kwargs, where)

    def _description(self, name: str) -> tuple[Any, list[Any], dict[str, Any], str]:
        kind = f"{name}_type"
        return self.settings[kind], self.settings[f"{name}_args"], self.settings[f"{name}_kwargs"], self.settings.label(kind)


def apply_model(model: nn.Module, data: Any) -> Any:
    """A model's outputs for a batch of graphs (torch_geometric's Data), with all that it takes of them.

    Every network gets x, edge_index and batch. A `GNNModel` also gets the graph features, if it has a network for them, and
    what its encoder names among its inputs and the graphs have: edge_attr, edge_weight, pos, ...
    """
    if not isinstance(model, GNNModel):
        return model(data.x, data.edge_index, data.batch)
    further = [name for name in model.encoder_inputs if name not in ("x", "edge_index", "batch") and name in data]
    features = data["graph_features"] if model.graph_features_net is not None and "graph_features" in data else None
    inputs = {name: data[name] for name in further}
    return model(data.x, data.edge_index, data.batch, graph_features=features, embedding_kwargs=inputs)


def _modules(layers: Sequence[Any], where: str) -> nn.ModuleList:
    return nn.ModuleList(layer.build(f"{where}[{position}]") for position, layer in enumerate(layers))


def _of_task(given: Sequence[Any] | None, index: int) -> Any:
    return given[index] if given is not None and index < len(given) else None
