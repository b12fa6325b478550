"""What the trainer adds to a loop written by hand: the same objective and update rule, the same draws, in turns.

The trainer is timed from `on_fit_start` to `on_fit_end`, once with a run directory (history, checkpoints, log) and once without;
the loop by hand has no callbacks, no history and no checkpoints. At most 5 % are wanted. The ratio is the median over the
repeats of neighbouring measurements. 8x8, one layer, small batches, so that steps are short. About 2 minutes;
--quick 20 s.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import report
from stepping import SMALL

import qsr
from qsr.hparams import RunSettings
from qsr.jobs.allocator import keep_freed_memory
from qsr.jobs.run import build_model
from qsr.jobs.train import variational_energy
from qsr.training import Callback, update_rule

KINDS = ("by hand", "trainer", "trainer with a run directory")
TARGET = 0.05


class Fit(Callback):
    """Seconds of a fit."""

    seconds = 0.0

    def on_fit_start(self, trainer: Any) -> None:
        self.seconds -= time.perf_counter()

    def on_fit_end(self, trainer: Any) -> None:
        self.seconds += time.perf_counter()


def tree(steps: int, samples: int, folder: str) -> dict[str, Any]:
    """The settings of all of them."""
    return {
        "model": SMALL,
        "hamiltonian": {"type": "rydberg", "Lx": 8, "Ly": 8},
        "train": {"K": samples, "steps": steps, "flips": "exact", "dir": folder, "device": "cpu"},
        "optimizer": {"name": "Adam"},
    }


def by_hand(steps: int, samples: int) -> tuple[float, float]:
    """Seconds of a plain loop, and the last energy."""
    settings = RunSettings.from_tree(tree(steps, samples, "<NONE>"))
    model = build_model(settings)
    stage = settings.train.stages()[0]
    objective, rule = variational_energy(settings, stage), update_rule(model, settings, stage)
    started = time.perf_counter()
    batches = objective.batches(0, 0, 1)
    for _ in range(steps):
        metrics = rule.update(model, objective, next(batches))
    return time.perf_counter() - started, metrics["energy"]


def by_trainer(steps: int, samples: int, folder: str) -> float:
    """Seconds of the trainer's fit."""
    fit = Fit()
    qsr.train(**tree(steps, samples, folder), callbacks=[fit])
    return fit.seconds


def measure(steps: int, samples: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of all kinds, in turns."""
    keep_freed_memory()  # as the trainer does
    by_hand(min(steps, 20), samples)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for kind in report.turns(KINDS, repeats):
            if kind == "by hand":
                seconds[kind].append(by_hand(steps, samples)[0])
            else:
                seconds[kind].append(by_trainer(steps, samples, "<NONE>" if kind == "trainer" else folder))
    return seconds


def overheads(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median over the repeats of what each kind takes longer than the loop by hand, as a share."""
    base = seconds[KINDS[0]]
    return {
        kind: statistics.median(own / other - 1 for own, other in zip(found, base, strict=True))
        for kind, found in seconds.items()
    }


def main(steps: int, samples: int, repeats: int, quick: bool) -> None:
    """Print the table and keep it."""
    print(f"{report.header()}\n8x8, {steps} steps of {samples} samples, {repeats} repeats; asked: at most {TARGET:.0%}\n")
    seconds = measure(steps, samples, repeats)
    found = overheads(seconds)
    table = report.Table({"": 32, "seconds": 30, "ms a step": 11, "overhead": 10})
    rows = []
    for kind in KINDS:
        timing = report.Timing(tuple(seconds[kind]))
        table.row(kind, timing, 1e3 * timing.median / steps, f"{found[kind]:+.1%}")
        rows.append({"name": kind, "seconds": timing, "overhead": found[kind]})
    report.save("overhead", {"quick": quick, "steps": steps, "samples": samples, "rows": rows})


if __name__ == "__main__":
    parser = report.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    report.limit_threads(options.threads)
    main(100 if options.quick else options.steps, options.samples, 3 if options.quick else options.repeats, options.quick)
