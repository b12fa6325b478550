"""Help pages made from the settings classes themselves."""

from __future__ import annotations

import inspect
import textwrap

from qsr.hparams import Hparams, find_section, hparams_class, sections, type_name

WIDTH = 110
NAME_WIDTH = 18


def sections_overview() -> str:
    """The list of sections, for `qsr train --help`."""
    titles = {
        "part": "Run",
        "model": "Model (one; a second one after --lptf or --hsm is the sampler inside)",
        "tokens": "Tokens of a sampler, after its section",
        "hamiltonian": "Problem (one)",
        "data": "Data, for models on data and for samplers that learn from snapshots",
    }
    lines = []
    for role, title in titles.items():
        lines.append(f"{title}:")
        for section in sections():
            if section.role == role:
                spelled = ", ".join(f"--{name}" for name in (section.name, *section.aliases))
                lines.append(f"  {spelled:<27}{section.title}")
        lines.append("")
    lines.append("Settings of a section: qsr train --help --ptf")
    lines.append("Presets (--preset NAME): nnqsr, the architecture and optimizer of the original NN-QSR; fast-4x4 to fast-32x32")
    lines.append("From a file: --config-name NAME [--config-dir DIR] section.setting=value +key=value ~key; -m runs sweeps")
    return "\n".join(lines)


def section_table(name: str) -> str:
    """Name, type, default and meaning of every setting of a section.

    Raises:
        ConfigError: for an unknown section.
    """
    section = find_section(name)
    return settings_table(hparams_class(section.name), f"--{section.name}: {section.title}")


def settings_table(cls: type[Hparams], title: str) -> str:
    """The same of a class of settings."""
    about = inspect.cleandoc(cls.__doc__ or "").partition("\n\nRaises:")[0]
    lines = [title, "", about, ""]
    for field_name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Hparams):  # a section of its own
            default = getattr(default, "name", "its defaults")
        default = getattr(default, "__name__", default)  # of a class
        shown = "" if field.is_required() else f" [{default}]"
        lines += _entry(field_name, f"({type_name(field)}){shown}", field.description or "")
    for shorthand, meaning in cls.shorthands.items():
        lines += _entry(shorthand, "(other spelling)", meaning)
    return "\n".join([*lines, ""])


def _entry(name: str, kind: str, meaning: str) -> list[str]:
    head = f"  {name:<{NAME_WIDTH}} {kind}"
    body = textwrap.wrap(meaning, WIDTH - NAME_WIDTH - 6)
    return [head, *(f"  {'':<{NAME_WIDTH}} {line}" for line in body)]
