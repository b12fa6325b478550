"""Limits on the time that a process may train, as schedulers of clusters write them."""

from __future__ import annotations

import math
import re
import time

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WITH_UNIT = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[smhd]?)")
_CLOCK = re.compile(r"((?P<days>\d+)[-:])?(?P<hours>\d{1,4}):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]?\d)")
EXPECTED = "a time such as 11:50:00 (hours:minutes:seconds), 1-12:00:00 (days first), 90m, 1.5h, 2d or 3600 (seconds)"


def parse_duration(text: str) -> float:
    """Seconds of '3600', '90m', '1.5h', '2d', '11:50:00', and with days '1-11:50:00' (Slurm) or '1:11:50:00' (Lightning).

    Raises:
        ValueError: for anything else, and for no time at all.
    """
    if found := _WITH_UNIT.fullmatch(text):
        seconds = float(found["number"]) * _UNITS[found["unit"] or "s"]
    elif found := _CLOCK.fullmatch(text):
        days, hours, minutes, last = (int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
        seconds = float(86400 * days + 3600 * hours + 60 * minutes + last)
    else:
        raise ValueError(f"must be {EXPECTED}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"must be more than nothing: {EXPECTED}")
    return seconds


def deadline(max_time: str | None) -> float:
    """When `train.max_time` will have passed, on the clock of `time.monotonic`, which nobody sets; infinite for None."""
    return math.inf if max_time is None else time.monotonic() + parse_duration(max_time)
