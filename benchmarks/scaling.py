"""Cost per sample of a training step against the number of sites N: token-forwards, seconds, and peak memory.

A PTF of one layer with 2x2 patches, Adam, from initial weights. Exact flips take N(n-1)/2 token-forwards, n = N/4 patches;
drawn flips at fixed M, with no window and with the window of neighbours, should take a number that grows as N. Every size has a
process of its own, so that its peak memory is its own; memory is what the steps add to that of the imports, with chunks of
flips bounded by train.memory_MiB. About 2 minutes on two cores; --quick 30 s.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import report
from stepping import SMALL, Stepper, neighbour_window, sample_configs

from qsr.estimators.flip_choice import FlipCosts, flip_costs
from qsr.estimators.sampled_flips import FlipSampling

SIZES = (8, 12, 16, 24, 32)
SAMPLES = {8: 128, 12: 64, 16: 32, 24: 16, 32: 8}
KINDS = ("exact", "M=4", "M=4 + neighbours")
NUM_FLIPS = 4


def tokens(costs: FlipCosts, kind: str, num_flips: int = NUM_FLIPS) -> float:
    """Token-forwards per sample of a step; `costs` are those of no window and of the neighbours."""
    if kind == "exact":
        return costs.fixed_tokens + costs.exact_tokens
    entry = costs.windows[KINDS.index(kind) - 1]
    return costs.fixed_tokens + entry.window_tokens + num_flips * entry.flip_tokens


def exponent(sites: list[int], values: list[float]) -> float:
    """The a of values ~ sites^a, by least squares of the logarithms."""
    x, y = [math.log(v) for v in sites], [math.log(v) for v in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def work(size: int, kind: str, samples: int, repeats: int) -> dict[str, Any]:
    """What one process finds out: one size, one kind of flips."""
    stepper = Stepper(SMALL, size, samples)
    windows = [(), neighbour_window(stepper.model)]
    if kind != "exact":
        stepper.objective.sampling = FlipSampling(NUM_FLIPS, windows[KINDS.index(kind) - 1])
    before = peak_bytes()
    seconds = report.in_turns({"step": stepper.step}, repeats)["step"]
    added = peak_bytes() - before  # before the counting, which takes exact flips
    costs = flip_costs(stepper.model, stepper.objective.hamiltonian, sample_configs(stepper.model, 2), windows)
    return {
        "size": size,
        "kind": kind,
        "samples": samples,
        "tokens": tokens(costs, kind),
        "seconds": seconds.median / samples,
        "memory_MiB": added / 2**20,
    }


def main(threads: int, repeats: int, quick: bool) -> None:
    """Print the table and the exponents, and keep them."""
    sizes = SIZES[:3] if quick else SIZES
    print(f"{report.header()}\nper sample of a step; memory: added by the steps, with as many samples at once\n")
    table = report.Table({"": 28, "samples": 9, "token-forwards": 16, "ms": 10, "MiB": 8})
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        for size in sizes:
            samples = SAMPLES[size] // (4 if quick else 1)
            command = [sys.executable, str(Path(__file__)), "--threads", str(threads), "--repeats", str(repeats)]
            done = subprocess.run([*command, "--worker", f"{size},{kind},{samples}"], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            row = json.loads(done.stdout)
            rows.append(row)
            table.row(f"{kind} {size}x{size}", samples, f"{row['tokens']:.0f}", 1e3 * row["seconds"], f"{row['memory_MiB']:.0f}")
    print("\nexponents of N: cost ~ N^a")
    table = report.Table({"": 28, "token-forwards": 16, "seconds": 10})
    exponents: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        sites = [row["size"] ** 2 for row in own]
        exponents[kind] = {name: exponent(sites, [row[name] for row in own]) for name in ("tokens", "seconds")}
        table.row(kind, *(f"{exponents[kind][name]:.2f}" for name in ("tokens", "seconds")))
    report.save("scaling", {"quick": quick, "rows": rows, "exponents": exponents})


if __name__ == "__main__":
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each")
    parser.add_argument("--worker", help="size,kind,samples: measure this one and print JSON")
    options = parser.parse_args()
    report.limit_threads(options.threads)
    if options.worker:
        size, kind, samples = options.worker.split(",")
        print(json.dumps(work(int(size), kind, int(samples), options.repeats)))
    else:
        main(options.threads, 2 if options.quick else options.repeats, options.quick)
