"""Sections from what was written: mappings, or `Hparams` objects, that say what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsr.hparams.base import ConfigError, Hparams, nearest
from qsr.hparams.registry import class_for, sections

TYPED = ("model", "hamiltonian", "data")  # sections that say what they are by their `type`
NAMED = ("optimizer", "scheduler", "loss")  # sections that name a class of torch
LATTICE = ("Lx", "Ly", "boundary", "geometry")


def as_mapping(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Hparams):
        explicit = {field: getattr(value, field) for field in value.model_fields_set}
        return {"type": value.section, **explicit} if name in TYPED else explicit
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}: expected a section (a mapping or an Hparams object), found {value!r}")
    return dict(value)


def class_of(values: Mapping[str, Any], role: str) -> type[Hparams]:
    """The `Hparams` class of a model, a problem or data: by its `type`, or its `module_name`.

    Raises:
        ConfigError: if neither tells, or if the section is something else.
    """
    choices = [section.name for section in sections() if section.role == role]
    default = role if values.get("module_name") else "rydberg" if role == "hamiltonian" else None
    kind = values.get("type", default)
    if kind is None:
        raise ConfigError(f"{role}.type: missing; one of {', '.join(choices)}")
    known = [entry for entry in sections() if entry.role in (role, f"internal {role}")]
    section = next((entry for entry in known if str(kind).lower() in (entry.name, *entry.aliases)), None)
    if section is None:
        raise ConfigError(f"{role}.type={kind}: not a {role}{nearest(str(kind), choices)}")
    return class_for(section.name, values)


def build_section(values: Mapping[str, Any], role: str) -> Any:
    """The `Hparams` object of a model, a problem or data."""
    return class_of(values, role)(**{name: value for name, value in values.items() if name != "type"})


def merged_section(section: str, stored: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A section with new values on top, mappings inside it (`kwargs`, a subsampler) merged one by one.

    A section of another type, or of another class of torch, replaces what is stored; another problem keeps its lattice.
    """
    if section in NAMED and "module_name" in values and stored.get("name") is not None:
        values = {"name" if key == "module_name" else key: value for key, value in values.items()}
    if _differ(section, stored, values):
        kept = LATTICE if section == "hamiltonian" and stored.get("positions") is None else ()
        return {**{name: stored[name] for name in kept if name in stored}, **values}
    result = dict(stored)
    replaces = getattr(class_of(stored, section), "replaces", {}) if section == "hamiltonian" and stored else {}
    for name in [name for name in values if name in replaces and values[name] != stored.get(name)]:
        result = {kept: value for kept, value in result.items() if kept not in replaces[name]}
    for name, value in values.items():
        inner = result.get(name)
        # Models inside models say what they are by their type.
        kind = name if name in NAMED else "model"
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[name] = merged_section(kind, inner, value) if both else value  # type: ignore[arg-type]
    return result


def _differ(section: str, stored: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether two sections are about different things: then nothing of the one means anything in the other."""
    for key in ("name",) if section in NAMED else ("type", "module_name"):
        old, new = stored.get(key), values.get(key)
        if section in NAMED:  # in full, or not
            old, new = (value and str(value).rpartition(".")[2].lower() for value in (old, new))
        if None not in (old, new) and old != new:
            return True
    return False
