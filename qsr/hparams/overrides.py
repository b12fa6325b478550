"""Settings from a configuration file and from overrides in Hydra's grammar, as one tree of sections."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsr.hparams.base import ConfigError, nearest
from qsr.hparams.building import NAMED, merged_section
from qsr.hparams.files import one_line, plain_tree, reading, resolved, unresolved_yaml, without_environment
from qsr.hparams.on_data import LIFTED
from qsr.hparams.registry import sections

SECTIONS = (
    *("train", "model", "hamiltonian", "data", "optimizer", "scheduler", "gradient_clipping", "checkpoint", "early_stopping"),
    *("loss", "logger", "extra"),
)
# Other names of sections and settings, at the root of a file or of an override.
ALIASES = {
    "model_config": "model",
    "data_config": "data",
    "run_config.trainer": "train",
    "run_config.logger": "logger",
    "name": "train.sub_directory",
    "num_epochs": "train.max_epochs",
    "epochs": "train.max_epochs",
}
DIRECTORY_VARIABLES = ("QSR_CONFIG_PATH", "HYDRA_CONFIG_PATH")  # the first that is set wins


def is_override(word: str) -> bool:
    """Whether a word of the command line is an override: `a.b=1`, `+a=1`, `~a`, `hydra/launcher=joblib`; a section's setting has
    neither dot nor slash."""
    return word.startswith(("+", "~", "hydra/")) or "." in word.partition("=")[0]


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and the words of sections; what comes before the first section is an override, too."""
    overrides: list[str] = []
    rest: list[str] = []
    for word in words:
        file = rest[-1:] == ["--data"] and "=" not in word  # `--data table.csv`
        (rest if word.startswith("--") or file or (rest and not is_override(word)) else overrides).append(word)
    return overrides, rest


def read_tree_of(name: str | None, directory: str | Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Sections with what a configuration file and overrides say; nothing is filled in or checked yet.

    Args:
        name: of the file in the directory, with or without `.yaml`; None: overrides only.
        directory: default: QSR_CONFIG_PATH, HYDRA_CONFIG_PATH, or where we are.

    Raises:
        ConfigError: for a file that is not there or cannot be used, and for overrides that are not Hydra's grammar, that
            sweep, or that name a section that there is not.
    """
    parsed = [_parsed(text) for text in overrides]
    sweeps = [override.input_line for override in parsed if override.is_sweep_override()]
    if sweeps:
        raise ConfigError(f"{sweeps[0]}: several values are a sweep; add -m to run them all, or quote the value: 'a,b'")
    tree: dict[str, Any] = {}
    where: Any = "overrides"
    if name is not None:
        where = file = _config_file(name, directory)
        raw = unresolved_yaml(file)
        groups = []
        if "defaults" in raw:
            groups = [override for override in parsed if (file.parent / override.key_or_group).is_dir()]
            parsed = [override for override in parsed if override not in groups]
            raw = _composed(file, raw, [str(override.input_line) for override in groups])
        tree = _canonical(raw, file)
    for override in parsed:
        _apply(tree, override)
    # Interpolations last, as Hydra has it: they see what overrides have changed.
    return resolved(tree, where)


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the values of overrides such as `train.lr=1e-3,1e-2` (Hydra's `-m`).

    Raises:
        ConfigError: for overrides that are not Hydra's grammar, and for sweeps that are not lists of values.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    globs = [text for text in overrides if "=glob(" in text]
    if globs:
        raise ConfigError(f"{globs[0]}: glob is for config groups; write the values")
    try:
        batches = BasicSweeper.split_arguments([_parsed(text) for text in overrides], max_batch_size=None)
    except HydraException as error:
        raise ConfigError(f"-m: {one_line(error)}") from None
    return batches[0]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with those of `above` on top (see `merged_section`)."""
    result = dict(below)
    for section, values in above.items():
        old = result.get(section)
        both = isinstance(old, Mapping) and isinstance(values, Mapping)
        result[section] = merged_section(section, old, values) if both else values  # type: ignore[arg-type]
    return result


def _parsed(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"{text}: not an override of the form section.setting=value ({one_line(error)})") from None
    if override.package is not None:
        raise ConfigError(f"{text}: packages (@) are for defaults lists; name the section itself")
    return override


def _config_file(name: str, directory: str | Path | None) -> Path:
    found = directory or next((os.environ[variable] for variable in DIRECTORY_VARIABLES if os.environ.get(variable)), ".")
    file = Path(found) / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if not file.is_file():
        known = sorted(path.stem for path in Path(found).glob("*.yaml")) if Path(found).is_dir() else []
        hint = nearest(name, known) if known else ""
        raise ConfigError(f"--config-name {name}: no file {file}; the directory is --config-dir, or HYDRA_CONFIG_PATH{hint}")
    return file


def _composed(file: Path, raw: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Any]:
    """A file with a defaults list, through Hydra's compose; interpolations stay as they are.

    Raises:
        ConfigError: for what Hydra refuses, and for settings of Hydra itself, which can import packages.
    """
    if "hydra" in raw or "hydra" in str(raw["defaults"]) or "://" in str(raw["defaults"]):
        raise ConfigError(f"{file}: settings of Hydra itself (hydra: ..., pkg://...) are not used here; take them out")
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    with reading(file), without_environment():
        try:
            with initialize_config_dir(str(file.parent.resolve()), version_base="1.3"):
                config = compose(file.stem, overrides=list(groups))
        except HydraException as error:
            raise ConfigError(f"{file}: {one_line(error)}") from None
        return plain_tree(OmegaConf.to_container(config, resolve=False), file)


def _canonical(tree: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Sections under their own names, and those inside the model beside it.

    Raises:
        ConfigError: for a key that is not a section, and for two names of one.
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if name == "run_config" and isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": part for inner, part in value.items()}
        else:
            flat[name] = value
    result: dict[str, Any] = {}
    # Whole sections first: the others are single settings in them.
    for name, value in sorted(flat.items(), key=lambda item: "." in ALIASES.get(item[0], "")):
        path = ALIASES.get(name, name).split(".")
        kind = _kind(name)
        if kind is not None:  # `rydberg: {...}`, as on the command line
            path = [kind.role]
            value = {"type": kind.name, **(value if isinstance(value, Mapping) else {})}
        if path[0] not in SECTIONS:
            raise ConfigError(f"{file}: unknown section '{name}'{nearest(name, SECTIONS)}")
        if path[0] in NAMED and isinstance(value, Mapping) and "module_name" in value and "name" not in value:
            value = {"name" if key == "module_name" else key: inner for key, inner in value.items()}
        if value is not None:
            _put(result, path, value, f"{file}: {name}", new=True)
    model = result.get("model")
    if isinstance(model, Mapping):
        for name in LIFTED:
            if isinstance(model.get(name), Mapping) and name not in result:
                result[name] = model[name]
                model = {key: value for key, value in model.items() if key != name}
        result["model"] = model
    return result


def _apply(tree: dict[str, Any], override: Any) -> None:
    text = override.input_line
    name = override.key_or_group
    for alias, own in ALIASES.items():
        if name == alias or name.startswith(f"{alias}."):
            name = own + name[len(alias) :]
            break
    path = name.split(".")
    if path[0] == "model" and len(path) > 1 and path[1] in LIFTED:
        path = path[1:]
    kind = _kind(path[0])
    if kind is not None and len(path) > 1:
        section = dict(tree.get(kind.role, {}))
        if section.setdefault("type", kind.name) != kind.name:
            raise ConfigError(f"{text}: this run has {kind.role}.type={section['type']}")
        tree[kind.role] = section
        path[0] = kind.role
    if path[0] in NAMED and path[1:] == ["module_name"]:
        path[1] = "name"
    if path[0] not in SECTIONS:
        if not (override.is_add() or override.is_force_add()):
            hint = nearest(path[0], SECTIONS).rstrip("?")
            raise ConfigError(f"{text}: unknown section '{path[0]}'{hint} (with + before it: a key of your own, kept in extra)")
        path = ["extra", *path]
    if override.is_delete():
        _remove(tree, path, override)
    else:
        _put(tree, path, _plain(override.value()), text, new=override.is_add())


def _kind(name: str) -> Any:
    """The model or problem that is called so; None for other names."""
    return next((entry for entry in sections() if entry.role in ("model", "hamiltonian") and name in _names(entry)), None)


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry.name in SECTIONS else (entry.name, *entry.aliases)


def _put(tree: dict[str, Any], path: Sequence[str], value: Any, text: str, new: bool) -> None:
    """Set a value; `new`: there must be none yet."""
    for depth, part in enumerate(path[:-1]):
        inner = tree.get(part)
        if inner is not None and not isinstance(inner, Mapping):
            raise ConfigError(f"{text}: {'.'.join(path[: depth + 1])} is {inner!r}, not a section")
        tree[part] = dict(inner or {})
        tree = tree[part]
    if new and path[-1] in tree:
        raise ConfigError(f"{text}: {'.'.join(path)} is there already; leave the + out, or write ++ to replace it")
    tree[path[-1]] = value


def _remove(tree: dict[str, Any], path: Sequence[str], override: Any) -> None:
    text = override.input_line
    for part in path[:-1]:
        inner = tree.get(part)
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{text}: there is no {'.'.join(path)} to take out")
        tree[part] = dict(inner)
        tree = tree[part]
    if path[-1] not in tree:
        raise ConfigError(f"{text}: there is no {'.'.join(path)} to take out{nearest(path[-1], tree) if tree else ''}")
    wanted = _plain(override.value())
    if "=" in text and wanted != tree[path[-1]]:
        raise ConfigError(f"{text}: {'.'.join(path)} is {tree[path[-1]]!r}")
    del tree[path[-1]]


def _plain(value: Any) -> Any:
    """A value of Hydra's grammar in plain containers; quoted text is text."""
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.text if type(value).__name__ == "QuotedString" else value
