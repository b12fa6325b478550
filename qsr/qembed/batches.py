"""What a batch of tokens is made of: inputs by the names of a network's arguments, and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from qsr.hparams import ConfigError


def parts_of(batch: Any) -> tuple[Any, Tensor | None]:
    """Inputs, a mapping by names or one tensor for the first argument, and labels, if there are some.

    Args:
        batch: a mapping with `labels` among its entries, or (inputs, labels), or (inputs,), or inputs alone.

    Raises:
        ConfigError: for anything else.
    """
    parts: Any = batch.items() if isinstance(batch, Mapping) else enumerate(batch) if isinstance(batch, (tuple, list)) else ()
    for name, part in parts:
        if isinstance(part, np.ndarray):
            raise ConfigError(f"batch: {name} must be a tensor (torch.from_numpy), found an array of numpy")
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != "labels"}, batch.get("labels")
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2) and isinstance(batch[0], (Tensor, Mapping)):
        return batch[0], batch[1] if len(batch) == 2 else None
    found = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise ConfigError(f"batch: must be a mapping with input_ids or configs, and labels, or (inputs, labels); found {found}")
