"""Layers in a row whose inputs and outputs have names: `x, edge_index -> h`, read as data and never executed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from qsr.graph.blocks import build_skip
from qsr.graph.layers import Layer, read_layer
from qsr.hparams.base import ConfigError, nearest

_NAMES = r"\s*[A-Za-z_][A-Za-z0-9_]*\s*(?:,\s*[A-Za-z_][A-Za-z0-9_]*\s*)*"
_SIGNATURE = re.compile(f"({_NAMES})(?:->({_NAMES}))?", re.ASCII)


class Sequential(nn.Module):
    """Graph layers and others in a row, each with a signature that says what it takes and what its results are called.

    Args:
        layers: `[type, args, kwargs, signature]` each (see `qsr.graph.layers.build_layer`). A signature is `a, b -> c, d`;
            without an arrow the result takes the place of the first input.
        forward_signature: names of the inputs of the whole. Trailing ones that no layer needs can be left out of a call.
        with_skip: add the first input to the result (through `SkipConnection`).
        skip_args: [in, out], the widths of the first input and of the result.
        skip_kwargs: further arguments of `SkipConnection`.

    Raises:
        ConfigError: for descriptions that are something else, and for names that nothing before has given.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[Any]],
        forward_signature: str = "x, edge_index, batch",
        with_skip: bool = False,
        skip_args: Sequence[Any] | None = None,
        skip_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.input_names, results = parse_signature(forward_signature, "Sequential.forward_signature")
        if results or len(set(self.input_names)) < len(self.input_names):
            raise ConfigError(f"Sequential.forward_signature={forward_signature!r}: must be different names, without an arrow")
        if not layers:
            raise ConfigError("Sequential.layers: must not be empty")
        self.layers = nn.ModuleList()
        self.routes: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        known = list(self.input_names)
        for position, description in enumerate(layers):
            where = f"Sequential.layers[{position}]"
            layer, takes, gives = _read(description, where)
            unknown = [name for name in takes if name not in known]
            if unknown:
                raise ConfigError(f"{where}: nothing before it is called '{unknown[0]}'{nearest(unknown[0], known)}")
            self.layers.append(layer.build(where))
            self.routes.append((takes, gives))
            known += gives
        self.skip = build_skip(skip_args, skip_kwargs, "Sequential") if with_skip else None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The result of the last layer, for inputs in the order of the signature or by their names.

        Raises:
            ConfigError: for inputs that the signature does not have, and for a layer whose input was left out.
        """
        given = self._bound(inputs, named)
        values = dict(given)
        result: Any = None
        for position, (layer, (takes, gives)) in enumerate(zip(self.layers, self.routes, strict=True)):
            missing = [name for name in takes if name not in values]
            if missing:
                raise ConfigError(
                    f"Sequential.layers[{position}] ({type(layer).__name__}): the input '{missing[0]}' was left out"
                )
            result = layer(*(values[name] for name in takes))
            values |= _named(result, gives, position)
        return result if self.skip is None else result + self.skip(given[self.input_names[0]])

    def _bound(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        if len(inputs) > len(self.input_names):
            raise ConfigError(f"Sequential: {len(inputs)} inputs for the signature {', '.join(self.input_names)}")
        values = dict(zip(self.input_names, inputs, strict=False))
        for name, value in named.items():
            if name not in self.input_names:
                raise ConfigError(f"Sequential: no input is called '{name}'{nearest(name, self.input_names)}")
            if name in values:
                raise ConfigError(f"Sequential: the input '{name}' was given twice")
            values[name] = value
        return values


def parse_signature(text: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names before the arrow and behind it; none behind it where there is no arrow.

    Raises:
        ConfigError: for anything but names, commas and one arrow.
    """
    found = _SIGNATURE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ConfigError(f"{where}={text!r}: must be names such as 'x, edge_index' or 'x, edge_index -> h'")
    takes, gives = (tuple(name.strip() for name in part.split(",")) if part else () for part in found.groups())
    return takes, gives


def input_names(module: nn.Module) -> tuple[str, ...]:
    """What the inputs of a module are called."""
    if isinstance(module, Sequential):
        return module.input_names
    return tuple(inspect.signature(module.forward).parameters)


def _read(description: Any, where: str) -> tuple[Layer, tuple[str, ...], tuple[str, ...]]:
    """A layer, what it takes, and what its results are called."""
    if not isinstance(description, (list, tuple)) or len(description) != 4:
        raise ConfigError(f"{where}={description!r}: must be [type, args, kwargs, signature]")
    takes, gives = parse_signature(description[3], f"{where}: signature")
    return read_layer(description[:3], where), takes, gives or takes[:1]


def _named(result: Any, gives: tuple[str, ...], position: int) -> dict[str, Any]:
    if len(gives) == 1:
        return {gives[0]: result}
    if not isinstance(result, (tuple, list)) or len(result) != len(gives):
        raise ConfigError(
            f"Sequential.layers[{position}]: gives {type(result).__name__}, not the {len(gives)} results of its signature"
        )
    return dict(zip(gives, result, strict=True))
