"""How results look: tables and metrics in a terminal, predictions in a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

PREDICTIONS_FILE = "predictions.csv"


def metric_lines(summary: str, metrics: Mapping[str, float], errors: Mapping[str, float] | None = None) -> list[str]:
    """A line about the predictions, and their metrics below it.

    Args:
        errors: standard errors of some of them.
    """
    width = max((len(name) for name in metrics), default=0)
    after = {name: f" +- {error:.2g}" for name, error in (errors or {}).items()}
    return [summary, *(f"{name:<{width}}  {value:.6g}{after.get(name, '')}" for name, value in metrics.items())]


def aligned(rows: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """Rows of a table, the first one its head, with columns of equal width; `right`: on the right of them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(text.rjust(width) if right else text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]


def as_csv(columns: dict[str, NDArray[Any]]) -> str:
    """A table as text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    return stream.getvalue()
