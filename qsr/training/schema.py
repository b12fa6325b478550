"""What models and data of a user's own share: a settings class, named in the type parameter of their base class."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from qsr.hparams import Hparams
from qsr.hparams.imports import dotted_name, remember

THparams = TypeVar("THparams", bound=Hparams)


class WithHparams(Generic[THparams]):
    """Base class of `Model` and `PyTorchData`, whose subclasses are found by the `module_name` of their settings.

    Attributes:
        hparams_schema: the class of the settings, taken from the type parameter; inherited.
        thparams: the settings.
        named_by_module: whether `module_name` is how the settings find the class; not for those with a section of their own.
    """

    hparams_schema: ClassVar[type[Hparams] | None] = None
    named_by_module: ClassVar[bool] = True
    thparams: THparams

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "hparams_schema" not in cls.__dict__:
            cls.hparams_schema = _type_argument(cls) or cls.hparams_schema
        remember(cls)

    def take_hparams(self, hparams: THparams | Mapping[str, Any]) -> None:
        """Set `thparams`, from an object of the schema or from a mapping.

        Raises:
            TypeError: for None, for another type, and for a class without a schema.
            ConfigError: for values out of bounds.
        """
        schema, name = type(self).hparams_schema, type(self).__name__
        if schema is None:
            raise TypeError(f"{name} must specify a type parameter: class {name}({type(self).__mro__[1].__name__}[MyHparams])")
        if hparams is None:
            raise TypeError("thparams must not be None")
        if not isinstance(hparams, schema) and (isinstance(hparams, Hparams) or not isinstance(hparams, Mapping)):
            raise TypeError(f"thparams must be of type {schema.__name__} or a mapping, found {type(hparams).__name__}")
        taken: Any = hparams if isinstance(hparams, schema) else schema.from_config(hparams)
        if taken["module_name"] is None and type(self).named_by_module:
            # A copy: the object may be shared, and what it is for is decided here.
            taken = taken.model_copy(update={"module_name": dotted_name(type(self))})
        self.thparams = taken

    @property
    def hparams(self) -> THparams:
        """The settings."""
        return self.thparams


def _type_argument(cls: type) -> type[Hparams] | None:
    """The settings class in `class cls(base[argument])`."""
    for base in getattr(cls, "__orig_bases__", ()):
        origin = typing.get_origin(base)
        if isinstance(origin, type) and issubclass(origin, WithHparams):
            for argument in typing.get_args(base):
                if isinstance(argument, type) and issubclass(argument, Hparams):
                    return argument
    return None
