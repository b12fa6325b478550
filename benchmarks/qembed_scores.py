"""What the jobs of `qembed_jobs.py` find and what is asked of it: scores of seeds, tables, thresholds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import report


@dataclass(frozen=True, eq=False)
class Row:
    """Scores of a variant.

    Attributes:
        name: in the table.
        scores: one mapping for each seed.
        seconds: of processor time, of an epoch, one for each seed; empty where there are no epochs.
    """

    name: str
    scores: Sequence[Mapping[str, float]]
    seconds: Sequence[float] = ()

    def values(self, metric: str) -> list[float]:
        """Of all seeds."""
        return [found[metric] for found in self.scores]

    def mean(self, metric: str) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values(metric))

    def error(self, metric: str) -> float:
        """The standard error of the mean; nan for one seed."""
        values = self.values(metric)
        return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan

    def shown(self, metric: str) -> str | None:
        """'0.7630 +- 0.0100', without the error for one seed; None without such a score."""
        if metric not in self.scores[0]:
            return None
        error = self.error(metric)
        return f"{self.mean(metric):.4f}" + ("" if math.isnan(error) else f" +- {error:.4f}")

    @property
    def epoch(self) -> float:
        """Seconds of an epoch, the median of the seeds; nan where there are none."""
        return statistics.median(self.seconds) if self.seconds else math.nan


@dataclass(frozen=True)
class Asked:
    """A bound on a figure, and whether it holds."""

    claim: str
    met: bool

    def __str__(self) -> str:
        return f"asked: {self.claim}{'' if self.met else '  missed'}"


def at_least(what: str, found: float, bound: float) -> Asked:
    """That a figure is no smaller; nan never is."""
    return Asked(f"{what} {found:.4f} >= {bound:.4f}", found >= bound)


def at_most(what: str, found: float, bound: float) -> Asked:
    """That a figure is no larger; nan never is."""
    return Asked(f"{what} {found:.4f} <= {bound:.4f}", found <= bound)


@dataclass(frozen=True, eq=False)
class Block:
    """A table, with what is asked of its rows.

    Attributes:
        job: A to D.
        title: what was done.
        columns: metrics, in the order of the table.
        rows: the first of those that have epochs is what the others' time is compared with.
        asked: all bounds.
    """

    job: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    asked: Sequence[Asked] = ()

    def show(self, verdicts: bool) -> None:
        """Print it."""
        print(f"{self.job}  {self.title}")
        table = report.Table({"": 42, **dict.fromkeys(self.columns, 18), "epoch": 8})
        seconds = [row.epoch for row in self.rows if row.seconds]
        for row in self.rows:
            ratio = f"{row.epoch / seconds[0]:.1f}x" if row.seconds else None
            table.row(row.name, *(row.shown(metric) for metric in self.columns), ratio)
        for line in self.asked if verdicts else ():
            print(line)
        print(flush=True)

    def to_json(self) -> dict[str, Any]:
        """For `report.save`."""
        rows = [{"name": row.name, "scores": list(row.scores), "seconds of an epoch": list(row.seconds)} for row in self.rows]
        asked = [{"claim": line.claim, "met": line.met} for line in self.asked]
        return {"job": self.job, "title": self.title, "rows": rows, "asked": asked}
