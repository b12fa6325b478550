"""Configurations with several values in them: every combination of their sweeps, as configurations of single runs.

A node of a configuration that is to be replaced is a mapping with one of these as its `type`; `qsr.hparams.tags` reads and
writes them as YAML tags:

    {"type": "sweep", "values": [...]}                                       each of the values
    {"type": "coupled-sweep", "target": path, "values": [...]}               the one that stands where the target's stands
    {"type": "range", "values": array, "tune_values": (start, stop, step)}   a number, for a search (`qsr.hparams.search`)
    {"type": "random_uniform", "values": array, "tune_values": (start, stop, log)}   likewise
    {"type": "reference", "target": path}                                    what stands at the target

A path is a list of keys and positions.
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qsr.hparams.base import ConfigError, nearest

NODES = ("sweep", "coupled-sweep", "range", "random_uniform", "reference")
NodePath = tuple[str | int, ...]
# More than anyone writes. Aliases of aliases (&a, *a) make billions of a few lines, and !range of three numbers.
MAX_PARTS = 100_000
MAX_VALUES = 1_000_000


class ConfigHandler:
    """All runs of a configuration with sweeps.

    Args:
        config: nested mappings and lists; it stays as it is.
        name_addition: stands in the runs' names, between the configuration's `name` and the number of the run.

    Attributes:
        run_configs: a configuration for every combination of the values of the sweeps, the last sweep changing fastest.
            Coupled sweeps go with their targets, references are what they refer to, ranges stay as they are.

    Raises:
        ConfigError: for targets that there are not, coupled sweeps with another number of values, and more than 100 000 runs.
    """

    def __init__(self, config: Mapping[str, Any], name_addition: str = "") -> None:
        self.config = config
        found = dict(nodes(config))
        sweeps = {path: node["values"] for path, node in found.items() if node["type"] == "sweep"}
        count = math.prod(len(values) for values in sweeps.values())
        if count > MAX_PARTS:
            raise ConfigError(f"config: its {len(sweeps)} sweeps make {count} runs; at most {MAX_PARTS} can be made at once")
        self.run_configs: list[dict[str, Any]] = []
        for number, chosen in enumerate(itertools.product(*(range(len(values)) for values in sweeps.values()))):
            places = dict(zip(sweeps, chosen, strict=True))
            values = {path: sweeps[path][place] for path, place in places.items()}
            run = settled(config, {**values, **coupled_values(found, places)})
            run["name"] = "_".join(filter(None, (str(run.get("name", "run")), name_addition, str(number))))
            self.run_configs.append(run)


def nodes(config: Any) -> Iterator[tuple[NodePath, Mapping[str, Any]]]:
    """Paths and nodes that are to be replaced, in the order of the configuration.

    Raises:
        ConfigError: for a sweep among the values of another, and for more than 100 000 parts.
    """
    left = iter(range(MAX_PARTS))
    for path, value in _walk(config, (), left):
        inside = next((inner for inner, _ in _walk(value.get("values"), path, left)), None)
        if inside is not None:
            raise ConfigError(f"{dotted(path)}: has another {value['type']} among its values; list the combinations instead")
        yield path, value


def coupled_values(found: Mapping[NodePath, Mapping[str, Any]], places: Mapping[NodePath, int]) -> dict[NodePath, Any]:
    """The values of coupled sweeps, given which value of each sweep was taken.

    Raises:
        ConfigError: for a target that is not a sweep, and for another number of values than it has.
    """
    result = {}
    for path, node in found.items():
        if node["type"] != "coupled-sweep":
            continue
        target = next((other for other in places if _texts(other) == _texts(node["target"])), None)
        if target is None:
            hint = nearest(dotted(node["target"]), map(dotted, places)) if places else "; there is none"
            raise ConfigError(f"{dotted(path)}: target {dotted(node['target'])} is not a !sweep{hint}")
        sizes = len(node["values"]), len(found[target]["values"])
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"Incompatible lengths for coupled-sweep {dotted(path)}: {sizes[0]} values for {sizes[1]} of {dotted(target)}"
            )
        result[path] = node["values"][places[target]]
    return result


def settled(config: Mapping[str, Any], values: Mapping[NodePath, Any]) -> dict[str, Any]:
    """A copy of a configuration with values in place of its nodes, and what references refer to in place of them.

    Raises:
        ConfigError: for references to nothing, and for references in a circle.
    """
    chosen = _copied(config, values)
    return _without_references(chosen, chosen, ())


def range_inclusive(start: float, stop: float, step: float) -> np.ndarray:
    """start, start + step, ... up to stop, which is among them if it lies on the grid; whole numbers stay whole.

    Raises:
        ConfigError: for a step of zero or away from stop, and for more than a million values.
    """
    steps = (stop - start) / step if step else math.nan
    if not 0 <= steps < math.inf:
        raise ConfigError(f"range from {start} to {stop}: a step of {step} does not lead there")
    if steps >= MAX_VALUES:
        raise ConfigError(f"range from {start} to {stop} in steps of {step}: has {steps + 1:.15g} values, at most {MAX_VALUES}")
    # Positions times the step: adding the step again and again would miss the end by rounding.
    return start + step * np.arange(math.floor(steps + 1e-9) + 1)


def parse_path(text: str) -> list[str | int]:
    """`model.layers[1].x`, also written `model.layers.1.x`, as keys and positions.

    Raises:
        ConfigError: for text that is not a path.
    """
    if not isinstance(text, str) or not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[\d+\])*", text):
        raise ConfigError(f"target={reprlib.repr(text)}: must be a path such as model.layers[1].x")
    return [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", text)]


def dotted(path: Sequence[str | int]) -> str:
    """A path as text."""
    return ".".join(map(str, path))


def is_node(value: Any) -> bool:
    """Whether a part of a configuration is to be replaced."""
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and value["type"] in NODES


def _walk(value: Any, path: NodePath, left: Iterator[int]) -> Iterator[tuple[NodePath, Mapping[str, Any]]]:
    """Nodes below a value; every part takes one of `left`."""
    if next(left, None) is None:
        raise ConfigError(f"{dotted(path[:3])}: has more than {MAX_PARTS} parts, with all aliases (*name) written out")
    if is_node(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, (*path, key), left)
    elif isinstance(value, (list, tuple)):
        for position, inner in enumerate(value):
            yield from _walk(inner, (*path, position), left)


def _copied(value: Any, values: Mapping[NodePath, Any], path: NodePath = ()) -> Any:
    """New containers with the same leaves, and `values` in place of the nodes at their paths."""
    if is_node(value) and path in values:
        return _copied(values[path], {})
    if isinstance(value, Mapping):
        return {key: _copied(inner, values, (*path, key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(inner, values, (*path, position)) for position, inner in enumerate(value)]
    return value


def _without_references(value: Any, config: Any, trail: tuple[str, ...]) -> Any:
    if is_node(value) and value["type"] == "reference":
        target = dotted(value["target"])
        if target in trail:
            raise ConfigError(f"reference to {target}: refers to itself")
        return _without_references(value_at(config, value["target"]), config, (*trail, target))
    if isinstance(value, dict):
        return {key: _without_references(inner, config, trail) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_references(inner, config, trail) for inner in value]
    return value


def value_at(config: Any, path: Sequence[str | int]) -> Any:
    """What stands at a path of a configuration.

    Raises:
        ConfigError: if there is nothing.
    """
    found = config
    for part in path:
        if isinstance(found, dict):
            keys = {str(key): key for key in found}  # 0 in a path is the key 0 or "0"
            missing = str(part) not in keys
            found = None if missing else found[keys[str(part)]]
        else:
            missing = not (isinstance(found, list) and isinstance(part, int) and part < len(found))
            found = None if missing else found[part]
        if missing:
            raise ConfigError(f"reference to {dotted(path)}: there is no '{part}'")
    return found


def _texts(path: Sequence[str | int]) -> list[str]:
    return [str(part) for part in path]
