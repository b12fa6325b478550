"""Features as rows of numbers: what a model can take, and what it names when it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qsr.hparams import ConfigError


def features_and_targets(batch: Any) -> tuple[Tensor, Tensor | None]:
    """x and y of a batch (x, y, ...), (x,) or x; None for targets that are not there or have no columns."""
    x, y = (*batch, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
    return x, y if y is not None and y.numel() else None


def check_rows(x: Tensor, missing: str, where: str, names: Sequence[str] | None = None) -> None:
    """Whether features (S, K) can be used.

    Args:
        missing: the setting: `error`, or `drop_terms`, where NaN may stand for a value.
        where: the file, or data.
        names: of the features; None: their numbers.

    Raises:
        ConfigError: naming one that is infinite, or missing where that is not provided for.
    """
    usable = torch.isfinite(x)
    if missing == "drop_terms":
        usable = usable | torch.isnan(x)
    if not bool(usable.all()):
        row, column = torch.nonzero(~usable)[0].tolist()
        name = f"'{names[column]}'" if names else f"number {column + 1}"
        hint = "; missing=drop_terms leaves its term out" if torch.isnan(x[row, column]) and missing == "error" else ""
        raise ConfigError(f"{where}: feature {name} of row {row + 1} is {x[row, column].item():g}, expected a number{hint}")
