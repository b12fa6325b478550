"""What tells a function from a changed one: a digest of its code, and of all that the code reads."""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import importlib
import re
import sys
import types
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path, PurePath
from types import CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from qsr.hparams.base import ConfigError

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range, slice)
_OF_C = (  # parts of classes that are written in C: their names say all
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_INSTALLED = ("site-packages", "dist-packages")


def digest(value: Any, name: str) -> str:
    """A digest of a function, or of any object, that is the same in every process, and another one when it would compute
    something else.

    Of a function that is its code, defaults and closure, and the global names in its code with their values; functions and
    classes are looked into in the same way, and of objects all that they would keep in a pickle is taken. What is installed
    counts by its name and version.

    Args:
        name: of the setting, for the message.

    Raises:
        ConfigError: for what has no such description: open files, locks, generators.
    """
    try:
        return _Digest().of(value).hex()
    except RecursionError:
        raise ConfigError(f"data.{name}: what it uses is nested too deeply to notice when it changes") from None
    except _Opaque as error:
        raise ConfigError(
            f"data.{name}: uses {error}, of which nobody can say whether it changes, and what was prepared would be out of date; "
            "make it inside the function, or leave it out in __getstate__"
        ) from None


class _Opaque(Exception):
    """Something that cannot be described."""


class _Digest:
    """Digests of values that may hold each other."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, bytes]] = {}  # by identity; with the value, so that no other one gets it
        self.open: dict[int, int] = {}  # values that are being looked at, and how deep they lie
        self.names: list[str] = []  # by which the value at hand was reached

    def of(self, value: Any) -> bytes:
        if type(value) in _ATOMS:
            return _joined(type(value).__name__, repr(value))
        identity = id(value)
        if identity in self.known:
            return self.known[identity][1]
        if identity in self.open:
            return _joined("above", str(self.open[identity]))
        self.open[identity] = len(self.open)
        try:
            found = _joined(*self._parts(value))
        finally:
            del self.open[identity]
        self.known[identity] = value, found
        return found

    def _named(self, name: str, value: Any) -> bytes:
        self.names.append(name)
        found = _joined(name, self.of(value))
        self.names.pop()
        return found

    def _mapping(self, values: Iterable[tuple[str, Any]]) -> Iterator[bytes]:
        return (self._named(name, value) for name, value in sorted(values))

    def _parts(self, value: Any) -> Iterator[Any]:
        """What makes a value what it is, beginning with its kind."""
        if isinstance(value, (FunctionType, type)):
            yield from self._function(value) if isinstance(value, FunctionType) else self._class(value)
        elif isinstance(value, ModuleType):
            yield from ("module", value.__name__, _version(value.__name__))
        elif isinstance(value, CodeType):
            yield from self._code(value)
        elif isinstance(value, MethodType):
            yield from ("method", self.of(value.__func__), self.of(value.__self__))
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            owner = value.__self__
            yield from ("builtin", value.__qualname__, "" if isinstance(owner, ModuleType) else self.of(owner))
        elif isinstance(value, (staticmethod, classmethod)):
            yield from (type(value).__name__, self.of(value.__func__))
        elif isinstance(value, property):
            yield from ("property", *map(self.of, (value.fget, value.fset, value.fdel)))
        elif isinstance(value, functools.cached_property):
            yield from ("property", self.of(value.func))  # before Python 3.12 it has a lock
        elif isinstance(value, _OF_C):
            yield from ("of C", value.__objclass__.__qualname__, value.__name__)
        elif isinstance(value, torch.Tensor):
            yield from self._tensor(value)
        elif isinstance(value, (np.ndarray, np.generic)):
            yield from self._array(np.asarray(value))
        elif type(value) in (list, tuple):
            yield from (type(value).__name__, *map(self.of, value))
        elif type(value) in (dict, MappingProxyType):
            yield "mapping"
            for key, inner in value.items():
                yield self._named(key, inner) if isinstance(key, str) else _joined(self.of(key), self.of(inner))
        elif isinstance(value, (set, frozenset)):
            yield from ("set", self.of(type(value)), *sorted(map(self.of, value)))
        elif isinstance(value, PurePath):  # keeps what it has computed
            yield from ("path", str(value))
        elif isinstance(value, re.Pattern):
            yield from ("pattern", self.of(value.pattern), str(value.flags))
        elif isinstance(value, Enum):
            yield from ("enum", self.of(type(value)), value.name)
        elif isinstance(value, CellType):
            yield from ("cell", self.of(value.cell_contents) if _filled(value) else "empty")
        else:
            yield from self._object(value)

    def _function(self, function: FunctionType) -> Iterator[Any]:
        yield from ("function", str(function.__module__), function.__qualname__)
        if _is_installed(function.__module__) and _is_at_its_name(function):
            yield _version(function.__module__)
            return
        yield self.of(function.__code__)
        yield from map(self.of, (function.__defaults__, function.__kwdefaults__))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield self._named(name, cell)
        yield from self._mapping(vars(function).items())
        if not _is_installed(function.__globals__.get("__name__")):
            yield from self._globals(function)

    def _globals(self, function: FunctionType) -> Iterator[bytes]:
        """The global names of a function, with their values; of modules of a user's own the attributes that it may read."""
        for code in _codes(function.__code__):
            found = {name: function.__globals__[name] for name in _loaded(code) if name in function.__globals__}
            found |= _imported(code, function.__globals__)
            for name, value in sorted(found.items()):
                yield self._named(name, value)
                if isinstance(value, ModuleType):
                    yield from self._attributes(value, code.co_names)

    def _attributes(self, module: ModuleType, names: Iterable[str]) -> Iterator[bytes]:
        if _is_installed(module.__name__):
            return
        for name in sorted(set(names) & vars(module).keys()):
            value = vars(module)[name]
            yield self._named(name, value)
            if isinstance(value, ModuleType) and value.__name__.startswith(f"{module.__name__}."):
                yield from self._attributes(value, names)

    def _class(self, kind: type) -> Iterator[Any]:
        yield from ("class", kind.__module__, kind.__qualname__)
        if _is_installed(kind.__module__):
            yield _version(kind.__module__)
            return
        yield from map(self.of, kind.__bases__)
        # What else has two underscores at both ends is made by Python, and by decorators of classes.
        functions = (FunctionType, staticmethod, classmethod, property)
        own = vars(kind).items()
        kept = (pair for pair in own if not _is_special(pair[0]) or isinstance(pair[1], functions))
        yield from self._mapping(pair for pair in kept if pair[0] != "_abc_impl")

    def _code(self, code: CodeType) -> Iterator[Any]:
        yield from ("code", code.co_name, code.co_code, *map(self.of, code.co_consts))
        for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
            yield self.of(names)
        yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"

    def _tensor(self, tensor: torch.Tensor) -> Iterator[Any]:
        yield from ("tensor", self.of(type(tensor)), str(tensor.dtype), str(tensor.device), str(tuple(tensor.shape)))
        if tensor.layout != torch.strided:
            sparse = tensor.detach().to_sparse_coo().coalesce()
            yield from map(self.of, (sparse.indices(), sparse.values()))
            return
        whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        yield whole.reshape(-1).view(torch.uint8).numpy().tobytes()

    def _array(self, array: np.ndarray) -> Iterator[Any]:
        yield from ("array", str(array.dtype.descr if array.dtype.names else array.dtype.str), str(array.shape))
        yield self.of(array.tolist()) if array.dtype.hasobject else array.tobytes()

    def _object(self, value: Any) -> Iterator[Any]:
        """All that a pickle of an object would hold."""
        kind = type(value)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            found = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:
            raise self._opaque(value) from error
        yield from ("object", self.of(kind))
        if isinstance(found, str):  # the name that it has in its module, which those have, too, that functools.cache makes
            yield from (found, self.of(getattr(value, "__wrapped__", None)))
            return
        made, arguments, state, *members = (*found, None, None, None)[:5]
        yield from (self.of(made), self.of(arguments))
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # with __slots__
            state = {**(state[0] or {}), **state[1]}
        if isinstance(state, dict) and all(isinstance(name, str) for name in state):
            yield from self._mapping(state.items())
        else:
            yield self.of(state)
        yield from (self.of(list(part)) for part in members if part is not None)

    def _opaque(self, value: Any) -> _Opaque:
        place = f"'{'.'.join(self.names)}', " if self.names else ""
        return _Opaque(f"{place}an object of type {type(value).__qualname__}")


def _joined(*parts: bytes | str) -> bytes:
    """One digest of several parts, each with its length."""
    whole = hashlib.sha256()
    for part in parts:
        text = part.encode() if isinstance(part, str) else part
        whole.update(len(text).to_bytes(8, "little"))
        whole.update(text)
    return whole.digest()


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of those inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _loaded(code: CodeType) -> set[str]:
    """Names that a code looks up among the globals."""
    return {str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


def _imported(code: CodeType, names: dict[str, Any]) -> dict[str, ModuleType]:
    """Modules that a code imports while it runs."""
    found = {}
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for place, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level = steps[place - 2].argval  # it is pushed first, and the names to import from the module then
            name = "." * int(level or 0) + str(step.argval)
            if level or not _is_installed(name):
                try:
                    found[name] = importlib.import_module(name, names.get("__package__"))
                except (ImportError, TypeError):
                    continue  # then the function fails, or does without
    return found


def _is_installed(module: str | None) -> bool:
    """Whether a module belongs to Python or to an installed package, and not to a user."""
    top = str(module).partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    found = sys.modules.get(top)
    places = [getattr(found, "__file__", None), *getattr(found, "__path__", ())]
    return any(set(Path(place).parts) & set(_INSTALLED) for place in places if place)


def _version(module: str) -> str:
    top = module.partition(".")[0]
    return f"{top} {getattr(sys.modules.get(top), '__version__', '')}"


def _is_at_its_name(function: FunctionType) -> bool:
    """Whether the module has this function under its name: others were made by calls, from other things."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # of a name that was not yet given a value
        return False
    return True
