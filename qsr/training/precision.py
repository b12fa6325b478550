"""The number format that a network computes in: one setting, in force for a stretch of code and undone after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from qsr.samplers.base import Sampler, networks_in


def reporting_precision(training: str) -> str:
    """What reported numbers are computed in, for a run that was trained in `training`."""
    return "float64" if training == "float64" else "float32"


@contextmanager
def computing_in(precision: str, *models: Any) -> Iterator[None]:
    """Matrix products and recurrent networks in `precision`, base pass and flips alike; what was set before comes back.

    float32 is float32 everywhere: torch by itself lets cuDNN's recurrent networks round to TF32, while matrix products are not
    rounded, so that a base pass and its flips would differ. tf32 allows it in both (on GPUs that have it; elsewhere it is
    float32). bf16 runs the networks of `models` under autocast, with their parameters in float32.

    Args:
        precision: as `train.precision`; float64 is in the parameters and needs nothing here.
        models: those that are not samplers are left alone.
    """
    samplers = [model for model in models if isinstance(model, Sampler)]
    with _tf32(precision == "tf32"), networks_in(torch.bfloat16 if precision == "bf16" else None, *samplers):
        yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [(switch, "allow_tf32", value) for switch in switches if (value := _tf32_allowed(switch)) is not None]
    # Since torch 2.9 there are finer ones below these; setting the coarse ones sets them, but does not put them back.
    finer: list[Any] = [torch.backends.cuda.matmul, *(getattr(torch.backends.cudnn, part, None) for part in ("rnn", "conv"))]
    before += [(switch, "fp32_precision", switch.fp32_precision) for switch in finer if hasattr(switch, "fp32_precision")]
    try:
        for switch in switches:
            switch.allow_tf32 = allowed
        yield
    finally:
        for switch, name, value in before:
            setattr(switch, name, value)


def _tf32_allowed(switch: Any) -> bool | None:
    """None where a caller has set the finer switches so that there is no one answer."""
    try:
        return bool(switch.allow_tf32)
    except RuntimeError:
        return None
