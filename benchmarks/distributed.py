"""Efficiency of several processes: the seconds of a step in one process over N times those in N, at equal samples.

A PTF on 8x8 with N minibatches, in one process of one thread and in N processes of one thread each, which torchrun starts;
medians over the steps after the first ones. Processes need as many idle cores. What a step sends is counted (see
docs/several_processes.md).
About 3 minutes on two cores; --quick 1 minute.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import report

from qsr.runs import RunDirectory, load_model

OPTIMIZERS = ("Adam", "spring")
SAMPLES = {"Adam": 128, "spring": 256}  # of a minibatch
WARM_UP = 5  # steps in which memory and caches settle


def words(optimizer: str, minibatches: int, steps: int, size: int, folder: Path) -> list[str]:
    """Of `qsr`; exact flips, so that all steps are alike."""
    train = f"Q={minibatches} K={SAMPLES[optimizer]} steps={steps} flips=exact device=cpu dir={folder}"
    problem = f"--ptf patch=2x2 Nh=16 nhead=2 num_layers=1 --rydberg Lx={size} Ly={size}"
    return f"train {problem} --optimizer name={optimizer} --train {train}".split()


def seconds_per_step(command: list[str], folder: Path) -> tuple[float, int]:
    """The median over the steps of the run that a command trains, and its number of parameters."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    (settings,) = folder.rglob("settings.json")
    seconds = RunDirectory(settings.parent).history.read("steps")["seconds"]
    parameters = sum(parameter.numel() for parameter in load_model(settings.parent).parameters())
    return statistics.median(float(value) for value in seconds[WARM_UP:]), parameters


def bytes_sent(optimizer: str, parameters: int, samples: int, processes: int) -> int:
    """In a step, by one process: energies, and the gradient or the parts of a natural gradient."""
    sent = 8 * samples + 8 * parameters
    if optimizer == "spring":
        sent += 24 * samples + 4 * parameters * samples // processes + 8 * samples**2
    return sent


def measured(optimizer: str, processes: int, steps: int, size: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step in one process and in several, which take turns."""
    starts = {1: ["-m", "qsr"]}
    starts[processes] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "qsr"]
    seconds: dict[int, list[float]] = {count: [] for count in starts}
    parameters = 0
    for turn in report.turns([str(count) for count in starts], repeats):
        with tempfile.TemporaryDirectory() as folder:
            given = words(optimizer, processes, steps, size, Path(folder))
            found, parameters = seconds_per_step([*starts[int(turn)], *given], Path(folder))
            seconds[int(turn)].append(found)
    alone, together = (statistics.median(seconds[count]) for count in (1, processes))
    sent = bytes_sent(optimizer, parameters, processes * SAMPLES[optimizer], processes)
    return {"one": alone, "several": together, "efficiency": alone / (processes * together), "bytes": sent}


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument("--processes", type=int, default=2, help="how many (default 2)")
    options = parser.parse_args()
    report.limit_threads(options.processes)
    size, steps, repeats = (4, 15, 1) if options.quick else (8, 25, 3)
    print(f"{size}x{size}, {options.processes} processes of one thread; {report.header()}", flush=True)
    table = report.Table({"optimizer": 12, "s/step, 1": 12, "s/step, N": 12, "efficiency": 12, "MB sent": 10})
    rows = {}
    for optimizer in OPTIMIZERS:
        row = rows[optimizer] = measured(optimizer, options.processes, steps, size, repeats)
        table.row(optimizer, row["one"], row["several"], row["efficiency"], row["bytes"] / 1e6)
    if not options.quick:
        report.save("distributed", {"size": size, "processes": options.processes, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
