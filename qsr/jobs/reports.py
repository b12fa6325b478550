"""How metrics of predictions look in a terminal."""

from __future__ import annotations

from collections.abc import Mapping


def metric_lines(summary: str, metrics: Mapping[str, float], errors: Mapping[str, float] | None = None) -> list[str]:
    """A line about the predictions, and their metrics below it.

    Args:
        errors: standard errors of some of them.
    """
    width = max((len(name) for name in metrics), default=0)
    after = {name: f" +- {error:.2g}" for name, error in (errors or {}).items()}
    return [summary, *(f"{name:<{width}}  {value:.6g}{after.get(name, '')}" for name, value in metrics.items())]
