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
_known: dict[str, Any] = {}  # classes and functions of this process, which were imported by whoever defined them


def remember(thing: Any) -> None:
    """Let settings name a class or function that exists already; nothing has to be imported for it."""
    _known[dotted_name(thing)] = thing


def remembered(name: str) -> Any:
    """What has been remembered under a dotted name; None for other names."""
    return _known.get(name)


def dotted_name(thing: Any) -> str:
    """`package.module.Name` of a class or function; one of the script that is running has the script's name for `__main__`."""
    module = thing.__module__
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(file).stem if file else module
    return f"{module}.{thing.__qualname__}"


def allow_import(*modules: str) -> None:
    """Trust modules (and what lies below them) for the rest of this process: settings may name classes in them."""
    _allowed.update(part.strip() for module in modules for part in module.split(","))


@contextmanager
def imports_allowed(modules: Iterable[str] | str) -> Iterator[None]:
    """As `allow_import`, for a stretch of code; a text is one name, or several with commas."""
    before = set(_allowed)
    allow_import(*([modules] if isinstance(modules, str) else modules))
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
    found = remembered(name)
    if found is None:
        module = name.rpartition(".")[0]
        if not is_allowed(module):
            raise ConfigError(f"{where}={name}: modules are imported only when you say so; {how_to_allow(module or name)}")
        found = imported(name, f"{where}={name}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{where}={name}: must name a subclass of {base.__name__}, found {found!r}")
    if name not in _known and not is_allowed(found.__module__):
        raise ConfigError(f"{where}={name}: comes from {found.__module__}, which is not allowed")
    return found


def imported(name: str, where: str) -> Any:
    """The object of a dotted name, whose module is trusted or allowed: whoever calls this has made sure of that.

    Raises:
        ConfigError: beginning with `where`, if there is none.
    """
    module, _, attribute = name.rpartition(".")
    if is_allowed(module) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does: a model of one's own usually lies beside its settings
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(f"{where}: cannot import {module} ({error})") from None
    except AttributeError:
        raise ConfigError(f"{where}: {module} has no {attribute}") from None


def is_allowed(module: str) -> bool:
    """Whether the user trusts a module: named to `allow_import`, or in QSR_ALLOW_IMPORTS, or below one that is."""
    trusted = _allowed | {entry.strip() for entry in os.environ.get(ENVIRONMENT, "").split(",") if entry.strip()}
    return is_below(module, trusted)


def is_below(module: str, roots: Iterable[str]) -> bool:
    """Whether a module is one of the roots or lies in one: torch.nnx does not lie in torch.nn."""
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def how_to_allow(module: str) -> str:
    """What to do about a name that is not imported unasked."""
    return f"add --allow-import {module} (in Python: allow_import) if you trust it"
