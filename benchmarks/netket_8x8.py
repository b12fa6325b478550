"""Time to an accuracy on the 8x8 Rydberg array (V = 7, Omega = delta = 1, open, all pairs): qsr beside NetKet.

Both train for the same number of seconds on the same cores, one after the other. "Reached" is the first step at which the mean
of the last 20 energies lies within the relative error of DMRG's, and then an evaluation with fresh samples does, with a
standard error of at most a quarter of it. Evaluations do not count as training seconds. Compilation does; the times without it
stand beside. NetKet runs in a process of its own, because jax and torch need not share an environment; its recipes are in
`netket_worker.py`, and the best of them use the eight symmetries of the square.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import report

import qsr
from qsr.hparams.presets import PRESETS
from qsr.jobs import Run
from qsr.training import Callback

SIZE = 8
ERRORS = (1e-2, 3e-3)
RECIPES = ["rbm-symmetric", "rbm-symmetric-wide", "rbm"]  # the two best, and the plainest
EVALUATION = 8192  # fresh samples, exact local energies
INSTALL = "NetKet is not importable: `python -m venv nk && nk/bin/pip install netket`, then add --netket-python nk/bin/python"


# ---- qsr's settings: this is their only place ------------------------------------------------------------------------
def qsr_settings(preset: str) -> dict[str, Any]:
    """Arguments of `qsr.train`: the preset if there is one of that name, else the defaults of the PTF."""
    if preset in PRESETS:
        return {"preset": preset}
    return {"model": {"type": "ptf"}, "train": {"K": 128, "steps": 1500}}


# ----------------------------------------------------------------------------------------------------------------------


class Enough(Exception):
    """The seconds are spent."""


class Watch(Callback):
    """Counts training seconds over all fits, evaluates when it pays, and stops."""

    def __init__(self, seconds: float, reference: float) -> None:
        self.seconds, self.reference = seconds, reference
        self.record: dict[str, Any] = {"reached": {}, "parameters": 0, "steps": 0}
        self.durations: list[float] = []
        self.energies: list[float] = []
        self.spent = 0.0
        self.next_try = 20
        self.clock: float | None = None
        self.last: Run | None = None

    def on_fit_start(self, trainer: Any) -> None:
        if self.clock is None:
            self.clock = time.perf_counter()

    def on_step_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        assert self.clock is not None
        self.durations.append(time.perf_counter() - self.clock)
        self.spent += self.durations[-1]
        self.record["parameters"] = sum(parameter.numel() for parameter in trainer.model.parameters())
        if trainer.settings.hamiltonian.num_sites == SIZE**2:  # not in the stages of a curriculum on smaller lattices
            self.last = Run(None, trainer.settings, trainer.model)
            self.energies.append(metrics["energy"] / SIZE**2)
            self.look()
        if self.spent >= self.seconds:
            raise Enough
        self.clock = time.perf_counter()

    def look(self) -> None:
        """Evaluate if the running mean is within the next error."""
        waiting = [error for error in ERRORS if error not in self.record["reached"]]
        step = len(self.energies)
        if not waiting or step < self.next_try:
            return
        if abs(statistics.fmean(self.energies[-20:]) / self.reference - 1) < waiting[0]:
            mean, standard_error = self.evaluate()
            for error in waiting:
                if abs(mean / self.reference - 1) < error and standard_error < error * abs(self.reference) / 4:
                    self.record["reached"][error] = self.spent
            self.next_try = step + 5

    def evaluate(self) -> tuple[float, float]:
        """E/N and its standard error from fresh samples."""
        assert self.last is not None, "no step was made on the 8x8 lattice in these seconds"
        found = qsr.evaluate(self.last, EVALUATION, 256, seed=len(self.energies)).energy_per_site
        return found.mean, found.error


def run_qsr(seconds: float, seed: int, preset: str, reference: float) -> dict[str, Any]:
    """Train with qsr: what was reached when, and the energy at the end."""
    settings = qsr_settings(preset)
    settings["train"] = {"dir": "<NONE>", "device": "cpu", "seed": seed, **settings.get("train", {})}
    watch = Watch(seconds, reference)
    with suppress(Enough):
        qsr.train(qsr.Rydberg(Lx=SIZE, Ly=SIZE, V=7, delta=1), callbacks=[watch], **settings)
    energy, error = watch.evaluate()
    step = statistics.median(watch.durations)
    return {
        **watch.record,
        "steps": len(watch.durations),
        "seconds": watch.spent,
        "seconds_per_step": step,
        "compile_seconds": 0.0,
        "energy": energy,
        "standard_error": error,
    }


def run_netket(python: str, recipe: str, seconds: float, seed: int, reference: float, precision: str) -> dict[str, Any]:
    """Run `netket_worker.py` and gather its lines."""
    worker = Path(__file__).with_name("netket_worker.py")
    command = [python, str(worker), "--recipe", recipe, "--seconds", str(seconds), "--seed", str(seed)]
    command += ["--size", str(SIZE), "--reference", str(reference), "--errors", *map(str, ERRORS)]
    command += ["--evaluation", str(EVALUATION), "--change", json.dumps({"dtype": precision})]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"netket_worker.py --recipe {recipe} failed:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    kinds = {kind: [line for line in lines if line["kind"] == kind] for kind in ("start", "reached", "end")}
    start, end = kinds["start"][0], kinds["end"][0]
    reached = {line["error"]: line["seconds"] for line in kinds["reached"]}
    return {**end, "reached": reached, "parameters": start["parameters"], "netket": start["netket"], "jax": start["jax"]}


def row(name: str, result: dict[str, Any], reference: float) -> str:
    """One line of the table."""
    text = f"{name:<34}{result['parameters']:>8}{result['steps']:>7}{result['seconds_per_step']:>8.3f}"
    for error in ERRORS:
        seconds = result["reached"].get(error)
        if seconds is None:
            text += f"{'-':>10}{'-':>9}"
        else:
            text += f"{seconds:>10.1f}{seconds - result['compile_seconds']:>9.1f}"
    return text + (
        f"{result['compile_seconds']:>9.1f}{result['energy']:>12.6f}({result['standard_error']:.0e})"
        f"{(result['energy'] - reference) / abs(reference):>10.1e}"
    )


def importable(python: str) -> bool:
    """Whether that interpreter has NetKet."""
    if python == sys.executable:
        return importlib.util.find_spec("netket") is not None
    return subprocess.run([python, "-c", "import netket"], capture_output=True).returncode == 0


def main(options: argparse.Namespace) -> int:
    """Print the table; 2 without NetKet."""
    if not options.only_qsr and not importable(options.netket_python):
        print(INSTALL, file=sys.stderr)
        return 2
    report.limit_threads(options.threads)
    reference, _ = report.reference(SIZE)
    print(f"{report.header()}\n8x8, V=7, Omega=delta=1, DMRG E/N = {reference:.6f}; {options.seconds:g} s each; ", end="")
    print("seconds, and without compilation\n")
    titles = (f"{'':<34}", f"{'weights':>8}", f"{'steps':>7}", f"{'s/step':>8}", f"{'to 1e-2':>10}", f"{'without':>9}")
    print("".join((*titles, f"{'to 3e-3':>10}", f"{'without':>9}", f"{'compile':>9}", f"{'E/N':>12}", f"{'error':>17}")))
    rows: list[dict[str, Any]] = []
    for seed in range(options.seed, options.seed + options.seeds):
        result = run_qsr(options.seconds, seed, options.preset, reference)
        name = f"qsr {options.preset if options.preset in PRESETS else 'PTF defaults'}"
        print(row(name, result, reference), flush=True)
        rows.append({"name": name, "seed": seed, **result})
        for recipe in [] if options.only_qsr else options.recipes:
            result = run_netket(options.netket_python, recipe, options.seconds, seed, reference, options.precision)
            name = f"NetKet {result['netket']} {recipe}"
            print(row(name, result, reference), flush=True)
            rows.append({"name": name, "seed": seed, **result})
    if not options.only_qsr:
        report.save("netket-8x8", {"reference": reference, "rows": rows})
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="training seconds of each")
    parser.add_argument("--netket-python", default=sys.executable, help="interpreter that has NetKet")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="NetKet's recipes, see netket_worker.py")
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32", help="NetKet's number format")
    parser.add_argument("--preset", default="fast-8x8", help="qsr's preset; the PTF's defaults where it does not exist")
    parser.add_argument("--only-qsr", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    sys.exit(main(parser.parse_args()))
