"""Objects in a configuration by what makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import BeforeValidator

from qsr.hparams import ConfigError, Hparam, Hparams
from qsr.hparams.objects import as_object

# A class or a function; in files by its name.
Named = Annotated[Callable[..., Any], BeforeValidator(lambda value: as_object(value, "config"))]


class Constructor(Hparams):
    """An object by what makes it: `type(*args, **kwargs)`."""

    section = "constructor"

    type: Named = Hparam(help="a class, or a function")
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = Hparam(default_factory=dict)

    def build(self, where: str) -> Any:
        """The object.

        Raises:
            ConfigError: as `constructed`.
        """
        return constructed(self.type, self.args, self.kwargs, where)


def constructed(kind: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> Any:
    """What a class or function makes of arguments that someone has written.

    Raises:
        ConfigError: naming `where`, for arguments that it refuses.
    """
    try:
        return kind(*args, **kwargs)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError, AssertionError) as error:
        given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
        raise ConfigError(f"{where}: {getattr(kind, '__name__', kind)}({given}) failed ({error})") from error


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Let errors begin with the place in the configuration, where the section has another name."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def section_or_constructor(schema: type[Hparams], where: str) -> BeforeValidator:
    """Reads a mapping with a `type` as a `Constructor`, and another one as a section of its own kind."""

    def read(value: Any) -> Any:
        if value is None or isinstance(value, (Constructor, schema)):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("must be a mapping: settings, or the type, args and kwargs of an object")
        with naming(where):
            return Constructor(**value) if "type" in value else schema(**value)

    return BeforeValidator(read)


def function_from(value: Any, where: str) -> Any:
    """A function of a configuration: itself, its name, or a `Constructor` of an object that can be called.

    Raises:
        ConfigError: for anything else.
    """
    found = Constructor(**value) if isinstance(value, Mapping) else as_object(value, where)
    if isinstance(found, type):  # made once; calling the class with a graph would make an object of the graph
        found = Constructor(type=found)
    if not (found is None or isinstance(found, Constructor) or callable(found)):
        raise ConfigError(f"{where}={value!r}: must be a function, or the type, args and kwargs of an object that can be called")
    return found
