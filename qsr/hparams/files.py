"""Settings in YAML files: read as data only, with OmegaConf's numbers and interpolations."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsr.hparams.base import ConfigError, MissingKeyError, nearest

_resolving = threading.Lock()


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file: plain containers, numbers and text. Numbers as in YAML 1.2 (1e-4 is one).

    Raises:
        ConfigError: if it cannot be read, is not YAML or not a mapping, or has an object tag; see also `resolved`.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file of settings ({_one_line(error)})") from None
    return resolved(config, path)


def resolved(config: Any, where: Any) -> dict[str, Any]:
    """Plain containers from an OmegaConf mapping.

    Interpolations of other settings are resolved. Those of environment variables are refused: their values would end in
    settings.json, which people share.

    Raises:
        ConfigError: naming `where`, for missing values, interpolations that cannot be resolved, and anything but a mapping.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not OmegaConf.is_config(config) and isinstance(config, Mapping):
        return {str(name): value for name, value in config.items()}
    if not OmegaConf.is_dict(config):
        raise ConfigError(f"{where}: expected a mapping of settings, found {type(config).__name__}")
    try:
        with _without_environment():
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {_one_line(error)}") from None
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def under(tree: Mapping[str, Any], key: str | None, where: Any) -> dict[str, Any]:
    """The mapping under a dotted key; all of it without one.

    Raises:
        MissingKeyError: if there is no such key.
        ConfigError: if there is no mapping under it.
    """
    found: Any = tree
    for part in key.split(".") if key else ():
        if not isinstance(found, Mapping) or part not in found:
            known = list(found) if isinstance(found, Mapping) else []
            raise MissingKeyError(f"{where}: no key '{key}'{nearest(part, map(str, known))}; it has {', '.join(map(str, known))}")
        found = found[part]
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}: expected a mapping under '{key}', found {found!r}")
    return dict(found)


def as_yaml(tree: Mapping[str, Any]) -> str:
    """YAML text of plain containers."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(tree)))


@contextmanager
def _without_environment() -> Iterator[None]:
    """OmegaConf's resolvers are global, and names of resolvers can be computed: only taking it out is sure."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    with _resolving:
        had = OmegaConf.has_resolver("oc.env")
        OmegaConf.clear_resolver("oc.env")
        try:
            yield
        finally:
            if had:
                OmegaConf.register_new_resolver("oc.env", oc.env, use_cache=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
