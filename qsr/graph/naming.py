"""Configurations with live objects in them: read from files, written back by names, and told in plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qsr.hparams import ConfigError
from qsr.hparams.imports import remember
from qsr.hparams.objects import name_of
from qsr.hparams.tags import PYOBJECT, load_yaml


def as_config(given: Mapping[str, Any] | str | Path, allow_import: Iterable[str] = ()) -> dict[str, Any]:
    """A configuration: a mapping as it is, or what a YAML file holds.

    Objects in a mapping come from Python that is trusted: files may name them from then on.

    Args:
        allow_import: modules that the file may name objects of.

    Raises:
        ConfigError: for anything else, and as `load_yaml`.
    """
    if isinstance(given, (str, Path)):
        return load_yaml(given, allow_import)
    if not isinstance(given, Mapping):
        raise ConfigError(f"config: expected a mapping or a YAML file, found {type(given).__name__}")
    for thing in _objects(given):
        remember(thing)
    return dict(given)


def in_names(value: Any) -> Any:
    """Plain data with `!pyobject` and its name in the place of an object; for one that has none, what it is."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): in_names(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_names(inner) for inner in value]
    try:
        return f"{PYOBJECT} {name_of(value, 'config')}"
    except ConfigError:
        return f"{PYOBJECT} <{type(value).__module__}.{type(value).__qualname__}>"


def _objects(value: Any) -> Iterable[Any]:
    """Classes and functions in a configuration that a module has at its top level."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _objects(inner)
    elif callable(value) and getattr(value, "__module__", None) and getattr(value, "__qualname__", "").isidentifier():
        yield value
