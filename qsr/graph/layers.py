"""Layers from their descriptions: a type, which may be a name, and its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from qsr.graph.constructor import constructed
from qsr.hparams.base import ConfigError
from qsr.hparams.objects import as_object

CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


class Layer(NamedTuple):
    """A layer of a configuration, written `[type, args, kwargs]`.

    Attributes:
        type: a class, an object or a function, see `layer_type`.
    """

    type: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}

    def build(self, where: str) -> nn.Module:
        """The layer, as `build_layer` makes it."""
        return build_layer(self.type, self.args, self.kwargs, where)


def read_layer(value: Any, where: str) -> Layer:
    """A layer from a list of one to three items; nothing (null) stands for no arguments.

    Raises:
        ConfigError: for anything else.
    """
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 3:
        raise ConfigError(f"{where}={value!r}: must be [type, args, kwargs], of which the last two may be left out")
    kind, args, kwargs = [*value, None, None][:3]
    args, kwargs = [] if args is None else args, {} if kwargs is None else kwargs
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping):
        raise ConfigError(f"{where}: args must be a list and kwargs a mapping, found {args!r} and {kwargs!r}")
    return Layer(layer_type(kind, where), list(args), dict(kwargs))


def layer_type(value: Any, where: str) -> Any:
    """What makes a layer: a class of layers, a layer, a function, or the name of one of them.

    Raises:
        ConfigError: for anything else, and for names that are not allowed (`qsr.hparams.objects`).
    """
    found = as_object(value, where)
    if isinstance(found, nn.Module) or (issubclass(found, nn.Module) if isinstance(found, type) else callable(found)):
        return found
    raise ConfigError(f"{where}={value!r}: must be a layer (a subclass or an object of torch.nn.Module) or a function")


def build_layer(kind: Any, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> nn.Module:
    """A layer of a type: an object as it is, a class called with the arguments, a function wrapped as `Function`.

    Raises:
        ConfigError: naming `where`, for arguments that the class refuses.
    """
    found = layer_type(kind, where)
    if isinstance(found, nn.Module):
        if args or kwargs:
            raise ConfigError(f"{where}: {type(found).__name__} is made already and takes no arguments; give its class")
        return found
    if not isinstance(found, type):
        return Function(found, args, kwargs)
    made: nn.Module = constructed(found, args, kwargs, where)
    return made


def build_aggregation(kind: Any, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> nn.Module:
    """What makes one tensor of a list of them, as `build_layer`; torch.cat joins features (the last dimension) unless told."""
    found = layer_type(kind, where)
    if not args and any(found is function for function in CONCATENATIONS):
        kwargs = {"dim": -1, **kwargs}
    return build_layer(found, args, kwargs, where)


class Function(nn.Module):
    """A function as a layer: called with the inputs, and after them its arguments."""

    def __init__(self, function: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, tuple(args), dict(kwargs or {})

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(*inputs, *self.args, **{**self.kwargs, **named})

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))
