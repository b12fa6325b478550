"""Training with flips=auto against flips=exact: the third part of `flips.py`."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import report
from checkpoints import Estimated, FreshSamples, Keeper
from stepping import RECIPE, SMALL

import qsr

CURRICULA = {8: "4x4:150,6x6:100,8x8:600", 12: "4x4:150,6x6:100,8x8:200,12x12:400"}
QUICK = {8: "4x4:20,8x8:60", 12: "4x4:20,12x12:30"}
EVALUATION = {8: 4096, 12: 1024}  # samples
TIMES = 8  # reporting times of a run
ADAM: dict[str, Any] = {"train": {"K": 128, "lr": 5e-3, "dir": "<NONE>", "device": "cpu"}, "optimizer": {"name": "Adam"}}


class Watch(Keeper):
    """Keeps checkpoints, and which steps drew their flips."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sampled: list[bool] = []

    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        self.sampled.append(metrics["flips"] > 0)
        super().on_step_end(trainer, metrics)


def time_grid(spans: list[tuple[float, float]], count: int) -> list[float]:
    """Reporting times at equal ratios, from the latest first checkpoint to the earliest end of the runs (first, last)."""
    first, last = max(span[0] for span in spans), min(span[1] for span in spans)
    if last <= first:
        return [last]
    return [first * (last / first) ** (index / (count - 1)) for index in range(count)]


def at_times(watch: Keeper, times: list[float], samples: int) -> list[Estimated]:
    """E/N of the last checkpoints before the times."""
    problem = watch.settings.hamiltonian
    evaluate = FreshSamples(watch.settings.model.build(problem.lattice()), problem.build(), watch.folder, watch.saved)
    indices = [max(i for i, entry in enumerate(watch.saved) if entry.seconds <= max(t, watch.saved[0].seconds)) for t in times]
    return [evaluate(index, samples) for index in indices]


def compare_training(optimizer: str, seeds: int, quick: bool) -> dict[str, Any]:
    """Print a table for every size and seed; its rows."""
    recipe = RECIPE if optimizer == "spring" else ADAM
    rows: list[dict[str, Any]] = []
    for size in CURRICULA:
        reference, exact = report.reference(size)
        samples = EVALUATION[size] // (16 if quick else 1)
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                watches = {}
                for flips in ("auto", "exact") if seed % 2 == 0 else ("exact", "auto"):
                    watch = watches[flips] = Watch(Path(folder) / flips)
                    train = {**recipe["train"], "curriculum": (QUICK if quick else CURRICULA)[size], "seed": seed, "flips": flips}
                    qsr.train(None, SMALL, callbacks=[watch], **{**recipe, "train": train})
                times = time_grid([(w.saved[0].seconds, w.saved[-1].seconds) for w in watches.values()], TIMES)
                found = {flips: at_times(watch, times, samples) for flips, watch in watches.items()}
            share = statistics.fmean(watches["auto"].sampled)
            kind = "DMRG" if exact else "the original's"
            print(
                f"{size}x{size}, {optimizer}, seed {seed}: relative to {kind} E/N = {reference:.6f}; auto drew flips in ", end=""
            )
            print(f"{100 * share:.0f} % of the steps; {watches['auto'].seconds:.0f} s, exact {watches['exact'].seconds:.0f} s")
            table = report.Table({"seconds": 10, "auto": 22, "exact": 22, "auto: e^2 s": 14, "exact: e^2 s": 14, "ratio": 9})
            for index, seconds in enumerate(times):
                row: dict[str, Any] = {"size": size, "seed": seed, "seconds": seconds, "sampled_steps": share}
                cells = []
                for flips in ("auto", "exact"):
                    entry = found[flips][index]
                    error = (entry.energy - reference) / abs(reference)
                    cells.append(f"{error:.2e} +- {entry.error / abs(reference):.0e}")
                    row |= {flips: error, f"{flips}_error": entry.error / abs(reference), f"{flips}_product": error**2 * seconds}
                products = row["auto_product"], row["exact_product"]
                table.row(seconds, *cells, *products, products[0] / products[1] if products[1] else None)
                rows.append(row)
            print()
    return {"optimizer": optimizer, "rows": rows}
