"""Graph models from settings: against the same sums written out, symmetries, tasks that are off, and the way through files."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GraphConv, SAGEConv, global_add_pool, global_max_pool, global_mean_pool

from qsr.graph import GNNModel, GNNModelHparams, LinearSequential, Sequential, apply_model
from qsr.hparams import ConfigError, dump_yaml, load_yaml

EDGES = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])  # two graphs: 0 - 1 - 2 and 3 - 4
BATCH = torch.tensor([0, 0, 0, 1, 1])
HEAD = [LinearSequential, None, {"dims": [[4, 2]], "activations": [nn.Identity]}]


def encoder(width: int = 4) -> dict[str, Any]:
    layers = [
        [SAGEConv, [2, width], {"aggr": "mean"}, "x, edge_index"],
        [nn.Tanh, [], {}, "x"],
        [SAGEConv, [width, width], {}, "x, edge_index"],
    ]
    return {"encoder_type": Sequential, "encoder_kwargs": {"layers": layers}}


def config(**settings: Any) -> dict[str, Any]:
    return {**encoder(), "pooling_layers": [[global_mean_pool]], "downstream_tasks": [HEAD], **settings}


def made(**settings: Any) -> GNNModel:
    torch.manual_seed(0)
    return GNNModel.from_config(config(**settings)).double()


def features(rows: int = 5, width: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_the_whole_by_hand() -> None:
    model, x = made(), features()
    nodes = model.encoder(x, EDGES)
    pooled = torch.stack([nodes[:3].mean(0), nodes[3:].mean(0)])
    head: Any = model.downstream_tasks[0]
    outputs = model(x, EDGES, BATCH)
    assert list(outputs) == [0] and outputs[0].shape == (2, 2)
    close(outputs[0], pooled @ head.layers[0].weight.T + head.layers[0].bias)
    close(model.get_embeddings(x, EDGES, BATCH), pooled)
    close(model(x[:3], EDGES[:, :4])[0][0], outputs[0][0])  # without a batch it is one graph


def test_numbering_the_nodes_otherwise_changes_nothing() -> None:
    model, x = made(pooling_layers=[[global_mean_pool], [global_max_pool]], downstream_tasks=[[nn.Linear, [8, 2]]]), features()
    order = torch.tensor([2, 4, 0, 1, 3])
    place = torch.argsort(order)
    close(model(x[order], place[EDGES], BATCH[order])[0], model(x, EDGES, BATCH)[0])
    moved = x.clone()
    moved[[0, 4]] = x[[4, 0]]  # another configuration, in contrast
    assert (model(moved, EDGES, BATCH)[0] - model(x, EDGES, BATCH)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("aggregation", [None, torch.cat, "torch.cat", "cat", torch.concat])
def test_pools_are_joined_along_the_features(aggregation: Any) -> None:
    pools = [[global_mean_pool], ["max_pool"], [global_add_pool, None, None]]
    model = made(pooling_layers=pools, aggregate_pooling_type=aggregation, downstream_tasks=[[nn.Linear, [12, 1]]])
    nodes = model.encoder(features(), EDGES)
    graphs = (nodes[:3], nodes[3:])
    expected = torch.stack([torch.cat([graph.mean(0), graph.amax(0), graph.sum(0)]) for graph in graphs])
    close(model.get_embeddings(features(), EDGES, BATCH), expected)


def test_other_aggregations_take_the_list() -> None:
    def largest(parts: list[Tensor], scale: float = 1.0) -> Tensor:
        return scale * torch.stack(parts).amax(0)

    pools = [[global_mean_pool], [global_max_pool]]
    model = made(pooling_layers=pools, aggregate_pooling_type=largest, aggregate_pooling_kwargs={"scale": 2.0})
    nodes = model.encoder(features(), EDGES)
    close(model.get_embeddings(features(), EDGES, BATCH), 2 * torch.stack([nodes[:3].amax(0), nodes[3:].amax(0)]))
    stacked = made(pooling_layers=pools, aggregate_pooling_type="torch.stack", aggregate_pooling_kwargs={"dim": 1})
    assert stacked.get_embeddings(features(), EDGES, BATCH).shape == (2, 2, 4)
    rows = made(pooling_layers=pools, aggregate_pooling_kwargs={"dim": 0})
    assert rows.get_embeddings(features(), EDGES, BATCH).shape == (4, 4)


def with_graph_features() -> dict[str, Any]:
    return {
        "graph_features_net_type": LinearSequential,
        "graph_features_net_kwargs": {"dims": [[3, 5]], "activations": [nn.ReLU]},
        "aggregate_graph_features_type": torch.cat,
        "downstream_tasks": [[nn.Linear, [9, 2]]],
    }


def test_graph_features_are_joined_to_the_pooled_nodes() -> None:
    model, x, whole = made(**with_graph_features()), features(), features(2, 3, seed=1)
    head: Any = model.downstream_tasks[0]
    net: Any = model.graph_features_net
    joined = torch.cat([model.get_embeddings(x, EDGES, BATCH), net(whole)], dim=1)
    close(model(x, EDGES, BATCH, graph_features=whole)[0], joined @ head.weight.T + head.bias)
    with pytest.raises(ValueError, match="the graphs have no graph_features"):
        model(x, EDGES, BATCH)
    with pytest.raises(ValueError, match="the model has no graph features network"):
        made()(x, EDGES, BATCH, graph_features=whole)


def test_a_latent_model_or_nothing_in_place_of_pools() -> None:
    class Latent(nn.Module):
        def forward(self, nodes: Tensor, shift: float, scale: float = 1.0) -> Tensor:
            return scale * nodes.sum(0, keepdim=True) + shift

    nodes = made().encoder(features(), EDGES)
    model = made(pooling_layers=None, latent_model_type=Latent)
    close(model.get_embeddings(features(), EDGES, BATCH, [0.5], {"scale": 2.0}), 2 * nodes.sum(0, keepdim=True) + 0.5)
    assert model(features(), EDGES, BATCH, latent_args=[0.5])[0].shape == (1, 2)
    plain = made(pooling_layers=None)
    close(plain.get_embeddings(features(), EDGES), nodes)
    assert plain(features(), EDGES)[0].shape == (5, 2)


def test_tasks_can_be_switched_off() -> None:
    model = made(downstream_tasks=[HEAD, HEAD, HEAD], active_tasks={0: True, 1: False, 2: True})
    assert list(model(features(), EDGES, BATCH)) == [0, 2]
    model.set_task_active(1)
    model.set_task_inactive(0)
    outputs = model(features(), EDGES, BATCH)
    assert list(outputs) == [1, 2]
    sum(output.sum() for output in outputs.values()).backward()  # type: ignore[union-attr]
    has_gradient = [all(p.grad is not None for p in task.parameters()) for task in model.downstream_tasks]
    assert has_gradient == [False, True, True]
    assert all(p.grad is None for p in model.downstream_tasks[0].parameters())
    for switch in (model.set_task_active, model.set_task_inactive):
        with pytest.raises(KeyError, match="no task 3; there are 3"):
            switch(3)


def test_tasks_take_arguments_of_their_own() -> None:
    def scaled(x: Tensor, factor: float = 1.0, shift: float = 0.0) -> Tensor:
        return factor * x + shift

    model = made(downstream_tasks=[[scaled], [scaled, [3.0]], [scaled, [], {"shift": 1.0}]])
    pooled = model.get_embeddings(features(), EDGES, BATCH)
    outputs = model(features(), EDGES, BATCH)
    close(torch.stack(list(outputs.values())), torch.stack([pooled, 3 * pooled, pooled + 1]))
    outputs = model(features(), EDGES, BATCH, downstream_task_args=[[2.0], None], downstream_task_kwargs=[{"shift": 5.0}])
    close(torch.stack(list(outputs.values())), torch.stack([2 * pooled + 5, 3 * pooled, pooled + 1]))


def test_the_encoder_gets_what_it_names() -> None:
    """An encoder of torch_geometric itself has no `batch`, and takes weights of the edges by their name."""
    model = made(encoder_type=GraphConv, encoder_args=[2, 4], encoder_kwargs={})
    weight = torch.tensor([0.5, 0.5, 2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    conv: Any = model.encoder
    x = features()
    sums = torch.stack([0.5 * x[1], 0.5 * x[0] + 2 * x[2], 2 * x[1], x[4], x[3]])
    nodes = sums @ conv.lin_rel.weight.T + conv.lin_rel.bias + x @ conv.lin_root.weight.T
    expected = torch.stack([nodes[:3].mean(0), nodes[3:].mean(0)])
    close(model.get_embeddings(x, EDGES, BATCH, embedding_kwargs={"edge_weight": weight}), expected)
    one, two = (
        Data(x=x[:3], edge_index=EDGES[:, :4], edge_weight=weight[:4]),
        Data(x=x[3:], edge_index=EDGES[:, :2], edge_weight=weight[4:]),
    )
    batch = Batch.from_data_list([one, two])
    head: Any = model.downstream_tasks[0]
    close(apply_model(model, batch)[0], head(expected))
    close(torch.cat([apply_model(model, one)[0], apply_model(model, two)[0]]), head(expected))


def test_a_batch_brings_its_graph_features() -> None:
    model, whole = made(**with_graph_features()), features(2, 3, seed=1)
    data = Data(x=features(), edge_index=EDGES, batch=BATCH, graph_features=whole)
    close(apply_model(model, data)[0], model(features(), EDGES, BATCH, graph_features=whole)[0])
    with pytest.raises(ConfigError, match="the graphs have no graph_features"):
        apply_model(model, Data(x=features(), edge_index=EDGES, batch=BATCH))
    close(apply_model(made(), data)[0], made()(features(), EDGES, BATCH)[0])  # a model without a network leaves them


def test_graphs_without_edges() -> None:
    model, x = made(), features()
    nothing = torch.empty(2, 0, dtype=torch.long)
    assert torch.isfinite(model(x, nothing, BATCH)[0]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"downstream_tasks": []}, "At least one downstream task must be provided"),
        ({"pooling_layers": []}, "At least one pooling layer must be provided"),
        (
            {"pooling_layers": None, "aggregate_pooling_type": torch.cat},
            "If aggregate_pooling_type is provided, pooling_layers must also be provided.",
        ),
        ({"latent_model_type": nn.Identity}, "latent_model_type and pooling_layers exclude each other"),
        (
            {"graph_features_net_type": nn.Identity},
            "If graph features are to be used, both a graph features network and an aggregation method must be provided.",
        ),
        ({"aggregate_graph_features_type": torch.cat}, "both a graph features network and an aggregation method"),
        ({"active_tasks": {1: True}}, "active_tasks keys must match the indices of downstream tasks."),
        ({"active_tasks": {0: True, 1: True}}, "active_tasks keys must match the indices"),
        ({"latent_model_args": [1]}, r"model\.latent_model_args: there is no latent_model_type"),
        ({"encoder_typ": nn.Identity}, r"model\.encoder_typ: unknown setting; did you mean 'encoder_type'"),
        ({"encoder_type": None}, r"model\.encoder_type=None: must be a layer"),
        ({"encoder_type": torch.optim.Adam}, r"model\.encoder_type=.*must be a layer"),
        ({"encoder_type": "os.system"}, r"model\.encoder_type: 'os\.system' is not among"),
        ({"encoder_type": "torch_geometric.nn.Sequential"}, r"use qsr\.graph\.Sequential"),
        ({"encoder_type": nn.Linear, "encoder_kwargs": {}}, r"model\.encoder_type: Linear\(\) failed"),
        ({"encoder_type": nn.Identity()}, "Identity is made already and takes no arguments"),
        ({"pooling_layers": [[]]}, r"model\.pooling_layers\[0\]=\[\]: must be \[type, args, kwargs\]"),
        ({"pooling_layers": [global_mean_pool]}, r"must be \[type, args, kwargs\]"),
        ({"pooling_layers": global_mean_pool}, r"model\.pooling_layers=.*must be a list"),
        ({"downstream_tasks": [[nn.Linear, [4, 2], {}, "x"]]}, r"downstream_tasks\[0\].*must be \[type, args, kwargs\]"),
        ({"downstream_tasks": [["!pyobject os.system"]]}, r"'os\.system' is not among"),
    ],
)
def test_what_cannot_be_a_model(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message) as raised:
        GNNModel.from_config(config(**settings))
    assert isinstance(raised.value, ConfigError)
    assert str(raised.value).startswith("Error during creation of GNNModel from config: ")
    assert str(raised.value).count("Error during creation") == 1


def test_a_misspelt_setting_is_named_before_the_one_that_it_leaves_unset() -> None:
    settings = config()
    settings["encoder_typ"] = settings.pop("encoder_type")
    with pytest.raises(ConfigError, match="encoder_typ: unknown setting; did you mean 'encoder_type'"):
        GNNModelHparams(**settings)
    with pytest.raises(ConfigError, match=r"model\.encoder_type: this setting is required"):
        GNNModelHparams(downstream_tasks=[HEAD])  # type: ignore[call-arg]


def test_a_module_is_used_as_it_is() -> None:
    head = nn.Linear(4, 2).double()
    assert GNNModel(**config(downstream_tasks=[[head]])).downstream_tasks[0] is head


YAML = """
encoder_type: !pyobject QuantumGrav.models.Sequential
encoder_kwargs:
  layers:
  - [!pyobject torch_geometric.nn.SAGEConv, [2, 64], {"aggr": "mean"}, "x, edge_index"]
  - [!pyobject torch.nn.ReLU, [], {}, "x"]
  - [!pyobject torch_geometric.nn.SAGEConv, [64, 64], {"aggr": "mean"}, "x, edge_index"]
  forward_signature: "x, edge_index, batch"
  with_skip: false
pooling_layers:
- [!pyobject torch_geometric.nn.global_mean_pool, [], {}]
aggregate_pooling_type: !pyobject torch.cat
graph_features_net_type: !pyobject QuantumGrav.models.LinearSequential
graph_features_net_kwargs:
  dims: [[4, 32]]
  activations: [!pyobject torch.nn.ReLU]
aggregate_graph_features_type: !pyobject torch.cat
downstream_tasks:
- - !pyobject QuantumGrav.models.LinearSequential
  - null
  - {"dims": [[96, 128], [128, 3]], "activations": [!pyobject torch.nn.ReLU, !pyobject torch.nn.Identity]}
active_tasks: {0: true}
"""


def test_the_document_s_model_goes_through_files(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(YAML)
    written = load_yaml(file)
    torch.manual_seed(1)
    model = GNNModel.from_config(written)
    inputs = (features().float(), EDGES, BATCH, features(2, 4, seed=1).float())
    outputs = model(*inputs)[0]
    assert outputs.shape == (2, 3)

    (tmp_path / "again.yaml").write_text(dump_yaml(model.settings))
    from_yaml = load_yaml(tmp_path / "again.yaml")
    assert GNNModelHparams(**from_yaml) == model.settings == GNNModelHparams(**model.settings.model_dump(mode="json"))
    assert "QuantumGrav" not in dump_yaml(model.settings)

    model.save(tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    assert torch.equal(GNNModel.load(tmp_path / "weights.safetensors", from_yaml)(*inputs)[0], outputs)


def test_weights_come_back_exactly(tmp_path: Path) -> None:
    model, other = made().float(), config(downstream_tasks=[[nn.Linear, [4, 5]]])
    file = tmp_path / "weights.safetensors"
    model.save(file)
    again = GNNModel.load(file, config())
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    with pytest.raises(ConfigError, match="do not fit"):
        GNNModel.load(file, other)
    torch.save(model.state_dict(), tmp_path / "pickle.pt")
    with pytest.raises(ConfigError, match="damaged"):
        GNNModel.load(tmp_path / "pickle.pt", config())


def test_without_torch_geometric_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "torch_geometric"]:
        monkeypatch.delitem(sys.modules, module)

    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "torch_geometric":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_spec), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"model\.encoder_type.*pip install 'qsr\[graph\]'"):
        GNNModel.from_config(config(encoder_type="sage"))
