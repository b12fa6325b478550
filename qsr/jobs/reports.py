"""How metrics of predictions look in a terminal."""

from __future__ import annotations

from collections.abc import Mapping


def metric_lines(summary: str, metrics: Mapping[str, float]) -> list[str]:
    """A line about the predictions, and their metrics below it."""
    width = max((len(name) for name in metrics), default=0)
    return [summary, *(f"{name:<{width}}  {value:.6g}" for name, value in metrics.items())]
