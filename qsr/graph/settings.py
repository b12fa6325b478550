"""Settings of a graph model: its encoder, what pools the nodes, and the tasks on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, field_validator, model_validator

from qsr.graph.layers import Layer, layer_type, read_layer
from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.hparams.tags import convert_to_pyobject_tags, resolve_pyobject_tags

_named = PlainSerializer(convert_to_pyobject_tags, when_used="json")
# A class, an object or a function; in files by its name.
LayerType = Annotated[Any, _named]
Arguments = Annotated[list[Any], BeforeValidator(lambda value: [] if value is None else value), _named]
Keywords = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value), _named]
Layers = Annotated[tuple[Any, ...], _named]

_PARTS = ("aggregate_pooling", "latent_model", "graph_features_net", "aggregate_graph_features")


class GNNModelHparams(Hparams):
    """Settings of `qsr.graph.GNNModel`; layers are classes, objects or functions, or their names (`qsr.hparams.objects`).

    Raises:
        ConfigError: for unknown settings, for parts that need others, and for names that are not allowed.
    """

    section: ClassVar[str] = "model"

    encoder_type: LayerType = Hparam(help="makes features of the nodes: encoder(x, edge_index[, batch]), (n, F) to (n, H)")
    encoder_args: Arguments = Hparam(default_factory=list, help="arguments of the encoder")
    encoder_kwargs: Keywords = Hparam(default_factory=dict, help="keyword arguments of the encoder")
    downstream_tasks: Layers = Hparam(help="[type, args, kwargs] of a network for every task, on the features of the graphs")
    active_tasks: dict[int, bool] | None = Hparam(None, help="which tasks are computed, by their index; default: all")
    pooling_layers: Layers | None = Hparam(
        None, help="[type, args, kwargs] of what makes one row per graph of those of its nodes"
    )
    aggregate_pooling_type: LayerType | None = Hparam(
        None, help="makes one tensor of the list of pooled ones; default: torch.cat"
    )
    aggregate_pooling_args: Arguments = Hparam(default_factory=list, help="its arguments")
    aggregate_pooling_kwargs: Keywords = Hparam(default_factory=dict, help="its keyword arguments")
    latent_model_type: LayerType | None = Hparam(None, help="network on the features of the nodes, in place of the pooling")
    latent_model_args: Arguments = Hparam(default_factory=list, help="its arguments")
    latent_model_kwargs: Keywords = Hparam(default_factory=dict, help="its keyword arguments")
    graph_features_net_type: LayerType | None = Hparam(None, help="network on the features of whole graphs")
    graph_features_net_args: Arguments = Hparam(default_factory=list, help="its arguments")
    graph_features_net_kwargs: Keywords = Hparam(default_factory=dict, help="its keyword arguments")
    aggregate_graph_features_type: LayerType | None = Hparam(
        None, help="makes one tensor of [features of the graphs, result of the graph features net]; torch.cat joins them"
    )
    aggregate_graph_features_args: Arguments = Hparam(default_factory=list, help="its arguments")
    aggregate_graph_features_kwargs: Keywords = Hparam(default_factory=dict, help="its keyword arguments")

    @model_validator(mode="before")
    @classmethod
    def _objects(cls, values: Any) -> Any:
        return resolve_pyobject_tags(values, cls.section) if isinstance(values, Mapping) else values

    @field_validator("encoder_type", *(f"{part}_type" for part in _PARTS), mode="before")
    @classmethod
    def _layer_type(cls, value: Any, info: ValidationInfo) -> Any:
        return None if value is None and info.field_name != "encoder_type" else layer_type(value, cls.label(str(info.field_name)))

    @field_validator("downstream_tasks", "pooling_layers", mode="before")
    @classmethod
    def _layers(cls, value: Any, info: ValidationInfo) -> Any:
        where = cls.label(str(info.field_name))
        if value is None and info.field_name == "pooling_layers":
            return None
        if not isinstance(value, (list, tuple)) or isinstance(value, Layer):
            raise ConfigError(f"{where}={value!r}: must be a list of [type, args, kwargs]")
        return tuple(read_layer(layer, f"{where}[{position}]") for position, layer in enumerate(value))

    @model_validator(mode="after")
    def _complete(self) -> Any:
        if not self.downstream_tasks:
            raise ConfigError(f"{self.label('downstream_tasks')}: At least one downstream task must be provided")
        if self.pooling_layers == ():
            raise ConfigError(f"{self.label('pooling_layers')}: At least one pooling layer must be provided (or leave it out)")
        if self.aggregate_pooling_type is not None and self.pooling_layers is None:
            raise ConfigError(f"{self.section}: If aggregate_pooling_type is provided, pooling_layers must also be provided.")
        if self.latent_model_type is not None and self.pooling_layers is not None:
            raise ConfigError(f"{self.section}: latent_model_type and pooling_layers exclude each other; leave one of them out")
        if (self.graph_features_net_type is None) != (self.aggregate_graph_features_type is None):
            raise ConfigError(
                f"{self.section}: If graph features are to be used, both a graph features network and an aggregation method must "
                "be provided."
            )
        for part in _PARTS:
            unused = [name for name in (f"{part}_args", f"{part}_kwargs") if self[name] and self[f"{part}_type"] is None]
            # The pools are joined by torch.cat where nothing else is said, and that takes arguments, too.
            if unused and not (part == "aggregate_pooling" and self.pooling_layers):
                raise ConfigError(f"{self.label(unused[0])}: there is no {part}_type that it could be for")
        if self.active_tasks is not None and set(self.active_tasks) != set(range(len(self.downstream_tasks))):
            raise ConfigError(
                f"{self.label('active_tasks')}={self.active_tasks}: active_tasks keys must match the indices of downstream tasks."
            )
        return self
