"""Configurations with objects, sweeps and ranges in them, as YAML tags: `!pyobject torch.nn.ReLU`, `!sweep {values: [1, 2]}`.

Only objects that `qsr.hparams.objects` lets files name are found, and only by the classes here: what `yaml.safe_load` reads
stays what it was.
"""

from __future__ import annotations

import io
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qsr.hparams.base import ConfigError, nearest
from qsr.hparams.bounded import read_text
from qsr.hparams.files import check_keys, reading
from qsr.hparams.imports import imports_allowed
from qsr.hparams.objects import find_object, name_of
from qsr.hparams.sweeps import MAX_PARTS, MAX_VALUES, dotted, is_node, nodes, parse_path, range_inclusive

PYOBJECT = "!pyobject"
DRAWS = 5  # of !random_uniform, where it does not say how many

# PyYAML takes 1e-4 and 1e9 for text: YAML 1.1 wants a point and a sign. They are numbers in YAML 1.2.
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")


class ConfigLoader(yaml.SafeLoader):
    """`yaml.load(text, ConfigLoader)`: plain YAML, objects, sweeps and ranges.

    Raises:
        ConfigError: for tags with something else than they take, names that are not allowed, and keys that stand twice.
    """

    draws = 0  # nodes of random numbers so far: each has a stream of its own

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)  # before `<<` puts other mappings into it
        written = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for position, key in enumerate(written) if key in written[:position]), None)
        if twice is not None:
            raise ConfigError(f"{place(node)}: '{twice[1]}' stands there twice")
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_PARTS:
            raise ConfigError(f"{place(node)}: has more than {MAX_PARTS} keys, with all << written out")


def load_yaml(path: str | Path, allow_import: Iterable[str] = ()) -> dict[str, Any]:
    """The configuration in a YAML file, with live objects in it.

    Args:
        allow_import: modules whose classes and functions the file may name, beside those that `allow_import` has named.

    Raises:
        ConfigError: if it cannot be read, is no mapping, or names what it may not.
    """
    with reading(path), imports_allowed(allow_import):
        stream = io.StringIO(read_text(path))
        stream.name = str(path)  # which errors name
        tree = yaml.load(stream, ConfigLoader)  # a SafeLoader
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
        try:
            for _ in nodes(tree):  # also finds what contains itself
                pass
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        check_keys(tree, path)
        return tree


def convert_to_pyobject_tags(config: Any) -> Any:
    """The same configuration as plain data, each object in it as the text `!pyobject package.module.Name`.

    Raises:
        ConfigError: for objects without a name: functools.partial, functions inside functions, layers, tensors.
    """
    return _plain(config, ())


def resolve_pyobject_tags(config: Any, where: str) -> Any:
    """The reverse of `convert_to_pyobject_tags`: objects in place of text that begins with `!pyobject`.

    Raises:
        ConfigError: see `qsr.hparams.objects.find_object`.
    """
    if isinstance(config, str):
        word, _, name = config.partition(" ")
        return find_object(name.strip(), where) if word == PYOBJECT else config
    if isinstance(config, Mapping):
        return {key: resolve_pyobject_tags(value, f"{where}.{key}") for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [resolve_pyobject_tags(value, f"{where}[{position}]") for position, value in enumerate(config)]
    return config


def dump_yaml(config: Mapping[str, Any]) -> str:
    """YAML text that `load_yaml` reads: objects by their names, sweeps and ranges as tags.

    Raises:
        ConfigError: see `convert_to_pyobject_tags`.
    """
    return yaml.dump(convert_to_pyobject_tags(config), Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


def place(node: yaml.Node) -> str:
    """Where something stands, for error messages."""
    return f"{node.start_mark.name}, line {node.start_mark.line + 1}"


# --- reading ------------------------------------------------------------------------------------------------------------


def _pyobject(loader: ConfigLoader, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{place(node)}: {PYOBJECT} takes one name, package.module.Name")
    return find_object(node.value, place(node))


def _sweep(loader: ConfigLoader, node: yaml.Node) -> dict[str, Any]:
    fields = _fields(loader, node, ("values",))
    return {"type": "sweep", "values": _values(fields, node)}


def _coupled_sweep(loader: ConfigLoader, node: yaml.Node) -> dict[str, Any]:
    fields = _fields(loader, node, ("target", "values"))
    return {"type": "coupled-sweep", "target": parse_path(fields["target"]), "values": _values(fields, node)}


def _range(loader: ConfigLoader, node: yaml.Node) -> dict[str, Any]:
    fields = _fields(loader, node, ("start", "stop"), ("step",))
    start, stop = _number(fields, "start", node), _number(fields, "stop", node)
    whole = isinstance(start, int) and isinstance(stop, int)
    step = _number(fields, "step", node) if "step" in fields else 1 if whole else 0.1
    return {"type": "range", "values": range_inclusive(start, stop, step), "tune_values": (start, stop, step)}


def _random_uniform(loader: ConfigLoader, node: yaml.Node) -> dict[str, Any]:
    fields = _fields(loader, node, ("start", "stop", "log"), ("size",))
    start, stop, log, size = (
        _number(fields, "start", node),
        _number(fields, "stop", node),
        fields["log"],
        fields.get("size", DRAWS),
    )
    sized = isinstance(size, int) and 1 <= size <= MAX_VALUES
    if not isinstance(log, bool) or not sized or not start < stop or (log and start <= 0):
        raise ConfigError(
            f"{place(node)}: !random_uniform needs start < stop (above 0 for log), log true or false, and "
            f"a size of 1 to {MAX_VALUES}"
        )
    generator = np.random.default_rng(loader.draws)
    loader.draws += 1
    low, high = np.log([start, stop]) if log else (start, stop)
    drawn = generator.uniform(low, high, size)
    return {"type": "random_uniform", "values": np.exp(drawn) if log else drawn, "tune_values": (start, stop, log)}


def _reference(loader: ConfigLoader, node: yaml.Node) -> dict[str, Any]:
    return {"type": "reference", "target": parse_path(_fields(loader, node, ("target",))["target"])}


def _fields(loader: ConfigLoader, node: yaml.Node, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{place(node)}: {node.tag} takes {{{': ..., '.join(required)}: ...}}")
    fields = loader.construct_mapping(node, deep=True)
    for name in fields:
        if name not in required + optional:
            raise ConfigError(f"{place(node)}: {node.tag} has no '{name}'{nearest(str(name), required + optional)}")
    missing = [name for name in required if name not in fields]
    if missing:
        raise ConfigError(f"{place(node)}: {node.tag} needs {', '.join(missing)}")
    return fields


def _values(fields: Mapping[str, Any], node: yaml.Node) -> list[Any]:
    if not isinstance(fields["values"], list) or not fields["values"]:
        raise ConfigError(f"{place(node)}: values={reprlib.repr(fields['values'])}: must be a list with at least one value")
    return fields["values"]


def _number(fields: Mapping[str, Any], name: str, node: yaml.Node) -> Any:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{place(node)}: {name}={reprlib.repr(value)}: must be a number")
    if not abs(value) < 2**63:  # nor is NaN
        raise ConfigError(f"{place(node)}: {name}={reprlib.repr(value)}: must be a number between -2^63 and 2^63")
    return value


def _unknown(loader: Any, node: yaml.Node) -> Any:
    raise ConfigError(f"{place(node)}: unknown tag {node.tag}{nearest(node.tag, _CONSTRUCTORS)}")


_CONSTRUCTORS = {
    PYOBJECT: _pyobject,
    "!sweep": _sweep,
    "!coupled-sweep": _coupled_sweep,
    "!range": _range,
    "!random_uniform": _random_uniform,
    "!reference": _reference,
}
for _tag, _constructor in _CONSTRUCTORS.items():
    ConfigLoader.add_constructor(_tag, _constructor)
ConfigLoader.add_constructor(None, _unknown)
ConfigLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_EXPONENT.pattern})$"), list("-+.0123456789"))


# --- writing ------------------------------------------------------------------------------------------------------------


class _ConfigDumper(yaml.SafeDumper):
    """Writes text that begins with `!pyobject`, and nodes, as tags."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump_text(dumper: _ConfigDumper, text: str) -> yaml.Node:
    word, _, name = text.partition(" ")
    if word == PYOBJECT:
        return dumper.represent_scalar(PYOBJECT, name)
    # Text that our loader, but not PyYAML's, would take for a number is to keep its quotes.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _EXPONENT.fullmatch(text) else None)


def _dump_mapping(dumper: _ConfigDumper, mapping: dict[Any, Any]) -> yaml.Node:
    if not is_node(mapping):
        return dumper.represent_mapping("tag:yaml.org,2002:map", mapping)
    fields = {name: value for name, value in mapping.items() if name not in ("type", "tune_values")}
    if "target" in fields:
        fields["target"] = dotted(fields["target"])
    if mapping["type"] == "range":
        fields = dict(zip(("start", "stop", "step"), mapping["tune_values"], strict=True))
    if mapping["type"] == "random_uniform":
        fields = dict(zip(("start", "stop", "log"), mapping["tune_values"], strict=True))
        fields["size"] = len(mapping["values"])
    return dumper.represent_mapping(f"!{mapping['type']}", fields)


_ConfigDumper.add_representer(str, _dump_text)
_ConfigDumper.add_representer(dict, _dump_mapping)


def _plain(value: Any, path: tuple[Any, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.item() if isinstance(value, np.generic) else value  # numpy's float64 is a float
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {_plain(key, path): _plain(inner, (*path, key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, (*path, position)) for position, inner in enumerate(value)]
    return f"{PYOBJECT} {name_of(value, dotted(path) or 'configuration')}"
