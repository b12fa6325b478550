"""What a setting is: a typed, documented field of an `Hparams` class, and the errors that name it."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, KeysView, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

THparams = TypeVar("THparams", bound="Hparams")

NONE_WORDS = ("none", "null")
LONGEST = 2000  # characters of an error message
SHOWN = 60  # characters of a list in an error message
_MAPPING_NAMES = ("keys", "items", "values", "get")


class ConfigError(ValueError, RuntimeError):
    """A setting, file or command line that cannot be used. The message names it, what was found and what was expected.

    It is one line, also where it repeats what a file says: line ends and control characters are blanks, and what is longer than
    2000 characters is cut.
    """

    def __init__(self, *message: object) -> None:
        super().__init__(*(_one_line(part) if isinstance(part, str) else part for part in message))


def printable(text: str) -> str:
    """One line for a terminal: what files say may hold line ends and control characters, which become blanks."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def _one_line(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} ... {text[-490:]}"


class MissingKeyError(ConfigError, KeyError):
    """A key that a file or section does not have."""

    __str__ = ConfigError.__str__  # KeyError would show the message in quotes


def Hparam(default: Any = PydanticUndefined, *, help: str | None = None, **constraints: Any) -> Any:
    """Declare one setting of an `Hparams` class.

    Args:
        default: value used when nobody sets it; leave it out for a required setting.
        help: one line, shown by `qsr train --help --SECTION`, in blueprints and in error messages.
        **constraints: what pydantic's `Field` takes: bounds (`ge`, `gt`, `le`, `lt`, `min_length`, ...), `default_factory`, ...
    """
    if help is not None:
        constraints["description"] = help
    return Field(default, **constraints)


class Hparams(BaseModel, Mapping[str, Any]):
    """A section of settings: every name is declared once here, with its type, default, bounds and meaning.

    Values are validated on construction and on assignment; unknown names are refused. An object is also a read-only mapping
    of its fields, in the order of their declaration.

    Raises:
        ConfigError: for an unknown name, a wrong type or a value out of bounds.
        TypeError: when a subclass calls a field keys, items, values or get.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=False, protected_namespaces=())

    section: ClassVar[str] = ""
    # Names that are understood on input and turned into other settings (name -> help line); never stored.
    shorthands: ClassVar[dict[str, str]] = {}

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(type(self), error)) from None
        except TypeError:  # pydantic hands what stands in a section inside to its class, as keywords
            for name, value in values.items():
                odd = [key for key in value if not isinstance(key, str)] if isinstance(value, Mapping) else []
                if odd:
                    raise ConfigError(f"{self.label(name)}: has the key {odd[0]!r}; names of settings are text") from None
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(explain(type(self), error)) from None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        taken = [name for name in _MAPPING_NAMES if name in inspect.get_annotations(cls)]
        if taken:
            raise TypeError(f"{cls.__name__}.{taken[0]}: a setting cannot have the name of a method of mappings")

    # --- a mapping of the fields ------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise MissingKeyError(self.unknown_name(name))
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # pydantic's yields pairs, which no mapping does
        return iter(type(self).model_fields)

    def __len__(self) -> int:
        return len(type(self).model_fields)

    def keys(self) -> KeysView[str]:
        """Names of the fields."""
        return {name: None for name in self}.keys()

    # --- from elsewhere ---------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls: type[THparams], values: Mapping[str, Any]) -> THparams:
        """Build from a mapping.

        Raises:
            ConfigError: as the constructor.
        """
        return cls(**values)

    @classmethod
    def from_config(cls: type[THparams], config: Any) -> THparams:
        """Build from an OmegaConf mapping, with its interpolations resolved.

        Raises:
            ConfigError: as the constructor; also for a missing value (`???`) and for interpolations of the environment.
        """
        from qsr.hparams.files import resolved

        return cls(**resolved(config, cls.section or cls.__name__))

    @classmethod
    def from_yaml(cls: type[THparams], path: str | Path, key: str | None = None) -> THparams:
        """Build from a YAML file, or from what lies under a (dotted) key of it. Nothing in it is executed.

        Raises:
            MissingKeyError: if the file does not have the key.
            ConfigError: as `from_config`; also for a file that cannot be read.
        """
        from qsr.hparams.files import read_yaml, under

        return cls(**under(read_yaml(path), key, path))

    @classmethod
    def known_names(cls) -> list[str]:
        """Every name that can be written after this section's flag."""
        return [*cls.model_fields, *cls.shorthands]

    @classmethod
    def from_text(cls: type[THparams], values: Mapping[str, str]) -> THparams:
        """Build from `name=value` words, each value parsed by its field's type (never by its looks).

        Raises:
            ConfigError: as the constructor.
        """
        return cls(**cls.parse_text(values))

    @classmethod
    def parse_text(cls, values: Mapping[str, str]) -> dict[str, Any]:
        """Typed values of `name=value` words, not yet checked against each other."""
        return {name: cls.parse_value(name, text) for name, text in values.items()}

    @classmethod
    def parse_value(cls, name: str, text: str) -> Any:
        """The value that `text` means for the setting `name`.

        Raises:
            ConfigError: for an unknown name or a text that is not of the field's type.
        """
        if name in cls.shorthands:
            return text
        field = cls.model_fields.get(name)
        if field is None:
            raise ConfigError(cls.unknown_name(name))
        if accepts_none(field) and text.lower() in NONE_WORDS:
            return None
        item = _item_type(field)
        try:
            if item is not None:  # 0.8,0.1,0.1 or a,b
                parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
                return tuple(TypeAdapter(item).validate_strings(part) for part in parts)
            return TypeAdapter(annotated(field)).validate_strings(text)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ConfigError(_sentence(cls, name, text, problem)) from None

    @classmethod
    def unknown_name(cls, name: str) -> str:
        """The error line for a name that this section does not have."""
        return f"{cls.label(name)}: unknown setting{nearest(name, cls.known_names())}"

    @classmethod
    def label(cls, name: str) -> str:
        """A setting as errors call it."""
        return f"{cls.section or cls.__name__}.{name}"

    def updated(self: THparams, changes: Mapping[str, Any]) -> THparams:
        """A copy with `changes` applied and everything validated again."""
        stored = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**stored, **changes})


def annotated(field: FieldInfo) -> Any:
    """The field's type with its validators, so that one text can be parsed alone."""
    annotation: Any = field.annotation
    for extra in field.metadata:
        annotation = typing.Annotated[annotation, extra]
    return annotation


def accepts_none(field: FieldInfo) -> bool:
    """Whether None is a value of the field."""
    origin = typing.get_origin(field.annotation)
    return origin in (typing.Union, types.UnionType) and type(None) in typing.get_args(field.annotation)


def _item_type(field: FieldInfo) -> Any:
    """The type of the items of a tuple of any length; None for other fields."""
    annotation = field.annotation
    choices = typing.get_args(annotation) if accepts_none(field) else (annotation,)
    return next((typing.get_args(choice)[0] for choice in choices if typing.get_origin(choice) is tuple), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the closest known name, else the list of all known names."""
    names = sorted(known)
    lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{lower[close[0]]}'?"
    return f"; known: {', '.join(names)}"


def explain(cls: type[Hparams], error: ValidationError) -> str:
    """One line for the first problem pydantic found in a section; a misspelt name before the one that it leaves unset."""
    problems = error.errors(include_url=False)
    problem = next((found for found in problems if found["type"] == "extra_forbidden"), problems[0])
    location = [str(part) for part in problem["loc"]]
    name = location[0] if location else ""
    if problem["type"] == "extra_forbidden":
        return cls.unknown_name(name)
    return _sentence(cls, ".".join(location), problem.get("input"), problem)


def _sentence(cls: type[Hparams], name: str, value: Any, problem: Any) -> str:
    raised = problem.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError) and ":" in str(raised):
        return str(raised)  # a check of ours that already names the setting
    if problem["type"] == "missing":
        return f"{cls.label(name)}: this setting is required"
    field = cls.model_fields.get(name.split(".")[0])
    meaning = f" ({field.description})" if field is not None and field.description else ""
    reason = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    reason = reason.format(**problem.get("ctx", {}))
    shown = f"{str(value)[:SHOWN]}..." if len(str(value)) > SHOWN and isinstance(value, (list, tuple)) else value
    where = f"{cls.label(name)}={shown}" if name else cls.section or cls.__name__
    return f"{where}: {reason}{meaning}"


_WORDS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be larger than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be smaller than {lt}",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be True or False",
    "literal_error": "must be {expected}",
}


def type_name(field: FieldInfo) -> str:
    """The type of a setting as the help tables print it: `int`, `float`, `embedding | linear`, ..."""
    return _type_word(field.annotation)


def _type_word(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    if origin is typing.Annotated:
        return _type_word(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_word(part) for part in typing.get_args(annotation) if part is not type(None))
    return str(getattr(origin or annotation, "__name__", annotation))
