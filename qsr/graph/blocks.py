"""Small networks that graph models are made of: skips, linear layers in a row, a graph layer with all that follows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qsr.graph.layers import build_layer
from qsr.hparams.base import ConfigError
from qsr.hparams.bounded import parse_json, parsing
from qsr.hparams.objects import find_object
from qsr.hparams.tags import convert_to_pyobject_tags, resolve_pyobject_tags
from qsr.runs import fit_weights, read_metadata, read_weights, save_weights
from qsr.runs.load import BoundedModel


class SkipConnection(nn.Module):
    """What a skip adds: the input itself, or where the widths differ, a linear map of it without a bias.

    Args:
        weight_initializer: glorot, uniform or kaiming_uniform, as in torch_geometric.nn.Linear; None: its default.
    """

    def __init__(self, in_channels: int, out_channels: int, weight_initializer: str | None = None) -> None:
        super().__init__()
        self.map: nn.Module = nn.Identity()
        if in_channels != out_channels:
            linear = find_object("torch_geometric.nn.Linear", "skip connection")
            self.map = linear(in_channels, out_channels, bias=False, weight_initializer=weight_initializer)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_channels) to (..., out_channels)."""
        return self.map(x)


def build_skip(args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, where: str) -> nn.Module:
    """A skip from its arguments [in, out].

    Raises:
        ConfigError: if there are none.
    """
    if args is None or len(args) < 2:
        raise ConfigError(f"{where}: with_skip needs skip_args=[in, out], the widths of the input and of the output")
    return build_layer(SkipConnection, args, kwargs or {}, where)


class LinearSequential(nn.Module):
    """Linear layers with an activation after each: Linear, activation, Linear, activation, ...

    Args:
        dims: [in, out] of every linear layer.
        activations: the class of every activation (or its name).
        linear_kwargs, activation_kwargs: further arguments of each; None: there are none.

    Raises:
        ConfigError: for no layers, lists of different lengths, widths that are not two numbers, and arguments that a class
            refuses.
    """

    def __init__(
        self,
        dims: Sequence[Sequence[int]],
        activations: Sequence[Any],
        linear_kwargs: Sequence[Mapping[str, Any] | None] | None = None,
        activation_kwargs: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        super().__init__()
        lists = {"linear_kwargs": linear_kwargs, "activation_kwargs": activation_kwargs}
        for name, given in {"dims": dims, "activations": activations, **lists}.items():
            if not (isinstance(given, (list, tuple)) or (name in lists and given is None)):
                raise ConfigError(f"LinearSequential: {name} must be a list, found {given!r}")
        if not dims:
            raise ConfigError("LinearSequential: dims must not be empty")
        if len(activations) != len(dims):
            raise ConfigError(
                f"LinearSequential: dims and activations must have the same length, found {len(dims)} and {len(activations)}"
            )
        for name, given in lists.items():
            if given is not None and len(given) != len(dims):
                raise ConfigError(
                    f"LinearSequential: {name} must have the same length as dims, found {len(given)} and {len(dims)}"
                )
            for position, kwargs in enumerate(given or ()):
                if not (kwargs is None or isinstance(kwargs, Mapping)):
                    raise ConfigError(f"LinearSequential.{name}[{position}]={kwargs!r}: must be a mapping")
        for position, widths in enumerate(dims):
            if not _is_pair(widths):
                raise ConfigError(f"LinearSequential.dims[{position}]={widths!r}: must be [in, out], two numbers of at least 1")
        self._config = {"dims": dims, "activations": activations, **lists}
        layers: list[nn.Module] = []
        for position, (widths, activation) in enumerate(zip(dims, activations, strict=True)):
            for kind, args, given in ((nn.Linear, widths, linear_kwargs), (activation, (), activation_kwargs)):
                layers.append(build_layer(kind, args, (given and given[position]) or {}, f"LinearSequential.dims[{position}]"))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dims[0][0]) to (..., dims[-1][1])."""
        return self.layers(x)

    def to_config(self) -> dict[str, Any]:
        """The arguments that it was made with."""
        return dict(self._config)

    def save(self, path: str | Path) -> None:
        """Write weights and arguments to a safetensors file: numbers and names only.

        Raises:
            ConfigError: for activations that no file can name.
        """
        config = json.dumps(convert_to_pyobject_tags(self._config))
        save_weights(Path(path), self.state_dict(), {"config": config})

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> LinearSequential:
        """What `save` has written.

        Raises:
            ConfigError: for a file that is not, and for classes that are not allowed.
        """
        file = Path(path)
        weights, metadata = read_weights(file), read_metadata(file)
        if "config" not in metadata:
            raise ConfigError(f"{path}: not written by LinearSequential.save")
        with parsing(path, "not written by LinearSequential.save"):
            config = resolve_pyobject_tags(parse_json(metadata["config"]), str(path))
            with BoundedModel(sum(tensor.nbytes for tensor in weights.values()), path):
                model = cls(**config)
        fit_weights(model, weights, path)
        return model.to(device)


def _is_pair(widths: Any) -> bool:
    whole = isinstance(widths, (list, tuple)) and all(isinstance(w, Integral) and not isinstance(w, bool) for w in widths)
    return whole and len(widths) == 2 and min(widths) >= 1


class GNNBlock(nn.Module):
    """dropout(skip(x) + activation(norm(gnn_layer(x, edge_index)))).

    Args:
        in_dim, out_dim: widths of the nodes' features, the first arguments of the graph layer.
        dropout: probability.
        with_skip: add the input (see `SkipConnection`).
        gnn_layer_type: a graph layer; None: torch_geometric.nn.GCNConv.
        skip_args: [in, out] of the skip; None: of the block.

    Raises:
        ConfigError: for arguments that a class refuses.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        dropout: float = 0.3,
        with_skip: bool = True,
        gnn_layer_type: Any = None,
        gnn_layer_args: Sequence[Any] | None = None,
        gnn_layer_kwargs: Mapping[str, Any] | None = None,
        normalizer_type: Any = nn.Identity,
        norm_args: Sequence[Any] | None = None,
        norm_kwargs: Mapping[str, Any] | None = None,
        activation_type: Any = nn.ReLU,
        activation_args: Sequence[Any] | None = None,
        activation_kwargs: Mapping[str, Any] | None = None,
        skip_args: Sequence[Any] | None = None,
        skip_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        graph_layer = "torch_geometric.nn.GCNConv" if gnn_layer_type is None else gnn_layer_type
        arguments = (in_dim, out_dim, *(gnn_layer_args or ()))
        self.conv = build_layer(graph_layer, arguments, gnn_layer_kwargs or {}, "GNNBlock.gnn_layer_type")
        self.normalizer = build_layer(normalizer_type, norm_args or (), norm_kwargs or {}, "GNNBlock.normalizer_type")
        activation = build_layer(activation_type, activation_args or (), activation_kwargs or {}, "GNNBlock.activation_type")
        self.activation = activation
        self.dropout = build_layer(nn.Dropout, (dropout,), {}, "GNNBlock.dropout")
        widths = (in_dim, out_dim) if skip_args is None else skip_args
        self.skip = build_skip(widths, skip_kwargs, "GNNBlock") if with_skip else None

    def forward(self, x: Tensor, edge_index: Tensor, **kwargs: Any) -> Tensor:
        """Features of the nodes (n, in_dim) to (n, out_dim).

        Args:
            edge_index: (2, E) from, to.
            kwargs: further inputs of the graph layer, as edge_weight.
        """
        found = self.activation(self.normalizer(self.conv(x, edge_index, **kwargs)))
        return self.dropout(found if self.skip is None else found + self.skip(x))
