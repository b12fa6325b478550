"""Settings in YAML files: read as data only, with OmegaConf's numbers and interpolations."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsr.hparams.base import ConfigError, MissingKeyError, nearest
from qsr.hparams.bounded import MOST_TEXT, read_text

SHOWN = 500  # characters of what a library says
MOST_RESOLVED = 5000  # interpolations, those inside others counted each time; a millisecond each
MOST_PARTS = 100_000  # of a configuration, with aliases and interpolations written out
_resolving = threading.Lock()


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file: plain containers, numbers and text. Numbers as in YAML 1.2 (1e-4 is one).

    Raises:
        ConfigError: if it cannot be read, is not YAML or not a mapping, or has an object tag; see also `resolved`.
    """
    return resolved(unresolved_yaml(path), path)


def unresolved_yaml(path: str | Path) -> dict[str, Any]:
    """As `read_yaml`, with interpolations and missing values as they are written.

    Raises:
        ConfigError: as `read_yaml`.
    """
    from omegaconf import OmegaConf

    with reading(path):
        config = OmegaConf.load(io.StringIO(yaml_text(path)))
        return plain_tree(OmegaConf.to_container(config, resolve=False), path)


def resolved(config: Any, where: Any) -> dict[str, Any]:
    """Plain containers from a mapping, of OmegaConf or with its interpolations in it.

    Interpolations of other settings are resolved. Those of environment variables are refused: their values would end in
    settings.json, which people share.

    Raises:
        ConfigError: naming `where`, for missing values, interpolations that cannot be resolved, anything but a mapping, and
            keys or values that are not data.
    """
    from omegaconf import OmegaConf

    if not isinstance(config, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, found {type(config).__name__}")
    with reading(where), without_environment():
        made = config if OmegaConf.is_config(config) else OmegaConf.create(dict(config))
        return plain_tree(OmegaConf.to_container(made, resolve=True, throw_on_missing=True), where)


def yaml_text(path: str | Path) -> str:
    """The text of a YAML file, whose parts are few enough to be written out.

    An alias (*name) stands for all that it names, so that some lines can mean 10^9 parts.

    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError: for files that cannot be read as YAML.
        ConfigError: for more than 100000 parts.
    """
    import yaml

    text = read_text(path, MOST_TEXT)
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = MOST_PARTS + 1  # of what contains itself
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes[id(node)] = min(1 + sum(size(part) for part in parts), MOST_PARTS + 1)
        return sizes[id(node)]

    root = yaml.compose(text, yaml.SafeLoader)
    if root is not None and size(root) > MOST_PARTS:
        raise ConfigError(f"{path}: contains itself, or has more than {MOST_PARTS} parts, with all aliases (*name) written out")
    return text


@contextmanager
def reading(where: Any) -> Iterator[None]:
    """Turn whatever YAML and OmegaConf raise about a file into one line that names it."""
    import yaml
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror or error})") from None
    # PyYAML leaves IndexError, KeyError, AttributeError and TypeError to scalars that do not suit their tags (!!int "").
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        said = one_line(error)
        hint = "; files with such tags are for 'qsr graph train'" if "'!pyobject'" in said else ""
        raise ConfigError(f"{where}: not usable as settings ({said}){hint}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not usable as settings (it contains itself, or is nested too deep)") from None


def plain_tree(tree: Any, where: Any) -> dict[str, Any]:
    """A mapping that holds nothing but mappings with text keys, lists, text, numbers, true, false and null.

    Raises:
        ConfigError: for anything else.
    """
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: expected a mapping of settings, found {type(tree).__name__}")
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            odd = [key for key in value if not isinstance(key, str)]
            if odd:
                raise ConfigError(f"{where}: {path or 'the file'} has the key {odd[0]!r}; keys must be text")
            waiting += [(f"{path}.{key}".lstrip("."), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(path, inner) for inner in value]
        elif not (value is None or isinstance(value, (str, int, float))):
            raise ConfigError(f"{where}: {path} is a {type(value).__name__}; settings are text, numbers, true, false and null")
    return tree


def check_keys(tree: Any, where: Any) -> None:
    """Whether all keys of mappings are text or whole numbers (a network has outputs 0, 1, ...).

    Raises:
        ConfigError: naming one that is not.
    """
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            odd = [key for key in value if not isinstance(key, (str, int))]
            if odd:
                raise ConfigError(f"{where}: has the key {odd[0]!r}; keys must be text or whole numbers")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


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
def without_environment() -> Iterator[None]:
    """Without interpolations of environment variables, and with few of others.

    OmegaConf's resolvers are global, and names of resolvers can be computed: only taking it out is sure. It resolves what an
    interpolation names anew each time, so that thirty lines `a: ${b}${b}`, `b: ${c}${c}`, ... would take years.
    """
    from omegaconf import OmegaConf
    from omegaconf.base import Container
    from omegaconf.resolvers import oc

    with _resolving:
        had = OmegaConf.has_resolver("oc.env")
        OmegaConf.clear_resolver("oc.env")
        resolve = Container._resolve_node_interpolation
        left = {"times": MOST_RESOLVED, "characters": MOST_TEXT}

        def counted(self: Any, *arguments: Any, **keywords: Any) -> Any:
            node = resolve(self, *arguments, **keywords)
            text = node._value()
            left["times"] -= 1
            left["characters"] -= len(text) if isinstance(text, str) else 0
            if min(left.values()) < 0:
                raise ConfigError(f"more than {MOST_RESOLVED} interpolations, or {MOST_TEXT} characters from them")
            return node

        Container._resolve_node_interpolation = counted  # type: ignore[method-assign]
        try:
            yield
        finally:
            Container._resolve_node_interpolation = resolve  # type: ignore[method-assign]
            if had:
                OmegaConf.register_new_resolver("oc.env", oc.env, use_cache=False)


def one_line(error: Exception) -> str:
    """What an error says, for a terminal."""
    said = " ".join(str(error).split())
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}..."
