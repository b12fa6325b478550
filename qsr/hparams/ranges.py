"""Ranges of a parameter, `delta=0:3`: what one network of a whole phase diagram is trained over."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from qsr.hparams.base import NONE_WORDS
from qsr.hparams.types import read_site_values

_NUMBER = r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?\s*"  # each digit in one place only: long ones take no time
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})", re.IGNORECASE)
_SEVERAL = re.compile(rf"{_NUMBER}(:{_NUMBER}){{2,}}", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """All values from `low` to `high` of one parameter, in its unit; written `low:high`.

    Raises:
        ValueError: unless both are finite and low < high.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("must be a range from a smaller to a larger finite number, such as 0:3")

    def __str__(self) -> str:
        return f"{self.low:.17g}:{self.high:.17g}" if self._long else f"{self.low:g}:{self.high:g}"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def middle(self) -> float:
        """(low + high) / 2."""
        return (self.low + self.high) / 2

    @property
    def _long(self) -> bool:
        """Whether six digits would lose something."""
        return float(f"{self.low:g}") != self.low or float(f"{self.high:g}") != self.high


def read_range(value: Any) -> Any:
    """A `Range` from `a:b`; anything else as it is.

    Raises:
        ValueError: for ranges that are none, and for more than two numbers between colons.
    """
    if not isinstance(value, str):
        return value
    found = _RANGE.fullmatch(value)
    if found:
        return Range(float(found[1]), float(found[2]))
    if _SEVERAL.fullmatch(value):
        raise ValueError("must be a number, or a range of two such as 0:3")
    return value


def read_number_or_range(value: Any) -> float | Range | None:
    """A finite number or a `Range`; None stays None."""
    value = read_range(value)
    if value is None or isinstance(value, Range):
        return value
    if isinstance(value, str) and value.lower() in NONE_WORDS:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number, or a range such as 0:3") from None
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def read_site_values_or_range(value: Any) -> float | list[float] | Range:
    """As `read_site_values`, or a `Range` that holds for all sites."""
    value = read_range(value)
    return value if isinstance(value, Range) else read_site_values(value)


def _plain(value: Any) -> Any:
    """As settings.json has it."""
    return str(value) if isinstance(value, Range) else value


RangedNumber = Annotated[float | Range | None, PlainValidator(read_number_or_range), PlainSerializer(_plain, when_used="json")]
RangedSiteValues = Annotated[
    float | list[float] | Range, PlainValidator(read_site_values_or_range), PlainSerializer(_plain, when_used="json")
]
