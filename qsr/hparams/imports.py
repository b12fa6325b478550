"""Classes by their dotted names, from modules that the user allows: nothing is imported because a file says so."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsr.hparams.base import ConfigError

ENVIRONMENT = "QSR_ALLOW_IMPORTS"  # module names with commas between them

_allowed: set[str] = set()
_known: dict[str, type] = {}  # classes of this process, which were imported by whoever defined them


def remember(cls: type) -> None:
    """Let settings name a class that exists already; nothing has to be imported for it."""
    _known[dotted_name(cls)] = cls


def dotted_name(cls: type) -> str:
    """`package.module.Class`; for a class of the script that is running, with the script's name in place of `__main__`."""
    module = cls.__module__
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(file).stem if file else module
    return f"{module}.{cls.__qualname__}"


def allow_import(*modules: str) -> None:
    """Trust modules (and what lies below them) for the rest of this process: settings may name classes in them."""
    _allowed.update(part.strip() for module in modules for part in module.split(","))


@contextmanager
def imports_allowed(modules: Iterable[str]) -> Iterator[None]:
    """As `allow_import`, for a stretch of code."""
    before = set(_allowed)
    allow_import(*modules)
    try:
        yield
    finally:
        _allowed.clear()
        _allowed.update(before)


def find_class(name: str, base: type, where: str) -> Any:
    """The class that a setting names.

    Args:
        name: dotted.
        base: what it must be a subclass of.
        where: the setting, for error messages.

    Raises:
        ConfigError: for a module that is not allowed, one that cannot be imported, and anything but such a class.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{where}={name!r}: must be the name of a class, package.module.Class")
    found: Any = _known.get(name)
    if found is None:
        found = _imported(name, where)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{where}={name}: must name a subclass of {base.__name__}, found {found!r}")
    if name not in _known and not _is_allowed(found.__module__):
        raise ConfigError(f"{where}={name}: comes from {found.__module__}, which is not allowed")
    return found


def _imported(name: str, where: str) -> Any:
    module, _, attribute = str(name).rpartition(".")
    if not module or not _is_allowed(module):
        raise ConfigError(
            f"{where}={name}: modules are imported only when you say so; add --allow-import {module or name} "
            f"(in Python: allow_import) if you trust it"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does: a model of one's own usually lies beside its settings
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(f"{where}={name}: cannot import {module} ({error})") from None
    except AttributeError:
        raise ConfigError(f"{where}={name}: {module} has no {attribute}") from None


def _is_allowed(module: str) -> bool:
    trusted = _allowed | {entry.strip() for entry in os.environ.get(ENVIRONMENT, "").split(",") if entry.strip()}
    return any(module == entry or module.startswith(f"{entry}.") for entry in trusted)
