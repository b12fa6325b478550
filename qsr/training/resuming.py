"""Going on from a checkpoint that somebody else may have written: whether its state is one of this run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from qsr.hparams import ConfigError
from qsr.hparams.bounded import reason
from qsr.training.protocols import RunFailed

COUNTS = ("step", "stage", "epoch", "step_in_epoch", "rewinds")
MOST = 2**53  # of a count: beyond it numbers of other programs are no longer whole
NOT_OURS = (ConfigError, RunFailed, OSError, MemoryError, torch.OutOfMemoryError)  # they say what is wrong, or nothing of a state


def check_state(state: Mapping[str, Any], own: Mapping[str, Any], step: int, where: str) -> None:
    """Whether a stored state has the form of the state of this run as it is before it goes on.

    Args:
        own: that state.
        step: the step whose folder the checkpoint lies in.
        where: what to name in errors.

    Raises:
        ConfigError: naming an entry that is missing, or of another kind or size.
    """
    needed = [name for name in own if name not in ("model", "objective", "stage", "memory_bytes") and name not in state]
    if needed:
        raise ConfigError(f"{where}: no state of a run, it has no {', '.join(needed)}")
    for name in COUNTS:
        value = state.get(name, 0)
        if type(value) is not int or not 0 <= value <= MOST:
            raise ConfigError(f"{where}: {name}={value!r:.60}: must be a whole number, at least 0")
    if state["step"] != step:
        raise ConfigError(f"{where}: step={state['step']}: expected {step}, the name of its folder")
    for name, value in own.items():
        if name not in ("model", *COUNTS) and name in state:
            _check_alike(state[name], value, f"{where}: {name}")


@contextmanager
def going_on(where: str) -> Iterator[None]:
    """For loading a state, and for the first step from it, where optimizers find that it was of another model.

    Raises:
        ConfigError: for whatever is raised there that does not say by itself what is wrong; its cause is kept.
    """
    try:
        yield
    except NOT_OURS:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: cannot be gone on from ({type(error).__name__}: {reason(error)})") from error


def _check_alike(found: Any, own: Any, where: str) -> None:
    """What is None may become anything, and the other way round; lists grow."""
    if own is None or found is None:
        return
    if isinstance(own, Tensor):
        if not isinstance(found, Tensor) or found.shape != own.shape or found.is_complex() != own.is_complex():
            raise ConfigError(f"{where}: expected a tensor {tuple(own.shape)}, found {_kind(found)}")
    elif isinstance(own, Mapping):
        if not isinstance(found, Mapping):
            raise ConfigError(f"{where}: expected a mapping, found {_kind(found)}")
        for name, value in own.items():
            if name in found:
                _check_alike(found[name], value, f"{where}.{name}")
    elif isinstance(own, (list, tuple)):
        if not isinstance(found, (list, tuple)) or (isinstance(own, tuple) and len(found) != len(own)):
            raise ConfigError(f"{where}: expected {len(own)} values, found {_kind(found)}")
        for number, (part, value) in enumerate(zip(found, own, strict=False)):
            _check_alike(part, value, f"{where}[{number}]")
    elif isinstance(own, (bool, str)) or not isinstance(own, (int, float)):
        if type(found) is not type(own):
            raise ConfigError(f"{where}: expected a {type(own).__name__}, found {_kind(found)}")
    elif type(found) not in (int, float):
        raise ConfigError(f"{where}: expected a number, found {_kind(found)}")


def _kind(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)}"
    return f"{type(found).__name__} of {len(found)}" if isinstance(found, (list, tuple)) else type(found).__name__
