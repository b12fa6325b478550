"""Peak memory of one training step against `train.memory_MiB`: a process for every case.

A transformer of the original's width (Nh 128, 2 layers, patches of 2x2, feed-forward 512) on 256 samples. The peak is what the
process held at most (the system's own count), less what it held just before the step: imports, weights, optimizer. A budget
is kept if the peak is at most a tenth, or 200 MiB, above it.

With --long, in its place: what processes of `qsr train` hold over 10000 steps, with a run directory, history and checkpoints;
the slope by least squares over the last 8000 steps. A run that leaks less than 1 kB a step is called flat. About 8 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

MIB = 2**20
DEFAULT = {"Nh": 128, "nhead": 8, "num_layers": 2, "dim_feedforward": 512, "patch": "2x2"}
BUDGETS = [512, 1024, 2048]


def cases(quick: bool) -> list[dict[str, Any]]:
    """Sides, budgets, update rules, and ways to compute local energies."""
    found = []
    for budget in BUDGETS[:1] if quick else BUDGETS:
        for rule in ("Adam", "spring"):
            found.append({"side": 16, "budget": budget, "rule": rule, "K": 256, "train": {"flips": 2, "window": 2}})
            if not quick:
                found.append({"side": 32, "budget": budget, "rule": rule, "K": 256, "train": {"flips": 2, "window": 0}})
        found.append({"side": 16, "budget": budget, "rule": "Adam", "K": 16, "train": {"flips": "exact"}})
    return found


def allowed(budget: float) -> float:
    """Most MiB above rest for a budget."""
    return budget + max(0.1 * budget, 200)


def one_step(case: dict[str, Any]) -> dict[str, float]:
    """In a process of its own: MiB above rest at the peak of one step, and its seconds."""
    import torch

    import qsr
    from qsr.hparams import RunSettings
    from qsr.jobs.allocator import keep_freed_memory
    from qsr.jobs.run import build_model
    from qsr.training import BatchKey, VariationalEnergy, update_rule

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train = {"K": case["K"], "memory_MiB": case["budget"], "dir": "<NONE>", "device": "cpu", **case["train"]}
    tree = {
        "model": qsr.PTF(**DEFAULT),
        "hamiltonian": qsr.Rydberg(Lx=case["side"], Ly=case["side"]),
        "train": train,
        "optimizer": {"name": case["rule"]},
    }
    settings = RunSettings.from_tree(tree)
    keep_freed_memory()
    model = build_model(settings)
    objective, rule = VariationalEnergy(settings.hamiltonian.build(), settings.train), update_rule(model, settings)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    started = time.perf_counter()
    rule.update(model, objective, [BatchKey(0, 0, 0)])
    seconds = time.perf_counter() - started
    # Not getrusage's ru_maxrss: that of a child process begins with what its parent held.
    [peak] = [int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return {"peak": (peak * 1024 - pages * os.sysconf("SC_PAGE_SIZE")) / MIB, "seconds": seconds}


def measured(case: dict[str, Any]) -> dict[str, float]:
    """`one_step` in a fresh process: its peak counts from the start of a process."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


# ---- many steps ------------------------------------------------------------------------------------------------------

FLAT = 1000.0  # bytes per step
SMALL = "--ptf patch=2x2 Nh=8 nhead=2 --rydberg Lx=4 Ly=4 --train K=32 steps=STEPS dir=DIR --checkpoint every_n_steps=100"
TABLE = Path(__file__).parents[1] / "demos" / "observables.csv"
COLUMNS = "targets=delta input_features=density,staggered,neighbours,diagonal"
LONG = {
    "PTF, Adam": SMALL,
    "PTF, SPRING": f"{SMALL} --optimizer name=spring",
    "PTF, TensorBoard": f"{SMALL} --logger kind=tensorboard",
    "table (HSM)": f"--hsm hilbert_space_dims=4 --data {TABLE} {COLUMNS} --train max_epochs=EPOCHS dir=DIR lr=0.01",
}
BATCHES = 4  # an epoch of the table


def resident(words: str, steps: int) -> list[tuple[int, int]]:
    """Steps done and bytes resident of a process of `qsr train` whenever it reports, which it does at equal distances.

    Args:
        words: of the command; STEPS, or EPOCHS, and DIR are put in.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        values = {"STEPS": str(steps), "EPOCHS": str(steps // BATCHES), "DIR": folder}
        written = re.sub("|".join(values), lambda name: values[name[0]], words)
        command = [sys.executable, "-m", "qsr", "train", *written.split()]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                reported = re.match(r"(step|epoch) (\d+)/", line)
                memory = Path(f"/proc/{process.pid}/statm").read_text().split()
                if reported and len(memory) > 1:
                    done = int(reported[2]) * (1 if reported[1] == "step" else BATCHES)
                    found.append((done, int(memory[1]) * os.sysconf("SC_PAGE_SIZE")))
    assert process.returncode == 0, written
    return found


def slope(points: list[tuple[int, int]]) -> float:
    """Bytes per step by least squares, without the first fifth of the run."""
    steps, held = np.array(points, dtype=float).T
    late = steps > steps[-1] / 5
    return float(np.polyfit(steps[late], held[late], 1)[0])


def many_steps(steps: int) -> list[dict[str, Any]]:
    """A line of the table for each kind of run."""
    rows: list[dict[str, Any]] = []
    print(f"{'run':<18} {'steps':>6} {'MiB at 20 %':>12} {'MiB at the end':>15} {'bytes per step':>15}")
    for name, words in LONG.items():
        points = resident(words, steps)
        first, last = next(held for done, held in points if done >= steps / 5), points[-1][1]
        rows.append({"run": name, "steps": steps, "slope": slope(points), "points": points})
        verdict = "" if rows[-1]["slope"] < FLAT else "  too much"
        print(f"{name:<18} {steps:>6} {first / MIB:>12.1f} {last / MIB:>15.1f} {rows[-1]['slope']:>15.1f}{verdict}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest budget on 16x16 only")
    parser.add_argument("--long", action="store_true", help="resident memory over 10000 steps (--quick: 1000) in place of peaks")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(one_step(options.case)))
        return
    if options.long:
        import report

        print(report.header(), "\n")
        rows = many_steps(1000 if options.quick else 10_000)
        if not options.quick:
            report.save("memory-long", {"runs": rows})
        return
    columns = f"{'samples':>7} {'budget':>7} {'peak':>7} {'ratio':>6} {'allowed':>8} {'seconds':>8}"
    print(f"{'lattice':<8} {'rule':<7} {'flips':<14} {columns}")
    for case in cases(options.quick):
        found, budget, train = measured(case), case["budget"], case["train"]
        flips = str(train["flips"]) + (f" + window {train['window']}" if "window" in train else "")
        verdict = "" if found["peak"] <= allowed(budget) else "  too much"
        print(
            f"{case['side']}x{case['side']:<5} {case['rule']:<7} {flips:<14} {case['K']:>7} {budget:>7} {found['peak']:>7.0f} "
            f"{found['peak'] / budget:>6.2f} {allowed(budget):>8.0f} {found['seconds']:>8.1f}{verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
