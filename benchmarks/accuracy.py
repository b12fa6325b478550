"""Seconds of training until the energy is right: one command per size, with the presets fast-4x4 to fast-32x32.

"Reached" is the first saved checkpoint whose independent evaluation (fresh samples and exact flips; enumeration on 4x4) lies
within the relative error of the reference, with a standard error of at most a quarter of it. Seconds are those of training
with everything that belongs to it (building, curriculum, history); evaluations and the saving of these checkpoints are not
counted. References are exact diagonalisation (4x4), DMRG (8x8), and the original's best energies (16x16, 32x32), below which
a run may go.

    --size 4x4     3 seeds, about 2 minutes
    --size 8x8     3 seeds, about 20 minutes
    --size 16x16   1 seed, about half an hour
    --size 32x32   1 seed, hours

16x16 and 32x32 write their runs below --dir, and can be interrupted and gone on with by --resume.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import report
import torch
from checkpoints import Enough, FreshSamples, Goal, Keeper, first_reaching, reaches, spread

import qsr
from qsr.jobs.run import at_stage, build_model, run_training
from qsr.jobs.train import variational_energy
from qsr.runs import RunDirectory
from qsr.training import Interrupted
from qsr.training.device import find_device

GOALS = {4: (1e-3, 1e-4), 8: (1e-2, 3e-3, 1e-3, 3e-4, 1e-4), 16: (1e-2, 3e-3, 1e-3), 32: (1e-2, 3e-3)}
SEEDS = {4: 3, 8: 3, 16: 1, 32: 1}
MOST_SAMPLES = 65536
KEPT = (16, 32)  # sizes whose runs are kept and can be resumed


def settings(size: int) -> dict[str, Any]:
    """Arguments of `qsr.train`."""
    return {"preset": f"fast-{size}x{size}"}


def train(size: int, seed: int, folder: Path, budget: float, keep: bool, resume: bool, device: str = "cpu") -> Keeper:
    """Train a size, or go on with it, with checkpoints in `folder`; what was kept of them."""
    keeper = Keeper(folder, budget)
    if resume:
        found = sorted(folder.glob("run/**/settings.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise SystemExit(f"{folder}: nothing to resume")
        run = RunDirectory.open(found[-1].parent)
        keeper.settings = run.read_settings()
        if not (run.path / "weights.safetensors").exists():  # else only the evaluation is left
            with run.lock(), suppress(Enough):
                model = build_model(at_stage(keeper.settings, keeper.settings.train.stages()[0]))
                run_training(keeper.settings, model, variational_energy, run, False, resume=True, callbacks=[keeper])
        return keeper
    if keeper.saved or (folder / "run").exists():
        raise SystemExit(f"{folder}: has a run already; go on with it by --resume, or remove it")
    chosen = settings(size)
    where = str(folder / "run") if keep else "<NONE>"
    chosen["train"] = {**chosen.get("train", {}), "seed": seed, "dir": where, "device": device}
    keeper.go_on()
    with suppress(Enough):
        qsr.train(qsr.Rydberg(Lx=size, Ly=size, V=7, delta=1), callbacks=[keeper], **chosen)
    return keeper


def assess(size: int, keeper: Keeper, most: int) -> dict[str, Any]:
    """Seconds to every goal, and all that was found out about the checkpoints."""
    reference, exact = report.reference(size)
    problem = keeper.settings.hamiltonian
    saved = keeper.saved
    model = build_model(keeper.settings)
    # A chunk of the exact flips of few samples is as fast, and the samples grow in such steps.
    batch = 256 if size < 16 else 64 if size < 32 else 16
    evaluate = FreshSamples(model, problem.build(), keeper.folder, saved, batch=batch, enumerate_all=size == 4)
    reached: dict[str, float | None] = {}
    for error in GOALS[size]:
        goal = Goal(error, reference, exact)
        index = first_reaching(len(saved), lambda index, goal=goal: reaches(goal, index, evaluate, most))  # type: ignore[misc]
        reached[f"{error:g}"] = None if index is None else saved[index].seconds
    few, many = (256, 4096) if size < 32 else (64, 512)
    for index in spread([entry.seconds for entry in saved], 12):  # for the picture
        evaluate(index, min(most, many if index == len(saved) - 1 else few))
    curve = [
        {"seconds": saved[i].seconds, "step": saved[i].step, "energy": e.energy, "error": e.error, "samples": e.samples}
        for i, e in sorted(evaluate.known.items())
    ]
    return {"reached": reached, "seconds": keeper.seconds or (saved[-1].seconds if saved else 0.0), "curve": curve}


def summary(size: int, runs: list[dict[str, Any]]) -> list[tuple[str, float | None, float | None, int]]:
    """Goal, median and worst seconds over the seeds, and how many reached it; a median of infinity is None."""
    rows = []
    for goal in (f"{error:g}" for error in GOALS[size]):
        seconds = [run["reached"][goal] for run in runs]
        times = [math.inf if value is None else value for value in seconds]
        median, worst = (value if math.isfinite(value) else None for value in (statistics.median(times), max(times)))
        rows.append((goal, median, worst, sum(value is not None for value in seconds)))
    return rows


def file_name(options: argparse.Namespace) -> str:
    """'8x8', or '8x8-gpu': results of the one do not replace those of the other."""
    return options.size + ("-gpu" if find_device(options.device).type == "cuda" else "")


def run_seed(options: argparse.Namespace, size: int, seed: int) -> dict[str, Any]:
    """Train and assess one seed, and print a line for it."""
    with ExitStack() as stack:
        keep = size in KEPT
        root = options.dir / file_name(options) if keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keeper = train(size, seed, root / f"seed{seed}", options.budget, keep, options.resume and keep, options.device)
        started = time.perf_counter()
        found = {"seed": seed, **assess(size, keeper, options.samples)}
        spent = time.perf_counter() - started
    last = found["curve"][-1] if found["curve"] else {"energy": math.nan, "error": math.nan, "samples": 0}
    times = "  ".join(f"{goal}: {'-' if s is None else f'{s:.1f} s'}" for goal, s in found["reached"].items())
    print(f"seed {seed}: {times}   after {found['seconds']:.1f} s", end=" ")
    samples = "enumerated" if size == 4 else f"{last['samples']} samples"
    print(f"E/N = {last['energy']:.6f}({last['error']:.0e}), {samples}", end="; ")
    print(f"{len(keeper.saved)} checkpoints, {len(found['curve'])} of them evaluated in {spent:.0f} s", flush=True)
    return found


def main(options: argparse.Namespace) -> None:
    """Train and evaluate all seeds; print the medians and keep the results."""
    size = int(options.size.split("x")[0])
    reference, exact = report.reference(size)
    device = find_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{report.header()}\n{options.size}, V=7, Omega=delta=1, preset fast-{options.size} on {name}; ", end="")
    print(f"reference E/N = {reference:.6f} ({'exact' if exact else 'of the original, variational'})\n", flush=True)
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds or SEEDS[size]):
        runs.append(run_seed(options, size, seed))
        results = {"size": size, "device": name, "reference": reference, "exact": exact, "runs": runs}
        report.save(f"accuracy-{file_name(options)}", {**results, "summary": summary(size, runs)})
    print()
    table = report.Table({"error": 10, "median s": 12, "worst s": 12, "seeds": 10})
    for goal, median, worst, count in summary(size, runs):
        table.row(goal, median, worst, f"{count} of {len(runs)}")


if __name__ == "__main__":
    parser = report.arguments(__doc__)
    parser.add_argument("--size", choices=[f"{size}x{size}" for size in GOALS], default="4x4")
    parser.add_argument("--seeds", type=int, help="number of seeds (default 3; 1 from 16x16 on)")
    parser.add_argument("--budget", type=float, default=math.inf, help="training seconds after which a run is cut off")
    parser.add_argument("--device", default="cpu", help="where to train and evaluate: cpu, cuda, auto")
    parser.add_argument("--samples", type=int, default=MOST_SAMPLES, help="most samples of an evaluation")
    parser.add_argument("--dir", type=Path, default=Path("runs/accuracy"), help="where runs from 16x16 on are kept")
    parser.add_argument("--resume", action="store_true", help="go on with the runs in --dir")
    options = parser.parse_args()
    report.limit_threads(options.threads)
    try:
        main(options)
    except Interrupted:
        sys.exit("interrupted" + ("; go on with --resume" if options.size in (f"{size}x{size}" for size in KEPT) else ""))
