"""Histories of long runs: the time that a row takes, with a checkpoint every 100 steps, and that of reading all rows.

Baseline: the whole file rewritten at each checkpoint, which takes longer the longer the run is; measured up to 30000 rows only.
About 1 minute; --quick 10 seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import report

from qsr.runs import History

CHECKPOINT_EVERY = 100
MOST_REWRITTEN = 30_000
ROW = {
    **{"sites": 64.0, "energy": -26.123456789, "energy_error": 0.00123456, "variance": 1.23456, "samples": 1024.0, "flips": 0.0},
    **{"window": 0.0, "gradient_norm": 0.123456789, "lr": 0.001234, "shift": 1e-3, "fisher_norm": 0.3, "seconds": 0.123456},
}


def recorded(rows: int, rewrite: bool) -> tuple[float, float, float]:
    """Microseconds of a row, seconds of reading, and MB of the file in the end."""
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        started = time.perf_counter()
        for step in range(rows):
            history.append("steps", {"step": step, **ROW, "energy": -26 + 1e-6 * step})
            if step % CHECKPOINT_EVERY == 0:
                history.merge() if rewrite else history.flush()
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        found = History(folder).read("steps")
        reading = time.perf_counter() - started
        assert len(found["step"]) == rows
        history.merge()
        return 1e6 * seconds / rows, reading, (Path(folder) / "history.h5").stat().st_size / 1e6


def main() -> int:
    options = report.arguments(__doc__).parse_args()
    report.limit_threads(1)
    print(report.header(), flush=True)
    table = report.Table({"rows": 9, "us/row": 9, "rewriting": 11, "ratio": 9, "s to read": 11, "MB": 8})
    rows = []
    for count in (1000, 10_000) if options.quick else (1000, 10_000, 30_000, 100_000, 1_000_000):
        each, reading, size = recorded(count, rewrite=False)
        baseline = recorded(count, rewrite=True)[0] if count <= MOST_REWRITTEN else None
        table.row(count, each, baseline, None if baseline is None else baseline / each, reading, size)
        rows.append({"rows": count, "microseconds": each, "rewriting": baseline, "reading": reading, "megabytes": size})
    if not options.quick:
        report.save("history", {"checkpoint_every": CHECKPOINT_EVERY, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
