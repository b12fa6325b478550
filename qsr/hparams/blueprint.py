"""A complete, commented configuration file, written from the settings classes themselves."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from qsr.hparams.base import Hparams, accepts_none, type_name
from qsr.hparams.building import as_mapping, class_of
from qsr.hparams.on_data import LIFTED, other_settings
from qsr.hparams.registry import hparams_class

WIDTH = 128
PARTS = ("optimizer", "scheduler", "gradient_clipping", "checkpoint", "early_stopping", "logger")


def blueprint(tree: Mapping[str, Any], title: str) -> str:
    """YAML text with every setting of a run's sections: what `tree` says, defaults for the rest, and what each one means.

    Args:
        tree: section -> mapping, as from the command line; the model must be there.
        title: first line, a comment.

    Raises:
        ConfigError: for a section or model that there is not.
    """
    tree = {name: as_mapping(name, section) for name, section in tree.items()}
    model = class_of(tree.get("model", {}), "model")
    on_data = getattr(model, "on_data", False)
    if on_data:  # as `data_sections` has it
        tree = {**tree, "gradient_clipping": {"max_norm": None, **tree.get("gradient_clipping", {})}}
    lines = [f"# {title}", ""]
    lines += _section("train", hparams_class("train"), tree, on_data)
    lines += _section("model", model, tree, on_data, left_out=LIFTED)
    if on_data or "data" in tree:
        lines += _section("data", class_of(tree.get("data", {"type": "data"}), "data"), tree, on_data)
    if not on_data:
        problem = tree.get("hamiltonian", {"type": "rydberg"})
        lines += _section("hamiltonian", class_of(problem, "hamiltonian"), {"hamiltonian": problem}, on_data)
    for name in PARTS:
        if name == "early_stopping" and name not in tree:
            if on_data or "data" in tree:
                lines += ["early_stopping:  # nothing below it: training goes to its end", *_commented(hparams_class(name)), ""]
            continue
        lines += _section(name, hparams_class(name), tree, on_data)
    return "\n".join([*lines, "extra: {}  # keys of your own (+key=value); kept with the run", ""])


def _section(name: str, cls: type[Hparams], tree: Mapping[str, Any], on_data: bool, left_out: tuple[str, ...] = ()) -> list[str]:
    given = tree.get(name, {})
    lines = [f"{name}:"]
    if "type" in given:
        lines.append(f"  type: {given['type']}")
    skipped = (*left_out, *other_settings(cls, on_data))
    lines += _fields(cls, given, "  ", skipped)
    return [*lines, ""]


def _fields(cls: type[Hparams], given: Mapping[str, Any], indent: str, skipped: tuple[str, ...] = ()) -> list[str]:
    lines = []
    for name, field in cls.model_fields.items():
        if name in skipped:
            continue
        value = given.get(name, None if field.is_required() else field.get_default(call_default_factory=True))
        nested = _nested(field.annotation)
        shown = field.alias or name
        if nested is not None and (value is None or isinstance(value, Mapping)):
            lines += [f"{indent}{shown}:", *_fields(nested, value or {}, f"{indent}  ")]
            continue
        note = field.description or ""
        kind = type_name(field) + (" | null" if accepts_none(field) else "")
        required = "; to be given" if field.is_required() and name not in given else ""
        lines += _line(f"{indent}{shown}: {_yaml(value)}", f"{note} ({kind}{required})".strip())
    return lines


def _nested(annotation: Any) -> type[Hparams] | None:
    """The settings class in `Class` or `Class | None`; not for fields that take any of several."""
    options = [option for option in getattr(annotation, "__args__", (annotation,)) if option is not type(None)]
    found = options[0] if len(options) == 1 else None
    return found if isinstance(found, type) and issubclass(found, Hparams) and found.model_fields else None


def _commented(cls: type[Hparams]) -> list[str]:
    return [f"  # {line.strip()}" for line in _fields(cls, {}, "") if line.strip()]


def _line(setting: str, comment: str) -> list[str]:
    """The setting with its comment beside it, or above it where that is too long."""
    if len(setting) + len(comment) + 4 <= WIDTH:
        return [f"{setting}  # {comment}"]
    indent = setting[: len(setting) - len(setting.lstrip())]
    return [*(f"{indent}# {part}" for part in textwrap.wrap(comment, WIDTH - len(indent) - 2)), setting]


def _yaml(value: Any) -> str:
    """A value as YAML writes it; JSON is YAML but for plain words."""
    if isinstance(value, str) and value and value.replace("_", "").replace(".", "").isalnum() and not value[0].isdigit():
        return value if value.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "none") else json.dumps(value)
    if isinstance(value, Hparams):
        value = value.model_dump(mode="json")
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return f"{value:.1f}"
    if isinstance(value, float):
        return repr(value) if "e" not in repr(value) or "." in repr(value) else repr(value).replace("e", ".0e")
    return json.dumps(value)
