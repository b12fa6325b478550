"""How the collapse probability moves during training: by name, or by a function of the progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from qsr.hparams.base import ConfigError
from qsr.qembed.functional import check_name

Progress = Callable[[float], float]  # progress in [0, 1] -> collapse probability
Schedule = Callable[[float, int | None], float]  # (epoch, number of epochs or None) -> collapse probability

SCHEDULES = ("linear", "cyclic", "constant")
STANDALONE_EPOCHS = 10  # length of a ramp and of a cycle where nobody says how many epochs there will be
_registered: dict[str, Progress] = {}


def linear(epoch: float, num_epochs: int | None = None, schedule_epochs: int | None = None) -> float:
    """min(1, e/T) with T = `schedule_epochs`, by default num_epochs - 1 (at least 1), or 10 if that is not known."""
    if schedule_epochs is None:
        schedule_epochs = STANDALONE_EPOCHS if num_epochs is None else max(1, num_epochs - 1)
    return min(1.0, epoch / schedule_epochs)


def cyclic(epoch: float, num_epochs: int | None = None, schedule_period: float | None = None) -> float:
    """(1 - cos(2 pi e/P)) / 2 with P = `schedule_period`, by default num_epochs - 1 (at least 2), or 10 if that is not known."""
    if schedule_period is None:
        schedule_period = STANDALONE_EPOCHS if num_epochs is None else max(2, num_epochs - 1)
    return 0.5 * (1 - math.cos(2 * math.pi * epoch / schedule_period))


def constant(collapse_probability: float) -> float:
    """The same in every epoch."""
    return collapse_probability


def register_schedule(name: str, function: Progress) -> None:
    """Let `schedule` know a function of the progress, which grows as `linear` does, under a name; a later one replaces it.

    Raises:
        ConfigError: for a name that is built in, and what is no function.
    """
    if not isinstance(name, str) or not name or name in SCHEDULES:
        raise ConfigError(f"name={name!r}: must be a word other than {', '.join(SCHEDULES)}")
    if not callable(function):
        raise ConfigError(f"function={function!r}: must be a function of the progress in [0, 1]")
    _registered[name] = function


def schedule(
    kind: str | Progress,
    schedule_epochs: int | None = None,
    schedule_period: float | None = None,
    collapse_probability: float = 0.5,
) -> Schedule:
    """The collapse probability as a function of the epoch (from 0 on, fractions allowed) and the number of epochs.

    Args:
        kind: 'linear', 'cyclic', 'constant', a registered name, or a function of the progress in [0, 1].
        schedule_epochs: epochs until the progress is 1; None: see `linear`.
        schedule_period: epochs of a cycle; None: see `cyclic`.
        collapse_probability: of 'constant'.

    Raises:
        ConfigError: for an unknown name and a value out of bounds; later, if a function gives no number in [0, 1].
    """
    if schedule_epochs is not None and (not isinstance(schedule_epochs, int) or schedule_epochs < 1):
        raise ConfigError(f"schedule_epochs={schedule_epochs}: must be a whole number of at least 1")
    if schedule_period is not None and not (math.isfinite(schedule_period) and schedule_period > 0):
        raise ConfigError(f"schedule_period={schedule_period}: must be a finite number above 0")
    if not 0 <= collapse_probability <= 1:
        raise ConfigError(f"collapse_probability={collapse_probability}: must be between 0 and 1")
    if not callable(kind):
        check_name("superposition_schedule", kind, (*SCHEDULES, *_registered))
    function = kind if callable(kind) else _registered.get(kind)

    def probability(epoch: float, num_epochs: int | None = None) -> float:
        if not (math.isfinite(epoch) and epoch >= 0):
            raise ConfigError(f"epoch={epoch}: must be a finite number of at least 0")
        if num_epochs is not None and num_epochs < 1:
            raise ConfigError(f"num_epochs={num_epochs}: must be at least 1")
        if function is not None:
            return _checked(kind, function(linear(epoch, num_epochs, schedule_epochs)))
        if kind == "linear":
            return linear(epoch, num_epochs, schedule_epochs)
        if kind == "cyclic":
            return cyclic(epoch, num_epochs, schedule_period)
        return constant(collapse_probability)

    return probability


def _checked(kind: object, found: Any) -> float:
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        name = kind if isinstance(kind, str) else getattr(kind, "__name__", type(kind).__name__)
        raise ConfigError(f"superposition_schedule: {name} gave {found!r}; must be a number between 0 and 1")
    return value
