"""Where the time of a training step goes, for every sampler: sampling, exact flips, and the gradient.

For Adam the gradient is all the rest of the step: the backward pass and the optimizer. For spring it is the kernel (gradients of
all samples and their Gram matrix), the solution of the linear equations, and the direction. Parts are timed inside real
steps; the numbers are medians over the steps, from initial weights. About 1 minute on two cores; --quick 10 s.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import report
from stepping import ADAM, MODELS, SPRING, Stepper, Stopwatch

from qsr.training import objectives, spring

SAMPLES = {8: 128, 16: 32}
PARTS = ("sample", "flips", "kernel", "solve", "rest")


def breakdown(stepper: Stepper, repeats: int) -> dict[str, float]:
    """Median seconds of the parts of a step and of the step."""
    places: dict[str, tuple[Any, str]] = {"sample": (stepper.model, "sample"), "flips": (objectives, "local_energy")}
    if hasattr(stepper.rule, "_kernel"):
        places |= {"kernel": (stepper.rule, "_kernel"), "solve": (spring, "solve_shifted")}
    stepper.step()
    found: list[dict[str, float]] = []
    for _ in range(repeats):
        watch = Stopwatch()
        with watch.watching(places):
            started = time.perf_counter()
            stepper.step()
            seconds = time.perf_counter() - started
        found.append({**watch.seconds, "rest": seconds - sum(watch.seconds.values()), "step": seconds})
    return {part: statistics.median(entry[part] for entry in found) for part in found[0]}


def main(repeats: int, quick: bool) -> None:
    """Print the table and keep it."""
    print(f"{report.header()}\nmilliseconds of a step; rest: backward pass and optimizer (Adam), direction (spring)\n")
    titles = {"": 26, "weights": 9, **dict.fromkeys(PARTS, 9), "step": 9, "flips %": 9}
    table = report.Table(titles)
    rows = []
    for size, samples in SAMPLES.items():
        samples = samples // 4 if quick else samples
        for name, model in MODELS.items():
            for optimizer in (ADAM, SPRING):
                stepper = Stepper(model, size, samples, optimizer)
                parts = breakdown(stepper, repeats)
                weights = sum(parameter.numel() for parameter in stepper.model.parameters())
                label = f"{name} {size}x{size} K={samples} {optimizer['name']}"
                cells = [f"{1e3 * parts[part]:.1f}" if part in parts else None for part in (*PARTS, "step")]
                table.row(label, weights, *cells, f"{100 * parts['flips'] / parts['step']:.0f}")
                rows.append({"name": label, "weights": weights, "seconds": parts})
    report.save("steps", {"quick": quick, "rows": rows})


if __name__ == "__main__":
    parser = report.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    options = parser.parse_args()
    report.limit_threads(options.threads)
    main(2 if options.quick else options.repeats, options.quick)
