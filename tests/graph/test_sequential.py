"""Rows of layers with named inputs: against the same layers called by hand, and signatures that must not run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, SAGEConv, global_mean_pool

from qsr.graph import GNNBlock, LinearSequential, Sequential, SkipConnection
from qsr.graph.sequential import parse_signature
from qsr.hparams import ConfigError, imports

# A path 0 - 1 - 2 and an edge 3 - 4, every bond in both directions.
EDGES = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])


def features(width: int, seed: int = 0) -> Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def neighbour_means(x: Tensor) -> Tensor:
    """Means over the neighbours in EDGES, written out."""
    return torch.stack([x[1], (x[0] + x[2]) / 2, x[1], x[4], x[3]])


def test_a_graph_layer_by_hand() -> None:
    model = Sequential([[SAGEConv, [2, 3], {"aggr": "mean"}, "x, edge_index"], [nn.ReLU, [], {}, "x"]]).double()
    x = features(2)
    conv: Any = model.layers[0]
    expected = neighbour_means(x) @ conv.lin_l.weight.T + conv.lin_l.bias + x @ conv.lin_r.weight.T
    torch.testing.assert_close(model(x, EDGES), expected.relu(), rtol=0, atol=1e-14)


def test_names_route_the_tensors() -> None:
    def both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a - b

    layers = [
        [nn.Linear, [2, 3], None, "x -> h"],
        [nn.Linear, [2, 3], {"bias": False}, " x->k "],
        [both, [], {}, "h, k -> total, difference"],
        [torch.mul, None, None, "total,difference -> x"],
        [torch.sub, [], {"alpha": 2}, "x, h"],
    ]
    model = Sequential(layers, forward_signature="x, edge_index, weight").double()
    x = features(2)
    h, k = model.layers[0](x), model.layers[1](x)
    torch.testing.assert_close(model(x), (h + k) * (h - k) - 2 * h, rtol=0, atol=1e-14)
    torch.testing.assert_close(model(x=x, edge_index=EDGES), model(x, EDGES, None), rtol=0, atol=0)


def test_trailing_inputs_may_be_left_out_until_a_layer_takes_them() -> None:
    model = Sequential([[nn.Identity, [], {}, "x"], [global_mean_pool, [], {}, "x, batch"]])
    batch = torch.tensor([0, 0, 0, 1, 1])
    torch.testing.assert_close(model(features(2), EDGES, batch)[1], features(2)[3:].mean(0))
    with pytest.raises(ValueError, match=r"layers\[1\] \(Function\): the input 'batch' was left out"):
        model(features(2), EDGES)
    with pytest.raises(ValueError, match="4 inputs for the signature x, edge_index, batch"):
        model(1, 2, 3, 4)
    with pytest.raises(ValueError, match="'edge_indx'; did you mean 'edge_index'"):
        model(1, edge_indx=2)
    with pytest.raises(ValueError, match="'x' was given twice"):
        model(1, x=2)


def test_skips_are_added() -> None:
    x = features(2)
    layer = [[SAGEConv, [2, 3], {}, "x, edge_index"]]
    model = Sequential(layer, with_skip=True, skip_args=[2, 3], skip_kwargs={"weight_initializer": "glorot"}).double()
    skip: Any = model.skip
    expected = model.layers[0](x, EDGES) + x @ skip.map.weight.T
    torch.testing.assert_close(model(x, EDGES), expected, rtol=0, atol=1e-14)
    same = Sequential([[nn.Linear, [2, 2], {}, "x -> h"], [nn.ReLU, [], {}, "h"]], with_skip=True, skip_args=[2, 2]).double()
    torch.testing.assert_close(same(x), same.layers[0](x).relu() + x, rtol=0, atol=1e-14)
    assert not list(SkipConnection(4, 4).parameters()) and [p.shape for p in SkipConnection(2, 3).parameters()] == [(3, 2)]
    with pytest.raises(ValueError, match=r"with_skip needs skip_args=\[in, out\]"):
        Sequential(layer, with_skip=True)


@pytest.mark.parametrize(
    "signature",
    [
        *("", "x,", "x, , y", "x ->", "-> x", "x -> y -> z", "x y", "1x", "x.y", "x[0]", "x; y", "x=1", "*x", "x: Tensor"),
        *("x, __import__('os').system('touch ran') -> y", "open('ran', 'w')", "x\nimport os", "x #", "(x)", "é", None, 3),
        "x, edge_index -> x\n    open('ran', 'w')",
    ],
)
def test_signatures_are_names_and_nothing_else(signature: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (
        {"layers": [[nn.ReLU, [], {}, signature]]},
        {"layers": [[nn.ReLU, [], {}, "x"]], "forward_signature": signature},
    ):
        with pytest.raises(ValueError, match="must be names such as"):
            Sequential(**arguments)
    assert not list(tmp_path.iterdir()), "a signature was executed"


def test_dunder_names_are_only_names() -> None:
    assert parse_signature(" __class__ , _a9->B ", "s") == (("__class__", "_a9"), ("B",))
    model = Sequential([[nn.Identity, [], {}, "__class__"]], forward_signature="__class__")
    assert model("value") == "value"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "must not be empty"),
        ([[nn.ReLU, [], {}]], r"layers\[0\].*must be \[type, args, kwargs, signature\]"),
        ([nn.ReLU], r"must be \[type, args, kwargs, signature\]"),
        ([[nn.ReLU, [], {}, "edge_indx"]], "nothing before it is called 'edge_indx'; did you mean 'edge_index'"),
        ([[nn.ReLU, [], {}, "x -> h"], [nn.ReLU, [], {}, "g"]], r"layers\[1\]: nothing before it is called 'g'"),
        ([[nn.Linear, [2], {}, "x"]], r"layers\[0\]: Linear\(2\) failed"),
        ([[nn.ReLU, 3, {}, "x"]], "args must be a list"),
        ([[nn.ReLU, [], [], "x"]], "kwargs a mapping"),
        ([[nn.ReLU(), [True], {}, "x"]], "ReLU is made already"),
        ([[dict, [], {}, "x"]], "must be a layer"),
        ([[3, [], {}, "x"]], "must be a layer"),
        ([["os.system", ["touch ran"], {}, "x"]], "not among the objects"),
        ([["torch_geometric.nn.Sequential", ["x", []], {}, "x"]], r"use qsr\.graph\.Sequential"),
    ],
)
def test_wrong_layers(layers: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sequential(layers)


def test_wrong_results_and_signatures() -> None:
    with pytest.raises(ConfigError, match="not the 2 results"):
        Sequential([[nn.ReLU, [], {}, "x -> a, b"]])(features(2))
    for signature in ("x, x", "x -> y"):
        with pytest.raises(ConfigError, match="different names, without an arrow"):
            Sequential([[nn.ReLU, [], {}, "x"]], forward_signature=signature)


def test_linear_layers_in_a_row() -> None:
    model = LinearSequential([[2, 4], [4, 3]], [nn.ReLU, "torch.nn.Identity"], linear_kwargs=[{"bias": False}, {}]).double()
    first, last = model.layers[0], model.layers[2]
    x = features(2)
    expected = (x @ first.weight.T).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-14)
    plain = LinearSequential([[2, 4], [4, 3]], [nn.ReLU, nn.Identity], linear_kwargs=[None, {"bias": False}])
    assert [layer.bias is None for layer in plain.layers if isinstance(layer, nn.Linear)] == [False, True]
    assert plain.to_config()["linear_kwargs"] == [None, {"bias": False}]
    slope = LinearSequential([[2, 2]], [nn.LeakyReLU], activation_kwargs=[{"negative_slope": 0.5}]).layers[1]
    assert slope(torch.tensor(-2.0)) == -1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": [], "activations": []}, "dims must not be empty"),
        ({"dims": [[1, 2]], "activations": []}, "dims and activations must have the same length"),
        ({"dims": [[1, 2]], "activations": [nn.ReLU], "linear_kwargs": []}, "linear_kwargs must have the same length as dims"),
        (
            {"dims": [[1, 2]], "activations": [nn.ReLU], "activation_kwargs": [{}, {}]},
            "activation_kwargs must have the same length as dims",
        ),
        *(
            ({"dims": [[1, 2], widths], "activations": [nn.ReLU, nn.ReLU]}, r"dims\[1\]=.*: must be \[in, out\]")
            for widths in ([1], [2, 3, 4], [2, 0], [2, 3.0], [2, True], {2: 3}, 3, None, "23")
        ),
        ({"dims": {"a": [1, 2]}, "activations": [nn.ReLU]}, "dims must be a list, found {'a'"),
        ({"dims": [[1, 2]], "activations": nn.ReLU}, "activations must be a list"),
        ({"dims": [[1, 2]], "activations": [nn.ReLU], "linear_kwargs": {"bias": False}}, "linear_kwargs must be a list"),
        (
            {"dims": [[1, 2]], "activations": [nn.ReLU], "activation_kwargs": [True]},
            r"activation_kwargs\[0\]=True: must be a mapping",
        ),
        (
            {"dims": [[1, 2]], "activations": [nn.ReLU], "linear_kwargs": [{"bais": 1}]},
            r"dims\[0\]: Linear\(1, 2, bais=1\) failed",
        ),
        ({"dims": [[1, 2]], "activations": [torch.optim.Adam]}, "must be a layer"),
    ],
)
def test_wrong_linear_layers(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSequential(**arguments)


class Doubled(nn.Module):
    """A layer of a user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_linear_layers_are_saved_as_numbers_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LinearSequential([[2, 4], [4, 3]], [nn.ReLU, Doubled], activation_kwargs=[{"inplace": True}, {}])
    assert model.to_config()["dims"] == [[2, 4], [4, 3]] and model.to_config()["activations"] == [nn.ReLU, Doubled]
    file = tmp_path / "head.safetensors"
    model.save(file)
    with pytest.raises(ConfigError, match="--allow-import"):
        LinearSequential.load(file)
    monkeypatch.setattr(imports, "_known", {})
    imports.remember(Doubled)
    again = LinearSequential.load(file)
    x = features(2).float()
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert again.to_config()["activation_kwargs"] == [{"inplace": True}, {}]
    with pytest.raises(ConfigError, match="at its top level"):
        LinearSequential([[2, 2]], [lambda x: x]).save(file)
    (tmp_path / "other").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="damaged"):
        LinearSequential.load(tmp_path / "other")


def test_a_block_by_hand() -> None:
    x = features(2)
    block = GNNBlock(2, 3, dropout=0.5, gnn_layer_type=SAGEConv, normalizer_type=nn.LayerNorm, norm_args=[3]).double().eval()
    conv, skip, norm = block.conv, block.skip, block.normalizer
    assert isinstance(conv, SAGEConv) and isinstance(skip, SkipConnection) and isinstance(norm, nn.LayerNorm)
    raw: Any = neighbour_means(x) @ conv.lin_l.weight.T + conv.lin_l.bias + x @ conv.lin_r.weight.T
    centred = raw - raw.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    linear: Any = skip.map
    torch.testing.assert_close(block(x, EDGES), normal.relu() + x @ linear.weight.T, rtol=0, atol=1e-12)
    torch.manual_seed(0)
    noisy = block.train()(x, EDGES)
    kept = noisy != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(noisy[kept], 2 * block.eval()(x, EDGES)[kept], rtol=1e-12, atol=0)


def test_the_block_s_defaults() -> None:
    block = GNNBlock(2, 2, with_skip=False).double().eval()
    x, weight = features(2), torch.tensor([1.0, 1.0, 2.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    assert isinstance(block.conv, GCNConv) and block.skip is None and block.dropout.p == 0.3
    torch.testing.assert_close(block(x, EDGES, edge_weight=weight), block.conv(x, EDGES, weight).relu(), rtol=0, atol=0)
    assert not torch.equal(block(x, EDGES, edge_weight=weight), block(x, EDGES))
    with pytest.raises(ConfigError, match=r"GNNBlock\.dropout: Dropout\(1\.5\) failed"):
        GNNBlock(2, 2, dropout=1.5)
